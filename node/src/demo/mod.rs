//! The demo: a cluster on this machine, pulling an image through its function tree and then without.

pub mod image;
pub mod progress;
pub mod registry;
mod run;

pub use run::{Cluster, Options, Outcome, Pull};

/// Runs the demo.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let cluster = Cluster::start(&options).await?;
    let bars = progress::Bars::new(options.json);
    bars.announce(cluster.nodes.iter().map(|node| node.id().to_string()));
    let (pull, functions) = cluster.pull(&bars).await?;
    bars.clear();
    let tree = cluster.nodes[0].tree(cluster.function().await?);
    println!("{pull:?}\n{functions:#?}\n{tree:#?}");
    let direct = cluster.pull_directly(&bars).await?;
    println!("{direct:?}");
    cluster.shutdown().await;
    Ok(())
}
