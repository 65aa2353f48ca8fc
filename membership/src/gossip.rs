//! Chitchat behind our own words: publishes this node's state, and reads everybody's.
//!
//! The only module, with its transport, that knows chitchat. Liveness is not decided here: chitchat's failure
//! detector only says whose heartbeats are regular, see [`crate::suspicion`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, ProtocolVersion,
    spawn_chitchat,
};
use parking_lot::Mutex;

use crate::counters::Messages;
use crate::hold::{Hold, MAX_HOLDS, is_name};
use crate::id::{FunctionId, NodeId};
use crate::link::{Incoming, Link};
use crate::membership::Config;
use crate::suspicion::{Sighting, Verdict};
use crate::transport::LinkTransport;
use crate::view::{Member, MemberState, Participation};

/// Heartbeat intervals without a heartbeat after which chitchat calls a node silent. Its own default.
const PHI_THRESHOLD: f64 = 8.0;

/// How many heartbeats the failure detector learns a node's rhythm from.
const SAMPLING_WINDOW: usize = 200;

/// How long the state of a dead node is kept, so that news of it that is still going round does not revive it.
const DEAD_NODE_GRACE: Duration = Duration::from_secs(600);

/// How long a key that was removed is remembered as removed.
const TOMBSTONE_GRACE: Duration = Duration::from_secs(600);

/// Functions read from one member's state; a node holds a few dozen.
const MAX_FUNCTIONS_PER_MEMBER: usize = 10_000;

const ZONE_KEY: &str = "zone";
const VERSION_KEY: &str = "version";
const LEAVING_KEY: &str = "leaving";
const FUNCTION_PREFIX: &str = "function/";
const HOLD_PREFIX: &str = "hold/";

/// This node's voice and ear in the cluster.
pub(crate) struct Gossip {
    me: NodeId,
    incarnation: u64,
    handle: ChitchatHandle,
    messages: Arc<Messages>,
    /// Members as last read, so that only those whose state has changed are read again.
    read: Mutex<BTreeMap<NodeId, (u64, Arc<Member>)>>,
}

impl Gossip {
    pub(crate) async fn start(
        config: &Config,
        link: Arc<dyn Link>,
        incoming: Incoming,
    ) -> anyhow::Result<Self> {
        let chitchat_config = ChitchatConfig {
            chitchat_id: ChitchatId::new(config.node.as_str(), config.incarnation, config.addr),
            cluster_id: config.cluster.clone(),
            gossip_interval: config.gossip_interval,
            listen_addr: config.addr,
            // Seeds are our own business (see `seeds`): chitchat would look names up once a minute only.
            seed_nodes: Vec::new(),
            failure_detector_config: FailureDetectorConfig {
                phi_threshold: PHI_THRESHOLD,
                sampling_window_size: SAMPLING_WINDOW,
                max_interval: Duration::from_secs(10),
                initial_interval: config.gossip_interval,
                dead_node_grace_period: DEAD_NODE_GRACE,
            },
            marked_for_deletion_grace_period: TOMBSTONE_GRACE,
            catchup_callback: None,
            extra_liveness_predicate: None,
            protocol_version: ProtocolVersion::V1,
        };
        let state = vec![
            (ZONE_KEY.to_owned(), config.zone.to_string()),
            (VERSION_KEY.to_owned(), config.version.clone()),
        ];
        let transport = LinkTransport::new(link, config.addr, incoming);
        let messages = transport.messages();
        let handle = spawn_chitchat(chitchat_config, state, &transport).await?;
        let (me, incarnation) = (config.node.clone(), config.incarnation);
        Ok(Self { me, incarnation, handle, messages, read: Mutex::default() })
    }

    /// Gossips with whoever listens at `addr`, known or not.
    pub(crate) fn with(&self, addr: SocketAddr) {
        // Fails only once chitchat has stopped, and then nobody is to be gossiped with.
        let _ = self.handle.gossip(addr);
    }

    /// What became of the messages sent so far.
    pub(crate) fn messages(&self) -> &Messages {
        &self.messages
    }

    pub(crate) async fn publish(&self, function: FunctionId, participation: Participation) {
        let key = format!("{FUNCTION_PREFIX}{function}");
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().set(&key, participation)).await;
    }

    pub(crate) async fn withdraw(&self, function: FunctionId) {
        let key = format!("{FUNCTION_PREFIX}{function}");
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().delete(&key)).await;
    }

    pub(crate) async fn hold(&self, name: &str, hold: Hold) {
        let key = format!("{HOLD_PREFIX}{name}");
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().set(&key, hold)).await;
    }

    pub(crate) async fn release(&self, name: &str) {
        let key = format!("{HOLD_PREFIX}{name}");
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().delete(&key)).await;
    }

    pub(crate) async fn announce_leave(&self) {
        self.handle.with_chitchat(|chitchat| chitchat.self_node_state().set(LEAVING_KEY, "yes")).await;
    }

    /// What gossip says of everybody but this node: of each the newest incarnation.
    pub(crate) async fn sightings(&self) -> BTreeMap<NodeId, Sighting> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let regular: std::collections::BTreeSet<&ChitchatId> = chitchat.live_nodes().collect();
        let newest = newest(chitchat.node_states());
        newest
            .into_iter()
            .filter(|(node, _)| *node != self.me)
            .map(|(node, state)| {
                let sighting = Sighting {
                    incarnation: state.chitchat_id().generation_id,
                    heartbeat: state.heartbeat().into(),
                    regular: regular.contains(state.chitchat_id()),
                };
                (node, sighting)
            })
            .collect()
    }

    /// The members by the given verdict, this node among them. One that leaves is a member until it falls silent.
    pub(crate) async fn members(
        &self,
        verdict: impl Fn(&NodeId) -> Verdict,
        leaving: &BTreeMap<NodeId, u64>,
    ) -> Vec<Arc<Member>> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let mut read = self.read.lock();
        let newest = newest(chitchat.node_states());
        read.retain(|node, _| newest.contains_key(node));
        let mut members = Vec::with_capacity(newest.len());
        for (node, state) in newest {
            let verdict = if node == self.me { Verdict::Alive } else { verdict(&node) };
            let incarnation = state.chitchat_id().generation_id;
            let leaves = state.contains_key(LEAVING_KEY) || leaving.get(&node) == Some(&incarnation);
            let member_state = match (verdict, leaves) {
                (Verdict::Dead, _) | (Verdict::Suspect, true) => continue,
                (Verdict::Alive, true) => MemberState::Leaving,
                (Verdict::Alive, false) => MemberState::Alive,
                (Verdict::Suspect, false) => MemberState::Suspect,
            };
            let version = state.max_version();
            let cached = read.get(&node).filter(|(at, member)| {
                *at == version && member.incarnation == incarnation && member.state == member_state
            });
            let member = match cached {
                Some((_, member)) => member.clone(),
                None => Arc::new(read_member(node.clone(), state, member_state)),
            };
            read.insert(node, (version, member.clone()));
            members.push(member);
        }
        members
    }

    /// The address and incarnation that gossip has of a node.
    pub(crate) async fn known(&self, node: &NodeId) -> Option<(SocketAddr, u64)> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        newest(chitchat.node_states())
            .get(node)
            .map(|state| (state.chitchat_id().gossip_advertise_addr, state.chitchat_id().generation_id))
    }

    /// Where a live node with our id and a newer incarnation listens, if there is one.
    pub(crate) async fn newer_self(&self) -> Option<SocketAddr> {
        let chitchat = self.handle.chitchat();
        let chitchat = chitchat.lock().await;
        let double = chitchat
            .live_nodes()
            .find(|id| *id.node_id == *self.me.as_str() && id.generation_id > self.incarnation);
        double.map(|id| id.gossip_advertise_addr)
    }

    /// Resolves when gossip has ended, with the reason.
    pub(crate) fn ended(&self) -> impl Future<Output = String> + use<> {
        let watcher = self.handle.termination_watcher();
        async move {
            watcher.await.err().map_or_else(|| "it was told to".to_owned(), |error| format!("{error:#}"))
        }
    }

    pub(crate) fn stop(&self) {
        self.handle.abort();
    }
}

/// Of each node the state with the highest incarnation. States under names that are none are left out.
fn newest(states: &BTreeMap<ChitchatId, NodeState>) -> BTreeMap<NodeId, &NodeState> {
    let mut newest: BTreeMap<NodeId, &NodeState> = BTreeMap::new();
    for (id, state) in states {
        let Ok(node) = id.node_id.parse::<NodeId>() else { continue };
        let known = newest.entry(node).or_insert(state);
        if known.chitchat_id().generation_id < id.generation_id {
            *known = state;
        }
    }
    newest
}

/// What a member has published. Values that do not parse are left out: they are another release's.
fn read_member(node: NodeId, published: &NodeState, state: MemberState) -> Member {
    let functions = published
        .iter_prefix(FUNCTION_PREFIX)
        .take(MAX_FUNCTIONS_PER_MEMBER)
        .filter_map(|(key, value)| {
            let function = key.strip_prefix(FUNCTION_PREFIX)?.parse().ok()?;
            Some((function, value.value.parse().ok()?))
        })
        .collect();
    let holds = published
        .iter_prefix(HOLD_PREFIX)
        .take(MAX_HOLDS)
        .filter_map(|(key, value)| {
            let name = key.strip_prefix(HOLD_PREFIX).filter(|name| is_name(name))?;
            Some((name.to_owned(), value.value.parse().ok()?))
        })
        .collect();
    Member {
        node,
        incarnation: published.chitchat_id().generation_id,
        addr: published.chitchat_id().gossip_advertise_addr,
        zone: published.get(ZONE_KEY).and_then(|zone| zone.parse().ok()).unwrap_or_default(),
        state,
        version: published.get(VERSION_KEY).unwrap_or_default().to_owned(),
        functions,
        holds,
    }
}
