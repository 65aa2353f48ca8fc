//! How many bytes a second may come in: a bucket that fills at a fixed rate. Pure.

use std::num::NonZeroU64;
use std::time::Duration;

/// How much of what was not used may be used later, as a time at the full rate: enough that a reader which was busy for
/// a moment catches up, too little to be felt on a link.
pub(super) const BURST: Duration = Duration::from_millis(250);

/// The smallest piece that readers are asked to take at a time, so that a low rate does not turn into a system call a
/// byte.
const MIN_PIECE_BYTES: u64 = 4 << 10;

/// A rate, and how much of it is used up.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: NonZeroU64,
    /// Until when all that was taken has been paid for.
    paid_until: Duration,
}

impl Bucket {
    /// `rate` is in bytes a second.
    pub(super) fn new(rate: NonZeroU64) -> Self {
        Self { rate, paid_until: Duration::ZERO }
    }

    /// Takes `bytes` at the time `now`, since any fixed moment. How long to wait before any more is taken.
    pub(super) fn take(&mut self, bytes: usize, now: Duration) -> Duration {
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate.get() as f64);
        self.paid_until = self.paid_until.max(now.saturating_sub(BURST)).saturating_add(cost);
        self.paid_until.saturating_sub(now)
    }

    /// The most bytes to take at a time, so that they come in smoothly.
    pub(super) fn piece(&self) -> usize {
        let quarter = self.rate.get() / 4;
        usize::try_from(quarter.max(MIN_PIECE_BYTES)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_rate_is_kept_whatever_the_pieces() {
        for piece in [100, 1_000, 4_000] {
            let mut bucket = Bucket::new(NonZeroU64::new(10_000).unwrap());
            let mut now = SECOND;
            for _ in 0..100_000 / piece {
                now += bucket.take(piece, now);
            }
            let took = now - SECOND;
            assert_eq!(took, 10 * SECOND - BURST, "{piece}");
        }
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let mut bucket = Bucket::new(NonZeroU64::new(1_000).unwrap());
        assert_eq!(bucket.take(250, 10 * SECOND), Duration::ZERO);
        assert_eq!(bucket.take(100, 10 * SECOND), SECOND / 10);
        assert_eq!(bucket.take(250, 1_000 * SECOND), Duration::ZERO);
        assert_eq!(bucket.take(1, 1_000 * SECOND), SECOND / 1_000);
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        for rate in [1, u64::MAX] {
            let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap());
            bucket.take(1 << 20, Duration::MAX);
            assert!(bucket.piece() >= 4096);
        }
    }
}
