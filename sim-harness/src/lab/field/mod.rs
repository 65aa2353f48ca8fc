//! Beside the field: other ways to bring an image to many hosts, measured in one run with ours.
//!
//! Every run has a network of its own: a registry and so many hosts whose links all have one rate, and nothing cached anywhere. The order
//! of contestants changes from round to round. The clock runs from when all are told to start, with daemons up and
//! acquainted, to when a host has every byte on its disk; then all bytes are checked.
//!
//! | module | owns |
//! |---|---|
//! | [`contestants`] | how each does it |
//! | `ground` | what they start from, and the clock |
//! | [`relay`] | a link of the ideal chain |
//! | `table` | the result, for people |

pub mod contestants;
mod ground;
pub mod relay;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::contestants::Contestant;
use self::ground::Course;
pub use self::table::table;
use super::draft::{Compression, Draft};
use super::image::Image;
use super::netns::Rate;

/// Of the processors, what a comparison may keep busy: above that they decide, and not the links.
const BUSY_LIMIT: f64 = 0.7;

/// The rates that are tried for the limit, in Mbit/s.
const RATES: [u64; 6] = [25, 50, 100, 200, 400, 800];

/// How long an image takes over one link when the limit is looked for.
const PROBE: Duration = Duration::from_secs(2);

/// How long a contestant may take, as a multiple of what a link needs for all hosts' images one after the other.
const PATIENCE: u32 = 4;

/// What is to be compared.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of hosts.
    pub nodes: Vec<usize>,
    /// The rate of every link; where none is given, the highest that the machine carries with each number of hosts.
    pub rate: Option<Rate>,
    /// The sizes of the image's layers.
    pub layers: Vec<u64>,
    /// How often each contestant runs.
    pub rounds: usize,
    /// Who takes part.
    pub contestants: Vec<Contestant>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Comparison {
    /// The bytes of the image.
    pub image_bytes: u64,
    /// How often each contestant ran.
    pub rounds: usize,
    /// One for each number of hosts.
    pub fields: Vec<Field>,
}

/// All contestants with one number of hosts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Field {
    /// How many hosts.
    pub nodes: usize,
    /// The rate of every link, in bits per second.
    pub rate: u64,
    /// The image over the rate, in seconds.
    pub ideal_seconds: f64,
    /// How busy the processors were with ours at each rate that was tried, in order.
    pub ceiling: Vec<Probe>,
    /// The contestants.
    pub entries: Vec<Entry>,
}

/// One rate that was tried.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Probe {
    /// In bits per second.
    pub rate: u64,
    /// The share of the processors, from 0 to 1.
    pub busy: f64,
    /// Time until all had the image, over the image by the rate.
    pub over_ideal: f64,
}

/// One contestant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Who.
    pub contestant: Contestant,
    /// Each run that came to its end.
    pub runs: Vec<Run>,
    /// What the others failed with.
    pub failures: Vec<String>,
}

/// One run of one contestant.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Run {
    /// Until the last host had everything, in seconds.
    pub time_to_all: f64,
    /// Until a host had everything, on average.
    pub mean_finish: f64,
    /// What was delivered from the registry's host, in images, packet headers included.
    pub egress: f64,
    /// Processor time of the whole machine for each GiB that a host received, in seconds.
    pub cpu_per_gib: f64,
    /// The share of the processors that was busy.
    pub busy: f64,
}

/// Runs it all, which takes minutes; broken off soon after `interrupted` turns true. Progress goes to standard error.
///
/// # Errors
/// When the image cannot be made, or it was interrupted. A contestant that fails is in the result.
pub fn compare(plan: &Plan, interrupted: &Arc<AtomicBool>) -> Result<Comparison> {
    let scratch = tempfile::tempdir().context("no room for the image")?;
    let image = noise(&scratch.path().join("image"), &plan.layers)?;
    let mut fields = Vec::new();
    for &nodes in &plan.nodes {
        let ceiling =
            if plan.rate.is_some() { Vec::new() } else { ceiling(nodes, scratch.path(), interrupted)? };
        let found =
            ceiling.iter().rfind(|probe| probe.busy <= BUSY_LIMIT).map(|probe| Rate::bits(probe.rate));
        let rate = plan.rate.or(found).unwrap_or(Rate::mbit(RATES[0]));
        let course = course(&image, nodes, rate);
        let mut entries: Vec<Entry> = plan
            .contestants
            .iter()
            .map(|&contestant| Entry { contestant, runs: Vec::new(), failures: Vec::new() })
            .collect();
        for round in 0..plan.rounds {
            // Each starts a round in its turn, so nobody is always behind the same one.
            let count = entries.len();
            for place in 0..count {
                let entry = &mut entries[(place + round) % count];
                ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything was cleared away");
                eprintln!(
                    "{nodes} hosts, round {} of {}: {}",
                    round + 1,
                    plan.rounds,
                    entry.contestant.name()
                );
                match run(entry.contestant, course) {
                    Ok(run) => entry.runs.push(run),
                    Err(error) => entry.failures.push(format!("{error:#}")),
                }
            }
        }
        let ideal_seconds = ideal(&image, rate).as_secs_f64();
        fields.push(Field { nodes, rate: rate.bits_per_second(), ideal_seconds, ceiling, entries });
    }
    Ok(Comparison { image_bytes: image.bytes(), rounds: plan.rounds, fields })
}

/// How busy ours keeps the processors, at one rate after the other, until they are the limit.
fn ceiling(nodes: usize, scratch: &std::path::Path, interrupted: &Arc<AtomicBool>) -> Result<Vec<Probe>> {
    let mut probes = Vec::new();
    for rate in RATES {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted; everything was cleared away");
        let rate = Rate::mbit(rate);
        let bytes = (rate.bytes_per_second() as f64 * PROBE.as_secs_f64()) as u64;
        let image = noise(&scratch.join(format!("probe-{nodes}-{}", rate.bits_per_second())), &[bytes])?;
        let run = run(Contestant::Faasnet, course(&image, nodes, rate))?;
        let over_ideal = run.time_to_all / ideal(&image, rate).as_secs_f64();
        let probe = Probe { rate: rate.bits_per_second(), busy: run.busy, over_ideal };
        let megabits = probe.rate / 1_000_000;
        eprintln!(
            "{nodes} hosts at {megabits} Mbit/s: {:.0}% busy, {over_ideal:.2} x S/B",
            100.0 * probe.busy
        );
        probes.push(probe);
        if probe.busy > BUSY_LIMIT {
            break;
        }
    }
    Ok(probes)
}

fn noise(layout: &std::path::Path, layers: &[u64]) -> Result<Image> {
    let draft = Draft::new(layout)?;
    layers.iter().try_fold(draft, |draft, bytes| draft.noise(*bytes, Compression::None))?.finish()
}

fn ideal(image: &Image, rate: Rate) -> Duration {
    Duration::from_secs_f64(image.bytes() as f64 / rate.bytes_per_second() as f64)
}

fn course(image: &Image, nodes: usize, rate: Rate) -> Course<'_> {
    let limit =
        ideal(image, rate) * u32::try_from(nodes).unwrap_or(u32::MAX) * PATIENCE + Duration::from_secs(60);
    Course { image, nodes, rate, limit }
}

fn run(contestant: Contestant, course: Course<'_>) -> Result<Run> {
    let (finish, sent) = contestant.run(course)?;
    let (bytes, nodes) = (course.image.bytes() as f64, course.nodes as f64);
    let delivered = bytes * nodes / f64::from(1 << 30);
    Ok(Run {
        time_to_all: finish.finished.iter().copied().fold(0.0, f64::max),
        mean_finish: finish.finished.iter().sum::<f64>() / nodes,
        egress: sent as f64 / bytes,
        cpu_per_gib: finish.busy.busy.as_secs_f64() / delivered,
        busy: finish.busy.share(),
    })
}
