//! The view: an immutable snapshot of the live members and what each one holds.
//!
//! Pure data, made by `gossip` and read by everybody. Functions appear here as gossip tells them; a join that gossip
//! has not spread yet is known to the [`crate::greeter`] alone.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::hold::Hold;
use crate::id::{FunctionId, NodeId, Zone};
use crate::stamp::Stamp;

/// How a member stands with us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Heard of lately.
    Alive,
    /// Silent or not reached, and being probed. Still a member, but nobody's new parent.
    Suspect,
    /// Has said that it leaves. Still serves those whom it serves, but nobody's new parent.
    Leaving,
}

/// How far a participant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParticipationState {
    /// It fetches, and passes on what it has.
    Provisioning,
    /// It holds every blob, verified.
    Ready,
}

/// One function on one member, as published in its gossip state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participation {
    /// When it joined.
    pub stamp: Stamp,
    /// How far it is.
    pub state: ParticipationState,
}

impl fmt::Display for Participation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            ParticipationState::Provisioning => "provisioning",
            ParticipationState::Ready => "ready",
        };
        write!(f, "{} {state}", self.stamp)
    }
}

/// Text that is no participation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no participation: it must read <stamp> provisioning|ready")]
pub struct ParticipationError(String);

impl FromStr for Participation {
    type Err = ParticipationError;
    fn from_str(text: &str) -> Result<Self, ParticipationError> {
        let parse = || {
            let (stamp, state) = text.split_once(' ')?;
            let state = match state {
                "provisioning" => ParticipationState::Provisioning,
                "ready" => ParticipationState::Ready,
                _ => return None,
            };
            Some(Self { stamp: stamp.parse().ok()?, state })
        };
        parse().ok_or_else(|| ParticipationError(text.to_owned()))
    }
}

/// A participant of some function, and where to find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// Who.
    pub node: NodeId,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its zone.
    pub zone: Zone,
    /// When it joined the function.
    pub stamp: Stamp,
    /// How far it is.
    pub state: ParticipationState,
}

/// One member as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub node: NodeId,
    /// Rises with each start of the node.
    pub incarnation: u64,
    /// Where it listens.
    pub addr: SocketAddr,
    /// Where it stands.
    pub zone: Zone,
    /// How it stands with us.
    pub state: MemberState,
    /// The release that it runs.
    pub version: String,
    /// The functions that it provisions or holds.
    pub functions: BTreeMap<FunctionId, Participation>,
    /// What it has been asked to leave alone, by name, and all others with it.
    pub holds: BTreeMap<String, Hold>,
}

/// The live members, this node among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    me: NodeId,
    members: BTreeMap<NodeId, Arc<Member>>,
}

impl View {
    /// The view that node `me` has of these members.
    pub fn new(me: NodeId, members: impl IntoIterator<Item = Arc<Member>>) -> Self {
        Self { me, members: members.into_iter().map(|member| (member.node.clone(), member)).collect() }
    }

    /// Whose view it is.
    pub fn me(&self) -> &NodeId {
        &self.me
    }

    /// One member.
    pub fn get(&self, node: &NodeId) -> Option<&Arc<Member>> {
        self.members.get(node)
    }

    /// All members, by name.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Arc<Member>> {
        self.members.values()
    }

    /// The members that can be asked something new: neither suspect nor leaving.
    pub fn alive(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members().filter(|member| member.state == MemberState::Alive)
    }

    /// The participants of a function that gossip has told of. One that leaves has left the tree.
    pub fn participants(&self, function: &FunctionId) -> impl Iterator<Item = Contact> {
        self.members().filter(|member| member.state != MemberState::Leaving).filter_map(|member| {
            let participation = member.functions.get(function)?;
            Some(Contact {
                node: member.node.clone(),
                addr: member.addr,
                zone: member.zone.clone(),
                stamp: participation.stamp,
                state: participation.state,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_participation_reads_as_it_was_written() {
        for state in [ParticipationState::Provisioning, ParticipationState::Ready] {
            let participation = Participation { stamp: Stamp { wall_ms: 12, logical: 3 }, state };
            assert_eq!(participation.to_string().parse(), Ok(participation));
        }
        for bad in ["", "12.3", "12.3 lost", "x ready", "12.3 ready ready"] {
            assert!(bad.parse::<Participation>().is_err(), "{bad}");
        }
    }
}
