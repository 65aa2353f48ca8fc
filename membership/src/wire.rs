//! What nodes say to each other about membership: one request and one reply a stream of [`Protocol::Control`].
//!
//! [`Protocol::Control`]: crate::link::Protocol::Control

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::id::{FunctionId, NodeId, Zone};
use crate::stamp::{Seniority, Stamp};
use crate::view::Contact;

/// Rises with every change that an older node would not understand.
pub const PROTOCOL_VERSION: u16 = 2;

/// Largest request or reply, in bytes: a `Joined` with [`MAX_CONTACTS`] contacts takes some 20 KiB.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Most contacts named in a reply: a trie of 100,000 participants is less than 40 deep.
pub const MAX_CONTACTS: usize = 128;

/// Asked of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// A node that starts introduces itself to a seed.
    Hello {
        /// [`PROTOCOL_VERSION`] of the asker.
        protocol: u16,
        /// The incarnation it starts with.
        incarnation: u64,
        /// Where it says that it can be reached.
        addr: SocketAddr,
    },
    /// Are you alive, and which incarnation are you?
    Probe,
    /// Is that node alive? I cannot reach it (SWIM's ping-req).
    ProbeFor {
        /// Whom to probe.
        node: NodeId,
        /// Where.
        addr: SocketAddr,
    },
    /// The asker leaves the cluster now.
    Leave {
        /// The incarnation that leaves.
        incarnation: u64,
    },
    /// The asker starts to provision a function and wants its place in the tree.
    Join {
        /// The function.
        function: FunctionId,
        /// Where it can be reached.
        addr: SocketAddr,
        /// Its zone.
        zone: Zone,
        /// What it has of an earlier join.
        seniority: Seniority,
        /// Nodes that did not serve it: the answer should do without them.
        avoid: Vec<NodeId>,
    },
    /// One greeter tells the other whom it greeted.
    Greeted {
        /// The function joined.
        function: FunctionId,
        /// Who joined.
        contact: Contact,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Hello`: come in.
    Welcome,
    /// To `Hello`: stay out.
    Refused(Refusal),
    /// To `Probe` and `ProbeFor`: it lives, with this incarnation.
    Alive {
        /// Incarnation of the node probed.
        incarnation: u64,
    },
    /// To `ProbeFor`: no answer.
    NotReached,
    /// To `Leave` and `Greeted`: noted.
    Noted,
    /// To `Join`.
    Joined(Joined),
}

/// Why a node may not enter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its id is taken by a node that lives.
    #[error(
        "the id {id} is taken by a live node at {holder}; give this one another id, or remove the copied node-id file from its data directory"
    )]
    DuplicateId {
        /// The id.
        id: NodeId,
        /// Where the node that has it listens.
        holder: SocketAddr,
    },
    /// The two do not speak the same protocol.
    #[error("the cluster speaks protocol {ours}, this node {theirs}; upgrade the older one")]
    Protocol {
        /// Of the node that refuses.
        ours: u16,
        /// Of the node refused.
        theirs: u16,
    },
}

/// A place in the tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    /// The joiner's stamp: the one it kept, if it did.
    pub stamp: Stamp,
    /// The joiner's ancestors, parent first.
    pub ancestors: Vec<Contact>,
    /// Some participants that hold all of it.
    pub ready: Vec<Contact>,
}
