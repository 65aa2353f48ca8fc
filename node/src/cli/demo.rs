//! `faasnet demo`: many nodes on this machine.

use std::num::NonZeroU64;

use anyhow::Context;
use clap::Args;
use faasnet::demo;
use faasnet::units::Size;

use super::{Failure, terminal};

/// Deliver one image to many nodes on this machine, and show how they share it
///
/// Starts nodes that find each other over loopback, and has all of them provision one image at once from an origin of
/// limited rate. Shows for each node how long it took, whom it fetched from, and how much the origin sent in total.
/// Needs no cluster, no container runtime and no rights; its data goes to a temporary directory.
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// How many nodes to start. They share this machine's processors
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    nodes: u16,

    /// The image to deliver: the reference of one in a registry, or the path of an OCI layout or of an archive made by
    /// skopeo or `docker save` [default: one made of random bytes, so that no network is needed]
    #[arg(long, value_name = "REF|PATH")]
    image: Option<String>,

    /// How many bytes per second the origin sends to all nodes together. The lower, the more the nodes gain by
    /// sharing
    #[arg(long, value_name = "BYTES/S", default_value = "40MiB")]
    origin_rate: Size,

    /// Print the results as JSON
    #[arg(long)]
    json: bool,

    /// Leave the nodes running until Ctrl-C, to ask them with the other commands
    #[arg(long)]
    keep: bool,
}

pub(super) async fn run(args: DemoArgs) -> Result<(), Failure> {
    let options = demo::Options {
        nodes: args.nodes.into(),
        image: args.image,
        origin_rate: NonZeroU64::new(args.origin_rate.0)
            .context("--origin-rate 0 would never deliver anything: use 1MiB or more")?,
        json: args.json,
        keep: args.keep,
        paint: terminal::paint(),
    };
    Ok(demo::run(options).await?)
}
