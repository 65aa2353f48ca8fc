//! The blobs on this node's disk, each opened once.
//!
//! Layout below the data directory:
//!
//! ```text
//! blobs/sha256/<hex>      complete and verified
//! partial/<hex>.data      some blocks of a blob
//! partial/<hex>.blocks    which ones, and their hashes
//! lock                    held while a process uses the directory
//! ```
//!
//! Knows nothing of images or of where blocks come from.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::task::spawn_blocking;

use crate::blob::{Blob, BlobError, Paths};
use crate::digest::Digest;
use crate::recent::Recent;

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory or file in it cannot be made or opened.
    #[error(
        "the data directory {} cannot be used: {}: {reason}; it must be a directory that this user can write to, with room \
         in it: mend that, or give another one with --data",
        root.display(),
        path.display()
    )]
    Unusable {
        /// The directory.
        root: PathBuf,
        /// The culprit in it.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Another process uses it.
    #[error("the data directory {} is in use by another process; give each node its own with --data", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// The blobs of one node.
pub struct Store {
    root: PathBuf,
    open: Mutex<BTreeMap<Digest, Weak<Blob>>>,
    recent: Arc<Recent>,
    /// The operating system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Opens the data directory, making it if need be.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let unusable = |path: &Path| {
            let (root, path) = (root.to_owned(), path.to_owned());
            |reason| StoreError::Unusable { root, path, reason }
        };
        for folder in ["blobs/sha256", "partial"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(unusable(&path))?;
        }
        let lock_path = root.join("lock");
        let lock = File::create(&lock_path).map_err(unusable(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { path: root.to_owned() }),
            Err(fs::TryLockError::Error(reason)) => return Err(unusable(&lock_path)(reason)),
        }
        Ok(Self { root: root.to_owned(), open: Mutex::default(), recent: Arc::default(), _lock: lock })
    }

    fn paths(&self, digest: &Digest) -> Paths {
        let hex = digest.hex();
        let partial = self.root.join("partial");
        Paths {
            complete: self.root.join("blobs/sha256").join(&hex),
            data: partial.join(format!("{hex}.data")),
            journal: partial.join(format!("{hex}.blocks")),
        }
    }

    /// The blob with this digest and size, whatever of it is held. One that is in parts is hashed again first, off
    /// the runtime's threads.
    pub async fn blob(self: &Arc<Self>, digest: Digest, size: u64) -> Result<Arc<Blob>, BlobError> {
        if let Some(blob) = self.opened(&digest) {
            return Ok(blob);
        }
        let store = self.clone();
        let opened = spawn_blocking(move || {
            // Opened under the lock, so that no blob is ever opened twice; most are new, and those cost nothing.
            let mut open = store.open.lock();
            if let Some(blob) = open.get(&digest).and_then(Weak::upgrade) {
                return Ok(blob);
            }
            let blob = Arc::new(Blob::open(digest, size, store.paths(&digest), store.recent.clone())?);
            blob.complete_if_empty()?;
            open.retain(|_, blob| blob.strong_count() > 0);
            open.insert(digest, Arc::downgrade(&blob));
            Ok(blob)
        });
        opened.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn opened(&self, digest: &Digest) -> Option<Arc<Blob>> {
        self.open.lock().get(digest).and_then(Weak::upgrade)
    }

    /// The blob with this digest if it is complete, or on its way.
    pub async fn lookup(self: &Arc<Self>, digest: Digest) -> Option<Arc<Blob>> {
        if let Some(blob) = self.opened(&digest) {
            return Some(blob);
        }
        let path = self.paths(&digest).complete;
        let size = tokio::fs::metadata(path).await.ok()?.len();
        self.blob(digest, size).await.ok()
    }

    /// Whether the blob with this digest is complete.
    pub fn has(&self, digest: &Digest) -> bool {
        self.paths(digest).complete.exists()
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes that can still be written to its disk, by those who are not root.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Bytes of the complete blobs on disk.
    pub fn complete_bytes(&self) -> u64 {
        let Ok(entries) = fs::read_dir(self.root.join("blobs/sha256")) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use bytes::Bytes;
    use membership::{FunctionId, Stamp};

    use super::*;
    use crate::blob::Put;
    use crate::blocks::BLOCK_SIZE;
    use crate::claim::Claim;

    const CLAIM: Claim =
        Claim { function: FunctionId::from_bytes([1; 32]), stamp: Stamp { wall_ms: 1, logical: 0 } };

    /// A blob of two and a half blocks.
    fn content() -> Vec<Bytes> {
        let block = |fill: u8, length: u32| Bytes::from(vec![fill; length as usize]);
        vec![block(1, BLOCK_SIZE), block(2, BLOCK_SIZE), block(3, BLOCK_SIZE / 2)]
    }

    fn digest() -> Digest {
        Digest::of(&content().concat())
    }

    fn size() -> u64 {
        content().iter().map(|block| block.len() as u64).sum()
    }

    async fn put(blob: &Arc<Blob>, index: usize) -> Result<Put, BlobError> {
        let bytes = content()[index].clone();
        blob.put(u32::try_from(index).unwrap(), Some(*blake3::hash(&bytes).as_bytes()), bytes).await
    }

    fn open(dir: &tempfile::TempDir) -> Arc<Store> {
        Arc::new(Store::open(dir.path()).unwrap())
    }

    #[tokio::test]
    async fn a_blob_is_complete_when_its_last_block_has_come_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(&dir);
            let blob = store.blob(digest(), size()).await.unwrap();
            for (i, index) in order.into_iter().enumerate() {
                assert!(!blob.is_complete());
                assert_eq!(put(&blob, index).await.unwrap(), Put::New);
                assert_eq!(put(&blob, index).await.unwrap(), Put::Known, "{i}");
            }
            assert!(blob.is_complete());
            assert_eq!(blob.held_bytes(), size());
            let path = dir.path().join("blobs/sha256").join(digest().hex());
            assert_eq!(fs::read(path).unwrap(), content().concat());
            assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn what_was_held_is_held_after_a_restart_unless_it_was_damaged() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(&dir);
            let blob = store.blob(digest(), size()).await.unwrap();
            put(&blob, 0).await.unwrap();
            put(&blob, 2).await.unwrap();
        }
        {
            let blob = open(&dir).blob(digest(), size()).await.unwrap();
            assert_eq!(blob.missing(9), [1..2]);
            assert_eq!(blob.held_bytes(), size() - u64::from(BLOCK_SIZE));
        }
        let data = dir.path().join("partial").join(format!("{}.data", digest().hex()));
        fs::OpenOptions::new().write(true).open(&data).unwrap().write_all_at(b"rot", 10).unwrap();
        let store = open(&dir);
        let blob = store.blob(digest(), size()).await.unwrap();
        assert_eq!(blob.missing(9), [0..2]);
        for index in [0, 1] {
            put(&blob, index).await.unwrap();
        }
        assert!(blob.is_complete());
    }

    #[tokio::test]
    async fn a_journal_of_nonsense_is_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(&dir));
        let partial = dir.path().join("partial");
        for (name, length) in [("data", 1000), ("blocks", 36 * 5 + 7)] {
            fs::write(partial.join(format!("{}.{name}", digest().hex())), vec![0xff; length]).unwrap();
        }
        let blob = open(&dir).blob(digest(), size()).await.unwrap();
        assert_eq!(blob.missing(9), [0..3]);
    }

    #[tokio::test]
    async fn what_the_disk_has_changed_since_is_served_with_the_hash_of_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let blob = open(&dir).blob(digest(), size()).await.unwrap();
        put(&blob, 0).await.unwrap();
        let data = dir.path().join("partial").join(format!("{}.data", digest().hex()));
        fs::OpenOptions::new().write(true).open(&data).unwrap().write_all_at(b"rot", 10).unwrap();
        blob.forget_recent();
        let (hash, bytes) = blob.read(0).await.unwrap();
        assert_eq!(hash, *blake3::hash(&content()[0]).as_bytes());
        assert_ne!(bytes, content()[0], "who receives it finds out");
    }

    #[tokio::test]
    async fn a_block_that_is_not_its_hash_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let blob = open(&dir).blob(digest(), size()).await.unwrap();
        let bad = blob.put(0, Some([9; 32]), content()[0].clone()).await;
        assert!(matches!(bad, Err(BlobError::BadBlock { index: 0, .. })));
        let short = content()[0].slice(1..);
        let bad = blob.put(0, None, short).await;
        assert!(matches!(bad, Err(BlobError::BadBlock { index: 0, .. })));
        let beyond = blob.put(3, None, Bytes::new()).await;
        assert!(matches!(beyond, Err(BlobError::BadBlock { index: 3, .. })));
        assert_eq!(blob.held_bytes(), 0);
    }

    #[tokio::test]
    async fn a_whole_that_is_not_its_digest_is_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let blob = store.blob(Digest::of(b"something else"), size()).await.unwrap();
        put(&blob, 0).await.unwrap();
        put(&blob, 1).await.unwrap();
        assert!(matches!(put(&blob, 2).await, Err(BlobError::WrongDigest { .. })));
        assert_eq!(blob.held_bytes(), 0);
        assert!(!blob.is_complete());
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
        assert_eq!(put(&blob, 0).await.unwrap(), Put::New);
    }

    #[tokio::test]
    async fn a_manifest_that_lies_about_a_size_changes_nothing_of_what_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let blob = store.blob(digest(), size()).await.unwrap();
        for index in 0..3 {
            put(&blob, index).await.unwrap();
        }
        drop(blob);
        let blob = store.blob(digest(), size() + 9_000_000).await.unwrap();
        assert_eq!((blob.size(), blob.is_complete()), (size(), true));
    }

    #[tokio::test]
    async fn an_empty_blob_is_complete_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let blob = open(&dir).blob(Digest::of(b""), 0).await.unwrap();
        assert!(blob.is_complete());
        assert!(dir.path().join("blobs/sha256").join(Digest::of(b"").hex()).exists());
    }

    #[tokio::test]
    async fn a_blob_is_fetched_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir);
        let blob = store.blob(digest(), size()).await.unwrap();
        assert!(Arc::ptr_eq(&blob, &store.lookup(digest()).await.unwrap()));
        let first = blob.claim_for(CLAIM).await.unwrap();
        let second = tokio::spawn({
            let blob = blob.clone();
            async move { blob.claim_for(CLAIM).await.is_some() }
        });
        drop(first);
        assert!(second.await.unwrap());
        for index in 0..3 {
            put(&blob, index).await.unwrap();
        }
        assert!(blob.claim_for(CLAIM).await.is_none());
    }

    #[test]
    fn a_data_directory_is_used_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::InUse { .. })));
        drop(store);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn a_data_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file.join("below")).err().unwrap().to_string();
        assert!(error.contains("file/below"), "{error}");
    }
}
