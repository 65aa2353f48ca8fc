//! When to try again, and when to give up.
//!
//! Decides only: it neither waits nor asks anybody. The randomness of a pause is an argument. Pure.

use std::time::Duration;

/// The bounds of trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How many tries may fail in a row, the first included. At least 1. More ride out longer faults, but
    /// make callers wait longer before they turn elsewhere. Default 5.
    pub tries: u32,
    /// The longest pause after the first failure; each further failure doubles it. Default 200 ms.
    pub base: Duration,
    /// Where doubling ends. Default 5 s.
    pub max_pause: Duration,
    /// The longest pause that an origin may ask for; if it asks for more, we give up at once, since earlier
    /// tries would be refused and the caller has better things to do than to wait. Default 30 s.
    pub max_retry_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            base: Duration::from_millis(200),
            max_pause: Duration::from_secs(5),
            max_retry_after: Duration::from_secs(30),
        }
    }
}

/// The tries of one request.
#[derive(Debug, Clone)]
pub struct Retry {
    policy: RetryPolicy,
    failures: u32,
}

impl Retry {
    /// Before the first try.
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, failures: 0 }
    }

    /// Something was achieved: later failures count from none again.
    pub fn progress(&mut self) {
        self.failures = 0;
    }

    /// A try failed. How long to pause before the next one, or `None` to give up.
    ///
    /// `retry_after` is what the origin asked for. `jitter`, between 0 and 1, spreads those who failed
    /// together: the pause lies between a half and the whole of the doubling bound, and up to a quarter past
    /// what the origin asked for.
    pub fn failed(&mut self, retry_after: Option<Duration>, jitter: f64) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.policy.tries {
            return None;
        }
        let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
        if let Some(asked) = retry_after {
            let spread = (asked / 4).mul_f64(jitter);
            return (asked <= self.policy.max_retry_after).then(|| asked.saturating_add(spread));
        }
        let doubled = self.policy.base.saturating_mul(1 << (self.failures - 1).min(20));
        let half = doubled.min(self.policy.max_pause) / 2;
        Some(half.saturating_add(half.mul_f64(jitter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        tries: 5,
        base: Duration::from_millis(100),
        max_pause: Duration::from_millis(300),
        max_retry_after: Duration::from_secs(30),
    };

    fn pauses(jitter: f64) -> Vec<Option<u128>> {
        let mut retry = Retry::new(POLICY);
        (0..5).map(|_| retry.failed(None, jitter).map(|pause| pause.as_millis())).collect()
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        assert_eq!(pauses(1.0), [Some(100), Some(200), Some(300), Some(300), None]);
        assert_eq!(pauses(0.0), [Some(50), Some(100), Some(150), Some(150), None]);
        assert_eq!(pauses(f64::NAN), pauses(0.5));
        assert_eq!(pauses(1e9), pauses(1.0));
    }

    #[test]
    fn progress_starts_anew() {
        let mut retry = Retry::new(POLICY);
        for _ in 0..100 {
            assert_eq!(retry.failed(None, 1.0), Some(POLICY.base));
            retry.progress();
        }
    }

    #[test]
    fn the_origin_may_ask_for_a_pause_up_to_a_bound() {
        let ask = |secs, jitter| Retry::new(POLICY).failed(Some(Duration::from_secs(secs)), jitter);
        assert_eq!(ask(8, 0.0), Some(Duration::from_secs(8)));
        assert_eq!(ask(8, 1.0), Some(Duration::from_secs(10)));
        assert_eq!(ask(30, 0.0), Some(Duration::from_secs(30)));
        assert_eq!(ask(31, 0.0), None);
        let mut retry = Retry::new(POLICY);
        let tries = (0..10).take_while(|_| retry.failed(Some(Duration::ZERO), 0.0).is_some()).count();
        assert_eq!(tries, 4, "an origin that asks for no pause must not be asked for ever");
    }

    #[test]
    fn extreme_policies_neither_overflow_nor_loop() {
        let vast = RetryPolicy { tries: u32::MAX, base: Duration::MAX, max_pause: Duration::MAX, ..POLICY };
        let mut retry = Retry::new(vast);
        retry.failures = 1_000;
        assert!(retry.failed(None, 1.0).is_some());
        assert_eq!(Retry::new(RetryPolicy { tries: 0, ..POLICY }).failed(None, 0.5), None);
    }
}
