//! An image with a layer of 1 GiB that is nowhere: its bytes follow from where they are, and nobody can check its digest.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use transfer::digest::Digest;
use transfer::manifest::{Document, OCI_MANIFEST};
use transfer::origin::{Answered, BlobStream, Listing, Origin, OriginError};
use transfer::reference::Selector;

/// Bytes of the layer.
pub(super) const SIZE: u64 = 1 << 30;

const PIECE: u64 = 64 << 10;

pub(super) struct Vast;

impl Vast {
    pub(super) fn layer() -> Digest {
        Digest::of(b"the name of something larger")
    }

    /// Any bytes of the layer.
    pub(super) fn bytes(range: Range<u64>) -> Vec<u8> {
        range.map(|offset| (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    pub(super) fn manifest() -> Document {
        let layer = Self::layer();
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{SIZE}}}]}}"#,
            Digest::of(b"{}")
        );
        Document::received(Some(OCI_MANIFEST), text.into()).unwrap()
    }
}

#[async_trait]
impl Origin for Vast {
    async fn manifest(&self, _: &str, _: &Selector) -> Result<Document, OriginError> {
        Ok(Self::manifest())
    }

    async fn head(&self, _: &str, _: &Selector) -> Result<Digest, OriginError> {
        Ok(Self::manifest().digest)
    }

    async fn blob_size(&self, _: &str, digest: &Digest) -> Result<u64, OriginError> {
        Ok(if *digest == Self::layer() { SIZE } else { 2 })
    }

    async fn blob(&self, _: &str, digest: &Digest, range: Range<u64>) -> Result<BlobStream, OriginError> {
        if *digest != Self::layer() {
            return Ok(Box::pin(stream::iter([Ok(Bytes::from_static(b"{}"))])));
        }
        Ok(Box::pin(stream::unfold(range, |rest| async move {
            let piece = rest.start..rest.end.min(rest.start + PIECE);
            (!piece.is_empty()).then(|| (Ok(Self::bytes(piece.clone()).into()), piece.end..rest.end))
        })))
    }

    async fn list(&self, _: &str, _: &Listing, _: &str) -> Result<Answered, OriginError> {
        unreachable!("no test asks it for a list")
    }
}
