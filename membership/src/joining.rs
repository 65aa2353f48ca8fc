//! Joining functions, and who takes part in them: the part of [`Membership`] that greets and is greeted.
//!
//! What the answers say is decided in [`crate::greeter`].

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use crate::control::ask;
use crate::greeter::{Joiner, Lineage};
use crate::id::{FunctionId, NodeId};
use crate::link::Peer;
use crate::membership::Membership;
use crate::rendezvous;
use crate::stamp::{Seniority, Stamp};
use crate::tree::Tree;
use crate::view::{Contact, Member, MemberState, Participation};
use crate::wire::{Joined, Reply, Request};

/// How long the first greeter may take before the second is asked as well.
const GREETER_HEDGE: Duration = Duration::from_millis(150);

/// How long a greeter may take in all.
const GREETER_TIMEOUT: Duration = Duration::from_secs(2);

impl Membership {
    /// Joins a function: asks its greeter for a stamp (unless one is kept from earlier) and takes note of the
    /// ancestors. Does without the nodes in `avoid`. Never fails: with no greeter to ask, this node greets itself.
    pub async fn join(&self, function: FunctionId, seniority: Seniority, avoid: &[NodeId]) -> Stamp {
        let config = self.config();
        let joiner = Joiner {
            node: config.node.clone(),
            addr: config.addr,
            zone: config.zone.clone(),
            seniority,
            avoid: avoid.to_vec(),
        };
        let joined = match self.greeters(&function, seniority != Seniority::New).as_slice() {
            [] => None,
            [only] => self.ask_greeter(only, function, &joiner).await,
            [first, second, ..] => self.ask_two(first, second, function, &joiner).await,
        };
        let joined = joined.unwrap_or_else(|| {
            debug!(%function, "no greeter answered; greeting itself");
            self.greet(function, &joiner)
        });
        let mut greeter = self.inner.greeter.lock();
        let now = config.clock.now_ms();
        let me = joiner.contact(joined.stamp);
        for contact in joined.ancestors.into_iter().chain(joined.ready).chain([me]) {
            greeter.remember(function, contact, now);
        }
        joined.stamp
    }

    /// The first two members, by rendezvous, that can be asked. This node may be one of them, unless it joins `again`, for
    /// then it is others who may know more. When all others are suspects they are asked: likely it is this node that was
    /// away.
    fn greeters(&self, function: &FunctionId, again: bool) -> Vec<Peer> {
        let view = self.current();
        let is_other = |member: &&Arc<Member>| member.node != *view.me();
        let mut candidates: Vec<_> = view.alive().filter(|member| !again || is_other(member)).collect();
        if !candidates.iter().any(is_other) {
            let is_suspect = |member: &&Arc<Member>| member.state == MemberState::Suspect;
            candidates.extend(view.members().filter(is_suspect));
        }
        let order = rendezvous::order(function.as_bytes(), candidates.iter().map(|member| &member.node));
        let peers = order.into_iter().take(2).filter_map(|node| view.get(node));
        peers.map(|member| Peer::node(member.node.clone(), member.addr)).collect()
    }

    async fn ask_two(
        &self,
        first: &Peer,
        second: &Peer,
        function: FunctionId,
        joiner: &Joiner,
    ) -> Option<Joined> {
        let one = self.ask_greeter(first, function, joiner);
        let other = self.ask_greeter(second, function, joiner);
        tokio::pin!(one, other);
        match timeout(GREETER_HEDGE, &mut one).await {
            Ok(Some(joined)) => Some(joined),
            Ok(None) => other.await,
            Err(_) => tokio::select! {
                Some(joined) = &mut one => Some(joined),
                Some(joined) = &mut other => Some(joined),
                else => None,
            },
        }
    }

    async fn ask_greeter(&self, greeter: &Peer, function: FunctionId, joiner: &Joiner) -> Option<Joined> {
        if greeter.id.as_ref() == Some(&self.config().node) {
            return Some(self.greet(function, joiner));
        }
        let request = Request::Join {
            function,
            addr: joiner.addr,
            zone: joiner.zone.clone(),
            seniority: joiner.seniority,
            avoid: joiner.avoid.clone(),
        };
        match ask(self.link(), greeter, &request, GREETER_TIMEOUT).await {
            Ok(Reply::Joined(joined)) => Some(joined),
            Ok(other) => {
                debug!(%greeter, ?other, "a greeter gave an answer that is none");
                None
            }
            Err(error) => {
                debug!(%error, "a greeter did not answer");
                if let Some(node) = &greeter.id {
                    self.suspect(node);
                }
                None
            }
        }
    }

    /// Greets a joiner, and tells the other greeter.
    pub(crate) fn greet(&self, function: FunctionId, joiner: &Joiner) -> Joined {
        let config = self.config();
        let joined = {
            let mut greeter = self.inner.greeter.lock();
            greeter.greet(function, joiner, &self.current(), config.clock.now_ms())
        };
        let other = self
            .greeters(&function, false)
            .into_iter()
            .find(|peer| peer.id.as_ref().is_some_and(|id| *id != config.node && *id != joiner.node));
        if let Some(other) = other {
            let told = Request::Greeted { function, contact: joiner.contact(joined.stamp) };
            let membership = self.background();
            self.spawn(async move {
                if let Err(error) = ask(membership.link(), &other, &told, GREETER_TIMEOUT).await {
                    debug!(%error, "the other greeter was not told of a greeting");
                }
            });
        }
        joined
    }

    /// Publishes this node's participation in a function.
    pub async fn publish(&self, function: FunctionId, participation: Participation) {
        self.inner.gossip.publish(function, participation).await;
        self.observe().await;
    }

    /// Leaves a function's tree.
    pub async fn withdraw(&self, function: FunctionId) {
        self.inner.greeter.lock().forget(function, &self.config().node);
        self.inner.gossip.withdraw(function).await;
        self.observe().await;
    }

    /// Everybody known to take part in a function, most senior first.
    pub fn participants(&self, function: &FunctionId) -> Vec<Contact> {
        self.inner.greeter.lock().participants(function, &self.current())
    }

    /// The function's tree, as far as this node knows.
    pub fn tree(&self, function: &FunctionId) -> Tree {
        self.inner.greeter.lock().tree(function, &self.current())
    }

    /// From whom this node can fetch a function, doing without those in `avoid`.
    pub fn lineage(&self, function: &FunctionId, avoid: &[NodeId]) -> Lineage {
        self.inner.greeter.lock().lineage(function, &self.config().node, &self.current(), avoid)
    }
}
