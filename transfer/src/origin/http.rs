//! Sends requests to one registry and to whomever it names, and follows its redirects.
//!
//! HTTP/1.1 alone: a node reads a few long bodies at a time, and each on its own connection has its own congestion window
//! and can stall without the others. HTTP/2 would put all on one.
//!
//! What the registry itself may see (credentials, the client certificate) goes to its own scheme, host and port alone;
//! everybody else is asked with another client. Redirects are followed here and not by reqwest, so that one that leaves
//! the registry and comes back brings no credentials either.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, redirect};

use super::answer::{describe, text, unavailable};
use super::lookup::{AbroadLookup, Home, HomeLookup, Refused};
use super::reach::Reach;
use super::tls::Tls;
use super::{OriginError, Place, invalid};

/// Registries send blobs from elsewhere by one redirect, content networks add another; more is a loop.
const MAX_REDIRECTS: usize = 5;

/// The way to one registry.
#[derive(Debug)]
pub(super) struct Http {
    base: Url,
    at_home: Client,
    abroad: Client,
    home: Arc<Home>,
    stall: Duration,
}

/// The head of an answer.
pub(super) struct Reply {
    pub(super) response: Response,
    /// Whether it is the registry's own, and no redirect led elsewhere before.
    pub(super) is_home: bool,
}

impl Http {
    /// `stall` is for the head of each answer, `connect_timeout` for each connection with its TLS.
    pub(super) fn new(
        base: Url,
        tls: &Tls,
        connect_timeout: Duration,
        stall: Duration,
    ) -> Result<Self, String> {
        let host = base.host_str().unwrap_or_default();
        let home = Arc::new(Home::of_host(host));
        let builder = |tls: &rustls::ClientConfig| {
            let builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("faasnet/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(connect_timeout)
                .redirect(redirect::Policy::none());
            // As in Go, a proxy from the environment is never asked for this machine itself.
            if home.reach() == Reach::Loopback { builder.no_proxy() } else { builder }
        };
        let at_home = builder(&tls.home).dns_resolver(HomeLookup(home.clone())).build();
        let abroad = builder(&tls.abroad).dns_resolver(AbroadLookup(home.clone())).build();
        Ok(Self { base, at_home: at_home.map_err(describe)?, abroad: abroad.map_err(describe)?, home, stall })
    }

    /// Where the registry is, with a slash at its end.
    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// How long the head of an answer, or a body, may bring nothing.
    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// Asks for `url`, and goes where that redirects to. `authorization` is for the host of `url`.
    pub(super) async fn get(
        &self,
        method: &Method,
        url: Url,
        headers: &HeaderMap,
        mut authorization: Option<&HeaderValue>,
        place: &Place,
    ) -> Result<Reply, OriginError> {
        let mut url = url;
        let mut is_home = self.is_home(&url);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.request(method.clone(), &url).headers(headers.clone());
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = self.send(request, place).await?;
            let Some(location) = redirect_of(&response) else { return Ok(Reply { response, is_home }) };
            let next = self.check(&url, &location).map_err(|reason| invalid(place, reason))?;
            if !same_origin(&next, &url) {
                authorization = None;
                is_home = false;
            }
            url = next;
        }
        Err(invalid(place, format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// Posts a form. No redirect is followed: the form may hold a secret.
    pub(super) async fn post<F: serde::Serialize + ?Sized>(
        &self,
        url: &Url,
        form: &F,
        place: &Place,
    ) -> Result<Response, OriginError> {
        self.send(self.request(Method::POST, url).form(form), place).await
    }

    /// Whether the registry may send us from `from` to `location`, and where that is. The error says why not.
    pub(super) fn check(&self, from: &Url, location: &str) -> Result<Url, String> {
        let next = from.join(location).map_err(|error| format!("it redirects to no URL: {error}"))?;
        let host = next.host_str().unwrap_or_default();
        match next.scheme() {
            "https" => {}
            "http" if from.scheme() == "http" => {}
            "http" => return Err(format!("it sends us from https to http at {host}")),
            other => return Err(format!("it sends us to a URL with the scheme {other:?}")),
        }
        if !self.is_home(&next) && !self.home.reach().may_name(host) {
            return Err(format!(
                "it sends us to {host}, which is nearer to this node than the registry itself"
            ));
        }
        Ok(next)
    }

    fn is_home(&self, url: &Url) -> bool {
        same_origin(url, &self.base)
    }

    fn request(&self, method: Method, url: &Url) -> RequestBuilder {
        let client = if self.is_home(url) { &self.at_home } else { &self.abroad };
        // Digests and ranges are over the bytes as they are stored.
        client.request(method, url.clone()).header(header::ACCEPT_ENCODING, "identity")
    }

    async fn send(&self, request: RequestBuilder, place: &Place) -> Result<Response, OriginError> {
        match tokio::time::timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if refused_address(&error) => Err(invalid(place, describe(error))),
            Ok(Err(error)) => Err(unavailable(place, &describe(error))),
            Err(_) => Err(unavailable(place, &format!("no answer within {:?}", self.stall))),
        }
    }
}

fn same_origin(one: &Url, other: &Url) -> bool {
    let origin =
        |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port_or_known_default());
    origin(one) == origin(other)
}

fn redirect_of(response: &Response) -> Option<String> {
    let redirects = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location = text(response.headers(), header::LOCATION)?;
    redirects.contains(&response.status()).then(|| location.to_owned())
}

fn refused_address(error: &reqwest::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.any(|error| error.is::<Refused>())
}

#[cfg(test)]
mod tests {
    use super::super::tls::TlsConfig;
    use super::*;

    fn http(base: &str) -> Http {
        let second = Duration::from_secs(1);
        Http::new(base.parse().unwrap(), &TlsConfig::default().read().unwrap(), second, second).unwrap()
    }

    #[test]
    fn redirects_go_where_they_may() {
        let rows = [
            ("https://r.example/v2/", "https://store.example/x", true),
            ("https://r.example/v2/", "/elsewhere", true),
            ("https://r.example/v2/", "//store.example/x", true),
            ("https://r.example/v2/", "http://r.example/v2/x", false),
            ("https://r.example/v2/", "http://store.example/x", false),
            ("http://r.example/v2/", "https://store.example/x", true),
            ("http://r.example/v2/", "http://store.example/x", true),
            ("http://r.example/v2/", "ftp://store.example/x", false),
            ("http://r.example/v2/", "file:///etc/passwd", false),
            ("http://r.example/v2/", "http://169.254.169.254/latest/meta-data", false),
            ("http://r.example/v2/", "http://0xa9fea9fe/latest", false),
            ("http://r.example/v2/", "http://[::ffff:a9fe:a9fe]/", false),
            ("http://r.example/v2/", "http://127.0.0.1:8500/", false),
            ("http://r.example/v2/", "http://2130706433/", false),
            ("http://r.example/v2/", "http://localhost:8500/", false),
            ("https://r.example/v2/", "https://10.0.0.1/", false),
            ("http://8.8.8.8/v2/", "http://10.0.0.1/", false),
            ("http://10.0.0.2/v2/", "http://10.0.0.1:9000/", true),
            ("http://10.0.0.2/v2/", "http://169.254.169.254/", false),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:9000/", true),
            ("http://[::1]:5000/v2/", "http://10.0.0.1/", true),
            ("https://r.example/v2/", "https://", false),
        ];
        for (base, location, allowed) in rows {
            let http = http(base);
            let from = http.base().join("a/blobs/x").unwrap();
            let checked = http.check(&from, location);
            assert_eq!(checked.is_ok(), allowed, "{base} {location}: {checked:?}");
        }
    }

    #[test]
    fn home_is_one_scheme_host_and_port() {
        let rows = [
            ("https://r.example:443/x", true),
            ("https://R.example/x", true),
            ("https://r.example:8443/x", false),
            ("http://r.example/x", false),
            ("https://r.example.evil/x", false),
            ("https://evil/r.example", false),
            ("https://r.example@evil/", false),
        ];
        for (url, is_home) in rows {
            assert_eq!(http("https://r.example/v2/").is_home(&url.parse().unwrap()), is_home, "{url}");
        }
    }
}
