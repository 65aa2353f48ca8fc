//! The nodes of a scenario while it is played: who runs, who was asked for the image, who has it; and who is meant by a word.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::lab::client::{Place, Pulled};
use crate::lab::netns::{Host, Zone};
use crate::lab::process::wait_until;
use crate::lab::scenario::words::Who;
use crate::lab::scenario::{Group, Scenario};
use crate::lab::stage::{Site, Stage};

/// How a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It runs.
    Running,
    /// It is stopped, and may go on.
    Frozen,
    /// It was killed, and may come back.
    Dead,
    /// It said goodbye.
    Left,
}

/// One node's part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) state: State,
    pub(super) zone: Option<String>,
    /// When it was first asked for the image.
    pub(super) asked: Option<f64>,
    /// When it had it.
    pub(super) finished: Option<f64>,
    /// Why it has failed, if it was asked and said so.
    pub(super) failed: Option<String>,
    /// Which of its pulls counts: one that began before it was killed does not.
    pull: u32,
    pub(super) cpu_seconds: f64,
    pub(super) peak_rss_bytes: u64,
}

impl Part {
    /// Whether its pull goes on, or is to go on as soon as it is started again.
    fn is_busy(&self) -> bool {
        self.state == State::Running
            && self.asked.is_some()
            && self.finished.is_none()
            && self.failed.is_none()
    }
}

/// How a pull ended.
struct Outcome {
    node: usize,
    pull: u32,
    at: f64,
    pulled: Result<Pulled>,
}

/// All nodes, and what they stand on.
pub(super) struct Cast {
    pub(super) stage: Stage,
    pub(super) parts: Vec<Part>,
    zones: Vec<Zone>,
    pub(super) reference: String,
    start: Instant,
    limit: Duration,
    outcomes: (Sender<Outcome>, Receiver<Outcome>),
}

impl Cast {
    /// The nodes of a scenario on a stage that has none yet: ready, and known to each other.
    pub(super) fn new(stage: Stage, scenario: &Scenario) -> Result<Self> {
        let zones = scenario
            .zones
            .iter()
            .map(|zone| stage.network.zone(&zone.name, &zone.link))
            .collect::<Result<_>>()?;
        let mut cast = Self {
            stage,
            parts: Vec::new(),
            zones,
            reference: String::new(),
            start: Instant::now(),
            limit: scenario.bounds.limit,
            outcomes: mpsc::channel(),
        };
        for index in 0..scenario.node_count() {
            cast.add(scenario.group_of(index))?;
        }
        cast.stage.wait_acquainted()?;
        Ok(cast)
    }

    /// The clock starts: the first event is now.
    pub(super) fn begin(&mut self, reference: String) {
        (self.reference, self.start) = (reference, Instant::now());
    }

    /// Seconds since the first event.
    pub(super) fn now(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// When the first event was.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    /// Starts one more node, without waiting for it. Gives its index.
    pub(super) fn add(&mut self, group: &Group) -> Result<usize> {
        let zone = group.zone.as_ref().map(|name| self.zone(name)).transpose()?;
        let site = Site { zone, link: group.link, disk: group.disk };
        let index = self.stage.start_node_at(&site)?;
        self.parts.push(Part {
            state: State::Running,
            zone: group.zone.clone(),
            asked: None,
            finished: None,
            failed: None,
            pull: 0,
            cpu_seconds: 0.0,
            peak_rss_bytes: 0,
        });
        Ok(index)
    }

    /// A zone, by its name.
    pub(super) fn zone(&self, name: &str) -> Result<Zone> {
        let zone = self.zones.iter().find(|zone| zone.name() == name);
        zone.cloned().with_context(|| format!("there is no zone {name}"))
    }

    /// All zones.
    pub(super) fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// Asks a node for the image as soon as it is ready.
    pub(super) fn pull(&mut self, index: usize) {
        let now = self.now();
        let part = &mut self.parts[index];
        part.asked.get_or_insert(now);
        (part.finished, part.failed) = (None, None);
        part.pull += 1;
        let (pull, start, limit) = (part.pull, self.start, self.limit);
        let (client, reference) = (self.stage.nodes[index].ask().clone(), self.reference.clone());
        let outcomes = self.outcomes.0.clone();
        thread::spawn(move || {
            let ready = wait_until("the node to be ready", limit, || Ok(client.is_ready().then_some(())));
            let pulled = ready.and_then(|()| client.provision(&reference, limit));
            let at = start.elapsed().as_secs_f64();
            // Nobody listens any more once the run is over.
            let _ = outcomes.send(Outcome { node: index, pull, at, pulled });
        });
    }

    /// Takes note of the pulls that have ended.
    pub(super) fn collect(&mut self) {
        while let Ok(outcome) = self.outcomes.1.try_recv() {
            let part = &mut self.parts[outcome.node];
            if part.pull != outcome.pull || matches!(part.state, State::Dead | State::Left) {
                continue;
            }
            match outcome.pulled {
                Ok(pulled) if pulled.state == "ready" => part.finished = Some(outcome.at),
                Ok(pulled) => part.failed = Some(format!("its pull ended as {}", pulled.state)),
                Err(error) => part.failed = Some(format!("{error:#}")),
            }
        }
    }

    /// The nodes whose pulls are waited for.
    pub(super) fn busy(&self) -> Vec<String> {
        let busy: Vec<usize> = (0..self.parts.len()).filter(|index| self.parts[*index].is_busy()).collect();
        self.names(&busy)
    }

    /// Kills a node.
    pub(super) fn kill(&mut self, index: usize) -> Result<()> {
        self.take_usage(index);
        self.stage.nodes[index].kill()?;
        self.parts[index].state = State::Dead;
        Ok(())
    }

    /// Has a node say goodbye, and waits until it has ended.
    pub(super) fn leave(&mut self, index: usize) -> Result<()> {
        self.take_usage(index);
        self.stage.nodes[index].terminate()?;
        self.stage.nodes[index].wait_ended(self.limit)?;
        self.parts[index].state = State::Left;
        Ok(())
    }

    /// Starts a node again that was killed or has left, and asks it again for what it had been asked for.
    pub(super) fn restart(&mut self, index: usize) -> Result<()> {
        self.stage.nodes[index].restart()?;
        self.parts[index].state = State::Running;
        if self.parts[index].asked.is_some() {
            self.pull(index);
        }
        Ok(())
    }

    /// Notes what the process of a node has used, since that is gone with it.
    pub(super) fn take_usage(&mut self, index: usize) {
        let (node, part) = (&self.stage.nodes[index], &mut self.parts[index]);
        part.cpu_seconds += node.cpu_time().unwrap_or_default().as_secs_f64();
        part.peak_rss_bytes = part.peak_rss_bytes.max(node.peak_memory().unwrap_or_default());
    }

    /// The nodes that are meant. Roles in the tree are asked of a node that runs.
    pub(super) fn who(&self, who: &[Who], random: &mut StdRng) -> Result<Vec<usize>> {
        let mut meant = Vec::new();
        for who in who {
            let some = self.one(who, random)?;
            meant.extend(some.into_iter().filter(|index| !meant.contains(index)).collect::<Vec<_>>());
        }
        Ok(meant)
    }

    fn one(&self, who: &Who, random: &mut StdRng) -> Result<Vec<usize>> {
        let in_state = |state| -> Vec<usize> {
            (0..self.parts.len()).filter(|index| self.parts[*index].state == state).collect()
        };
        let running = in_state(State::Running);
        let any = |candidates: Vec<usize>, random: &mut StdRng| {
            candidates
                .choose(random)
                .map(|index| vec![*index])
                .with_context(|| format!("no node is {who} now"))
        };
        Ok(match who {
            Who::All => running,
            Who::Dead => in_state(State::Dead),
            Who::Frozen => in_state(State::Frozen),
            Who::Next => {
                let next = running.into_iter().find(|index| self.parts[*index].asked.is_none());
                vec![next.context("every node that runs was asked for the image already")?]
            }
            Who::Random => any(running, random)?,
            Who::Root => any(self.in_tree(&running, |place, _| place.parent.is_none())?, random)?,
            Who::Inner => {
                any(self.in_tree(&running, |place, feeds| place.parent.is_some() && feeds)?, random)?
            }
            Who::Leaf => {
                any(self.in_tree(&running, |place, feeds| place.parent.is_some() && !feeds)?, random)?
            }
            Who::Numbers(first, last) => {
                ensure!(*last <= self.parts.len(), "there is no n{last} yet");
                (first - 1..*last).collect()
            }
            Who::Zone(zone) => {
                running.into_iter().filter(|index| self.parts[*index].zone.as_ref() == Some(zone)).collect()
            }
            Who::Origin => bail!("the origin is no node"),
        })
    }

    /// Of these nodes, those whose place in the tree is such; the second argument tells whether they feed others.
    fn in_tree(&self, of: &[usize], is_such: impl Fn(&Place, bool) -> bool) -> Result<Vec<usize>> {
        let asked = of
            .iter()
            .find(|index| self.parts[**index].asked.is_some())
            .context("nobody has been asked for the image")?;
        let tree = self.stage.nodes[*asked].ask().tree(&self.reference)?;
        let feeds = |node: &str| tree.iter().any(|place| place.parent.as_deref() == Some(node));
        let such = tree.iter().filter(|place| is_such(place, feeds(&place.node)));
        let such = such.map(|place| self.stage.index_of(&place.node)).collect::<Result<Vec<usize>>>()?;
        Ok(such.into_iter().filter(|index| of.contains(index)).collect())
    }

    /// The hosts that are meant, the registry's too.
    pub(super) fn hosts(&self, who: &[Who], random: &mut StdRng) -> Result<Vec<Host>> {
        let (origin, nodes): (Vec<Who>, Vec<Who>) = who.iter().cloned().partition(|who| *who == Who::Origin);
        let mut hosts: Vec<Host> = self
            .who(&nodes, random)?
            .into_iter()
            .map(|index| self.stage.nodes[index].host().clone())
            .collect();
        if !origin.is_empty() {
            hosts.push(self.stage.registry.host().clone());
        }
        Ok(hosts)
    }

    /// The names of these nodes.
    pub(super) fn names(&self, indices: &[usize]) -> Vec<String> {
        indices.iter().map(|index| self.stage.nodes[*index].id().to_owned()).collect()
    }
}
