//! Who fetches a blob: one function at a time.

use std::sync::Arc;

use membership::{FunctionId, Stamp};

use crate::blob::Blob;

/// Who fetches a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Along whose tree.
    pub function: FunctionId,
    /// When this node joined it.
    pub stamp: Stamp,
}

impl Blob {
    /// Whose fetch it waits for, if anybody's.
    pub fn claim(&self) -> Option<Claim> {
        self.progress.borrow().claim
    }

    /// Whether all of it is on its way, whoever waits for it.
    pub(crate) fn comes_whole(&self) -> bool {
        self.progress.borrow().comes_whole
    }

    /// Claims the right to fetch it, waiting while somebody else has it. `None` if it became complete meanwhile. The
    /// claim ends when the guard is dropped.
    pub async fn claim_for(self: &Arc<Self>, claim: Claim) -> Option<ClaimGuard> {
        let mut changes = self.progress.subscribe();
        loop {
            let claimed = self.progress.send_if_modified(|progress| {
                let free = !progress.complete && progress.claim.is_none();
                if free {
                    progress.claim = Some(claim);
                    progress.abandoned = None;
                }
                free
            });
            if claimed {
                return Some(ClaimGuard { blob: self.clone(), reason: Some("it was cancelled".to_owned()) });
            }
            if self.is_complete() {
                return None;
            }
            // The sender lives in self.
            let _ = changes.changed().await;
        }
    }

    /// Somebody is about to fetch it: that an earlier fetch was given up is no reason to fail any more.
    pub fn hope(&self) {
        self.progress.send_if_modified(|progress| progress.abandoned.take().is_some());
    }
}

/// The right to fetch a blob, until it is dropped.
pub struct ClaimGuard {
    blob: Arc<Blob>,
    reason: Option<String>,
}

impl ClaimGuard {
    /// Says why the fetch ends without the blob being complete.
    pub fn abandon(mut self, reason: String) {
        self.reason = Some(reason);
    }

    /// All of the blob comes from now on, whoever waits for it.
    pub(crate) fn bring_all(&self) {
        self.blob.progress.send_modify(|progress| progress.comes_whole = true);
    }

    /// Lets others claim it. What is asked for next is still going to be fetched.
    pub fn let_go(mut self) {
        self.reason = None;
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let reason = self.reason.take();
        self.blob.progress.send_modify(|progress| {
            progress.claim = None;
            progress.comes_whole = false;
            progress.abandoned = reason.filter(|_| !progress.complete);
        });
    }
}
