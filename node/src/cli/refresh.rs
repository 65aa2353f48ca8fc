//! `faasnet refresh`: has the origin asked now what a tag stands for.

use clap::Args;
use faasnet::api::RefreshRequest;
use faasnet::render;
use transfer::reference::Reference;

use super::token::ChangeArgs;
use super::{Failure, terminal};

/// Ask the origin now what a tag stands for, whatever its TTL
///
/// The member that is responsible for the tag asks the origin. The node knows the answer from then on; other nodes follow
/// within their TTL. Nothing is provisioned: use `faasnet pull` for that. Fails if the origin cannot be asked.
#[derive(Debug, Args)]
pub(super) struct RefreshArgs {
    /// The image, by its tag: alpine, quay.io/team/app:v1
    #[arg(value_name = "REF")]
    reference: Reference,
    #[command(flatten)]
    change: ChangeArgs,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: RefreshArgs) -> Result<(), Failure> {
    let request = RefreshRequest { reference: args.reference };
    let refreshed = args.change.client()?.refresh(&request).await?;
    if args.json {
        return Ok(terminal::print_json(&refreshed)?);
    }
    Ok(terminal::print(&format!("{}\n", render::refreshed(&refreshed)))?)
}
