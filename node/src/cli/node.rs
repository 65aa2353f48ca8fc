//! `faasnet node`: from flags, the environment and a file to a running node; on SIGHUP, what has changed of them; and
//! from a signal to its graceful end.

use anyhow::{Context, anyhow};
use clap::Args;
use faasnet::config::{Change, Given, LogSettings, Problems, Resolved, Surroundings};
use faasnet::node::Node;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::log::Log;
use super::{Failure, terminal};

/// Run a node on this machine
///
/// It finds the other members through its seeds, and serves container runtimes as a registry mirror, and everybody else
/// as an API, on one HTTP port. SIGTERM and SIGINT make it leave the cluster and end with exit code 0; a second one
/// ends it at once, which other members then have to notice. SIGHUP makes it read its configuration file again.
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
    let given = args.given;
    let Resolved { config, log: log_settings, file, .. } = given.resolve(&Surroundings::look())?;
    let log = Log::start(&log_settings);
    if let Some(file) = file {
        info!(file = %file.display(), "read the configuration");
    }
    let mut signals = Signals::listen()?;
    let mut hangup = listen(SignalKind::hangup())?;
    let node = tokio::select! {
        node = Box::pin(Node::start(config)) => node.context("the node cannot start")?,
        () = signals.end() => return Ok(()),
    };
    terminal::print(&format!("node {}: mirror and API at http://{}\n", node.id(), node.http_addr()))?;
    let mut running = Running { node: node.clone(), given, log, log_settings };
    loop {
        tokio::select! {
            () = signals.end() => break,
            _ = hangup.recv() => running.reload().await,
            reason = node.stopped() => {
                return Err(anyhow!("the node {} had to stop: {reason}", node.id()).into());
            }
        }
    }
    info!("leaving; another signal ends the node at once");
    tokio::select! {
        _ = node.shutdown() => Ok(()),
        () = signals.end() => {
            Err(anyhow!("a second signal ended the node {} before it had left its cluster", node.id()).into())
        }
    }
}

/// A node, and what it runs with.
struct Running {
    node: Node,
    given: Given,
    log: Log,
    log_settings: LogSettings,
}

impl Running {
    /// Takes over what has changed and can. If anything is wrong, all stays as it was.
    async fn reload(&mut self) {
        let resolved = match self.given.resolve(&Surroundings::look()) {
            Ok(resolved) => resolved,
            Err(Problems { problems }) => {
                for problem in problems {
                    error!("{problem}");
                }
                error!("the configuration is wrong; this node goes on with the one before");
                return;
            }
        };
        let mut changes = match self.node.reload(resolved.config).await {
            Ok(changes) => changes,
            Err(reason) => {
                error!("{reason:#}; this node goes on with the configuration before");
                return;
            }
        };
        if resolved.log.log != self.log_settings.log {
            self.log.set(&resolved.log.log);
            self.log_settings.log = resolved.log.log;
            changes.push(Change::Applied("log"));
        }
        if resolved.log.log_format != self.log_settings.log_format {
            changes.push(Change::NeedsRestart("log-format"));
        }
        for change in &changes {
            match change {
                Change::Applied(setting) => info!("{setting} has changed and holds from now on"),
                Change::NeedsRestart(setting) => {
                    warn!("{setting} cannot change while the node runs; restart it");
                }
            }
        }
        if changes.is_empty() {
            info!("read the configuration again; nothing has changed");
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
