//! What is kept on disk: documents by digest, and what each tag stood for when it was last known.
//!
//! Below the data directory: `documents/<hex>`, the media type on a line of its own before the bytes, and
//! `tags/<hash of the name>`. Says nothing of how fresh a tag is: that a node knows only while it runs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracing::warn;
use transfer::digest::Digest;
use transfer::manifest::Document;
use transfer::reference::Reference;

use crate::whole::write_whole;

/// The documents and tags of one node.
pub(super) struct Shelf {
    root: PathBuf,
}

/// What a tag stood for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TagRecord {
    reference: Reference,
    digest: Digest,
}

impl Shelf {
    pub(super) fn open(root: &Path) -> anyhow::Result<Self> {
        for folder in ["documents", "tags"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    /// What is kept under that digest, if its bytes are still the right ones.
    pub(super) fn document(&self, digest: &Digest) -> Option<Document> {
        let file = fs::read(self.document_path(digest)).ok()?;
        let end = file.iter().position(|byte| *byte == b'\n')?;
        let media_type = String::from_utf8(file[..end].to_vec()).ok()?;
        let bytes = Bytes::from(file).slice(end + 1..);
        (Digest::of(&bytes) == *digest).then_some(Document { media_type, digest: *digest, bytes })
    }

    /// The digest that a name stands for, as far as is known: its own, or what its tag stood for last.
    pub(super) fn last_digest(&self, reference: &Reference) -> Option<Digest> {
        reference.digest().or_else(|| self.tag(reference).map(|record| record.digest))
    }

    /// Keeps a document, and what its tag stands for. A disk that is full costs only the memory of it.
    pub(super) fn keep(&self, reference: &Reference, document: &Document) {
        let kept = self.keep_document(document).and_then(|()| match reference.digest() {
            Some(_) => Ok(()),
            None => self.keep_tag(reference, document.digest),
        });
        if let Err(error) = kept {
            warn!(%reference, %error, "cannot keep a manifest on disk");
        }
    }

    fn keep_document(&self, document: &Document) -> std::io::Result<()> {
        if self.document(&document.digest).is_some() {
            return Ok(());
        }
        let bytes = [document.media_type.as_bytes(), b"\n", &document.bytes].concat();
        write_whole(&self.document_path(&document.digest), &bytes)
    }

    fn keep_tag(&self, reference: &Reference, digest: Digest) -> std::io::Result<()> {
        let record = TagRecord { reference: reference.clone(), digest };
        if self.tag(reference).as_ref() == Some(&record) {
            return Ok(());
        }
        write_whole(&self.tag_path(reference), &serde_json::to_vec(&record)?)
    }

    fn tag(&self, reference: &Reference) -> Option<TagRecord> {
        let record: TagRecord = serde_json::from_slice(&fs::read(self.tag_path(reference)).ok()?).ok()?;
        (record.reference == *reference).then_some(record)
    }

    fn document_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("documents").join(digest.hex())
    }

    fn tag_path(&self, reference: &Reference) -> PathBuf {
        let hash = Digest::of(reference.to_string().as_bytes());
        self.root.join("tags").join(hash.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        let bytes = Bytes::from(text.to_owned());
        Document { media_type: "application/x".into(), digest: Digest::of(&bytes), bytes }
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_rots_is_not() {
        let root = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(root.path()).unwrap();
        let tag: Reference = "registry.example/app:v1".parse().unwrap();
        let (old, new) = (document("old\nlines"), document("new"));
        assert_eq!((shelf.last_digest(&tag), shelf.document(&old.digest)), (None, None));
        shelf.keep(&tag, &old);
        shelf.keep(&tag, &new);
        let shelf = Shelf::open(root.path()).unwrap();
        assert_eq!(shelf.last_digest(&tag), Some(new.digest));
        assert_eq!(shelf.document(&old.digest), Some(old.clone()));

        fs::write(shelf.document_path(&old.digest), "application/x\nanything else").unwrap();
        assert_eq!(shelf.document(&old.digest), None);
        shelf.keep(&tag, &old);
        assert_eq!(shelf.document(&old.digest), Some(old));
        fs::write(shelf.tag_path(&tag), "{").unwrap();
        assert_eq!(shelf.last_digest(&tag), None);
    }

    #[test]
    fn a_name_with_a_digest_is_no_tag() {
        let root = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(root.path()).unwrap();
        let kept = document("x");
        let name: Reference = format!("registry.example/app:v1@{}", kept.digest).parse().unwrap();
        assert_eq!(shelf.last_digest(&name), Some(kept.digest));
        shelf.keep(&name, &kept);
        let tag: Reference = "registry.example/app:v1".parse().unwrap();
        assert_eq!(shelf.last_digest(&tag), None);
    }
}
