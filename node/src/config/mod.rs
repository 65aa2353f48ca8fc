//! How a node runs, and how it is told so: by flags, the environment and a file, under one schema.
//!
//! [`Config`] is what the rest of the node sees: plain data. How it comes about is read from top to bottom: `settings` and
//! `origin_settings` define what can be set; `schema` makes keys of the file of them; `file` reads one; [`Given`] lays
//! the file below flags and environment; `assemble` makes a [`Config`] of what came out, or tells what is wrong.
//! `show` and [`example`] write down what is set and what could be; `reload` says what a running node can take over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::ensure;
use membership::{NodeId, Zone};
use transfer::manifest::Platform;
use transfer::reference::DEFAULT_REGISTRY;

mod assemble;
mod example;
mod file;
mod files;
mod given;
mod log;
mod origin;
mod origin_settings;
mod problem;
mod reload;
mod schema;
mod secrets;
mod settings;
mod show;
mod surroundings;

pub use crate::trust::Secret;
pub use example::example;
pub use given::{Given, Resolved};
pub use log::{LogFilter, LogFormat, LogSettings};
pub use origin::{ClientCertificate, CredentialsConfig, OriginConfig, PUBLIC_REGISTRIES};
pub use problem::{Problem, Problems, Source};
pub use reload::Change;
pub use settings::Settings;
pub use show::{Shown, Value};
pub use surroundings::Surroundings;

/// The UDP port that nodes listen on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7400;

/// The address of mirror and API unless told otherwise.
pub const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7401);

/// An address that stands for every other machine (RFC 5737), for when no seed's name resolves yet.
const ELSEWHERE: &str = "192.0.2.1:9";

/// How one node runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name; one is made and kept in the data directory if none is given.
    pub id: Option<NodeId>,
    /// The UDP address that peers reach it on. Default: [`DEFAULT_PORT`] on all addresses with a secret, on loopback
    /// without.
    pub listen: Option<SocketAddr>,
    /// The address told to peers. Default: where it listens; if that is all addresses, the one that leads to the
    /// first seed.
    pub advertise: Option<SocketAddr>,
    /// The address of mirror and API.
    pub http: SocketAddr,
    /// Where blobs and records are kept.
    pub data: PathBuf,
    /// Members to find the cluster by, each `HOST:PORT`.
    pub seeds: Vec<String>,
    /// Where it stands.
    pub zone: Zone,
    /// The cluster's name.
    pub cluster: String,
    /// What makes it a member.
    pub secret: Option<Secret>,
    /// Listen beyond loopback although there is no secret.
    pub insecure_no_secret: bool,
    /// The origins that it may read from.
    pub origins: Vec<OriginConfig>,
    /// The registry that mirror requests mean when they name none.
    pub default_origin: Option<String>,
    /// The platform whose image is taken from an index unless a request names one.
    pub platform: Platform,
    /// A Unix socket for mirror and API, besides [`Config::http`].
    pub socket: Option<PathBuf>,
    /// What those must show who change this node's state through the API, other than over the Unix socket. Without one
    /// they may do so only if the API is bound to loopback.
    pub api_token: Option<Secret>,
}

impl Config {
    /// A node on its own that keeps its data there, with defaults throughout.
    pub fn new(data: PathBuf) -> Self {
        Self {
            id: None,
            listen: None,
            advertise: None,
            http: DEFAULT_HTTP,
            data,
            seeds: Vec::new(),
            zone: Zone::default(),
            cluster: "faasnet".to_owned(),
            secret: None,
            insecure_no_secret: false,
            origins: PUBLIC_REGISTRIES.map(OriginConfig::named).to_vec(),
            default_origin: None,
            platform: Platform::host(),
            socket: None,
            api_token: None,
        }
    }

    /// Refuses what cannot work, whatever the network is like.
    pub fn check(&self) -> anyhow::Result<()> {
        let faults: Vec<String> = self.faults().into_iter().map(|(_, fault)| fault).collect();
        ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(())
    }

    /// What cannot work, whatever the network is like: each setting that is at fault, and why.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        // What a function's bytes came from is told by node id, or as this.
        if self.id.as_ref().is_some_and(|id| id.as_str() == "origin") {
            faults.push((
                "id",
                "a node cannot be called `origin`, which stands for the registry; choose another --id"
                    .to_owned(),
            ));
        }
        if self.data.as_os_str().is_empty() {
            faults.push(("data", "a node needs a data directory: use --data DIR".to_owned()));
        }
        if self.secret.is_some() && self.insecure_no_secret {
            faults.push((
                "insecure-no-secret",
                "--insecure-no-secret and a secret contradict each other; give one of them".to_owned(),
            ));
        }
        if let Some(name) = &self.default_origin
            && !self.origins.iter().any(|origin| origin.name == *name)
        {
            let names: Vec<&str> = self.origins.iter().map(|origin| &*origin.name).collect();
            let message =
                format!("{name} is none of the origins that this node may read: {}", names.join(", "));
            faults.push(("default-origin", message));
        }
        self.check_trust(&mut faults);
        faults
    }

    /// Without a secret a node stays on loopback.
    fn check_trust(&self, faults: &mut Vec<(&'static str, String)>) {
        let trusted = self.secret.is_some() || self.insecure_no_secret;
        let listen = self.listen();
        if !trusted && !listen.ip().is_loopback() {
            faults.push((
                "listen",
                format!(
                    "refusing to listen on {listen} without a cluster secret, since anybody could join. Make one with \
                     `faasnet secret`, give it to every node as FAASNET_CLUSTER_SECRET or with --secret-file; or, on a \
                     network that you trust, use --insecure-no-secret"
                ),
            ));
        }
        for seed in &self.seeds {
            let elsewhere = seed.parse::<SocketAddr>().is_ok_and(|seed| !seed.ip().is_loopback());
            if !trusted && elsewhere {
                faults.push((
                    "seed",
                    format!(
                        "the seed {seed} cannot be reached from loopback, where a node without a cluster secret stays. \
                         Set FAASNET_CLUSTER_SECRET to the secret of that cluster, or use --insecure-no-secret"
                    ),
                ));
            }
            let port = seed.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            if port.is_none() {
                let message =
                    format!("the seed {seed:?} has no port: write HOST:PORT, such as {seed}:{DEFAULT_PORT}");
                faults.push(("seed", message));
            }
        }
    }

    /// Where to listen.
    pub fn listen(&self) -> SocketAddr {
        let trusted = self.secret.is_some() || self.insecure_no_secret;
        let ip = if trusted { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        self.listen.unwrap_or(SocketAddr::new(IpAddr::V4(ip), DEFAULT_PORT))
    }

    /// The registry that is meant where none is named.
    pub(crate) fn default_registry(&self) -> &str {
        match (&self.default_origin, self.origins.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => &only.name,
            _ => DEFAULT_REGISTRY,
        }
    }

    /// The address to tell peers, for an endpoint bound to `bound`.
    pub fn advertise(&self, bound: SocketAddr) -> SocketAddr {
        let mut addr = self.advertise.unwrap_or(bound);
        if addr.port() == 0 {
            addr.set_port(bound.port());
        }
        if addr.ip().is_unspecified() {
            let seeds = self.seeds.iter().map(String::as_str);
            let toward = seeds.chain([ELSEWHERE]).find_map(local_ip_toward);
            addr.set_ip(toward.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        addr
    }
}

/// The local address from which packets to `seed` leave. Sends nothing.
fn local_ip_toward(seed: &str) -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(seed).ok()?;
    socket.local_addr().ok().map(|addr| addr.ip()).filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(listen: Option<&str>, secret: bool, insecure: bool, seeds: &[&str]) -> Config {
        Config {
            listen: listen.map(|listen| listen.parse().unwrap()),
            seeds: seeds.iter().map(|seed| (*seed).to_owned()).collect(),
            secret: secret.then(Secret::generate),
            insecure_no_secret: insecure,
            ..Config::new(PathBuf::from("data"))
        }
    }

    #[test]
    fn without_a_secret_a_node_stays_on_loopback() {
        let listen = |listen, secret, insecure, seeds: &[&str]| {
            let config = config(listen, secret, insecure, seeds);
            config.check().is_ok().then(|| config.listen().to_string())
        };
        assert_eq!(listen(None, false, false, &[]).as_deref(), Some("127.0.0.1:7400"));
        assert_eq!(listen(None, true, false, &[]).as_deref(), Some("0.0.0.0:7400"));
        assert_eq!(listen(None, false, true, &[]).as_deref(), Some("0.0.0.0:7400"));
        assert_eq!(listen(Some("0.0.0.0:1"), false, false, &[]), None);
        assert_eq!(listen(Some("10.0.0.1:1"), false, false, &[]), None);
        assert_eq!(listen(Some("10.0.0.1:1"), true, false, &[]).as_deref(), Some("10.0.0.1:1"));
        assert_eq!(listen(None, false, false, &["10.0.0.1:7400"]), None);
        assert_eq!(listen(None, true, false, &["10.0.0.1"]), None);
    }

    #[test]
    fn no_node_is_called_like_the_registry() {
        let named = |name: &str| Config { id: Some(name.parse().unwrap()), ..config(None, true, false, &[]) };
        assert!(named("origin").check().is_err());
        assert!(named("n1").check().is_ok());
    }

    #[test]
    fn the_default_origin_is_one_that_may_be_read() {
        let default = |name: Option<&str>, origins: &[&str]| Config {
            default_origin: name.map(str::to_owned),
            origins: origins.iter().map(|name| OriginConfig::named(*name)).collect(),
            ..config(None, true, false, &[])
        };
        assert!(default(Some("quay.io"), &["docker.io", "quay.io"]).check().is_ok());
        assert!(default(Some("quay.io"), &["docker.io"]).check().is_err());
        for (name, origins, expected) in [
            (Some("quay.io"), &["docker.io", "quay.io"][..], "quay.io"),
            (None, &["quay.io"], "quay.io"),
            (None, &["quay.io", "ghcr.io"], "docker.io"),
        ] {
            assert_eq!(default(name, origins).default_registry(), expected);
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let config = Config {
            default_origin: Some("x".to_owned()),
            ..config(Some("0.0.0.0:1"), false, false, &["a"])
        };
        let keys: Vec<_> = config.faults().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["default-origin", "listen", "seed"]);
    }

    #[test]
    fn what_is_told_to_peers_can_be_reached() {
        let bound: SocketAddr = "0.0.0.0:7400".parse().unwrap();
        let seeded = config(None, true, false, &["127.0.0.1:9"]);
        assert_eq!(seeded.advertise(bound).to_string(), "127.0.0.1:7400");
        let told = Config { advertise: Some("192.0.2.1:0".parse().unwrap()), ..seeded };
        assert_eq!(told.advertise(bound).to_string(), "192.0.2.1:7400");
    }
}
