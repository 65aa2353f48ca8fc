//! Manifests and indexes: which blobs an image is made of, and which image suits a platform.
//!
//! Reads OCI image manifests and indexes, and Docker's schema 2 manifests and lists. Keeps a document's bytes
//! exactly as they were served, since its digest is over those bytes; never writes one anew. Fetches nothing.
//! Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The largest document that is read: registries refuse larger ones on push, so a larger one is no manifest.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// The most layers of one image. Docker stops at 127 and overlayfs at 500.
pub const MAX_LAYERS: usize = 1024;
/// The most images of one index: every platform there is, with attestations, comes to less than a hundred.
pub const MAX_INDEX_ENTRIES: usize = 1024;
/// The largest blob that a manifest may announce, so that sums and tables made from sizes stay in bounds.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

/// The media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of a Docker schema 2 manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// All that is understood, as the value of an `Accept` header. Registries convert or hide what is not asked
/// for.
pub const ACCEPT: &str = concat!(
    "application/vnd.oci.image.index.v1+json, ",
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.docker.distribution.manifest.v2+json",
);

/// A document that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Past [`MAX_MANIFEST_BYTES`].
    #[error("the document has more than {MAX_MANIFEST_BYTES} bytes, so it is no manifest")]
    TooLarge,
    /// No JSON, or JSON of another shape: an error page of a proxy, for example.
    #[error("the document (served as {media_type}) is no manifest: {reason}")]
    Malformed {
        /// What it was served as.
        media_type: String,
        /// What the parser says.
        reason: String,
    },
    /// Docker schema 1, which names layers in an order and a form of its own and was withdrawn in 2019.
    #[error(
        "the manifest is in Docker's schema 1, which is not supported: push the image again with a current client"
    )]
    Schema1,
    /// An artifact, or a format of the future.
    #[error("media type {0:?} is neither an image manifest nor an image index")]
    MediaType(String),
    /// Two readings are possible (CVE-2021-41190), and two clients could take different ones.
    #[error("the document is ambiguous: {0}")]
    Ambiguous(String),
    /// More entries than [`MAX_LAYERS`] or [`MAX_INDEX_ENTRIES`].
    #[error("the document lists {found} {what}, and the limit is {limit}")]
    TooMany {
        /// Layers or manifests.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A size past [`MAX_BLOB_BYTES`].
    #[error("{digest} is said to have {size} bytes, and the limit is {MAX_BLOB_BYTES}")]
    BlobTooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes, as announced.
        size: u64,
    },
    /// The index has no image for this platform.
    #[error("the index has no image for {wanted}; it has {}", available.join(", "))]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is.
        available: Vec<String>,
    },
}

/// A manifest or an index, byte for byte as its origin served it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What to serve it as; one of the four that [`ACCEPT`] lists, if made by [`Document::received`].
    pub media_type: String,
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The document itself.
    pub bytes: Bytes,
}

impl Document {
    /// The document with these bytes, that came with this `Content-Type`. A type that says nothing, such as
    /// `application/json`, is replaced by the document's own `mediaType`, or by the type that its shape
    /// shows.
    pub fn received(content_type: Option<&str>, bytes: Bytes) -> Result<Self, ManifestError> {
        let (media_type, _) = read(content_type.unwrap_or_default(), &bytes)?;
        Ok(Self { media_type: media_type.to_owned(), digest: Digest::of(&bytes), bytes })
    }
}

/// Names a blob or a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it contains.
    pub media_type: String,
    /// What its bytes hash to.
    pub digest: Digest,
    /// How many bytes it has.
    pub size: u64,
    /// Where else it is kept, for layers that may not be redistributed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

impl Descriptor {
    /// Whether it is a layer that registries do not keep, such as Windows base layers: clients get it
    /// elsewhere.
    pub fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
            || self.media_type.contains(".nondistributable.")
            || self.media_type.contains(".foreign.")
    }
}

/// An operating system on a processor, written `linux/amd64` or `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    /// As Go spells it: `linux`.
    pub os: String,
    /// As Go spells it: `amd64`, `arm64`.
    pub architecture: String,
    /// A version of the architecture: `v7`.
    pub variant: Option<String>,
}

/// Text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no platform: it must read <os>/<architecture> or <os>/<architecture>/<variant>, like linux/amd64"
)]
pub struct PlatformError(String);

impl Platform {
    /// The platform that this program was built for.
    pub fn host() -> Self {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: os.to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// The variant that tells something: `arm64` without one means `v8`, `amd64` means `v1`.
    fn significant_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", Some("v8")) | ("amd64", Some("v1")) | (_, Some("")) => None,
            (_, variant) => variant,
        }
    }

    fn is_kin(&self, other: &Self) -> bool {
        self.os == other.os && self.architecture == other.architecture
    }
}

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        const MAX_PART_BYTES: usize = 32;
        let refuse = || PlatformError(text.chars().take(4 * MAX_PART_BYTES).collect());
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
        let valid = |part: &&str| (1..=MAX_PART_BYTES).contains(&part.len()) && part.bytes().all(allowed);
        let parts: Vec<&str> = text.split('/').take(4).collect();
        if !parts.iter().all(valid) {
            return Err(refuse());
        }
        match parts[..] {
            [os, architecture] => Ok((os, architecture, None)),
            [os, architecture, variant] => Ok((os, architecture, Some(variant.to_owned()))),
            _ => Err(refuse()),
        }
        .map(|(os, architecture, variant)| Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant,
        })
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;
    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> String {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image for one platform.
    Image {
        /// The image's configuration, a blob like the layers.
        config: Descriptor,
        /// From the lowest up.
        layers: Vec<Descriptor>,
    },
    /// One image per platform, each a manifest of its own.
    Index(Vec<(Descriptor, Option<Platform>)>),
}

impl Manifest {
    /// Reads a document. Its `media_type` is treated as [`Document::received`] treats a `Content-Type`.
    pub fn parse(document: &Document) -> Result<Self, ManifestError> {
        read(&document.media_type, &document.bytes).map(|(_, manifest)| manifest)
    }

    /// The blobs to fetch: configuration and layers, each digest once, without
    /// [foreign](Descriptor::is_foreign) layers. An index has none of its own.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match self {
            Self::Image { config, layers } => (Some(config), layers.as_slice()),
            Self::Index(_) => (None, [].as_slice()),
        };
        let mut seen = BTreeSet::new();
        let fetched = layers.iter().filter(|layer| !layer.is_foreign());
        config.into_iter().chain(fetched).filter(move |blob| seen.insert(blob.digest))
    }
}

/// The image in an index for `wanted`: one of the same variant; otherwise one that names no variant;
/// otherwise, if `wanted` names none, the first of any variant. An index of a single image that names no
/// platform suits everybody.
pub fn select<'a>(
    entries: &'a [(Descriptor, Option<Platform>)],
    wanted: &Platform,
) -> Result<&'a Descriptor, ManifestError> {
    if let [(only, None)] = entries {
        return Ok(only);
    }
    let kin = || entries.iter().filter(|(_, platform)| platform.as_ref().is_some_and(|p| p.is_kin(wanted)));
    let variant = |entry: &(Descriptor, Option<Platform>)| {
        entry.1.as_ref().and_then(Platform::significant_variant).map(str::to_owned)
    };
    let exact = kin().find(|entry| variant(entry).as_deref() == wanted.significant_variant());
    exact
        .or_else(|| kin().find(|entry| variant(entry).is_none()))
        .or_else(|| wanted.variant.is_none().then(|| kin().next()).flatten())
        .map(|(descriptor, _)| descriptor)
        .ok_or_else(|| {
            let name =
                |p: &Option<Platform>| p.as_ref().map_or("an unnamed platform".into(), Platform::to_string);
            let names: BTreeSet<String> = entries.iter().map(|(_, platform)| name(platform)).collect();
            let available =
                if names.is_empty() { vec!["nothing".into()] } else { names.into_iter().collect() };
            ManifestError::NoPlatform { wanted: wanted.clone(), available }
        })
}

/// What JSON parsers see. Fields that are absent tell the shapes apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: Digest,
    size: u64,
    urls: Option<Vec<String>>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl RawDescriptor {
    fn check(self) -> Result<(Descriptor, Option<Platform>), ManifestError> {
        if self.size > MAX_BLOB_BYTES {
            return Err(ManifestError::BlobTooLarge { digest: self.digest, size: self.size });
        }
        let platform = self.platform.map(|p| Platform {
            os: p.os,
            architecture: p.architecture,
            variant: p.variant.filter(|variant| !variant.is_empty()),
        });
        let descriptor = Descriptor {
            media_type: self.media_type.unwrap_or_default(),
            digest: self.digest,
            size: self.size,
            urls: self.urls.unwrap_or_default(),
        };
        Ok((descriptor, platform))
    }
}

/// The media type and the content of a document served as `content_type`.
fn read(content_type: &str, bytes: &[u8]) -> Result<(&'static str, Manifest), ManifestError> {
    if bytes.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge);
    }
    let served = essence(content_type);
    let malformed = |reason: String| ManifestError::Malformed {
        media_type: if served.is_empty() { "no media type".into() } else { served.clone() },
        reason,
    };
    let served_type = known(&served)?;
    let raw: Raw = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    let own_type = raw.media_type.as_deref().map_or(Ok(None), |own| known(&essence(own)))?;
    let is_schema_1 = raw.schema_version == Some(1) || raw.fs_layers.is_some();
    if is_schema_1 {
        return Err(ManifestError::Schema1);
    }
    if let (Some(served), Some(own)) = (served_type, own_type)
        && served != own
    {
        return Err(ManifestError::Ambiguous(format!("served as {served}, it calls itself {own}")));
    }
    let stated = served_type.or(own_type);
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) => {
            let media_type = stated.unwrap_or(OCI_MANIFEST);
            if ![OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type) {
                return Err(ManifestError::Ambiguous(format!("called {media_type}, it has layers")));
            }
            check_count("layers", layers.len(), MAX_LAYERS)?;
            let layers = layers.into_iter().map(|layer| Ok(layer.check()?.0)).collect::<Result<_, _>>()?;
            Ok((media_type, Manifest::Image { config: config.check()?.0, layers }))
        }
        (None, None, Some(entries)) => {
            let media_type = stated.unwrap_or(OCI_INDEX);
            if ![OCI_INDEX, DOCKER_LIST].contains(&media_type) {
                return Err(ManifestError::Ambiguous(format!("called {media_type}, it lists manifests")));
            }
            check_count("manifests", entries.len(), MAX_INDEX_ENTRIES)?;
            let entries = entries.into_iter().map(RawDescriptor::check).collect::<Result<_, _>>()?;
            Ok((media_type, Manifest::Index(entries)))
        }
        (_, _, Some(_)) => {
            Err(ManifestError::Ambiguous("it lists manifests and has layers of its own".into()))
        }
        _ => Err(malformed("it has neither config and layers nor manifests".into())),
    }
}

/// A media type that decides how to read a document; `None` for one that says nothing.
fn known(media_type: &str) -> Result<Option<&'static str>, ManifestError> {
    let documents = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
    if let Some(known) = documents.into_iter().find(|known| *known == media_type) {
        return Ok(Some(known));
    }
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1+") {
        return Err(ManifestError::Schema1);
    }
    if media_type.starts_with("application/vnd.") {
        return Err(ManifestError::MediaType(media_type.chars().take(128).collect()));
    }
    Ok(None)
}

/// A media type without its parameters.
fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), ManifestError> {
    if found > limit { Err(ManifestError::TooMany { what, found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn descriptor(seed: &str, rest: &str) -> String {
        format!(
            r#"{{"mediaType":"a/b","digest":"{}","size":{}{rest}}}"#,
            Digest::of(seed.as_bytes()),
            seed.len()
        )
    }

    fn image(head: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,{head}"config":{},"layers":[{}]}}"#,
            descriptor("c", ""),
            descriptor("l", "")
        )
    }

    fn index(head: &str, platforms: &[&str]) -> String {
        let entries: Vec<String> = platforms.iter().map(|platform| entry(platform)).collect();
        format!(r#"{{"schemaVersion":2,{head}"manifests":[{}]}}"#, entries.join(","))
    }

    fn entry(platform: &str) -> String {
        let mut parts = platform.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(arch), variant) => {
                let variant = variant.map_or(String::new(), |v| format!(r#","variant":"{v}""#));
                descriptor(
                    platform,
                    &format!(r#","platform":{{"os":"{os}","architecture":"{arch}"{variant}}}"#),
                )
            }
            _ => descriptor(platform, ""),
        }
    }

    fn received(content_type: &str, text: &str) -> Result<Document, ManifestError> {
        Document::received(Some(content_type), Bytes::copy_from_slice(text.as_bytes()))
    }

    fn media_type(text: &str) -> String {
        format!(r#""mediaType":"{text}","#)
    }

    #[test]
    fn the_media_type_is_as_served_else_its_own_else_by_shape() {
        let rows = [
            (OCI_MANIFEST, image(""), OCI_MANIFEST),
            (DOCKER_MANIFEST, image(""), DOCKER_MANIFEST),
            ("Application/vnd.oci.image.manifest.v1+json; charset=utf-8", image(""), OCI_MANIFEST),
            ("", image(&media_type(DOCKER_MANIFEST)), DOCKER_MANIFEST),
            ("application/octet-stream", image(&media_type(OCI_MANIFEST)), OCI_MANIFEST),
            ("application/json", image(""), OCI_MANIFEST),
            (DOCKER_LIST, index("", &["linux/amd64"]), DOCKER_LIST),
            ("text/plain", index(&media_type(DOCKER_LIST), &[]), DOCKER_LIST),
            ("", index("", &[]), OCI_INDEX),
        ];
        for (content_type, text, expected) in rows {
            let document = received(content_type, &text).unwrap();
            assert_eq!(document.media_type, expected, "{content_type} {text}");
            assert_eq!(document.digest, Digest::of(text.as_bytes()));
            assert!(Manifest::parse(&document).is_ok());
        }
    }

    #[test]
    fn what_is_no_image_is_refused_with_its_reason() {
        let schema_1 = r#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#;
        let helm = "application/vnd.cncf.helm.chart.v1+json";
        let both = format!(r#"{{"config":{0},"layers":[],"manifests":[{0}]}}"#, descriptor("c", ""));
        let layers = vec![descriptor("l", ""); MAX_LAYERS + 1].join(",");
        let many = format!(r#"{{"config":{},"layers":[{layers}]}}"#, descriptor("c", ""));
        let vast = descriptor("c", "").replace("\"size\":1", "\"size\":1152921504606846976");
        let vast = format!(r#"{{"config":{vast},"layers":[]}}"#);
        let entries = index("", &["linux/amd64"; MAX_INDEX_ENTRIES + 1]);
        let rows = [
            ("text/html", "<html>log in</html>".to_owned(), "served as text/html"),
            ("", "[]".into(), "no manifest"),
            ("", "{}".into(), "neither config and layers nor manifests"),
            ("", schema_1.into(), "schema 1"),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", schema_1.into(), "schema 1"),
            (helm, image(""), helm),
            ("", image(&media_type(helm)), helm),
            (OCI_INDEX, image(""), "ambiguous"),
            (OCI_MANIFEST, index("", &[]), "ambiguous"),
            (OCI_MANIFEST, image(&media_type(DOCKER_MANIFEST)), "calls itself"),
            ("", both, "ambiguous"),
            ("", many, "1025 layers"),
            ("", entries, "1025 manifests"),
            ("", vast, "the limit is"),
            ("", image("").replace("\"size\":1", "\"size\":-1"), "no manifest"),
            ("", image("").replace("sha256:", "sha512:"), "sha512"),
            ("", " ".repeat(MAX_MANIFEST_BYTES + 1), "more than"),
        ];
        for (content_type, text, expected) in rows {
            let error = received(content_type, &text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} should say {expected}");
        }
    }

    #[test]
    fn the_platform_picks_the_image() {
        let rows: &[(&[&str], &str, Option<&str>)] = &[
            (&["linux/amd64", "linux/arm64"], "linux/arm64", Some("linux/arm64")),
            (&["linux/amd64", "linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8")),
            (&["linux/amd64", "linux/arm64"], "linux/arm64/v8", Some("linux/arm64")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", Some("linux/arm/v7")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm", Some("linux/arm/v6")),
            (&["linux/arm/v6", "linux/arm"], "linux/arm", Some("linux/arm")),
            (&["linux/arm/v6", "linux/arm"], "linux/arm/v7", Some("linux/arm")),
            (&["linux/arm/v6"], "linux/arm/v7", None),
            (&["linux/amd64", "unknown/unknown"], "linux/arm64", None),
            (&["unnamed"], "linux/amd64", Some("unnamed")),
            (&["unnamed", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["unnamed", "linux/amd64"], "linux/arm64", None),
            (&[], "linux/amd64", None),
        ];
        for (platforms, wanted, expected) in rows {
            let document = received("", &index("", platforms)).unwrap();
            let Ok(Manifest::Index(entries)) = Manifest::parse(&document) else { panic!("an index") };
            let found = select(&entries, &wanted.parse().unwrap());
            let expected = expected.map(|name| Digest::of(name.as_bytes()));
            assert_eq!(found.as_ref().ok().map(|d| d.digest), expected, "{platforms:?} {wanted} {found:?}");
        }
        let document = received("", &index("", &["linux/s390x", "linux/amd64"])).unwrap();
        let Ok(Manifest::Index(entries)) = Manifest::parse(&document) else { panic!("an index") };
        let error = select(&entries, &"linux/arm/v7".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "the index has no image for linux/arm/v7; it has linux/amd64, linux/s390x");
    }

    #[test]
    fn each_blob_is_fetched_once_and_foreign_layers_are_not() {
        let kind = |media_type: &str, seed| descriptor(seed, "").replace("a/b", media_type);
        let layers = [
            descriptor("a", ""),
            descriptor("b", r#","urls":["http://elsewhere"]"#),
            kind("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "c"),
            kind("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "d"),
            descriptor("a", ""),
            descriptor("config", ""),
            descriptor("e", r#","urls":null"#),
        ];
        let text = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor("config", ""), layers.join(","));
        let manifest = Manifest::parse(&received("", &text).unwrap()).unwrap();
        let blobs: Vec<Digest> = manifest.blobs().map(|blob| blob.digest).collect();
        assert_eq!(blobs, ["config", "a", "e"].map(|seed| Digest::of(seed.as_bytes())));
        let index = Manifest::parse(&received("", &index("", &["linux/amd64"])).unwrap()).unwrap();
        assert_eq!(index.blobs().count(), 0);
    }

    #[test]
    fn platforms_are_text_and_back() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for bad in
            ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "Linux/amd64", "linux amd64"]
        {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
        let host = Platform::host();
        assert_eq!(host.to_string().parse(), Ok(host));
    }

    proptest! {
        #[test]
        fn reading_never_panics(content_type in any::<String>(), bytes in any::<Vec<u8>>()) {
            let _ = Document::received(Some(&content_type), bytes.into());
        }

        #[test]
        fn reading_altered_manifests_never_panics(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            for text in [image(""), index("", &["linux/arm/v7", "linux/amd64"])] {
                let mut bytes = text.into_bytes();
                if let Some(old) = bytes.get_mut(at) { *old = byte }
                bytes.truncate(cut.max(1));
                let _ = Document::received(None, bytes.into());
            }
        }
    }
}
