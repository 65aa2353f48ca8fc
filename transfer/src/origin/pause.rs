//! When an origin may be asked again, after it has asked to be left alone (429, 503, `Retry-After`).
//!
//! One [`Pause`] per origin is shared by all who read from it. Whoever else keeps a node's origins in step with those of
//! others reads and lengthens it from outside: this module knows nobody.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The longest pause that anybody can ask for. A registry that wants more is asked again after this long, which costs it
/// one request an hour.
pub const MAX_PAUSE: Duration = Duration::from_secs(3_600);

/// How long an origin is to be left alone.
#[derive(Debug)]
pub struct Pause {
    until: watch::Sender<Option<Instant>>,
}

impl Default for Pause {
    fn default() -> Self {
        Self { until: watch::Sender::new(None) }
    }
}

impl Pause {
    /// Leave it alone for that long from now, or for as long as was asked for earlier, whichever ends later. Says whether
    /// that is news.
    pub fn ask_for(&self, duration: Duration) -> bool {
        let asked = Instant::now() + duration.min(MAX_PAUSE);
        self.until.send_if_modified(|until| {
            let later = until.is_none_or(|until| until < asked);
            if later {
                *until = Some(asked);
            }
            later
        })
    }

    /// How much longer it is to be left alone; `None` if it may be asked.
    pub fn remaining(&self) -> Option<Duration> {
        let until = (*self.until.borrow())?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// Waits until it may be asked.
    pub async fn over(&self) {
        while let Some(left) = self.remaining() {
            sleep_until(Instant::now() + left).await;
        }
    }

    /// Told of every pause that is asked for.
    pub fn changes(&self) -> watch::Receiver<Option<Instant>> {
        self.until.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_pause_counts() {
        let (pause, start) = (Pause::default(), Instant::now());
        assert_eq!(pause.remaining(), None);
        assert!(pause.ask_for(Duration::from_secs(5)));
        assert!(!pause.ask_for(Duration::from_secs(3)));
        assert!(pause.ask_for(Duration::from_secs(8)));
        pause.over().await;
        assert_eq!((start.elapsed(), pause.remaining()), (Duration::from_secs(8), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_has_a_bound() {
        let pause = Pause::default();
        assert!(pause.ask_for(Duration::MAX));
        assert_eq!(pause.remaining(), Some(MAX_PAUSE));
    }
}
