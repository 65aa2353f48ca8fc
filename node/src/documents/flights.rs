//! One at a time: many callers who want the same make one request, and the others wait for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Flight = tokio::sync::Mutex<()>;

/// What is under way, by name. Holds no more names than there are callers.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<BTreeMap<String, Weak<Flight>>>);

impl Flights {
    /// Waits until nobody else is under way with that name. Nobody is until the guard is dropped.
    pub(super) async fn board(&self, name: &str) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock();
            flights.retain(|_, flight| flight.strong_count() > 0);
            match flights.get(name).and_then(Weak::upgrade) {
                Some(flight) => flight,
                None => {
                    let flight = Arc::<Flight>::default();
                    flights.insert(name.to_owned(), Arc::downgrade(&flight));
                    flight
                }
            }
        };
        flight.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_for_each_name_and_nothing_is_left_behind() {
        let flights = Flights::default();
        let first = flights.board("a").await;
        let other = timeout(Duration::from_secs(1), flights.board("b")).await.unwrap();
        // Who gives up leaves nothing behind either.
        assert!(timeout(Duration::from_secs(1), flights.board("a")).await.is_err());
        drop((first, other));
        let _second = timeout(Duration::from_secs(1), flights.board("a")).await.unwrap();
        assert_eq!(flights.0.lock().keys().collect::<Vec<_>>(), ["a"]);
    }
}
