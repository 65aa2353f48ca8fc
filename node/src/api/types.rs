//! What travels over the HTTP API, as JSON. Sizes are in bytes, durations in milliseconds. Pure.
//!
//! Fields may be added; none is renamed or removed without a new version in the path.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use membership::view::{MemberState, ParticipationState};
use membership::{FunctionId, NodeId, Zone};
use serde::{Deserialize, Serialize};
use transfer::counters::Counts;
use transfer::digest::Digest;
use transfer::manifest::Platform;
use transfer::reference::Reference;

/// The node that was asked, as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: NodeId,
    /// Rises with each of its starts.
    pub incarnation: u64,
    /// Where it stands.
    pub zone: Zone,
    /// The release that it runs.
    pub version: String,
    /// Where other members reach it, over UDP.
    pub address: SocketAddr,
    /// Where it serves this API and the mirror, over TCP.
    pub http: SocketAddr,
    /// Whether it has found its cluster and provisions functions.
    pub ready: bool,
    /// How many live members it knows, itself among them.
    pub members: usize,
    /// How many functions it provisions or holds.
    pub functions: usize,
    /// What its store takes on disk, in bytes.
    pub store_bytes: u64,
    /// What it has moved since its start.
    pub transfer: Counts,
    /// The origins that want to be left alone, by name, and for how much longer, in milliseconds.
    pub paused_ms: BTreeMap<String, u64>,
    /// How often it served the last known version of a tag because the origin was down.
    pub stale_served: u64,
}

/// One live member, as the node that was asked knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Where it stands.
    pub zone: Zone,
    /// `alive`, `suspect` or `leaving`.
    pub state: MemberState,
    /// Where other members reach it, over UDP.
    pub address: SocketAddr,
    /// Rises with each of its starts.
    pub incarnation: u64,
    /// The release that it runs.
    pub version: String,
    /// How many functions it provisions or holds.
    pub functions: usize,
}

/// How far a function is on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionState {
    /// It fetches, and passes on what it has.
    Provisioning,
    /// It holds every blob, verified.
    Ready,
    /// It has given up; [`Function::error`] says why.
    Failed,
}

/// One function on the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Function {
    /// The digest of its manifest.
    pub function: FunctionId,
    /// The name by which it was asked for.
    pub reference: Reference,
    /// How far it is.
    pub state: FunctionState,
    /// The size of all its blobs, in bytes.
    pub bytes: u64,
    /// How many of these bytes are here, verified.
    pub held_bytes: u64,
    /// How many bytes came from the origin.
    pub origin_bytes: u64,
    /// How many bytes came from other members.
    pub peer_bytes: u64,
    /// From the request to `ready` or `failed`, or until now, in milliseconds.
    pub elapsed_ms: u64,
    /// Its parent in the function tree; none for a root, nor for a node that has left the tree.
    pub parent: Option<NodeId>,
    /// How many steps it is from the root, which has depth 0.
    pub depth: Option<usize>,
    /// How many members take part in the function, this one among them.
    pub participants: usize,
    /// Where the bytes came from: a node's name, or `origin`; in bytes.
    pub sources: BTreeMap<String, u64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// The function tree, as the node that was asked derives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Whose tree it is.
    pub function: FunctionId,
    /// A name of the function, if the node knows one.
    pub reference: Option<Reference>,
    /// The participants, the most senior first; empty if nobody takes part.
    pub nodes: Vec<TreeNode>,
}

/// One participant's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Its name.
    pub node: NodeId,
    /// Where it stands.
    pub zone: Zone,
    /// Whom it fetches from; none for the root.
    pub parent: Option<NodeId>,
    /// How many steps it is from the root, which has depth 0.
    pub depth: usize,
    /// `provisioning` or `ready`.
    pub state: ParticipationState,
}

/// Asks a node to provision a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvisionRequest {
    /// The image, as people name it: `alpine`, `quay.io/team/app:v1`.
    pub reference: Reference,
    /// Which image of an index; none for the node's own platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// Asks a node to have the origin asked what a tag stands for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// The image, as people name it, by its tag.
    pub reference: Reference,
}

/// What a tag stood for and stands for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    /// The tag.
    pub reference: Reference,
    /// The digest that the node knew before, however old; none if it had never asked.
    pub was: Option<Digest>,
    /// The digest that it stands for at the origin now.
    pub now: Digest,
}

/// Names the tree to show. Exactly one of the two must be given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeQuery {
    /// The image, as people name it. A tag is looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// The function itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionId>,
}

/// The body of every answer that is not a success, as RFC 9457 has it: `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind of problem it is, for programs: `urn:faasnet:problem:...`, or `about:blank` where the status says it
    /// all.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words. The same for all problems of a kind.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What failed and, where one can tell, what to do; for people.
    pub detail: String,
    /// Where more is told of this very occurrence, as a path on the same node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and shapes in the JSON are what other programs rely on.
    #[test]
    fn json_is_stable() {
        let text = r#"{"function":"sha256:abababababababababababababababababababababababababababababababab","reference":"docker.io/library/alpine:3.20","state":"provisioning","bytes":10,"held_bytes":9,"origin_bytes":1,"peer_bytes":8,"elapsed_ms":5,"parent":"vm-2","depth":1,"participants":3,"sources":{"origin":1,"vm-2":8},"error":null}"#;
        let function: Function = serde_json::from_str(text).unwrap();
        assert_eq!(function.state, FunctionState::Provisioning);
        assert_eq!(serde_json::to_string(&function).unwrap(), text);

        let text = r#"{"node":"vm-1","zone":"a","state":"suspect","address":"[::1]:7400","incarnation":2,"version":"0.1.0","functions":0}"#;
        let member: Member = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&member).unwrap(), text);
    }

    #[test]
    fn requests_are_checked_where_they_enter() {
        let read = |text: &str| serde_json::from_str::<ProvisionRequest>(text);
        assert_eq!(read(r#"{"reference":"alpine"}"#).unwrap().platform, None);
        let rows = [
            (r#"{"reference":"Alpine"}"#, "is no repository"),
            (r#"{"reference":"alpine","platform":"linux"}"#, "is no platform"),
            (r#"{"platform":"linux/amd64"}"#, "missing field `reference`"),
            (r#"{"reference":"alpine","tag":"x"}"#, "unknown field `tag`"),
        ];
        for (text, reason) in rows {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
