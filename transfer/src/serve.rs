//! The parent's side: sends the blocks that a child wants, each as soon as it is held.
//!
//! > **Invariant (no circle of waiting).** A node waits for blocks on a child's behalf only along the tree of the
//! > function that it fetches the blob for itself, and only for a child that joined that function later. So along any
//! > chain of nodes that wait for each other the function is the same and seniority rises strictly; the chain ends,
//! > at a root that reads from the origin or at a holder. In all other cases it sends what it holds and says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use membership::codec::write_frame;
use membership::link::Stream;
use membership::{FunctionId, NodeId, Stamp};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::blob::{Blob, Claim};
use crate::blocks::BlockSet;
use crate::counters::Counters;
use crate::store::Store;
use crate::wire::{End, Fetch, Frame};

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
    expected: watch::Sender<BTreeMap<FunctionId, usize>>,
    leaving: watch::Receiver<bool>,
}

/// While it lives, blobs of a function that are not there yet are waited for, not denied.
pub struct Expectation {
    server: Arc<Server>,
    function: FunctionId,
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.server.expected.send_modify(|expected| {
            if let Some(times) = expected.get_mut(&self.function) {
                *times -= 1;
                if *times == 0 {
                    expected.remove(&self.function);
                }
            }
        });
    }
}

impl Server {
    /// Serves what `store` holds as `node`, until `leaving` turns true.
    pub fn new(
        node: NodeId,
        store: Arc<Store>,
        counters: Arc<Counters>,
        leaving: watch::Receiver<bool>,
    ) -> Self {
        let slots = Semaphore::new(MAX_STREAMS);
        Self { node, store, counters, slots, expected: watch::Sender::default(), leaving }
    }

    /// Says that this node provisions a function. To be said before others can learn of it, since they may ask at
    /// once, before there is anything to claim.
    pub fn expect(self: &Arc<Self>, function: FunctionId) -> Expectation {
        self.expected.send_modify(|expected| *expected.entry(function).or_default() += 1);
        Expectation { server: self.clone(), function }
    }

    fn expects(&self, function: &FunctionId) -> bool {
        self.expected.borrow().contains_key(function)
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
        let mut wanted = BlockSet::from_ranges(crate::blocks::count(blob.size()), &fetch.wanted);
        let mut changes = blob.changes();
        let mut leaving = self.leaving.clone();
        let mut sent_any = false;
        loop {
            if *leaving.borrow_and_update() {
                return Ok(End::Leaving);
            }
            if let Some(index) = blob.first_held(&wanted) {
                self.send_block(stream, &blob, index).await?;
                wanted.remove(index);
                sent_any = true;
            } else if wanted.is_empty() {
                return Ok(End::Complete);
            } else if !self.waits_for(&blob, &stream.peer, fetch) {
                return Ok(if sent_any { End::HeldOnly } else { End::NotHere });
            } else {
                tokio::select! {
                    () = changes.next() => {}
                    _ = leaving.changed() => {}
                    () = sleep(WAITING_INTERVAL) => {
                        send(write_frame(&mut stream.send, &Frame::Waiting)).await?;
                    }
                }
            }
        }
    }

    /// The blob, waiting while the function is only about to be provisioned here.
    async fn find(&self, stream: &mut Stream, fetch: &Fetch) -> io::Result<Option<Arc<Blob>>> {
        let mut expected = self.expected.subscribe();
        loop {
            let expects = self.expects(&fetch.function);
            let found = self.store.lookup(fetch.blob).await;
            if found.is_some() || !expects {
                return Ok(found.filter(|blob| blob.size() == fetch.size));
            }
            tokio::select! {
                _ = expected.changed() => {}
                () = sleep(FIND_INTERVAL) => {
                    send(write_frame(&mut stream.send, &Frame::Waiting)).await?;
                }
            }
        }
    }

    async fn send_block(&self, stream: &mut Stream, blob: &Arc<Blob>, index: u32) -> io::Result<()> {
        let (hash, bytes) = blob.read(index).await.map_err(io::Error::other)?;
        send(async {
            write_frame(&mut stream.send, &Frame::Block { index, hash }).await?;
            stream.send.write_all(&bytes).await
        })
        .await?;
        self.counters.served(bytes.len() as u64);
        Ok(())
    }

    /// See the invariant on top.
    fn waits_for(&self, blob: &Blob, child: &NodeId, fetch: &Fetch) -> bool {
        match blob.claim() {
            Some(Claim { function, stamp }) => {
                let ours: (Stamp, &NodeId) = (stamp, &self.node);
                function == fetch.function && ours < (fetch.stamp, child)
            }
            // About to be claimed; that waits for nobody.
            None => self.expects(&fetch.function),
        }
    }
}

async fn send(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(SEND_TIMEOUT, sending).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, "the child does not take its blocks"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    const MINE: FunctionId = FunctionId::from_bytes([1; 32]);
    const OTHER: FunctionId = FunctionId::from_bytes([2; 32]);

    fn stamp(wall_ms: u64) -> Stamp {
        Stamp { wall_ms, logical: 0 }
    }

    fn waits_for(server: &Server, blob: &Blob, function: FunctionId, joined: u64, child: &str) -> bool {
        let fetch =
            Fetch { function, stamp: stamp(joined), blob: blob.digest(), size: 1, stripe: 0, wanted: vec![] };
        server.waits_for(blob, &child.parse().unwrap(), &fetch)
    }

    #[tokio::test]
    async fn it_waits_only_for_juniors_and_only_along_one_functions_tree() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path()).unwrap());
        let blob = store.blob(Digest::of(b"x"), 1).await.unwrap();
        let leaving = watch::Sender::new(false);
        let node = "m".parse().unwrap();
        let server = Arc::new(Server::new(node, store, Arc::default(), leaving.subscribe()));

        assert!(!waits_for(&server, &blob, MINE, 9, "z"), "nobody fetches it, nor is about to");
        let expectation = server.expect(MINE);
        assert!(waits_for(&server, &blob, MINE, 9, "z"), "about to be claimed");
        assert!(!waits_for(&server, &blob, OTHER, 9, "z"), "about to be claimed for another function");

        let _claim = blob.claim_for(Claim { function: MINE, stamp: stamp(5) }).await;
        for (function, joined, child, waits) in [
            (MINE, 9, "a", true),
            (MINE, 5, "z", true),
            (MINE, 5, "a", false),
            (MINE, 4, "z", false),
            (OTHER, 9, "z", false),
        ] {
            assert_eq!(waits_for(&server, &blob, function, joined, child), waits, "{joined} {child}");
        }
        drop(expectation);
        assert!(!server.expects(&MINE));
    }
}
