//! Where a node is asked: its HTTP address, or its Unix socket.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use reqwest::Url;

/// Where a node is asked: `http://HOST:PORT`, `HOST:PORT` for short, or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUrl(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Http(Url),
    Socket(PathBuf),
}

/// Text that is no address of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no node's address: it must read http://HOST:PORT, without a path, or unix:/PATH")]
pub struct NodeUrlError(String);

impl NodeUrl {
    /// The Unix socket, if it is one.
    pub(super) fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Place::Http(_) => None,
            Place::Socket(path) => Some(path),
        }
    }

    /// What the API's paths are put on. Over a socket it names the machine that both are on.
    pub(super) fn base(&self) -> Url {
        match &self.0 {
            Place::Http(url) => url.clone(),
            Place::Socket(_) => Url::parse("http://localhost").expect("it is a URL"),
        }
    }
}

impl FromStr for NodeUrl {
    type Err = NodeUrlError;
    fn from_str(text: &str) -> Result<Self, NodeUrlError> {
        let refuse = || NodeUrlError(text.chars().take(200).collect());
        if let Some(path) = text.strip_prefix("unix:") {
            let usable = path.starts_with('/') && !path.ends_with('/');
            return if usable { Ok(Self(Place::Socket(path.into()))) } else { Err(refuse()) };
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&full).map_err(|_| refuse())?;
        let is_bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        let is_http = url.scheme() == "http" && url.has_host();
        if is_http && is_bare { Ok(Self(Place::Http(url))) } else { Err(refuse()) }
    }
}

impl fmt::Display for NodeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Http(url) => f.write_str(url.as_str().trim_end_matches('/')),
            Place::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_addresses_and_sockets() {
        let rows = [
            ("http://127.0.0.1:7401", "http://127.0.0.1:7401"),
            ("http://vm-1:7401/", "http://vm-1:7401"),
            ("vm-1:7401", "http://vm-1:7401"),
            ("[::1]:7401", "http://[::1]:7401"),
            ("unix:/run/faasnet/faasnet.sock", "unix:/run/faasnet/faasnet.sock"),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse::<NodeUrl>().unwrap().to_string(), expected, "{text}");
        }
        for text in [
            "",
            "https://vm-1",
            "http://",
            "http://a/b",
            "http://a?b",
            "http://a:b@c",
            "ftp://a",
            "a b",
            "unix:",
            "unix:faasnet.sock",
            "unix:/run/",
        ] {
            assert!(text.parse::<NodeUrl>().is_err(), "{text}");
        }
    }
}
