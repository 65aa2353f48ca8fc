//! What of a blob is to be brought here, as it changes.

use std::sync::Arc;

use tokio::sync::watch;

use crate::blob::Blob;
use crate::blocks::BlockSet;

/// All of a blob, or what somebody waits for; and what comes first.
#[derive(Clone)]
pub(super) struct Goal<'a> {
    pub(super) blob: &'a Arc<Blob>,
    whole: watch::Receiver<bool>,
    demand: watch::Receiver<()>,
}

impl<'a> Goal<'a> {
    pub(super) fn new(blob: &'a Arc<Blob>, whole: watch::Receiver<bool>) -> Self {
        Self { blob, whole, demand: blob.demand_changes() }
    }

    pub(super) fn is_whole(&self) -> bool {
        *self.whole.borrow()
    }

    /// The blocks that are not held: those that come first, and all that are to come.
    pub(super) fn lacking(&self) -> (BlockSet, BlockSet) {
        let (urgent, wanted) = self.blob.demanded();
        (urgent, if self.is_whole() { self.blob.lacking() } else { wanted })
    }

    /// Whether nothing is to come.
    pub(super) fn is_met(&self) -> bool {
        self.lacking().1.is_empty()
    }

    /// Waits until something else is to come.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            Ok(()) = self.whole.changed() => {}
            // The sender lives in the blob.
            _ = self.demand.changed() => {}
        }
    }

    /// Waits until all of the blob is to come.
    pub(super) async fn whole(&mut self) {
        if self.whole.wait_for(|whole| *whole).await.is_err() {
            // Nobody is left to change it.
            std::future::pending::<()>().await;
        }
    }
}
