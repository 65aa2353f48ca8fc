//! `faasnet config`: what a node would run with, and whether it could.

use std::path::PathBuf;

use clap::{Arg, Args, Subcommand};
use faasnet::config::{self, Given, Problem, Shown, Source, Surroundings, Value};
use faasnet::render::Tone;
use faasnet::render::table::{Cell, Table};
use serde::Serialize;

use super::{Failure, terminal};

/// Check and show the configuration of a node
///
/// A setting has its value from the first that says something, of flag, environment, configuration file and default.
/// These commands take the flags of `faasnet node`, and find the file and the environment as it does.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    #[command(mut_args = hide_settings)]
    Check(CheckArgs),
    #[command(mut_args = hide_settings)]
    Show(ShowArgs),
    /// Print a configuration file with every setting, its help and its default
    ///
    /// All of it is commented out, so that it sets nothing as it stands.
    Example,
}

/// Find everything that is wrong with a configuration
///
/// Reads the configuration file and looks at the files that it names; connects to nobody. Each problem is a line on
/// standard error, with its place. Takes the flags of `faasnet node` as well.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    given: Given,
    /// Print the problems as JSON, on standard output
    #[arg(long)]
    json: bool,
}

/// Show every setting, and where its value comes from
///
/// Secrets are not shown. Takes the flags of `faasnet node` as well, to see what they would do.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    #[command(flatten)]
    given: Given,
    /// Print the settings as JSON
    #[arg(long)]
    json: bool,
}

/// What `check --json` prints.
#[derive(Debug, Serialize)]
struct Report {
    file: Option<PathBuf>,
    problems: Vec<Problem>,
}

/// The flags of the node are in its own help.
fn hide_settings(arg: Arg) -> Arg {
    let is_own = matches!(arg.get_id().as_str(), "config" | "json");
    arg.hide(!is_own)
}

pub(super) fn run(args: ConfigArgs) -> Result<(), Failure> {
    match args.command {
        ConfigCommand::Check(args) => check(&args),
        ConfigCommand::Show(args) => show(&args),
        ConfigCommand::Example => Ok(terminal::print(&config::example())?),
    }
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    let surroundings = Surroundings::look();
    let resolved = args.given.resolve(&surroundings);
    if args.json {
        let file = args.given.file(&surroundings);
        let problems = resolved.as_ref().err().map_or(Vec::new(), |found| found.problems.clone());
        terminal::print_json(&Report { file, problems })?;
    }
    let resolved = resolved?;
    if !args.json {
        let is_set = |shown: &&Shown| shown.source != Source::Default && shown.setting != "config";
        let set = resolved.settings.iter().filter(is_set).count();
        let origins = resolved.config.origins.len();
        let place = match resolved.file {
            Some(file) => format!("{} is good", file.display()),
            None => "there is no configuration file, and all is good".to_owned(),
        };
        terminal::print(&format!("{place}: {set} settings beyond the defaults, {origins} origins\n"))?;
    }
    Ok(())
}

fn show(args: &ShowArgs) -> Result<(), Failure> {
    let resolved = args.given.resolve(&Surroundings::look())?;
    if args.json {
        return Ok(terminal::print_json(&resolved.settings)?);
    }
    let mut table = Table::new(["SETTING", "VALUE", "FROM"]);
    for shown in &resolved.settings {
        let tone = if shown.source == Source::Default { Tone::Faint } else { Tone::Plain };
        let mut rest: &[String] = &[];
        let first = match &shown.value {
            Value::List(texts) if texts.len() > 1 => {
                rest = &texts[1..];
                texts[0].clone()
            }
            value => value.to_string(),
        };
        let cells = [shown.setting.clone(), first, shown.source.to_string()];
        table.row(cells.map(|text| Cell::new(text, tone)));
        for text in rest {
            table.row(["".into(), Cell::new(text, tone)]);
        }
    }
    Ok(terminal::print(&table.render(terminal::paint()))?)
}
