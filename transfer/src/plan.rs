//! Where the next blocks of a blob come from.
//!
//! In this order: the parent that the function's tree gives; the next ancestors; a participant that holds everything;
//! another Join, in case the greeter knows more; the origin. Who did not serve is left alone for a while. Pure: the
//! lineage, what went wrong and the time are arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use membership::NodeId;
use membership::greeter::Lineage;
use membership::view::Contact;

/// How a source came to serve no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It has nothing for us now, or too much to do.
    NothingForUs,
    /// It broke off, fell silent or could not be reached.
    Broken,
    /// It leaves the cluster.
    Leaving,
    /// It sent bytes that are not what it says they are.
    Corrupt,
}

impl Failure {
    /// How long to do without that source.
    const fn penalty(self) -> Duration {
        match self {
            // It may have more in a moment, and asking costs a round trip.
            Self::NothingForUs => Duration::from_secs(2),
            // As long as membership takes to find a dead node dead, and a busy one to recover.
            Self::Broken => Duration::from_secs(10),
            Self::Leaving => Duration::from_secs(60),
            Self::Corrupt => Duration::from_secs(600),
        }
    }
}

/// How long to wait after the n-th failure of the origin in a row, which has been retrying on its own before.
const ORIGIN_WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5), Duration::from_secs(10)];

/// How soon to look again when all who could be asked are under suspicion. The verdict takes membership two seconds when
/// they are gone, and a round trip when they are not.
const VERDICT_PAUSE: Duration = Duration::from_millis(100);

/// What went wrong so far while a function's blobs were fetched. Times count from an origin of the caller's.
#[derive(Debug, Default)]
pub struct Past {
    shunned: BTreeMap<NodeId, Shunned>,
    joined_again: bool,
    origin_failures: usize,
    origin_not_before: Duration,
}

/// A node that is left alone.
#[derive(Debug)]
struct Shunned {
    until: Duration,
    failure: Failure,
    /// The incarnation that failed, as far as it was known.
    incarnation: Option<u64>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Fetch from this node.
    Peer(Contact),
    /// Join the function again.
    Rejoin,
    /// Read from the origin.
    Origin,
    /// Nobody can be asked before that long; then ask again.
    Wait(Duration),
    /// Everything was tried, again and again.
    GiveUp,
}

impl Past {
    /// Takes note of the failure at `now` of a source, which had that incarnation when it was asked.
    pub fn failed(&mut self, node: &NodeId, incarnation: Option<u64>, failure: Failure, now: Duration) {
        let until = now + failure.penalty();
        if self.shunned.get(node).is_none_or(|known| known.until < until) {
            self.shunned.insert(node.clone(), Shunned { until, failure, incarnation });
        }
    }

    /// Forgives those that have restarted since they failed: that they broke off says nothing of what they can do now. What
    /// they hold is what it was.
    pub fn forgive_restarted(&mut self, incarnation: impl Fn(&NodeId) -> Option<u64>) {
        self.shunned.retain(|node, shunned| {
            let has_restarted = has_restarted(shunned.incarnation, incarnation(node));
            shunned.failure == Failure::Corrupt || !has_restarted
        });
    }

    /// Whether that node had nothing for us when it last failed: for another look no read from the origin is broken off.
    pub fn had_nothing(&self, node: &NodeId) -> bool {
        self.shunned.get(node).is_some_and(|shunned| shunned.failure == Failure::NothingForUs)
    }

    /// Takes note of a failure of the origin at `now`, after its own retries.
    pub fn origin_failed(&mut self, now: Duration) {
        let wait = ORIGIN_WAITS[self.origin_failures.min(ORIGIN_WAITS.len() - 1)];
        self.origin_failures += 1;
        self.origin_not_before = now + wait;
        // Another node may have become the better answer meanwhile.
        self.joined_again = false;
    }

    /// Takes note that the origin will not have it: asking again is no use.
    pub fn origin_refused(&mut self) {
        self.origin_failures = ORIGIN_WAITS.len() + 1;
    }

    /// The origin may be asked again, whatever it said.
    pub fn forgive_origin(&mut self) {
        self.origin_failures = 0;
    }

    /// Takes note that bytes arrived.
    pub fn progressed(&mut self) {
        self.origin_failures = 0;
        self.joined_again = false;
    }

    /// Takes note of another Join.
    pub fn rejoined(&mut self) {
        self.joined_again = true;
    }

    /// The nodes to do without at `now`.
    pub fn shunned(&self, now: Duration) -> Vec<NodeId> {
        self.shunned.iter().filter(|(_, shunned)| shunned.until > now).map(|(node, _)| node.clone()).collect()
    }
}

/// Whether a node whose incarnation was the one is another process by now. What is not known is taken for no.
pub fn has_restarted(before: Option<u64>, now: Option<u64>) -> bool {
    before.is_some() && now.is_some() && before != now
}

/// The next step at `now`. `lineage` is derived without [`Past::shunned`]; `suspects` are members under suspicion;
/// `has_origin` tells whether there is an origin to ask.
pub fn next(lineage: &Lineage, suspects: &[NodeId], past: &Past, has_origin: bool, now: Duration) -> Step {
    let candidates = lineage.ancestors.iter().chain(&lineage.ready);
    if let Some(peer) = candidates.clone().find(|contact| !suspects.contains(&contact.node)) {
        return Step::Peer(peer.clone());
    }
    let all_suspect = candidates.count() > 0;
    let somebody_failed = !past.shunned(now).is_empty() || all_suspect || past.origin_failures > 0;
    if somebody_failed && !past.joined_again {
        return Step::Rejoin;
    }
    if all_suspect {
        return Step::Wait(VERDICT_PAUSE);
    }
    if past.origin_failures > ORIGIN_WAITS.len() || (!has_origin && !somebody_failed) {
        return Step::GiveUp;
    }
    if has_origin && now >= past.origin_not_before {
        return Step::Origin;
    }
    let next_origin = has_origin.then_some(past.origin_not_before);
    let next_peer = past.shunned.values().map(|shunned| shunned.until).filter(|until| *until > now).min();
    match next_origin.into_iter().chain(next_peer).min() {
        Some(at) => Step::Wait(at.saturating_sub(now).max(Duration::from_millis(100))),
        None => Step::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use membership::Stamp;
    use membership::view::ParticipationState;

    use super::*;

    fn contact(name: &str) -> Contact {
        Contact {
            node: name.parse().unwrap(),
            addr: ([127, 0, 0, 1], 1).into(),
            zone: membership::Zone::default(),
            stamp: Stamp::default(),
            state: ParticipationState::Provisioning,
        }
    }

    fn lineage(ancestors: &[&str], ready: &[&str]) -> Lineage {
        let contacts = |names: &[&str]| names.iter().map(|name| contact(name)).collect();
        Lineage { ancestors: contacts(ancestors), ready: contacts(ready) }
    }

    const NOW: Duration = Duration::from_secs(100);

    fn check(lineage: &Lineage, suspects: &[&str], past: &Past, expected: &Step) {
        let suspects: Vec<NodeId> = suspects.iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(&next(lineage, &suspects, past, true, NOW), expected);
    }

    #[test]
    fn sources_are_taken_in_order() {
        let fresh = Past::default();
        check(&lineage(&["parent", "root"], &["holder"]), &[], &fresh, &Step::Peer(contact("parent")));
        check(&lineage(&["parent", "root"], &["holder"]), &["parent"], &fresh, &Step::Peer(contact("root")));
        check(&lineage(&[], &["holder"]), &[], &fresh, &Step::Peer(contact("holder")));
        check(&lineage(&[], &[]), &[], &fresh, &Step::Origin);
        check(&lineage(&["parent"], &[]), &["parent"], &fresh, &Step::Rejoin);
    }

    #[test]
    fn who_lost_its_parent_joins_again_before_it_asks_the_origin() {
        let mut past = Past::default();
        past.failed(&"parent".parse().unwrap(), None, Failure::Broken, NOW);
        check(&lineage(&[], &[]), &[], &past, &Step::Rejoin);
        past.rejoined();
        check(&lineage(&["brother"], &[]), &[], &past, &Step::Peer(contact("brother")));
        check(&lineage(&[], &[]), &[], &past, &Step::Origin);
    }

    #[test]
    fn while_all_are_suspects_the_verdict_is_awaited() {
        let mut past = Past::default();
        past.rejoined();
        check(&lineage(&["parent"], &["holder"]), &["parent", "holder"], &past, &Step::Wait(VERDICT_PAUSE));
        check(&lineage(&["parent"], &["holder"]), &["parent"], &past, &Step::Peer(contact("holder")));
    }

    #[test]
    fn the_origin_is_left_alone_for_longer_each_time_and_given_up_in_the_end() {
        let mut past = Past::default();
        let mut now = NOW;
        for wait in ORIGIN_WAITS {
            assert_eq!(next(&lineage(&[], &[]), &[], &past, true, now), Step::Origin);
            past.origin_failed(now);
            past.rejoined();
            assert_eq!(next(&lineage(&[], &[]), &[], &past, true, now), Step::Wait(wait));
            now += wait;
        }
        past.origin_failed(now);
        past.rejoined();
        assert_eq!(next(&lineage(&[], &[]), &[], &past, true, now), Step::GiveUp);
    }

    #[test]
    fn progress_forgives_the_origin_and_time_forgives_peers() {
        let mut past = Past::default();
        past.origin_failed(NOW);
        past.progressed();
        assert_eq!(past.origin_failures, 0);
        let node: NodeId = "slow".parse().unwrap();
        past.failed(&node, None, Failure::NothingForUs, NOW);
        assert_eq!(past.shunned(NOW), [node]);
        assert!(past.shunned(NOW + Duration::from_secs(3)).is_empty());
    }

    #[test]
    fn with_no_origin_and_nobody_to_ask_it_gives_up() {
        assert_eq!(next(&lineage(&[], &[]), &[], &Past::default(), false, NOW), Step::GiveUp);
    }

    #[test]
    fn who_has_restarted_is_asked_again_at_once_unless_it_lied() {
        for (failure, before, now, shunned) in [
            (Failure::Broken, Some(1), Some(2), false),
            (Failure::Leaving, Some(1), Some(2), false),
            (Failure::Corrupt, Some(1), Some(2), true),
            (Failure::Broken, Some(1), Some(1), true),
            // Gone, or not known when it failed.
            (Failure::Broken, Some(1), None, true),
            (Failure::Broken, None, Some(1), true),
        ] {
            let mut past = Past::default();
            past.failed(&"parent".parse().unwrap(), before, failure, NOW);
            past.forgive_restarted(|_| now);
            assert_eq!(!past.shunned(NOW).is_empty(), shunned, "{failure:?} {before:?} {now:?}");
        }
    }
}
