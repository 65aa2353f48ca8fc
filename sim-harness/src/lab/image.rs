//! Container images to be moved, as OCI layouts on disk.
//!
//! Two kinds: [`Image::debian`], over 200 MB of real files in layers of both compressions that are in use, built
//! once and cached; and [`Image::synthetic`], a given number of bytes that nothing can compress, for measurements. An image is
//! never changed on its way into a registry, so that its digests are the ones to be found everywhere else.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, ensure};
use ring::digest::{Context as Hasher, SHA256};
use serde::Deserialize;
use serde_json::{Value, json};

use super::process::run;

/// The tag that an image has in its own layout.
const TAG: &str = "v1";

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// What the Debian image is made of: a root filesystem, and two layers of what functions bring along. Changing any of it
/// gives the image another place in the cache.
const RECIPE: Recipe = Recipe {
    suite: "bookworm",
    layers: &[
        // The root filesystem comes first: everything that is essential.
        Layer { packages: &[], compression: Compression::Gzip },
        Layer { packages: &["openjdk-17-jre-headless"], compression: Compression::Gzip },
        Layer {
            packages: &[
                "python3-numpy",
                "python3-scipy",
                "libopenblas0-pthread",
                "libtorch1.13",
                "python3-torch",
            ],
            compression: Compression::Zstd,
        },
    ],
};

#[derive(Debug)]
struct Recipe {
    suite: &'static str,
    layers: &'static [Layer],
}

#[derive(Debug)]
struct Layer {
    packages: &'static [&'static str],
    compression: Compression,
}

#[derive(Debug, Clone, Copy)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

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
    /// The image of real Debian packages. It is built when the cache does not have it: some 40 seconds and 800 MB of disk
    /// for a moment.
    ///
    /// The cache is the directory named by `FAASNET_TEST_CACHE`, or else `lab-images` in cargo's target directory.
    ///
    /// # Errors
    /// Without `mmdebstrap`, `dpkg-deb`, `zstd` or a Debian mirror, when it has to be built.
    pub fn debian() -> Result<Self> {
        // Two tests that need the image at once must not build it twice.
        static BUILDING: Mutex<()> = Mutex::new(());
        let _building = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let cache = cache_directory()?;
        let recipe = hex_digest(format!("{RECIPE:?}").as_bytes())?;
        let place = cache.join(format!("debian-{}", &recipe[..12]));
        if let Ok(image) = Self::open(&place) {
            return Ok(image);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
        let scratch = tempfile::tempdir_in(&cache).context("no place to build the image in")?;
        let layout = scratch.path().join("layout");
        build_debian(scratch.path(), &layout).context("cannot build the Debian image")?;
        if place.exists() {
            // What `open` did not accept.
            fs::remove_dir_all(&place).with_context(|| format!("cannot remove {}", place.display()))?;
        }
        fs::rename(&layout, &place)
            .with_context(|| format!("cannot put the image at {}", place.display()))?;
        Self::open(&place)
    }

    /// An image with one layer that holds `bytes` bytes of noise, in a new directory `layout`.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn synthetic(layout: &Path, bytes: u64) -> Result<Self> {
        let mut writer = LayoutWriter::create(layout)?;
        let tar = layout.join("layer.tar");
        write_noise(&tar, bytes).context("cannot write the layer")?;
        let content = digest_of(&tar)?;
        writer.add_layer(&tar, Compression::None, content)?;
        writer.finish()
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

fn hex_digest(mut bytes: &[u8]) -> Result<String> {
    Ok(digest_of_reader(&mut bytes)?.replace("sha256:", ""))
}

fn cache_directory() -> Result<PathBuf> {
    match std::env::var_os("FAASNET_TEST_CACHE") {
        Some(directory) => Ok(directory.into()),
        None => Ok(super::target_dir()?.join("lab-images")),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not as expected", path.display()))
}

/// Builds the image of [`RECIPE`] with `scratch` as a place for what is thrown away after.
fn build_debian(scratch: &Path, layout: &Path) -> Result<()> {
    let packages = scratch.join("packages");
    fs::create_dir(&packages)?;
    let root = scratch.join("root.tar");
    let wanted: Vec<&str> = RECIPE.layers.iter().flat_map(|layer| layer.packages).copied().collect();
    // The packages of the other layers are fetched by the same apt, so the machine's own package lists do not matter.
    let fetch = format!(
        r#"cd '{}' && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download --quiet {}"#,
        packages.display(),
        wanted.join(" ")
    );
    let mut debootstrap = Command::new("mmdebstrap");
    debootstrap.env("SOURCE_DATE_EPOCH", "0").args(["--quiet", "--variant=essential"]);
    debootstrap.arg(format!("--customize-hook={fetch}")).arg(RECIPE.suite).arg(&root);
    run(&mut debootstrap)?;

    let mut writer = LayoutWriter::create(layout)?;
    for (number, layer) in RECIPE.layers.iter().enumerate() {
        let tar = if layer.packages.is_empty() {
            root.clone()
        } else {
            unpack(layer, &packages, &scratch.join(format!("layer-{number}")))?
        };
        let content = digest_of(&tar)?;
        writer.add_layer(&tar, layer.compression, content)?;
    }
    writer.finish().map(drop)
}

/// Unpacks the packages of a layer into one directory, and makes that an archive beside it.
fn unpack(layer: &Layer, packages: &Path, directory: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if layer.packages.iter().any(|package| name.starts_with(&format!("{package}_"))) {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(directory))?;
        }
    }
    let tar = directory.with_extension("tar");
    let mut archive = Command::new("tar");
    archive
        .args(["--sort=name", "--numeric-owner", "--mtime=@0", "-C"])
        .arg(directory)
        .arg("-cf")
        .arg(&tar)
        .arg(".");
    run(&mut archive)?;
    fs::remove_dir_all(directory)?;
    Ok(tar)
}

/// An archive with one file of noise in it.
fn write_noise(tar: &Path, bytes: u64) -> Result<()> {
    let mut archive = tar::Builder::new(BufWriter::new(File::create(tar)?));
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes);
    header.set_mode(0o644);
    let noise = BufReader::with_capacity(1 << 20, File::open("/dev/urandom")?).take(bytes);
    archive.append_data(&mut header, "noise", noise)?;
    archive.into_inner()?.flush()?;
    Ok(())
}

/// An OCI layout in the making.
struct LayoutWriter {
    layout: PathBuf,
    layers: Vec<Value>,
    contents: Vec<String>,
}

impl LayoutWriter {
    fn create(layout: &Path) -> Result<Self> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;
        Ok(Self { layout: layout.to_owned(), layers: Vec::new(), contents: Vec::new() })
    }

    /// Compresses an archive, whose digest as it is is `content`, into a layer. The archive is gone afterwards.
    fn add_layer(&mut self, tar: &Path, compression: Compression, content: String) -> Result<()> {
        let blob = match compression {
            Compression::None => tar.to_owned(),
            // Without a name and a time in the header, and quickly: these are layers to be moved, not kept.
            Compression::Gzip => compress(Command::new("gzip").args(["-1", "-n", "-c"]).arg(tar), tar)?,
            Compression::Zstd => compress(Command::new("zstd").args(["-3", "-q", "-c"]).arg(tar), tar)?,
        };
        let descriptor = self.add_file(&blob, compression.media_type())?;
        self.layers.push(descriptor);
        self.contents.push(content);
        Ok(())
    }

    fn finish(self) -> Result<Image> {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.contents},
        });
        let config = self.add_json(&config, CONFIG_TYPE)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config,
            "layers": self.layers,
        });
        let mut manifest = self.add_json(&manifest, MANIFEST_TYPE)?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": TAG});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.layout.join("index.json"), index.to_string())?;
        fs::write(self.layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Image::open(&self.layout)
    }

    fn add_json(&self, value: &Value, media_type: &str) -> Result<Value> {
        let path = self.layout.join("blob.json");
        fs::write(&path, value.to_string())?;
        self.add_file(&path, media_type)
    }

    /// Moves a file to where its digest belongs, and gives its descriptor.
    fn add_file(&self, path: &Path, media_type: &str) -> Result<Value> {
        let digest = digest_of(path)?;
        let size = path.metadata()?.len();
        fs::rename(path, blob_path(&self.layout, &digest))?;
        Ok(json!({"mediaType": media_type, "digest": digest, "size": size}))
    }
}

/// Runs a compressor into a file beside the archive, then removes the archive.
fn compress(compressor: &mut Command, tar: &Path) -> Result<PathBuf> {
    let packed = tar.with_extension("packed");
    compressor.stdin(Stdio::null()).stdout(File::create(&packed)?);
    let name = compressor.get_program().to_string_lossy().into_owned();
    let status = compressor.status().with_context(|| format!("cannot start {name}; is it installed?"))?;
    ensure!(status.success(), "{name} failed with {status}");
    fs::remove_file(tar)?;
    Ok(packed)
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
