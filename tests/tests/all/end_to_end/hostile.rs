//! A node where things are not as they should be: its disk, its ports, its seeds, its clock, and what comes in by its ports.

use std::fs::{self, File};
use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use faasnet::demo::registry::EmbeddedRegistry;
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::process::run;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use transfer::digest::Digest;
use transfer::origin::open_local;

use super::solo::{Solo, refused, until};

const MIB: u64 = 1 << 20;

/// Runs the rest of its arguments in a mount namespace of its own, in which a small disk is mounted at the first.
const SMALL_DISK: &str = r#"mount -t tmpfs -o size=8m none "$0" && exec "$@""#;

/// The same, where nothing can be written to the disk.
const READ_ONLY_DISK: &str = r#"mount -t tmpfs -o ro none "$0" && exec "$@""#;

/// The same, where the first argument is the machine's table of hosts.
const OWN_HOSTS: &str = r#"mount --bind "$0" /etc/hosts && exec "$@""#;

/// How soon a node must be there that cannot reach its seeds, on a machine that may be busy.
const ALONE_LIMIT: Duration = Duration::from_secs(15);

/// Images as OCI layouts, each behind a registry of its own name.
struct Images {
    scratch: TempDir,
    origins: Vec<String>,
}

impl Images {
    fn new(images: &[(&str, u64)]) -> Self {
        let scratch = TempDir::new().unwrap();
        let origin = |(name, bytes): &(&str, u64)| {
            let layout = scratch.path().join(name);
            Image::synthetic(&layout, *bytes).unwrap();
            format!("{name}.test={}", layout.display())
        };
        let origins = images.iter().map(origin).collect();
        Self { scratch, origins }
    }

    fn layout(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.layout(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn start(&self, name: &str, wrapper: &[&str], args: &[&str]) -> Solo {
        let origins = self.origins.iter().flat_map(|origin| ["--origin", origin.as_str()]);
        let args: Vec<&str> = origins.chain(args.iter().copied()).collect();
        Solo::start(self.scratch.path(), name, wrapper, &args)
    }

    /// Reads the layer of an image from a node's mirror and compares it with its digest.
    fn check_served(&self, node: &Solo, name: &str) {
        let image = Image::open(&self.layout(name)).unwrap();
        let layer = &image.blobs[1];
        let url = format!("http://{}/v2/team/app/blobs/{}?ns={name}.test", node.http(), layer.digest);
        let copy = self.scratch.path().join("copy");
        run(Command::new("curl").args(["-sSf", "-o"]).arg(&copy).arg(url)).unwrap();
        assert_eq!(Digest::of(&fs::read(&copy).unwrap()).to_string(), layer.digest);
    }
}

fn reference(name: &str) -> String {
    format!("{name}.test/team/app:v1")
}

/// What is to stand before a command so that it runs by one of the scripts.
fn private<'a>(script: &'a str, path: &'a Path) -> [&'a str; 6] {
    ["unshare", "--mount", "sh", "-c", script, path.to_str().unwrap()]
}

/// A path as a process in a mount namespace of its own sees it.
fn seen_by(node: &Solo, path: &Path) -> PathBuf {
    Path::new(&format!("/proc/{}/root", node.pid())).join(path.strip_prefix("/").unwrap())
}

/// Mounts or unmounts something in the mount namespace of a node.
fn change_mounts(node: &Solo, command: &[&str], path: &Path) {
    let pid = node.pid().to_string();
    run(Command::new("nsenter").args(["--mount", "--target", &pid]).args(command).arg(path)).unwrap();
}

#[test]
#[ignore = "needs root, for mounts; .ci/run runs it"]
fn a_node_that_cannot_start_says_why_and_ends() {
    let scratch = TempDir::new().unwrap();
    let path = |name: &str| scratch.path().join(name);
    fs::write(path("file"), "not a directory").unwrap();
    fs::create_dir(path("disk")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (http, listen) = (tcp.local_addr().unwrap().to_string(), udp.local_addr().unwrap().to_string());
    let read_only = path("disk");
    let read_only = private(READ_ONLY_DISK, &read_only);
    let check = |data: &str, wrapper: &[&str], args: &[&str], words: [&str; 3]| {
        let said = refused(&path(data), wrapper, args);
        println!("[start] {}", said.trim());
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in words {
            assert_eq!(said.matches(word).count(), 1, "{word}: {said}");
        }
    };
    check("file", &[], &[], ["/file cannot be used", "Not a directory", "--data"]);
    check("file/below", &[], &[], ["/file/below cannot be used", "Not a directory", "--data"]);
    check("disk/below", &read_only, &[], ["/disk/below cannot be used", "Read-only file system", "--data"]);
    check("data", &[], &["--http", &http], [&format!("http://{http}"), "in use", "--http"]);
    check("data", &[], &["--listen", &listen], [&format!("{listen}/udp"), "in use", "--listen"]);
    check("data", &[], &["--http", "192.0.2.1:80"], ["http://192.0.2.1:80", "Cannot assign", "--http"]);
    drop(udp);
    Solo::start(scratch.path(), "data", &[], &["--listen", &listen]);
}

#[test]
#[ignore = "needs root, for mounts; .ci/run runs it"]
fn a_full_disk_costs_only_what_does_not_fit() {
    let images = Images::new(&[("held", MIB), ("large", 24 * MIB), ("small", MIB / 2), ("half", 4 * MIB)]);
    let registry = SlowRegistry::start(&images.layout("half"), MIB);
    let disk = images.directory("disk");
    let slow = format!("slow.test=http://{}", registry.server.address());
    // Its data directory is the disk itself.
    let node = images.start("disk", &private(SMALL_DISK, &disk), &["--origin", &slow]);
    node.pull(&reference("held")).unwrap();

    let said = node.pull(&reference("large")).unwrap_err();
    println!("[disk] {}", said.lines().last().unwrap());
    for word in ["no space left", disk.to_str().unwrap(), "24.0 MiB", "large.test"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(fs::read_dir(seen_by(&node, &disk.join("partial"))).unwrap().count(), 0);
    images.check_served(&node, "held");
    node.pull(&reference("small")).unwrap();

    let (ballast, said) = thread::scope(|scope| {
        let pull = scope.spawn(|| node.pull(&reference("slow")));
        until("some of the image to be there", || held_bytes(&node, "slow") > MIB);
        let ballast = seen_by(&node, &disk.join("ballast"));
        fill(&ballast);
        (ballast, pull.join().unwrap().unwrap_err())
    });
    println!("[disk] {}", said.lines().last().unwrap());
    for word in
        ["cannot write", disk.join("partial").to_str().unwrap(), "No space left on device", "slow.test"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    images.check_served(&node, "held");
    images.check_served(&node, "small");
    let leftovers = files_below(&seen_by(&node, &disk)).into_iter().filter(|path| path.ends_with(".tmp"));
    assert_eq!(leftovers.collect::<Vec<_>>(), Vec::<String>::new());

    fs::remove_file(ballast).unwrap();
    let pulled = node.pull(&reference("slow")).unwrap();
    assert!(
        pulled.origin_bytes < pulled.bytes - MIB,
        "what came before the disk was full is kept: {pulled:?}"
    );
    change_mounts(&node, &["mount", "-o", "remount,size=64m"], &disk);
    node.pull(&reference("large")).unwrap();
    for name in ["held", "small", "half", "large"] {
        images.check_served(&node, name);
    }
}

#[test]
#[ignore = "needs root, for mounts; .ci/run runs it"]
fn a_disk_that_cannot_be_written_serves_what_is_held() {
    let images = Images::new(&[("held", MIB), ("other", 2 * MIB)]);
    let data = images.directory("node");
    let node = images.start("node", &["unshare", "--mount"], &[]);
    node.pull(&reference("held")).unwrap();
    let folders = ["partial", "documents", "functions", "tags"].map(|folder| data.join(folder));
    for folder in &folders {
        change_mounts(&node, &["mount", "-t", "tmpfs", "-o", "ro", "none"], folder);
    }
    let said = node.pull(&reference("other")).unwrap_err();
    println!("[disk] {}", said.lines().last().unwrap());
    for word in ["cannot open", folders[0].to_str().unwrap(), "Read-only file system", "other.test"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    images.check_served(&node, "held");
    for folder in &folders {
        change_mounts(&node, &["umount"], folder);
    }
    node.pull(&reference("other")).unwrap();
    images.check_served(&node, "other");
}

#[test]
#[ignore = "needs root, for a table of hosts of its own; .ci/run runs it"]
fn a_seed_that_does_not_resolve_is_found_once_it_does() {
    let images = Images::new(&[]);
    let hosts = images.scratch.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let first = images.start("first", &[], &[]);
    let port: SocketAddr = first.addr().parse().unwrap();
    let seed = format!("first.test:{}", port.port());

    let start = Instant::now();
    let late = images.start("late", &private(OWN_HOSTS, &hosts), &["--seed", &seed]);
    until("the node to go on alone", || late.json(&["status"])["ready"] == true);
    println!("[seed] ready without its seed after {:.1} s", start.elapsed().as_secs_f64());
    assert!(start.elapsed() < ALONE_LIMIT, "{:?}", start.elapsed());
    assert_eq!(late.members(), ["late"]);
    // It waits for five rounds before it goes on alone.
    let complaint = format!("the name of the seed {seed} does not resolve");
    assert_eq!(late.log().matches(&complaint).count(), 1, "{}", late.log());
    assert!(late.log().contains(&format!("none of the seeds {seed} has answered")), "{}", late.log());

    File::options().append(true).open(&hosts).unwrap().write_all(b"127.0.0.1 first.test\n").unwrap();
    let start = Instant::now();
    until("both to know both", || [&first, &late].iter().all(|node| node.members() == ["first", "late"]));
    println!("[seed] both know both {:.1} s after the name resolves", start.elapsed().as_secs_f64());
    assert!(late.log().contains("resolves now"), "{}", late.log());
    assert_eq!(late.log().matches(&complaint).count(), 1, "{}", late.log());
}

#[test]
#[ignore = "needs faketime; .ci/run runs it"]
fn clocks_ten_minutes_apart_do_no_harm() {
    let images = Images::new(&[("1", MIB), ("2", 2 * MIB), ("3", 3 * MIB), ("4", 4 * MIB)]);
    let right = images.start("right", &[], &[]);
    let seed = right.addr();
    for (name, skew, [one, other]) in [("ahead", "+10m", ["1", "2"]), ("behind", "-10m", ["3", "4"])] {
        let node = images.start(name, &clock(skew), &["--seed", &seed]);
        let mut both = [name, "right"];
        both.sort_unstable();
        until("both to know both", || [&right, &node].iter().all(|node| node.members() == both));
        check_pulls(&right, &node, one);
        check_pulls(&node, &right, other);

        println!("[clock] {name} starts again with the right time");
        let old = incarnation(&right, name);
        drop(node);
        let node = images.start(name, &[], &["--seed", &seed]);
        until("the restart to be known", || incarnation(&right, name) > old);
        assert_eq!(node.pull(&reference(one)).unwrap().origin_bytes, 0);
        check_tree(&right, &node, one);
    }
    // Certificates are dated back by an hour.
    let said = refused(&images.layout("lost"), &clock("-3h"), &["--seed", &seed]);
    println!("[clock] {}", said.lines().last().unwrap());
    assert!(said.contains(&seed) && said.contains("not valid yet") && said.contains("clocks"), "{said}");
}

/// What is to stand before a command so that its clock is off. Timers go as they should.
fn clock(skew: &str) -> [&str; 5] {
    ["env", "FAKETIME_DONT_FAKE_MONOTONIC=1", "faketime", "-f", skew]
}

/// When `member` was started, as `node` knows it.
fn incarnation(node: &Solo, member: &str) -> u64 {
    let members = node.json(&["members"]);
    let found = members.as_array().unwrap().iter().find(|found| found["node"] == member);
    found.map_or(0, |found| found["incarnation"].as_u64().unwrap())
}

/// The first takes an image from the origin, and the second from the first.
fn check_pulls(first: &Solo, second: &Solo, name: &str) {
    let pulled = first.pull(&reference(name)).unwrap();
    assert_eq!(pulled.origin_bytes, pulled.bytes);
    let pulled = second.pull(&reference(name)).unwrap();
    assert_eq!(pulled.peer_bytes, pulled.bytes);
    check_tree(first, second, name);
}

/// Both come to derive the same tree of two, with one root.
fn check_tree(one: &Solo, other: &Solo, name: &str) {
    until("both to derive the same tree", || {
        let trees = [one, other].map(|node| node.json(&["tree", &reference(name)])["nodes"].clone());
        let places = |tree: &Value| -> Vec<(String, bool)> {
            let nodes = tree.as_array().unwrap().iter();
            nodes.map(|node| (node["node"].to_string(), node["parent"].is_null())).collect()
        };
        let [places, others] = [places(&trees[0]), places(&trees[1])];
        places == others && places.len() == 2 && places.iter().filter(|(_, is_root)| *is_root).count() == 1
    });
}

#[test]
#[ignore = "needs a release build; .ci/run runs it"]
fn noise_on_both_ports_takes_no_memory() {
    /// What noise may cost: the buffers of the socket and of connections that are being refused.
    const MAX_GROWTH: u64 = 64 * MIB;
    let images = Images::new(&[("half", 16 * MIB)]);
    let registry = SlowRegistry::start(&images.layout("half"), 4 * MIB);
    let node =
        images.start("node", &[], &["--origin", &format!("slow.test=http://{}", registry.server.address())]);
    let udp: SocketAddr = node.addr().parse().unwrap();
    let before = node.memory("VmHWM:");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0;
    let pulled = thread::scope(|scope| {
        let pull = scope.spawn(|| node.pull(&reference("slow")));
        while !pull.is_finished() {
            for length in [1, 20, 1_200, 1_452, 65_507] {
                // Like the first packet of a connection, and like one of a connection that is there.
                for first in [0xc3, 0x43] {
                    let mut noise = vec![(sent % 251) as u8; length];
                    noise[0] = first;
                    noise.iter_mut().skip(1).zip([0, 0, 0, 1, 8]).for_each(|(byte, header)| *byte = header);
                    // The system may have no room for it, which is the same as losing it.
                    sent += u64::from(socket.send_to(&noise, udp).is_ok());
                }
            }
            let mut connection = std::net::TcpStream::connect(node.http()).unwrap();
            let _ = connection.write_all(&[0x16; 70_000]);
        }
        pull.join().unwrap().unwrap()
    });
    let grown = node.memory("VmHWM:") - before;
    println!(
        "[noise] {sent} datagrams; {} B pulled in {} ms; memory grew by {grown} B",
        pulled.bytes, pulled.elapsed_ms
    );
    assert!(grown < MAX_GROWTH, "{grown}");
    assert_eq!(node.json(&["status"])["ready"], true);
    let panics = node.log().lines().filter(|line| line.contains("panicked")).count();
    assert_eq!(panics, 0, "{}", node.log());
}

/// A registry in this process that sends so many bytes per second.
struct SlowRegistry {
    server: EmbeddedRegistry,
    _runtime: Runtime,
}

impl SlowRegistry {
    fn start(layout: &Path, bytes_per_second: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let rate = NonZeroU64::new(bytes_per_second).unwrap();
        let server = runtime.block_on(async {
            EmbeddedRegistry::start(Arc::new(open_local(layout).await.unwrap()), rate).await.unwrap()
        });
        Self { server, _runtime: runtime }
    }
}

/// Bytes held of an image that is being pulled.
fn held_bytes(node: &Solo, name: &str) -> u64 {
    let functions = node.json(&["functions"]);
    let found =
        functions.as_array().unwrap().iter().find(|function| function["reference"] == reference(name));
    found.map_or(0, |function| function["held_bytes"].as_u64().unwrap())
}

/// Takes all room on a disk.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
}

fn files_below(directory: &Path) -> Vec<String> {
    let found = run(Command::new("find").arg(directory).args(["-type", "f"])).unwrap();
    found.lines().map(str::to_owned).collect()
}
