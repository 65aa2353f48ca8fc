//! `faasnet node`: from flags and the environment to a running node, and from a signal to its graceful end.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use faasnet::config::{Config, OriginConfig, Secret};
use faasnet::node::Node;
use membership::{NodeId, Zone};
use tokio::signal::unix::{Signal, SignalKind, signal};
use transfer::manifest::Platform;

use super::{Failure, terminal};

/// The environment's name for the secret itself, which is no flag: a process's arguments can be read by everybody.
const SECRET_VARIABLE: &str = "FAASNET_CLUSTER_SECRET";

/// Run a node on this machine
///
/// It finds the other members through its seeds, and serves container runtimes as a registry mirror, and everybody else
/// as an API, on one HTTP port. SIGTERM and SIGINT make it leave the cluster and end with exit code 0; a second one
/// ends it at once, which other members then have to notice.
///
/// Every flag has an environment variable; a flag wins.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// This node's name, unique in its cluster: a DNS label [default: made at the first start and kept with the data]
    #[arg(long, env = "FAASNET_ID", value_name = "NAME")]
    id: Option<NodeId>,

    /// Where blobs and their records are kept. What is here survives restarts, so give it a disk with room for the
    /// images [default: /var/lib/faasnet for root; otherwise faasnet below $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, env = "FAASNET_DATA", value_name = "DIR")]
    data: Option<PathBuf>,

    /// Where the mirror and the API listen. They ask for no password: beyond loopback, whoever reaches the port can
    /// pull through this node
    #[arg(
        long,
        env = "FAASNET_HTTP",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:7401",
        help_heading = "Network"
    )]
    http: SocketAddr,

    /// Where other members reach this node: one UDP port for everything. Without a secret, only loopback is allowed
    /// [default: port 7400 on all addresses; on loopback without a secret]
    #[arg(long, env = "FAASNET_LISTEN", value_name = "ADDR:PORT", help_heading = "Network")]
    listen: Option<SocketAddr>,

    /// The address to give to other members, where it is not the one that this machine sees, as behind NAT [default:
    /// the address that leads to the seeds]
    #[arg(long, env = "FAASNET_ADVERTISE", value_name = "ADDR:PORT", help_heading = "Network")]
    advertise: Option<SocketAddr>,

    /// A member to begin with, by its --listen address; a name may stand for many. Repeat it, or separate them by
    /// commas. Two or three that seldom go away do for any cluster; without any, this node is the first
    #[arg(
        long = "seed",
        env = "FAASNET_SEED",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = parse_seed,
        help_heading = "Network"
    )]
    seeds: Vec<String>,

    /// Where this node stands, by a name of yours: a DNS label. Each image crosses into a zone once
    #[arg(long, env = "FAASNET_ZONE", value_name = "NAME", default_value_t, help_heading = "Network")]
    zone: Zone,

    /// The cluster's name. Nodes of other clusters are not spoken to
    #[arg(
        long,
        env = "FAASNET_CLUSTER",
        value_name = "NAME",
        default_value = "faasnet",
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Trust"
    )]
    cluster: String,

    /// A file with the cluster's secret, as `faasnet secret` prints it. The secret itself may stand in
    /// FAASNET_CLUSTER_SECRET instead; the file wins
    #[arg(long, env = "FAASNET_SECRET_FILE", value_name = "PATH", help_heading = "Trust")]
    secret_file: Option<PathBuf>,

    /// Do without a secret beyond loopback: whoever reaches the port is a full member. For networks that nobody else
    /// can reach
    #[arg(
        long,
        env = "FAASNET_INSECURE_NO_SECRET",
        value_parser = BoolishValueParser::new(),
        help_heading = "Trust"
    )]
    insecure_no_secret: bool,

    /// A registry that this node may read from, and what stands behind its name: itself, another registry, or an OCI
    /// layout or archive on disk. A URL alone goes by its host and port. Repeat it, or separate them by commas. Once there
    /// is one, only those that are listed are read [default: Docker Hub and the other large public registries]
    #[arg(
        long = "origin",
        env = "FAASNET_ORIGIN",
        value_name = "NAME[=URL|PATH]",
        value_delimiter = ',',
        help_heading = "Images"
    )]
    origins: Vec<OriginConfig>,

    /// The registry that is meant when a client of the mirror names none
    #[arg(
        long,
        env = "FAASNET_DEFAULT_ORIGIN",
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Images"
    )]
    default_origin: Option<String>,

    /// Which image of a multi-platform index to provision when nobody says
    #[arg(
        long,
        env = "FAASNET_PLATFORM",
        value_name = "OS/ARCH",
        default_value_t = Platform::host(),
        help_heading = "Images"
    )]
    platform: Platform,
}

/// Runs a node until a signal or the cluster ends it.
pub(super) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let config = args.into_config(&Surroundings::look())?;
    let mut signals = Signals::listen()?;
    let node = tokio::select! {
        node = Box::pin(Node::start(config)) => node.context("the node cannot start")?,
        () = signals.next() => return Ok(()),
    };
    terminal::print(&format!("node {}: mirror and API at http://{}\n", node.id(), node.http_addr()))?;
    tokio::select! {
        () = signals.next() => tracing::info!("leaving; another signal ends the node at once"),
        reason = node.stopped() => return Err(anyhow!("the node {} had to stop: {reason}", node.id()).into()),
    }
    tokio::select! {
        _ = node.shutdown() => Ok(()),
        () = signals.next() => {
            Err(anyhow!("a second signal ended the node {} before it had left its cluster", node.id()).into())
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("the process cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What the defaults of a node depend on, besides its flags.
#[derive(Debug, Default)]
struct Surroundings {
    secret: Option<String>,
    is_root: bool,
    data_home: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl Surroundings {
    fn look() -> Self {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Self {
            secret: std::env::var(SECRET_VARIABLE).ok(),
            // A process's own files belong to the user that it acts as.
            is_root: std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0),
            data_home: path("XDG_DATA_HOME"),
            home: path("HOME"),
        }
    }

    /// As the XDG base directory specification has it, which ignores relative paths.
    fn data(&self) -> Option<PathBuf> {
        if self.is_root {
            return Some("/var/lib/faasnet".into());
        }
        let is_usable = |path: &&PathBuf| path.is_absolute();
        let below_home = || self.home.as_ref().filter(is_usable).map(|home| home.join(".local/share"));
        let base = self.data_home.as_ref().filter(is_usable).cloned().or_else(below_home)?;
        Some(base.join("faasnet"))
    }
}

impl NodeArgs {
    fn into_config(self, surroundings: &Surroundings) -> anyhow::Result<Config> {
        let secret = read_secret(self.secret_file.as_deref(), surroundings.secret.as_deref())?;
        if secret.is_some() && self.insecure_no_secret {
            bail!("--insecure-no-secret and a secret contradict each other; give one of them");
        }
        let data = self.data.or_else(|| surroundings.data());
        let data = data.context("there is no home directory to keep data in; give a directory by --data")?;
        Ok(Config {
            id: self.id,
            listen: self.listen,
            advertise: self.advertise,
            http: self.http,
            seeds: self.seeds,
            zone: self.zone,
            cluster: self.cluster,
            secret,
            insecure_no_secret: self.insecure_no_secret,
            origins: self.origins,
            default_origin: self.default_origin,
            platform: self.platform,
            ..Config::new(data)
        })
    }
}

/// The secret in the file, or else the one in the environment, where an empty one counts as none.
fn read_secret(file: Option<&Path>, variable: Option<&str>) -> anyhow::Result<Option<Secret>> {
    let (text, place) = match (file, variable.map(str::trim)) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the secret in {} cannot be read", file.display()))?;
            (text, file.display().to_string())
        }
        (None, None | Some("")) => return Ok(None),
        (None, Some(text)) => (text.to_owned(), SECRET_VARIABLE.to_owned()),
    };
    let secret: Secret =
        text.trim().parse().map_err(|error| anyhow!("the secret in {place} is refused: {error}"))?;
    Ok(Some(secret))
}

fn parse_seed(text: &str) -> Result<String, String> {
    let is_seed = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        let is_host = !host.is_empty() && !bare_ipv6 && !host.contains(['/', ' ']);
        is_host && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if is_seed { Ok(text.to_owned()) } else { Err("a seed must read HOST:PORT, like 10.0.0.1:7400".into()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        node: NodeArgs,
    }

    fn config(flags: &[&str], surroundings: &Surroundings) -> anyhow::Result<Config> {
        Only::try_parse_from([&["node"], flags].concat())?.node.into_config(surroundings)
    }

    fn at_home() -> Surroundings {
        Surroundings { home: Some("/home/ada".into()), ..Surroundings::default() }
    }

    #[test]
    fn a_node_without_flags_has_defaults() {
        let config = config(&[], &at_home()).unwrap();
        assert_eq!(config.http.to_string(), "127.0.0.1:7401");
        assert_eq!(config.cluster, "faasnet");
        assert_eq!(config.zone, Zone::default());
        assert_eq!(config.platform, Platform::host());
        assert_eq!(config.data, Path::new("/home/ada/.local/share/faasnet"));
        assert!(config.id.is_none() && config.listen.is_none() && config.advertise.is_none());
        assert!(config.secret.is_none() && !config.insecure_no_secret);
        assert!(config.seeds.is_empty() && config.origins.is_empty() && config.default_origin.is_none());
    }

    #[test]
    fn each_flag_reaches_the_configuration() {
        let flags = "--id vm-1 --listen 0.0.0.0:7 --advertise 10.0.0.1:7 --http 0.0.0.0:8 --data /d --seed a:1,b:2 \
                     --seed c:3 --zone z --cluster blue --insecure-no-secret --origin docker.io=/images \
                     --origin quay.io=https://mirror.example --default-origin quay.io --platform linux/arm64";
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let config = config(&flags, &at_home()).unwrap();
        assert_eq!(config.id.unwrap().as_str(), "vm-1");
        assert_eq!(config.listen.unwrap().to_string(), "0.0.0.0:7");
        assert_eq!(config.advertise.unwrap().to_string(), "10.0.0.1:7");
        assert_eq!(config.http.to_string(), "0.0.0.0:8");
        assert_eq!(config.data, Path::new("/d"));
        assert_eq!(config.seeds, ["a:1", "b:2", "c:3"]);
        assert_eq!((config.zone.as_str(), config.cluster.as_str()), ("z", "blue"));
        assert!(config.insecure_no_secret);
        let docker = OriginConfig::at("docker.io", "/images");
        assert_eq!(config.origins, [docker, OriginConfig::at("quay.io", "https://mirror.example")]);
        assert_eq!(config.default_origin.as_deref(), Some("quay.io"));
        assert_eq!(config.platform.to_string(), "linux/arm64");
    }

    #[test]
    fn data_has_a_place_by_default() {
        let check = |is_root, data_home: &str, home: &str, expected: Option<&str>| {
            let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
            let surroundings =
                Surroundings { secret: None, is_root, data_home: path(data_home), home: path(home) };
            assert_eq!(surroundings.data(), expected.map(PathBuf::from));
        };
        check(true, "/x", "/root", Some("/var/lib/faasnet"));
        check(false, "/x", "/home/ada", Some("/x/faasnet"));
        check(false, "x", "/home/ada", Some("/home/ada/.local/share/faasnet"));
        check(false, "", "/home/ada", Some("/home/ada/.local/share/faasnet"));
        check(false, "", "", None);
        let error = config(&[], &Surroundings::default()).err().unwrap().to_string();
        assert!(error.contains("--data"), "{error}");
    }

    #[test]
    fn a_secret_comes_from_a_file_or_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (one, other) = (Secret::generate(), Secret::generate());
        std::fs::write(path("good"), format!("{}\n", one.expose())).unwrap();
        std::fs::write(path("weak"), "1234\n").unwrap();
        std::fs::write(path("empty"), "\n").unwrap();
        let found = |file: Option<&str>, variable: Option<&str>| {
            read_secret(file.map(path).as_deref(), variable)
                .map(|secret| secret.map(|secret| secret.expose().to_owned()))
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(found(None, None), Ok(None));
        assert_eq!(found(None, Some(" ")), Ok(None));
        assert_eq!(found(None, Some(other.expose())), Ok(Some(other.expose().to_owned())));
        assert_eq!(found(Some("good"), Some(other.expose())), Ok(Some(one.expose().to_owned())));
        for (file, variable, place) in [
            (None, Some("1234"), SECRET_VARIABLE),
            (Some("weak"), None, "/weak is refused"),
            (Some("empty"), None, "/empty is refused"),
            (Some("absent"), None, "/absent cannot be read"),
        ] {
            let error = found(file, variable).unwrap_err();
            assert!(error.contains(place), "{error}");
            assert!(!error.contains("1234"), "a log must not repeat a secret: {error}");
        }
    }

    #[test]
    fn a_secret_and_doing_without_contradict_each_other() {
        let secret = Some(Secret::generate().expose().to_owned());
        let error = config(&["--insecure-no-secret"], &Surroundings { secret, ..at_home() }).err().unwrap();
        assert!(error.to_string().contains("contradict"), "{error}");
    }

    #[test]
    fn seeds_are_addresses_with_ports() {
        for seed in ["vm-1:7400", "10.0.0.1:7400", "[::1]:7400", "seeds.example.org:1"] {
            assert_eq!(parse_seed(seed).as_deref(), Ok(seed));
        }
        for text in
            ["", "vm-1", ":7400", "vm-1:", "vm-1:0", "vm-1:99999", "::1:7400", "http://vm-1:7400", "a b:1"]
        {
            assert!(parse_seed(text).is_err(), "{text}");
        }
    }
}
