//! The backing store that an image comes from when no peer has it: a registry, or an OCI layout on disk.
//!
//! An origin hands out bytes. It checks documents against their digests, but not blobs, which are read in
//! parts: their readers do. It keeps nothing and knows no peers.
//!
//! A registry, from the outside in: `registry` says who is asked in which order, `upstream` what one request is made of,
//! `http` how it gets there and back. `authorizer` shows what `challenge` was read to ask for, which `token` gets and
//! `credentials` pay for. `budget`, [`pause`] and `counts` are what all requests to an origin share. Pure: [`retry`],
//! `challenge`, `docker_config`, `rate`, `reach`, `secret`.

mod answer;
mod archive;
mod authorizer;
mod blob;
mod budget;
mod challenge;
mod counts;
mod credentials;
mod docker_config;
mod http;
mod layout;
mod listing;
mod location;
mod lookup;
pub mod pause;
mod rate;
mod reach;
mod registry;
pub mod retry;
mod secret;
mod tls;
mod token;
mod upstream;

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::digest::Digest;
use crate::manifest::Document;
use crate::reference::Selector;

pub use counts::{OriginCounts, RequestCounts};
pub use credentials::Credentials;
pub use layout::{LayoutOrigin, open_local};
pub use listing::{Answered, Listing, MAX_LISTING_BYTES};
pub use registry::{RegistryConfig, RegistryOrigin, STALL};
pub use tls::TlsConfig;

/// The largest piece of a blob that a stream yields, so that a reader's buffers are bounded.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// The bytes of a blob in order, in pieces of at most [`MAX_CHUNK_BYTES`]. Ends after an error.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, OriginError>> + Send>>;

/// Where images come from.
#[async_trait]
pub trait Origin: Send + Sync + 'static {
    /// The whole document, whose bytes match its digest and the selector's.
    async fn manifest(&self, repository: &str, selector: &Selector) -> Result<Document, OriginError>;

    /// The digest that the selector stands for now, without reading the document if that can be helped.
    async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError>;

    /// How many bytes the blob has.
    async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError>;

    /// The bytes of `range` of a blob. The stream ends with an error when it cannot deliver all of them, and
    /// never delivers more. The bytes are not checked against the digest.
    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError>;

    /// One page of a list. `query` is that of a URL, as the specification has it, such as `n=100&last=v1`; what the
    /// origin does not understand it passes over.
    async fn list(&self, repository: &str, listing: &Listing, query: &str) -> Result<Answered, OriginError>;
}

/// What could not be had, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The registry's name or the layout's path.
    pub origin: String,
    /// The repository, empty for the origin as a whole.
    pub repository: String,
    /// `manifest latest`, `blob sha256:...`.
    pub object: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, repository, object } = self;
        match repository.as_str() {
            "" => write!(f, "{object} at {origin}"),
            _ => write!(f, "{object} of {repository} at {origin}"),
        }
    }
}

/// An origin did not give what it was asked for. Changes no state: the same call may be made again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It is not there. Asking again is no use.
    #[error("{place}: not found{}", detail(.reason))]
    NotFound {
        /// What was asked for.
        place: Place,
        /// What the origin said, possibly nothing.
        reason: String,
    },
    /// The origin knows us not, or lets us not have it. Asking again is no use.
    #[error("{place}: access denied{}", detail(.reason))]
    Denied {
        /// What was asked for.
        place: Place,
        /// What the origin said, possibly nothing.
        reason: String,
    },
    /// The origin cannot be reached, is overloaded or breaks off. It may be tried again later.
    #[error("{place}: unavailable: {reason}")]
    Unavailable {
        /// What was asked for.
        place: Place,
        /// What happened last.
        reason: String,
        /// How long the origin asks us to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// The origin answered, but with something that cannot be right. Asking again is no use until it is
    /// mended.
    #[error("{place}: wrong answer: {reason}")]
    Invalid {
        /// What was asked for.
        place: Place,
        /// What is wrong with the answer.
        reason: String,
    },
}

impl OriginError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// The same about another place.
    fn at(mut self, another: &Place) -> Self {
        let (Self::NotFound { place, .. }
        | Self::Denied { place, .. }
        | Self::Unavailable { place, .. }
        | Self::Invalid { place, .. }) = &mut self;
        place.clone_from(another);
        self
    }
}

fn invalid(place: &Place, reason: String) -> OriginError {
    OriginError::Invalid { place: place.clone(), reason }
}

fn detail(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {reason}") }
}
