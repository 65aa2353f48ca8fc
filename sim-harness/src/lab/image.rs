//! Container images to be moved, as OCI layouts on disk.
//!
//! [`Image::debian`] is one of real files, [`Image::synthetic`] a given number of bytes that nothing can compress, and
//! [`super::draft`] makes all other kinds. An image is never changed on its way into a registry, so that its digests are
//! the ones to be found everywhere else.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hasher, SHA256};
use serde::Deserialize;

use super::draft::{Compression, Draft};

/// The tag that an image has in its own layout.
pub(super) const TAG: &str = "v1";

/// One piece of an image, as its manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Blob {
    /// Such as `sha256:9f86…`.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// What it is.
    #[serde(rename = "mediaType")]
    pub media_type: String,
}

/// An image with one manifest, in an OCI layout.
#[derive(Debug, Clone)]
pub struct Image {
    layout: PathBuf,
    /// Its manifest, by whose digest the image is known.
    pub manifest: Blob,
    /// Its configuration, then its layers from the bottom up.
    pub blobs: Vec<Blob>,
}

impl Image {
    /// An image with one layer that holds `bytes` bytes of noise, in a new directory `layout`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn synthetic(layout: &Path, bytes: u64) -> Result<Self> {
        Draft::new(layout)?.noise(bytes, Compression::None)?.finish()
    }

    /// The image in a layout with exactly one. Checks that every piece is there in full length.
    ///
    /// # Errors
    /// When it is not.
    pub fn open(layout: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Blob>,
        }
        #[derive(Deserialize)]
        struct Manifest {
            config: Blob,
            layers: Vec<Blob>,
        }
        let index: Index = read_json(&layout.join("index.json"))?;
        let [manifest] = <[Blob; 1]>::try_from(index.manifests)
            .map_err(|all| anyhow::anyhow!("{} has {} images", layout.display(), all.len()))?;
        let pieces: Manifest = read_json(&blob_path(layout, &manifest.digest))?;
        let blobs: Vec<Blob> = std::iter::once(pieces.config).chain(pieces.layers).collect();
        for blob in blobs.iter().chain([&manifest]) {
            let path = blob_path(layout, &blob.digest);
            let length = path.metadata().with_context(|| format!("no {}", path.display()))?.len();
            ensure!(length == blob.size, "{} has {length} bytes, not {}", path.display(), blob.size);
        }
        Ok(Self { layout: layout.to_owned(), manifest, blobs })
    }

    /// Bytes of the configuration and all layers together: what a node has to receive.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// The digests of its layers as they are when unpacked, from the bottom up. An artifact has none.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn contents(&self) -> Result<Vec<String>> {
        #[derive(Default, Deserialize)]
        struct Layers {
            diff_ids: Vec<String>,
        }
        #[derive(Deserialize)]
        struct Configuration {
            #[serde(default)]
            rootfs: Layers,
        }
        let configuration: Configuration = read_json(&self.blob_path(&self.blobs[0].digest))?;
        Ok(configuration.rootfs.diff_ids)
    }

    /// The file that holds one of its blobs.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        blob_path(&self.layout, digest)
    }

    /// How `skopeo` calls the image in its layout.
    pub fn skopeo_source(&self) -> String {
        format!("oci:{}:{TAG}", self.layout.display())
    }

    /// Reads all blobs and compares them with their digests.
    ///
    /// # Errors
    /// When one differs, or cannot be read.
    pub fn verify(&self) -> Result<()> {
        for blob in self.blobs.iter().chain([&self.manifest]) {
            let path = self.blob_path(&blob.digest);
            let digest = digest_of(&path)?;
            ensure!(digest == blob.digest, "{} has the digest {digest}", path.display());
        }
        Ok(())
    }
}

/// The digest of a file, such as `sha256:9f86…`.
///
/// # Errors
/// When it cannot be read.
pub fn digest_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    digest_of_reader(&mut file).with_context(|| format!("cannot read {}", path.display()))
}

/// Where a content-addressed directory (an OCI layout, or the store of a node) keeps a blob.
pub fn blob_path(directory: &Path, digest: &str) -> PathBuf {
    directory.join("blobs").join(digest.replace(':', "/"))
}

/// The digest of bytes, without what stands before the colon.
pub(super) fn hex_digest(mut bytes: &[u8]) -> Result<String> {
    Ok(digest_of_reader(&mut bytes)?.replace("sha256:", ""))
}

fn digest_of_reader(reader: &mut impl Read) -> Result<String> {
    let mut hasher = Hasher::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    let hex: String = hasher.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not as expected", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_synthetic_image_is_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image::synthetic(&directory.path().join("image"), 1_000_000).unwrap();
        assert!((1_000_000..1_010_000).contains(&image.bytes()), "{image:?}");
        assert_eq!(image.blobs.len(), 2);
        image.verify().unwrap();

        let layer = image.blob_path(&image.blobs[1].digest);
        let mut bytes = fs::read(&layer).unwrap();
        bytes[5000] ^= 1;
        fs::write(&layer, &bytes).unwrap();
        assert!(image.verify().unwrap_err().to_string().contains("has the digest"));
        fs::write(&layer, &bytes[1..]).unwrap();
        assert!(Image::open(&directory.path().join("image")).is_err());
    }

    #[test]
    fn digests() {
        // The second message of FIPS 180-2, appendix B.
        let digest = hex_digest(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq").unwrap();
        assert_eq!(digest, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
}
