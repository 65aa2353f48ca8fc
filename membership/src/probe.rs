//! Carries out what `suspicion` asks for: probes a node, or has others probe it, and reports back.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::control::ask;
use crate::id::NodeId;
use crate::link::Peer;
use crate::membership::Membership;
use crate::suspicion::Action;
use crate::wire::{Reply, Request};

pub(crate) async fn carry_out(membership: &Membership, action: Action) {
    let suspicion = membership.config().suspicion;
    match action {
        Action::Probe(node) => {
            let Some((addr, _)) = membership.known(&node).await else { return };
            let peer = Peer::node(node.clone(), addr);
            let answer = direct(membership, &peer, suspicion.direct_timeout).await;
            report(membership, &node, answer);
        }
        Action::ProbeThroughOthers(node) => {
            let Some((addr, _)) = membership.known(&node).await else { return };
            let answer = through_others(membership, &node, addr).await;
            report(membership, &node, answer);
        }
    }
}

fn report(membership: &Membership, node: &NodeId, answer: Option<u64>) {
    membership.with_suspicion(|suspicion, now| match answer {
        Some(incarnation) => suspicion.answered(now, node, incarnation),
        None => suspicion.not_reached(now, node),
    });
}

/// The incarnation of `peer` if it answers within `limit`.
pub(crate) async fn direct(membership: &Membership, peer: &Peer, limit: Duration) -> Option<u64> {
    match ask(membership.link(), peer, &Request::Probe, limit).await {
        Ok(Reply::Alive { incarnation }) => Some(incarnation),
        _ => None,
    }
}

async fn through_others(membership: &Membership, node: &NodeId, addr: std::net::SocketAddr) -> Option<u64> {
    let request = Request::ProbeFor { node: node.clone(), addr };
    let limit = membership.config().suspicion.indirect_timeout;
    let helpers = membership.helpers(node);
    let mut answers: FuturesUnordered<_> =
        helpers.iter().map(|helper| ask(membership.link(), helper, &request, limit)).collect();
    while let Some(answer) = answers.next().await {
        if let Ok(Reply::Alive { incarnation }) = answer {
            return Some(incarnation);
        }
    }
    None
}
