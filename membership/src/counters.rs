//! What a member has said and whom it has suspected since it started, for those who watch over a cluster.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::suspicion;

/// What became of the gossip messages to others.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gossip messages that their destination has read.
    pub messages_sent: u64,
    /// Gossip messages dropped for newer ones, or for want of room, before they were sent.
    pub messages_dropped: u64,
    /// Gossip messages whose destination was not reached, or did not read them in time.
    pub messages_failed: u64,
    /// What became of suspicions.
    pub suspicions: suspicion::Counts,
}

impl Messages {
    pub(crate) fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now, with those of suspicions.
    pub(crate) fn read(&self, suspicions: suspicion::Counts) -> Counts {
        Counts {
            messages_sent: self.sent.load(Ordering::Relaxed),
            messages_dropped: self.dropped.load(Ordering::Relaxed),
            messages_failed: self.failed.load(Ordering::Relaxed),
            suspicions,
        }
    }
}
