//! The child's side: brings one blob here, block by block, from whoever `plan` says.
//!
//! A source is left when it breaks off, falls silent, ends, or sends wrong bytes; what was received is kept, so the
//! next source is asked for the rest only. Silence is judged by the time since the last sign of life, never by a
//! total. Knows blobs and sources; which blobs a function has is `node`'s business.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use membership::codec::{read_frame, write_frame};
use membership::greeter::Lineage;
use membership::link::{Link, Peer, Protocol, Stream};
use membership::view::Contact;
use membership::view::MemberState;
use membership::{FunctionId, Membership, NodeId, Stamp};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use crate::blob::{Blob, BlobError, Claim, Put};
use crate::blocks;
use crate::counters::Counters;
use crate::origin::{Origin, OriginError};
use crate::plan::{self, Failure, Past, Step};
use crate::wire::{End, Fetch, Frame, MAX_HEADER_BYTES, MAX_RANGES, Request};

/// How long a parent may send nothing at all, not even that it waits, before it is given up. Parents speak every half
/// second; the rest is for machines that are busy.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// In how many steps silence is counted: each is as long as parents take to speak.
const SILENCE_STEPS: u32 = 6;

/// How long a parent may only say that it waits. It leaves a parent of its own that is silent within
/// [`SILENCE_LIMIT`], and asks an origin that is down for half a minute; so this is for what nobody thought of.
const PATIENCE: Duration = Duration::from_secs(60);

/// Blobs of one function fetched at once: enough to keep the link busy over the ends and beginnings of small ones.
const PARALLEL_BLOBS: usize = 3;

/// How often a blob may turn out wrong as a whole before it is given up. The second time all of it came from the origin.
const MAX_WRONG_WHOLES: usize = 2;

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

/// What became of one source.
enum Left {
    /// It sent all that was wanted.
    Done,
    /// It is to be left alone for a while.
    Failed(Failure, String),
}

impl Job {
    /// Fetches blobs of `claim.function`, in the last resort as `repository` of an origin.
    pub fn new(fetcher: Arc<Fetcher>, claim: Claim, origin: Option<(Arc<dyn Origin>, String)>) -> Self {
        Self {
            fetcher,
            claim,
            origin,
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
        // Claimed before a slot is taken: waiting for another function's fetch must not keep this one's blobs waiting.
        let Some(claim) = blob.claim_for(self.claim).await else { return Ok(()) };
        let slot = self.slots.acquire().await;
        let result = self.fetch_claimed(blob).await;
        drop(slot);
        if let Err(error) = &result {
            claim.abandon(error.to_string());
        }
        result
    }

    async fn fetch_claimed(&self, blob: &Arc<Blob>) -> Result<(), FetchError> {
        let mut wrong_wholes = 0;
        let mut last_reason = "there is nobody to ask".to_owned();
        while !blob.is_complete() {
            let result = match self.plan(wrong_wholes > 0) {
                Step::Peer(contact) => self.fetch_from(&contact, blob).await.map(|reason| {
                    if let Some(reason) = reason {
                        last_reason = format!("{}: {reason}", contact.node);
                    }
                }),
                Step::Origin => self.fetch_from_origin(blob).await.map(|reason| {
                    if let Some(reason) = reason {
                        last_reason = reason;
                    }
                }),
                Step::Rejoin => {
                    let avoid = self.past.lock().shunned(self.started.elapsed());
                    let (membership, Claim { function, stamp }) = (&self.fetcher.membership, self.claim);
                    membership.join(function, Some(stamp), &avoid).await;
                    // Not before: other blobs of this function would go to the origin meanwhile.
                    self.past.lock().rejoined();
                    Ok(())
                }
                Step::Wait(pause) => {
                    sleep(pause).await;
                    Ok(())
                }
                Step::GiveUp => {
                    return Err(FetchError::Exhausted { blob: blob.digest(), reason: last_reason });
                }
            };
            match result {
                Err(BlobError::WrongDigest { .. }) if wrong_wholes + 1 < MAX_WRONG_WHOLES => {
                    let sources: Vec<_> = self.story.lock().bytes.keys().cloned().collect();
                    warn!(blob = %blob.digest(), ?sources, "discarded a blob that does not match its digest");
                    wrong_wholes += 1;
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// The next step; after the peers' bytes have turned out wrong as a whole, from the origin if there is one.
    fn plan(&self, distrust_peers: bool) -> Step {
        let now = self.started.elapsed();
        let past = self.past.lock();
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

    // From a peer.

    /// Fetches from one peer as long as that goes well. Says why it does not any longer; an error is about the blob.
    async fn fetch_from(&self, contact: &Contact, blob: &Arc<Blob>) -> Result<Option<String>, BlobError> {
        let node = &contact.node;
        debug!(%node, blob = %blob.digest(), "fetching from a peer");
        let left = match self.open(contact, blob).await {
            Ok(stream) => self.take_blocks(stream, contact, blob).await?,
            Err(reason) => Left::Failed(Failure::Broken, reason),
        };
        let Left::Failed(failure, reason) = left else { return Ok(None) };
        match failure {
            Failure::NothingForUs => debug!(%node, %reason, "leaving a source"),
            _ => info!(%node, %reason, blob = %blob.digest(), "leaving a source; going on with the next"),
        }
        if failure == Failure::Broken {
            self.fetcher.membership.suspect(node);
        }
        self.past.lock().failed(node, failure, self.started.elapsed());
        Ok(Some(reason))
    }

    async fn open(&self, contact: &Contact, blob: &Blob) -> Result<Stream, String> {
        let peer = Peer::node(contact.node.clone(), contact.addr);
        let mut stream =
            self.fetcher.link.open(&peer, Protocol::Blocks).await.map_err(|error| error.to_string())?;
        let request = Request::Fetch(Fetch {
            function: self.claim.function,
            stamp: self.claim.stamp,
            blob: blob.digest(),
            size: blob.size(),
            stripe: 0,
            wanted: blob.missing(MAX_RANGES),
        });
        write_frame(&mut stream.send, &request).await.map_err(|error| error.to_string())?;
        Ok(stream)
    }

    async fn take_blocks(
        &self,
        mut stream: Stream,
        contact: &Contact,
        blob: &Arc<Blob>,
    ) -> Result<Left, BlobError> {
        let source = Source::Peer(contact.node.clone());
        let mut last_block = Instant::now();
        loop {
            let received = match next_block(&mut stream, blob).await {
                Ok(received) => received,
                Err(error) => return Ok(Left::Failed(Failure::Broken, error.to_string())),
            };
            match received {
                Received::Block { index, hash, bytes } => {
                    let length = bytes.len() as u64;
                    match blob.put(index, Some(hash), bytes).await {
                        Ok(put) => self.received(&source, length, put),
                        Err(error @ BlobError::BadBlock { .. }) => {
                            self.fetcher.counters.refused_block();
                            return Ok(Left::Failed(Failure::Corrupt, error.to_string()));
                        }
                        Err(error) => return Err(error),
                    }
                    last_block = Instant::now();
                }
                Received::Waiting if last_block.elapsed() < PATIENCE => {}
                Received::Waiting => {
                    let reason = format!("it has only waited for {} s", PATIENCE.as_secs());
                    return Ok(Left::Failed(Failure::NothingForUs, reason));
                }
                Received::End(End::Complete) => return Ok(Left::Done),
                Received::End(End::Leaving) => {
                    return Ok(Left::Failed(Failure::Leaving, "it leaves the cluster".to_owned()));
                }
                Received::End(end) => {
                    return Ok(Left::Failed(Failure::NothingForUs, format!("it answered {end:?}")));
                }
            }
        }
    }

    // From the origin.

    /// Reads what is missing from the origin. Says why it could not; an error is about the blob.
    async fn fetch_from_origin(&self, blob: &Arc<Blob>) -> Result<Option<String>, BlobError> {
        let Some((origin, repository)) = &self.origin else {
            return Ok(Some("there is no origin".to_owned()));
        };
        debug!(blob = %blob.digest(), "fetching from the origin");
        for range in blob.missing(MAX_RANGES) {
            let bytes =
                blocks::span(blob.size(), range.start).start..blocks::span(blob.size(), range.end - 1).end;
            let read = async {
                let stream = origin.blob(repository, &blob.digest(), bytes).await?;
                self.take_stream(stream, range.start, blob).await
            };
            if let Err(error) = read.await {
                match error {
                    OriginRead::Blob(error) => return Err(error),
                    OriginRead::Origin(error) => {
                        info!(%error, "the origin does not deliver");
                        let mut past = self.past.lock();
                        if error.is_transient() {
                            past.origin_failed(self.started.elapsed());
                        } else {
                            past.origin_refused();
                        }
                        return Ok(Some(error.to_string()));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn take_stream(
        &self,
        mut stream: crate::origin::BlobStream,
        first: u32,
        blob: &Arc<Blob>,
    ) -> Result<(), OriginRead> {
        let mut gathered = BytesMut::with_capacity(blocks::BLOCK_SIZE as usize);
        let mut index = first;
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
                    gathered.reserve(blocks::BLOCK_SIZE as usize);
                }
            }
        }
        Ok(())
    }
}

enum OriginRead {
    Origin(OriginError),
    Blob(BlobError),
}

impl From<OriginError> for OriginRead {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

impl From<BlobError> for OriginRead {
    fn from(error: BlobError) -> Self {
        Self::Blob(error)
    }
}

enum Received {
    Block { index: u32, hash: blocks::BlockHash, bytes: Bytes },
    Waiting,
    End(End),
}

async fn next_block(stream: &mut Stream, blob: &Blob) -> io::Result<Received> {
    let frame = within_silence(read_frame::<Frame>(&mut stream.recv, MAX_HEADER_BYTES)).await?;
    let (index, hash) = match frame {
        Frame::Waiting => return Ok(Received::Waiting),
        Frame::End(end) => return Ok(Received::End(end)),
        Frame::Block { index, hash } => (index, hash),
    };
    let span = blocks::span(blob.size(), index);
    let length = usize::try_from(span.end - span.start).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(length);
    while bytes.len() < length {
        let mut rest = (&mut stream.recv).take((length - bytes.len()) as u64);
        if within_silence(rest.read_buf(&mut bytes)).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off within a block"));
        }
    }
    Ok(Received::Block { index, hash, bytes: bytes.freeze() })
}

/// Counts the silence in steps: a pause of this very machine makes one of them late, and what arrived meanwhile is read
/// before the next.
async fn within_silence<T>(reading: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::pin!(reading);
    for _ in 0..SILENCE_STEPS {
        if let Ok(read) = timeout(SILENCE_LIMIT / SILENCE_STEPS, &mut reading).await {
            return read;
        }
    }
    let reason = format!("it has been silent for {} s", SILENCE_LIMIT.as_secs());
    Err(io::Error::new(io::ErrorKind::TimedOut, reason))
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_has_a_limit() {
        let start = Instant::now();
        let error = within_silence(std::future::pending::<io::Result<()>>()).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, SILENCE_LIMIT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_of_this_machine_is_no_silence_of_the_parent() {
        let (arrive, arrival) = oneshot::channel();
        let reading = tokio::spawn(within_silence(async { arrival.await.map_err(io::Error::other) }));
        tokio::task::yield_now().await;
        advance(10 * SILENCE_LIMIT).await;
        arrive.send("a block").unwrap();
        assert_eq!(reading.await.unwrap().unwrap(), "a block");
    }
}
