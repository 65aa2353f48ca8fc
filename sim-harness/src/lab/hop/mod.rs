//! One hop of a tree: a blob that one host has in its page cache, brought to another over a link as fast as the machine.
//!
//! Beside ours, in one run: a bare QUIC stream, which says what the transport allows, and nginx with curl. Ours and curl end with a
//! file; ours also with its digest checked. All share the machine's processors, so the sum of what they use is what limits them.

pub mod bare;
mod table;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

pub use self::table::table;
use super::draft::{Compression, Draft};
use super::image::Image;
use super::netns::{Host, Network, at};
use super::nginx::Nginx;
use super::process::BusyTime;
use super::runner::Runner;
use super::stage::Stage;

/// How long one of them may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Where the servers beside ours listen.
const PORT: u16 = 7500;

/// The hosts beside the nodes.
const SENDER_NUMBER: u16 = 300;
const RECEIVER_NUMBER: u16 = 301;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The size of the blob.
    pub bytes: u64,
    /// How often each runs.
    pub rounds: usize,
}

/// A way over the hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From one node of ours to another: verified, hashed and written.
    Faasnet,
    /// A bare QUIC stream: from memory to nowhere.
    BareQuic,
    /// The same to who hashes it with SHA-256 and writes it to a file, which whoever receives a blob has to do.
    KeptQuic,
    /// From nginx to curl, which writes it to a file.
    NginxCurl,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The size of the blob.
    pub bytes: u64,
    /// Each way.
    pub ways: Vec<Runs>,
}

/// The runs of one way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Runs {
    /// Which.
    pub way: Way,
    /// In their order.
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    /// From the request until all was there, in seconds.
    pub seconds: f64,
    /// Processor time of the whole machine, in seconds.
    pub cpu: f64,
}

/// Runs it all; broken off soon after `interrupted` turns true. Progress goes to standard error.
///
/// # Errors
/// When one of them fails, or it was interrupted.
pub fn measure(plan: Plan, interrupted: &AtomicBool) -> Result<Outcome> {
    let scratch = tempfile::tempdir().context("no room for the blob")?;
    let image = Draft::new(&scratch.path().join("image"))?.noise(plan.bytes, Compression::None)?.finish()?;
    let mut ways: Vec<Runs> = [Way::BareQuic, Way::KeptQuic, Way::Faasnet, Way::NginxCurl]
        .map(|way| Runs { way, runs: Vec::new() })
        .into();
    for round in 0..plan.rounds {
        for place in 0..ways.len() {
            ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything was cleared away");
            let count = ways.len();
            let Runs { way, runs } = &mut ways[(place + round) % count];
            eprintln!("round {} of {}: {}", round + 1, plan.rounds, way.name());
            runs.push(way.run(&image, plan).with_context(|| way.name())?);
        }
    }
    Ok(Outcome { bytes: plan.bytes, ways })
}

impl Way {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faasnet => "faasnet",
            Self::BareQuic => "bare QUIC stream",
            Self::KeptQuic => "bare, hashed, kept",
            Self::NginxCurl => "nginx and curl",
        }
    }

    fn run(self, image: &Image, plan: Plan) -> Result<Run> {
        match self {
            Self::Faasnet => faasnet(image, plan),
            Self::BareQuic => bare_quic(plan, false),
            Self::KeptQuic => bare_quic(plan, true),
            Self::NginxCurl => nginx_curl(image, plan),
        }
    }
}

fn faasnet(image: &Image, plan: Plan) -> Result<Run> {
    let mut stage = Stage::on(Network::new()?, "hop", 2)?;
    for _ in 0..2 {
        stage.start_node()?;
    }
    stage.wait_acquainted()?;
    let reference = stage.publish(image)?;
    stage.nodes[0].ask().provision(&reference, LIMIT)?;
    let run = timed(&stage.network, plan, || {
        let pulled = stage.nodes[1].ask().provision(&reference, LIMIT)?;
        ensure!(pulled.state == "ready", "the node says {pulled:?}");
        Ok(())
    })?;
    stage.nodes[1].verify_store(image)?;
    let from_origin = stage.registry.host().bytes_sent()? as f64 / image.bytes() as f64;
    ensure!(from_origin < 1.2, "{from_origin:.2} images came from the registry: it was not this hop");
    Ok(run)
}

fn bare_quic(plan: Plan, keeps: bool) -> Result<Run> {
    let pair = Pair::new()?;
    let (certificate, server) = (pair.file("certificate"), at(&pair.sender, PORT));
    let (served, fetched) = (pair.file("serve.log"), pair.file("fetch.log"));
    let serve = bare::serve_command(&pair.sender, server, &certificate, plan.bytes)?;
    let server_process = Runner::start(serve, &served)?;
    server_process.wait_ready(&served)?;
    let mut fetch = bare::fetch_command(&pair.receiver, server, &certificate, plan.bytes)?;
    fetch.args(keeps.then(|| pair.file("received")));
    let mut client = Runner::start(fetch, &fetched)?;
    client.wait_ready(&fetched)?;
    let (done, finish) = mpsc::channel();
    timed(&pair.network, plan, || {
        client.go()?;
        client.tell_when_done(0, done);
        finish.recv_timeout(LIMIT).context("it did not finish").map(drop)
    })
}

fn nginx_curl(image: &Image, plan: Plan) -> Result<Run> {
    let pair = Pair::new()?;
    let layer = image.blobs.iter().max_by_key(|blob| blob.size).context("the image has no layer")?;
    let served = pair.file("served");
    fs::create_dir(&served)?;
    // Written now, so it is in the page cache.
    fs::copy(image.blob_path(&layer.digest), served.join("blob"))?;
    let nginx = Nginx::start(&pair.sender, PORT, &pair.file(""), "", &format!("root {};", served.display()))?;
    let mut curl = pair.receiver.command("curl");
    curl.args(["--no-progress-meter", "--fail", "--output"]).arg(pair.file("received"));
    curl.arg(format!("http://{}/blob", nginx.server())).stdout(Stdio::null());
    timed(&pair.network, plan, || {
        let status = curl.status().context("cannot start curl; install Debian's `curl`")?;
        ensure!(status.success(), "curl failed with {status}");
        Ok(())
    })
}

/// Two hosts.
struct Pair {
    sender: Host,
    receiver: Host,
    network: Network,
}

impl Pair {
    fn new() -> Result<Self> {
        let network = Network::new()?;
        let sender = network.host("sender", SENDER_NUMBER)?;
        let receiver = network.host("receiver", RECEIVER_NUMBER)?;
        Ok(Self { sender, receiver, network })
    }

    fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.network.directory().join(name)
    }
}

/// Times an act and what the processors do meanwhile.
fn timed(network: &Network, plan: Plan, act: impl FnOnce() -> Result<()>) -> Result<Run> {
    warm_memory(&network.directory().join("warm"), 2 * plan.bytes)?;
    let (before, start) = (BusyTime::now()?, Instant::now());
    act()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Run { seconds, cpu: BusyTime::now()?.since(&before).busy.as_secs_f64() })
}

/// Has this machine hold so much free memory. A virtual machine gives free memory back to its host within seconds, and has to ask for each
/// page again, which takes longer than to fill it from the network.
fn warm_memory(file: &Path, bytes: u64) -> Result<()> {
    io::copy(&mut io::repeat(1).take(bytes), &mut File::create(file)?)?;
    Ok(fs::remove_file(file)?)
}
