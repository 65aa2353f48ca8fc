//! Blocks: the fixed-size units of transfer and verification, and sets of them.
//!
//! Pure arithmetic. Bytes and hashes are `blob`'s business.

use std::ops::Range;

/// Bytes in a block, except for the last one of a blob. Large enough that hashing, framing and system calls cost
/// little per byte, small enough that a tree of depth 16 is filled by 4 MiB of an image.
pub const BLOCK_SIZE: u32 = 256 * 1024;

/// The blake3 hash of a block's bytes.
pub type BlockHash = [u8; 32];

/// How many blocks a blob of `size` bytes has.
pub fn count(size: u64) -> u32 {
    u32::try_from(size.div_ceil(u64::from(BLOCK_SIZE))).expect("blobs are at most 1 TiB, see MAX_BLOB_BYTES")
}

/// Which bytes of a blob of `size` bytes block `index` is.
pub fn span(size: u64, index: u32) -> Range<u64> {
    let start = u64::from(index) * u64::from(BLOCK_SIZE);
    start.min(size)..(start + u64::from(BLOCK_SIZE)).min(size)
}

/// The block that byte `offset` is in.
pub fn index_of(offset: u64) -> u32 {
    u32::try_from(offset / u64::from(BLOCK_SIZE)).unwrap_or(u32::MAX)
}

/// The blocks that some bytes, at least one, are in.
pub fn touched(bytes: &Range<u64>) -> Range<u32> {
    index_of(bytes.start)..index_of(bytes.end - 1) + 1
}

/// Some of the blocks of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSet {
    words: Vec<u64>,
    count: u32,
    len: u32,
}

impl BlockSet {
    /// No blocks, of a blob that has `count`.
    pub fn empty(count: u32) -> Self {
        Self { words: vec![0; count.div_ceil(64) as usize], count, len: 0 }
    }

    /// All blocks of a blob that has `count`.
    pub fn full(count: u32) -> Self {
        Self::from_ranges(count, &[0..count])
    }

    /// The blocks in `ranges`, of a blob that has `count`. What lies beyond the blob is left out.
    pub fn from_ranges(count: u32, ranges: &[Range<u32>]) -> Self {
        let mut set = Self::empty(count);
        set.add(ranges);
        set
    }

    /// Adds the blocks in `ranges`. What lies beyond the blob is left out.
    pub fn add(&mut self, ranges: &[Range<u32>]) {
        for range in ranges {
            for index in range.start..range.end.min(self.count) {
                self.insert(index);
            }
        }
    }

    /// Takes out every block that is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            self.len -= (*word & other).count_ones();
            *word &= !other;
        }
    }

    /// Whether some block is both in this set and in `other`.
    pub fn intersects(&self, other: &Self) -> bool {
        self.first_in_both(other).is_some()
    }

    /// The blocks of the set, as at most `limit` ranges from the front.
    pub fn ranges(&self, limit: usize) -> Vec<Range<u32>> {
        self.runs(limit, true)
    }

    /// How many blocks the blob has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many blocks are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no block is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every block of the blob is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.count
    }

    /// Whether block `index` is in the set.
    pub fn contains(&self, index: u32) -> bool {
        self.words.get((index / 64) as usize).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Adds a block; `false` if it was there already, or if the blob has no such block.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.count || self.contains(index) {
            return false;
        }
        self.words[(index / 64) as usize] |= 1 << (index % 64);
        self.len += 1;
        true
    }

    /// Takes a block out; `false` if it was not in.
    pub fn remove(&mut self, index: u32) -> bool {
        if !self.contains(index) {
            return false;
        }
        self.words[(index / 64) as usize] &= !(1 << (index % 64));
        self.len -= 1;
        true
    }

    /// The first block that is both in this set and in `other`.
    pub fn first_in_both(&self, other: &Self) -> Option<u32> {
        let words = self.words.iter().zip(&other.words).zip(0u32..);
        let (common, at) = words.map(|((a, b), at)| (a & b, at)).find(|(common, _)| *common != 0)?;
        Some(at * 64 + common.trailing_zeros())
    }

    /// The blocks that are not in the set, as at most `limit` ranges from the front.
    pub fn missing(&self, limit: usize) -> Vec<Range<u32>> {
        self.runs(limit, false)
    }

    /// The runs of blocks that are in the set, or that are not, as at most `limit` ranges from the front.
    fn runs(&self, limit: usize, inside: bool) -> Vec<Range<u32>> {
        let mut ranges = Vec::new();
        let mut index = 0;
        while index < self.count && ranges.len() < limit {
            let next = |from: u32, inside: bool| {
                (from..self.count).find(|&i| self.contains(i) == inside).unwrap_or(self.count)
            };
            let start = next(index, inside);
            let end = next(start, !inside);
            if start < end {
                ranges.push(start..end);
            }
            index = end;
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spans_tile_the_blob() {
        let block = u64::from(BLOCK_SIZE);
        for (size, blocks) in [(0, 0), (1, 1), (block - 1, 1), (block, 1), (block + 1, 2), (10 * block, 10)] {
            assert_eq!(count(size), blocks, "{size}");
            let spans: Vec<_> = (0..blocks).map(|index| span(size, index)).collect();
            assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert_eq!(spans.iter().map(|span| span.end - span.start).sum::<u64>(), size);
            for (index, span) in (0..).zip(&spans) {
                assert_eq!((index_of(span.start), index_of(span.end - 1)), (index, index));
            }
        }
    }

    proptest! {
        #[test]
        fn a_set_does_what_a_plain_set_does(count in 0u32..300, changes: Vec<(bool, u16)>) {
            let mut set = BlockSet::empty(count);
            let mut plain = BTreeSet::new();
            for (insert, index) in changes {
                let index = u32::from(index) % 310;
                if insert {
                    prop_assert_eq!(set.insert(index), index < count && plain.insert(index));
                } else {
                    prop_assert_eq!(set.remove(index), plain.remove(&index));
                }
            }
            prop_assert_eq!(set.len() as usize, plain.len());
            prop_assert_eq!(set.is_full(), plain.len() == count as usize);
            let missing: Vec<u32> = set.missing(usize::MAX).into_iter().flatten().collect();
            let expected: Vec<u32> = (0..count).filter(|index| !plain.contains(index)).collect();
            prop_assert_eq!(&missing, &expected);
            let inside: Vec<u32> = set.ranges(usize::MAX).into_iter().flatten().collect();
            prop_assert_eq!(inside, plain.iter().copied().collect::<Vec<_>>());
            let mut rest = BlockSet::from_ranges(count, &[0..count / 2]);
            rest.subtract(&set);
            let expected_rest: Vec<u32> = (0..count / 2).filter(|index| !plain.contains(index)).collect();
            prop_assert_eq!(rest.len() as usize, expected_rest.len());
            prop_assert_eq!(rest.ranges(usize::MAX).into_iter().flatten().collect::<Vec<_>>(), expected_rest);
            prop_assert!(!rest.intersects(&set));
            let wanted = BlockSet::from_ranges(count, &set.missing(usize::MAX));
            prop_assert_eq!(wanted.first_in_both(&set), None);
            prop_assert_eq!(wanted.first_in_both(&wanted), expected.first().copied());
        }
    }
}
