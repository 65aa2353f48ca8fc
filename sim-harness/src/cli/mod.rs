//! The command line: what can be said, and what the process answers with its exit code. It decides nothing else.

mod lab;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use faasnet_sim::lab::field::relay;
use faasnet_sim::lab::hop::bare;

const AFTER_HELP: &str = "\
Exit codes:
  0  done, and all that had to hold did
  1  something that had to hold did not
  2  the command line is wrong
  3  it could not be run, or was interrupted

Examples, as root, after `cargo build --release`:
  faasnet-sim lab list                         the scenarios that come with the lab
  faasnet-sim lab run burst                    one of them, with a table and two pictures
  faasnet-sim lab show burst > mine.toml       a file to begin with
  faasnet-sim lab run mine.toml --json";

/// Many nodes on one machine: to be seen, measured and tortured.
#[derive(Debug, Parser)]
#[command(name = "faasnet-sim", version, after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand)]
    Lab(lab::LabCommand),
    /// A link of the ideal chain that `lab compare` measures
    #[command(hide = true, name = relay::SUBCOMMAND)]
    Relay { listen: SocketAddr, file: PathBuf, next: Option<SocketAddr> },
    /// The sender of the bare stream that `lab hop` measures
    #[command(hide = true, name = bare::SERVE)]
    BareServe { listen: SocketAddr, certificate: PathBuf, bytes: u64 },
    /// Its receiver
    #[command(hide = true, name = bare::FETCH)]
    BareFetch { server: SocketAddr, certificate: PathBuf, bytes: u64, keep: Option<PathBuf> },
}

/// How a command ended, if it could be run at all.
enum Verdict {
    /// All that had to hold did.
    Held,
    /// Something did not. It was said what.
    Broken,
}

fn held((): ()) -> Verdict {
    Verdict::Held
}

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Lab(command) => command.run(),
        Command::Relay { listen, file, next } => relay::run(listen, &file, next).map(held),
        Command::BareServe { listen, certificate, bytes } => {
            bare::serve(listen, &certificate, bytes).map(held)
        }
        Command::BareFetch { server, certificate, bytes, keep } => {
            bare::fetch(server, &certificate, bytes, keep.as_deref()).map(held)
        }
    };
    match outcome {
        Ok(Verdict::Held) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}
