//! Looking at every node while a scenario is played: how much of the image each holds.
//!
//! Owns one thread a node, on the node's host, which asks its API again and again. A node that is frozen, dead or cut off from itself
//! simply has no looks for that time.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use crate::lab::http::{HttpReply, HttpRequest};
use crate::lab::netns::Host;
use crate::lab::node::HTTP_PORT;

/// The pause between two looks at one node: a fraction of what a run takes, and little work for sixteen nodes.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long a node may take to answer. One that is frozen never does.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Bytes held, by time since the start.
pub(super) type Looks = Vec<(f64, u64)>;

/// Watches nodes until it is dropped.
pub(super) struct Watch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    start: Instant,
    function: String,
    over: AtomicBool,
    looks: Mutex<BTreeMap<String, Looks>>,
}

impl Watch {
    /// Watches nobody yet. `function` is the digest of the image's manifest.
    pub(super) fn new(start: Instant, function: &str) -> Self {
        let shared = Shared {
            start,
            function: function.to_owned(),
            over: AtomicBool::new(false),
            looks: Mutex::default(),
        };
        Self { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Watches the node on a host, too.
    pub(super) fn add(&mut self, node: &str, host: &Host) {
        let (shared, node, host) = (self.shared.clone(), node.to_owned(), host.clone());
        self.threads.push(thread::spawn(move || {
            // Whoever takes the host away ends the run as well.
            let _ = host.inside(|| shared.look_on(&node));
        }));
    }

    /// What a node held when it was last looked at.
    pub(super) fn held(&self, node: &str) -> u64 {
        self.shared.looks.lock().get(node).and_then(|looks| looks.last()).map_or(0, |(_, held)| *held)
    }

    /// All looks, by node.
    pub(super) fn finish(self) -> BTreeMap<String, Looks> {
        let shared = self.shared.clone();
        drop(self);
        std::mem::take(&mut *shared.looks.lock())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look_on(&self, node: &str) {
        while !self.over.load(Ordering::Relaxed) {
            if let Some(held) = self.look() {
                let at = self.start.elapsed().as_secs_f64();
                self.looks.lock().entry(node.to_owned()).or_default().push((at, held));
            }
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// What the node of this thread's host holds of the image.
    fn look(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Function {
            function: String,
            held_bytes: u64,
        }
        let reply = ask("/api/v1/functions")?;
        let functions: Vec<Function> = serde_json::from_slice(&reply.body).ok()?;
        let ours = functions.into_iter().find(|function| function.function == self.function);
        Some(ours.map_or(0, |function| function.held_bytes))
    }
}

fn ask(path: &str) -> Option<HttpReply> {
    let server = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT));
    let mut stream = TcpStream::connect_timeout(&server, LOOK_LIMIT).ok()?;
    stream.set_read_timeout(Some(LOOK_LIMIT)).ok()?;
    HttpRequest::new("GET", path).exchange(server, &mut stream).ok()
}
