//! The commands that only show what a node knows: `status`, `members`, `functions`, `tree`.

use std::str::FromStr;

use clap::Args;
use faasnet::api::TreeQuery;
use faasnet::render;
use membership::FunctionId;
use transfer::reference::Reference;

use super::{AskArgs, Failure, terminal};

/// Show one node: where it is, what it holds, what it has moved
///
/// Counts of bytes begin at the node's start.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

/// Show the live members of the cluster, as one node knows them
///
/// A member is alive; or suspect, when it has been silent and is being probed; or leaving, when it has said so.
#[derive(Debug, Args)]
pub(super) struct MembersArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

/// Show the functions that one node provisions or holds
///
/// A function is a container image at one version. HELD is how much of it is here and verified, ORIGIN and PEERS how
/// much came from the origin and from other members, PARENT whom the node fetches from in the function tree.
#[derive(Debug, Args)]
pub(super) struct FunctionsArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

/// Show the function tree of an image: who fetches it from whom
///
/// The node that is asked derives the tree from what it knows; others may know a little more or less. A tag is looked up
/// as for a pull.
#[derive(Debug, Args)]
pub(super) struct TreeArgs {
    /// The image, such as alpine:3.20, or a function's digest, sha256:...
    #[arg(value_name = "REF")]
    of: TreeOf,
    #[command(flatten)]
    ask: AskArgs,
    /// Print it in Graphviz's language: `faasnet tree REF --dot | dot -Tsvg > tree.svg`
    #[arg(long, conflicts_with = "json")]
    dot: bool,
    /// Print the API's answer as it is
    #[arg(long)]
    json: bool,
}

/// Whose tree to show.
#[derive(Debug, Clone)]
struct TreeOf(TreeQuery);

impl FromStr for TreeOf {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self, anyhow::Error> {
        let mut query = TreeQuery::default();
        if text.starts_with("sha256:") {
            query.function = Some(text.parse::<FunctionId>()?);
        } else {
            query.reference = Some(text.parse::<Reference>()?);
        }
        Ok(Self(query))
    }
}

pub(super) async fn status(args: StatusArgs) -> Result<(), Failure> {
    let status = args.ask.client().status().await?;
    if args.json {
        return Ok(terminal::print_json(&status)?);
    }
    Ok(terminal::print(&render::status(&status, terminal::paint()))?)
}

pub(super) async fn members(args: MembersArgs) -> Result<(), Failure> {
    let members = args.ask.client().members().await?;
    if args.json {
        return Ok(terminal::print_json(&members)?);
    }
    Ok(terminal::print(&render::members(&members, terminal::paint()))?)
}

pub(super) async fn functions(args: FunctionsArgs) -> Result<(), Failure> {
    let functions = args.ask.client().functions().await?;
    if args.json {
        return Ok(terminal::print_json(&functions)?);
    }
    Ok(terminal::print(&render::functions(&functions, terminal::paint()))?)
}

pub(super) async fn tree(args: TreeArgs) -> Result<(), Failure> {
    let tree = args.ask.client().tree(&args.of.0).await?;
    if args.json {
        return Ok(terminal::print_json(&tree)?);
    }
    let text = if args.dot { render::tree::dot(&tree) } else { render::tree::draw(&tree, terminal::paint()) };
    Ok(terminal::print(&text)?)
}
