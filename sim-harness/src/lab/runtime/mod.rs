//! Programs that pull container images through a node's mirror, the way people set them up: each with a node as mirror and
//! the registry itself behind it.
//!
//! Owns their daemons, their configuration and their storage, all in a directory of their own and in the network of a host.
//! Nothing here knows what a pull should do; [`Pull`] says what it did, and [`Stored`] what it left.
//!
//! | module | runs |
//! |---|---|
//! | `containerd` | `containerd` and `ctr` |
//! | `containers` | `podman`, `buildah` and `skopeo`, which share a library |
//! | `docker` | `dockerd` and `docker` |

mod containerd;
mod containers;
mod docker;

use std::collections::BTreeSet;
use std::fmt::{self, Debug, Display};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::image::{Image, digest_of};
use super::netns::Host;
use super::process::{signal, tail, wait_until};

/// The registry that references name. That it is one of the lab's, nodes know from their configuration, and programs from
/// their `/etc/hosts`.
pub const REGISTRY: &str = "registry.example";

/// The only registry that docker asks mirrors about, and where it goes when they do not help.
pub const DOCKER_REGISTRY: &str = "docker.io";
/// See [`DOCKER_REGISTRY`].
pub const DOCKER_SERVER: &str = "registry-1.docker.io";

/// How long a daemon may take to start; the slowest needs a second.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How much of what a program printed goes into messages.
const TAIL_LINES: usize = 15;

/// Runs a program, given by its arguments, in a view of the files of its own where the first argument is `/etc/hosts`.
const WITH_HOSTS: &str = r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#;

/// Which program pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `ctr`, with containerd's own `hosts.toml`.
    Containerd,
    /// `podman pull`.
    Podman,
    /// `buildah pull`.
    Buildah,
    /// `skopeo copy` into an OCI layout.
    Skopeo,
    /// `docker pull`, with dockerd's `--registry-mirror`.
    Docker,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Containerd, Self::Podman, Self::Buildah, Self::Skopeo, Self::Docker];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::Skopeo => "skopeo",
            Self::Docker => "docker",
        }
    }

    /// What stands before the first slash of the references that it is given.
    pub fn registry(self) -> &'static str {
        if self == Self::Docker { DOCKER_REGISTRY } else { REGISTRY }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a program is told about the world, besides its own configuration.
#[derive(Debug, Clone)]
pub struct World {
    /// The port of the mirror, on the loopback of its host.
    pub mirror_port: u16,
    /// Where [`REGISTRY`] and [`DOCKER_SERVER`] are.
    pub registry: Ipv4Addr,
    /// The certificate authority to be trusted, in a PEM file.
    pub authority: PathBuf,
}

/// Where one program lives.
#[derive(Debug, Clone)]
struct Home {
    host: Host,
    directory: PathBuf,
    world: World,
}

impl Home {
    fn new(host: &Host, directory: &Path, world: &World) -> Result<Self> {
        let home = Self { host: host.clone(), directory: directory.to_owned(), world: world.clone() };
        fs::create_dir_all(home.path("tmp"))
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let registry = world.registry;
        // What the user that runs the tests is logged in to is no part of them.
        home.write("config.json", "{}")?;
        home.write("hosts", &format!("127.0.0.1 localhost\n{registry} {REGISTRY} {DOCKER_SERVER}\n"))?;
        Ok(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(&self.directory))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// A program on the host. Unlike `ip netns exec` this leaves the control groups in sight, which daemons look for. The
    /// child that comes of it *is* the program, and what it mounts goes with the last process that it leaves behind.
    fn command(&self, program: &str) -> Command {
        let mut namespace = std::ffi::OsString::from("--net=");
        namespace.push(self.host.namespace());
        let mut command = Command::new("nsenter");
        command.arg(namespace).args(["unshare", "--mount", "sh", "-c", WITH_HOSTS, "sh"]);
        // Whoever started us may ignore Ctrl-C, as shells do in the background, and programs would inherit that.
        command.arg(self.path("hosts")).args(["env", "--default-signal=INT"]).arg(program);
        command.env("SSL_CERT_FILE", &self.world.authority).env("TMPDIR", self.path("tmp"));
        command.env("HOME", &self.directory).env("DOCKER_CONFIG", &self.directory);
        command
    }
}

/// How one kind of program is run.
trait Driver: Debug + Send + Sync {
    /// Its daemon, if it has one, and a command that succeeds once that answers.
    fn daemon(&self) -> Option<Daemon> {
        None
    }

    /// A file with the id of a process that the daemon has started, and that is killed with it.
    fn helper(&self) -> Option<PathBuf> {
        None
    }

    /// A pull.
    fn pull(&self, wanted: &Wanted) -> Command;

    /// What is stored of an image: the digest by which the program knows it, and a directory whose files are its pieces, as
    /// they were transferred or unpacked. It may be `scratch`, which is empty.
    fn export(&self, wanted: &Wanted, scratch: &Path) -> Result<(String, PathBuf)>;

    /// A shell command in a container of the image, if this program is one to run containers with.
    fn run(&self, _: &Wanted, _shell: &str) -> Option<Command> {
        None
    }
}

/// See [`Driver::daemon`].
struct Daemon {
    command: Command,
    ping: Command,
}

/// An image that is to be pulled.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// With its registry.
    pub reference: String,
    /// Such as `linux/arm64`, where it is not the machine's own.
    pub platform: Option<&'static str>,
}

/// A program that pulls images, its daemon, and what it has stored.
#[derive(Debug)]
pub struct Runtime {
    kind: Kind,
    home: Home,
    driver: Box<dyn Driver>,
    daemon: Option<Child>,
    pulls: AtomicU32,
}

impl Runtime {
    /// A program with empty storage in `directory`, and its daemon, which answers.
    ///
    /// # Errors
    /// When it is not installed or does not come up.
    pub fn start(kind: Kind, host: &Host, directory: &Path, world: &World) -> Result<Self> {
        let home = Home::new(host, directory, world)?;
        let driver: Box<dyn Driver> = match kind {
            Kind::Containerd => Box::new(containerd::Containerd::new(&home)?),
            Kind::Podman => Box::new(containers::Podman::new(&home)?),
            Kind::Buildah => Box::new(containers::Buildah::new(&home)?),
            Kind::Skopeo => Box::new(containers::Skopeo::new(&home)?),
            Kind::Docker => Box::new(docker::Docker::new(&home)?),
        };
        let mut runtime = Self { kind, home, driver, daemon: None, pulls: AtomicU32::new(0) };
        runtime.restart()?;
        Ok(runtime)
    }

    /// Starts the daemon, if there is one, with the storage that there is.
    ///
    /// # Errors
    /// When it does not come up; the error has the end of its log.
    pub fn restart(&mut self) -> Result<()> {
        let Some(Daemon { mut command, mut ping }) = self.driver.daemon() else { return Ok(()) };
        let log_path = self.home.path("log");
        let log = File::options().create(true).append(true).open(&log_path)?;
        let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.daemon = Some(spawned.with_context(|| format!("cannot start {}", self.kind))?);
        wait_until(&format!("{} to answer", self.kind), START_LIMIT, || {
            let ended = self.daemon.as_mut().map(Child::try_wait).transpose()?.flatten();
            ensure!(ended.is_none(), "it ended with {ended:?}:\n{}", tail(&log_path, TAIL_LINES));
            let answer = ping.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            Ok(answer.success().then_some(()))
        })
    }

    /// Kills the daemon (SIGKILL), if there is one. It is gone when this returns, with what dies with it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        let helper = self.driver.helper().and_then(|file| fs::read_to_string(file).ok());
        let killed = daemon.kill().and_then(|()| daemon.wait());
        killed.with_context(|| format!("cannot kill {}", self.kind))?;
        let Some(helper) = helper else { return Ok(()) };
        let process = Path::new("/proc").join(helper.trim());
        wait_until("the daemon's helper to end", START_LIMIT, || Ok((!process.exists()).then_some(())))
    }

    /// Which program it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The image of this name (`repository:tag` or `repository@digest`), in the registry that the program is set up for.
    pub fn wanted(&self, name: &str) -> Wanted {
        Wanted { reference: format!("{}/{name}", self.kind.registry()), platform: None }
    }

    /// Begins to pull an image.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn pull(&self, wanted: &Wanted) -> Result<Pull> {
        let serial = self.pulls.fetch_add(1, Ordering::Relaxed);
        let log = self.home.path(&format!("pull-{serial}.log"));
        let file = File::create(&log)?;
        let mut command = self.driver.pull(wanted);
        let spawned = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let process = spawned.with_context(|| format!("cannot start {}", self.kind))?;
        Ok(Pull {
            what: format!("{} to pull {}", self.kind, wanted.reference),
            process,
            log,
            start: Instant::now(),
        })
    }

    /// What lies in the program's own storage of an image that it has pulled.
    ///
    /// # Errors
    /// When it has none.
    pub fn stored(&self, wanted: &Wanted) -> Result<Stored> {
        let scratch = tempfile::tempdir_in(&self.home.directory)?;
        let (manifest, directory) = self
            .driver
            .export(wanted, scratch.path())
            .with_context(|| format!("{} has no {}", self.kind, wanted.reference))?;
        let mut pieces = BTreeSet::new();
        collect_digests(&directory, &mut pieces)?;
        Ok(Stored { manifest, pieces })
    }

    /// Runs a shell command in a container of an image that was pulled, and gives what it prints. `None` when this program
    /// runs none.
    ///
    /// # Errors
    /// When the container does not start, or fails.
    pub fn run(&self, wanted: &Wanted, shell: &str) -> Result<Option<String>> {
        self.driver.run(wanted, shell).map(|mut command| super::process::run(&mut command)).transpose()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() && self.daemon.is_some() {
            eprintln!("--- the log of {} ends:\n{}", self.kind, tail(&self.home.path("log"), TAIL_LINES));
        }
        // The guard of the network is there for what fails here, and for what daemons leave behind.
        let _ = self.kill();
    }
}

fn collect_digests(directory: &Path, digests: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("no {}", directory.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect_digests(&entry.path(), digests)?;
        } else if kind.is_file() {
            digests.insert(digest_of(&entry.path())?);
        }
    }
    Ok(())
}

/// A pull that goes on. Dropped, it is killed.
#[derive(Debug)]
pub struct Pull {
    what: String,
    process: Child,
    log: PathBuf,
    start: Instant,
}

impl Pull {
    /// Waits for its end, whatever it is.
    ///
    /// # Errors
    /// When it does not end in time; the error has the end of what it printed.
    pub fn wait(&mut self, limit: Duration) -> Result<Outcome> {
        let limit = limit.saturating_sub(self.start.elapsed());
        let status = wait_until(&self.what, limit, || Ok(self.process.try_wait()?))
            .with_context(|| tail(&self.log, TAIL_LINES))?;
        Ok(Outcome { status, text: tail(&self.log, TAIL_LINES), took: self.start.elapsed() })
    }

    /// Whether it goes on.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn goes_on(&mut self) -> Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// Interrupts it (SIGINT), as Ctrl-C does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn interrupt(&self) -> Result<()> {
        signal(self.process.id(), Signal::INT)
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().and_then(|()| self.process.wait()).context("cannot kill a pull")?;
        Ok(())
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// How a pull ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// The end of what it printed.
    pub text: String,
    /// From its start.
    pub took: Duration,
}

impl Outcome {
    /// Insists on success.
    ///
    /// # Errors
    /// When it has failed; the error has the end of what it printed.
    pub fn success(self) -> Result<Self> {
        ensure!(
            self.status.success(),
            "the pull ended with {} after {:?}:\n{}",
            self.status,
            self.took,
            self.text
        );
        Ok(self)
    }

    /// Insists on failure.
    ///
    /// # Errors
    /// When it has succeeded.
    pub fn failure(self) -> Result<Self> {
        ensure!(!self.status.success(), "the pull succeeded after {:?}:\n{}", self.took, self.text);
        Ok(self)
    }
}

/// What lies in a program's storage.
#[derive(Debug)]
pub struct Stored {
    /// The digest by which the program knows the image.
    pub manifest: String,
    /// The digests of what is there, computed from the bytes.
    pub pieces: BTreeSet<String>,
}

impl Stored {
    /// Insists that an image is there, byte for byte, and is known by its manifest.
    ///
    /// # Errors
    /// When something of it is missing or wrong.
    pub fn is(&self, image: &Image) -> Result<()> {
        let (known, wanted) = (&self.manifest, &image.manifest.digest);
        ensure!(known == wanted, "the image is known as {known}, not as {wanted}");
        self.contains(image)
    }

    /// Insists that every blob of an image is there, byte for byte: its layers as they were transferred, or unpacked.
    ///
    /// # Errors
    /// When one is missing or wrong.
    pub fn contains(&self, image: &Image) -> Result<()> {
        let contents = std::iter::once(None).chain(image.contents()?.into_iter().map(Some));
        // An artifact has pieces and no contents.
        let contents = contents.chain(std::iter::repeat(None));
        for (blob, content) in image.blobs.iter().zip(contents) {
            let is_there = |digest: &String| self.pieces.contains(digest);
            ensure!(
                is_there(&blob.digest) || content.as_ref().is_some_and(is_there),
                "{} is not there, neither packed nor unpacked",
                blob.digest
            );
        }
        Ok(())
    }
}
