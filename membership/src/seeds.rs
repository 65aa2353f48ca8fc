//! Finds the cluster: introduces this node to its seeds, and keeps in touch with them.
//!
//! Seeds may be names, are resolved again every round, may be down, and may be this node itself. Once a seed has
//! answered, the others only matter when the cluster has split, so they are visited at a leisurely pace.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::net::lookup_host;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, error, info, warn};

use crate::control::{AskError, ask};
use crate::link::{LinkError, Peer};
use crate::membership::{Membership, StartError};
use crate::wire::{PROTOCOL_VERSION, Refusal, Reply, Request};

/// Between rounds while no seed has answered.
const SEARCH_INTERVAL: Duration = Duration::from_secs(1);

/// Between rounds afterwards: how soon a split cluster is mended once the network is whole again.
const VISIT_INTERVAL: Duration = Duration::from_secs(15);

/// How long the seeds may take to answer a node that starts, and half of that for their names to resolve: so long
/// does a node wait whose seeds are down. Covers the probe by which a seed tells a restart from a second node.
const FIRST_PATIENCE: Duration = Duration::from_secs(2);

/// The same in later rounds, in which nobody waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// How long the other seeds are waited for once one has welcomed this node.
const AFTER_WELCOME: Duration = Duration::from_millis(200);

/// Most addresses visited in a round: one name may stand for a whole fleet.
const MAX_ADDRESSES: usize = 16;

/// How the search for the cluster stands, and what was said of it: each thing once, not in every round.
#[derive(Debug, Default)]
pub(crate) struct Search {
    welcomed: bool,
    unresolved: BTreeSet<String>,
    failed: Option<String>,
}

/// What a round of introductions brought.
#[derive(Debug, Default)]
struct Round {
    welcomed: bool,
    refused: Option<(SocketAddr, Refusal)>,
    /// A seed with which this node will never speak as the two are.
    failed: Option<StartError>,
}

/// The first round. An error is the answer that this node may not enter; seeds that are down are no error.
pub(crate) async fn introduce(membership: &Membership) -> Result<Search, StartError> {
    let mut search = Search::default();
    let round = visit(membership, &mut search, FIRST_PATIENCE).await;
    if let Some((seed, refusal)) = round.refused {
        return Err(StartError::Refused { seed, refusal });
    }
    match round.failed {
        Some(error) if !round.welcomed => Err(error),
        _ => Ok(Search { welcomed: round.welcomed, ..search }),
    }
}

/// All later rounds, until this node is refused or stopped.
pub(crate) async fn keep_in_touch(membership: Membership, mut search: Search) {
    loop {
        sleep(if search.welcomed { VISIT_INTERVAL } else { SEARCH_INTERVAL }).await;
        if search.welcomed {
            for addr in resolve(&membership, &mut search, PATIENCE / 2).await {
                membership.gossip_with(addr);
            }
            continue;
        }
        let round = visit(&membership, &mut search, PATIENCE).await;
        if let Some((seed, refusal)) = round.refused {
            membership.expel(format!("seed {seed} refuses this node: {refusal}"));
            return;
        }
        let failed = round.failed.map(|error| error.to_string());
        if let Some(error) = failed.as_ref().filter(|error| search.failed.as_ref() != Some(error)) {
            error!("{error}");
        }
        search.failed = failed;
        if round.welcomed {
            info!("a seed has answered");
            search.welcomed = true;
        }
    }
}

/// Introduces this node, and gossips with those who welcome it. With nobody if it is refused: news of a second node
/// under one id would push the first out of everybody's view.
async fn visit(membership: &Membership, search: &mut Search, patience: Duration) -> Round {
    let addresses = resolve(membership, search, patience / 2).await;
    let mut round = Round::default();
    let mut welcoming = Vec::new();
    let mut deadline = Instant::now() + patience;
    let greet = |addr| async move { (addr, hello(membership, addr, patience).await) };
    let mut answers: FuturesUnordered<_> = addresses.into_iter().map(greet).collect();
    while let Ok(Some((addr, answer))) = timeout_at(deadline, answers.next()).await {
        match answer {
            Ok(Reply::Welcome) => {
                deadline = deadline.min(Instant::now() + AFTER_WELCOME);
                round.welcomed = true;
                welcoming.push(addr);
            }
            Ok(Reply::Refused(refusal)) => round.refused = Some((addr, refusal)),
            Ok(other) => warn!(seed = %addr, ?other, "a seed gave an answer that is none"),
            Err(AskError::Link(error @ LinkError::Untrusted { .. })) => {
                round.failed = Some(StartError::Untrusted(error));
            }
            Err(AskError::Link(error @ LinkError::Incompatible { .. })) => {
                round.failed = Some(StartError::Incompatible(error));
            }
            Err(error) => debug!(seed = %addr, %error, "a seed did not answer"),
        }
    }
    if round.refused.is_none() {
        welcoming.into_iter().for_each(|addr| membership.gossip_with(addr));
    }
    round
}

async fn hello(membership: &Membership, seed: SocketAddr, patience: Duration) -> Result<Reply, AskError> {
    let config = membership.config();
    let request =
        Request::Hello { protocol: PROTOCOL_VERSION, incarnation: config.incarnation, addr: config.addr };
    ask(membership.link(), &Peer::any(seed), &request, patience).await
}

/// The seeds' addresses as of now, without our own.
async fn resolve(membership: &Membership, search: &mut Search, patience: Duration) -> BTreeSet<SocketAddr> {
    let config = membership.config();
    let lookups = config.seeds.iter().map(|seed| timeout(patience, lookup_host(seed.as_str())));
    let mut addresses = BTreeSet::new();
    for (seed, found) in config.seeds.iter().zip(join_all(lookups).await) {
        let fault = match found {
            Ok(Ok(found)) => {
                addresses.extend(found);
                if search.unresolved.remove(seed) {
                    info!("the name of the seed {seed} resolves now");
                }
                continue;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", patience.as_secs_f32()),
        };
        if search.unresolved.insert(seed.clone()) {
            warn!(
                "the name of the seed {seed} does not resolve: {fault}; it is tried again until it does: check its \
                 spelling and this machine's resolver"
            );
        }
    }
    addresses.remove(&config.addr);
    addresses.into_iter().take(MAX_ADDRESSES).collect()
}
