//! One blob on this node: which of its blocks are held, their bytes on disk, and waiting for the rest.
//!
//! A block is held once it matched its hash and was written. The blob is complete once all its bytes matched its
//! digest, which is hashed along as the blocks come in; then its file takes its final name. Where blocks come from is
//! not known here, nor which blobs there are (see `store`).
//!
//! On disk a blob that is not complete is two files: `<hex>.data`, sparse, and `<hex>.blocks`, a journal of
//! [`ENTRY_BYTES`] an entry (index, hash), written after the block's bytes. What the journal says is believed only
//! after the bytes were hashed again, so a torn or lost write costs that block and nothing else.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::blocks::{self, BlockHash, BlockSet};
use crate::claim::Claim;
use crate::demand::{Demand, Demands};
use crate::digest::{Digest, Sha256};
use crate::recent::Recent;

/// Bytes of one journal entry: the block's index, little-endian, and its blake3 hash.
const ENTRY_BYTES: usize = 4 + 32;

/// Where one blob's files are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub(crate) complete: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) journal: PathBuf,
}

/// What can go wrong with a blob's own bytes.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk failed. Nothing that was held is lost.
    #[error("cannot {doing} {}: {source}", path.display())]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A block is not what its hash says. It was not kept.
    #[error("block {index} of {blob} does not match its hash")]
    BadBlock {
        /// The blob.
        blob: Digest,
        /// The block.
        index: u32,
    },
    /// All blocks are there, each matches its hash, and the whole does not match the digest. All of it was discarded.
    #[error("{blob} is complete and hashes to {found}: it was discarded")]
    WrongDigest {
        /// The blob.
        blob: Digest,
        /// What its bytes hash to.
        found: Digest,
    },
    /// Nobody fetches the blob any more, and it is not complete.
    #[error("{blob} could not be fetched: {reason}")]
    Abandoned {
        /// The blob.
        blob: Digest,
        /// Why the last one gave up.
        reason: String,
    },
}

/// How a block was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is held now.
    New,
    /// It was held already.
    Known,
}

/// How far a blob is. Every change is announced through [`Blob::changes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    held: BlockSet,
    pub(crate) complete: bool,
    pub(crate) claim: Option<Claim>,
    /// Whether all of it is on its way.
    pub(crate) comes_whole: bool,
    /// Why the last one who fetched it gave up.
    pub(crate) abandoned: Option<String>,
}

/// One blob on this node.
pub struct Blob {
    digest: Digest,
    size: u64,
    paths: Paths,
    recent: Arc<Recent>,
    pub(crate) progress: watch::Sender<Progress>,
    demands: Arc<Demands>,
    /// Of blocks whose bytes matched them: what is served with these is noticed if the disk has changed it.
    hashes: Mutex<HashMap<u32, BlockHash>>,
    files: Mutex<Files>,
}

struct Files {
    data: Option<Arc<File>>,
    journal: Option<File>,
    /// The digest of the blocks before `next`.
    hasher: Option<Sha256>,
    next: u32,
}

impl Blob {
    /// The blob as its files have it: complete, in parts, or not at all. Parts are hashed again, which reads them.
    pub(crate) fn open(
        digest: Digest,
        size: u64,
        paths: Paths,
        recent: Arc<Recent>,
    ) -> Result<Self, BlobError> {
        let complete = File::open(&paths.complete).and_then(|file| Ok((file.metadata()?.len(), file))).ok();
        // What is complete has the size that its digest vouches for, whatever a manifest says.
        let size = complete.as_ref().map_or(size, |(actual, _)| *actual);
        let blob = Self {
            digest,
            size,
            recent,
            progress: watch::Sender::new(Progress {
                held: BlockSet::empty(blocks::count(size)),
                complete: false,
                claim: None,
                comes_whole: false,
                abandoned: None,
            }),
            demands: Arc::default(),
            hashes: Mutex::default(),
            files: Mutex::new(Files { data: None, journal: None, hasher: Some(Sha256::new()), next: 0 }),
            paths,
        };
        if let Some((_, file)) = complete {
            blob.files.lock().data = Some(Arc::new(file));
            blob.mark_complete();
        } else {
            blob.recover()?;
        }
        Ok(blob)
    }

    fn disk(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> BlobError {
        move |source| BlobError::Disk { doing, path: path.to_owned(), source }
    }

    /// Reads the journal and believes the entries whose bytes are there.
    fn recover(&self) -> Result<(), BlobError> {
        let mut journal = Vec::new();
        let opened = File::open(&self.paths.journal);
        if let Ok(mut file) = opened {
            // A journal has one entry a block, and perhaps some twice; whatever is beyond that is no journal of ours.
            let limit = 2 * ENTRY_BYTES as u64 * u64::from(blocks::count(self.size));
            let read = Read::by_ref(&mut file).take(limit).read_to_end(&mut journal);
            read.map_err(Self::disk("read", &self.paths.journal))?;
        }
        if journal.is_empty() {
            return Ok(());
        }
        let mut files = self.files.lock();
        let data = self.open_data(&mut files)?;
        for entry in journal.chunks_exact(ENTRY_BYTES) {
            let (index, hash) = entry.split_at(4);
            let index = u32::from_le_bytes(index.try_into().expect("four bytes"));
            let span = blocks::span(self.size, index);
            let mut bytes = vec![0; usize::try_from(span.end - span.start).expect("a block fits memory")];
            let whole = data.read_exact_at(&mut bytes, span.start).is_ok();
            if whole && blake3::hash(&bytes).as_bytes() == hash {
                self.hashes.lock().insert(index, hash.try_into().expect("a hash's length"));
                self.progress.send_modify(|progress| {
                    progress.held.insert(index);
                });
            }
        }
        self.advance(&mut files, &data, None)?;
        self.finish_if_whole(&mut files).map(|_| ())
    }

    /// What it is called.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> u64 {
        let progress = self.progress.borrow();
        if progress.held.is_full() {
            return self.size;
        }
        let last = progress.held.count().saturating_sub(1);
        let full = u64::from(progress.held.len()) * u64::from(blocks::BLOCK_SIZE);
        let span = blocks::span(self.size, last);
        let short = u64::from(blocks::BLOCK_SIZE) - (span.end - span.start);
        full - if progress.held.contains(last) { short } else { 0 }
    }

    /// Whether it is here, all of it verified.
    pub fn is_complete(&self) -> bool {
        self.progress.borrow().complete
    }

    /// The blocks not held.
    pub(crate) fn lacking(&self) -> BlockSet {
        let progress = self.progress.borrow();
        let mut lacking = BlockSet::full(progress.held.count());
        lacking.subtract(&progress.held);
        lacking
    }

    /// The blocks not held, as at most `limit` ranges.
    pub fn missing(&self, limit: usize) -> Vec<std::ops::Range<u32>> {
        self.progress.borrow().held.missing(limit)
    }

    /// The first block that is wanted and held.
    pub fn first_held(&self, wanted: &BlockSet) -> Option<u32> {
        self.progress.borrow().held.first_in_both(wanted)
    }

    /// The first block of `after..` that is not held.
    pub(crate) fn first_missing(&self, after: u32) -> Option<u32> {
        let progress = self.progress.borrow();
        (after..progress.held.count()).find(|index| !progress.held.contains(*index))
    }

    /// For somebody who waits for blocks of it.
    pub(crate) fn demand(&self) -> Demand {
        self.demands.add()
    }

    /// The blocks that somebody waits for and that are not held: the urgent ones, and all of them.
    pub(crate) fn demanded(&self) -> (BlockSet, BlockSet) {
        let progress = self.progress.borrow();
        let (mut urgent, mut wanted) = self.demands.total(progress.held.count());
        urgent.subtract(&progress.held);
        wanted.subtract(&progress.held);
        (urgent, wanted)
    }

    /// Told whenever somebody waits for other blocks.
    pub(crate) fn demand_changes(&self) -> watch::Receiver<()> {
        self.demands.changes()
    }

    /// Waits until somebody waits for a block that is not held, or the blob is complete.
    pub(crate) async fn demanded_or_complete(&self) {
        let (mut demands, mut changes) = (self.demands.changes(), self.progress.subscribe());
        while !self.is_complete() && self.demanded().1.is_empty() {
            tokio::select! {
                // Both senders live in self.
                _ = demands.changed() => {}
                _ = changes.wait_for(|progress| progress.complete) => {}
            }
        }
    }

    /// Told of every change: a block, a claim, the end.
    pub fn changes(&self) -> Changes {
        Changes(self.progress.subscribe())
    }

    /// Takes in a block; from a peer it comes with a hash, from the origin without. Hashing and writing happen off the
    /// runtime's threads.
    pub async fn put(
        self: &Arc<Self>,
        index: u32,
        claimed: Option<BlockHash>,
        bytes: Bytes,
    ) -> Result<Put, BlobError> {
        let blob = self.clone();
        let put = spawn_blocking(move || blob.put_now(index, claimed, &bytes)).await;
        put.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn put_now(&self, index: u32, claimed: Option<BlockHash>, bytes: &Bytes) -> Result<Put, BlobError> {
        let span = blocks::span(self.size, index);
        let fits = !span.is_empty() && bytes.len() as u64 == span.end - span.start;
        let hash = *blake3::hash(bytes).as_bytes();
        if !fits || claimed.is_some_and(|claimed| claimed != hash) {
            return Err(BlobError::BadBlock { blob: self.digest, index });
        }
        let mut files = self.files.lock();
        if self.progress.borrow().held.contains(index) {
            return Ok(Put::Known);
        }
        let data = self.open_data(&mut files)?;
        data.write_all_at(bytes, span.start).map_err(Self::disk("write", &self.paths.data))?;
        self.append(&mut files, index, hash)?;
        self.hashes.lock().insert(index, hash);
        self.recent.insert((self.digest, index), hash, bytes.clone());
        self.progress.send_modify(|progress| {
            progress.held.insert(index);
        });
        self.advance(&mut files, &data, Some((index, bytes)))?;
        self.finish_if_whole(&mut files)?;
        Ok(Put::New)
    }

    fn open_data(&self, files: &mut Files) -> Result<Arc<File>, BlobError> {
        if let Some(data) = &files.data {
            return Ok(data.clone());
        }
        let path = &self.paths.data;
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let data = Arc::new(opened.map_err(Self::disk("open", path))?);
        files.data = Some(data.clone());
        Ok(data)
    }

    fn append(&self, files: &mut Files, index: u32, hash: BlockHash) -> Result<(), BlobError> {
        let path = &self.paths.journal;
        let journal = match &mut files.journal {
            Some(journal) => journal,
            none => {
                let opened = OpenOptions::new().append(true).create(true).open(path);
                none.insert(opened.map_err(Self::disk("open", path))?)
            }
        };
        let mut entry = [0; ENTRY_BYTES];
        entry[..4].copy_from_slice(&index.to_le_bytes());
        entry[4..].copy_from_slice(&hash);
        journal.write_all(&entry).map_err(Self::disk("write", path))
    }

    /// Hashes on as far as the blocks are there without a gap. `fresh` saves reading the block just written.
    fn advance(&self, files: &mut Files, data: &File, fresh: Option<(u32, &Bytes)>) -> Result<(), BlobError> {
        let Files { hasher: Some(hasher), next, .. } = files else { return Ok(()) };
        while self.progress.borrow().held.contains(*next) {
            match fresh {
                Some((index, bytes)) if index == *next => hasher.update(bytes),
                _ => {
                    let bytes = read_span(data, blocks::span(self.size, *next));
                    hasher.update(&bytes.map_err(Self::disk("read", &self.paths.data))?);
                }
            }
            *next += 1;
        }
        Ok(())
    }

    /// With all blocks hashed, compares the digest: the blob is complete, or discarded.
    fn finish_if_whole(&self, files: &mut Files) -> Result<bool, BlobError> {
        if files.next < blocks::count(self.size) {
            return Ok(false);
        }
        let Some(hasher) = files.hasher.take() else { return Ok(true) };
        let found = hasher.finish();
        files.journal = None;
        if found != self.digest {
            self.discard(files);
            return Err(BlobError::WrongDigest { blob: self.digest, found });
        }
        fs::rename(&self.paths.data, &self.paths.complete).map_err(Self::disk("rename", &self.paths.data))?;
        let _ = fs::remove_file(&self.paths.journal);
        self.mark_complete();
        Ok(true)
    }

    fn discard(&self, files: &mut Files) {
        *files = Files { data: None, journal: None, hasher: Some(Sha256::new()), next: 0 };
        for path in [&self.paths.journal, &self.paths.data] {
            let _ = fs::remove_file(path);
        }
        self.hashes.lock().clear();
        self.recent.forget(&self.digest);
        self.progress.send_modify(|progress| progress.held = BlockSet::empty(blocks::count(self.size)));
    }

    fn mark_complete(&self) {
        self.progress.send_modify(|progress| {
            progress.held = BlockSet::full(progress.held.count());
            progress.complete = true;
        });
    }

    /// An empty blob has no block that could complete it: its digest alone decides.
    pub(crate) fn complete_if_empty(&self) -> Result<(), BlobError> {
        if self.size > 0 || self.is_complete() {
            return Ok(());
        }
        let mut files = self.files.lock();
        self.open_data(&mut files)?;
        self.finish_if_whole(&mut files).map(|_| ())
    }

    /// A block that is held, with its hash.
    pub async fn read(self: &Arc<Self>, index: u32) -> Result<(BlockHash, Bytes), BlobError> {
        if let Some(block) = self.recent.get(&(self.digest, index)) {
            return Ok(block);
        }
        let span = blocks::span(self.size, index);
        let known = self.hashes.lock().get(&index).copied();
        if let Some(hash) = known
            && let Some(bytes) = self.read_cached(&span)
        {
            return Ok((hash, bytes));
        }
        let blob = self.clone();
        let read = spawn_blocking(move || {
            let bytes = Bytes::from(blob.read_file(span)?);
            let hash = known.unwrap_or_else(|| *blake3::hash(&bytes).as_bytes());
            blob.hashes.lock().insert(index, hash);
            blob.recent.insert((blob.digest, index), hash, bytes.clone());
            Ok((hash, bytes))
        });
        read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Whether block `index` is held and, if `verified`, the whole blob is complete in case it is the last one: so who
    /// reads to the end has read the right bytes.
    pub(crate) fn shows(&self, index: u32, verified: bool) -> bool {
        self.progress.borrow().shows(index, verified)
    }

    /// Waits until it [shows](Self::shows) a block. Fails when nobody fetches the blob any more.
    pub(crate) async fn wait_to_show(&self, index: u32, verified: bool) -> Result<(), BlobError> {
        let mut changes = self.progress.subscribe();
        let given_up = |progress: &Progress| progress.claim.is_none() && progress.abandoned.is_some();
        let shown = changes
            .wait_for(|progress| progress.shows(index, verified) || given_up(progress))
            .await
            .map(|progress| progress.abandoned.clone().filter(|_| !progress.shows(index, verified)));
        match shown {
            Ok(Some(reason)) => Err(BlobError::Abandoned { blob: self.digest, reason }),
            // The sender lives in self, so the other case is an answer, too.
            _ => Ok(()),
        }
    }

    /// Some bytes of a block that is held. They are not hashed: who reads them compares the digest of the whole.
    pub(crate) async fn read_within(
        self: &Arc<Self>,
        index: u32,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, BlobError> {
        if let Some((_, block)) = self.recent.get(&(self.digest, index)) {
            let start = blocks::span(self.size, index).start;
            let within = |offset: u64| usize::try_from(offset - start).expect("a block fits memory");
            return Ok(block.slice(within(range.start)..within(range.end)));
        }
        if let Some(bytes) = self.read_cached(&range) {
            return Ok(bytes);
        }
        let blob = self.clone();
        let read = spawn_blocking(move || blob.read_file(range).map(Bytes::from));
        read.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// The bytes, if the operating system has them in memory: then handing the work to another thread costs more than the
    /// work.
    fn read_cached(&self, range: &std::ops::Range<u64>) -> Option<Bytes> {
        let data = self.files.lock().data.clone()?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        let buffers = &mut [IoSliceMut::new(&mut bytes)];
        let length = preadv2(data, buffers, range.start, ReadWriteFlags::NOWAIT).ok()?;
        (length == bytes.len()).then(|| bytes.into())
    }

    fn read_file(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>, BlobError> {
        let data = self.files.lock().data.clone();
        let missing = || io::Error::new(io::ErrorKind::NotFound, "the file is gone");
        let read = data.ok_or_else(missing).and_then(|file| read_span(&file, range));
        read.map_err(Self::disk("read", &self.paths.complete))
    }
}

#[cfg(test)]
impl Blob {
    /// As if many other blocks had come since.
    pub(crate) fn forget_recent(&self) {
        self.recent.forget(&self.digest);
    }
}

impl Progress {
    fn shows(&self, index: u32, verified: bool) -> bool {
        let last = index + 1 == self.held.count();
        self.held.contains(index) && (self.complete || !(last && verified))
    }
}

fn read_span(file: &File, span: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
    let length = usize::try_from(span.end - span.start).expect("a block fits memory");
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, span.start)?;
    Ok(bytes)
}

/// Tells of a blob's changes.
pub struct Changes(watch::Receiver<Progress>);

impl Changes {
    /// Waits for the next change since the last call.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The blob is gone, and whoever waits for it holds it.
            std::future::pending::<()>().await;
        }
    }
}
