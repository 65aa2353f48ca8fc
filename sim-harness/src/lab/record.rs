//! What a run of a scenario leaves: who did what, when, and whether it held. As JSON it is what other programs read.
//!
//! Times are in seconds since the first event of the timeline, sizes in bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the registry is called where nodes are named by their ids.
pub const ORIGIN: &str = "origin";

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The scenario's name.
    pub scenario: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// What all that is random was drawn from.
    pub seed: u64,
    /// What it ran on.
    pub machine: Machine,
    /// The bytes of the image, configuration and layers together.
    pub image_bytes: u64,
    /// The physical limit: the image over the slowest link that an ordinary node, one of the first group, has to receive it through. None
    /// where links are as fast as the machine.
    pub ideal_seconds: Option<f64>,
    /// From the first event to when the last live node that was asked had the image.
    pub seconds: f64,
    /// The same over the physical limit.
    pub over_ideal: Option<f64>,
    /// What happened, in order.
    pub events: Vec<Happening>,
    /// The nodes, in the order in which they were made.
    pub nodes: Vec<NodeRecord>,
    /// The zones besides the backbone.
    pub zones: Vec<ZoneRecord>,
    /// The registry.
    pub origin: OriginRecord,
    /// How it went, look by look.
    pub samples: Vec<Sample>,
    /// What had to hold, and whether it did.
    pub checks: Vec<Check>,
}

impl Record {
    /// Whether all held that had to.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }
}

/// What a run ran on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that are online.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// What makes delay: `netem`, `forwarder`, or `none` where no link has any.
    pub delays: String,
    /// The share of all processors that was busy during the run, from 0 to 1. Near 1 the machine was the limit, not the links.
    pub busy: f64,
}

/// An event, as it came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Happening {
    /// When.
    pub at: f64,
    /// What, in words: `kill n3`.
    pub what: String,
    /// Whom it befell.
    pub nodes: Vec<String>,
}

/// One node, over the whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id.
    pub node: String,
    /// Its zone, if it stands in one.
    pub zone: Option<String>,
    /// Whether it was running at the end.
    pub alive: bool,
    /// When it was first asked for the image.
    pub asked: Option<f64>,
    /// When it held its first block, as far as looks tell.
    pub first_byte: Option<f64>,
    /// When it had the whole image.
    pub finished: Option<f64>,
    /// For how long, between the two, it was seen not to get on: the sum of all pauses of half a second and more.
    pub stalled: f64,
    /// Bytes delivered to it, packet headers included, by sender: a node or `origin`.
    pub received: BTreeMap<String, u64>,
    /// Bytes delivered from it, by receiver.
    pub sent: BTreeMap<String, u64>,
    /// Processor time of its processes, in seconds.
    pub cpu_seconds: f64,
    /// The most memory that it had at once.
    pub peak_rss_bytes: u64,
    /// Lines of level error in its log.
    pub errors: Vec<String>,
}

/// One zone, over the whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// Its name.
    pub zone: String,
    /// Bytes that came into it from the rest of the network, packet headers included.
    pub received: u64,
    /// Bytes that left it.
    pub sent: u64,
}

/// The registry, over the whole run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OriginRecord {
    /// Bytes of blobs that it sent, by its own access log. Answers that were cut off because it was stopped are missing there.
    pub blob_bytes: u64,
    /// Bytes delivered from it, packet headers included.
    pub sent: u64,
    /// Requests for blobs.
    pub blob_requests: usize,
}

/// One look at everybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: f64,
    /// Verified bytes by node. A node that did not answer is missing.
    pub held: BTreeMap<String, u64>,
    /// What was delivered since the look before.
    pub flows: Vec<Flow>,
}

/// What one host had delivered from another one between two looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The sender: a node or `origin`.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// Packet headers included.
    pub bytes: u64,
}

/// Something that had to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a few words.
    pub what: String,
    /// Whether it held.
    pub passed: bool,
    /// What was found, and what was allowed.
    pub found: String,
}
