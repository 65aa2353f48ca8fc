//! The demo: a cluster on this machine pulls an image through its function tree, and then the same number of clients
//! pull it straight from the origin, so that the gain is plain to see.

pub mod image;
mod progress;
pub mod registry;
mod report;
mod run;

use std::io::Write;

use tokio::time::{Instant, sleep};

use crate::units;
pub use progress::Bars;
pub use report::{Report, text};
pub use run::{Cluster, Options, Outcome, Pull};

/// Runs the demo and prints what came of it. Ends early, and cleanly, on Ctrl-C.
pub async fn run(options: Options) -> anyhow::Result<()> {
    tokio::select! {
        ended = show(&options) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn show(options: &Options) -> anyhow::Result<()> {
    let say = |text: &str| {
        if !options.json {
            // Somebody who has closed our output does not want to be told of it.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    };
    say(&format!(
        "{} nodes and an origin that sends {} a second to all of them together\n",
        options.nodes,
        units::bytes(options.origin_rate.get())
    ));
    let cluster = Cluster::start(options).await?;
    say(&format!("All know each other. All pull {} now, through its function tree:\n\n", cluster.reference));
    let bars = Bars::new(options.json);
    bars.announce(cluster.nodes.iter().map(|node| node.id().to_string()));
    let (through_tree, functions) = cluster.pull(&bars).await?;
    bars.clear();
    let tree = cluster.settled_tree().await?;

    say(&format!(
        "Done after {}. Now {} clients pull the same straight from the origin:\n\n",
        units::duration(through_tree.elapsed),
        options.nodes
    ));
    let bars = Bars::new(options.json);
    bars.announce((1..=options.nodes).map(Cluster::client_name));
    let direct = cluster.pull_directly(&bars).await?;
    bars.clear();

    let image_bytes = functions.first().map_or(0, |(_, function)| function.bytes);
    let outcome = Outcome { image_bytes, cluster: through_tree, direct, functions, tree };
    if options.json {
        let json = serde_json::to_string(&Report::of(&outcome))?;
        writeln!(std::io::stdout().lock(), "{json}")?;
    } else {
        say(&text(&outcome, options.paint));
    }
    if options.keep {
        eprintln!("\n{}", cluster.how_to_talk());
        std::future::pending::<()>().await;
    }
    cluster.shutdown().await;
    Ok(())
}

/// How long a condition may take that only gossip can bring about.
const SETTLE_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

impl Cluster {
    /// The tree, once gossip has told the first node that everybody is ready. As it is then, should that take too long.
    async fn settled_tree(&self) -> anyhow::Result<crate::api::Tree> {
        let function = self.function().await?;
        let started = Instant::now();
        loop {
            let tree = self.nodes[0].tree(function);
            let ready = membership::view::ParticipationState::Ready;
            let settled = tree.nodes.iter().filter(|node| node.state == ready).count() == self.nodes.len();
            if settled || started.elapsed() > SETTLE_LIMIT {
                return Ok(tree);
            }
            sleep(Bars::INTERVAL).await;
        }
    }

    fn how_to_talk(&self) -> String {
        let first = self.nodes[0].http_addr();
        let mut text = String::from("The nodes stay up until Ctrl-C. Their mirrors and APIs:\n");
        for node in &self.nodes {
            text += &format!("  {:4} http://{}\n", node.id(), node.http_addr());
        }
        text += &format!(
            "Try:\n  faasnet members --node http://{first}\n  faasnet tree {} --node http://{first}\n  \
             skopeo inspect --tls-verify=false docker://{first}/{}\n",
            self.reference,
            self.path()
        );
        text
    }
}
