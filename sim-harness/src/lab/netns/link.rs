//! What a link is like: its rates, its delay, its loss; and the words in which `tc` is told.

use std::time::Duration;

/// Bits per second on a wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// Millions of bits per second.
    pub const fn mbit(millions: u64) -> Self {
        Self(millions * 1_000_000)
    }

    /// The rate at which so many bytes take so long.
    ///
    /// # Panics
    /// When the time is zero.
    pub fn of(bytes: u64, time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self(bytes.saturating_mul(8_000) / millis)
    }

    /// So many bits per second.
    pub const fn bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The number of bits.
    pub const fn bits_per_second(self) -> u64 {
        self.0
    }

    /// The same in bytes.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }
}

/// What a link between a host, or a zone, and the rest of the network is like. By default it is as fast as the machine.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Link {
    /// The rate from the host or zone to the rest.
    pub up: Option<Rate>,
    /// The rate from the rest to the host or zone.
    pub down: Option<Rate>,
    /// How long a packet is under way, each way.
    pub delay: Duration,
    /// By how much that differs from packet to packet, to either side. They stay in order.
    pub jitter: Duration,
    /// The share of packets that get lost, each way, from 0 to 1.
    pub loss: f64,
}

impl Link {
    /// The same rate both ways.
    pub fn at(rate: Rate) -> Self {
        Self { up: Some(rate), down: Some(rate), ..Self::default() }
    }

    /// Whether packets are to be held up.
    pub fn has_delay(&self) -> bool {
        !self.delay.is_zero() || !self.jitter.is_zero()
    }
}

/// How long a packet may wait for its turn at a limit: what a router of the old school would keep.
const QUEUE: &str = "50ms";

/// The arguments of the token bucket filter that keeps a rate.
pub(super) fn bucket(rate: Rate) -> Vec<String> {
    // The bucket takes what the rate gives in 4 ms (the coarsest kernel tick), and at least two of the 64 KiB that a
    // segmenting card is handed at once.
    let burst = (rate.bytes_per_second() / 250).max(128 * 1024);
    let (rate, burst) = (format!("{}bit", rate.0), burst.to_string());
    ["tbf", "rate", &rate, "burst", &burst, "latency", QUEUE].map(str::to_owned).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(Rate::of(1_000_000, Duration::from_secs(8)), Rate::mbit(1));
        assert_eq!(Rate::mbit(8).bytes_per_second(), 1_000_000);
    }
}
