//! The child's side: brings blobs here, block by block, from whoever `plan` says.
//!
//! A blob is brought as a whole, what readers wait for first; or, while its job is lazy, only what somebody waits for. A
//! source is left when it breaks off, falls silent, ends, or sends wrong bytes; what was received is kept, so the next source
//! is asked for the rest only. `peer` and `origin` know how to ask either; which blobs a function has is `node`'s business.

mod goal;
mod origin;
mod peer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use membership::greeter::Lineage;
use membership::link::Link;
use membership::view::{MemberState, View};
use membership::{FunctionId, Membership, NodeId, Seniority, Stamp};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;

use self::goal::Goal;
pub use self::peer::SILENCE_LIMIT;
use crate::blob::{Blob, BlobError, Put};
use crate::claim::{Claim, ClaimGuard};
use crate::counters::Counters;
use crate::origin::Origin;
use crate::plan::{self, Past, Step};

/// Blobs of one function fetched at once: enough to keep the link busy over the ends and beginnings of small ones. What
/// readers wait for comes without waiting for its blob's turn.
const PARALLEL_BLOBS: usize = 3;

/// How often a blob may turn out wrong as a whole before it is given up. The second time all of it came from the origin.
const MAX_WRONG_WHOLES: usize = 2;

/// How long a lazy job leaves a blob alone that no source had. Readers were told, and may ask again.
const LAZY_RETRY: Duration = Duration::from_secs(1);

/// Where bytes came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The function's backing store.
    Origin,
    /// Another node.
    Peer(NodeId),
}

/// Why a blob could not be fetched. What was received is kept for the next try.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Every source was tried, several times over.
    #[error("no source has {blob}: {reason}")]
    Exhausted {
        /// The blob.
        blob: crate::digest::Digest,
        /// What the last one said.
        reason: String,
    },
    /// The disk failed, or the bytes are wrong even from the origin.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// What all fetches of a node share.
pub struct Fetcher {
    /// Who is here.
    pub membership: Membership,
    /// How to reach them.
    pub link: Arc<dyn Link>,
    /// What was moved.
    pub counters: Arc<Counters>,
}

/// One function being fetched by this node.
pub struct Job {
    fetcher: Arc<Fetcher>,
    claim: Claim,
    origin: Option<(Arc<dyn Origin>, String)>,
    lazy: watch::Receiver<bool>,
    started: Instant,
    slots: Semaphore,
    past: Mutex<Past>,
    story: Mutex<Story>,
}

/// How a job went.
#[derive(Debug, Clone, Default)]
pub struct Story {
    /// Bytes by source.
    pub bytes: BTreeMap<Source, u64>,
    /// The source that sent last.
    pub last: Option<Source>,
}

impl Job {
    /// Fetches blobs of `claim.function`, in the last resort as `repository` of an origin. While it is `lazy`, only what
    /// readers and children wait for.
    pub fn new(
        fetcher: Arc<Fetcher>,
        claim: Claim,
        origin: Option<(Arc<dyn Origin>, String)>,
        lazy: watch::Receiver<bool>,
    ) -> Self {
        Self {
            fetcher,
            claim,
            origin,
            lazy,
            started: Instant::now(),
            slots: Semaphore::new(PARALLEL_BLOBS),
            past: Mutex::default(),
            story: Mutex::default(),
        }
    }

    /// The function.
    pub fn function(&self) -> FunctionId {
        self.claim.function
    }

    /// When this node joined it.
    pub fn stamp(&self) -> Stamp {
        self.claim.stamp
    }

    /// How it went so far.
    pub fn story(&self) -> Story {
        self.story.lock().clone()
    }

    /// Brings `blob` here. Returns when it is complete, whoever completed it.
    pub async fn fetch(&self, blob: &Arc<Blob>) -> Result<(), FetchError> {
        loop {
            self.wait_for_work(blob).await;
            // Claimed before a slot is taken: waiting for another function's fetch must not keep this one's blobs waiting.
            let Some(claim) = blob.claim_for(self.claim).await else { return Ok(()) };
            match self.fetch_claimed(blob, &claim).await {
                Ok(()) if blob.is_complete() => return Ok(()),
                Ok(()) => claim.let_go(),
                Err(error) => {
                    claim.abandon(error.to_string());
                    if !self.is_lazy() {
                        return Err(error);
                    }
                    warn!(blob = %blob.digest(), %error, "what was asked for could not be fetched");
                    sleep(LAZY_RETRY).await;
                    self.past.lock().forgive_origin();
                }
            }
        }
    }

    fn is_lazy(&self) -> bool {
        *self.lazy.borrow()
    }

    /// Waits, while the job is lazy, until somebody waits for a block.
    async fn wait_for_work(&self, blob: &Blob) {
        let mut lazy = self.lazy.clone();
        tokio::select! {
            () = blob.demanded_or_complete() => {}
            () = until_false(&mut lazy) => {}
        }
    }

    /// Brings all of it once a slot is free, and until then what readers wait for.
    async fn fetch_claimed(&self, blob: &Arc<Blob>, claim: &ClaimGuard) -> Result<(), FetchError> {
        let whole = watch::Sender::new(false);
        let mut lazy = self.lazy.clone();
        let turn = async {
            until_false(&mut lazy).await;
            let _slot = self.slots.acquire().await;
            claim.bring_all();
            whole.send_replace(true);
            std::future::pending().await
        };
        tokio::select! {
            biased;
            never = turn => never,
            result = self.bring(Goal::new(blob, whole.subscribe())) => result,
        }
    }

    /// Brings what `goal` says. Returns when the blob is complete or, if the job is lazy, nobody waits any more.
    async fn bring(&self, mut goal: Goal<'_>) -> Result<(), FetchError> {
        let blob = goal.blob;
        let mut wrong_wholes = 0;
        let mut last_reason = "there is nobody to ask".to_owned();
        let mut changes = blob.changes();
        while !blob.is_complete() {
            if goal.is_met() {
                if self.is_lazy() {
                    return Ok(());
                }
                tokio::select! {
                    () = goal.changed() => {}
                    () = changes.next() => {}
                }
                continue;
            }
            let left = match self.plan(wrong_wholes > 0) {
                Step::Peer(contact) => self.fetch_from(&contact, &mut goal).await,
                Step::Origin => tokio::select! {
                    left = self.fetch_from_origin(&goal) => left,
                    () = self.better_than_origin(), if wrong_wholes == 0 => Ok(None),
                },
                Step::Rejoin => {
                    let avoid = self.past.lock().shunned(self.started.elapsed());
                    let (membership, Claim { function, stamp }) = (&self.fetcher.membership, self.claim);
                    membership.join(function, Seniority::Kept(stamp), &avoid).await;
                    // Not before: other blobs of this function would go to the origin meanwhile.
                    self.past.lock().rejoined();
                    Ok(None)
                }
                Step::Wait(pause) => {
                    sleep(pause).await;
                    Ok(None)
                }
                Step::GiveUp => {
                    return Err(FetchError::Exhausted { blob: blob.digest(), reason: last_reason });
                }
            };
            match left {
                Err(BlobError::WrongDigest { .. }) if wrong_wholes + 1 < MAX_WRONG_WHOLES => {
                    let sources: Vec<_> = self.story.lock().bytes.keys().cloned().collect();
                    warn!(blob = %blob.digest(), ?sources, "discarded a blob that does not match its digest");
                    wrong_wholes += 1;
                }
                other => last_reason = other?.unwrap_or(last_reason),
            }
        }
        Ok(())
    }

    /// The next step; after the peers' bytes have turned out wrong as a whole, from the origin if there is one.
    fn plan(&self, distrust_peers: bool) -> Step {
        let now = self.started.elapsed();
        let mut past = self.past.lock();
        past.forgive_restarted(|node| self.incarnation(node));
        let lineage = if distrust_peers && self.origin.is_some() {
            Lineage::default()
        } else {
            self.fetcher.membership.lineage(&self.claim.function, &past.shunned(now))
        };
        let view = self.fetcher.membership.view();
        let suspect = |node: &NodeId| {
            view.borrow().get(node).is_some_and(|member| member.state == MemberState::Suspect)
        };
        let contacts = lineage.ancestors.iter().chain(&lineage.ready);
        let suspects: Vec<NodeId> =
            contacts.map(|contact| contact.node.clone()).filter(|node| suspect(node)).collect();
        plan::next(&lineage, &suspects, &past, self.origin.is_some(), now)
    }

    /// Waits until somebody can be asked who was not there when the origin was turned to: a parent that has restarted, or was
    /// on the other side of a partition.
    async fn better_than_origin(&self) {
        let mut view = self.fetcher.membership.view();
        // Without a sender nothing changes any more.
        while view.changed().await.is_ok() {
            if let Step::Peer(contact) = self.plan(false)
                && !self.past.lock().had_nothing(&contact.node)
            {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Which incarnation of a node is known to live.
    fn incarnation(&self, node: &NodeId) -> Option<u64> {
        self.fetcher.membership.view().borrow().get(node).map(|member| member.incarnation)
    }

    /// Waits until a node that had that incarnation is known to have another.
    async fn restarted(&self, node: &NodeId, before: Option<u64>) {
        let mut view = self.fetcher.membership.view();
        let is_another =
            |view: &Arc<View>| plan::has_restarted(before, view.get(node).map(|member| member.incarnation));
        if view.wait_for(is_another).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn received(&self, source: &Source, bytes: u64, put: Put) {
        match (put, source) {
            (Put::Known, _) => return self.fetcher.counters.wasted(bytes),
            (Put::New, Source::Origin) => self.fetcher.counters.read_from_origin(bytes),
            (Put::New, Source::Peer(_)) => self.fetcher.counters.received_from_peer(bytes),
        }
        let mut story = self.story.lock();
        *story.bytes.entry(source.clone()).or_default() += bytes;
        story.last = Some(source.clone());
        self.past.lock().progressed();
    }
}

/// Waits until a flag is false.
async fn until_false(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|flag| !flag).await.is_err() {
        // Nobody is left to change it.
        std::future::pending::<()>().await;
    }
}
