//! What a person or a client calls an image: `alpine`, `localhost:5000/team/app:v1@sha256:...`.
//!
//! The grammar is that of the distribution project's `reference` package, and so are docker's defaults.
//! Nothing here asks a registry what a name stands for. Pure.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};

/// The registry of a name that gives none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of a name that gives neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// The longest repository, and the longest registry: what the distribution project allows for names.
pub const MAX_NAME_BYTES: usize = 255;
/// The longest tag that the OCI distribution specification allows.
pub const MAX_TAG_BYTES: usize = 128;

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The host before the first slash.
    #[error(
        "{0:?} is no registry: it must be a host name, an IPv4 address or an [IPv6 address], with an optional :port"
    )]
    Registry(String),
    /// The path between the registry and the tag.
    #[error(
        "{0:?} is no repository: it must be parts of a-z and 0-9, joined by '.', '_', '__' or '-', with '/' between, \
         at most {MAX_NAME_BYTES} bytes long"
    )]
    Repository(String),
    /// What follows the colon.
    #[error(
        "{0:?} is no tag: it must be at most {MAX_TAG_BYTES} of a-z, A-Z, 0-9, '_', '.', '-', starting with neither '.' nor '-'"
    )]
    Tag(String),
    /// What follows the at sign.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// What picks one manifest out of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// A name that the origin may move at any time.
    Tag(String),
    /// The content itself.
    Digest(Digest),
}

impl FromStr for Selector {
    type Err = ReferenceError;
    /// A digest if there is a colon, which no tag can have; otherwise a tag.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            return Ok(Self::Digest(text.parse()?));
        }
        check_tag(text)?;
        Ok(Self::Tag(text.to_owned()))
    }
}

impl TryFrom<String> for Selector {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// The full name of an image. Always has a tag or a digest, and is valid in all its parts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The image that `selector` picks out of `repository` at `registry`, all already told apart, as in a
    /// request to a mirror. No defaults apply.
    pub fn new(registry: &str, repository: &str, selector: Selector) -> Result<Self, ReferenceError> {
        let (tag, digest) = match selector {
            Selector::Tag(tag) => (Some(tag), None),
            Selector::Digest(digest) => (None, Some(digest)),
        };
        check_registry(registry)?;
        check_repository(repository)?;
        tag.as_deref().map_or(Ok(()), check_tag)?;
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }

    /// The registry's host, with a port if the name gave one: `docker.io`, `[::1]:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, which is only a remark if there is a digest as well.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the name gave one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask the registry for: the digest if there is one, otherwise the tag.
    pub fn selector(&self) -> Selector {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Selector::Digest(digest),
            (None, Some(tag)) => Selector::Tag(tag.clone()),
            (None, None) => unreachable!("every constructor sets a tag or a digest"),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.to_owned())),
            _ => (rest, None),
        };
        tag.as_deref().map_or(Ok(()), check_tag)?;
        let (registry, path) = split_registry(name);
        check_registry(registry)?;
        let bare = registry == DEFAULT_REGISTRY && !path.contains('/');
        let repository = if bare { format!("library/{path}") } else { path.to_owned() };
        // docker keeps a bare 64-digit name for image ids; read as a repository it would ask docker.io for
        // one.
        let is_image_id = bare && path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit());
        if check_repository(&repository).is_err() || is_image_id {
            return Err(ReferenceError::Repository(excerpt(path)));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> String {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.iter().try_for_each(|tag| write!(f, ":{tag}"))?;
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

/// Whether `repository` is one by the grammar of the OCI distribution specification. What passes can stand in
/// a URL.
pub fn check_repository(repository: &str) -> Result<(), ReferenceError> {
    let valid = repository.len() <= MAX_NAME_BYTES && repository.split('/').all(is_path_component);
    if valid { Ok(()) } else { Err(ReferenceError::Repository(excerpt(repository))) }
}

/// Whether `tag` is one by the grammar of the OCI distribution specification. What passes can stand in a URL.
pub fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let valid =
        (1..=MAX_TAG_BYTES).contains(&tag.len()) && tag.bytes().all(allowed) && !tag.starts_with(['.', '-']);
    if valid { Ok(()) } else { Err(ReferenceError::Tag(excerpt(tag))) }
}

/// Whether `registry` is a host with an optional port.
pub fn check_registry(registry: &str) -> Result<(), ReferenceError> {
    let port_ok = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let valid = match registry.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(host, port)| {
            host.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(port_ok))
        }),
        None => match registry.split_once(':') {
            Some((host, port)) => host.split('.').all(is_host_label) && port_ok(port),
            None => registry.split('.').all(is_host_label),
        },
    };
    let valid = valid && registry.len() <= MAX_NAME_BYTES;
    if valid { Ok(()) } else { Err(ReferenceError::Registry(excerpt(registry))) }
}

/// The first part is a registry only if it cannot be the first part of a repository, as docker decides it.
fn split_registry(name: &str) -> (&str, &str) {
    let is_registry = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some(("index.docker.io", path)) => (DEFAULT_REGISTRY, path),
        Some((first, path)) if is_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_host_label(label: &str) -> bool {
    !label.is_empty()
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(part: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let edges = part.starts_with(is_alphanumeric) && part.ends_with(is_alphanumeric);
    edges
        && part
            .split(is_alphanumeric)
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

fn excerpt(text: &str) -> String {
    text.chars().take(MAX_NAME_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_parse_like_docker_parses_them() {
        let digest = format!("sha256:{HEX}");
        let rows = [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            (&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}")),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            (&format!("localhost:5000/a/b:t@{digest}"), &format!("localhost:5000/a/b:t@{digest}")),
            ("10.0.0.1:5000/a", "10.0.0.1:5000/a:latest"),
            ("[::1]:5000/a:b", "[::1]:5000/a:b"),
            ("[fe80::1]/a", "[fe80::1]/a:latest"),
            ("Registry/a", "Registry/a:latest"),
            ("quay.io/a.b/c_d/e__f/g---h:V1", "quay.io/a.b/c_d/e__f/g---h:V1"),
        ];
        for (text, expected) in rows {
            let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(reference.to_string(), expected, "{text}");
            assert_eq!(expected.parse(), Ok(reference), "{text}");
        }
    }

    #[test]
    fn text_that_names_no_image_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        let long_name = format!("quay.io/{}", "a".repeat(256));
        let rows = [
            "",
            "/",
            ":",
            "@",
            "a:",
            "a/",
            "/a",
            "a//b",
            "a:b:c",
            "Alpine",
            "a/B",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a._b",
            "a b",
            "ä",
            "a:.b",
            "a:-b",
            "a@b",
            "a@sha256:12",
            "[::1]",
            "[::1/a",
            "[::g]/a",
            "[::1]x/a",
            "[::1]:x/a",
            "h:99999/a",
            "h:/a",
            ".h/a",
            "h..x/a",
            "-h.x/a",
            "a/../b",
            "quay.io/../b",
            "a?b",
            "a#b",
            "a%2fb",
            "a\0b",
            HEX,
            &long_tag,
            &long_name,
        ];
        for text in rows {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let sha512 = format!("a@sha512:{HEX}{HEX}");
        assert_eq!(
            sha512.parse::<Reference>(),
            Err(ReferenceError::Digest(DigestError::Algorithm("sha512".into())))
        );
    }

    #[test]
    fn the_digest_wins_over_the_tag() {
        let digest = Digest::of(b"");
        let both: Reference = format!("a:b@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.selector()), (Some("b"), Selector::Digest(digest)));
        let tag: Reference = "a:b".parse().unwrap();
        assert_eq!(tag.selector(), Selector::Tag("b".into()));
        for selector in [both.selector(), tag.selector()] {
            assert_eq!(selector.to_string().parse(), Ok(selector.clone()));
            assert!(Reference::new("quay.io", "a/b", selector).is_ok());
        }
        assert!(Reference::new("quay.io", "../b", tag.selector()).is_err());
        assert!(Reference::new("quay.io", "b", Selector::Tag("../b".into())).is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in any::<String>()) {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_parses_reads_the_same_again(text in "(([a-zA-Z0-9.-]{1,6}|\\[[0-9a-f:]{2,6}\\])(:[0-9]{1,5})?/)?[a-z0-9._/-]{1,12}(:[a-zA-Z0-9._-]{1,5})?") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
