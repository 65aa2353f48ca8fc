//! The settings of one origin: the keys of its table in the configuration file, `[origin."registry.example"]`, and what
//! they amount to. The doc comments are what `faasnet config example` says.

use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, NonEmptyStringValueParser};
use clap::{ArgAction, Args};

use super::files::{self, Content};
use super::origin::{ClientCertificate, CredentialsConfig, OriginConfig, check_url};
use crate::units::{Size, parse_duration};

/// What can be set for one origin.
#[derive(Debug, Clone, Args)]
pub(super) struct OriginSettings {
    /// Where the registry is [default: at the host of its name, by HTTPS, or by HTTP on loopback]
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    pub(super) url: Option<String>,

    /// An OCI layout or an image archive on disk, instead of a registry
    #[arg(long, value_name = "PATH")]
    pub(super) path: Option<PathBuf>,

    /// Registries with the same content. They are asked first, in this order
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    mirrors: Vec<String>,

    /// The certificate authorities that may vouch for the registry, in PEM form, instead of the web's
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,

    /// This node's certificate chain in PEM form, for registries that ask for one
    #[arg(long, value_name = "PATH")]
    client_certificate_file: Option<PathBuf>,

    /// The private key to it, in PEM form
    #[arg(long, value_name = "PATH")]
    client_key_file: Option<PathBuf>,

    /// Do not check the registry's certificate. Whoever is on the path can then move tags, and sees credentials
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set,
        default_value = "false"
    )]
    insecure: bool,

    /// The user's name, with the password in password-file
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    username: Option<String>,

    /// A file that holds the password or the token of that user
    #[arg(long, value_name = "PATH")]
    password_file: Option<PathBuf>,

    /// Docker's config.json with the credentials, or the credential helpers, for this registry [default: that of the
    /// node as a whole]
    #[arg(long, value_name = "PATH")]
    docker_config: Option<PathBuf>,

    /// A Kubernetes pull secret: the whole object, or the .dockerconfigjson that it holds
    #[arg(long, value_name = "PATH")]
    pull_secret_file: Option<PathBuf>,

    /// Most bytes a second that this node reads from it [default: no limit]
    #[arg(long, value_name = "BYTES/S")]
    max_rate: Option<Size>,

    /// Most requests that this node has open to it at once
    #[arg(long, value_name = "N", value_parser = parse_number, default_value_t = OriginConfig::MAX_REQUESTS)]
    max_requests: NonZeroU32,

    /// How long a tag stands for the same digest before this registry is asked again; 0 asks every time [default: that
    /// of the node as a whole]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    tag_ttl: Option<Duration>,

    /// Fetch only what clients read of its images, instead of provisioning each as a whole [default: that of the node
    /// as a whole]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = BoolishValueParser::new(),
        action = ArgAction::Set
    )]
    lazy: Option<bool>,
}

/// What holds for an origin that says nothing else.
#[derive(Debug, Clone)]
pub(super) struct OriginDefaults {
    pub(super) docker_config: Option<PathBuf>,
    pub(super) tag_ttl: Duration,
    pub(super) lazy: bool,
}

impl OriginDefaults {
    /// What has not been set for an origin is as here.
    pub(super) fn apply(&self, origin: OriginConfig) -> OriginConfig {
        let credentials = self.docker_config.clone().map(CredentialsConfig::DockerConfig);
        let credentials = origin.credentials.clone().or(credentials.filter(|_| origin.path().is_none()));
        OriginConfig { credentials, tag_ttl: self.tag_ttl, lazy: self.lazy, ..origin }
    }
}

impl OriginSettings {
    /// The origin of that name with these settings. Tells `refuse` which setting is wrong, and why.
    pub(super) fn into_config(
        self,
        name: &str,
        defaults: &OriginDefaults,
        refuse: &mut dyn FnMut(&str, String),
    ) -> OriginConfig {
        self.check_place(refuse);
        self.check_files(refuse);
        let client_certificate = match (&self.client_certificate_file, &self.client_key_file) {
            (Some(certificate), Some(key)) => {
                Some(ClientCertificate { certificate_file: certificate.clone(), key_file: key.clone() })
            }
            (Some(_), None) => {
                refuse("client-certificate-file", "it needs its key: add client-key-file".to_owned());
                None
            }
            (None, Some(_)) => {
                refuse("client-key-file", "it needs its certificate: add client-certificate-file".to_owned());
                None
            }
            (None, None) => None,
        };
        let credentials = self.credentials(refuse);
        let location = self.path.as_ref().map(|path| path.to_string_lossy().into_owned()).or(self.url);
        let origin = defaults.apply(OriginConfig {
            location,
            mirrors: self.mirrors,
            ca_file: self.ca_file,
            client_certificate,
            insecure: self.insecure,
            credentials,
            max_rate: self.max_rate.and_then(|rate| NonZeroU64::new(rate.0)),
            max_requests: self.max_requests,
            ..OriginConfig::named(name)
        });
        OriginConfig {
            tag_ttl: self.tag_ttl.unwrap_or(origin.tag_ttl),
            lazy: self.lazy.unwrap_or(origin.lazy),
            ..origin
        }
    }

    /// A place on disk is no registry, and one without TLS has no use for certificates.
    fn check_place(&self, refuse: &mut dyn FnMut(&str, String)) {
        let tls = [
            ("ca-file", self.ca_file.is_some()),
            ("client-certificate-file", self.client_certificate_file.is_some()),
            ("client-key-file", self.client_key_file.is_some()),
            ("insecure", self.insecure),
        ];
        if self.path.is_some() {
            let remote = [
                ("url", self.url.is_some()),
                ("mirrors", !self.mirrors.is_empty()),
                ("username", self.username.is_some()),
                ("password-file", self.password_file.is_some()),
                ("docker-config", self.docker_config.is_some()),
                ("pull-secret-file", self.pull_secret_file.is_some()),
                ("max-rate", self.max_rate.is_some()),
            ];
            for (key, _) in remote.into_iter().chain(tls).filter(|(_, set)| *set) {
                refuse(key, "it is of no use beside path, which names a place on disk".to_owned());
            }
            return;
        }
        let mut urls = self.url.iter().chain(&self.mirrors);
        if self.url.is_some() && urls.all(|url| url.starts_with("http://")) {
            for (key, _) in tls.into_iter().filter(|(_, set)| *set) {
                refuse(key, "it is of no use with a url that begins with http://".to_owned());
            }
        } else if self.insecure && self.ca_file.is_some() {
            refuse("insecure", "it contradicts ca-file, since then no certificate is checked".to_owned());
        }
    }

    fn check_files(&self, refuse: &mut dyn FnMut(&str, String)) {
        let files = [
            ("ca-file", &self.ca_file, Content::Certificates),
            ("client-certificate-file", &self.client_certificate_file, Content::Certificates),
            ("client-key-file", &self.client_key_file, Content::PrivateKey),
            ("password-file", &self.password_file, Content::Text),
            ("docker-config", &self.docker_config, Content::Json),
            ("pull-secret-file", &self.pull_secret_file, Content::Text),
        ];
        for (key, path, content) in files {
            if let Some(error) = path.as_ref().and_then(|path| files::check(path, content).err()) {
                refuse(key, error);
            }
        }
    }

    fn credentials(&self, refuse: &mut dyn FnMut(&str, String)) -> Option<CredentialsConfig> {
        let basic = match (&self.username, &self.password_file) {
            (Some(username), Some(password_file)) => {
                let (username, password_file) = (username.clone(), password_file.clone());
                Some(CredentialsConfig::Basic { username, password_file })
            }
            (Some(_), None) => {
                refuse("username", "it needs a password: add password-file".to_owned());
                None
            }
            (None, Some(_)) => {
                refuse("password-file", "it needs a user: add username".to_owned());
                None
            }
            (None, None) => None,
        };
        let ways = [
            ("username", basic),
            ("docker-config", self.docker_config.clone().map(CredentialsConfig::DockerConfig)),
            ("pull-secret-file", self.pull_secret_file.clone().map(CredentialsConfig::PullSecret)),
        ];
        let mut given = ways.into_iter().filter_map(|(key, way)| Some((key, way?)));
        let (first, credentials) = given.next()?;
        for (key, _) in given {
            refuse(key, format!("it contradicts {first}: give one kind of credentials"));
        }
        Some(credentials)
    }
}

fn parse_url(text: &str) -> Result<String, String> {
    check_url(text).map(|()| text.to_owned())
}

fn parse_number(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("{text} is no whole number from 1 to {}", u32::MAX))
}
