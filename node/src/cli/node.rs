//! `faasnet node`: from flags, the environment and a file to a running node, and from a signal to its graceful end.

use anyhow::{Context, anyhow};
use clap::Args;
use faasnet::config::{Given, Resolved, Surroundings};
use faasnet::node::Node;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use super::{Failure, log, terminal};

/// Run a node on this machine
///
/// It finds the other members through its seeds, and serves container runtimes as a registry mirror, and everybody else
/// as an API, on one HTTP port. SIGTERM and SIGINT make it leave the cluster and end with exit code 0; a second one
/// ends it at once, which other members then have to notice.
///
/// Every flag is also an environment variable and a key of the configuration file; a flag wins over its variable,
/// which wins over the file.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    given: Given,
}

/// Runs a node until a signal or the cluster ends it.
pub(super) async fn run(args: NodeArgs) -> Result<(), Failure> {
    let Resolved { config, log, file, .. } = args.given.resolve(&Surroundings::look())?;
    log::start(&log);
    if let Some(file) = file {
        info!(file = %file.display(), "read the configuration");
    }
    let mut signals = Signals::listen()?;
    let node = tokio::select! {
        node = Box::pin(Node::start(config)) => node.context("the node cannot start")?,
        () = signals.end() => return Ok(()),
    };
    terminal::print(&format!("node {}: mirror and API at http://{}\n", node.id(), node.http_addr()))?;
    tokio::select! {
        () = signals.end() => info!("leaving; another signal ends the node at once"),
        reason = node.stopped() => return Err(anyhow!("the node {} had to stop: {reason}", node.id()).into()),
    }
    tokio::select! {
        _ = node.shutdown() => Ok(()),
        () = signals.end() => {
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
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// From now on a signal of that kind no longer ends the process by itself.
fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("the process cannot listen for signals")
}
