//! The parent's side: sends the blocks that a child wants, each as soon as it is held.
//!
//! > **Invariant (no circle of waiting).** A node waits for blocks on a child's behalf only along the tree of the
//! > function that it fetches the blob for itself, and only for a child that joined that function later. So along any
//! > chain of nodes that wait for each other the function is the same and seniority rises strictly; the chain ends,
//! > at a root that reads from the origin or at a holder. In all other cases it sends what it holds and says so.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt, stream};
use membership::codec::{read_frame, write_frame};
use membership::link::Stream;
use membership::{NodeId, Stamp};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::blob::Blob;
use crate::blocks::{self, BlockSet};
use crate::claim::Claim;
use crate::counters::Counters;
use crate::demand::Demand;
use crate::expectation::{Expectations, Stage};
use crate::store::Store;
use crate::wire::{End, Fetch, Frame, MAX_REQUEST_BYTES, Want};

/// How often a child that waits is told that its parent is still there: several times within the child's own limit
/// for silence (`fetch::SILENCE_LIMIT`).
const WAITING_INTERVAL: Duration = Duration::from_millis(500);

/// How often a blob that is about to be opened is looked for: it is a matter of a round trip to the greeter.
const FIND_INTERVAL: Duration = Duration::from_millis(20);

/// How long a child may take to accept a block before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Streams served at once. Each holds one block in memory, so 128 MiB at worst were they all of different blocks.
const MAX_STREAMS: usize = 512;

/// Sends blocks to children.
pub struct Server {
    node: NodeId,
    store: Arc<Store>,
    counters: Arc<Counters>,
    slots: Semaphore,
    expectations: Arc<Expectations>,
    leaving: watch::Receiver<bool>,
}

impl Server {
    /// Serves what `store` holds as `node`, until `leaving` turns true. Waits for what `expectations` say is coming.
    pub fn new(
        node: NodeId,
        store: Arc<Store>,
        counters: Arc<Counters>,
        expectations: Arc<Expectations>,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        Self { node, store, counters, slots: Semaphore::new(MAX_STREAMS), expectations, leaving }
    }

    /// Streams being served.
    pub fn active_streams(&self) -> usize {
        MAX_STREAMS - self.slots.available_permits()
    }

    /// Answers one child's request until nothing more can be sent, or the child hangs up.
    pub async fn serve(&self, mut stream: Stream, fetch: Fetch) -> io::Result<()> {
        let end = match self.slots.try_acquire() {
            Ok(_slot) => self.send_blocks(&mut stream, &fetch).await?,
            Err(_) => End::Busy,
        };
        send(write_frame(&mut stream.send, &Frame::End(end))).await?;
        stream.send.shutdown().await
    }

    async fn send_blocks(&self, stream: &mut Stream, fetch: &Fetch) -> io::Result<End> {
        let Some(blob) = self.find(stream, fetch).await? else { return Ok(End::NotHere) };
        let Stream { peer, send, recv, .. } = stream;
        let mut more = pin!(later_wants(recv).fuse());
        let mut asked = Asked::new(&blob, &fetch.want);
        let (mut changes, mut leaving) = (blob.changes(), self.leaving.clone());
        loop {
            while let Some(Some(want)) = more.next().now_or_never() {
                asked.add(&want);
            }
            if *leaving.borrow_and_update() {
                return Ok(End::Leaving);
            }
            let waits = self.waits_for(&blob, peer, fetch);
            if waits {
                asked.pass_on();
            }
            if let Some(index) = asked.first_held() {
                self.send_block(send, &blob, index).await?;
                asked.sent(index);
            } else if asked.wanted.is_empty() {
                return Ok(End::Complete);
            } else if !waits {
                return Ok(if asked.sent.is_empty() { End::NotHere } else { End::HeldOnly });
            } else {
                tokio::select! {
                    () = changes.next() => {}
                    _ = leaving.changed() => {}
                    Some(want) = more.next() => asked.add(&want),
                    () = sleep(WAITING_INTERVAL) => self::send(write_frame(send, &Frame::Waiting)).await?,
                }
            }
        }
    }

    /// The blob, waiting while the function is only about to be provisioned here.
    async fn find(&self, stream: &mut Stream, fetch: &Fetch) -> io::Result<Option<Arc<Blob>>> {
        let mut changes = self.expectations.changes();
        loop {
            let joining = self.expectations.stage(&fetch.function) == Some(Stage::Joining);
            let found = self.store.lookup(fetch.blob).await;
            if found.is_some() || !joining {
                return Ok(found.filter(|blob| blob.size() == fetch.size));
            }
            tokio::select! {
                () = changes.next() => {}
                () = sleep(FIND_INTERVAL) => {
                    send(write_frame(&mut stream.send, &Frame::Waiting)).await?;
                }
            }
        }
    }

    async fn send_block(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        blob: &Arc<Blob>,
        index: u32,
    ) -> io::Result<()> {
        let (hash, bytes) = blob.read(index).await.map_err(io::Error::other)?;
        send(async {
            write_frame(to, &Frame::Block { index, hash }).await?;
            to.write_all(&bytes).await
        })
        .await?;
        self.counters.served(bytes.len() as u64);
        Ok(())
    }

    /// See the invariant on top.
    fn waits_for(&self, blob: &Blob, child: &NodeId, fetch: &Fetch) -> bool {
        let is_junior = |stamp: Stamp| (stamp, &self.node) < (fetch.stamp, child);
        match (blob.claim(), self.expectations.stage(&fetch.function)) {
            (Some(Claim { function, stamp }), _) => function == fetch.function && is_junior(stamp),
            (None, Some(Stage::Joined(stamp))) => is_junior(stamp),
            (None, Some(Stage::Joining)) => true,
            (None, None) => false,
        }
    }
}

/// What one child has asked for.
struct Asked {
    blob: Arc<Blob>,
    /// Of the blocks not sent yet, those to send first.
    urgent: BlockSet,
    /// All blocks not sent yet.
    wanted: BlockSet,
    sent: BlockSet,
    /// What this node asks for in its turn.
    demand: Demand,
    passed_on: bool,
}

impl Asked {
    fn new(blob: &Arc<Blob>, want: &Want) -> Self {
        let [urgent, wanted, sent] = [(); 3].map(|()| BlockSet::empty(blocks::count(blob.size())));
        let demand = blob.demand();
        let mut asked = Self { blob: blob.clone(), urgent, wanted, sent, demand, passed_on: false };
        asked.add(want);
        asked
    }

    fn add(&mut self, want: &Want) {
        self.urgent.add(&want.urgent);
        self.wanted.add(&want.urgent);
        self.wanted.add(&want.wanted);
        // The child may have asked again before they arrived.
        self.urgent.subtract(&self.sent);
        self.wanted.subtract(&self.sent);
        self.passed_on = false;
    }

    /// Has this node's own fetch bring what the child waits for.
    fn pass_on(&mut self) {
        if !self.passed_on {
            let (urgent, wanted) = (self.urgent.ranges(usize::MAX), self.wanted.ranges(usize::MAX));
            self.demand.set(Want { urgent, wanted });
            self.passed_on = true;
        }
    }

    fn first_held(&self) -> Option<u32> {
        self.blob.first_held(&self.urgent).or_else(|| self.blob.first_held(&self.wanted))
    }

    fn sent(&mut self, index: u32) {
        self.urgent.remove(index);
        self.wanted.remove(index);
        self.sent.insert(index);
    }
}

/// What the child asks for after its first request.
fn later_wants(recv: &mut (impl AsyncRead + Unpin)) -> impl stream::Stream<Item = Want> {
    stream::unfold(recv, async |recv| {
        // A child that sends something else, or hangs up, is noticed when it is sent to.
        let want = read_frame::<Want>(recv, MAX_REQUEST_BYTES).await.ok()?;
        Some((want, recv))
    })
}

async fn send(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(SEND_TIMEOUT, sending).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the child does not take its blocks"))
    })
}

#[cfg(test)]
mod tests {
    use membership::FunctionId;

    use super::*;
    use crate::digest::Digest;

    const MINE: FunctionId = FunctionId::from_bytes([1; 32]);
    const OTHER: FunctionId = FunctionId::from_bytes([2; 32]);

    fn stamp(wall_ms: u64) -> Stamp {
        Stamp { wall_ms, logical: 0 }
    }

    fn waits_for(server: &Server, blob: &Blob, function: FunctionId, joined: u64, child: &str) -> bool {
        let (stamp, blob_digest) = (stamp(joined), blob.digest());
        let fetch = Fetch { function, stamp, blob: blob_digest, size: 1, stripe: 0, want: Want::default() };
        server.waits_for(blob, &child.parse().unwrap(), &fetch)
    }

    #[tokio::test]
    async fn it_waits_only_for_juniors_and_only_along_one_functions_tree() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let blob = store.blob(Digest::of(b"x"), 1).await.unwrap();
        let leaving = watch::Sender::new(false);
        let (node, expectations) = ("m".parse().unwrap(), Arc::new(Expectations::default()));
        let server = Server::new(node, store, Arc::default(), expectations.clone(), leaving.subscribe());
        let only_juniors_of_mine = || {
            for (function, joined, child, waits) in [
                (MINE, 9, "a", true),
                (MINE, 5, "z", true),
                (MINE, 5, "a", false),
                (MINE, 4, "z", false),
                (OTHER, 9, "z", false),
            ] {
                assert_eq!(waits_for(&server, &blob, function, joined, child), waits, "{joined} {child}");
            }
        };

        assert!(!waits_for(&server, &blob, MINE, 9, "z"), "nobody fetches it, nor is about to");
        let expectation = expectations.expect(MINE);
        assert!(waits_for(&server, &blob, MINE, 1, "z"), "about to be joined");
        assert!(!waits_for(&server, &blob, OTHER, 9, "z"), "about to be joined, but not that one");
        expectation.joined(stamp(5));
        only_juniors_of_mine();
        let claim = blob.claim_for(Claim { function: MINE, stamp: stamp(5) }).await;
        only_juniors_of_mine();
        drop((claim, expectation));
        let _claim = blob.claim_for(Claim { function: OTHER, stamp: stamp(5) }).await;
        assert!(!waits_for(&server, &blob, MINE, 9, "z"), "another function's fetch");
    }

    #[tokio::test]
    async fn what_a_child_asks_for_later_adds_to_what_it_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let blob = store.blob(Digest::of(b"y"), 10 * u64::from(blocks::BLOCK_SIZE)).await.unwrap();
        let mut asked = Asked::new(&blob, &Want { urgent: vec![7..8], wanted: vec![0..3] });
        asked.sent(7);
        asked.sent(0);
        asked.add(&Want { urgent: vec![6..8], wanted: vec![0..2] });
        assert_eq!((asked.urgent.ranges(9), asked.wanted.ranges(9)), (vec![6..7], vec![1..3, 6..7]));
        assert_eq!(blob.demanded().1.ranges(9), []);
        asked.pass_on();
        assert_eq!(blob.demanded().0.ranges(9), [6..7]);
        assert_eq!(blob.demanded().1.ranges(9), [1..3, 6..7]);
    }
}
