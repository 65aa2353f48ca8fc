//! What every contestant starts from: hosts with links of one rate, a registry with the image, and a clock.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::image::{Image, digest_of};
use crate::lab::netns::{Host, Link, Network, Rate};
use crate::lab::process::BusyTime;
use crate::lab::stage::Stage;

/// The number of the host for a proxy, and the one before the first of the hosts that receive.
const PROXY_NUMBER: u16 = 2;
const HOSTS_AFTER: u16 = 300;

/// What one run is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course<'a> {
    pub(super) image: &'a Image,
    pub(super) nodes: usize,
    pub(super) rate: Rate,
    /// How long a contestant may take.
    pub(super) limit: Duration,
}

/// A file that has to be there in the end: where, and its digest.
pub(super) type Wanted = (PathBuf, String);

/// How a contestant did.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    /// When each host had everything, in seconds.
    pub(super) finished: Vec<f64>,
    /// The share of the processors that was busy, and their time in all, from the start to the last finish.
    pub(super) busy: BusyTime,
}

/// The network of one run, and the image on it.
pub(super) struct Ground<'a> {
    pub(super) stage: Stage,
    pub(super) course: Course<'a>,
    /// What the registry calls the image.
    pub(super) reference: String,
    /// Who receives, but for contestants that bring nodes of their own.
    pub(super) hosts: Vec<Host>,
}

impl<'a> Ground<'a> {
    /// With so many hosts that receive. The registry's link is as fast as theirs.
    pub(super) fn new(title: &str, course: Course<'a>, hosts: usize) -> Result<Self> {
        let stage = Stage::on(Network::new()?, title, course.nodes)?;
        let reference = stage.publish(course.image)?;
        stage.network.shape(stage.registry.host(), &Link::at(course.rate))?;
        let mut ground = Self { stage, course, reference, hosts: Vec::new() };
        for number in 1..=hosts {
            let host = ground.host(&format!("h{number}"), HOSTS_AFTER + u16::try_from(number)?)?;
            ground.hosts.push(host);
        }
        Ok(ground)
    }

    /// Where a proxy stands.
    pub(super) fn proxy_host(&self) -> Result<Host> {
        self.host("proxy", PROXY_NUMBER)
    }

    fn host(&self, name: &str, number: u16) -> Result<Host> {
        self.stage.network.host_in(None, name, number, &Link::at(self.course.rate))
    }

    /// A new directory for files of a host, or of the contestant as a whole.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.stage.network.directory().join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// What the switch has delivered from a host so far, in bytes.
    pub(super) fn sent_by(&self, host: &Host) -> Result<u64> {
        let flows = self.stage.network.flows()?;
        Ok(flows.iter().filter(|((from, _), _)| *from == host.address()).map(|(_, bytes)| bytes).sum())
    }

    /// The blobs of the image as files in a directory, named by their digests.
    pub(super) fn blobs_in(&self, directory: &Path) -> Vec<Wanted> {
        let blobs = self.course.image.blobs.iter();
        blobs.map(|blob| (directory.join(file_name(&blob.digest)), blob.digest.clone())).collect()
    }

    /// Where a blob is at a registry.
    pub(super) fn blob_url(&self, server: &str, digest: &str) -> String {
        let (_, name) = self.reference.split_once('/').unwrap_or_default();
        let repository = name.split(':').next().unwrap_or_default();
        format!("http://{server}/v2/{repository}/blobs/{digest}")
    }
}

/// A digest as the name of a file.
pub(super) fn file_name(digest: &str) -> String {
    digest.replace(':', "-")
}

/// Checks what a host received.
pub(super) fn verify(files: &[Wanted]) -> Result<()> {
    for (path, digest) in files {
        let found = digest_of(path).context("a host lacks a file")?;
        ensure!(found == *digest, "{} has the digest {found}, not {digest}", path.display());
    }
    Ok(())
}

/// Starts the clock, lets everybody go, and waits until each has said that it is done. `go` is given each receiver's number and a way to
/// say that it is done; whoever drops that without a word has failed.
pub(super) fn race(
    receivers: usize,
    limit: Duration,
    mut go: impl FnMut(usize, Sender<usize>) -> Result<()>,
) -> Result<Finish> {
    let (done, finishes): (_, Receiver<usize>) = mpsc::channel();
    let (before, start) = (BusyTime::now()?, Instant::now());
    for receiver in 0..receivers {
        go(receiver, done.clone())?;
    }
    drop(done);
    let mut finished = vec![None; receivers];
    while finished.iter().any(Option::is_none) {
        let left = limit.saturating_sub(start.elapsed());
        let receiver = finishes.recv_timeout(left).with_context(|| {
            let late = finished.iter().filter(|finished| finished.is_none()).count();
            format!(
                "{late} of {receivers} did not finish, in {:.0} s of {limit:?}",
                start.elapsed().as_secs_f64()
            )
        })?;
        finished[receiver] = Some(start.elapsed().as_secs_f64());
    }
    let busy = BusyTime::now()?.since(&before);
    Ok(Finish { finished: finished.into_iter().flatten().collect(), busy })
}
