//! What scenarios are built of, without a node: wires that come and go, rates, delays, losses, zones, cuts, disks, a registry that
//! counts, images.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use faasnet_sim::lab::image::{Image, digest_of};
use faasnet_sim::lab::netns::{DelayBy, Host, Link, Network, Rate, at};
use faasnet_sim::lab::process::{run, wait_until};
use faasnet_sim::lab::registry::Registry;

const SOON: Duration = Duration::from_secs(60);

/// Sends `bytes` from one host to another over TCP; gives how long it took the receiver to have them all.
fn transfer(from: &Host, to: &Host, bytes: usize) -> Duration {
    let listener = to.inside(|| TcpListener::bind(at(to, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = connect(from, address, SOON).unwrap();
            stream.write_all(&vec![0; bytes]).unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        let start = Instant::now();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), bytes);
        start.elapsed()
    })
}

fn connect(from: &Host, to: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    from.inside(|| TcpStream::connect_timeout(&to, limit)).unwrap()
}

fn namespaces() -> String {
    run(Command::new("ip").args(["netns", "list"])).unwrap()
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn a_network_comes_and_goes_with_all_that_runs_in_it() {
    let network = Network::new().unwrap();
    let (name, directory) = (network.name(), network.directory().to_owned());
    let host = network.host("one", 1).unwrap();
    let mut daemon =
        host.command("sh").args(["-c", "trap '' TERM INT; sleep 1000 & wait; wait"]).spawn().unwrap();
    fs::write(directory.join("file"), "text").unwrap();
    assert!(namespaces().contains(&name));

    drop(network);
    assert!(!namespaces().contains(&name));
    assert!(!directory.exists());
    assert!(!daemon.wait().unwrap().success());
    assert!(host.inside(|| ()).is_err());
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn a_network_goes_when_its_test_panics() {
    let (told, name) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let network = Network::new().unwrap();
        network.host("one", 1).unwrap();
        told.send(network.name()).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(!namespaces().contains(&name.recv().unwrap()));
}

/// Not a test of its own: what [`a_network_goes_when_its_owner_is_killed`] runs in another process.
#[test]
#[ignore = "run by another test, with FAASNET_LAB_VICTIM set"]
fn a_victim_to_be_killed() {
    if std::env::var_os("FAASNET_LAB_VICTIM").is_none() {
        return;
    }
    let network = Network::new().unwrap();
    network.disk(&network.directory().join("disk"), 1 << 20).unwrap();
    let mut daemon = network.host("one", 1).unwrap().command("sleep").arg("1000").spawn().unwrap();
    println!("\nvictim {} {}", network.name(), daemon.id());
    daemon.wait().unwrap();
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn a_network_goes_when_its_owner_is_killed() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "network::a_victim_to_be_killed", "--nocapture"])
        .env("FAASNET_LAB_VICTIM", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| line.unwrap().strip_prefix("victim ").map(str::to_owned)).unwrap();
    let (name, daemon) = line.split_once(' ').unwrap();
    assert!(namespaces().contains(name));

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the guard to clear away", SOON, || {
        let process = fs::exists(format!("/proc/{daemon}"))?;
        let directory = fs::exists(std::env::temp_dir().join(name))?;
        Ok((!namespaces().contains(name) && !process && !directory).then_some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn leftovers_of_a_killed_run_are_swept() {
    // Start times are in ticks since boot, so this owner has never lived.
    let leftover = format!("faasnet-{}-ffffffffff-0", std::process::id());
    run(Command::new("ip").args(["netns", "add", &format!("{leftover}-one")])).unwrap();
    fs::create_dir(std::env::temp_dir().join(&leftover)).unwrap();
    let other = Network::new().unwrap();
    let network = Network::new().unwrap();
    assert!(!namespaces().contains(&leftover));
    assert!(!std::env::temp_dir().join(&leftover).exists());
    assert!(namespaces().contains(&other.name()), "swept a network that lives");
    drop(network);
    assert!(namespaces().contains(&other.name()), "one network took another along");
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn rates_are_kept() {
    let network = Network::new().unwrap();
    let (fast, slow) = (network.host("fast", 1).unwrap(), network.host("slow", 2).unwrap());
    const BYTES: usize = 20_000_000;
    let rate = Rate::mbit(80);
    let ideal = BYTES as f64 / rate.bytes_per_second() as f64;
    network.shape(&slow, &Link { up: Some(rate), ..Link::default() }).unwrap();

    let before = slow.bytes_sent().unwrap();
    let shaped = transfer(&slow, &fast, BYTES).as_secs_f64();
    let on_the_wire = slow.bytes_sent().unwrap() - before;
    let other_way = transfer(&fast, &slow, BYTES).as_secs_f64();
    network.shape(&slow, &Link::default()).unwrap();
    let free = transfer(&slow, &fast, BYTES).as_secs_f64();
    println!(
        "ideal {ideal:.2} s, shaped {shaped:.2}, other way {other_way:.2}, free {free:.2}; {on_the_wire} B sent"
    );

    assert!((0.9 * ideal..1.3 * ideal).contains(&shaped), "{shaped} s instead of {ideal}");
    assert!(other_way < 0.5 * ideal && free < 0.5 * ideal, "{other_way}, {free}");
    assert!((BYTES as u64..BYTES as u64 * 11 / 10).contains(&on_the_wire), "{on_the_wire} bytes for {BYTES}");
}

/// How long a byte takes there and back over a connection that stands, the quickest and the slowest of some.
fn round_trips(from: &Host, to: &Host) -> (Duration, Duration) {
    let listener = to.inside(|| TcpListener::bind(at(to, 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read(&mut byte).unwrap() > 0 {
                stream.write_all(&byte).unwrap();
            }
        });
        let mut stream = connect(from, address, SOON).unwrap();
        stream.set_nodelay(true).unwrap();
        let trips = (0..50).map(|_| {
            let start = Instant::now();
            stream.write_all(&[1]).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            start.elapsed()
        });
        let trips: Vec<Duration> = trips.collect();
        (*trips.iter().min().unwrap(), *trips.iter().max().unwrap())
    })
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn delays_are_kept_while_bytes_flow() {
    let network = Network::new().unwrap();
    let link = Link { delay: Duration::from_millis(20), jitter: Duration::from_millis(5), ..Link::default() };
    let (near, far) = (network.host("near", 1).unwrap(), network.host_in(None, "far", 2, &link).unwrap());
    let (quickest, slowest) = round_trips(&near, &far);
    println!("{quickest:?} to {slowest:?} by {}", network.delays());
    assert!(quickest >= Duration::from_millis(30), "{quickest:?}");
    assert!(
        quickest <= Duration::from_millis(60) && slowest > quickest + Duration::from_millis(1),
        "{slowest:?}"
    );

    let fast = Link { delay: Duration::from_millis(2), ..Link::default() };
    network.shape(&far, &fast).unwrap();
    let (quicker, _) = round_trips(&far, &near);
    assert!((Duration::from_millis(4)..quickest).contains(&quicker), "{quicker:?}");
    let taken = transfer(&near, &far, 50_000_000);
    println!("50 MB in {taken:?}");
    let refused = network.shape(&near, &fast);
    assert_eq!(refused.is_err(), network.delays() == DelayBy::Forwarder, "a wire cannot be slowed later");
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn a_link_loses_its_share() {
    const PACKETS: usize = 20_000;
    let network = Network::new().unwrap();
    let (from, to) = (network.host("from", 1).unwrap(), network.host("to", 2).unwrap());
    let arrived = |loss: f64| {
        network.shape(&to, &Link { loss, ..Link::default() }).unwrap();
        let receiver = to.inside(|| UdpSocket::bind(at(&to, 0))).unwrap().unwrap();
        let sender = from.inside(|| UdpSocket::bind(at(&from, 0))).unwrap().unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut arrived = 0;
        // In small portions, so that no buffer runs over.
        for _ in 0..PACKETS / 50 {
            for _ in 0..50 {
                sender.send_to(b"x", receiver.local_addr().unwrap()).unwrap();
            }
            sender.send_to(b"last", receiver.local_addr().unwrap()).unwrap();
            let mut packet = [0; 8];
            // The last one may be lost itself; then the silence says so.
            while let Ok(length) = receiver.recv(&mut packet) {
                if length == b"last".len() {
                    break;
                }
                arrived += 1;
            }
        }
        arrived
    };
    assert_eq!(arrived(0.0), PACKETS);
    let share = arrived(0.02) as f64 / PACKETS as f64;
    assert!((0.97..0.99).contains(&share), "{share}");
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn zones_have_one_link_and_all_that_is_delivered_is_counted() {
    const BYTES: usize = 5_000_000;
    let network = Network::new().unwrap();
    let rate = Rate::mbit(40);
    let link = Link { delay: Duration::from_millis(10), jitter: Duration::from_millis(1), ..Link::at(rate) };
    let zone = network.zone("far", &link).unwrap();
    let near = [1, 2].map(|number| network.host(&format!("near{number}"), number).unwrap());
    let far = [3, 4].map(|number| {
        network.host_in(Some(&zone), &format!("far{number}"), number, &Link::default()).unwrap()
    });

    let within = transfer(&far[0], &far[1], BYTES).as_secs_f64();
    assert!(network.crossed(&zone).unwrap().1 < 50_000, "what stays in the zone crosses nothing");
    let (before, ideal) = (network.crossed(&zone).unwrap(), BYTES as f64 / rate.bytes_per_second() as f64);
    let across = transfer(&near[0], &far[0], BYTES).as_secs_f64();
    let crossed = network.crossed(&zone).unwrap().0 - before.0;
    println!("within {within:.2} s, across {across:.2} of {ideal:.2} s, {crossed} B crossed");
    assert!((0.8 * ideal..3.0 * ideal).contains(&across) && within < 0.5 * ideal, "{across} {within}");
    assert!((BYTES as u64..BYTES as u64 * 13 / 10).contains(&crossed), "{crossed}");

    let flows = network.flows().unwrap();
    for (from, to) in [(&far[0], &far[1]), (&near[0], &far[0])] {
        let delivered = flows[&(from.address(), to.address())];
        assert!((BYTES as u64..BYTES as u64 * 13 / 10).contains(&delivered), "{delivered}");
    }
    assert!(!flows.contains_key(&(near[0].address(), near[1].address())));

    network.cut(&near[1], &far[1]).unwrap();
    let port = TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
    let outcome = connect(&near[1], at(&far[1], port), Duration::from_secs(2));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
    network.heal(&near[1], &far[1]).unwrap();
    let outcome = connect(&near[1], at(&far[1], port), SOON);
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn a_disk_of_its_own_can_be_full_and_goes() {
    let network = Network::new().unwrap();
    let directory = network.directory().join("host");
    network.disk(&directory, 1 << 20).unwrap();
    let error = fs::write(directory.join("file"), vec![1; 2 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(fs::read_to_string("/proc/mounts").unwrap().contains(directory.to_str().unwrap()));
    assert!(network.disk(&std::env::temp_dir(), 1).is_err());
    drop(network);
    assert!(!fs::read_to_string("/proc/mounts").unwrap().contains(directory.to_str().unwrap()));
    assert!(!directory.exists());
}

#[test]
#[ignore = "needs root and network namespaces; .ci/run runs it"]
fn cuts_are_silent_and_heal() {
    let network = Network::new().unwrap();
    let hosts: Vec<Host> =
        (1..=3).map(|number| network.host(&format!("h{number}"), number).unwrap()).collect();
    let listeners: Vec<TcpListener> =
        hosts.iter().map(|host| host.inside(|| TcpListener::bind(at(host, 7))).unwrap().unwrap()).collect();
    let reaches = |from: usize, to: usize| {
        let outcome = connect(&hosts[from], listeners[to].local_addr().unwrap(), Duration::from_secs(2));
        match outcome {
            Ok(_) => true,
            // Nobody says no: the packets are lost. (`HostUnreachable` is what comes of ARP without an answer.)
            Err(error) if [ErrorKind::TimedOut, ErrorKind::HostUnreachable].contains(&error.kind()) => false,
            Err(error) => panic!("{error}"),
        }
    };
    network.cut(&hosts[0], &hosts[1]).unwrap();
    assert!(!reaches(0, 1) && !reaches(1, 0));
    assert!(reaches(0, 2) && reaches(2, 0) && reaches(1, 2) && reaches(2, 1));
    network.heal(&hosts[1], &hosts[0]).unwrap();
    assert!(reaches(0, 1) && reaches(1, 0));
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and skopeo; .ci/run runs it"]
fn the_registry_counts_what_it_sends() {
    let network = Network::new().unwrap();
    let origin = network.host("origin", 1).unwrap();
    let client = network.host("client", 2).unwrap();
    let mut registry = Registry::start(&origin, &network.directory().join("registry")).unwrap();
    let image = Image::synthetic(&network.directory().join("image"), 5_000_000).unwrap();
    let reference = registry.push(&image, "test/image:v1").unwrap();
    assert_eq!(reference, "10.77.0.1:5000/test/image:v1");
    let pushed = registry.access_log().unwrap();
    assert_eq!(pushed.blob_bytes(), 0, "pushing reads no blob");

    for round in 1..=2_u64 {
        let copy = network.directory().join(format!("copy-{round}"));
        pull(&client, &reference, &format!("oci:{}:v1", copy.display()));
        let copy = Image::open(&copy).unwrap();
        copy.verify().unwrap();
        assert_eq!((&copy.manifest, &copy.blobs), (&image.manifest, &image.blobs));

        let log = registry.access_log().unwrap().since(&pushed);
        assert_eq!(log.blob_bytes(), round * image.bytes());
        for blob in &image.blobs {
            assert_eq!(log.bytes_by_blob()[&blob.digest], round * blob.size);
        }
        assert_eq!(log.manifest_requests(), usize::try_from(round).unwrap());
        let wire = origin.bytes_sent().unwrap();
        assert!(wire >= log.blob_bytes() && wire <= log.blob_bytes() * 11 / 10, "{wire} bytes on the wire");
    }

    registry.stop().unwrap();
    assert!(client.http_get(registry.server(), "/v2/").is_err());
    registry.restart().unwrap();
    let again = network.directory().join("again");
    pull(&client, &reference, &format!("oci:{}:v1", again.display()));
    assert_eq!(Image::open(&again).unwrap().manifest, image.manifest);
    assert_eq!(registry.access_log().unwrap().since(&pushed).blob_bytes(), 3 * image.bytes());
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn the_debian_image_is_real_and_cached() {
    let start = Instant::now();
    let image = Image::debian().unwrap();
    let built = start.elapsed();
    image.verify().unwrap();
    println!("{} bytes in {:?}, {:#?}", image.bytes(), built, image.blobs);
    assert!(image.bytes() > 200_000_000, "{} bytes", image.bytes());
    let layers: Vec<&str> = image.blobs[1..].iter().map(|layer| layer.media_type.as_str()).collect();
    assert!(layers.len() >= 3, "{layers:?}");
    for compression in ["gzip", "zstd"] {
        let wanted = format!("application/vnd.oci.image.layer.v1.tar+{compression}");
        assert!(layers.contains(&wanted.as_str()), "{layers:?}");
    }

    let start = Instant::now();
    assert_eq!(Image::debian().unwrap().manifest, image.manifest);
    assert!(start.elapsed() < Duration::from_secs(1), "not from the cache");

    let network = Network::new().unwrap();
    let origin = network.host("origin", 1).unwrap();
    let registry = Registry::start(&origin, &network.directory().join("registry")).unwrap();
    let reference = registry.push(&image, "test/image:v1").unwrap();
    let copy = network.directory().join("copy");
    pull(&origin, &reference, &format!("oci:{}:v1", copy.display()));
    let copy = Image::open(&copy).unwrap();
    assert_eq!((&copy.manifest, &copy.blobs), (&image.manifest, &image.blobs));
    for blob in &copy.blobs {
        assert_eq!(digest_of(&copy.blob_path(&blob.digest)).unwrap(), blob.digest);
    }
}

fn pull(host: &Host, reference: &str, destination: &str) {
    let source = format!("docker://{reference}");
    let options = ["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--src-tls-verify=false"];
    run(host.command("skopeo").args(options).args([&source, destination])).unwrap();
}
