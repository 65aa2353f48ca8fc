//! Makes an image out of nothing: several layers of random bytes, as an OCI image layout.
//!
//! The layers are real tar archives, so that any tool can unpack the image. Their content comes from a seed:
//! the same seed gives the same layers on every machine. The image contains no program.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use transfer::digest::{Digest, Sha256};
use transfer::manifest::{OCI_INDEX, OCI_MANIFEST, Platform};

/// What a demo image is called within its layout.
pub const TAG: &str = "latest";
/// How many bytes of files a demo image has unless somebody says otherwise: seconds of a 100 Mbit/s uplink.
pub const DEFAULT_BYTES: u64 = 64 << 20;

/// The share of each layer in percent, from the lowest up: a base, a runtime, dependencies, and small ones on
/// top, as images that people build have them.
const SHARES: [u64; 5] = [40, 25, 20, 10, 5];
/// Files per layer. Their number does not matter to the transfer, only that there is more than one.
const FILES: u64 = 4;

/// An image that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DemoImage {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The bytes of its configuration and its layers together: what a node without it has to fetch.
    pub bytes: u64,
}

/// Makes an image whose files have `bytes` bytes in total, as the only image of a new OCI layout in
/// `directory`, which is made if need be. Blocking; takes about as long as writing so many bytes.
pub fn write(directory: &Path, bytes: u64, seed: u64) -> Result<DemoImage> {
    let layout = Layout { blobs: directory.join("blobs/sha256") };
    fs::create_dir_all(&layout.blobs).with_context(|| format!("cannot make {}", layout.blobs.display()))?;
    let layers: Vec<Blob> = (1..)
        .zip(shares(bytes))
        .map(|(number, share)| layout.layer(number, share, seed.wrapping_add(number << 32)))
        .collect::<Result<_>>()?;
    let config = layout.json(&configuration(&layers))?;
    let described: Vec<Value> =
        layers.iter().map(|layer| layer.describe("application/vnd.oci.image.layer.v1.tar")).collect();
    let manifest = layout.json(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.describe("application/vnd.oci.image.config.v1+json"),
        "layers": described,
    }))?;
    let mut listed = manifest.describe(OCI_MANIFEST);
    listed["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed] });
    for (name, value) in [("index.json", index), ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" }))] {
        let path = directory.join(name);
        fs::write(&path, value.to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bytes = config.size + layers.iter().map(|layer| layer.size).sum::<u64>();
    Ok(DemoImage { manifest: manifest.digest, bytes })
}

/// How many bytes of files each layer has. The lowest takes what rounding leaves.
fn shares(bytes: u64) -> [u64; SHARES.len()] {
    let mut shares = SHARES.map(|percent| bytes / 100 * percent);
    shares[0] += bytes - shares.iter().sum::<u64>();
    shares
}

struct Blob {
    digest: Digest,
    size: u64,
}

impl Blob {
    fn describe(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

struct Layout {
    blobs: PathBuf,
}

impl Layout {
    /// Writes a layer. It stays uncompressed: random bytes would not shrink.
    fn layer(&self, number: u64, bytes: u64, seed: u64) -> Result<Blob> {
        let unfinished = self.blobs.join(format!("layer-{number}.unfinished"));
        let written = (|| -> io::Result<Blob> {
            let file = BufWriter::with_capacity(1 << 20, File::create(&unfinished)?);
            let mut sink = Sink { file, hasher: Sha256::new(), size: 0 };
            archive(&mut sink, number, bytes, Noise::new(seed))?;
            sink.file.flush()?;
            let blob = Blob { digest: sink.hasher.finish(), size: sink.size };
            fs::rename(&unfinished, self.blobs.join(blob.digest.hex()))?;
            Ok(blob)
        })();
        written.with_context(|| format!("cannot write a layer of the demo image to {}", self.blobs.display()))
    }

    fn json(&self, value: &Value) -> Result<Blob> {
        let bytes = value.to_string().into_bytes();
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let path = self.blobs.join(blob.digest.hex());
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(blob)
    }
}

fn configuration(layers: &[Blob]) -> Value {
    const CREATED: &str = "1970-01-01T00:00:00Z";
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    let history = vec![json!({ "created": CREATED, "created_by": "faasnet demo" }); layers.len()];
    json!({
        "created": CREATED,
        "os": "linux",
        "architecture": Platform::host().architecture,
        "config": { "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

fn archive(sink: &mut Sink, number: u64, bytes: u64, mut noise: Noise) -> io::Result<()> {
    let mut builder = tar::Builder::new(sink);
    let header = |kind: tar::EntryType, mode: u32, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header
    };
    let directory = format!("demo/layer-{number}/");
    for path in ["demo/", &directory] {
        builder.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), path, io::empty())?;
    }
    for file in 1..=FILES {
        let size = if file == FILES { bytes - bytes / FILES * (FILES - 1) } else { bytes / FILES };
        let path = format!("{directory}part-{file}");
        let data = noise.by_ref().take(size);
        builder.append_data(&mut header(tar::EntryType::Regular, 0o644, size), path, data)?;
    }
    builder.finish()
}

struct Sink {
    file: BufWriter<File>,
    hasher: Sha256,
    size: u64,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Endless bytes that no compressor shrinks: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
struct Noise {
    state: u64,
    word: [u8; 8],
    /// How many bytes of `word` are used up.
    used: usize,
}

impl Noise {
    fn new(seed: u64) -> Self {
        Self { state: seed, word: [0; 8], used: 8 }
    }

    fn next(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.word[self.used..];
        let first = left.len().min(buffer.len());
        buffer[..first].copy_from_slice(&left[..first]);
        self.used += first;
        let mut words = buffer[first..].chunks_exact_mut(8);
        for chunk in &mut words {
            chunk.copy_from_slice(&self.next());
        }
        let last = words.into_remainder();
        if !last.is_empty() {
            self.word = self.next();
            self.used = last.len();
            last.copy_from_slice(&self.word[..self.used]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;
    use transfer::manifest::Manifest;
    use transfer::origin::{Origin, open_local};
    use transfer::reference::Selector;

    use super::*;

    #[test]
    fn noise_does_not_depend_on_how_it_is_read() {
        let mut whole = vec![0; 1000];
        Noise::new(7).read_exact(&mut whole).unwrap();
        for step in [1, 3, 8, 13, 999] {
            let (mut noise, mut pieces) = (Noise::new(7), vec![0; 1000]);
            pieces.chunks_mut(step).for_each(|piece| noise.read_exact(piece).unwrap());
            assert_eq!(pieces, whole, "{step}");
        }
    }

    #[tokio::test]
    async fn the_layout_holds_the_image_that_was_asked_for() {
        for bytes in [0, 1, 99, 1_000_003] {
            let (one, two, other) =
                (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
            let image = write(one.path(), bytes, 1).unwrap();
            assert_eq!(write(two.path(), bytes, 1).unwrap(), image);
            assert!(bytes == 0 || write(other.path(), bytes, 2).unwrap().manifest != image.manifest);
            let origin = open_local(one.path()).await.unwrap();
            let document = origin.manifest("demo", &Selector::Tag(TAG.into())).await.unwrap();
            assert_eq!(document.digest, image.manifest);
            let manifest = Manifest::parse(&document).unwrap();
            assert_eq!(manifest.blobs().map(|blob| blob.size).sum::<u64>(), image.bytes);
            let overhead = image.bytes - bytes;
            assert!(overhead < 40_000, "{overhead} bytes of headers and configuration around {bytes}");
            for blob in manifest.blobs() {
                let stored = fs::read(one.path().join("blobs/sha256").join(blob.digest.hex())).unwrap();
                assert_eq!((Digest::of(&stored), stored.len() as u64), (blob.digest, blob.size));
            }
            assert_eq!(fs::read_dir(one.path().join("blobs/sha256")).unwrap().count(), SHARES.len() + 2);
        }
    }

    #[test]
    #[ignore = "needs skopeo and umoci"]
    fn tools_read_and_unpack_the_image() {
        let directory = TempDir::new().unwrap();
        let layout = directory.path().join("layout");
        write(&layout, 1_000_000, 1).unwrap();
        let oci = format!("{}:{TAG}", layout.display());
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(
                output.status.success(),
                "{program} {args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let archive = format!("docker-archive:{}", directory.path().join("image.tar").display());
        run("skopeo", &["copy", &format!("oci:{oci}"), &archive]);
        let bundle = directory.path().join("bundle");
        run("umoci", &["unpack", "--rootless", "--image", &oci, bundle.to_str().unwrap()]);
        let part = fs::metadata(bundle.join("rootfs/demo/layer-1/part-1")).unwrap();
        assert_eq!(part.len(), 100_000);
    }
}
