//! `faasnet-sim lab …`: real processes in network namespaces.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use faasnet_sim::lab::field::contestants::Contestant;
use faasnet_sim::lab::record::Record;
use faasnet_sim::lab::scenario::words::{Size, Speed};
use faasnet_sim::lab::{field, hop, play, report, scenario};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Verdict;

/// Real processes of the release binary, each in a network namespace of its own; as root
#[derive(Debug, Subcommand)]
pub(crate) enum LabCommand {
    Run(RunArgs),
    Compare(CompareArgs),
    Hop(HopArgs),
    /// List the scenarios that come with the lab
    List,
    /// Print the file of a scenario that comes with the lab, to begin a new one with
    Show {
        /// Its name
        name: String,
    },
}

/// Play scenarios: print a table, and write a record and two pictures of each
///
/// The world of a scenario is built from nothing, and nothing of it is left behind, however it ends. Processes are those of the
/// release binary (`cargo build --release`), or of FAASNET_BIN.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Names of scenarios, paths of files that end in .toml, or `all` that come with the lab
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Where record.json, progress.svg and tree.svg go, in a directory for each scenario
    #[arg(long, value_name = "DIR", default_value = "lab-results")]
    out: PathBuf,
    /// What random choices are drawn from; the same seed chooses alike where things happen alike
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the records as JSON, one a line, in place of tables
    #[arg(long)]
    json: bool,
}

/// Measure ours beside other ways to bring an image to many hosts, in one run
///
/// Direct pulls, an nginx cache, BitTorrent with default and best settings, an ideal chain of TCP relays. Takes some minutes for each
/// number of hosts. Needs Debian's nginx-light, python3-libtorrent and curl.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Numbers of hosts
    #[arg(long, value_delimiter = ',', default_value = "4,8,16", value_name = "N,...")]
    nodes: Vec<usize>,
    /// The rate of every link, like `100 Mbit/s`; by default the highest that keeps the processors below 70%
    #[arg(long)]
    rate: Option<Speed>,
    /// The layers of the image
    #[arg(long, value_delimiter = ',', default_value = "40 MiB,16 MiB,8 MiB", value_name = "SIZE,...")]
    layers: Vec<Size>,
    /// Who takes part besides ours
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    with: Option<Vec<Contestant>>,
    /// How often each runs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl CompareArgs {
    fn run(self) -> Result<Verdict> {
        let plan = field::Plan {
            nodes: self.nodes,
            rate: self.rate.map(|Speed(rate)| rate),
            layers: self.layers.into_iter().map(|Size(bytes)| bytes).collect(),
            rounds: self.rounds,
            contestants: with_ours(self.with.as_deref().unwrap_or(&Contestant::ALL)),
        };
        let comparison = field::compare(&plan, &interruption()?)?;
        say(&if self.json { serde_json::to_string(&comparison)? } else { field::table(&comparison) })?;
        let failed =
            comparison.fields.iter().flat_map(|field| &field.entries).any(|entry| !entry.failures.is_empty());
        Ok(if failed { Verdict::Broken } else { Verdict::Held })
    }
}

/// Measure one hop of a tree beside a bare QUIC stream, and nginx with curl, in one run
///
/// A blob in the sender's page cache, and a link as fast as the machine. Needs Debian's nginx-light and curl.
#[derive(Debug, Args)]
pub(crate) struct HopArgs {
    /// The size of the blob
    #[arg(long, default_value = "1 GiB")]
    size: Size,
    /// How often each runs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl HopArgs {
    fn run(self) -> Result<Verdict> {
        let Size(bytes) = self.size;
        let plan = hop::Plan { bytes, rounds: self.rounds };
        let outcome = hop::measure(plan, &*interruption()?)?;
        say(&if self.json { serde_json::to_string(&outcome)? } else { hop::table(&outcome) })?;
        Ok(Verdict::Held)
    }
}

/// Ours first, then the others, each once.
fn with_ours(others: &[Contestant]) -> Vec<Contestant> {
    let mut all = vec![Contestant::Faasnet];
    for other in others {
        if !all.contains(other) {
            all.push(*other);
        }
    }
    all
}

impl LabCommand {
    pub(crate) fn run(self) -> Result<Verdict> {
        match self {
            Self::Run(args) => args.run(),
            Self::Compare(args) => args.run(),
            Self::Hop(args) => args.run(),
            Self::List => {
                for (name, text) in scenario::library() {
                    say(&format!("{name:15} {}", scenario::file::read(name, text)?.about))?;
                }
                Ok(Verdict::Held)
            }
            Self::Show { name } => {
                let Some((_, text)) = scenario::library().find(|(known, _)| *known == name) else {
                    // Says which there are.
                    scenario::find(&name)?;
                    bail!("{name} is a file of your own");
                };
                say(text.trim_end())?;
                Ok(Verdict::Held)
            }
        }
    }
}

impl RunArgs {
    fn run(self) -> Result<Verdict> {
        let interrupted = interruption()?;
        let mut scenarios = Vec::new();
        for name in &self.scenarios {
            match name.as_str() {
                "all" => scenarios.extend(scenario::library().map(|(name, _)| name.to_owned())),
                name => scenarios.push(name.to_owned()),
            }
        }
        // All are read before the first is played: a slip in the last file is not to be found out after half an hour.
        let scenarios = scenarios.iter().map(|name| scenario::find(name)).collect::<Result<Vec<_>>>()?;
        let mut verdict = Verdict::Held;
        for scenario in &scenarios {
            let record =
                play::play(scenario, self.seed, &interrupted).with_context(|| scenario.name.clone())?;
            let directory = self.out.join(&scenario.name);
            write_results(&record, &directory)?;
            if self.json {
                say(&serde_json::to_string(&record)?)?;
            } else {
                say(&report::table(&record))?;
                say(&format!("record.json, progress.svg and tree.svg are in {}\n", directory.display()))?;
            }
            if !record.passed() {
                verdict = Verdict::Broken;
            }
        }
        Ok(verdict)
    }
}

fn write_results(record: &Record, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let json = serde_json::to_string_pretty(record)?;
    for (name, text) in
        [("record.json", json), ("progress.svg", report::plot(record)), ("tree.svg", report::film(record))]
    {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Turns true when the process is asked to end; asked a second time, it ends at once, and what it has built is cleared away behind it.
fn interruption() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register_conditional_default(signal, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// Prints a line. A reader that has had enough is no error.
fn say(line: &str) -> Result<()> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to standard output"),
    }
}
