//! Turns an image archive into an OCI image layout.
//!
//! Reads tar, plain or gzipped: OCI archives, and what `docker save` and `skopeo copy ... docker-archive:`
//! write. An archive's files are kept by their digest, never by their name, so no name in it can reach
//! outside the layout; links are followed only among the names in the archive. Blocking: not for async
//! threads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path};

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};
use tempfile::{NamedTempFile, TempDir};

use super::layout::{IMAGE_NAME, INDEX_FILE, REF_NAME, io_error};
use super::{OriginError, Place, invalid};
use crate::digest::{Digest, Sha256};
use crate::manifest::{DOCKER_MANIFEST, Descriptor, MAX_INDEX_ENTRIES, MAX_LAYERS, MAX_MANIFEST_BYTES};
use crate::reference::Reference;

/// What an archive may unpack to: more than any image that small machines are given, and a bound on what a small
/// gzip file can do to a disk.
const MAX_UNPACKED_BYTES: u64 = 64 << 30;
/// The most entries: old archives have four for each layer.
const MAX_ENTRIES: usize = 16 * MAX_LAYERS;
/// How many links may follow one another; real archives have one.
const MAX_LINK_HOPS: usize = 8;
const COPY_BYTES: usize = 256 << 10;

/// Unpacks the archive at `path` into a new temporary directory.
pub(super) fn unpack(path: &Path, place: &Place) -> Result<TempDir, OriginError> {
    let root = TempDir::with_prefix("faasnet-layout-").map_err(|error| no_room(place, &error))?;
    let blobs = root.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|error| no_room(place, &error))?;
    let file = File::open(path).map_err(|error| io_error(place, &error))?;
    let mut contents = Contents { place, blobs: &blobs, files: BTreeMap::new(), unpacked: 0 };
    contents.read(plain(file, place)?)?;
    let index = if contents.files.contains_key(INDEX_FILE) {
        contents.check_blob_names()?;
        contents.read_small(INDEX_FILE)?
    } else if contents.files.contains_key("manifest.json") {
        contents.convert()?
    } else {
        let reason = "neither index.json nor manifest.json is in it, so it is no image archive".into();
        return Err(invalid(place, reason));
    };
    write(&root.path().join(INDEX_FILE), &index, place)?;
    write(&root.path().join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, place)?;
    Ok(root)
}

/// The tar stream in `file`.
fn plain(mut file: File, place: &Place) -> Result<Box<dyn Read>, OriginError> {
    let mut magic = [0; 6];
    let read = file.read(&mut magic).and_then(|read| file.seek(SeekFrom::Start(0)).map(|_| read));
    let read = read.map_err(|error| io_error(place, &error))?;
    let file = BufReader::with_capacity(COPY_BYTES, file);
    let unsupported =
        |name| Err(invalid(place, format!("compressed with {name}: use gzip, or leave it plain")));
    match &magic[..read] {
        [0x1f, 0x8b, ..] => Ok(Box::new(MultiGzDecoder::new(file))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unsupported("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => unsupported("xz"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2"),
        _ => Ok(Box::new(file)),
    }
}

/// What a name in the archive stands for.
enum Kept {
    File { digest: Digest, size: u64 },
    Link(String),
}

struct Contents<'a> {
    place: &'a Place,
    blobs: &'a Path,
    files: BTreeMap<String, Kept>,
    unpacked: u64,
}

impl Contents<'_> {
    fn read(&mut self, archive: Box<dyn Read>) -> Result<(), OriginError> {
        let place = self.place;
        let damaged = |error: io::Error| invalid(place, unreadable(&error));
        let mut archive = tar::Archive::new(archive);
        for (count, entry) in archive.entries().map_err(damaged)?.enumerate() {
            let mut entry = entry.map_err(damaged)?;
            if count >= MAX_ENTRIES {
                return Err(invalid(place, format!("more than {MAX_ENTRIES} entries are in it")));
            }
            let path = entry.path().map_err(damaged)?.into_owned();
            let kind = entry.header().entry_type();
            let kept = if kind.is_file() {
                self.keep(&mut entry)?
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().map_err(damaged)?.unwrap_or_default().into_owned();
                // A symbolic link is relative to its own directory, a hard link to the archive.
                let from = if kind.is_symlink() { path.parent() } else { None };
                Kept::Link(self.name(&from.unwrap_or(Path::new("")).join(target))?)
            } else {
                continue;
            };
            let name = self.name(&path)?;
            self.files.insert(name, kept);
        }
        Ok(())
    }

    /// A name in the archive without `.` and `..`.
    fn name(&self, path: &Path) -> Result<String, OriginError> {
        let refuse = || invalid(self.place, format!("the name {path:?} in it leads outside the archive"));
        let mut parts: Vec<&str> = Vec::new();
        for component in path.components() {
            match component {
                Component::CurDir => {}
                Component::ParentDir => drop(parts.pop().ok_or_else(refuse)?),
                Component::Normal(part) => parts.push(part.to_str().ok_or_else(refuse)?),
                Component::RootDir | Component::Prefix(_) => return Err(refuse()),
            }
        }
        Ok(parts.join("/"))
    }

    /// Writes a file's bytes under their digest.
    fn keep(&mut self, from: &mut impl Read) -> Result<Kept, OriginError> {
        let place = self.place;
        let mut to = NamedTempFile::new_in(self.blobs).map_err(|error| no_room(place, &error))?;
        let (mut hasher, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            let read = from.read(&mut buffer).map_err(|error| invalid(place, unreadable(&error)))?;
            if read == 0 {
                break;
            }
            size += read as u64;
            self.unpacked += read as u64;
            if self.unpacked > MAX_UNPACKED_BYTES {
                return Err(invalid(place, format!("it unpacks to more than {MAX_UNPACKED_BYTES} bytes")));
            }
            hasher.update(&buffer[..read]);
            to.write_all(&buffer[..read]).map_err(|error| no_room(place, &error))?;
        }
        let digest = hasher.finish();
        to.persist(self.blobs.join(digest.hex())).map_err(|error| no_room(place, &error.error))?;
        Ok(Kept::File { digest, size })
    }

    fn check_blob_names(&self) -> Result<(), OriginError> {
        for (name, kept) in &self.files {
            if let (Some(hex), Kept::File { digest, .. }) = (name.strip_prefix("blobs/sha256/"), kept)
                && hex != digest.hex()
            {
                return Err(invalid(
                    self.place,
                    format!("{name} in it is damaged: its bytes hash to {digest}"),
                ));
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<(Digest, u64), OriginError> {
        let mut at = name;
        for _ in 0..=MAX_LINK_HOPS {
            match self.files.get(at) {
                Some(Kept::File { digest, size }) => return Ok((*digest, *size)),
                Some(Kept::Link(target)) => at = target,
                None => return Err(invalid(self.place, format!("{name} is named in it, but not there"))),
            }
        }
        Err(invalid(self.place, format!("the links from {name} in it never end")))
    }

    fn read_small(&self, name: &str) -> Result<Vec<u8>, OriginError> {
        let (digest, size) = self.find(name)?;
        if size > MAX_MANIFEST_BYTES as u64 {
            return Err(invalid(
                self.place,
                format!("{name} in it has more than {MAX_MANIFEST_BYTES} bytes"),
            ));
        }
        fs::read(self.blobs.join(digest.hex())).map_err(|error| io_error(self.place, &error))
    }

    /// The `index.json` for an archive in docker's old form, after making the manifests that it lacks.
    fn convert(&self) -> Result<Vec<u8>, OriginError> {
        let images: Vec<DockerImage> = serde_json::from_slice(&self.read_small("manifest.json")?)
            .map_err(|error| invalid(self.place, format!("manifest.json in it: {error}")))?;
        let mut entries = Vec::new();
        for image in images {
            let manifest = json(&self.manifest(&image)?);
            let digest = Digest::of(&manifest);
            write(&self.blobs.join(digest.hex()), &manifest, self.place)?;
            let size = manifest.len() as u64;
            let mut add = |annotations| {
                let descriptor =
                    Descriptor { media_type: DOCKER_MANIFEST.into(), digest, size, urls: Vec::new() };
                entries.push(IndexEntry { descriptor, annotations });
            };
            match image.repo_tags.unwrap_or_default() {
                tags if tags.is_empty() => add(BTreeMap::new()),
                tags => tags.iter().for_each(|tag| add(names(tag))),
            }
        }
        if entries.len() > MAX_INDEX_ENTRIES {
            return Err(invalid(self.place, format!("more than {MAX_INDEX_ENTRIES} images are in it")));
        }
        Ok(json(&Index { schema_version: 2, manifests: entries }))
    }

    fn manifest(&self, image: &DockerImage) -> Result<DockerManifest, OriginError> {
        if image.layers.len() > MAX_LAYERS {
            return Err(invalid(self.place, format!("an image in it has more than {MAX_LAYERS} layers")));
        }
        let describe = |name: &str, media_type: &str| {
            let (digest, size) = self.find(&self.name(Path::new(name))?)?;
            Ok(Descriptor { media_type: media_type.to_owned(), digest, size, urls: Vec::new() })
        };
        let layer = |name: &String| {
            let mut layer = describe(name, "application/vnd.docker.image.rootfs.diff.tar")?;
            if self.is_gzip(&layer.digest)? {
                layer.media_type.push_str(".gzip");
            }
            Ok(layer)
        };
        Ok(DockerManifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST,
            config: describe(&image.config, "application/vnd.docker.container.image.v1+json")?,
            layers: image.layers.iter().map(layer).collect::<Result<_, _>>()?,
        })
    }

    fn is_gzip(&self, digest: &Digest) -> Result<bool, OriginError> {
        let mut magic = Vec::new();
        let opened = File::open(self.blobs.join(digest.hex()));
        let read = opened.and_then(|file| file.take(2).read_to_end(&mut magic));
        read.map_err(|error| io_error(self.place, &error))?;
        Ok(magic == [0x1f, 0x8b])
    }
}

/// One image in docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A Docker schema 2 manifest. The order of the fields is part of its digest: the same archive gives the same
/// image.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DockerManifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    manifests: Vec<IndexEntry>,
}

#[derive(Serialize)]
struct IndexEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    annotations: BTreeMap<&'static str, String>,
}

/// The annotations that docker itself gives an image called `repo_tag`.
fn names(repo_tag: &str) -> BTreeMap<&'static str, String> {
    match repo_tag.parse::<Reference>() {
        Ok(reference) => {
            let tag = reference.tag().unwrap_or_default().to_owned();
            BTreeMap::from([(IMAGE_NAME, reference.to_string()), (REF_NAME, tag)])
        }
        Err(_) => BTreeMap::new(),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structures with text keys become JSON")
}

fn write(path: &Path, bytes: &[u8], place: &Place) -> Result<(), OriginError> {
    fs::write(path, bytes).map_err(|error| no_room(place, &error))
}

fn no_room(place: &Place, error: &io::Error) -> OriginError {
    let directory = std::env::temp_dir();
    OriginError::Unavailable {
        place: place.clone(),
        reason: format!(
            "unpacking to {} failed: {error}; TMPDIR chooses another directory",
            directory.display()
        ),
        retry_after: None,
    }
}
/// What to say of a file that is no archive. The tar library puts the file's own bytes into its errors; a line will do.
fn unreadable(error: &io::Error) -> String {
    let text = error.to_string();
    let line: String = text.lines().next().unwrap_or_default().chars().take(100).collect();
    format!("this is no tar archive as skopeo or `docker save` write it, or it is damaged: {line}")
}
