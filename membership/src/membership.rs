//! Membership as the rest of the node sees it: starting, the view, suspicion, and leaving.
//!
//! Owns the running parts (gossip, probes, seeds, the control protocol) and the state they share. Chitchat stays
//! behind [`crate::gossip`]; what has to do with functions is in [`crate::joining`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::clock::WallClock;
use crate::control::{self, ask};
use crate::counters::Counts;
use crate::gossip::Gossip;
use crate::greeter::{Greeter, Joiner};
use crate::hold::{self, Hold};
use crate::id::{NodeId, Zone};
use crate::link::{Incoming, Link, LinkError, Peer};
use crate::probe;
use crate::rendezvous;
use crate::seeds;
use crate::suspicion::{self, Suspicion};
use crate::view::{MemberState, View};
use crate::wire::{PROTOCOL_VERSION, Refusal, Reply, Request};

/// How long a node that starts waits for gossip with a seed before it goes on alone.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How many members are told at once that this node leaves; gossip tells the rest.
const LEAVE_TOLD: usize = 64;

/// How long telling them may take.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Who this node is, and how it gossips.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub node: NodeId,
    /// Greater than that of any earlier start of the same name.
    pub incarnation: u64,
    /// Where it stands.
    pub zone: Zone,
    /// The cluster's name; messages from another are refused.
    pub cluster: String,
    /// Where others reach it.
    pub addr: SocketAddr,
    /// Members to find the cluster by, each `HOST:PORT`.
    pub seeds: Vec<String>,
    /// The release that it runs, for people to see.
    pub version: String,
    /// Time between gossip rounds. Shorter spreads news and finds deaths sooner, for CPU in proportion: a round costs
    /// about 11 us per member.
    pub gossip_interval: Duration,
    /// The times that suspicion goes by.
    pub suspicion: suspicion::Config,
    /// Where wall time comes from.
    pub clock: WallClock,
}

/// Time between gossip rounds unless configured.
pub const DEFAULT_GOSSIP_INTERVAL: Duration = Duration::from_millis(200);

/// Why a node could not become a member. It has published nothing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A seed said no.
    #[error("seed {seed} refuses this node: {refusal}")]
    Refused {
        /// The seed.
        seed: SocketAddr,
        /// Its reason.
        refusal: Refusal,
    },
    /// Neither of two trusts the other.
    #[error(
        "{0}; nodes of one cluster need the same secret (FAASNET_CLUSTER_SECRET), the same --cluster name, and clocks \
         that agree to the hour"
    )]
    Untrusted(LinkError),
    /// The cluster speaks another version of the protocol.
    #[error("{0}; upgrade the older one")]
    Incompatible(LinkError),
    /// Gossip did not start.
    #[error("gossip did not start: {0}")]
    Gossip(String),
}

/// A running member. Cheap to clone; all clones are the same member, which stops with the last of them.
#[derive(Clone)]
pub struct Membership {
    pub(crate) inner: Arc<Inner>,
    /// `None` in the member's own tasks, which do not keep it running.
    _handle: Option<Arc<DropGuard>>,
}

pub(crate) struct Inner {
    config: Config,
    link: Arc<dyn Link>,
    pub(crate) gossip: Gossip,
    pub(crate) greeter: Mutex<Greeter>,
    /// How many holds this node has published.
    holds: AtomicU64,
    suspicion: Mutex<Suspicion>,
    /// Members that told us that they leave, before gossip does: node and incarnation.
    leaving: Mutex<BTreeMap<NodeId, u64>>,
    view: watch::Sender<Arc<View>>,
    expelled: watch::Sender<Option<String>>,
    refresh: Notify,
    /// Held while the view is brought up to date, so that an older one never replaces a newer one.
    observing: tokio::sync::Mutex<()>,
    stop: CancellationToken,
}

impl Membership {
    /// Starts gossiping over `link` and introduces this node to its seeds. Seeds that are down are tried again in the
    /// background; one that refuses this node ends the start.
    pub async fn start(
        config: Config,
        link: Arc<dyn Link>,
        gossip_in: Incoming,
        control_in: Incoming,
    ) -> Result<Self, StartError> {
        let gossip = Gossip::start(&config, link.clone(), gossip_in)
            .await
            .map_err(|error| StartError::Gossip(format!("{error:#}")))?;
        let suspicion = Suspicion::new(config.suspicion);
        let view = watch::Sender::new(Arc::new(View::new(config.node.clone(), [])));
        let stop = CancellationToken::new();
        let membership = Self {
            _handle: Some(Arc::new(stop.clone().drop_guard())),
            inner: Arc::new(Inner {
                config,
                link,
                gossip,
                greeter: Mutex::default(),
                holds: AtomicU64::new(0),
                suspicion: Mutex::new(suspicion),
                leaving: Mutex::default(),
                view,
                expelled: watch::Sender::new(None),
                refresh: Notify::new(),
                observing: tokio::sync::Mutex::default(),
                stop,
            }),
        };
        membership.observe().await;
        membership.spawn(control::serve(membership.background(), control_in));
        let search = seeds::introduce(&membership).await?;
        membership.spawn(seeds::keep_in_touch(membership.background(), search));
        membership.spawn(membership.background().keep_observing());
        let (ended, member) = (membership.inner.gossip.ended(), membership.background());
        membership.spawn(async move {
            // A member that neither hears nor is heard must not go on as if it were one.
            member.expel(format!("gossip has ended: {}; start this node again", ended.await));
        });
        Ok(membership)
    }

    /// This member, for a task of its own.
    pub(crate) fn background(&self) -> Self {
        Self { inner: self.inner.clone(), _handle: None }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.inner.stop.clone().run_until_cancelled_owned(task));
    }

    /// Who this node is.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    pub(crate) fn link(&self) -> &dyn Link {
        self.inner.link.as_ref()
    }

    /// What it has said and whom it has suspected so far.
    pub fn counts(&self) -> Counts {
        self.inner.gossip.messages().read(self.inner.suspicion.lock().counts())
    }

    /// The live members, kept up to date.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// The view now.
    pub(crate) fn current(&self) -> Arc<View> {
        self.inner.view.borrow().clone()
    }

    /// Waits until this node has gossiped with a seed, so that it knows greeters and is no false root. Gives up after
    /// a bounded moment, and says so: `false` means that it goes on alone.
    pub async fn settle(&self) -> bool {
        if self.config().seeds.iter().all(|seed| *seed == self.config().addr.to_string()) {
            return true;
        }
        let mut view = self.view();
        let met = timeout(SETTLE_LIMIT, view.wait_for(|view| view.members().len() > 1)).await.is_ok();
        if !met {
            warn!(
                "none of the seeds {} has answered within {} s; going on alone and trying again: check that they are \
                 right, and that UDP gets through",
                self.config().seeds.join(", "),
                SETTLE_LIMIT.as_secs()
            );
        }
        met
    }

    /// Resolves when this node is a member no longer, with the reason: the cluster will not have it, or gossip ended.
    pub async fn expelled(&self) -> String {
        let mut expelled = self.inner.expelled.subscribe();
        let reason = expelled.wait_for(Option::is_some).await.map(|reason| reason.clone());
        reason.ok().flatten().unwrap_or_else(|| "membership has stopped".to_owned())
    }

    pub(crate) fn expel(&self, reason: String) {
        self.inner.expelled.send_if_modified(|expelled| {
            let first = expelled.is_none();
            expelled.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn gossip_with(&self, addr: SocketAddr) {
        self.inner.gossip.with(addr);
    }

    // Suspicion.

    /// A connection to `node` broke, or it did not answer: have it probed now.
    pub fn suspect(&self, node: &NodeId) {
        let action = self.inner.suspicion.lock().suspect(self.config().clock.uptime(), node);
        if let Some(action) = action {
            debug!(%node, "suspected: a connection to it broke");
            self.act(action);
            self.inner.refresh.notify_one();
        }
    }

    fn act(&self, action: suspicion::Action) {
        let membership = self.background();
        self.spawn(async move {
            probe::carry_out(&membership, action).await;
            membership.inner.refresh.notify_one();
        });
    }

    pub(crate) fn with_suspicion<T>(&self, change: impl FnOnce(&mut Suspicion, Duration) -> T) -> T {
        change(&mut self.inner.suspicion.lock(), self.config().clock.uptime())
    }

    /// A member's address and incarnation as gossip has them, whatever its verdict.
    pub(crate) async fn known(&self, node: &NodeId) -> Option<(SocketAddr, u64)> {
        self.inner.gossip.known(node).await
    }

    /// Members that can be asked to probe others, in an order of their own for each `node`. Suspects come last: who hears
    /// no gossip suspects everybody, and some of them answer all the same.
    pub(crate) fn helpers(&self, node: &NodeId) -> Vec<Peer> {
        let view = self.current();
        let others =
            view.members().map(|member| &member.node).filter(|other| *other != node && *other != view.me());
        let name = format!("{}>{node}", view.me());
        let order = rendezvous::order(name.as_bytes(), others);
        let mut others: Vec<_> = order.into_iter().filter_map(|other| view.get(other)).collect();
        others.retain(|member| member.state != MemberState::Leaving);
        others.sort_by_key(|member| member.state != MemberState::Alive);
        let chosen = others.into_iter().take(self.config().suspicion.helpers);
        chosen.map(|member| Peer::node(member.node.clone(), member.addr)).collect()
    }

    // The view.

    async fn keep_observing(self) {
        loop {
            tokio::select! {
                () = sleep(self.config().gossip_interval / 2) => {}
                () = self.inner.refresh.notified() => {}
            }
            self.observe().await;
        }
    }

    /// Brings the view up to date with gossip and suspicion.
    pub(crate) async fn observe(&self) {
        let _one_at_a_time = self.inner.observing.lock().await;
        let sightings = self.inner.gossip.sightings().await;
        let actions = self.with_suspicion(|suspicion, now| suspicion.observe(now, &sightings));
        for action in actions {
            self.act(action);
        }
        let verdict = |node: &NodeId| self.inner.suspicion.lock().verdict(node);
        let leaving = {
            let mut leaving = self.inner.leaving.lock();
            leaving.retain(|node, _| sightings.contains_key(node));
            leaving.clone()
        };
        let members = self.inner.gossip.members(verdict, &leaving).await;
        if let Some(double) = self.inner.gossip.newer_self().await {
            self.expel(format!(
                "another live node at {double} runs under this node's id {}; give one of them another id, or remove the copied node-id file from its data directory",
                self.config().node
            ));
        }
        let (old, new) = (self.current(), View::new(self.config().node.clone(), members));
        if *old != new {
            tell(&old, &new);
            // Held until the view is out: nobody may find a participant in neither of the two.
            let mut greeter = self.inner.greeter.lock();
            greeter.follow(&old, &new);
            self.inner.view.send_replace(Arc::new(new));
        }
    }

    // Holds.

    /// Tells everybody to leave something outside the cluster alone for a while, from when they hear of it. Takes the place
    /// of this node's earlier hold of that name. A name that others would not read, see [`hold::MAX_NAME_BYTES`], is not
    /// published.
    pub async fn hold(&self, name: &str, duration: Duration) {
        if !hold::is_name(name) {
            debug!(%name, "a name of that length cannot be held");
            return;
        }
        let serial = self.inner.holds.fetch_add(1, Ordering::Relaxed);
        self.inner.gossip.hold(name, Hold::new(serial, duration)).await;
        self.observe().await;
    }

    /// Withdraws this node's hold of that name. Those who have heard of it still count it to its end.
    pub async fn release(&self, name: &str) {
        self.inner.gossip.release(name).await;
        self.observe().await;
    }

    // Requests of others.

    pub(crate) async fn reply(&self, from: &NodeId, from_addr: SocketAddr, request: Request) -> Reply {
        match request {
            Request::Hello { protocol, incarnation, addr } => {
                self.admit(from, protocol, incarnation, addr).await
            }
            Request::Probe => Reply::Alive { incarnation: self.config().incarnation },
            Request::ProbeFor { node, addr } => {
                let limit = self.config().suspicion.direct_timeout;
                probe::direct(self, &Peer::node(node, addr), limit)
                    .await
                    .map_or(Reply::NotReached, |incarnation| Reply::Alive { incarnation })
            }
            Request::Leave { incarnation } => {
                self.inner.leaving.lock().insert(from.clone(), incarnation);
                self.observe().await;
                Reply::Noted
            }
            Request::Join { function, addr, zone, seniority, avoid } => {
                for node in &avoid {
                    self.suspect(node);
                }
                let addr = if addr.ip().is_unspecified() { from_addr } else { addr };
                let joiner = Joiner { node: from.clone(), addr, zone, seniority, avoid };
                Reply::Joined(self.greet(function, &joiner))
            }
            Request::Greeted { function, contact } => {
                self.inner.greeter.lock().remember(function, contact, self.config().clock.now_ms());
                Reply::Noted
            }
        }
    }

    /// Lets a node in unless its id is in use: a restart is told from a second node by asking the one we know.
    async fn admit(&self, node: &NodeId, protocol: u16, incarnation: u64, addr: SocketAddr) -> Reply {
        let config = self.config();
        if protocol != PROTOCOL_VERSION {
            return Reply::Refused(Refusal::Protocol { ours: PROTOCOL_VERSION, theirs: protocol });
        }
        let duplicate = |holder| Reply::Refused(Refusal::DuplicateId { id: node.clone(), holder });
        if *node == config.node {
            return if incarnation == config.incarnation { Reply::Welcome } else { duplicate(config.addr) };
        }
        let Some((known_addr, known)) = self.known(node).await else { return Reply::Welcome };
        if known == incarnation || known_addr == addr {
            return Reply::Welcome;
        }
        let peer = Peer::node(node.clone(), known_addr);
        match probe::direct(self, &peer, config.suspicion.direct_timeout).await {
            Some(alive) if alive != incarnation => duplicate(known_addr),
            _ => Reply::Welcome,
        }
    }

    // Leaving.

    /// Tells everybody that this node leaves. It still answers, so that those it serves can move on first.
    pub async fn announce_leave(&self) {
        self.inner.gossip.announce_leave().await;
        let view = self.current();
        let others = view.members().filter(|member| member.node != *view.me()).take(LEAVE_TOLD);
        let request = Request::Leave { incarnation: self.config().incarnation };
        let told = others.map(|member| {
            let peer = Peer::node(member.node.clone(), member.addr);
            let request = &request;
            async move { ask(self.link(), &peer, request, LEAVE_TIMEOUT).await.is_ok() }
        });
        let told = join_all(told).await.into_iter().filter(|told| *told).count();
        info!(told, "leaving the cluster");
    }

    /// Stops gossip and all background work, as dropping the last handle does. Announces nothing.
    pub fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.gossip.stop();
    }
}

/// Says in the log who came and went.
fn tell(old: &View, new: &View) {
    for member in new.members() {
        match old.get(&member.node) {
            None if member.node != *new.me() => {
                info!(node = %member.node, addr = %member.addr, zone = %member.zone, "member joined");
            }
            Some(before) if before.incarnation != member.incarnation => {
                info!(node = %member.node, addr = %member.addr, "member restarted");
            }
            Some(before) if before.state != member.state => {
                debug!(node = %member.node, state = ?member.state, "member changed");
            }
            _ => {}
        }
    }
    for member in old.members().filter(|member| new.get(&member.node).is_none()) {
        info!(node = %member.node, was = ?member.state, "member is gone");
    }
}
