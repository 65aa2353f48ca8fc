//! The settings of a node: one list, from which flags, environment variables, keys of the configuration file, help and
//! defaults all come.
//!
//! It says what may be set and how each value reads. Where a value was set is known to `given` and `file`; what all of
//! them amount to, to `assemble`. The doc comments are what `--help` and `faasnet config example` say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args};
use membership::{NodeId, Zone};
use transfer::manifest::Platform;

use super::{DEFAULT_HTTP, OriginConfig};
use crate::units::parse_duration;

/// What can be set for a node as a whole.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// This node's name, unique in its cluster: a DNS label [default: made at the first start and kept with the data]
    #[arg(long, env = "FAASNET_ID", value_name = "NAME")]
    pub id: Option<NodeId>,

    /// Where blobs and their records are kept. What is here survives restarts, so give it a disk with room for the
    /// images [default: /var/lib/faasnet for root; otherwise faasnet below $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, env = "FAASNET_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,

    /// Where the mirror and the API listen. The mirror asks for no password: beyond loopback, whoever reaches the port
    /// can pull through this node
    #[arg(
        long,
        env = "FAASNET_HTTP",
        value_name = "ADDR:PORT",
        default_value_t = DEFAULT_HTTP,
        help_heading = "Network"
    )]
    pub http: SocketAddr,

    /// A Unix socket for mirror and API, besides the port. Whoever may open it needs no token
    #[arg(
        long,
        env = "FAASNET_SOCKET",
        value_name = "PATH",
        value_parser = parse_socket,
        help_heading = "Network"
    )]
    pub socket: Option<PathBuf>,

    /// Where other members reach this node: one UDP port for everything. Without a secret, only loopback is allowed
    /// [default: port 7400 on all addresses; on loopback without a secret]
    #[arg(long, env = "FAASNET_LISTEN", value_name = "ADDR:PORT", help_heading = "Network")]
    pub listen: Option<SocketAddr>,

    /// The address to give to other members, where it is not the one that this machine sees, as behind NAT [default:
    /// the address that leads to the seeds]
    #[arg(long, env = "FAASNET_ADVERTISE", value_name = "ADDR:PORT", help_heading = "Network")]
    pub advertise: Option<SocketAddr>,

    /// A member to begin with, by its --listen address; a name may stand for many. As a flag, repeat it, or separate
    /// them by commas. Two or three that seldom go away do for any cluster; without any, this node is the first
    #[arg(
        long = "seed",
        env = "FAASNET_SEED",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = parse_seed,
        help_heading = "Network"
    )]
    pub seeds: Vec<String>,

    /// Where this node stands, by a name of yours: a DNS label. Each image crosses into a zone once
    #[arg(long, env = "FAASNET_ZONE", value_name = "NAME", default_value_t, help_heading = "Network")]
    pub zone: Zone,

    /// The cluster's name. Nodes of other clusters are not spoken to
    #[arg(
        long,
        env = "FAASNET_CLUSTER",
        value_name = "NAME",
        default_value = "faasnet",
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Trust"
    )]
    pub cluster: String,

    /// A file with the cluster's secret, as `faasnet secret` prints it. The secret itself may stand in
    /// FAASNET_CLUSTER_SECRET instead
    #[arg(long, env = "FAASNET_SECRET_FILE", value_name = "PATH", help_heading = "Trust")]
    pub secret_file: Option<PathBuf>,

    /// Do without a secret beyond loopback: whoever reaches the port is a full member. For networks that nobody else
    /// can reach
    #[arg(
        long,
        env = "FAASNET_INSECURE_NO_SECRET",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Trust"
    )]
    pub insecure_no_secret: bool,

    /// A file with the token that those must show who change this node's state through the API, other than over the Unix
    /// socket; `faasnet secret` makes one. The token itself may stand in FAASNET_API_TOKEN instead [default: none is
    /// asked for on loopback, and nobody may change anything beyond]
    #[arg(long, env = "FAASNET_API_TOKEN_FILE", value_name = "PATH", help_heading = "Trust")]
    pub api_token_file: Option<PathBuf>,

    /// A registry that this node may read from, and what stands behind its name: itself, another registry, or an OCI
    /// layout or archive on disk. A URL alone goes by its host and port. Repeat it, or separate them by commas. Once there
    /// is one, only those that are listed are read. The configuration file can say more of each [default: Docker Hub
    /// and the other large public registries]
    #[arg(
        long = "origin",
        env = "FAASNET_ORIGIN",
        value_name = "NAME[=URL|PATH]",
        value_delimiter = ',',
        help_heading = "Images"
    )]
    pub origins: Vec<OriginConfig>,

    /// The registry that is meant when a client of the mirror names none [default: the only origin if there is one;
    /// otherwise docker.io]
    #[arg(
        long,
        env = "FAASNET_DEFAULT_ORIGIN",
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = "Images"
    )]
    pub default_origin: Option<String>,

    /// Docker's config.json, whose credentials this node shows to the registries that it names
    #[arg(long, env = "FAASNET_DOCKER_CONFIG", value_name = "PATH", help_heading = "Images")]
    pub docker_config: Option<PathBuf>,

    /// How long a tag stands for the same digest before the registry is asked again; 0 asks every time
    #[arg(
        long,
        env = "FAASNET_TAG_TTL",
        value_name = "DURATION",
        default_value = "10s",
        value_parser = parse_duration,
        help_heading = "Images"
    )]
    pub tag_ttl: Duration,

    /// Fetch only what clients read of an image, instead of provisioning it as a whole. For runtimes that load images
    /// lazily
    #[arg(
        long,
        env = "FAASNET_LAZY",
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "true",
        hide_default_value = true,
        hide_possible_values = true,
        help_heading = "Images"
    )]
    pub lazy: bool,

    /// Which image of a multi-platform index to provision when nobody says [default: this machine's]
    #[arg(
        long,
        env = "FAASNET_PLATFORM",
        value_name = "OS/ARCH",
        default_value_t = Platform::host(),
        hide_default_value = true,
        help_heading = "Images"
    )]
    pub platform: Platform,
}

/// The most bytes that the path of a Unix socket can have on Linux (unix(7), without the zero at its end).
const MAX_SOCKET_PATH_BYTES: usize = 107;

fn parse_socket(text: &str) -> Result<PathBuf, String> {
    match text.len() {
        0 => Err("it needs a path".to_owned()),
        1..=MAX_SOCKET_PATH_BYTES => Ok(text.into()),
        _ => Err(format!("the path of a socket has at most {MAX_SOCKET_PATH_BYTES} bytes")),
    }
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
    use super::*;

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

    #[test]
    fn sockets_have_paths_that_fit() {
        assert!(parse_socket("/run/faasnet.sock").is_ok());
        assert!(parse_socket("").is_err());
        assert!(parse_socket(&"x".repeat(MAX_SOCKET_PATH_BYTES + 1)).is_err());
    }
}
