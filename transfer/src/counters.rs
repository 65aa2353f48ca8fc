//! What this node has moved since it started, in bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counts, shared by all transfers of a node.
#[derive(Debug, Default)]
pub struct Counters {
    origin_bytes: AtomicU64,
    peer_bytes: AtomicU64,
    served_bytes: AtomicU64,
    wasted_bytes: AtomicU64,
    verified_blocks: AtomicU64,
    refused_blocks: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Block bytes read from origins and kept.
    pub origin_bytes: u64,
    /// Block bytes received from peers and kept.
    pub peer_bytes: u64,
    /// Block bytes sent to peers.
    pub served_bytes: u64,
    /// Block bytes received although they were held already.
    pub wasted_bytes: u64,
    /// Blocks received from peers that matched their hash and were kept.
    pub verified_blocks: u64,
    /// Blocks refused because they did not match their hash.
    pub refused_blocks: u64,
}

impl Counters {
    pub(crate) fn read_from_origin(&self, bytes: u64) {
        self.origin_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One block, which matched its hash.
    pub(crate) fn received_from_peer(&self, bytes: u64) {
        self.verified_blocks.fetch_add(1, Ordering::Relaxed);
        self.peer_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn served(&self, bytes: u64) {
        self.served_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn wasted(&self, bytes: u64) {
        self.wasted_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn refused_block(&self) {
        self.refused_blocks.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> Counts {
        Counts {
            origin_bytes: self.origin_bytes.load(Ordering::Relaxed),
            peer_bytes: self.peer_bytes.load(Ordering::Relaxed),
            served_bytes: self.served_bytes.load(Ordering::Relaxed),
            wasted_bytes: self.wasted_bytes.load(Ordering::Relaxed),
            verified_blocks: self.verified_blocks.load(Ordering::Relaxed),
            refused_blocks: self.refused_blocks.load(Ordering::Relaxed),
        }
    }
}
