//! The greeter: who takes part in which function, as far as this node knows, and the places in the tree that follow.
//!
//! Gossip takes a second to spread and a burst takes milliseconds, so those whom this node greeted, or was told of
//! in a greeting, are remembered for a while and laid over the view. What a member has published itself wins, but for the
//! news that it holds everything by now.
//!
//! Nothing is decided here: a greeter that knows more only answers better. Two greeters that disagree give two trees
//! which both follow seniority, so parents never loop (see [`crate::tree`]). Pure: views and times are arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::id::{FunctionId, NodeId, Zone};
use crate::stamp::{HybridClock, Seniority, Stamp};
use crate::tree::{Participant, Tree};
use crate::view::{Contact, MemberState, ParticipationState, View};
use crate::wire::{Joined, MAX_CONTACTS};

/// How long a greeting is remembered without gossip to confirm it, in milliseconds: many times what gossip takes.
pub const GREETING_TTL_MS: u64 = 30_000;

/// Most greetings remembered at once over all functions, some 150 bytes each. Past that the oldest are forgotten,
/// which costs the nodes they name at most an extra pull from the origin.
pub const MAX_GREETINGS: usize = 50_000;

/// How many ready holders a joiner is told of.
const READY_TOLD: usize = 8;

/// What this node knows of the participants beyond its view.
#[derive(Debug, Default)]
pub struct Greeter {
    clock: HybridClock,
    greetings: BTreeMap<FunctionId, BTreeMap<NodeId, Greeting>>,
    /// The same, by the time of the greeting.
    by_age: BTreeSet<(u64, FunctionId, NodeId)>,
}

#[derive(Debug)]
struct Greeting {
    contact: Contact,
    at_ms: u64,
}

/// A node that wants its place in a function's tree.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// Who it is.
    pub node: NodeId,
    /// Where it can be reached.
    pub addr: SocketAddr,
    /// Its zone.
    pub zone: Zone,
    /// What it has of an earlier join.
    pub seniority: Seniority,
    /// Nodes that did not serve it.
    pub avoid: Vec<NodeId>,
}

impl Joiner {
    /// The joiner as others know it, once it has its stamp.
    pub fn contact(&self, stamp: Stamp) -> Contact {
        Contact {
            node: self.node.clone(),
            addr: self.addr,
            zone: self.zone.clone(),
            stamp,
            state: ParticipationState::Provisioning,
        }
    }
}

impl Greeter {
    /// Gives a joiner its stamp and its place. `now_ms` is the wall clock.
    pub fn greet(&mut self, function: FunctionId, joiner: &Joiner, view: &View, now_ms: u64) -> Joined {
        for contact in view.participants(&function) {
            self.clock.observe(contact.stamp, now_ms);
        }
        let stamp = match joiner.seniority {
            Seniority::Kept(stamp) => stamp,
            Seniority::New => self.stamp_after(None, function, joiner, view, now_ms),
            Seniority::GivenUp(stamp) => self.stamp_after(Some(stamp), function, joiner, view, now_ms),
        };
        let contact = joiner.contact(stamp);
        self.remember(function, contact, now_ms);
        let lineage = self.lineage(&function, &joiner.node, view, &joiner.avoid);
        Joined { stamp, ancestors: lineage.ancestors, ready: lineage.ready }
    }

    /// The stamp that the joiner is known to have, if it is later than the one it gave up, or else a new one.
    fn stamp_after(
        &mut self,
        given_up: Option<Stamp>,
        function: FunctionId,
        joiner: &Joiner,
        view: &View,
        now_ms: u64,
    ) -> Stamp {
        let participants = self.participants(&function, view);
        let known = participants.iter().find(|known| known.node == joiner.node).map(|known| known.stamp);
        if let Some(stamp) = given_up {
            self.clock.observe(stamp, now_ms);
        }
        known.filter(|known| Some(*known) > given_up).unwrap_or_else(|| self.clock.tick(now_ms))
    }

    /// Takes note of a participant that another greeting named.
    pub fn remember(&mut self, function: FunctionId, contact: Contact, now_ms: u64) {
        self.clock.observe(contact.stamp, now_ms);
        self.forget(function, &contact.node);
        self.by_age.insert((now_ms, function, contact.node.clone()));
        self.greetings
            .entry(function)
            .or_default()
            .insert(contact.node.clone(), Greeting { contact, at_ms: now_ms });
        self.forget_old(now_ms);
    }

    /// Takes note that the view has changed. Once gossip tells that a member takes part, it is gossip that tells when it
    /// no longer does; and a member that leaves or is gone takes part in nothing.
    pub fn follow(&mut self, old: &View, new: &View) {
        let news =
            new.members().filter(|member| !old.get(&member.node).is_some_and(|was| Arc::ptr_eq(was, member)));
        for member in news {
            if member.state == MemberState::Leaving {
                self.forget_everywhere(&member.node);
            }
            for function in member.functions.keys() {
                self.forget(*function, &member.node);
            }
        }
        for member in old.members().filter(|member| new.get(&member.node).is_none()) {
            self.forget_everywhere(&member.node);
        }
    }

    fn forget_everywhere(&mut self, node: &NodeId) {
        let functions: Vec<_> = self.greetings.keys().copied().collect();
        for function in functions {
            self.forget(function, node);
        }
    }

    /// Forgets one participant, which has left the function.
    pub fn forget(&mut self, function: FunctionId, node: &NodeId) {
        let Some(greeted) = self.greetings.get_mut(&function) else { return };
        if let Some(old) = greeted.remove(node) {
            self.by_age.remove(&(old.at_ms, function, node.clone()));
        }
        if greeted.is_empty() {
            self.greetings.remove(&function);
        }
    }

    fn forget_old(&mut self, now_ms: u64) {
        while let Some((at_ms, function, node)) = self.by_age.first().cloned() {
            if at_ms + GREETING_TTL_MS > now_ms && self.by_age.len() <= MAX_GREETINGS {
                break;
            }
            self.forget(function, &node);
        }
    }

    /// Everybody known to take part in a function, most senior first.
    pub fn participants(&self, function: &FunctionId, view: &View) -> Vec<Contact> {
        let greeted = self.greetings.get(function).into_iter().flatten();
        let leaving =
            |node: &NodeId| view.get(node).is_some_and(|member| member.state == MemberState::Leaving);
        let mut all: BTreeMap<NodeId, Contact> = greeted
            .filter(|(node, _)| !leaving(node))
            .map(|(node, greeting)| (node.clone(), greeting.contact.clone()))
            .collect();
        for contact in view.participants(function) {
            // It joined anew since it published that, or is ready by now.
            let is_newer = |known: &Contact| {
                let is_ready = |contact: &Contact| contact.state == ParticipationState::Ready;
                (known.stamp, is_ready(known)) > (contact.stamp, is_ready(&contact))
            };
            if !all.get(&contact.node).is_some_and(is_newer) {
                all.insert(contact.node.clone(), contact);
            }
        }
        let mut all: Vec<Contact> = all.into_values().collect();
        all.sort_by(|a, b| (a.stamp, &a.node).cmp(&(b.stamp, &b.node)));
        all
    }

    /// The function's tree over everybody known.
    pub fn tree(&self, function: &FunctionId, view: &View) -> Tree {
        derive(function, &self.participants(function, view))
    }

    /// From whom `node` can fetch, doing without those in `avoid`.
    pub fn lineage(&self, function: &FunctionId, node: &NodeId, view: &View, avoid: &[NodeId]) -> Lineage {
        let mut participants = self.participants(function, view);
        participants.retain(|contact| contact.node == *node || !avoid.contains(&contact.node));
        let tree = derive(function, &participants);
        let contact = |node: &NodeId| participants.iter().find(|contact| contact.node == *node).cloned();
        let ancestors = tree.ancestors(node).take(MAX_CONTACTS).filter_map(contact).collect();
        let ready: BTreeMap<&NodeId, &Contact> = participants
            .iter()
            .filter(|contact| contact.node != *node && contact.state == ParticipationState::Ready)
            .map(|contact| (&contact.node, contact))
            .collect();
        // Each node has its own order of preference, so that the holders share the load.
        let order = crate::rendezvous::order(node.as_str().as_bytes(), ready.keys().copied());
        let ready = order.into_iter().take(READY_TOLD).map(|node| ready[node].clone()).collect();
        Lineage { ancestors, ready }
    }
}

fn derive(function: &FunctionId, participants: &[Contact]) -> Tree {
    let participants = participants.iter().map(|contact| Participant {
        node: contact.node.clone(),
        stamp: contact.stamp,
        zone: contact.zone.clone(),
    });
    Tree::derive(function, 0, participants)
}

/// From whom a participant can fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Its ancestors, parent first; empty for the root.
    pub ancestors: Vec<Contact>,
    /// Some participants that hold everything, in this participant's own order of preference.
    pub ready: Vec<Contact>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::{Member, Participation};

    const FUNCTION: FunctionId = FunctionId::from_bytes([7; 32]);

    fn node(i: usize) -> NodeId {
        format!("n{i}").parse().unwrap()
    }

    fn joiner(i: usize) -> Joiner {
        let addr = SocketAddr::from(([10, 0, 0, 1], u16::try_from(i).unwrap()));
        Joiner { node: node(i), addr, zone: Zone::default(), seniority: Seniority::New, avoid: Vec::new() }
    }

    fn view_of(published: &[(usize, Participation)]) -> View {
        let members = published.iter().map(|(i, participation)| {
            Arc::new(Member {
                node: node(*i),
                incarnation: 1,
                addr: joiner(*i).addr,
                zone: Zone::default(),
                state: MemberState::Alive,
                version: String::new(),
                functions: BTreeMap::from([(FUNCTION, *participation)]),
                holds: BTreeMap::new(),
            })
        });
        View::new(node(0), members)
    }

    #[test]
    fn a_burst_gets_one_root_before_gossip_has_said_anything() {
        let mut greeter = Greeter::default();
        let view = view_of(&[]);
        let joined: Vec<_> = (0..8).map(|i| greeter.greet(FUNCTION, &joiner(i), &view, 1000)).collect();
        assert!(joined.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));
        let roots = joined.iter().filter(|joined| joined.ancestors.is_empty()).count();
        assert_eq!(roots, 1);
        for joined in &joined[1..] {
            assert_eq!(joined.ancestors.last().unwrap().node, node(0));
        }
    }

    #[test]
    fn who_joins_again_keeps_its_stamp() {
        let mut greeter = Greeter::default();
        let view = view_of(&[]);
        let first = greeter.greet(FUNCTION, &joiner(1), &view, 1000);
        assert_eq!(greeter.greet(FUNCTION, &joiner(1), &view, 2000).stamp, first.stamp);
        let stamp = Stamp { wall_ms: 5, logical: 5 };
        let with_own = Joiner { seniority: Seniority::Kept(stamp), ..joiner(2) };
        assert_eq!(greeter.greet(FUNCTION, &with_own, &view, 2000).stamp, stamp);
    }

    #[test]
    fn who_gave_up_its_place_gets_the_last_one_even_where_its_old_one_is_still_published() {
        let old = Stamp { wall_ms: 1000, logical: 0 };
        let published = |i, logical| {
            (i, Participation { stamp: Stamp { logical, ..old }, state: ParticipationState::Provisioning })
        };
        let view = view_of(&[published(1, 0), published(2, 1), published(3, 2)]);
        let mut greeter = Greeter::default();
        let again = Joiner { seniority: Seniority::GivenUp(old), ..joiner(1) };
        // Its wall clock is behind all that is known.
        let joined = greeter.greet(FUNCTION, &again, &view, 900);
        assert!(joined.stamp > published(3, 2).1.stamp);
        assert_eq!(joined.ancestors.last().unwrap().node, node(2));
        // Asked twice, it is in no other place.
        assert_eq!(greeter.greet(FUNCTION, &again, &view, 901), joined);
    }

    #[test]
    fn another_greeter_that_knows_the_participants_by_gossip_gives_later_stamps() {
        let published =
            Participation { stamp: Stamp { wall_ms: 1500, logical: 0 }, state: ParticipationState::Ready };
        let mut greeter = Greeter::default();
        // Its own wall clock is behind.
        let joined = greeter.greet(FUNCTION, &joiner(2), &view_of(&[(1, published)]), 1000);
        assert!(joined.stamp > published.stamp);
        assert_eq!(joined.ancestors[0].node, node(1));
        assert_eq!(joined.ready[0].node, node(1));
    }

    #[test]
    fn those_who_did_not_serve_are_left_out() {
        let mut greeter = Greeter::default();
        let view = view_of(&[]);
        for i in 0..3 {
            greeter.greet(FUNCTION, &joiner(i), &view, 1000);
        }
        let again = Joiner { avoid: vec![node(0)], ..joiner(2) };
        let joined = greeter.greet(FUNCTION, &again, &view, 1001);
        assert_eq!(joined.ancestors.iter().map(|c| c.node.clone()).collect::<Vec<_>>(), [node(1)]);
    }

    #[test]
    fn who_is_ready_by_now_is_known_before_gossip_tells() {
        let stamp = Stamp { wall_ms: 1, logical: 0 };
        let view = view_of(&[(1, Participation { stamp, state: ParticipationState::Provisioning })]);
        let ready = |stamp| Contact { state: ParticipationState::Ready, ..joiner(1).contact(stamp) };
        for (told, expected) in [
            (None, ParticipationState::Provisioning),
            (Some(ready(stamp)), ParticipationState::Ready),
            (Some(ready(Stamp::default())), ParticipationState::Provisioning),
        ] {
            let mut greeter = Greeter::default();
            told.into_iter().for_each(|contact| greeter.remember(FUNCTION, contact, 1000));
            assert_eq!(greeter.participants(&FUNCTION, &view)[0].state, expected);
        }
    }

    #[test]
    fn gossip_takes_over_whom_it_tells_of_and_takes_along_whom_it_loses() {
        let published = Participation { stamp: Stamp::default(), state: ParticipationState::Provisioning };
        let (before, with_both) = (view_of(&[]), view_of(&[(1, published), (2, published)]));
        let with_one = View::new(node(0), with_both.get(&node(1)).cloned());
        for (old, new, expected) in [
            (&before, &with_both, vec![node(3)]),
            (&with_both, &with_one, vec![node(1), node(3)]),
            (&with_both, &with_both, vec![node(1), node(2), node(3)]),
        ] {
            let mut greeter = Greeter::default();
            for i in 1..=3 {
                greeter.greet(FUNCTION, &joiner(i), &before, 1000);
            }
            greeter.follow(old, new);
            let known: Vec<_> =
                greeter.participants(&FUNCTION, &before).into_iter().map(|c| c.node).collect();
            assert_eq!(known, expected);
        }
    }

    #[test]
    fn greetings_are_forgotten_in_time_and_bounded() {
        let mut greeter = Greeter::default();
        let view = view_of(&[]);
        greeter.greet(FUNCTION, &joiner(1), &view, 1000);
        greeter.greet(FUNCTION, &joiner(2), &view, 1000 + GREETING_TTL_MS);
        let known: Vec<_> = greeter.participants(&FUNCTION, &view).into_iter().map(|c| c.node).collect();
        assert_eq!(known, [node(2)]);
        greeter.forget(FUNCTION, &node(2));
        assert!(greeter.participants(&FUNCTION, &view).is_empty());
        assert!(greeter.greetings.is_empty() && greeter.by_age.is_empty());
    }
}
