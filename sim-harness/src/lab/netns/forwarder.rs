//! A wire that takes its time, for kernels without `netem`: two TAP devices, and threads that hand each frame on when it is due.
//!
//! Frames stay in order, whatever their delays. A queue that is full drops, as a router's does. Threads sleep while nothing passes.

use std::fmt;
use std::io;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::host::inside;
use crate::lab::process::run;

/// Frames that may be under way at once, each way: 60 MB of full ones, which is more than any link here holds.
const QUEUE: usize = 40_000;

/// The largest frame: an Ethernet header and tag, and a packet of the usual size. The kernel cuts segments before they get here.
const FRAME: usize = 1_600;

/// Both directions of one delayed wire. It ends, and its devices go, when it is dropped.
pub(super) struct Forwarder {
    pace: Arc<Pace>,
    ends: [(String, String); 2],
    threads: Vec<JoinHandle<()>>,
}

/// How long frames take, in microseconds.
#[derive(Default)]
struct Pace {
    delay: AtomicU64,
    jitter: AtomicU64,
}

type Frame = (Instant, Vec<u8>);

impl Forwarder {
    /// Makes a device in each of two namespaces, and joins them.
    pub(super) fn between(one: (&str, &str), other: (&str, &str)) -> Result<Self> {
        let make = |(namespace, device): (&str, &str)| {
            let made = inside(namespace, || DeviceBuilder::new().name(device).layer(Layer::L2).build_sync())?;
            let made =
                made.with_context(|| format!("cannot make the device {device}; is /dev/net/tun there?"))?;
            anyhow::Ok(Arc::new(made))
        };
        let (a, b) = (make(one)?, make(other)?);
        let pace = Arc::new(Pace::default());
        let mut threads = Vec::new();
        for (from, to) in [(a.clone(), b.clone()), (b, a)] {
            let (queue, frames) = sync_channel(QUEUE);
            let pace = pace.clone();
            threads.push(thread::spawn(move || take_in(&from, &queue, &pace)));
            threads.push(thread::spawn(move || hand_on(&frames, &to)));
        }
        let ends = [one, other].map(|(namespace, device)| (namespace.to_owned(), device.to_owned()));
        Ok(Self { pace, ends, threads })
    }

    /// How long frames take from now on.
    pub(super) fn set(&self, delay: Duration, jitter: Duration) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.pace.delay.store(micros(delay), Ordering::Relaxed);
        self.pace.jitter.store(micros(jitter), Ordering::Relaxed);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        for (namespace, device) in &self.ends {
            // Whoever reads from a device that is deleted is told so. Where it is gone already, so are its readers.
            let _ = run(Command::new("ip").args(["-n", namespace, "link", "delete", device]));
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder").field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Pace {
    /// How long the next frame takes.
    fn next(&self) -> Duration {
        let (delay, jitter) = (self.delay.load(Ordering::Relaxed), self.jitter.load(Ordering::Relaxed));
        let earliest = delay.saturating_sub(jitter);
        Duration::from_micros(rand::random_range(earliest..=delay + jitter))
    }
}

/// Reads frames until the device is gone, and marks each with when it is due.
fn take_in(from: &SyncDevice, queue: &SyncSender<Frame>, pace: &Pace) {
    let mut buffer = [0; FRAME];
    let mut last = Instant::now();
    loop {
        match from.recv(&mut buffer) {
            Ok(length) => {
                last = last.max(Instant::now() + pace.next());
                // Full, so this one is lost; or nobody is left to take it.
                let _ = queue.try_send((last, buffer[..length].to_vec()));
            }
            // Not set up yet, or taken down for a moment.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Hands frames on when they are due, until no more can come.
fn hand_on(frames: &Receiver<Frame>, to: &SyncDevice) {
    for (due, frame) in frames {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        // A device that is down, or gone, takes nothing; what is sent to it is lost.
        let _ = to.send(&frame);
    }
}
