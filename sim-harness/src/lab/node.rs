//! One `faasnet` process on a host of the lab, with its data directory and its log. What one can ask it is [`super::client`]'s.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::Signal;

use super::client::Client;
use super::image::{Image, blob_path, digest_of};
use super::netns::Host;
use super::process::{cpu_time, run, signal, tail, wait_until};

/// The one UDP port of a node. Each node has its host to itself, so all have the same.
const PORT: u16 = 7400;
/// The port of a node's API and mirror, on its loopback.
pub const HTTP_PORT: u16 = 7401;

/// How long a node may take to be ready. It waits for its seeds for a moment; all of them start at once, on few cores.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How much of a node's log goes into the report of a failed test.
const TAIL_LINES: usize = 15;

/// The binary under test: `FAASNET_BIN`, or else the release build in cargo's target directory.
///
/// # Errors
/// When it is not there.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("FAASNET_BIN") {
        Some(path) => path.into(),
        None => super::target_dir()?.join("release/faasnet"),
    };
    path.canonicalize().with_context(|| {
        format!("no binary at {}: run `cargo build --release` first, or set FAASNET_BIN", path.display())
    })
}

/// A new cluster secret.
///
/// # Errors
/// When the binary is missing or fails.
pub fn new_secret() -> Result<String> {
    Ok(run(Command::new(binary()?).arg("secret"))?.trim().to_owned())
}

/// How a node is to be started.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name in the cluster.
    pub id: String,
    /// Where it stands, if that is said.
    pub zone: Option<String>,
    /// Where it finds the others.
    pub seeds: Vec<SocketAddr>,
    /// The registries that it may read from, as `--origin` takes them.
    pub origins: Vec<String>,
    /// The name of the one that is meant where none is named.
    pub default_origin: String,
    /// What its configuration file says, if it has one.
    pub config: Option<String>,
    /// The cluster's secret.
    pub secret: String,
}

/// Where a node is reached that runs on the host with this address.
pub fn endpoint(host: Ipv4Addr) -> SocketAddr {
    SocketAddr::from((host, PORT))
}

/// A node, running or not, with its data directory and log. Dropped in a panic, it prints the end of its log.
#[derive(Debug)]
pub struct NodeProcess {
    plan: NodePlan,
    client: Client,
    directory: PathBuf,
    process: Option<Child>,
}

impl NodeProcess {
    /// Starts a node on a host, with its files in `directory`. It is not ready yet, see [`NodeProcess::wait_ready`].
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn start(host: &Host, plan: NodePlan, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let client = Client { node: plan.id.clone(), host: host.clone(), binary: binary()? };
        let mut node = Self { plan, client, directory: directory.to_owned(), process: None };
        node.restart()?;
        Ok(node)
    }

    /// Starts it again after it has ended, with the data that it had.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.ended()?.is_some() || self.process.is_none(), "{} runs already", self.id());
        let log = File::options().create(true).append(true).open(self.log())?;
        let host = &self.client.host;
        let mut command = host.command(&self.client.binary);
        command.arg("node").args(["--id", self.id(), "--log", "info"]);
        command.args([
            "--listen",
            &format!("0.0.0.0:{PORT}"),
            "--advertise",
            &endpoint(host.address()).to_string(),
        ]);
        command.args(["--http", &format!("127.0.0.1:{HTTP_PORT}")]).arg("--data").arg(self.data());
        if let Some(zone) = &self.plan.zone {
            command.args(["--zone", zone]);
        }
        for seed in &self.plan.seeds {
            command.args(["--seed", &seed.to_string()]);
        }
        for origin in &self.plan.origins {
            command.args(["--origin", origin]);
        }
        command.args(["--default-origin", &self.plan.default_origin]);
        if let Some(config) = &self.plan.config {
            let path = self.directory.join("node.toml");
            fs::write(&path, config)?;
            command.arg("--config").arg(path);
        }
        command.env("FAASNET_CLUSTER_SECRET", &self.plan.secret);
        command.stdout(log.try_clone()?).stderr(log);
        self.process = Some(command.spawn().with_context(|| format!("cannot start {}", self.id()))?);
        Ok(())
    }

    /// Its name in the cluster.
    pub fn id(&self) -> &str {
        &self.plan.id
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.client.host
    }

    /// The way to ask it.
    pub fn ask(&self) -> &Client {
        &self.client
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends instead, or takes too long; the error has the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        wait_until(&format!("{} to be ready", self.plan.id), READY_LIMIT, || {
            if let Some(status) = self.ended()? {
                return Err(anyhow!("it ended with {status}"));
            }
            Ok(self.client.is_ready().then_some(()))
        })
        .with_context(|| format!("the log of {} ends:\n{}", self.id(), self.log_tail()))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_until(&format!("{} to end", self.plan.id), limit, || self.ended())
    }

    /// Kills it (SIGKILL): nothing of it gets to say goodbye. It is gone when this returns.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(process) = &mut self.process {
            process
                .kill()
                .and_then(|()| process.wait())
                .with_context(|| format!("cannot kill {}", self.plan.id))?;
        }
        Ok(())
    }

    /// Asks it to leave (SIGTERM), without waiting for that.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&self) -> Result<()> {
        signal(self.pid()?, Signal::TERM)
    }

    /// Freezes it (SIGSTOP): its connections stay open, and nothing moves.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<()> {
        signal(self.pid()?, Signal::STOP)
    }

    /// Lets it go on after [`NodeProcess::freeze`].
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<()> {
        signal(self.pid()?, Signal::CONT)
    }

    /// The most memory that it has had at once since it was started, in bytes (the kernel's `VmHWM`).
    ///
    /// # Errors
    /// When it does not run.
    pub fn peak_memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pid()?);
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        Ok(1024 * kibibytes.with_context(|| format!("no VmHWM in {path}; has {} ended?", self.id()))?)
    }

    /// The processor time that it has used since it was started.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid()?)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Reads every blob of an image from the disk of this node and compares it with its digest.
    ///
    /// # Errors
    /// When one is missing or differs.
    pub fn verify_store(&self, image: &Image) -> Result<()> {
        for blob in &image.blobs {
            let path = blob_path(&self.data(), &blob.digest);
            let digest = digest_of(&path).with_context(|| format!("{} lacks a blob", self.id()))?;
            ensure!(digest == blob.digest, "{} is wrong: it has the digest {digest}", path.display());
        }
        Ok(())
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log_text(&self) -> Result<String> {
        let log = fs::read(self.log()).with_context(|| format!("no log of {}", self.id()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().with_context(|| format!("{} does not run", self.id()))?.id())
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    fn log_tail(&self) -> String {
        tail(&self.log(), TAIL_LINES)
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the log of {} ends:\n{}", self.id(), self.log_tail());
        }
        // The guard of the network is there for what fails here.
        let _ = self.kill();
    }
}
