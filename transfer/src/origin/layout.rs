//! An origin that is an OCI image layout on disk: `index.json` and `blobs/sha256/`.
//!
//! Reads what the OCI image specification's layout chapter describes, and writes nothing. Archives become
//! layouts first: [`super::archive`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::listing::{self, Answered, Listing};
use super::{BlobStream, MAX_CHUNK_BYTES, Origin, OriginError, Place, archive, invalid};
use crate::digest::Digest;
use crate::manifest::{Document, MAX_INDEX_ENTRIES, MAX_MANIFEST_BYTES};
use crate::reference::{Reference, Selector};

/// The annotation that names an image within a layout: a tag, or a whole reference.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation in which containerd and docker put the whole reference.
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The layout's own name for the list of its images.
pub(super) const INDEX_FILE: &str = "index.json";
/// Large enough to read a disk at its rate, small enough that a hundred readers do not matter.
const READ_BYTES: usize = 256 << 10;
const _: () = assert!(READ_BYTES <= MAX_CHUNK_BYTES);

/// Opens what `path` holds: a directory with an OCI image layout, or a tar archive, plain or gzipped, written
/// by `docker save` or `skopeo copy ... oci-archive:`. An archive is first unpacked into the system's
/// directory for temporary files, which takes as much room as the image has bytes, and which goes when the
/// origin is dropped.
pub async fn open_local(path: &Path) -> Result<LayoutOrigin, OriginError> {
    let place =
        Place { origin: path.display().to_string(), repository: String::new(), object: "image".into() };
    let metadata = tokio::fs::metadata(path).await.map_err(|error| io_error(&place, &error))?;
    if !metadata.is_dir() {
        let (path, at) = (path.to_owned(), place.clone());
        let unpacking = tokio::task::spawn_blocking(move || archive::unpack(&path, &at));
        let scratch =
            unpacking.await.map_err(|error| invalid(&place, format!("unpacking failed: {error}")))??;
        let root = scratch.path().to_owned();
        return Ok(LayoutOrigin { name: place.origin, root, _scratch: Some(Arc::new(scratch)) });
    }
    if !tokio::fs::try_exists(path.join(INDEX_FILE)).await.map_err(|error| io_error(&place, &error))? {
        let hint = format!(
            "no {INDEX_FILE} in it: make a layout with `skopeo copy docker://IMAGE oci:DIRECTORY:TAG`"
        );
        return Err(OriginError::NotFound { place, reason: hint });
    }
    Ok(LayoutOrigin { name: place.origin, root: path.to_owned(), _scratch: None })
}

/// An OCI image layout. It may be written to while it is open.
///
/// A tag is looked for as the reference of an image, then as its bare tag; if the layout has only one image,
/// every tag stands for it, since layouts need not name their images.
#[derive(Debug, Clone)]
pub struct LayoutOrigin {
    name: String,
    root: PathBuf,
    /// Keeps an unpacked archive alive.
    _scratch: Option<Arc<TempDir>>,
}

impl LayoutOrigin {
    fn place(&self, repository: &str, object: String) -> Place {
        Place { origin: self.name.clone(), repository: repository.to_owned(), object }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    async fn entries(&self, place: &Place) -> Result<Vec<Entry>, OriginError> {
        let bytes = read_small(&self.root.join(INDEX_FILE), place).await?;
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(place, format!("{INDEX_FILE}: {error}")))?;
        if index.manifests.len() > MAX_INDEX_ENTRIES {
            let reason = format!("{INDEX_FILE} lists more than {MAX_INDEX_ENTRIES} images");
            return Err(invalid(place, reason));
        }
        Ok(index.manifests)
    }

    async fn resolve(
        &self,
        repository: &str,
        selector: &Selector,
    ) -> Result<(Place, Digest, Option<Entry>), OriginError> {
        let place = self.place(repository, format!("manifest {selector}"));
        let mut entries = self.entries(&place).await?;
        let digest = match selector {
            Selector::Digest(digest) => *digest,
            Selector::Tag(tag) => pick(&entries, repository, tag, &place)?,
        };
        let listed =
            entries.iter().position(|entry| entry.digest == digest).map(|at| entries.swap_remove(at));
        Ok((place, digest, listed))
    }
}

#[async_trait]
impl Origin for LayoutOrigin {
    async fn manifest(&self, repository: &str, selector: &Selector) -> Result<Document, OriginError> {
        let (place, digest, listed) = self.resolve(repository, selector).await?;
        let bytes = read_small(&self.blob_path(&digest), &place).await?;
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(invalid(&place, format!("{digest} is damaged: its bytes hash to {found}")));
        }
        let media_type = listed.and_then(|entry| entry.media_type);
        Document::received(media_type.as_deref(), bytes).map_err(|error| invalid(&place, error.to_string()))
    }

    async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError> {
        let (place, digest, _) = self.resolve(repository, selector).await?;
        tokio::fs::metadata(self.blob_path(&digest)).await.map_err(|error| io_error(&place, &error))?;
        Ok(digest)
    }

    async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        let place = self.place(repository, format!("blob {digest}"));
        let metadata = tokio::fs::metadata(self.blob_path(digest)).await;
        Ok(metadata.map_err(|error| io_error(&place, &error))?.len())
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let place = self.place(repository, format!("blob {digest}"));
        let mut file = File::open(self.blob_path(digest)).await.map_err(|error| io_error(&place, &error))?;
        let size = file.metadata().await.map_err(|error| io_error(&place, &error))?.len();
        if size < range.end {
            let reason =
                format!("the blob has {size} bytes, fewer than the {} that were expected", range.end);
            return Err(invalid(&place, reason));
        }
        file.seek(SeekFrom::Start(range.start)).await.map_err(|error| io_error(&place, &error))?;
        let left = range.end.saturating_sub(range.start);
        Ok(Box::pin(stream::try_unfold((file, left, place), async |(mut file, left, place)| {
            if left == 0 {
                return Ok(None);
            }
            let chunk = read_chunk(&mut file, left).await.map_err(|error| io_error(&place, &error))?;
            let left = left - chunk.len() as u64;
            Ok(Some((chunk, (file, left, place))))
        })))
    }

    /// The tags of the whole layout: what does not name its repository stands for any. Referrers are not kept track of.
    async fn list(&self, repository: &str, listing: &Listing, query: &str) -> Result<Answered, OriginError> {
        let place = self.place(repository, format!("{listing}"));
        let Listing::Tags = listing else {
            let reason = "layouts keep no list of what refers to a manifest".to_owned();
            return Err(OriginError::NotFound { place, reason });
        };
        let entries = self.entries(&place).await?;
        let tags: BTreeSet<String> = entries.iter().filter_map(|entry| entry.tag_in(repository)).collect();
        Ok(listing::page_of_tags(repository, &tags, query))
    }
}

/// `index.json`, as far as it says which images there are.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: Option<String>,
    digest: Digest,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Entry {
    fn has_reference(&self, repository: &str, tag: &str) -> bool {
        [IMAGE_NAME, REF_NAME].iter().filter_map(|key| self.annotations.get(*key)).any(|name| {
            let is_whole = name.contains('/') || name.contains(':');
            let reference = name.parse::<Reference>().ok().filter(|_| is_whole);
            reference.is_some_and(|named| named.repository() == repository && named.tag() == Some(tag))
        })
    }

    /// The tag by which it can be asked for in `repository`.
    fn tag_in(&self, repository: &str) -> Option<String> {
        let names = [IMAGE_NAME, REF_NAME].iter().filter_map(|key| self.annotations.get(*key));
        names
            .filter_map(|name| match name.contains(['/', ':']) {
                true => {
                    let named =
                        name.parse::<Reference>().ok().filter(|named| named.repository() == repository)?;
                    named.tag().map(str::to_owned)
                }
                false => Some(name.clone()),
            })
            .next()
    }

    fn has_tag(&self, tag: &str) -> bool {
        self.annotations.get(REF_NAME).is_some_and(|name| name == tag)
    }
}

fn pick(entries: &[Entry], repository: &str, tag: &str, place: &Place) -> Result<Digest, OriginError> {
    let matching = |matches: &dyn Fn(&Entry) -> bool| -> BTreeSet<Digest> {
        entries.iter().filter(|entry| matches(entry)).map(|entry| entry.digest).collect()
    };
    let candidates =
        [matching(&|entry| entry.has_reference(repository, tag)), matching(&|entry| entry.has_tag(tag))];
    for found in candidates {
        match found.len() {
            0 => {}
            1 => return Ok(*found.first().expect("a set of one")),
            n => return Err(invalid(place, format!("{n} images have this name: ask for one by its digest"))),
        }
    }
    let all = matching(&|_| true);
    match all.first() {
        Some(only) if all.len() == 1 => Ok(*only),
        _ => {
            let names: Vec<&str> = entries
                .iter()
                .filter_map(|entry| entry.annotations.get(REF_NAME))
                .map(String::as_str)
                .collect();
            let reason = format!("it holds {} images, named: {}", all.len(), names.join(", "));
            Err(OriginError::NotFound { place: place.clone(), reason })
        }
    }
}

async fn read_small(path: &Path, place: &Place) -> Result<Bytes, OriginError> {
    let file = File::open(path).await.map_err(|error| io_error(place, &error))?;
    let mut bytes = Vec::new();
    let limit = MAX_MANIFEST_BYTES as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).await.map_err(|error| io_error(place, &error))?;
    if bytes.len() > MAX_MANIFEST_BYTES {
        let reason =
            format!("{} has more than {MAX_MANIFEST_BYTES} bytes, so it is no manifest", path.display());
        return Err(invalid(place, reason));
    }
    Ok(bytes.into())
}

async fn read_chunk(file: &mut File, left: u64) -> io::Result<Bytes> {
    let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
    let mut chunk = BytesMut::with_capacity(wanted);
    let read = file.take(wanted as u64).read_buf(&mut chunk).await?;
    if read == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while it was read",
        ));
    }
    Ok(chunk.freeze())
}

pub(super) fn io_error(place: &Place, error: &io::Error) -> OriginError {
    let (place, reason) = (place.clone(), error.to_string());
    match error.kind() {
        io::ErrorKind::NotFound => OriginError::NotFound { place, reason: String::new() },
        io::ErrorKind::PermissionDenied => OriginError::Denied { place, reason },
        _ => OriginError::Unavailable { place, reason, retry_after: None },
    }
}
