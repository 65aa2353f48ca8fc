//! What a node tells of itself, in the words of [`crate::api`].

use membership::view::ParticipationState;
use membership::{FunctionId, NodeId};
use transfer::fetch::Source;

use super::Node;
use crate::api;
use crate::metrics::Reading;
use crate::pauses;
use crate::provision::{Function, State};

impl Node {
    /// This node at a glance.
    pub fn status(&self) -> api::Status {
        let membership = self.inner.membership.config();
        api::Status {
            node: membership.node.clone(),
            incarnation: membership.incarnation,
            zone: membership.zone.clone(),
            version: membership.version.clone(),
            address: membership.addr,
            http: self.http_addr(),
            ready: self.is_ready(),
            members: self.inner.membership.view().borrow().members().len(),
            functions: self.inner.provisioner.functions().len(),
            store_bytes: self.inner.store.complete_bytes(),
            transfer: self.inner.counters.read(),
            paused_ms: pauses::remaining_ms(&self.inner.origins.pauses()),
            stale_served: self.inner.documents.stale_served(),
        }
    }

    /// What Prometheus reads.
    pub(crate) fn metrics_page(&self) -> String {
        let reading = Reading {
            status: self.status(),
            members: self.members(),
            functions: self.functions(),
            gossip: self.inner.membership.counts(),
            origins: self.inner.origins.readings(),
            stale_documents: self.inner.documents.stale_served(),
        };
        self.inner.metrics.page(&reading)
    }

    /// The live members, by name.
    pub fn members(&self) -> Vec<api::Member> {
        let view = self.inner.membership.view();
        let view = view.borrow();
        let members = view.members().map(|member| api::Member {
            node: member.node.clone(),
            zone: member.zone.clone(),
            state: member.state,
            address: member.addr,
            incarnation: member.incarnation,
            version: member.version.clone(),
            functions: member.functions.len(),
        });
        members.collect()
    }

    /// The functions on this node, by id.
    pub fn functions(&self) -> Vec<api::Function> {
        self.inner.provisioner.functions().iter().map(|function| self.describe(function)).collect()
    }

    /// One function on this node.
    pub fn function(&self, id: FunctionId) -> Option<api::Function> {
        self.inner.provisioner.function(id).map(|function| self.describe(&function))
    }

    pub(super) fn describe(&self, function: &Function) -> api::Function {
        let tree = self.inner.membership.tree(&function.id);
        let progress = function.progress();
        let story = progress.story();
        let sources = story.bytes.iter().map(|(source, bytes)| match source {
            Source::Origin => ("origin".to_owned(), *bytes),
            Source::Peer(node) => (node.to_string(), *bytes),
        });
        let origin_bytes = story.bytes.get(&Source::Origin).copied().unwrap_or(0);
        let (state, error) = match &progress.state {
            State::Provisioning => (api::FunctionState::Provisioning, None),
            State::Ready => (api::FunctionState::Ready, None),
            State::Failed(error) => (api::FunctionState::Failed, Some(error.clone())),
        };
        let elapsed = progress.elapsed.unwrap_or_else(|| progress.started.elapsed());
        api::Function {
            function: function.id,
            reference: function.reference.clone(),
            state,
            bytes: function.bytes(),
            held_bytes: progress.held_bytes(),
            origin_bytes,
            peer_bytes: story.bytes.values().sum::<u64>() - origin_bytes,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            parent: tree.parent(self.id()).cloned(),
            depth: tree.depth(self.id()),
            participants: tree.len(),
            sources: sources.collect(),
            error,
        }
    }

    /// A function's tree as this node knows it, whether or not it takes part.
    pub fn tree(&self, function: FunctionId) -> api::Tree {
        let membership = &self.inner.membership;
        let states: std::collections::BTreeMap<NodeId, ParticipationState> = membership
            .participants(&function)
            .into_iter()
            .map(|contact| (contact.node, contact.state))
            .collect();
        let tree = membership.tree(&function);
        let nodes = tree.iter().map(|(participant, parent)| api::TreeNode {
            node: participant.node.clone(),
            zone: participant.zone.clone(),
            parent: parent.cloned(),
            depth: tree.depth(&participant.node).unwrap_or(0),
            state: states.get(&participant.node).copied().unwrap_or(ParticipationState::Provisioning),
        });
        let known = self.inner.provisioner.function(function);
        api::Tree {
            function,
            reference: known.map(|function| function.reference.clone()),
            nodes: nodes.collect(),
        }
    }
}
