//! Suspicion the SWIM way: who is silent, whom to probe, and when a member is given up.
//!
//! Das, Gupta, Motivala, "SWIM" (2002), with the failure detector's silence (or a broken data connection) as the
//! trigger. A suspect is probed directly, then through up to three others; any answer clears it, and a newer
//! incarnation starts afresh. Verdicts are each node's own: nobody is declared dead by hearsay, so a node cut off
//! from some members stays a member for the others and, through them, for those.
//!
//! Pure: it is told what was seen and says what to do; it sends nothing and reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::id::NodeId;

/// The times that suspicion goes by.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How long nothing must have been heard of a member before the failure detector's word is taken. Phi adapts to
    /// heartbeats that come every few tens of milliseconds; a pause of a busy machine is no news.
    pub silence: Duration,
    /// How long a direct probe may take. Range: above the round trip plus the pauses of a busy machine; longer makes
    /// detection slower.
    pub direct_timeout: Duration,
    /// How long a probe through others may take. They probe with `direct_timeout` themselves.
    pub indirect_timeout: Duration,
    /// How soon a member that gossip calls silent, though it answered a probe, is probed again.
    pub recheck: Duration,
    /// Through how many others a suspect is probed.
    pub helpers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            silence: Duration::from_millis(1_200),
            direct_timeout: Duration::from_millis(1_000),
            indirect_timeout: Duration::from_millis(1_200),
            recheck: Duration::from_secs(1),
            helpers: 3,
        }
    }
}

/// What gossip says of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// The newest incarnation heard of.
    pub incarnation: u64,
    /// Its heartbeat counter.
    pub heartbeat: u64,
    /// Whether the failure detector finds its heartbeats regular.
    pub regular: bool,
}

/// What we hold of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Heard of, or it answered.
    Alive,
    /// Being probed.
    Suspect,
    /// Given up, or never heard of properly: not a member.
    Dead,
}

/// What became of suspicions so far. Those that are still open have only been raised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Members that became suspect.
    pub raised: u64,
    /// Suspects that turned out to be alive.
    pub refuted: u64,
    /// Suspects that were given up.
    pub confirmed: u64,
}

impl Counts {
    fn note(&mut self, before: Verdict, after: Verdict) {
        match (before, after) {
            (Verdict::Alive, Verdict::Suspect) => self.raised += 1,
            (Verdict::Suspect, Verdict::Alive) => self.refuted += 1,
            (Verdict::Suspect, Verdict::Dead) => self.confirmed += 1,
            _ => {}
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the node itself, and report with [`Suspicion::answered`].
    Probe(NodeId),
    /// Ask up to [`Config::helpers`] others to ask it.
    ProbeThroughOthers(NodeId),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    incarnation: u64,
    heartbeat: u64,
    /// When the heartbeat last rose.
    heard: Duration,
    state: State,
}

/// Times count from an origin of the caller's. `heartbeat` is the count at the time of the suspicion or the death.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Not probed again before `probe_after`, even if gossip calls it silent.
    Alive {
        probe_after: Duration,
    },
    Direct {
        until: Duration,
        heartbeat: u64,
    },
    Indirect {
        until: Duration,
        heartbeat: u64,
    },
    Dead {
        heartbeat: u64,
    },
}

/// How many heartbeats past its suspicion or death prove a node alive. One or two may have been on their way, through
/// others, when it fell silent.
const HEARTBEATS_TO_RETURN: u64 = 3;

/// The state of all nodes ever heard of and not yet forgotten by gossip.
#[derive(Debug)]
pub struct Suspicion {
    config: Config,
    nodes: BTreeMap<NodeId, Entry>,
    counts: Counts,
}

impl Suspicion {
    /// Nobody known yet.
    pub fn new(config: Config) -> Self {
        Self { config, nodes: BTreeMap::new(), counts: Counts::default() }
    }

    /// Takes what gossip says of everybody at `now` and returns whom to probe. Nodes that gossip no longer knows are
    /// forgotten, so this holds no more nodes than gossip does.
    pub fn observe(&mut self, now: Duration, sightings: &BTreeMap<NodeId, Sighting>) -> Vec<Action> {
        self.nodes.retain(|node, _| sightings.contains_key(node));
        let mut actions = Vec::new();
        for (node, sighting) in sightings {
            let entry = self.nodes.entry(node.clone()).or_insert(Entry {
                incarnation: sighting.incarnation,
                heartbeat: sighting.heartbeat,
                heard: now,
                // Its state may be an old one, handed on by others: it lives once its heart is seen to beat.
                state: State::Dead { heartbeat: sighting.heartbeat },
            });
            let before = entry.state.verdict();
            if sighting.incarnation > entry.incarnation {
                *entry = Entry {
                    incarnation: sighting.incarnation,
                    heartbeat: sighting.heartbeat,
                    heard: now,
                    state: State::Alive { probe_after: now + self.config.recheck },
                };
            }
            if sighting.heartbeat > entry.heartbeat {
                entry.heartbeat = sighting.heartbeat;
                entry.heard = now;
            }
            let silent = !sighting.regular && now >= entry.heard + self.config.silence;
            actions.extend(entry.step(&self.config, now, node, silent));
            self.counts.note(before, entry.state.verdict());
        }
        actions
    }

    /// A connection to a node broke: probe it now, whatever gossip says. Returns the action if it was not under
    /// suspicion already.
    pub fn suspect(&mut self, now: Duration, node: &NodeId) -> Option<Action> {
        let entry = self.nodes.get_mut(node)?;
        let State::Alive { .. } = entry.state else { return None };
        entry.state = State::Direct { until: now + self.config.direct_timeout, heartbeat: entry.heartbeat };
        self.counts.note(Verdict::Alive, Verdict::Suspect);
        Some(Action::Probe(node.clone()))
    }

    /// A node answered, directly or through another, as this incarnation.
    pub fn answered(&mut self, now: Duration, node: &NodeId, incarnation: u64) {
        let Some(entry) = self.nodes.get_mut(node) else { return };
        // A newer incarnation than gossip's is left for gossip to bring, with the heartbeats that belong to it.
        if incarnation >= entry.incarnation {
            self.counts.note(entry.state.verdict(), Verdict::Alive);
            entry.state = State::Alive { probe_after: now + self.config.recheck };
        }
    }

    /// A direct probe came back without an answer: go on without waiting for its time to run out.
    pub fn not_reached(&mut self, now: Duration, node: &NodeId) {
        if let Some(Entry { state: State::Direct { until, .. }, .. }) = self.nodes.get_mut(node) {
            *until = now;
        }
    }

    /// What we hold of a node.
    pub fn verdict(&self, node: &NodeId) -> Verdict {
        self.nodes.get(node).map_or(Verdict::Dead, |entry| entry.state.verdict())
    }

    /// What became of suspicions so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

impl State {
    fn verdict(self) -> Verdict {
        match self {
            Self::Alive { .. } => Verdict::Alive,
            Self::Direct { .. } | Self::Indirect { .. } => Verdict::Suspect,
            Self::Dead { .. } => Verdict::Dead,
        }
    }
}

impl Entry {
    fn step(&mut self, config: &Config, now: Duration, node: &NodeId, silent: bool) -> Option<Action> {
        match self.state {
            State::Alive { probe_after } if silent && now >= probe_after => {
                let until = now + config.direct_timeout;
                self.state = State::Direct { until, heartbeat: self.heartbeat };
                Some(Action::Probe(node.clone()))
            }
            State::Direct { heartbeat, .. }
            | State::Indirect { heartbeat, .. }
            | State::Dead { heartbeat }
                if !silent && self.heartbeat >= heartbeat + HEARTBEATS_TO_RETURN =>
            {
                self.state = State::Alive { probe_after: now };
                None
            }
            State::Direct { until, heartbeat } if now >= until => {
                self.state = State::Indirect { until: now + config.indirect_timeout, heartbeat };
                Some(Action::ProbeThroughOthers(node.clone()))
            }
            State::Indirect { until, .. } if now >= until => {
                self.state = State::Dead { heartbeat: self.heartbeat };
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One node, driven by hand.
    struct Stage {
        suspicion: Suspicion,
        now: Duration,
        sighting: Sighting,
    }

    impl Stage {
        fn alive() -> Self {
            let sighting = Sighting { incarnation: 1, heartbeat: 1, regular: false };
            let mut stage =
                Self { suspicion: Suspicion::new(Config::default()), now: Duration::ZERO, sighting };
            assert_eq!(stage.after(0, true), []);
            assert_eq!(stage.verdict(), Verdict::Dead);
            stage.sighting.heartbeat += HEARTBEATS_TO_RETURN;
            assert_eq!(stage.after(200, true), []);
            assert_eq!(stage.verdict(), Verdict::Alive);
            stage
        }

        fn after(&mut self, ms: u64, regular: bool) -> Vec<Action> {
            self.now += Duration::from_millis(ms);
            self.sighting.regular = regular;
            self.suspicion.observe(self.now, &BTreeMap::from([(node(), self.sighting)]))
        }

        fn verdict(&self) -> Verdict {
            self.suspicion.verdict(&node())
        }
    }

    fn node() -> NodeId {
        "n1".parse().unwrap()
    }

    #[test]
    fn a_node_known_by_hearsay_alone_is_no_member() {
        let mut suspicion = Suspicion::new(Config::default());
        let stale = Sighting { incarnation: 1, heartbeat: 900, regular: true };
        suspicion.observe(Duration::ZERO, &BTreeMap::from([(node(), stale)]));
        assert_eq!(suspicion.verdict(&node()), Verdict::Dead);
    }

    #[test]
    fn silence_is_probed_directly_then_through_others_then_given_up() {
        let mut stage = Stage::alive();
        assert_eq!(stage.after(1500, false), [Action::Probe(node())]);
        assert_eq!(stage.verdict(), Verdict::Suspect);
        assert_eq!(stage.after(500, false), []);
        assert_eq!(stage.after(500, false), [Action::ProbeThroughOthers(node())]);
        assert_eq!(stage.verdict(), Verdict::Suspect);
        assert_eq!(stage.after(1500, false), []);
        assert_eq!(stage.verdict(), Verdict::Dead);
    }

    #[test]
    fn a_pause_that_phi_alone_would_call_death_is_no_suspicion() {
        let mut stage = Stage::alive();
        assert_eq!(stage.after(800, false), []);
        assert_eq!(stage.verdict(), Verdict::Alive);
    }

    #[test]
    fn an_answer_clears_a_suspect_and_it_is_asked_again_while_gossip_is_silent() {
        let mut stage = Stage::alive();
        stage.after(1500, false);
        stage.suspicion.answered(stage.now, &node(), 1);
        assert_eq!(stage.verdict(), Verdict::Alive);
        assert_eq!(stage.after(500, false), []);
        assert_eq!(stage.after(500, false), [Action::Probe(node())]);
    }

    #[test]
    fn an_answer_from_an_older_incarnation_proves_nothing() {
        let mut stage = Stage::alive();
        stage.after(1500, false);
        stage.suspicion.answered(stage.now, &node(), 0);
        assert_eq!(stage.verdict(), Verdict::Suspect);
    }

    #[test]
    fn a_newer_incarnation_refutes_at_once() {
        let mut stage = Stage::alive();
        for wait in [1500, 1000, 1500] {
            stage.after(wait, false);
        }
        assert_eq!(stage.verdict(), Verdict::Dead);
        stage.sighting = Sighting { incarnation: 2, heartbeat: 1, regular: false };
        stage.after(100, false);
        assert_eq!(stage.verdict(), Verdict::Alive);
    }

    #[test]
    fn a_restart_that_a_probe_notices_first_is_not_held_to_the_heartbeats_before() {
        let mut stage = Stage::alive();
        stage.sighting.heartbeat = 900;
        stage.after(1500, false);
        stage.suspicion.answered(stage.now, &node(), 2);
        stage.sighting = Sighting { incarnation: 2, heartbeat: 3, regular: true };
        stage.after(2000, true);
        assert_eq!(stage.verdict(), Verdict::Alive);
        stage.suspicion.suspect(stage.now, &node());
        stage.sighting.heartbeat += HEARTBEATS_TO_RETURN;
        stage.after(100, true);
        assert_eq!(stage.verdict(), Verdict::Alive);
    }

    #[test]
    fn heartbeats_that_were_on_their_way_do_not_raise_the_dead() {
        let mut stage = Stage::alive();
        stage.suspicion.suspect(stage.now, &node());
        stage.suspicion.not_reached(stage.now, &node());
        assert_eq!(stage.after(1, true), [Action::ProbeThroughOthers(node())]);
        stage.after(1500, true);
        assert_eq!(stage.verdict(), Verdict::Dead);
        stage.sighting.heartbeat += 1;
        stage.after(100, true);
        assert_eq!(stage.verdict(), Verdict::Dead);
        stage.sighting.heartbeat += HEARTBEATS_TO_RETURN;
        stage.after(100, true);
        assert_eq!(stage.verdict(), Verdict::Alive);
    }

    #[test]
    fn it_is_counted_what_became_of_suspicions() {
        let mut stage = Stage::alive();
        let count = |stage: &Stage| {
            let Counts { raised, refuted, confirmed } = stage.suspicion.counts();
            (raised, refuted, confirmed)
        };
        assert_eq!(count(&stage), (0, 0, 0), "a first sight is no refutation");
        stage.after(1500, false);
        assert_eq!(count(&stage), (1, 0, 0), "silence");
        stage.suspicion.answered(stage.now, &node(), 1);
        stage.suspicion.answered(stage.now, &node(), 1);
        assert_eq!(count(&stage), (1, 1, 0), "an answer, once");
        stage.suspicion.suspect(stage.now, &node());
        stage.suspicion.suspect(stage.now, &node());
        assert_eq!(count(&stage), (2, 1, 0), "a broken connection, once");
        stage.sighting.heartbeat += HEARTBEATS_TO_RETURN;
        stage.after(100, true);
        assert_eq!(count(&stage), (2, 2, 0), "heartbeats");
        for wait in [1500, 1000, 1500] {
            stage.after(wait, false);
        }
        assert_eq!(count(&stage), (3, 2, 1), "silence to the end");
        stage.sighting = Sighting { incarnation: 2, heartbeat: 1, regular: true };
        stage.after(100, true);
        assert_eq!(count(&stage), (3, 2, 1), "who was given up and returns was not suspect");
    }

    #[test]
    fn a_broken_connection_makes_a_suspect_once() {
        let mut stage = Stage::alive();
        assert_eq!(stage.suspicion.suspect(stage.now, &node()), Some(Action::Probe(node())));
        assert_eq!(stage.suspicion.suspect(stage.now, &node()), None);
        assert_eq!(stage.suspicion.suspect(stage.now, &"stranger".parse().unwrap()), None);
    }
}
