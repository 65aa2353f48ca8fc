//! One entry of the list of origins that a node may read from: what it is called, where it is, and how to treat it.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use transfer::reference::{check_registry, check_repository};

/// The registries that a node may read from unless its configuration lists some.
pub const PUBLIC_REGISTRIES: [&str; 8] = [
    "docker.io",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "public.ecr.aws",
    "quay.io",
    "registry.gitlab.com",
    "registry.k8s.io",
];

/// One origin that a node may read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginConfig {
    /// Its name, as in references: `registry.example:5000`.
    pub name: String,
    /// A URL, or the path of an OCI layout or an image archive. Default: the registry of that name, by HTTPS, or by
    /// HTTP on loopback.
    pub location: Option<String>,
    /// URLs of registries that have the same content. They are asked first, in this order.
    pub mirrors: Vec<String>,
    /// A PEM file with the certificate authorities that may vouch for the registry, instead of the web's. For its mirrors,
    /// and for where it redirects to, both count.
    pub ca_file: Option<PathBuf>,
    /// PEM files with this node's certificate chain and its key, for registries that ask for them.
    pub client_certificate: Option<ClientCertificate>,
    /// Do not check certificates, of the registry, its mirrors, or where they redirect to. Whoever is on the path can then move tags, and sees credentials.
    pub insecure: bool,
    /// What this node shows the registry. Default: nothing.
    pub credentials: Option<CredentialsConfig>,
    /// Most bytes a second that this node reads from it, over all its blobs. Default: no limit.
    pub max_rate: Option<NonZeroU64>,
    /// Most requests that this node has open to it at once. More finish bursts sooner where the registry can take them.
    /// Default 64.
    pub max_requests: NonZeroU32,
    /// How long a tag stands for the same digest before the origin is asked again. Zero asks every time. Shorter sees a
    /// moved tag sooner, for a request per tag in use in that time. Default 10 s.
    pub tag_ttl: Duration,
    /// Fetch only what clients read of its images, instead of provisioning each image as a whole. For runtimes that load
    /// images lazily. Default false.
    pub lazy: bool,
}

/// Where this node's certificate for a registry is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, its own certificate first.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Where the credentials for a registry are kept. They are read again for each new token, so that files can be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialsConfig {
    /// A name, and a file that holds the password or the token.
    Basic {
        /// The user's name.
        username: String,
        /// The file.
        password_file: PathBuf,
    },
    /// Docker's `config.json`, with the credential helpers that it names.
    DockerConfig(PathBuf),
    /// A Kubernetes pull secret: the whole object, or the `.dockerconfigjson` that it holds.
    PullSecret(PathBuf),
}

impl OriginConfig {
    /// The default time for which a tag stands for the same digest.
    pub const TAG_TTL: Duration = Duration::from_secs(10);
    /// The default for how many requests are open to an origin at once.
    pub(super) const MAX_REQUESTS: NonZeroU32 = NonZeroU32::new(64).expect("not zero");

    /// The registry that goes by this name, with defaults throughout.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            location: None,
            mirrors: Vec::new(),
            ca_file: None,
            client_certificate: None,
            insecure: false,
            credentials: None,
            max_rate: None,
            max_requests: Self::MAX_REQUESTS,
            tag_ttl: Self::TAG_TTL,
            lazy: false,
        }
    }

    /// What stands behind a name: a URL or a path.
    pub fn at(name: impl Into<String>, location: impl Into<String>) -> Self {
        Self { location: Some(location.into()), ..Self::named(name) }
    }

    /// The path of the layout or archive, if it is no registry.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.location.as_deref().filter(|location| !location.contains("://")).map(std::path::Path::new)
    }
}

/// `NAME`, `NAME=URL`, `NAME=PATH`, or a URL alone, which goes by its host and port.
impl FromStr for OriginConfig {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let origin = match (text.split_once('='), text.split_once("://")) {
            (Some((name, "")), _) => {
                return Err(format!("the origin {name} needs a URL or a path behind the ="));
            }
            (Some((name, location)), _) => Self::at(name, location),
            (None, Some((_, host))) => Self::at(host.trim_end_matches('/'), text),
            (None, None) => Self::named(text),
        };
        check_name(&origin.name).map_err(|error| {
            format!("{text:?} is no origin: use NAME, NAME=URL, NAME=PATH, or a URL: {error}")
        })?;
        if let Some(url) = origin.location.as_deref().filter(|location| location.contains("://")) {
            check_url(url)?;
        }
        Ok(origin)
    }
}

/// Whether references can name a registry so.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    match name {
        "index.docker.io" | "registry-1.docker.io" => {
            Err(format!("in references, {name} is called docker.io"))
        }
        _ => check_registry(name).map_err(|error| error.to_string()),
    }
}

/// Whether this is a URL of a registry: a scheme, a host, perhaps a port, and perhaps a path that goes before its
/// repositories. With a name and a password in it, it would be shown wherever it is.
pub(super) fn check_url(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let good = rest.map(|rest| rest.trim_end_matches('/')).is_some_and(|rest| {
        let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
        check_registry(host).is_ok() && path.is_none_or(|path| check_repository(path).is_ok())
    });
    match rest {
        _ if good => Ok(()),
        // It may hold a password.
        Some(rest) if rest.contains('@') => {
            Err("a URL must not hold credentials: use username and password-file".to_owned())
        }
        _ => Err(format!(
            "{url} is no URL of a registry: it must read https://HOST[:PORT][/PATH] or http://HOST[:PORT][/PATH]"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_named() {
        let parse = |text: &str| text.parse::<OriginConfig>();
        assert_eq!(parse("quay.io"), Ok(OriginConfig::named("quay.io")));
        assert_eq!(
            parse("r.example=https://10.0.0.1:5000"),
            Ok(OriginConfig::at("r.example", "https://10.0.0.1:5000"))
        );
        let prefixed = "https://harbor.example/hub";
        assert_eq!(parse(&format!("docker.io={prefixed}")), Ok(OriginConfig::at("docker.io", prefixed)));
        assert_eq!(parse("local.images=/srv/layout"), Ok(OriginConfig::at("local.images", "/srv/layout")));
        assert_eq!(
            parse("http://10.0.0.1:5000/"),
            Ok(OriginConfig::at("10.0.0.1:5000", "http://10.0.0.1:5000/"))
        );
        for bad in [
            "",
            "=x",
            "r.example=",
            "a b=http://x",
            "a b",
            "r.example=ftp://x",
            "r.example=https://",
            "r.example=https://h/Path",
            "r.example=https://h/path?query",
            "https://ada:hunter2@r.example",
            "index.docker.io",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_in_urls_are_not_repeated() {
        let error = "r=https://ada:hunter2@r.example".parse::<OriginConfig>().unwrap_err();
        assert!(error.contains("password-file") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_path_is_no_registry() {
        assert_eq!(OriginConfig::named("quay.io").path(), None);
        assert_eq!(OriginConfig::at("quay.io", "https://x").path(), None);
        assert_eq!(OriginConfig::at("quay.io", "/srv").path(), Some(std::path::Path::new("/srv")));
    }
}
