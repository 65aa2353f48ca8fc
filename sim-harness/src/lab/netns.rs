//! Hosts on a switch: one network namespace each, and one more for the bridge that joins them.
//!
//! Owns the namespaces, their links and addresses, the rate at which a host may send, and who is cut off from whom.
//! All links live inside namespaces of the network's own, so the names and addresses in them never collide with those of
//! another network, or with the machine's.
//!
//! **Invariant:** nothing outlives the process that made a network. A guard (a small shell) holds the other end of a
//! pipe; when the pipe closes, because the network was dropped or because its owner was killed, the guard
//! kills what runs in the namespaces, then deletes them and the directory. There is no other path of cleaning up. Should a
//! guard be killed too, the next network made on the machine finds the leftovers by their names and clears them.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::http::{HttpReply, HttpRequest};
use super::process::run;

/// Where `ip netns` keeps the namespaces that have a name.
const NAMESPACES: &str = "/run/netns";

/// What the guard runs, with the network's name and its directory. It waits for the end of its standard input. A namespace
/// is deleted only when nothing runs in it any more, or else it would live on without a name; 200 tries are ten seconds.
const GUARD: &str = r#"
trap '' INT TERM HUP
read -r _
failed=0
for path in /run/netns/"$1"-*; do
    [ -e "$path" ] || continue
    namespace=${path##*/}
    tries=0
    while pids=$(ip netns pids "$namespace" 2>/dev/null) && [ -n "$pids" ]; do
        [ "$tries" -lt 200 ] || { failed=1; break; }
        tries=$((tries + 1))
        kill -KILL $pids 2>/dev/null
        sleep 0.05
    done
    ip netns delete "$namespace" 2>/dev/null || [ ! -e "$path" ] || failed=1
done
[ -z "${FAASNET_LAB_KEEP:-}" ] || exit "$failed"
rm -rf -- "$2" || failed=1
exit "$failed"
"#;

/// The rules of the switch: a frame between two ports that stand in the set is dropped, silently as on a broken wire.
const SWITCH_RULES: &str = "
table bridge lab {
    set cut { type ifname . ifname; }
    chain forward { type filter hook forward priority 0; policy accept; iifname . oifname @cut drop; }
}
";

/// How long an HTTP answer may take in [`Host::http`].
const HTTP_LIMIT: Duration = Duration::from_secs(10);

/// Hosts joined by a switch, with a directory for their files. Dropping it kills what runs on the hosts and removes
/// everything; with `FAASNET_LAB_KEEP=1` in the environment the directory stays.
#[derive(Debug)]
pub struct Network {
    name: NetworkName,
    switch: String,
    directory: PathBuf,
    guard: Child,
}

impl Network {
    /// A network without hosts. Clears away, first, what killed runs have left behind.
    ///
    /// # Errors
    /// Without root, `ip` and `nft`, or a kernel with bridges and bridge filters.
    pub fn new() -> Result<Self> {
        sweep_leftovers().context("cannot clear away what earlier runs left")?;
        let name = NetworkName::of_this_process()?;
        let directory = std::env::temp_dir().join(name.to_string());
        let guard = spawn_guard(&name, &directory)?;
        let switch = format!("{name}-switch");
        // From here on, dropping `network` cleans up, also when a step below fails.
        let network = Self { name, switch, directory, guard };
        fs::create_dir_all(&network.directory)
            .with_context(|| format!("cannot create {}", network.directory.display()))?;
        ip(&["netns", "add", &network.switch])?;
        ip(&["-n", &network.switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &network.switch, "link", "set", "br0", "up"])?;
        network.nft(SWITCH_RULES)?;
        Ok(network)
    }

    /// The name that all its namespaces begin with.
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// A directory for the files of the hosts, which goes with the network.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Adds a host with the address `10.77.0.0 + number` (see [`address`]), connected to all others. The number is not 0, and no two hosts
    /// have the same.
    ///
    /// # Errors
    /// When the number is taken, or the system refuses.
    pub fn host(&self, name: &str, number: u16) -> Result<Host> {
        ensure!((1..u16::MAX).contains(&number), "no host can have the number {number}");
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", self.name),
            address: address(number),
            port: format!("port{number}"),
        };
        let (namespace, port, address) = (&host.namespace, &host.port, host.address);
        ip(&["netns", "add", namespace])?;
        ip(&[
            "-n",
            &self.switch,
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
        ])?;
        ip(&["-n", &self.switch, "link", "set", port, "master", "br0", "up"])?;
        ip(&["-n", namespace, "address", "add", &format!("{address}/16"), "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        Ok(host)
    }

    /// Cuts two hosts apart, in both directions: what one sends the other gets lost without a sign.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&self, one: &Host, other: &Host) -> Result<()> {
        self.nft(&format!("add element bridge lab cut {{ {} }}", pair(one, other)))
    }

    /// Undoes [`Network::cut`].
    ///
    /// # Errors
    /// When the two were not cut apart, or the system refuses.
    pub fn heal(&self, one: &Host, other: &Host) -> Result<()> {
        self.nft(&format!("delete element bridge lab cut {{ {} }}", pair(one, other)))
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", &self.switch, "nft", rules])).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Closing the pipe is what tells the guard.
        drop(self.guard.stdin.take());
        match self.guard.wait() {
            Ok(status) if status.success() => {}
            outcome => eprintln!("lab: the network {} was not cleared away entirely: {outcome:?}", self.name),
        }
        if std::env::var_os("FAASNET_LAB_KEEP").is_some() {
            eprintln!("lab: kept {}", self.directory.display());
        }
    }
}

/// One host of a [`Network`]: a handle, which may be cloned, and is of no use after the network is gone.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    namespace: String,
    address: Ipv4Addr,
    port: String,
}

impl Host {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the switch.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A program to be run on this host. The child that comes of it *is* the program, so signals reach it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// The file by which the kernel knows its namespace.
    pub(super) fn namespace(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.namespace)
    }

    /// Runs a closure on this host: sockets opened in it belong to the host for as long as they live.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.namespace();
        let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        // The namespace is a property of the thread; one of our own keeps the caller where it is.
        let enter_and_act = || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", path.display()))?;
            Ok(act())
        };
        std::thread::scope(|scope| {
            scope.spawn(enter_and_act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Asks an HTTP server from this host.
    ///
    /// # Errors
    /// When nobody answers, or what comes back is no HTTP.
    pub fn http(&self, server: SocketAddr, request: &HttpRequest) -> Result<HttpReply> {
        let ask = || -> Result<HttpReply> {
            let mut stream = TcpStream::connect_timeout(&server, HTTP_LIMIT)?;
            stream.set_read_timeout(Some(HTTP_LIMIT))?;
            request.exchange(server, &mut stream)
        };
        self.inside(ask)?.with_context(|| format!("no answer from http://{server} to {}", self.name))
    }

    /// GETs a path of an HTTP server from this host.
    ///
    /// # Errors
    /// See [`Host::http`].
    pub fn http_get(&self, server: SocketAddr, path: &str) -> Result<HttpReply> {
        self.http(server, &HttpRequest::new("GET", path)).with_context(|| format!("cannot GET {path}"))
    }

    /// Lets the host send no faster than this, and replaces the limit that it had.
    ///
    /// # Errors
    /// When the kernel has no `tbf`.
    pub fn limit_egress(&self, rate: Rate) -> Result<()> {
        // The bucket takes what the rate gives in 4 ms (the coarsest kernel tick), and at least two of the 64 KiB that a
        // segmenting card is handed at once.
        let burst = (rate.bytes_per_second() / 250).max(128 * 1024);
        let (rate, burst) = (format!("{}bit", rate.0), burst.to_string());
        let limit = ["rate", &rate, "burst", &burst, "latency", "50ms"];
        let qdisc = ["-n", &self.namespace, "qdisc", "replace", "dev", "eth0", "root", "tbf"];
        run(Command::new("tc").args(qdisc).args(limit)).map(drop)
    }

    /// Lets the host send as fast as it can again.
    ///
    /// # Errors
    /// When it had no limit.
    pub fn unlimit_egress(&self) -> Result<()> {
        run(Command::new("tc").args(["-n", &self.namespace, "qdisc", "delete", "dev", "eth0", "root"]))
            .map(drop)
    }

    /// Bytes that the host has put on the wire since it was made, headers included.
    ///
    /// # Errors
    /// When the kernel's table of devices cannot be read.
    pub fn bytes_sent(&self) -> Result<u64> {
        // Per namespace of the thread that reads it.
        let table = self.inside(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        // Eight columns of what was received come first.
        let sent = line.and_then(|line| line.split_whitespace().nth(8)).and_then(|bytes| bytes.parse().ok());
        sent.with_context(|| format!("no eth0 in the table of devices of {}:\n{table}", self.name))
    }
}

/// Bits per second on a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// Millions of bits per second.
    pub const fn mbit(millions: u64) -> Self {
        Self(millions * 1_000_000)
    }

    /// The rate at which so many bytes take so long.
    ///
    /// # Panics
    /// When the time is zero.
    pub fn of(bytes: u64, time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self(bytes.saturating_mul(8_000) / millis)
    }

    /// The same in bytes.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

/// The name of a network says who made it: `faasnet-<process>-<its start time>-<serial>`. Process ids come again, start
/// times (in clock ticks since boot) do not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NetworkName {
    pid: u32,
    started: u64,
    serial: u32,
}

impl std::fmt::Display for NetworkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "faasnet-{}-{:x}-{}", self.pid, self.started, self.serial)
    }
}

impl NetworkName {
    fn of_this_process() -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        let started = start_time(pid).context("cannot read this process' own start time")?;
        Ok(Self { pid, started, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Reads the name of a network, or of one of its namespaces (`<network>-<host>`).
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("faasnet-")?.splitn(4, '-');
        let name = Self {
            pid: parts.next()?.parse().ok()?,
            started: u64::from_str_radix(parts.next()?, 16).ok()?,
            serial: parts.next()?.parse().ok()?,
        };
        Some(name)
    }

    fn owner_is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// When a process started, in clock ticks since boot; `None` when there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second column, in parentheses, is the program's name and may hold anything; the start is the 22nd of all.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Clears away the namespaces and directories of networks whose owner is gone.
fn sweep_leftovers() -> Result<()> {
    let mut leftovers: Vec<NetworkName> = Vec::new();
    for place in [Path::new(NAMESPACES), &std::env::temp_dir()] {
        // Before the first namespace there is no such place.
        let Ok(entries) = fs::read_dir(place) else { continue };
        for entry in entries {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().and_then(NetworkName::parse)
                && !name.owner_is_alive()
                && !leftovers.contains(&name)
            {
                leftovers.push(name);
            }
        }
    }
    for name in leftovers {
        let mut guard = spawn_guard(&name, &std::env::temp_dir().join(name.to_string()))?;
        drop(guard.stdin.take());
        let status = guard.wait()?;
        ensure!(status.success(), "{name} stays: {status}");
    }
    Ok(())
}

fn spawn_guard(name: &NetworkName, directory: &Path) -> Result<Child> {
    let mut guard = Command::new("sh");
    guard.args(["-c", GUARD, "faasnet-lab-guard", &name.to_string()]).arg(directory);
    // A group of its own: Ctrl-C at the terminal is for the tests, and the guard still has work to do then.
    guard.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null());
    guard.spawn().context("cannot start sh")
}

fn ip(arguments: &[&str]) -> Result<()> {
    match run(Command::new("ip").args(arguments)) {
        Ok(_) => Ok(()),
        Err(error) if !is_root() => Err(error.context("network namespaces need root")),
        Err(error) => Err(error),
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Both directions between two ports, as elements of the set.
fn pair(one: &Host, other: &Host) -> String {
    format!("{0} . {1}, {1} . {0}", one.port, other.port)
}

/// The address of the host with this number, whether there is one or not.
pub fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

/// Where a server on a host listens, as the other hosts see it.
pub fn at(host: &Host, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host.address), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let name = NetworkName { pid: 12, started: 0xabc, serial: 3 };
        assert_eq!(name.to_string(), "faasnet-12-abc-3");
        for text in ["faasnet-12-abc-3", "faasnet-12-abc-3-switch", "faasnet-12-abc-3-a-b"] {
            assert_eq!(NetworkName::parse(text), Some(name.clone()), "{text}");
        }
        for foreign in ["", "faasnet", "faasnet-12", "faasnet-12-abc", "faasnet-x-1-1", "other-12-abc-3"] {
            assert_eq!(NetworkName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn owners_are_told_apart_by_their_start() {
        let own = NetworkName::of_this_process().unwrap();
        assert!(own.owner_is_alive());
        assert!(!NetworkName { started: own.started + 1, ..own }.owner_is_alive());
    }

    #[test]
    fn rates() {
        assert_eq!(Rate::of(1_000_000, Duration::from_secs(8)), Rate::mbit(1));
        assert_eq!(Rate::mbit(8).bytes_per_second(), 1_000_000);
    }
}
