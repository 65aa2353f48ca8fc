//! What all requests of one origin share on this node: how many may be open at once, and how fast bytes may come in.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use super::rate::Bucket;

/// The caps of one origin.
#[derive(Debug)]
pub(super) struct Budget {
    requests: Arc<Semaphore>,
    /// One fewer than `requests`: documents are short, and must not queue behind gigabytes.
    blobs: Arc<Semaphore>,
    bucket: Option<Mutex<Bucket>>,
    started: Instant,
}

/// Leave to have one request open, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _request: Option<OwnedSemaphorePermit>,
    _blob: Option<OwnedSemaphorePermit>,
}

impl Budget {
    pub(super) fn new(max_requests: NonZeroU32, max_rate: Option<NonZeroU64>) -> Self {
        let requests = usize::try_from(max_requests.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(requests)),
            blobs: Arc::new(Semaphore::new((requests - 1).max(1))),
            bucket: max_rate.map(|rate| Mutex::new(Bucket::new(rate))),
            started: Instant::now(),
        }
    }

    /// Waits for leave to ask for a document. Those ahead hold theirs no longer than a document may take.
    pub(super) async fn document(&self) -> Permit {
        Permit { _request: self.requests.clone().acquire_owned().await.ok(), _blob: None }
    }

    /// Waits for leave to read a blob, in the order of asking. Those ahead hold theirs as long as their bytes come in,
    /// so there is no limit of time that would suit all; callers have their own.
    pub(super) async fn blob(&self) -> Permit {
        let blob = self.blobs.clone().acquire_owned().await.ok();
        Permit { _request: self.requests.clone().acquire_owned().await.ok(), _blob: blob }
    }

    /// Accounts for bytes of a document, which is small and waited for by somebody: later blobs pay for it.
    pub(super) fn charge(&self, bytes: usize) {
        if let Some(bucket) = &self.bucket {
            bucket.lock().take(bytes, self.started.elapsed());
        }
    }

    /// Accounts for bytes of a blob, and waits until more may be read.
    pub(super) async fn pace(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        let wait = bucket.lock().take(bytes, self.started.elapsed());
        if !wait.is_zero() {
            sleep(wait).await;
        }
    }

    /// The most bytes of a blob to take at a time.
    pub(super) fn piece(&self) -> usize {
        self.bucket.as_ref().map_or(usize::MAX, |bucket| bucket.lock().piece())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(requests: u32, rate: u64) -> Budget {
        Budget::new(NonZeroU32::new(requests).unwrap(), NonZeroU64::new(rate))
    }

    #[tokio::test(start_paused = true)]
    async fn blobs_leave_room_for_a_document() {
        let soon = Duration::from_secs(1);
        let budget = budget(3, 0);
        let blobs = [budget.blob().await, budget.blob().await];
        assert!(tokio::time::timeout(soon, budget.blob()).await.is_err());
        let document = budget.document().await;
        assert!(tokio::time::timeout(soon, budget.document()).await.is_err());
        drop(blobs);
        budget.blob().await;
        drop(document);
        let only = self::budget(1, 0);
        let held = only.blob().await;
        assert!(tokio::time::timeout(soon, only.document()).await.is_err());
        drop(held);
        only.document().await;
    }

    #[tokio::test(start_paused = true)]
    async fn all_readers_share_one_rate() {
        let (budget, start) = (budget(1, 100_000), Instant::now());
        budget.charge(100_000);
        let read = async {
            for _ in 0..20 {
                budget.pace(10_000).await;
            }
        };
        tokio::join!(read, async {
            for _ in 0..20 {
                budget.pace(10_000).await;
            }
        });
        let took = start.elapsed();
        assert!((4.7..5.1).contains(&took.as_secs_f64()), "{took:?}");
    }
}
