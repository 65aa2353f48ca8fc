//! The command line: what can be said, and what the process answers with its exit code.
//!
//! Each command has a file of its own, [`ask`] has those that only show something. None decides anything: they fill in
//! a [`faasnet::config::Config`], or ask a node through [`faasnet::client`] and have [`faasnet::render`] write it down.

mod ask;
mod config;
mod demo;
mod log;
mod node;
mod pull;
mod refresh;
mod terminal;
mod token;

use std::process::ExitCode;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use faasnet::client::{self, Client, NodeUrl};
use faasnet::config::{LogSettings, Problems, Secret};

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line is wrong
  3  no node answers where one was asked
  4  the node refuses, and will again: no such image, no access, or of no use

Examples:
  faasnet demo                                       eight nodes on this machine share one image

  faasnet secret > cluster.secret                    a secret for a new cluster; copy it to each VM
  faasnet node --secret-file cluster.secret          the first node
  faasnet node --secret-file cluster.secret --seed 10.0.0.1:7400
  faasnet config example > faasnet.toml              the same and more in a file, for `faasnet node --config`

  faasnet pull registry.example/app:v1               provision an image on this node
  faasnet tree registry.example/app:v1               who fetches it from whom
  faasnet functions --node http://10.0.0.7:7401      what another node holds
  faasnet status --node unix:/run/faasnet/faasnet.sock";

/// Container images for bursts of small VMs, which serve each other.
///
/// Each VM runs `faasnet node`. Container runtimes use it as a registry mirror on localhost; the other commands ask it
/// over its HTTP API.
#[derive(Debug, Parser)]
#[command(name = "faasnet", version, after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    #[command(flatten)]
    log: LogSettings,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Node(node::NodeArgs),
    Pull(pull::PullArgs),
    Refresh(refresh::RefreshArgs),
    Status(ask::StatusArgs),
    Members(ask::MembersArgs),
    Functions(ask::FunctionsArgs),
    Tree(ask::TreeArgs),
    Config(config::ConfigArgs),
    /// Print a new cluster secret, alone on standard output
    ///
    /// Every node of a cluster needs the same one, through FAASNET_CLUSTER_SECRET or `faasnet node --secret-file`.
    /// Whoever has it is a full member of the cluster: keep it as you keep a private key.
    Secret,
    Demo(demo::DemoArgs),
}

/// Which node to ask.
#[derive(Debug, Args)]
struct AskArgs {
    /// The node to ask, by its HTTP address or its Unix socket (unix:/PATH)
    #[arg(long, env = "FAASNET_NODE", value_name = "URL", default_value = "http://127.0.0.1:7401")]
    node: NodeUrl,
}

impl AskArgs {
    fn client(self) -> Client {
        Client::new(self.node)
    }
}

/// Why a command came to nothing, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    exit: u8,
    error: anyhow::Error,
}

impl Failure {
    const FAILED: u8 = 1;
    const UNREACHABLE: u8 = 3;
    const REFUSED: u8 = 4;
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Self::FAILED, error }
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        anyhow::Error::new(problems).into()
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let exit = match error {
            client::Error::Unreachable { .. } => Self::UNREACHABLE,
            client::Error::Refused { status: 400..500, .. } => Self::REFUSED,
            _ => Self::FAILED,
        };
        Self { exit, error: error.into() }
    }
}

/// The whole process.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| name_variable(error).exit());
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, error }) => {
            eprintln!("faasnet: {error:#}");
            exit.into()
        }
    }
}

/// The error, with the environment variable where it is one that has the wrong value, and not the flag of that name.
fn name_variable(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let flag = shown.split([' ', '=', '[']).next().unwrap_or_default().to_owned();
    if std::env::args().any(|argument| argument.starts_with(&flag)) {
        return error;
    }
    let command = Cli::command();
    let mut args =
        command.get_subcommands().flat_map(clap::Command::get_arguments).chain(command.get_arguments());
    let arg = args.find(|arg| arg.get_long() == flag.strip_prefix("--"));
    if let Some(variable) = arg.and_then(|arg| arg.get_env()) {
        let variable = ContextValue::String(variable.to_string_lossy().into_owned());
        error.insert(ContextKind::InvalidArg, variable);
    }
    error
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        // A node's own configuration says what it logs.
        if !matches!(self.command, Command::Node(_)) {
            log::Log::start(&self.log);
        }
        // Those who only ask one node need no more than one thread.
        let mut runtime = match self.command {
            Command::Node(_) | Command::Demo(_) => tokio::runtime::Builder::new_multi_thread(),
            _ => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime = runtime.enable_all().build().context("the process cannot have its threads")?;
        let result = runtime.block_on(self.command.run());
        // Whoever must end at once does not wait for a disk; all others have finished what matters.
        runtime.shutdown_background();
        result
    }
}

impl Command {
    async fn run(self) -> Result<(), Failure> {
        match self {
            Self::Node(args) => node::run(args).await,
            Self::Pull(args) => pull::run(args).await,
            Self::Refresh(args) => refresh::run(args).await,
            Self::Status(args) => ask::status(args).await,
            Self::Members(args) => ask::members(args).await,
            Self::Functions(args) => ask::functions(args).await,
            Self::Tree(args) => ask::tree(args).await,
            Self::Config(args) => config::run(args),
            Self::Secret => Ok(terminal::print(&format!("{}\n", Secret::generate().expose()))?),
            Self::Demo(args) => demo::run(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_help_can_be_written() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        check_help(&mut command);
    }

    fn check_help(command: &mut clap::Command) {
        for command in command.get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            assert!(command.get_about().is_some(), "{}", command.get_name());
            let widest = help.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(110), "{help}");
            check_help(command);
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_a_reason() {
        let rows: [(&[&str], ErrorKind, &str); 27] = [
            (&[], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "Usage: faasnet"),
            (&["serve"], ErrorKind::InvalidSubcommand, "serve"),
            (&["pull"], ErrorKind::MissingRequiredArgument, "<REF>"),
            (&["pull", "Alpine"], ErrorKind::ValueValidation, "is no repository"),
            (&["pull", "alpine", "--platform", "amd64"], ErrorKind::ValueValidation, "is no platform"),
            (&["pull", "alpine", "busybox"], ErrorKind::UnknownArgument, "busybox"),
            (&["refresh"], ErrorKind::MissingRequiredArgument, "<REF>"),
            (&["tree", "sha256:12"], ErrorKind::ValueValidation, "is no sha256 digest"),
            (&["tree", "alpine", "--dot", "--json"], ErrorKind::ArgumentConflict, "--json"),
            (&["status", "--node", "https://vm-1:7401"], ErrorKind::ValueValidation, "http://HOST:PORT"),
            (&["status", "--node", "unix:faasnet.sock"], ErrorKind::ValueValidation, "unix:/PATH"),
            (&["status", "--token-file", "x"], ErrorKind::UnknownArgument, "--token-file"),
            (&["node", "--id", "VM 1"], ErrorKind::ValueValidation, "is no valid name"),
            (&["node", "--seed", "vm-1"], ErrorKind::ValueValidation, "HOST:PORT"),
            (&["node", "--http", "7401"], ErrorKind::ValueValidation, "invalid socket address"),
            (&["node", "--cluster", ""], ErrorKind::InvalidValue, "a value is required"),
            (&["node", "--tag-ttl", "10"], ErrorKind::ValueValidation, "is no duration"),
            (&["node", "--lazy=maybe"], ErrorKind::ValueValidation, "maybe"),
            (&["node", "--origin", "r=ftp://x"], ErrorKind::ValueValidation, "is no URL of a registry"),
            (&["node", "--secret", "x"], ErrorKind::UnknownArgument, "--secret-file"),
            (&["config"], ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, "faasnet config"),
            (&["config", "chekc"], ErrorKind::InvalidSubcommand, "check"),
            (&["config", "show", "--zone", "A B"], ErrorKind::ValueValidation, "is no valid name"),
            (&["config", "example", "--json"], ErrorKind::UnknownArgument, "--json"),
            (&["demo", "--nodes", "0"], ErrorKind::ValueValidation, "0 is not in"),
            (&["demo", "--origin-rate", "fast"], ErrorKind::ValueValidation, "is no size"),
            (&["--log", "faasnet=loud", "status"], ErrorKind::ValueValidation, "error parsing level filter"),
        ];
        for (arguments, kind, reason) in rows {
            let error = Cli::try_parse_from([&["faasnet"], arguments].concat()).unwrap_err();
            assert_eq!(error.kind(), kind, "{arguments:?}: {error}");
            assert!(error.to_string().contains(reason), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn what_is_right_is_taken() {
        let rows: [&[&str]; 18] = [
            &["secret"],
            &["node"],
            &["node", "--seed", "vm-1:7400,vm-2:7400", "--seed", "[::1]:7400"],
            &["node", "--config", "/etc/f.toml", "--lazy", "--tag-ttl", "0", "--insecure-no-secret"],
            &["node", "--lazy=no", "--origin", "quay.io,r.example=/srv/images", "--socket", "/run/f.sock"],
            &["config", "check", "--config", "f.toml", "--json"],
            &["config", "check", "--seed", "a:1"],
            &["config", "show", "--json", "--log", "info", "--zone", "a"],
            &["config", "example"],
            &["node", "--log", "debug", "--log-format", "json"],
            &["--log", "warn,transfer=trace", "members", "--json"],
            &["pull", "alpine", "--platform", "linux/arm/v7", "--json", "--node", "vm-1:7401"],
            &["refresh", "alpine:3", "--json", "--node", "vm-1:7401"],
            &["pull", "alpine", "--token-file", "token", "--node", "unix:/run/faasnet/faasnet.sock"],
            &["tree", "alpine", "--dot"],
            &["functions", "--node", "http://[::1]:7401/"],
            &["demo"],
            &["demo", "--nodes", "3", "--image", "alpine", "--origin-rate", "1.5GB/s", "--json", "--keep"],
        ];
        for arguments in rows {
            let parsed = Cli::try_parse_from([&["faasnet"], arguments].concat());
            assert!(parsed.is_ok(), "{arguments:?}: {}", parsed.unwrap_err());
        }
    }

    #[test]
    fn exit_codes_tell_scripts_what_to_do_next() {
        let node: NodeUrl = "vm-1:7401".parse().unwrap();
        let refused = |status| client::Error::Refused { node: node.clone(), status, problem: "x".into() };
        let rows = [
            (client::Error::Unreachable { node: node.clone(), reason: "x".into() }, 3),
            (client::Error::Interrupted { node: node.clone(), reason: "x".into() }, 1),
            (client::Error::Garbled { node: node.clone(), reason: "x".into() }, 1),
            (refused(401), 4),
            (refused(404), 4),
            (refused(422), 4),
            (refused(502), 1),
            (refused(503), 1),
        ];
        for (error, exit) in rows {
            let words = error.to_string();
            assert_eq!(Failure::from(error).exit, exit, "{words}");
        }
    }
}
