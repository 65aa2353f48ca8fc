//! The hybrid-logical-clock time at which a participant joined a function; lower is more senior.
//!
//! Kulkarni et al., "Logical Physical Clocks" (2014): wall time where it advances, a counter where it does not,
//! so that a stamp given after another was seen is always the greater. The clock is an argument: pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How far ahead of our own wall clock a stamp that we have seen may drag our clock. A peer whose clock is off by
/// more than this must not push everybody's stamps into the future, where no honest clock could undo it.
pub const MAX_DRIFT_MS: u64 = 60_000;

/// When a participant joined a function. Ordered by time, then by count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// Tells stamps of one millisecond apart.
    pub logical: u32,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall_ms, self.logical)
    }
}

/// What a node that joins a function has by way of a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seniority {
    /// None that it knows of. Where a greeter knows of one, it gets that one again.
    New,
    /// That of an earlier join: it takes part still, or did until it stopped, and goes on where it was.
    Kept(Stamp),
    /// That of an earlier join which came to nothing. Others have moved up into its place, so it gets a later one: back in
    /// its old place it could ask none of those who hold by now what it lacks.
    GivenUp(Stamp),
}

/// Text that is no stamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no stamp: it must read <milliseconds>.<count>")]
pub struct StampError(String);

impl FromStr for Stamp {
    type Err = StampError;
    fn from_str(text: &str) -> Result<Self, StampError> {
        let parse = || {
            let (wall, logical) = text.split_once('.')?;
            Some(Stamp { wall_ms: wall.parse().ok()?, logical: logical.parse().ok()? })
        };
        parse().ok_or_else(|| StampError(text.to_owned()))
    }
}

/// The clock that a greeter takes stamps from.
#[derive(Debug, Default)]
pub struct HybridClock {
    last: Stamp,
}

impl HybridClock {
    /// A stamp greater than every one that this clock gave or observed. `now_ms` is the wall clock.
    pub fn tick(&mut self, now_ms: u64) -> Stamp {
        self.last = if now_ms > self.last.wall_ms {
            Stamp { wall_ms: now_ms, logical: 0 }
        } else {
            match self.last.logical.checked_add(1) {
                Some(logical) => Stamp { logical, ..self.last },
                None => Stamp { wall_ms: self.last.wall_ms + 1, logical: 0 },
            }
        };
        self.last
    }

    /// Takes note of a stamp that somebody else gave. One further than [`MAX_DRIFT_MS`] ahead of `now_ms` is ignored.
    pub fn observe(&mut self, seen: Stamp, now_ms: u64) {
        if seen.wall_ms <= now_ms.saturating_add(MAX_DRIFT_MS) {
            self.last = self.last.max(seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_even_when_the_wall_clock_does_not() {
        let mut clock = HybridClock::default();
        let stamps: Vec<Stamp> = [10, 10, 9, 11, 3].into_iter().map(|now| clock.tick(now)).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]), "{stamps:?}");
        clock.last.logical = u32::MAX;
        assert!(clock.tick(0) > Stamp { wall_ms: 11, logical: u32::MAX });
    }

    #[test]
    fn a_stamp_seen_is_always_older_than_the_next_one_given() {
        let mut clock = HybridClock::default();
        let seen = Stamp { wall_ms: 500, logical: 7 };
        clock.observe(seen, 100);
        assert!(clock.tick(100) > seen);
    }

    #[test]
    fn a_stamp_from_the_far_future_does_not_move_the_clock() {
        let mut clock = HybridClock::default();
        clock.observe(Stamp { wall_ms: u64::MAX, logical: u32::MAX }, 100);
        assert_eq!(clock.tick(100), Stamp { wall_ms: 100, logical: 0 });
    }

    #[test]
    fn text_and_back() {
        let stamp = Stamp { wall_ms: 1_700_000_000_000, logical: 3 };
        assert_eq!(stamp.to_string().parse(), Ok(stamp));
        for bad in ["", "1", "1.", ".1", "1.2.3", "-1.2", "1.99999999999"] {
            assert!(bad.parse::<Stamp>().is_err(), "{bad}");
        }
    }
}
