//! Fetching from the origin: in order what nobody waits for, and beside that what somebody does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tracing::{debug, info};

use super::goal::Goal;
use super::{Job, Source};
use crate::blob::{Blob, BlobError};
use crate::blocks::{self, BlockSet};
use crate::origin::{BlobStream, Origin, OriginError};
use crate::reader::{FIRST_WINDOW, MAX_WINDOW};

/// Requests for blocks that somebody waits for, beside the one that reads in order.
const MAX_ASIDE: usize = 4;

/// Blocks of one such request, 8 MiB: what a single reader has fetched ahead at most.
const MAX_RUN: u32 = MAX_WINDOW;

/// How far ahead of the read in order readers wait for it instead of asking aside: what one that follows it has fetched
/// ahead, and once more.
const AHEAD: u32 = 2 * FIRST_WINDOW;

/// Blocks in a row that are held already for which the read in order is broken off, 8 MiB: fewer cost less when they are
/// read once more than another request does.
const SKIP: u32 = 32;

/// Where the read in order is while there is none.
const NOWHERE: u32 = u32::MAX;

/// Why a read ended early.
enum Ended {
    Origin(OriginError),
    Blob(BlobError),
}

impl From<OriginError> for Ended {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

impl From<BlobError> for Ended {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

/// One blob at its origin.
struct AtOrigin<'a> {
    origin: &'a dyn Origin,
    repository: &'a str,
    blob: &'a Arc<Blob>,
    /// The block that the read in order is at.
    at: AtomicU32,
    /// The blocks that are being read aside.
    aside: Mutex<BlockSet>,
}

impl AtOrigin<'_> {
    /// The first blocks in a row that are neither held nor being read aside.
    fn left(&self) -> Option<Range<u32>> {
        let mut left = self.blob.lacking();
        left.subtract(&self.aside.lock());
        left.ranges(1).pop()
    }
}

impl Job {
    /// Reads what `goal` lacks from the origin. Says why it could not; an error is about the blob.
    pub(super) async fn fetch_from_origin(&self, goal: &Goal<'_>) -> Result<Option<String>, BlobError> {
        let Some((origin, repository)) = &self.origin else {
            return Ok(Some("there is no origin".to_owned()));
        };
        let blob = goal.blob;
        debug!(blob = %blob.digest(), "fetching from the origin");
        let source = AtOrigin {
            origin: origin.as_ref(),
            repository,
            blob,
            at: AtomicU32::new(NOWHERE),
            aside: Mutex::new(BlockSet::empty(blocks::count(blob.size()))),
        };
        let read = tokio::select! {
            // In order first, so that the other knows where it is.
            biased;
            read = self.read_in_order(&source, goal.clone()) => read,
            read = self.read_aside(&source, goal.clone()) => read,
        };
        match read {
            Ok(()) => Ok(None),
            Err(Ended::Blob(error)) => Err(error),
            Err(Ended::Origin(error)) => {
                info!(%error, "the origin does not deliver");
                let mut past = self.past.lock();
                if error.is_transient() {
                    past.origin_failed(self.started.elapsed());
                } else {
                    past.origin_refused();
                }
                Ok(Some(error.to_string()))
            }
        }
    }

    /// Once the whole blob is to come, reads it from front to back.
    async fn read_in_order(&self, source: &AtOrigin<'_>, mut goal: Goal<'_>) -> Result<(), Ended> {
        goal.whole().await;
        let mut changes = source.blob.changes();
        while !source.blob.is_complete() {
            let Some(range) = source.left() else {
                // What is being read aside, or just being hashed, is all that is left.
                changes.next().await;
                continue;
            };
            source.at.store(range.start, Ordering::Relaxed);
            self.read(source, range, |index| {
                source.at.store(index, Ordering::Relaxed);
                let next = source.blob.first_missing(index);
                next.is_some_and(|next| next - index < SKIP)
            })
            .await?;
        }
        Ok(())
    }

    /// Reads what somebody waits for, except for what the read in order is about to bring. Returns when there is no read
    /// in order and nobody waits any more.
    async fn read_aside(&self, source: &AtOrigin<'_>, mut goal: Goal<'_>) -> Result<(), Ended> {
        let mut reads = FuturesUnordered::new();
        loop {
            let mut lacking = if goal.is_whole() { goal.lacking().0 } else { goal.lacking().1 };
            if reads.is_empty() && lacking.is_empty() && !goal.is_whole() {
                return Ok(());
            }
            lacking.subtract(&source.aside.lock());
            let at = source.at.load(Ordering::Relaxed);
            lacking.subtract(&BlockSet::from_ranges(lacking.count(), &[at..at.saturating_add(AHEAD)]));
            if let Some(run) = lacking.ranges(1).pop().filter(|_| reads.len() < MAX_ASIDE) {
                let run = run.start..run.end.min(run.start + MAX_RUN);
                source.aside.lock().add(std::slice::from_ref(&run));
                reads.push(self.read(source, run.clone(), |_| true).map(|read| read.map(|()| run)));
                continue;
            }
            tokio::select! {
                Some(read) = reads.next() => {
                    let mut aside = source.aside.lock();
                    let come = BlockSet::from_ranges(aside.count(), &[read?]);
                    aside.subtract(&come);
                }
                () = goal.changed() => {}
            }
        }
    }

    /// Reads a range of blocks, for as long as each next one is to go on.
    async fn read(
        &self,
        source: &AtOrigin<'_>,
        range: Range<u32>,
        go_on: impl Fn(u32) -> bool,
    ) -> Result<(), Ended> {
        let AtOrigin { origin, repository, blob, .. } = source;
        let first = blocks::span(blob.size(), range.start).start;
        let bytes = first..blocks::span(blob.size(), range.end - 1).end;
        let mut stream: BlobStream = origin.blob(repository, &blob.digest(), bytes).await?;
        let mut gathered = BytesMut::with_capacity(blocks::BLOCK_SIZE as usize);
        let mut index = range.start;
        while let Some(chunk) = stream.next().await {
            let mut chunk: Bytes = chunk?;
            while !chunk.is_empty() {
                let span = blocks::span(blob.size(), index);
                let lacking = usize::try_from(span.end - span.start).unwrap_or(0) - gathered.len();
                gathered.extend_from_slice(&chunk.split_to(lacking.min(chunk.len())));
                if gathered.len() as u64 == span.end - span.start {
                    let block = gathered.split().freeze();
                    let length = block.len() as u64;
                    let put = blob.put(index, None, block).await?;
                    self.received(&Source::Origin, length, put);
                    index += 1;
                    if index < range.end && !go_on(index) {
                        return Ok(());
                    }
                    gathered.reserve(blocks::BLOCK_SIZE as usize);
                }
            }
        }
        Ok(())
    }
}
