//! Hosts on a switch: one network namespace each, and one more for the bridges that join them.
//!
//! Owns the namespaces, their links and addresses, who is cut off from whom, and the count of what was delivered. All links live
//! inside namespaces of the network's own, so the names and addresses in them never collide with those of another
//! network, or with the machine's.
//!
//! ```text
//! host ── link ── backbone bridge ── link ── zone's bridge ── link ── host
//! ```
//!
//! | module | owns |
//! |---|---|
//! | `host` | one host, and what runs there |
//! | `link` | what a link is like |
//! | `forwarder` | delay, where the kernel has none |
//! | `guard` | clearing everything away |
//!
//! **Invariant:** nothing outlives the process that made a network. A guard (a small shell) holds the other end of a
//! pipe; when the pipe closes, because the network was dropped or because its owner was killed, the guard
//! kills what runs in the namespaces, then deletes them, the mounts and the directory. There is no other path of cleaning up.
//! Should a guard be killed too, the next network made on the machine finds the leftovers by their names and clears them.

mod forwarder;
mod guard;
mod host;
mod link;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use serde_json::Value;

use self::forwarder::Forwarder;
use self::guard::{NetworkName, spawn_guard, sweep_leftovers};
pub use self::host::Host;
use self::host::{DEVICE, device_bytes};
use self::link::bucket;
pub use self::link::{Link, Rate};
use super::process::run;

/// The bridge that everything hangs on.
const BACKBONE: &str = "br0";

/// The rules of the switch: what passes between two addresses that stand in `cut` is dropped, silently as on a broken wire; what a
/// link loses is decided in the chain that `lossy` names for its port; what is delivered is counted at the port of a host, so
/// once, however many bridges it has passed.
const SWITCH_RULES: &str = "
table bridge lab {
    set cut { type ipv4_addr . ipv4_addr; }
    set flows { type ipv4_addr . ipv4_addr; size 65535; flags dynamic; counter; }
    map lossy { type ifname : verdict; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr . ip daddr @cut drop
        iifname vmap @lossy
        oifname vmap @lossy
        oifname \"port*\" update @flows { ip saddr . ip daddr counter }
    }
}
";

/// How delay is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelayBy {
    /// By the kernel.
    Netem,
    /// By a forwarder of the lab's own, where the kernel cannot.
    Forwarder,
}

impl std::fmt::Display for DelayBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Netem => "netem",
            Self::Forwarder => "forwarder",
        })
    }
}

/// Hosts joined by a switch, with a directory for their files. Dropping it kills what runs on the hosts and removes
/// everything; with `FAASNET_LAB_KEEP=1` in the environment the directory stays.
#[derive(Debug)]
pub struct Network {
    name: NetworkName,
    switch: String,
    directory: PathBuf,
    delay_by: DelayBy,
    /// The links that are delayed by a forwarder, by the name of their port at the switch.
    forwarders: Mutex<BTreeMap<String, Forwarder>>,
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
        let delay_by = DelayBy::Forwarder;
        // From here on, dropping `network` cleans up, also when a step below fails.
        let mut network = Self { name, switch, directory, delay_by, forwarders: Mutex::default(), guard };
        fs::create_dir_all(&network.directory)
            .with_context(|| format!("cannot create {}", network.directory.display()))?;
        ip(&["netns", "add", &network.switch])?;
        if tc(&network.switch, "lo", "root", &["netem".to_owned(), "delay".to_owned(), "1ms".to_owned()])
            .is_ok()
        {
            network.delay_by = DelayBy::Netem;
        }
        network.bridge(BACKBONE)?;
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

    /// How its links are delayed.
    pub fn delays(&self) -> DelayBy {
        self.delay_by
    }

    /// Adds a host with the address `10.77.0.0 + number` (see [`address`]), connected to all others by a link as fast as the machine. The
    /// number is not 0, and no two hosts have the same.
    ///
    /// # Errors
    /// When the number is taken, or the system refuses.
    pub fn host(&self, name: &str, number: u16) -> Result<Host> {
        self.host_in(None, name, number, &Link::default())
    }

    /// The same in a zone, with a link of some kind.
    ///
    /// # Errors
    /// See [`Network::host`].
    pub fn host_in(&self, zone: Option<&Zone>, name: &str, number: u16, link: &Link) -> Result<Host> {
        ensure!((1..u16::MAX).contains(&number), "no host can have the number {number}");
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", self.name),
            address: address(number),
            port: format!("port{number}"),
        };
        let (namespace, address) = (&host.namespace, host.address);
        ip(&["netns", "add", namespace])?;
        self.wire((namespace, DEVICE), &host.port, link)?;
        ip(&[
            "-n",
            &self.switch,
            "link",
            "set",
            &host.port,
            "master",
            zone.map_or(BACKBONE, |zone| &zone.bridge),
            "up",
        ])?;
        ip(&["-n", namespace, "address", "add", &format!("{address}/16"), "dev", DEVICE])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "link", "set", DEVICE, "up"])?;
        self.shape(&host, link)?;
        Ok(host)
    }

    /// Adds a zone: a bridge of its own, joined to the backbone by one link. Up is towards the backbone.
    ///
    /// # Errors
    /// When there is one of that name, or the system refuses.
    pub fn zone(&self, name: &str, link: &Link) -> Result<Zone> {
        // The kernel's names of devices have fifteen letters at most.
        let valid = (1..=10).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        ensure!(valid, "a zone's name has one to ten letters, digits and hyphens, unlike {name:?}");
        let zone = Zone {
            name: name.to_owned(),
            bridge: format!("zone-{name}"),
            trunk: format!("in-{name}"),
            port: format!("to-{name}"),
        };
        self.bridge(&zone.bridge)?;
        self.wire((&self.switch, &zone.trunk), &zone.port, link)?;
        ip(&["-n", &self.switch, "link", "set", &zone.trunk, "master", &zone.bridge, "up"])?;
        ip(&["-n", &self.switch, "link", "set", &zone.port, "master", BACKBONE, "up"])?;
        self.shape_zone(&zone, link)?;
        Ok(zone)
    }

    /// Gives a host's link other qualities, while it is in use.
    ///
    /// # Errors
    /// When the link is to be delayed and was made without any delay, or the system refuses.
    pub fn shape(&self, host: &Host, link: &Link) -> Result<()> {
        self.shape_wire((&host.namespace, DEVICE), &host.port, link)
    }

    /// Gives a zone's link other qualities, while it is in use.
    ///
    /// # Errors
    /// See [`Network::shape`].
    pub fn shape_zone(&self, zone: &Zone, link: &Link) -> Result<()> {
        self.shape_wire((&self.switch, &zone.trunk), &zone.port, link)
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

    /// Bytes that each host has had delivered from each other one, by sender and receiver, since the network was made. Of segments that
    /// the sender's card would have cut, only the first header counts.
    ///
    /// # Errors
    /// When the switch does not tell.
    pub fn flows(&self) -> Result<BTreeMap<(Ipv4Addr, Ipv4Addr), u64>> {
        let list = ["netns", "exec", &self.switch, "nft", "-j", "list", "set", "bridge", "lab", "flows"];
        let answer: Value = serde_json::from_str(&run(Command::new("ip").args(list))?)?;
        let sets = answer["nftables"].as_array().into_iter().flatten();
        let elements = sets.filter_map(|entry| entry["set"]["elem"].as_array()).flatten();
        elements
            .map(|element| {
                let element = &element["elem"];
                let end = |index: usize| element["val"]["concat"][index].as_str()?.parse::<Ipv4Addr>().ok();
                let flow = (|| Some(((end(0)?, end(1)?), element["counter"]["bytes"].as_u64()?)))();
                flow.with_context(|| format!("nft counts in another form: {element}"))
            })
            .collect()
    }

    /// Bytes that came into a zone, and that left it, since it was made, headers included.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn crossed(&self, zone: &Zone) -> Result<(u64, u64)> {
        device_bytes(&self.switch, &zone.trunk)
    }

    /// Gives a directory a disk of its own, of so many bytes, in memory. It goes with the network.
    ///
    /// # Errors
    /// When the directory is not the network's, or the system refuses.
    pub fn disk(&self, directory: &Path, bytes: u64) -> Result<()> {
        ensure!(directory.starts_with(&self.directory), "{} is not the network's", directory.display());
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "faasnet-lab"]).arg(directory);
        run(&mut mount).map(drop)
    }

    fn bridge(&self, name: &str) -> Result<()> {
        ip(&["-n", &self.switch, "link", "add", name, "type", "bridge"])?;
        ip(&["-n", &self.switch, "link", "set", name, "up"])
    }

    /// Joins a device to a new port of the switch.
    fn wire(&self, (namespace, device): (&str, &str), port: &str, link: &Link) -> Result<()> {
        if link.has_delay() && self.delay_by == DelayBy::Forwarder {
            let forwarder = Forwarder::between((namespace, device), (&self.switch, port))?;
            self.forwarders.lock().insert(port.to_owned(), forwarder);
            return Ok(());
        }
        let peer = ["type", "veth", "peer", "name", device, "netns", namespace];
        ip(&[["-n", &self.switch, "link", "add", port].as_slice(), &peer].concat())
    }

    fn shape_wire(&self, (namespace, device): (&str, &str), port: &str, link: &Link) -> Result<()> {
        self.queue(namespace, device, link.up, link)?;
        self.queue(&self.switch, port, link.down, link)?;
        match self.forwarders.lock().get(port) {
            Some(forwarder) => forwarder.set(link.delay, link.jitter),
            None if link.has_delay() && self.delay_by == DelayBy::Forwarder => {
                bail!(
                    "this kernel has no netem, and the link of {port} was made without any delay; give it 1 ms from the start"
                )
            }
            None => {}
        }
        let parts_per_million = (link.loss * 1e6) as u32;
        let chain = format!("loss-{port}");
        self.nft(&format!(
            "add chain bridge lab {chain}; flush chain bridge lab {chain}; \
             add rule bridge lab {chain} numgen random mod 1000000 < {parts_per_million} drop; \
             add element bridge lab lossy {{ {port} : jump {chain} }}"
        ))
    }

    /// What stands before one end of a wire: its rate, and its delay where the kernel makes it.
    fn queue(&self, namespace: &str, device: &str, rate: Option<Rate>, link: &Link) -> Result<()> {
        // Fails where nothing stands yet.
        let _ = run(Command::new("tc").args(["-n", namespace, "qdisc", "delete", "dev", device, "root"]));
        let mut parent = "root";
        if let Some(rate) = rate {
            tc(namespace, device, "root handle 1:", &bucket(rate))?;
            parent = "parent 1:1";
        }
        if link.has_delay() && self.delay_by == DelayBy::Netem {
            let micros = |time: std::time::Duration| format!("{}us", time.as_micros());
            let netem = ["netem", "delay", &micros(link.delay), &micros(link.jitter), "limit", "100000"];
            tc(namespace, device, parent, &netem.map(str::to_owned))?;
        }
        Ok(())
    }

    fn nft(&self, rules: &str) -> Result<()> {
        run(Command::new("ip").args(["netns", "exec", &self.switch, "nft", rules])).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The forwarders hold devices in the namespaces.
        self.forwarders.lock().clear();
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

/// A zone of a [`Network`]: a handle, which may be cloned, and is of no use after the network is gone.
#[derive(Debug, Clone)]
pub struct Zone {
    name: String,
    bridge: String,
    /// Its end of its link, and the backbone's.
    trunk: String,
    port: String,
}

impl Zone {
    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    match run(Command::new("ip").args(arguments)) {
        Ok(_) => Ok(()),
        Err(error) if !is_root() => Err(error.context("network namespaces need root")),
        Err(error) => Err(error),
    }
}

/// Puts a queueing discipline somewhere.
fn tc(namespace: &str, device: &str, place: &str, discipline: &[String]) -> Result<()> {
    let mut tc = Command::new("tc");
    tc.args(["-n", namespace, "qdisc", "add", "dev", device]).args(place.split(' ')).args(discipline);
    run(&mut tc).map(drop)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Both directions between two hosts, as elements of the set.
fn pair(one: &Host, other: &Host) -> String {
    format!("{0} . {1}, {1} . {0}", one.address(), other.address())
}

/// The address of the host with this number, whether there is one or not.
pub fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 77, high, low)
}

/// Where a server on a host listens, as the other hosts see it.
pub fn at(host: &Host, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(host.address()), port)
}
