//! The contestants: how each brings an image to all hosts.

use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::ground::{Course, Finish, Ground, Wanted, file_name, race, verify};
use super::relay;
use crate::lab::image::digest_of;
use crate::lab::netns::{Host, Link, at};
use crate::lab::nginx::Nginx;
use crate::lab::runner::Runner;
use crate::lab::stage::Site;

/// Requests at once per host: what container runtimes do.
const PARALLEL: &str = "3";

/// Where swarms, relays and the proxy listen.
const PORT: u16 = 6881;

/// Debian's Python, which Debian's libtorrent is made for.
const PYTHON: &str = "/usr/bin/python3";
const SWARM: &str = include_str!("swarm.py");

/// A way to bring an image to many hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// This project's nodes.
    Faasnet,
    /// Every host asks the registry.
    Direct,
    /// Every host asks nginx, which asks the registry and keeps what it has read.
    Nginx,
    /// libtorrent with the settings that it comes with; the registry's host is the only seed.
    Torrent,
    /// The same with the best settings that were found.
    TorrentBest,
    /// A chain of plain TCP relays, without any checks: what the network allows.
    Chain,
}

impl Contestant {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Faasnet, Self::Direct, Self::Nginx, Self::Torrent, Self::TorrentBest, Self::Chain];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Faasnet => "faasnet",
            Self::Direct => "direct pulls",
            Self::Nginx => "nginx cache",
            Self::Torrent => "libtorrent",
            Self::TorrentBest => "libtorrent, best",
            Self::Chain => "ideal TCP chain",
        }
    }

    /// Runs it once, on a network of its own. Gives how it did, and what left the registry's host, in bytes on the wire.
    pub(super) fn run(self, course: Course<'_>) -> Result<(Finish, u64)> {
        let hosts = if self == Self::Faasnet { 0 } else { course.nodes };
        let mut ground = Ground::new(self.name(), course, hosts)?;
        let origin = ground.stage.registry.host().clone();
        let before = ground.sent_by(&origin)?;
        let finish = match self {
            Self::Faasnet => faasnet(&mut ground),
            Self::Direct => download(&ground, ground.stage.registry.server()),
            Self::Nginx => nginx(&ground),
            Self::Torrent => swarm(&ground, "default"),
            Self::TorrentBest => swarm(&ground, "best"),
            Self::Chain => chain(&ground),
        }?;
        Ok((finish, ground.sent_by(&origin)? - before))
    }
}

fn faasnet(ground: &mut Ground<'_>) -> Result<Finish> {
    let Course { nodes, rate, limit, image } = ground.course;
    for _ in 0..nodes {
        ground.stage.start_node_at(&Site { link: Link::at(rate), ..Site::default() })?;
    }
    ground.stage.wait_acquainted()?;
    let finish = race(nodes, limit, |node, done| {
        let (client, reference) = (ground.stage.nodes[node].ask().clone(), ground.reference.clone());
        thread::spawn(move || {
            if client.provision(&reference, limit).is_ok_and(|pulled| pulled.state == "ready") {
                let _ = done.send(node);
            }
        });
        Ok(())
    })?;
    ground.stage.nodes.iter().try_for_each(|node| node.verify_store(image))?;
    Ok(finish)
}

/// Every host downloads all blobs from a server.
fn download(ground: &Ground<'_>, server: SocketAddr) -> Result<Finish> {
    let mut wanted: Vec<Vec<Wanted>> = Vec::new();
    for host in &ground.hosts {
        wanted.push(ground.blobs_in(&ground.directory(host.name())?));
    }
    let finish = race(ground.hosts.len(), ground.course.limit, |index, done| {
        let mut curl = ground.hosts[index].command("curl");
        curl.args(["--no-progress-meter", "--fail", "--parallel", "--parallel-max", PARALLEL]);
        for (path, digest) in &wanted[index] {
            curl.arg("--output").arg(path).arg(ground.blob_url(&server.to_string(), digest));
        }
        let mut curl =
            curl.stdout(Stdio::null()).spawn().context("cannot start curl; install Debian's `curl`")?;
        thread::spawn(move || {
            if curl.wait().is_ok_and(|status| status.success()) {
                let _ = done.send(index);
            }
        });
        Ok(())
    })?;
    wanted.iter().try_for_each(|files| verify(files))?;
    Ok(finish)
}

/// A cache on a host of its own, whose link is as fast as the registry's.
fn nginx(ground: &Ground<'_>) -> Result<Finish> {
    let directory = ground.directory("nginx")?;
    let cache = format!("proxy_cache_path {}/cache keys_zone=blobs:10m max_size=10g;", directory.display());
    // One request for each blob goes to the registry, and who asks meanwhile waits for it.
    let server = format!(
        "location / {{
            proxy_pass http://{}; proxy_http_version 1.1; proxy_cache blobs; proxy_cache_valid 200 1h;
            proxy_cache_lock on; proxy_cache_lock_timeout 1h; proxy_cache_lock_age 1h;
            proxy_ignore_headers Cache-Control Expires;
         }}",
        ground.stage.registry.server()
    );
    let nginx = Nginx::start(&ground.proxy_host()?, PORT, &directory, &cache, &server)?;
    download(ground, nginx.server())
}

fn swarm(ground: &Ground<'_>, settings: &str) -> Result<Finish> {
    let directory = ground.directory("swarm")?;
    let (script, torrent) = (directory.join("swarm.py"), directory.join("image.torrent"));
    fs::write(&script, SWARM)?;
    let content = ground.directory("swarm/seed/image")?;
    for blob in &ground.course.image.blobs {
        fs::hard_link(ground.course.image.blob_path(&blob.digest), content.join(file_name(&blob.digest)))
            .or_else(|_| {
                fs::copy(ground.course.image.blob_path(&blob.digest), content.join(file_name(&blob.digest)))
                    .map(drop)
            })?;
    }
    let mut make = Command::new(PYTHON);
    let made =
        make.arg(&script).arg("make").arg(&content).arg(&torrent).output().context("cannot start python3")?;
    let complaint = String::from_utf8_lossy(&made.stderr);
    ensure!(
        made.status.success(),
        "cannot make a torrent; install Debian's `python3-libtorrent`: {complaint}"
    );

    let seed = ground.stage.registry.host();
    let everybody: Vec<&Host> = ground.hosts.iter().chain([seed]).collect();
    let start = |host: &Host, role: &str, content: &Path| {
        let mut peer = host.command(PYTHON);
        peer.arg(&script).args([role, settings]).arg(content).arg(&torrent).arg(PORT.to_string());
        peer.args(
            everybody
                .iter()
                .filter(|other| other.name() != host.name())
                .map(|other| other.address().to_string()),
        );
        Runner::start(peer, &directory.join(format!("{}.log", host.name())))
    };
    let mut seeding = start(seed, "seed", &content)?;
    let mut peers = Vec::new();
    let mut wanted = Vec::new();
    for host in &ground.hosts {
        let content = ground.directory(&format!("swarm/{}", host.name()))?.join("image");
        peers.push(start(host, "peer", &content)?);
        wanted.push(ground.blobs_in(&content));
    }
    seeding.wait_ready(&directory.join(format!("{}.log", seed.name())))?;
    for (peer, host) in peers.iter().zip(&ground.hosts) {
        peer.wait_ready(&directory.join(format!("{}.log", host.name())))?;
    }
    seeding.go()?;
    let finish = race(peers.len(), ground.course.limit, |index, done| {
        peers[index].go()?;
        peers[index].tell_when_done(index, done);
        Ok(())
    })?;
    drop(peers);
    wanted.iter().try_for_each(|files| verify(files))?;
    Ok(finish)
}

/// The registry's host sends the image, as one stream of bytes, to the first host, each host to the next.
fn chain(ground: &Ground<'_>) -> Result<Finish> {
    let directory = ground.directory("chain")?;
    let whole = directory.join("image");
    let mut joined = File::create(&whole)?;
    for blob in &ground.course.image.blobs {
        std::io::copy(&mut File::open(ground.course.image.blob_path(&blob.digest))?, &mut joined)?;
    }
    joined.flush()?;
    let digest = digest_of(&whole)?;
    let mut relays = Vec::new();
    for (index, host) in ground.hosts.iter().enumerate() {
        let next = ground.hosts.get(index + 1).map(|next| at(next, PORT));
        let relay = relay::command(host, at(host, PORT), next, &directory.join(host.name()))?;
        relays.push(Runner::start(relay, &directory.join(format!("{}.log", host.name())))?);
    }
    for (relay, host) in relays.iter().zip(&ground.hosts) {
        relay.wait_ready(&directory.join(format!("{}.log", host.name())))?;
    }
    let first = at(&ground.hosts[0], PORT);
    let finish = race(relays.len(), ground.course.limit, |index, done| {
        relays[index].tell_when_done(index, done);
        if index + 1 == relays.len() {
            let (source, whole) = (ground.stage.registry.host().clone(), whole.clone());
            thread::spawn(move || source.inside(|| relay::send(&whole, first)));
        }
        Ok(())
    })?;
    for host in &ground.hosts {
        verify(&[(directory.join(host.name()), digest.clone())])?;
    }
    Ok(finish)
}
