//! Finds the cluster: introduces this node to its seeds, and keeps in touch with them.
//!
//! Seeds may be names, are resolved again every round, may be down, and may be this node itself. Once a seed has
//! answered, the others only matter when the cluster has split, so they are visited at a leisurely pace.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::control::{AskError, ask};
use crate::link::{LinkError, Peer};
use crate::membership::{Membership, StartError};
use crate::wire::{PROTOCOL_VERSION, Refusal, Reply, Request};

/// Between rounds while no seed has answered.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// Between rounds afterwards: how soon a split cluster is mended once the network is whole again.
const VISIT_INTERVAL: Duration = Duration::from_secs(15);

/// How long one seed may take to answer. Covers the probe by which it tells a restart from a second node.
const HELLO_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Most addresses visited in a round: one name may stand for a whole fleet.
const MAX_ADDRESSES: usize = 16;

/// What a round of introductions brought.
#[derive(Debug, Default)]
struct Round {
    welcomed: bool,
    refused: Option<(SocketAddr, Refusal)>,
    untrusted: Option<LinkError>,
}

/// The first round. An error is the answer that this node may not enter; seeds that are down are no error.
pub(crate) async fn introduce(membership: &Membership) -> Result<bool, StartError> {
    let round = visit(membership, true).await;
    if let Some((seed, refusal)) = round.refused {
        return Err(StartError::Refused { seed, refusal });
    }
    match round.untrusted {
        Some(error) if !round.welcomed => Err(StartError::Untrusted(error)),
        _ => Ok(round.welcomed),
    }
}

/// All later rounds, until this node is refused or stopped.
pub(crate) async fn keep_in_touch(membership: Membership, mut welcomed: bool) {
    loop {
        sleep(if welcomed { VISIT_INTERVAL } else { SEARCH_INTERVAL }).await;
        let round = visit(&membership, !welcomed).await;
        if let Some((seed, refusal)) = round.refused {
            membership.expel(format!("seed {seed} refuses this node: {refusal}"));
            return;
        }
        if let Some(error) = round.untrusted {
            error!("{error}; nodes of one cluster need the same secret");
        }
        if round.welcomed && !welcomed {
            info!("a seed has answered");
            welcomed = true;
        }
    }
}

async fn visit(membership: &Membership, introduce: bool) -> Round {
    let addresses = resolve(membership, introduce).await;
    for addr in &addresses {
        membership.gossip_with(*addr);
    }
    let mut round = Round::default();
    if !introduce {
        return round;
    }
    let greetings = addresses.iter().map(|addr| hello(membership, *addr));
    for (addr, answer) in addresses.iter().zip(join_all(greetings).await) {
        match answer {
            Ok(Reply::Welcome) => round.welcomed = true,
            Ok(Reply::Refused(refusal)) => round.refused = Some((*addr, refusal)),
            Ok(other) => warn!(seed = %addr, ?other, "a seed gave an answer that is none"),
            Err(AskError::Link(error @ LinkError::Untrusted { .. })) => round.untrusted = Some(error),
            Err(error) => debug!(seed = %addr, %error, "a seed did not answer"),
        }
    }
    round
}

async fn hello(membership: &Membership, seed: SocketAddr) -> Result<Reply, AskError> {
    let config = membership.config();
    let request =
        Request::Hello { protocol: PROTOCOL_VERSION, incarnation: config.incarnation, addr: config.addr };
    ask(membership.link(), &Peer::any(seed), &request, HELLO_TIMEOUT).await
}

/// The seeds' addresses as of now, without our own.
async fn resolve(membership: &Membership, complain: bool) -> BTreeSet<SocketAddr> {
    let config = membership.config();
    let mut addresses = BTreeSet::new();
    for seed in &config.seeds {
        match timeout(RESOLVE_TIMEOUT, lookup_host(seed.as_str())).await {
            Ok(Ok(found)) => addresses.extend(found),
            Ok(Err(error)) if complain => {
                warn!(%seed, %error, "cannot resolve a seed; will try again");
            }
            Err(_) if complain => warn!(%seed, "resolving a seed takes too long; will try again"),
            _ => {}
        }
    }
    addresses.remove(&config.addr);
    addresses.into_iter().take(MAX_ADDRESSES).collect()
}
