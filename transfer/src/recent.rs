//! The blocks that came in or went out last, in memory.
//!
//! The children of a node follow close behind it, so most of what is served was received a moment ago: it need not be
//! read from disk nor hashed again.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::blocks::BlockHash;
use crate::digest::Digest;

/// Bytes kept. At 1 Gbit/s this is what comes in within an eighth of a second: children are closer behind than that.
const CAPACITY_BYTES: usize = 16 * 1024 * 1024;

type Key = (Digest, u32);

/// A bounded first-in first-out cache of blocks.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    blocks: HashMap<Key, (BlockHash, Bytes)>,
    order: VecDeque<Key>,
    bytes: usize,
}

impl Recent {
    pub(crate) fn get(&self, key: &Key) -> Option<(BlockHash, Bytes)> {
        self.0.lock().blocks.get(key).cloned()
    }

    pub(crate) fn insert(&self, key: Key, hash: BlockHash, bytes: Bytes) {
        let mut inner = self.0.lock();
        inner.bytes += bytes.len();
        match inner.blocks.insert(key, (hash, bytes)) {
            Some((_, old)) => inner.bytes -= old.len(),
            None => inner.order.push_back(key),
        }
        while inner.bytes > CAPACITY_BYTES {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some((_, bytes)) = inner.blocks.remove(&oldest) {
                inner.bytes -= bytes.len();
            }
        }
    }

    /// Forgets the blocks of one blob.
    pub(crate) fn forget(&self, blob: &Digest) {
        let mut inner = self.0.lock();
        let Inner { blocks, order, bytes } = &mut *inner;
        order.retain(|key| key.0 != *blob);
        blocks.retain(|key, (_, block)| {
            let keep = key.0 != *blob;
            *bytes -= if keep { 0 } else { block.len() };
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_more_than_its_capacity_and_forgets_the_oldest() {
        let recent = Recent::default();
        let [a, b] = [Digest::of(b"a"), Digest::of(b"b")];
        let block = Bytes::from(vec![0; CAPACITY_BYTES / 4]);
        for index in 0..5 {
            recent.insert((a, index), [0; 32], block.clone());
            recent.insert((a, index), [0; 32], block.clone());
        }
        assert!(recent.get(&(a, 0)).is_none());
        assert!((1..5).all(|index| recent.get(&(a, index)).is_some()));
        recent.insert((b, 0), [0; 32], block);
        recent.forget(&a);
        let inner = recent.0.lock();
        assert_eq!((inner.blocks.len(), inner.order.len()), (1, 1));
        assert_eq!(inner.bytes, CAPACITY_BYTES / 4);
    }
}
