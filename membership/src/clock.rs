//! The wall clock: read once from the system, then carried on by tokio's clock.
//!
//! So time never goes backwards while a node runs, and under a paused runtime wall time is virtual like all other time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Where a node's wall time comes from.
#[derive(Debug, Clone, Copy)]
pub struct WallClock {
    epoch_ms: u64,
    started: Instant,
}

impl WallClock {
    /// The system's clock.
    pub fn system() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self::starting_at(u64::try_from(now.as_millis()).unwrap_or(u64::MAX / 2))
    }

    /// A clock that shows `epoch_ms` milliseconds since the Unix epoch now.
    pub fn starting_at(epoch_ms: u64) -> Self {
        Self { epoch_ms, started: Instant::now() }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        self.epoch_ms.saturating_add(u64::try_from(self.uptime().as_millis()).unwrap_or(u64::MAX))
    }

    /// Time since this clock was made.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
