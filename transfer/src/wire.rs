//! What nodes say to each other about bytes: one request a stream of [`Protocol::Blocks`].
//!
//! `Fetch` is answered by [`Frame`]s, each `Block` followed by that block's raw bytes; `Document` by any number of
//! [`DocumentReply::Waiting`] and one other [`DocumentReply`].
//!
//! [`Protocol::Blocks`]: membership::link::Protocol::Blocks

use std::ops::Range;

use membership::{FunctionId, Stamp};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::reference::Reference;

/// Largest request, in bytes: a [`Want`] with two lists of [`MAX_RANGES`], and what stands around it.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// Largest frame, in bytes, without the block that follows.
pub const MAX_HEADER_BYTES: usize = 128;

/// Most ranges in one list. A store with more gaps asks for the first ones, and then again.
pub const MAX_RANGES: usize = 3_000;

/// Asked of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Send me blocks.
    Fetch(Fetch),
    /// Send me a manifest or an index.
    Document(DocumentRequest),
}

/// A child's request to its parent, open until the parent has sent everything or has no way to. Until then the child may
/// send any number of [`Want`]s, which add to the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The function along whose tree the child asks.
    pub function: FunctionId,
    /// When the child joined it. A parent waits for blocks only on behalf of those who joined later than itself.
    pub stamp: Stamp,
    /// The blob.
    pub blob: Digest,
    /// Its size in bytes, as the manifest says.
    pub size: u64,
    /// The stripe whose tree the child follows. There is one as yet: 0.
    pub stripe: u8,
    /// The blocks that the child lacks.
    pub want: Want,
}

/// The blocks that somebody waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Before all others.
    pub urgent: Vec<Range<u32>>,
    /// As well, in their turn.
    pub wanted: Vec<Range<u32>>,
}

impl Want {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.wanted.is_empty()
    }
}

/// A parent's answer, one of many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// A block; its bytes follow.
    Block {
        /// Which one.
        index: u32,
        /// Its blake3 hash.
        hash: [u8; 32],
    },
    /// Still here, waiting for blocks from my own parent.
    Waiting,
    /// Nothing more will come.
    End(End),
}

/// Why a parent stops sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Everything that was wanted has been sent.
    Complete,
    /// What is held has been sent. The rest the parent does not wait for along this tree.
    HeldOnly,
    /// The parent has nothing of this blob, and is not about to.
    NotHere,
    /// The parent leaves the cluster.
    Leaving,
    /// The parent serves as many as it can.
    Busy,
}

/// A request for a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRequest {
    /// Its name.
    pub reference: Reference,
    /// How fresh the answer must be.
    pub fresh: Fresh,
}

/// How fresh the answer to a [`DocumentRequest`] must be. What is named by digest never changes: there it only says whether
/// the origin may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fresh {
    /// However old: answer from what is held.
    Held,
    /// The origin was asked no longer than this before the request came, or is asked now.
    Within {
        /// In milliseconds.
        ms: u64,
    },
    /// The origin is asked now, whatever it said before.
    Now,
}

/// The answer to a [`DocumentRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DocumentReply {
    /// Here it is.
    Found {
        /// What it calls itself.
        media_type: String,
        /// Its bytes, as the origin served them.
        bytes: Vec<u8>,
        /// Whether it is the last known version, because the origin could not be asked.
        stale: bool,
        /// How long before the request came the origin was asked, or found to be down, in milliseconds; 0 if since then.
        age_ms: u64,
    },
    /// Still here, waiting for the origin.
    Waiting,
    /// There is none.
    NotFound(String),
    /// What the origin has makes no sense.
    Invalid(String),
    /// The origin refuses it to us.
    Denied(String),
    /// Not held here, and the origin could not be asked or was not to be.
    Unavailable(String),
}

#[cfg(test)]
mod tests {
    use membership::codec::{decode, encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_messages_keep_their_limits() {
        let fetch = Fetch {
            function: FunctionId::from_bytes([255; 32]),
            stamp: Stamp { wall_ms: u64::MAX, logical: u32::MAX },
            blob: Digest::of(b""),
            size: u64::MAX,
            stripe: u8::MAX,
            want: Want {
                urgent: vec![u32::MAX - 1..u32::MAX; MAX_RANGES],
                wanted: vec![u32::MAX - 1..u32::MAX; MAX_RANGES],
            },
        };
        assert!(encode(&Request::Fetch(fetch)).len() <= MAX_REQUEST_BYTES);
        assert!(encode(&Frame::Block { index: u32::MAX, hash: [255; 32] }).len() <= MAX_HEADER_BYTES);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Want>(&bytes);
            let _ = decode::<Frame>(&bytes);
            let _ = decode::<DocumentReply>(&bytes);
        }
    }
}
