//! Where a registry is: its URL, and what stands before its repositories there. Asks nobody.

use reqwest::Url;

use super::reach::Reach;
use crate::reference::{check_registry, check_repository};

/// The host that Docker Hub's registry answers on, which is not the name that people use for it.
const HUB_HOST: &str = "registry-1.docker.io";

/// The place of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    name: String,
    base: Url,
    /// Ends with a slash, or is empty.
    prefix: String,
}

impl Location {
    /// Reads a host with an optional port, or such a host behind `http://` or `https://` with an optional path. A path is
    /// where all repositories are: below `https://harbor.example/hub`, `library/x` is the repository `hub/library/x`.
    ///
    /// Without a scheme it is HTTPS, except on loopback, where registries seldom have certificates, or if `plain_http`.
    pub(super) fn parse(text: &str, plain_http: bool) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (host, path) =
            rest.trim_end_matches('/').split_once('/').unwrap_or((rest.trim_end_matches('/'), ""));
        check_registry(host).map_err(|error| error.to_string())?;
        let prefix = match path {
            "" => String::new(),
            _ if scheme.is_none() => {
                return Err(format!("{text:?} has a path, so it needs https:// before it"));
            }
            path => {
                check_repository(path).map_err(|error| error.to_string())?;
                format!("{path}/")
            }
        };
        let name_only = host.rsplit_once(':').map_or(host, |(name, port)| match port.parse::<u16>() {
            Ok(_) => name,
            Err(_) => host,
        });
        let scheme = match scheme {
            Some(scheme @ ("http" | "https")) => scheme,
            Some(other) => return Err(format!("{other:?} is no scheme: use http or https")),
            None if plain_http || Reach::of_host(name_only) == Some(Reach::Loopback) => "http",
            None => "https",
        };
        let served_by = if host == "docker.io" { HUB_HOST } else { host };
        let base = Url::parse(&format!("{scheme}://{served_by}/v2/")).map_err(|error| error.to_string())?;
        Ok(Self { name: host.to_owned(), base, prefix })
    }

    /// What people call it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Where its API begins, with a slash at the end.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// Its host, with a port if that is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// The URL of `name` of this `kind` in `repository`, and what the registry itself calls the repository.
    pub(super) fn locate(&self, repository: &str, kind: &str, name: &str) -> Result<(Url, String), String> {
        check_repository(repository).map_err(|error| error.to_string())?;
        let repository = format!("{}{repository}", self.prefix);
        let url =
            self.base.join(&format!("{repository}/{kind}/{name}")).map_err(|error| error.to_string())?;
        Ok((url, repository))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read() {
        let rows = [
            ("docker.io", "https://registry-1.docker.io/v2/a/b/blobs/x", "docker.io", "registry-1.docker.io"),
            ("quay.io", "https://quay.io/v2/a/b/blobs/x", "quay.io", "quay.io"),
            ("https://quay.io:443/", "https://quay.io/v2/a/b/blobs/x", "quay.io:443", "quay.io"),
            ("localhost:5000", "http://localhost:5000/v2/a/b/blobs/x", "localhost:5000", "localhost:5000"),
            ("[::1]:5000", "http://[::1]:5000/v2/a/b/blobs/x", "[::1]:5000", "[::1]:5000"),
            ("[::1]", "http://[::1]/v2/a/b/blobs/x", "[::1]", "[::1]"),
            ("127.0.0.1", "http://127.0.0.1/v2/a/b/blobs/x", "127.0.0.1", "127.0.0.1"),
            ("https://127.0.0.1:1", "https://127.0.0.1:1/v2/a/b/blobs/x", "127.0.0.1:1", "127.0.0.1:1"),
            ("10.0.0.1:80", "https://10.0.0.1:80/v2/a/b/blobs/x", "10.0.0.1:80", "10.0.0.1:80"),
            ("https://h.example/hub", "https://h.example/v2/hub/a/b/blobs/x", "h.example", "h.example"),
            (
                "http://h.example:81/p/q/",
                "http://h.example:81/v2/p/q/a/b/blobs/x",
                "h.example:81",
                "h.example:81",
            ),
        ];
        for (text, url, name, authority) in rows {
            let location = Location::parse(text, false).unwrap();
            let located = location.locate("a/b", "blobs", "x").unwrap().0;
            let found = (located.as_str(), location.name(), location.authority());
            assert_eq!(found, (url, name, authority.to_owned()), "{text}");
        }
        assert_eq!(Location::parse("10.0.0.1", true).unwrap().base().scheme(), "http");
        let bad = [
            "",
            "a b",
            "ftp://a",
            "a/b",
            "user@host",
            "http://u@h",
            "http://a/B",
            "http://a/b?c",
            "http://a/../b",
            "http://",
            "https:///x",
            "http://a//b",
        ];
        for text in bad {
            assert!(Location::parse(text, false).is_err(), "{text}");
        }
    }
}
