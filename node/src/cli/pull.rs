//! `faasnet pull`: has a node provision an image and shows how far it is.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use faasnet::api::{Function, FunctionState, ProvisionRequest};
use faasnet::{render, units};
use indicatif::{ProgressBar, ProgressStyle};
use transfer::manifest::Platform;
use transfer::reference::Reference;

use super::token::ChangeArgs;
use super::{Failure, terminal};

/// Between lines of progress where there is no terminal: often enough to see that it goes on, seldom enough for a log.
const LINE_PERIOD: Duration = Duration::from_secs(10);
/// Short, so that a terminal of 80 columns has room for where the bytes come from.
const BAR: &str = "[{bar:16}] {binary_bytes}/{binary_total_bytes}  {wide_msg}";

/// Provision an image on a node, and wait until it is there
///
/// Every blob is then present and verified on that node, so that a container runtime that uses it as its mirror starts
/// the image without the network. Nothing is handed to a runtime. The node goes on if this command is interrupted.
///
/// Progress goes to standard error, the result to standard output.
#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The image: alpine, quay.io/team/app:v1, localhost:5000/app@sha256:...
    #[arg(value_name = "REF")]
    reference: Reference,
    #[command(flatten)]
    change: ChangeArgs,
    /// Which image of a multi-platform index, such as linux/arm64 [default: the node's own]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Print the function as JSON when it is ready or has failed
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: PullArgs) -> Result<(), Failure> {
    let client = args.change.client()?;
    let request = ProvisionRequest { reference: args.reference, platform: args.platform };
    let mut progress = Progress::new();
    let answer = client.provision(&request, |function| progress.show(function)).await;
    progress.clear();
    let function = answer?;
    if args.json {
        terminal::print_json(&function)?;
    }
    let outcome = render::outcome(&function);
    match function.state {
        FunctionState::Failed => Err(anyhow!(outcome).into()),
        _ if args.json => Ok(()),
        _ => Ok(terminal::print(&format!("{outcome}\n"))?),
    }
}

/// Shows progress on standard error.
enum Progress {
    Bar(ProgressBar),
    Lines { next: Instant },
}

impl Progress {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Self::Lines { next: Instant::now() + LINE_PERIOD };
        }
        let style = ProgressStyle::with_template(BAR).expect("the template names keys that indicatif knows");
        Self::Bar(ProgressBar::new(0).with_style(style.progress_chars("=> ")))
    }

    fn show(&mut self, function: &Function) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(function.bytes);
                bar.set_position(function.held_bytes);
                bar.set_message(render::came_from(function).join(", "));
            }
            Self::Lines { next } => {
                let now = Instant::now();
                if now >= *next {
                    *next = now + LINE_PERIOD;
                    let held = units::bytes(function.held_bytes);
                    let mut parts = vec![format!("{held} of {}", units::bytes(function.bytes))];
                    parts.extend(render::came_from(function));
                    eprintln!("{}: {}", function.reference, parts.join(", "));
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
