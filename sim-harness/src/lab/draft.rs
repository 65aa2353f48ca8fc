//! An image in the making: layers of any kind, one after the other, into an OCI layout.
//!
//! Owns how layers are packed and what manifests and configurations look like. What is in a layer matters to nobody here,
//! except that it can be noise, which nothing compresses.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::image::{Image, TAG, blob_path, digest_of};
use super::process::run;

/// An archive without files, compressed: the layer that Docker used to give to steps that change no file.
const EMPTY_LAYER: [u8; 32] = [
    31, 139, 8, 0, 0, 9, 110, 136, 0, 255, 98, 24, 5, 163, 96, 20, 140, 88, 0, 8, 0, 0, 255, 255, 46, 175,
    181, 239, 0, 4, 0, 0,
];

/// The digest of what [`EMPTY_LAYER`] unpacks to: 1024 zeros.
const EMPTY_CONTENT: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// What most images have.
    Gzip,
    /// What newer images have.
    Zstd,
}

/// In whose words an image describes itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The OCI image specification.
    Oci,
    /// Docker's image manifest, version 2, schema 2.
    Docker,
}

impl Format {
    fn manifest_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn config_type(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer_type(self, compression: Compression) -> String {
        match (self, compression) {
            (Self::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar".to_owned(),
            (Self::Oci, Compression::Gzip) => "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            (Self::Oci, Compression::Zstd) => "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
            (Self::Docker, Compression::None) => "application/vnd.docker.image.rootfs.diff.tar".to_owned(),
            (Self::Docker, Compression::Gzip) => {
                "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned()
            }
            (Self::Docker, Compression::Zstd) => {
                "application/vnd.docker.image.rootfs.diff.tar.zstd".to_owned()
            }
        }
    }
}

/// An OCI layout that is being filled with one image.
#[derive(Debug)]
pub struct Draft {
    layout: PathBuf,
    format: Format,
    architecture: &'static str,
    layers: Vec<Value>,
    contents: Vec<String>,
}

impl Draft {
    /// An image for `linux/amd64` without layers, in a new directory.
    ///
    /// # Errors
    /// When that cannot be made.
    pub fn new(layout: &Path) -> Result<Self> {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot create {}", blobs.display()))?;
        Ok(Self {
            layout: layout.to_owned(),
            format: Format::Oci,
            architecture: "amd64",
            layers: Vec::new(),
            contents: Vec::new(),
        })
    }

    /// The same in another format. To be called before there are layers, which have types of their own in each.
    #[must_use]
    pub fn format(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// The same for another architecture, as Go spells it.
    #[must_use]
    pub fn architecture(self, architecture: &'static str) -> Self {
        Self { architecture, ..self }
    }

    /// Adds a layer of so many bytes of noise.
    ///
    /// # Errors
    /// As for all layers: when the disk is full, or the compressor is not installed.
    pub fn noise(self, bytes: u64, compression: Compression) -> Result<Self> {
        let tar = self.layout.join("layer.tar");
        write_noise(&tar, bytes).context("cannot write the layer")?;
        self.archive(&tar, compression)
    }

    /// Adds a layer with the files below a directory.
    ///
    /// # Errors
    /// See [`Draft::noise`].
    pub fn files(self, directory: &Path, compression: Compression) -> Result<Self> {
        let tar = self.layout.join("layer.tar");
        pack(directory, &tar)?;
        self.archive(&tar, compression)
    }

    /// Adds a layer without files, in the 32 bytes that Docker used for it.
    ///
    /// # Errors
    /// See [`Draft::noise`].
    pub fn empty(mut self) -> Result<Self> {
        let path = self.layout.join("empty.gz");
        fs::write(&path, EMPTY_LAYER)?;
        let media_type = self.format.layer_type(Compression::Gzip);
        let descriptor = self.add_file(&path, &media_type)?;
        self.layers.push(descriptor);
        self.contents.push(EMPTY_CONTENT.to_owned());
        Ok(self)
    }

    /// Adds the layers of another image, byte for byte.
    ///
    /// # Errors
    /// See [`Draft::noise`].
    pub fn layers_of(mut self, other: &Image) -> Result<Self> {
        for blob in &other.blobs[1..] {
            fs::copy(other.blob_path(&blob.digest), blob_path(&self.layout, &blob.digest))?;
            self.layers.push(json!({"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}));
        }
        self.contents.extend(other.contents()?);
        Ok(self)
    }

    /// Adds a layer made from an archive, which is gone afterwards.
    ///
    /// # Errors
    /// See [`Draft::noise`].
    pub fn archive(mut self, tar: &Path, compression: Compression) -> Result<Self> {
        self.contents.push(digest_of(tar)?);
        let blob = match compression {
            Compression::None => tar.to_owned(),
            // Without a name and a time in the header, and quickly: these are layers to be moved, not kept.
            Compression::Gzip => compress(Command::new("gzip").args(["-1", "-n", "-c"]).arg(tar), tar)?,
            Compression::Zstd => compress(Command::new("zstd").args(["-3", "-q", "-c"]).arg(tar), tar)?,
        };
        let media_type = self.format.layer_type(compression);
        let descriptor = self.add_file(&blob, &media_type)?;
        self.layers.push(descriptor);
        Ok(self)
    }

    /// The image.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn finish(self) -> Result<Image> {
        // A step per layer, and one that has none: clients that count them against the layers find that they match.
        let mut history = vec![json!({"created_by": "nothing", "empty_layer": true})];
        history.extend(self.layers.iter().map(|_| json!({"created_by": "the lab"})));
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.contents},
            "history": history,
        });
        self.finish_as(&config, self.format.config_type(), None)
    }

    /// An artifact that is no image: with a configuration of another kind, and maybe a type of its own.
    ///
    /// # Errors
    /// See [`Draft::finish`].
    pub fn finish_as(&self, config: &Value, config_type: &str, artifact_type: Option<&str>) -> Result<Image> {
        let config = self.add_json(config, config_type)?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest_type(),
            "config": config,
            "layers": self.layers,
        });
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = json!(artifact_type);
        }
        let mut manifest = self.add_json(&manifest, self.format.manifest_type())?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": TAG});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(self.layout.join("index.json"), index.to_string())?;
        fs::write(self.layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Image::open(&self.layout)
    }

    /// Adds a piece that is no archive, for artifacts.
    ///
    /// # Errors
    /// See [`Draft::noise`].
    pub fn piece(mut self, bytes: &[u8], media_type: &str) -> Result<Self> {
        let path = self.layout.join("piece");
        fs::write(&path, bytes)?;
        let descriptor = self.add_file(&path, media_type)?;
        self.layers.push(descriptor);
        Ok(self)
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

/// An archive of a directory, the same for the same files.
pub(super) fn pack(directory: &Path, tar: &Path) -> Result<()> {
    let mut archive = Command::new("tar");
    archive.args(["--sort=name", "--numeric-owner", "--mtime=@0", "-C"]).arg(directory);
    run(archive.arg("-cf").arg(tar).arg(".")).map(drop)
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
    fn an_image_has_the_layers_that_it_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let base = Draft::new(&directory.path().join("base")).unwrap();
        let base = base.noise(1000, Compression::Gzip).unwrap().empty().unwrap().finish().unwrap();
        let draft = Draft::new(&directory.path().join("image")).unwrap().layers_of(&base).unwrap();
        let image = draft.noise(1000, Compression::None).unwrap().finish().unwrap();
        image.verify().unwrap();
        assert_eq!(image.blobs[1..3], base.blobs[1..3]);
        assert_eq!(image.blobs[2].size, 32);
        let contents = image.contents().unwrap();
        assert_eq!(
            (contents.len(), &contents[1], &contents[2]),
            (3, &EMPTY_CONTENT.to_owned(), &image.blobs[3].digest)
        );
    }

    #[test]
    fn an_artifact_is_no_image() {
        let directory = tempfile::tempdir().unwrap();
        let draft = Draft::new(directory.path()).unwrap().piece(b"text", "text/plain").unwrap();
        let empty = "application/vnd.oci.empty.v1+json";
        let artifact = draft.finish_as(&json!({}), empty, Some("application/vnd.example")).unwrap();
        artifact.verify().unwrap();
        assert_eq!(
            artifact.blobs[0].digest,
            "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
        assert_eq!(
            (artifact.blobs[1].media_type.as_str(), artifact.contents().unwrap().len()),
            ("text/plain", 0)
        );
    }
}
