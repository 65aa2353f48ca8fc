//! Reads some bytes of a blob in order, as they come in, and has them come in before others.
//!
//! What a client of the mirror reads through. Readers fetch nothing themselves: they say what they wait for.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::blob::{Blob, BlobError};
use crate::blocks;
use crate::demand::Demand;
use crate::wire::Want;

/// How many blocks a reader has fetched ahead at first, 1 MiB: one that goes away after a moment has moved little in
/// vain. Where all of the blob comes anyway it stays at that, since the rest is not far behind.
pub(crate) const FIRST_WINDOW: u32 = 4;

/// How many blocks a reader has fetched ahead at most, 8 MiB: what 1 Gbit/s brings in 64 ms, longer than any round trip
/// through a tree within a region.
pub(crate) const MAX_WINDOW: u32 = 32;

/// Has these ranges of a blob brought before others, all at once, until it is dropped.
pub fn ask_for(blob: &Arc<Blob>, ranges: &[Range<u64>]) -> Demand {
    let urgent = ranges.iter().map(blocks::touched).collect();
    let demand = blob.demand();
    demand.set(Want { urgent, wanted: Vec::new() });
    demand
}

/// Most bytes read at a time. A thousand clients hold 64 MiB of them at most; and such a piece stays in a processor's own
/// cache on its way from the page cache to a socket.
const MAX_PIECE: u64 = 64 << 10;

/// One reader of one blob.
pub struct Reader {
    blob: Arc<Blob>,
    rest: Range<u64>,
    verified: bool,
    window: u32,
    demand: Option<Demand>,
}

impl Reader {
    /// Reads `range`, which lies within the blob. A `verified` reader is one that may take the bytes for those of the
    /// digest: it gets the last block only once the whole blob matched, and so has the whole fetched in the end. Other
    /// readers wait for nothing but their own blocks.
    pub fn new(blob: Arc<Blob>, range: Range<u64>, verified: bool) -> Self {
        Self { blob, rest: range, verified, window: FIRST_WINDOW, demand: None }
    }

    /// The next bytes, at most [`MAX_PIECE`]; `None` at the end of the range. Fails when nobody fetches the blob any more.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let index = blocks::index_of(self.rest.start);
        if !self.blob.shows(index, self.verified) {
            self.ask_for(index);
            self.blob.wait_to_show(index, self.verified).await?;
        }
        let end =
            self.rest.end.min(blocks::span(self.blob.size(), index).end).min(self.rest.start + MAX_PIECE);
        let bytes = self.blob.read_within(index, self.rest.start..end).await?;
        self.rest.start = end;
        Ok(Some(bytes))
    }

    /// Says what to bring next, further ahead each time.
    fn ask_for(&mut self, index: u32) {
        let end = blocks::touched(&self.rest).end;
        let urgent = index..end.min(index + self.window);
        let wanted = if self.verified { vec![0..blocks::count(self.blob.size())] } else { Vec::new() };
        let demand = self.demand.get_or_insert_with(|| self.blob.demand());
        demand.set(Want { urgent: vec![urgent], wanted });
        if !self.verified && !self.blob.comes_whole() {
            self.window = (2 * self.window).min(MAX_WINDOW);
        }
    }
}

#[cfg(test)]
mod tests {
    use membership::{FunctionId, Stamp};

    use super::*;
    use crate::blocks::{BLOCK_SIZE, span};
    use crate::claim::Claim;
    use crate::digest::Digest;
    use crate::store::Store;

    const CLAIM: Claim =
        Claim { function: FunctionId::from_bytes([1; 32]), stamp: Stamp { wall_ms: 1, logical: 0 } };
    const BLOCKS: u32 = 100;

    fn block(index: u32) -> Bytes {
        Bytes::from(vec![u8::try_from(index).unwrap(); BLOCK_SIZE as usize])
    }

    fn first_of(index: u32) -> Bytes {
        block(index).slice(..usize::try_from(MAX_PIECE).unwrap())
    }

    struct Fixture {
        blob: Arc<Blob>,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        async fn new(blocks: u32) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Arc::new(Store::open(dir.path()).unwrap());
            let content: Vec<Bytes> = (0..blocks).map(block).collect();
            let size = u64::from(blocks) * u64::from(BLOCK_SIZE);
            let blob = store.blob(Digest::of(&content.concat()), size).await.unwrap();
            Self { blob, _dir: dir }
        }

        async fn put(&self, index: u32) {
            self.blob.put(index, None, block(index)).await.unwrap();
        }

        fn reader(&self, range: Range<u64>, verified: bool) -> Reader {
            Reader::new(self.blob.clone(), range, verified)
        }

        /// Reads on in a task of its own, once it waits.
        async fn waiting(
            &self,
            mut reader: Reader,
        ) -> tokio::task::JoinHandle<Result<Option<Bytes>, BlobError>> {
            let waiting = tokio::spawn(async move { reader.next().await });
            self.blob.demanded_or_complete().await;
            waiting
        }
    }

    #[tokio::test]
    async fn what_is_held_is_read_at_any_offset() {
        let fixture = Fixture::new(3).await;
        for index in 0..3 {
            fixture.put(index).await;
        }
        let all: Vec<u8> = (0..3).flat_map(|index| block(index).to_vec()).collect();
        let edge = u64::from(BLOCK_SIZE);
        for range in [0..3 * edge, 0..0, 5..6, edge - 1..edge + 1, edge..2 * edge, 7..3 * edge - 7] {
            let (mut reader, mut read) = (fixture.reader(range.clone(), true), Vec::new());
            while let Some(bytes) = reader.next().await.unwrap() {
                assert!(bytes.len() as u64 <= MAX_PIECE);
                read.extend_from_slice(&bytes);
            }
            let expected = &all[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
            assert!(read == expected, "{range:?}");
        }
    }

    #[tokio::test]
    async fn the_last_block_is_shown_as_the_digests_only_when_the_whole_is_verified() {
        let fixture = Fixture::new(3).await;
        let _claim = fixture.blob.claim_for(CLAIM).await.unwrap();
        fixture.put(2).await;
        let last = span(fixture.blob.size(), 2);
        let mut unverified = fixture.reader(last.clone(), false);
        assert_eq!(unverified.next().await.unwrap().unwrap(), first_of(2));
        let waiting = fixture.waiting(fixture.reader(last, true)).await;
        fixture.put(0).await;
        assert!(!waiting.is_finished());
        fixture.put(1).await;
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), first_of(2));
    }

    #[tokio::test]
    async fn it_asks_for_what_it_waits_for_and_no_further_than_its_range() {
        let fixture = Fixture::new(BLOCKS).await;
        let _claim = fixture.blob.claim_for(CLAIM).await.unwrap();
        let demanded = || {
            let (urgent, wanted) = fixture.blob.demanded();
            (urgent.ranges(9), wanted.ranges(9))
        };
        let size = fixture.blob.size();
        let range = span(size, 10).start + 5..span(size, 11).end - 5;
        let waiting = fixture.waiting(fixture.reader(range, false)).await;
        assert_eq!(demanded(), (vec![10..12], vec![10..12]));
        fixture.put(10).await;
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), first_of(10));
        assert_eq!(demanded(), (vec![], vec![]), "it has gone");
        let waiting = fixture.waiting(fixture.reader(span(size, 50).start..size, true)).await;
        assert_eq!(demanded(), (vec![50..50 + FIRST_WINDOW], vec![0..10, 11..BLOCKS]));
        waiting.abort();
    }

    #[tokio::test]
    async fn it_asks_further_ahead_as_it_goes_on_unless_all_comes_anyway() {
        let fixture = Fixture::new(BLOCKS).await;
        let claim = fixture.blob.claim_for(CLAIM).await.unwrap();
        let windows = |verified| {
            let mut reader = fixture.reader(0..fixture.blob.size(), verified);
            let mut window = |index| {
                reader.ask_for(index);
                fixture.blob.demanded().0.len()
            };
            (0..5).map(&mut window).collect::<Vec<_>>()
        };
        assert_eq!(windows(false), [4, 8, 16, 32, MAX_WINDOW]);
        assert_eq!(windows(true), [FIRST_WINDOW; 5]);
        claim.bring_all();
        assert_eq!(windows(false), [FIRST_WINDOW; 5]);
    }

    #[tokio::test]
    async fn who_waits_is_told_when_the_fetch_is_given_up() {
        let fixture = Fixture::new(3).await;
        fixture.blob.claim_for(CLAIM).await.unwrap().abandon("the origin is down".to_owned());
        let error = fixture.reader(0..1, true).next().await.unwrap_err();
        assert!(error.to_string().contains("the origin is down"), "{error}");
        fixture.blob.hope();
        let waiting = fixture.waiting(fixture.reader(0..1, true)).await;
        assert!(!waiting.is_finished());
        fixture.put(0).await;
        assert_eq!(waiting.await.unwrap().unwrap().unwrap(), block(0).slice(..1));
    }
}
