//! types
use membership::view::{MemberState, ParticipationState};
use membership::{FunctionId, NodeId, Zone};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use transfer::counters::Counts;
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeId,
    pub incarnation: u64,
    pub zone: Zone,
    pub version: String,
    pub address: SocketAddr,
    pub http: SocketAddr,
    pub ready: bool,
    pub members: usize,
    pub functions: usize,
    pub store_bytes: u64,
    pub transfer: Counts,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    pub zone: Zone,
    pub state: MemberState,
    pub address: SocketAddr,
    pub incarnation: u64,
    pub version: String,
    pub functions: usize,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionState {
    Provisioning,
    Ready,
    Failed,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Function {
    pub function: FunctionId,
    pub reference: String,
    pub state: FunctionState,
    pub bytes: u64,
    pub held_bytes: u64,
    pub origin_bytes: u64,
    pub peer_bytes: u64,
    pub elapsed_ms: u64,
    pub parent: Option<NodeId>,
    pub depth: Option<usize>,
    pub participants: usize,
    pub sources: BTreeMap<String, u64>,
    pub error: Option<String>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tree {
    pub function: FunctionId,
    pub reference: Option<String>,
    pub nodes: Vec<TreeNode>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TreeNode {
    pub node: NodeId,
    pub zone: Zone,
    pub parent: Option<NodeId>,
    pub depth: usize,
    pub state: ParticipationState,
}
