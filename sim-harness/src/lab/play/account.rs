//! Adding up a run: from looks, flows, logs and processes to the record.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result};

use super::Flows;
use super::cast::{Cast, Part, State};
use super::watch::{LOOK_PAUSE, Looks};
use crate::lab::image::Image;
use crate::lab::node::NodeProcess;
use crate::lab::record::{Flow, Machine, NodeRecord, ORIGIN, OriginRecord, Record, Sample, ZoneRecord};
use crate::lab::registry::AccessLog;
use crate::lab::scenario::Scenario;

/// Pauses shorter than this are part of getting on, in seconds.
const STALL: f64 = 0.5;

/// For how long a look stands for what a node holds, in seconds: a few pauses between looks.
const FRESH: f64 = 10.0 * LOOK_PAUSE.as_secs_f64();

/// How things stood when the run began.
pub(super) struct Account {
    log: AccessLog,
    flows: BTreeMap<(Ipv4Addr, Ipv4Addr), u64>,
    zones: Vec<(u64, u64)>,
}

impl Account {
    pub(super) fn begin(cast: &Cast) -> Result<Self> {
        let network = &cast.stage.network;
        let zones = cast.zones().iter().map(|zone| network.crossed(zone)).collect::<Result<_>>()?;
        Ok(Self { log: cast.stage.registry.access_log()?, flows: network.flows()?, zones })
    }

    /// The record of a run that is over; what happened and how it is judged is left empty.
    pub(super) fn record(
        &self,
        cast: &Cast,
        scenario: &Scenario,
        image: &Image,
        mut looks: BTreeMap<String, Looks>,
        flows: &[Flows],
    ) -> Result<Record> {
        let names = names(cast);
        let samples = self.samples(&looks, flows, &names);
        let (mut received, mut sent) = self.totals(flows, &names);
        let nodes = cast.stage.nodes.iter().zip(&cast.parts).map(|(node, part)| {
            let looks = looks.remove(node.id()).unwrap_or_default();
            Ok(NodeRecord {
                received: received.remove(node.id()).unwrap_or_default(),
                sent: sent.remove(node.id()).unwrap_or_default(),
                errors: errors(node)?,
                ..node_record(node.id(), part, &looks)
            })
        });
        let nodes: Vec<NodeRecord> = nodes.collect::<Result<_>>()?;
        let seconds = nodes.iter().filter_map(|node| node.finished).fold(0.0, f64::max);
        let ideal = scenario.ordinary_rate().map(|rate| image.bytes() as f64 / rate as f64);
        let log = cast.stage.registry.access_log()?.since(&self.log);
        let zones = cast.zones().iter().zip(&self.zones).map(|(zone, before)| {
            let (received, sent) = cast.stage.network.crossed(zone)?;
            Ok(ZoneRecord {
                zone: zone.name().to_owned(),
                received: received - before.0,
                sent: sent - before.1,
            })
        });
        Ok(Record {
            scenario: scenario.name.clone(),
            about: scenario.about.clone(),
            seed: 0,
            machine: Machine {
                cores: thread::available_parallelism().context("cannot count the processors")?.get(),
                kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
                delays: if scenario.has_delays() {
                    cast.stage.network.delays().to_string()
                } else {
                    "none".to_owned()
                },
                busy: 0.0,
            },
            image_bytes: image.bytes(),
            ideal_seconds: ideal,
            seconds,
            over_ideal: ideal.map(|ideal| seconds / ideal),
            events: Vec::new(),
            origin: OriginRecord {
                blob_bytes: log.blob_bytes(),
                sent: sent.remove(ORIGIN).unwrap_or_default().values().sum(),
                blob_requests: log.blob_requests(),
            },
            zones: zones.collect::<Result<_>>()?,
            nodes,
            samples,
            checks: Vec::new(),
        })
    }

    /// One sample per note of flows.
    fn samples(
        &self,
        looks: &BTreeMap<String, Looks>,
        flows: &[Flows],
        names: &BTreeMap<Ipv4Addr, String>,
    ) -> Vec<Sample> {
        let mut before = &self.flows;
        let mut samples = Vec::new();
        for (at, now) in flows {
            let held = looks.iter().filter_map(|(node, looks)| Some((node.clone(), held_at(looks, *at)?)));
            let since = now.iter().filter_map(|((from, to), bytes)| {
                let bytes = bytes - before.get(&(*from, *to)).unwrap_or(&0);
                let (from, to) = (names.get(from)?.clone(), names.get(to)?.clone());
                (bytes > 0).then_some(Flow { from, to, bytes })
            });
            samples.push(Sample { at: *at, held: held.collect(), flows: since.collect() });
            before = now;
        }
        samples
    }

    /// What was delivered in all: by receiver and sender, and by sender and receiver.
    fn totals(&self, flows: &[Flows], names: &BTreeMap<Ipv4Addr, String>) -> (Totals, Totals) {
        let (mut received, mut sent) = (Totals::new(), Totals::new());
        let Some((_, last)) = flows.last() else { return (received, sent) };
        for ((from, to), bytes) in last {
            let (Some(from_name), Some(to_name)) = (names.get(from), names.get(to)) else { continue };
            let bytes = bytes - self.flows.get(&(*from, *to)).unwrap_or(&0);
            received.entry(to_name.clone()).or_default().insert(from_name.clone(), bytes);
            sent.entry(from_name.clone()).or_default().insert(to_name.clone(), bytes);
        }
        (received, sent)
    }
}

/// Bytes by one end and the other.
type Totals = BTreeMap<String, BTreeMap<String, u64>>;

/// Who has which address.
fn names(cast: &Cast) -> BTreeMap<Ipv4Addr, String> {
    let nodes = cast.stage.nodes.iter().map(|node| (node.host().address(), node.id().to_owned()));
    nodes.chain([(cast.stage.registry.host().address(), ORIGIN.to_owned())]).collect()
}

/// What the last look before a moment saw, if that is not long ago.
fn held_at(looks: &[(f64, u64)], at: f64) -> Option<u64> {
    let next = looks.partition_point(|(seen, _)| *seen <= at);
    let (seen, held) = looks.get(next.checked_sub(1)?)?;
    (at - seen < FRESH).then_some(*held)
}

fn node_record(node: &str, part: &Part, looks: &[(f64, u64)]) -> NodeRecord {
    let first_byte = looks.iter().find(|(_, held)| *held > 0).map(|(at, _)| *at);
    NodeRecord {
        node: node.to_owned(),
        zone: part.zone.clone(),
        alive: part.state == State::Running,
        asked: part.asked,
        first_byte,
        finished: part.finished,
        stalled: stalled(looks, first_byte, part.finished),
        cpu_seconds: part.cpu_seconds,
        peak_rss_bytes: part.peak_rss_bytes,
        ..NodeRecord::default()
    }
}

/// The sum of all pauses between the first byte and the end.
fn stalled(looks: &[(f64, u64)], first_byte: Option<f64>, finished: Option<f64>) -> f64 {
    let Some(mut grown) = first_byte else { return 0.0 };
    let end = finished.or_else(|| looks.last().map(|(at, _)| *at)).unwrap_or(grown);
    let (first, mut most, mut total) = (grown, 0, 0.0);
    let pause = |since: f64, until: f64| if until - since >= STALL { until - since } else { 0.0 };
    for (at, held) in looks.iter().filter(|(at, _)| (first..=end).contains(at)) {
        if *held > most {
            total += pause(grown, *at);
            (most, grown) = (*held, *at);
        }
    }
    total + pause(grown, end)
}

/// The lines of level error in a node's log.
fn errors(node: &NodeProcess) -> Result<Vec<String>> {
    let is_error = |line: &&str| line.split_whitespace().take(3).any(|word| word == "ERROR");
    Ok(node.log_text()?.lines().filter(is_error).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_added_up() {
        let looks = [(0.0, 0), (0.1, 1), (0.2, 2), (0.9, 2), (1.0, 3), (1.3, 4), (3.0, 4)];
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{found}");
        close(stalled(&looks, Some(0.1), Some(1.4)), 0.8);
        close(stalled(&looks, Some(0.1), None), 0.8 + 1.7);
        close(stalled(&looks[..1], None, None), 0.0);
    }

    #[test]
    fn a_look_stands_for_a_moment() {
        let looks = [(1.0, 10), (2.0, 20)];
        assert_eq!(
            [0.5, 1.0, 1.9, 2.5, 9.0].map(|at| held_at(&looks, at)),
            [None, Some(10), Some(10), Some(20), None]
        );
    }
}
