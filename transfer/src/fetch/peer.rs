//! Fetching from one peer, for as long as that goes well.
//!
//! Silence is judged by the time since the last sign of life, never by a total. What to ask next is `plan`'s to say.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, Stream as Sequence, StreamExt, stream};
use membership::codec::{read_frame, write_frame};
use membership::link::{Peer, Protocol, Stream};
use membership::view::Contact;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::goal::Goal;
use super::{Job, Source};
use crate::blob::{Blob, BlobError};
use crate::blocks::{self, BlockSet};
use crate::plan::Failure;
use crate::wire::{End, Fetch, Frame, MAX_HEADER_BYTES, MAX_RANGES, Request, Want};

/// How long a parent may send nothing at all, not even that it waits, before it is given up. Parents speak every half
/// second; the rest is for machines that are busy.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// In how many steps silence is counted: each is as long as parents take to speak.
const SILENCE_STEPS: u32 = 6;

/// How long a parent may only say that it waits. It leaves a parent of its own that is silent within
/// [`SILENCE_LIMIT`], and asks an origin that is down for half a minute; so this is for what nobody thought of.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of one source.
enum Left {
    /// It sent all that was wanted.
    Done,
    /// It is to be left alone for a while.
    Failed(Failure, String),
}

impl Job {
    /// Fetches from one peer as long as that goes well. Says why it does not any longer; an error is about the blob.
    pub(super) async fn fetch_from(
        &self,
        contact: &Contact,
        goal: &mut Goal<'_>,
    ) -> Result<Option<String>, BlobError> {
        let (node, blob) = (&contact.node, goal.blob);
        debug!(%node, blob = %blob.digest(), "fetching from a peer");
        let mut asked = Asked::nothing(blob);
        let incarnation = self.incarnation(node);
        let left = match self.open(contact, asked.news(goal), blob).await {
            Ok(stream) => {
                let restarted = self.restarted(node, incarnation);
                self.take_blocks(stream, contact, restarted, goal, asked).await?
            }
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
        self.past.lock().failed(node, incarnation, failure, self.started.elapsed());
        Ok(Some(format!("{node}: {reason}")))
    }

    async fn open(&self, contact: &Contact, want: Want, blob: &Blob) -> Result<Stream, String> {
        let peer = Peer::node(contact.node.clone(), contact.addr);
        let mut stream =
            self.fetcher.link.open(&peer, Protocol::Blocks).await.map_err(|error| error.to_string())?;
        let request = Request::Fetch(Fetch {
            function: self.claim.function,
            stamp: self.claim.stamp,
            blob: blob.digest(),
            size: blob.size(),
            stripe: 0,
            want,
        });
        write_frame(&mut stream.send, &request).await.map_err(|error| error.to_string())?;
        Ok(stream)
    }

    async fn take_blocks(
        &self,
        stream: Stream,
        contact: &Contact,
        restarted: impl Future<Output = ()>,
        goal: &mut Goal<'_>,
        mut asked: Asked,
    ) -> Result<Left, BlobError> {
        let Stream { mut send, recv, .. } = stream;
        let mut restarted = pin!(restarted.fuse());
        let mut frames = pin!(frames(recv, goal.blob.size()));
        let (mut last_block, mut listens) = (Instant::now(), true);
        let broken = |reason: String| Ok(Left::Failed(Failure::Broken, reason));
        loop {
            let received = tokio::select! {
                received = frames.next() => received,
                () = goal.changed(), if listens => {
                    let news = asked.news(goal);
                    if !news.is_empty() && let Err(error) = say(&mut send, &news).await {
                        // One that has sent everything listens no more, and what it has sent is still to be read.
                        debug!(node = %contact.node, %error, "a source does not take what it is told");
                        listens = false;
                    }
                    continue;
                }
                () = &mut restarted => {
                    // Whatever it is told now, it answers that it knows nothing of this connection. Else it would just be silent.
                    let _ = say(&mut send, &Want::default()).await;
                    continue;
                }
            };
            match received {
                Some(Ok(Received::Block(block))) => {
                    if let Some(left) = self.take_block(contact, goal.blob, block).await? {
                        return Ok(left);
                    }
                    last_block = Instant::now();
                }
                Some(Ok(Received::Waiting)) if last_block.elapsed() < PATIENCE => {}
                Some(Ok(Received::Waiting)) => {
                    let reason = format!("it has only waited for {} s", PATIENCE.as_secs());
                    return Ok(Left::Failed(Failure::NothingForUs, reason));
                }
                Some(Ok(Received::End(End::Complete))) => return Ok(Left::Done),
                Some(Ok(Received::End(End::Leaving))) => {
                    return Ok(Left::Failed(Failure::Leaving, "it leaves the cluster".to_owned()));
                }
                Some(Ok(Received::End(end))) => {
                    return Ok(Left::Failed(Failure::NothingForUs, format!("it answered {end:?}")));
                }
                Some(Err(error)) => return broken(error.to_string()),
                None => return broken("it said no more".to_owned()),
            }
        }
    }

    /// Keeps a block. Says how its sender was left if it is wrong; an error is about the disk or the whole blob.
    async fn take_block(
        &self,
        contact: &Contact,
        blob: &Arc<Blob>,
        block: Block,
    ) -> Result<Option<Left>, BlobError> {
        let length = block.bytes.len() as u64;
        match blob.put(block.index, Some(block.hash), block.bytes).await {
            Ok(put) => {
                self.received(&Source::Peer(contact.node.clone()), length, put);
                Ok(None)
            }
            Err(error @ BlobError::BadBlock { .. }) => {
                self.fetcher.counters.refused_block();
                Ok(Some(Left::Failed(Failure::Corrupt, error.to_string())))
            }
            Err(error) => Err(error),
        }
    }
}

/// What one peer has been asked for.
struct Asked {
    urgent: BlockSet,
    wanted: BlockSet,
}

impl Asked {
    fn nothing(blob: &Blob) -> Self {
        let none = BlockSet::empty(blocks::count(blob.size()));
        Self { urgent: none.clone(), wanted: none }
    }

    /// What there is to ask for that was not asked for yet, or not as urgently.
    fn news(&mut self, goal: &Goal<'_>) -> Want {
        let (mut urgent, mut wanted) = goal.lacking();
        urgent.subtract(&self.urgent);
        wanted.subtract(&self.wanted);
        let want = Want { urgent: urgent.ranges(MAX_RANGES), wanted: wanted.ranges(MAX_RANGES) };
        self.urgent.add(&want.urgent);
        self.wanted.add(&want.urgent);
        self.wanted.add(&want.wanted);
        want
    }
}

enum Received {
    Block(Block),
    Waiting,
    End(End),
}

struct Block {
    index: u32,
    hash: blocks::BlockHash,
    bytes: Bytes,
}

async fn say(send: &mut (impl AsyncWrite + Unpin), want: &Want) -> io::Result<()> {
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it does not take what it is told");
    timeout(SILENCE_LIMIT, write_frame(send, want)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// What a peer sends, until it breaks off.
fn frames(recv: impl AsyncRead + Unpin, size: u64) -> impl Sequence<Item = io::Result<Received>> {
    stream::try_unfold(recv, move |mut recv| async move {
        let frame = within_silence(read_frame::<Frame>(&mut recv, MAX_HEADER_BYTES)).await?;
        let received = match frame {
            Frame::Waiting => Received::Waiting,
            Frame::End(end) => Received::End(end),
            Frame::Block { index, hash } => {
                let bytes = read_block(&mut recv, blocks::span(size, index)).await?;
                Received::Block(Block { index, hash, bytes })
            }
        };
        Ok(Some((received, recv)))
    })
}

async fn read_block(recv: &mut (impl AsyncRead + Unpin), span: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(span.end - span.start).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(length);
    while bytes.len() < length {
        let mut rest = (&mut *recv).take((length - bytes.len()) as u64);
        if within_silence(rest.read_buf(&mut bytes)).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off within a block"));
        }
    }
    Ok(bytes.freeze())
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
