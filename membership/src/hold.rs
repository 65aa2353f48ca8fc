//! A hold: something outside the cluster that all members leave alone for a while, because one of them was asked to.
//!
//! A member publishes its holds in its own gossip state and withdraws each when it is over. Whoever reads one counts its
//! duration from the moment of first seeing it, on its own clock: clocks of different machines are never compared. So a
//! member that learns of a hold late waits longer than was asked, by less than twice. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest hold. What is published as longer counts as this long, so that a member that vanishes, or is out of its
/// mind, keeps nobody away for good.
pub const MAX_HOLD: Duration = Duration::from_secs(3_600);

/// The longest name of what is held, in bytes: a registry's host (253 at most, RFC 1035) and what little may stand around it.
pub const MAX_NAME_BYTES: usize = 255;

/// Holds that a member has at once, and that are read from another's state. One stands for an origin; a cluster has a handful.
pub const MAX_HOLDS: usize = 64;

/// One hold, as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Rises with every hold that this start of its publisher publishes. Two of one name are told apart by it, even if they
    /// last equally long.
    pub serial: u64,
    /// How long it lasts from the moment it is first seen. At most [`MAX_HOLD`].
    pub duration: Duration,
}

impl Hold {
    /// Milliseconds are exact enough, and what travels.
    pub(crate) fn new(serial: u64, duration: Duration) -> Self {
        Self { serial, duration: duration.min(MAX_HOLD) }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.serial, self.duration.as_millis())
    }
}

/// Text that is no hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no hold: it must read <serial> <milliseconds>")]
pub struct HoldError(String);

impl FromStr for Hold {
    type Err = HoldError;
    fn from_str(text: &str) -> Result<Self, HoldError> {
        let parse = || {
            let (serial, duration) = text.split_once(' ')?;
            Some(Self::new(serial.parse().ok()?, Duration::from_millis(duration.parse().ok()?)))
        };
        parse().ok_or_else(|| HoldError(text.to_owned()))
    }
}

/// Whether something of this name can be held.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_reads_as_it_was_written() {
        for (serial, seconds) in [(0, 0), (1, 30), (u64::MAX, 3_600)] {
            let hold = Hold::new(serial, Duration::from_secs(seconds));
            assert_eq!(hold.to_string().parse(), Ok(hold));
        }
    }

    #[test]
    fn what_others_publish_is_bounded_or_left_out() {
        for (text, expected) in [
            ("7 3600001", Some(3_600_000)),
            ("7 18446744073709551615", Some(3_600_000)),
            ("7 18446744073709551616", None),
            ("7 -1", None),
            ("7", None),
            ("", None),
            ("7 5 5", None),
            ("x 5", None),
        ] {
            let read = text.parse::<Hold>().ok().map(|hold| hold.duration.as_millis());
            assert_eq!(read, expected, "{text:?}");
        }
    }

    #[test]
    fn names_have_a_bound() {
        for (length, expected) in [(0, false), (1, true), (255, true), (256, false)] {
            assert_eq!(is_name(&"x".repeat(length)), expected, "{length}");
        }
    }
}
