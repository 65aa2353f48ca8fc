//! How many requests a node made on behalf of one origin, by what came of them.

use std::sync::atomic::{AtomicU64, Ordering};

use super::OriginError;

/// Requests to an origin, its mirrors included, since the node started. What was answered after asking for a token
/// counts once, and what was not sent does not count.
#[derive(Debug, Default)]
pub struct OriginCounts {
    ok: AtomicU64,
    not_found: AtomicU64,
    denied: AtomicU64,
    throttled: AtomicU64,
    unavailable: AtomicU64,
    invalid: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Answered as they should be.
    pub ok: u64,
    /// Answered that there is no such thing.
    pub not_found: u64,
    /// Refused, by the registry or by who issues its tokens.
    pub denied: u64,
    /// Answered that this is too much, or that we are to come again after a certain time.
    pub throttled: u64,
    /// Not answered, or answered with a fault of the registry's own.
    pub unavailable: u64,
    /// Answered with something that cannot be right.
    pub invalid: u64,
}

impl OriginCounts {
    /// The counts now.
    pub fn read(&self) -> RequestCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RequestCounts {
            ok: read(&self.ok),
            not_found: read(&self.not_found),
            denied: read(&self.denied),
            throttled: read(&self.throttled),
            unavailable: read(&self.unavailable),
            invalid: read(&self.invalid),
        }
    }

    pub(super) fn record<T>(&self, result: &Result<T, OriginError>) {
        let count = match result {
            Ok(_) => &self.ok,
            Err(OriginError::NotFound { .. }) => &self.not_found,
            Err(OriginError::Denied { .. }) => &self.denied,
            Err(OriginError::Unavailable { retry_after: Some(_), .. }) => &self.throttled,
            Err(OriginError::Unavailable { retry_after: None, .. }) => &self.unavailable,
            Err(OriginError::Invalid { .. }) => &self.invalid,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
