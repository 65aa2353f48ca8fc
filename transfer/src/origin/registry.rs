//! An origin that is an OCI registry, read anonymously over HTTP or HTTPS.
//!
//! Owns the exchanges with one registry: its address, time limits, retries, and what its answers mean.
//! [`super::blob`] reads blob bodies. Sends no credentials; a registry that wants some is reported as denying
//! access.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use serde::Deserialize;

use super::blob::{self, BlobRequest};
use super::retry::{Retry, RetryPolicy};
use super::{BlobStream, Origin, OriginError, Place, invalid};
use crate::digest::{Digest, DigestError};
use crate::manifest::{ACCEPT, Document, MAX_MANIFEST_BYTES};
use crate::reference::{Selector, check_registry, check_repository, check_tag};

/// How long a body, or the head of an answer, may bring nothing before the connection is given up. Shorter
/// than the patience of every client that waits behind us, longer than a registry takes to find a cold blob.
pub const STALL: Duration = Duration::from_secs(10);
/// Registries send blobs from elsewhere by one redirect, content networks add another; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// Registries explain refusals in a few hundred bytes of JSON.
const MAX_EXPLANATION_BYTES: usize = 8 << 10;

/// The time limits of an origin, and how it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Use HTTP even though the registry is not on this machine's loopback. Whoever is on the path can then
    /// move tags; content named by digest stays safe. Default false.
    pub plain_http: bool,
    /// For connecting, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// See [`STALL`]. Lower turns to another source sooner, but gives up on slow registries. Default 10 s.
    pub stall: Duration,
    /// For one try at a whole manifest, which is small. Default 30 s.
    pub document_timeout: Duration,
    /// How often, and when, to try again.
    pub retry: RetryPolicy,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: false,
            connect_timeout: Duration::from_secs(5),
            stall: STALL,
            document_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }
}

/// One registry.
#[derive(Debug, Clone)]
pub struct RegistryOrigin {
    name: String,
    base: Url,
    client: Client,
    config: RegistryConfig,
}

impl RegistryOrigin {
    /// The registry that references call `registry`: a host with an optional port, or such a host behind
    /// `http://` or `https://`. Without a scheme it is HTTPS, except on loopback, where registries seldom
    /// have certificates. Connects to nobody yet. The error is [`OriginError::Invalid`].
    pub fn new(registry: &str, config: RegistryConfig) -> Result<Self, OriginError> {
        let (scheme, host) = match registry.trim_end_matches('/').split_once("://") {
            Some((scheme, host)) => (Some(scheme), host),
            None => (None, registry),
        };
        let invalid = |reason: String| OriginError::Invalid {
            place: Place { origin: registry.into(), repository: String::new(), object: "registry".into() },
            reason,
        };
        check_registry(host).map_err(|error| invalid(error.to_string()))?;
        let local = is_loopback(host);
        let scheme = match scheme {
            Some(scheme @ ("http" | "https")) => scheme,
            Some(other) => return Err(invalid(format!("{other:?} is no scheme: use http or https"))),
            None if config.plain_http || local => "http",
            None => "https",
        };
        // The name that people use for Docker Hub is not the host that its registry answers on.
        let served_by = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let base =
            Url::parse(&format!("{scheme}://{served_by}/v2/")).map_err(|error| invalid(error.to_string()))?;
        let client = client(&config, local).map_err(|error| invalid(describe(error)))?;
        Ok(Self { name: host.to_owned(), base, client, config })
    }

    fn locate(&self, repository: &str, kind: &str, name: &str) -> Result<(Place, Url), OriginError> {
        let object = format!("{} {name}", kind.trim_end_matches('s'));
        let place = Place { origin: self.name.clone(), repository: repository.to_owned(), object };
        if let Err(error) = check_repository(repository) {
            return Err(OriginError::Invalid { place, reason: error.to_string() });
        }
        match self.base.join(&format!("{repository}/{kind}/{name}")) {
            Ok(url) => Ok((place, url)),
            Err(error) => Err(OriginError::Invalid { place, reason: error.to_string() }),
        }
    }

    fn locate_manifest(&self, repository: &str, selector: &Selector) -> Result<(Place, Url), OriginError> {
        let (place, url) = self.locate(repository, "manifests", &selector.to_string())?;
        match selector {
            Selector::Tag(tag) => match check_tag(tag) {
                Ok(()) => Ok((place, url)),
                Err(error) => Err(OriginError::Invalid { place, reason: error.to_string() }),
            },
            Selector::Digest(_) => Ok((place, url)),
        }
    }

    /// One document or one head, tried again as long as the policy allows.
    async fn ask(&self, method: Method, url: &Url, place: &Place) -> Result<Answer, OriginError> {
        let mut retry = Retry::new(self.config.retry);
        loop {
            let tried =
                tokio::time::timeout(self.config.document_timeout, self.ask_once(&method, url, place));
            let late = || unavailable(place, "no complete answer in time");
            match tried.await.unwrap_or_else(|_| Err(late())) {
                Ok(answer) => return Ok(answer),
                Err(error) => pause(&mut retry, error).await?,
            }
        }
    }

    async fn ask_once(&self, method: &Method, url: &Url, place: &Place) -> Result<Answer, OriginError> {
        let request = self.client.request(method.clone(), url.clone()).header(header::ACCEPT, ACCEPT);
        let response = send(request, place, self.config.stall).await?;
        let headers = response.headers().clone();
        let body = read_body(response, place, self.config.stall, MAX_MANIFEST_BYTES).await?;
        match body {
            Some(body) => Ok(Answer { headers, body }),
            None => {
                Err(invalid(place, format!("more than {MAX_MANIFEST_BYTES} bytes, so it is no manifest")))
            }
        }
    }
}

#[async_trait]
impl Origin for RegistryOrigin {
    async fn manifest(&self, repository: &str, selector: &Selector) -> Result<Document, OriginError> {
        let (place, url) = self.locate_manifest(repository, selector)?;
        let Answer { headers, body } = self.ask(Method::GET, &url, &place).await?;
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let document =
            Document::received(content_type, body).map_err(|error| invalid(&place, error.to_string()))?;
        let claimed = content_digest(&headers).map_err(|error| invalid(&place, error.to_string()))?;
        let asked = match selector {
            Selector::Digest(digest) => Some(*digest),
            Selector::Tag(_) => None,
        };
        for expected in [asked, claimed].into_iter().flatten() {
            if expected != document.digest {
                let reason = format!("the bytes hash to {}, not to {expected}", document.digest);
                return Err(invalid(&place, reason));
            }
        }
        Ok(document)
    }

    async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError> {
        let (place, url) = self.locate_manifest(repository, selector)?;
        let Answer { headers, .. } = self.ask(Method::HEAD, &url, &place).await?;
        match (content_digest(&headers).map_err(|error| invalid(&place, error.to_string()))?, selector) {
            (Some(found), Selector::Digest(asked)) if found != *asked => {
                Err(invalid(&place, format!("asked for {asked}, it answers for {found}")))
            }
            (Some(found), _) => Ok(found),
            // The header is optional in the specification; only the document itself tells then.
            (None, _) => Ok(self.manifest(repository, selector).await?.digest),
        }
    }

    async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        let (place, url) = self.locate(repository, "blobs", &digest.to_string())?;
        let Answer { headers, .. } = self.ask(Method::HEAD, &url, &place).await?;
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        length.ok_or_else(|| invalid(&place, "it does not say how long the blob is".into()))
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let (place, url) = self.locate(repository, "blobs", &digest.to_string())?;
        let request = BlobRequest { client: self.client.clone(), url, place, stall: self.config.stall };
        blob::read(request, range, self.config.retry).await
    }
}

/// A successful answer; the body of a HEAD is empty.
struct Answer {
    headers: HeaderMap,
    body: Bytes,
}

/// Sends one request. The answer is one of success, in the encoding that was asked for.
pub(super) async fn send(
    request: reqwest::RequestBuilder,
    place: &Place,
    stall: Duration,
) -> Result<Response, OriginError> {
    // Digests and ranges are over the bytes as they are stored.
    let request = request.header(header::ACCEPT_ENCODING, "identity");
    let response = match tokio::time::timeout(stall, request.send()).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) if error.is_redirect() => return Err(invalid(place, describe(error))),
        Ok(Err(error)) => return Err(unavailable(place, &describe(error))),
        Err(_) => return Err(unavailable(place, &format!("no answer within {stall:?}"))),
    };
    if !response.status().is_success() {
        return Err(refusal(response, place, stall).await);
    }
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    match encoding.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase()) {
        Some(encoding) if encoding != "identity" => {
            Err(invalid(place, format!("encoded as {encoding} although that was not asked for")))
        }
        _ => Ok(response),
    }
}

/// Waits as the policy says, or returns `error` when it is time to give up.
pub(super) async fn pause(retry: &mut Retry, error: OriginError) -> Result<(), OriginError> {
    let OriginError::Unavailable { retry_after, .. } = error else { return Err(error) };
    match retry.failed(retry_after, rand::random()) {
        Some(pause) => {
            tracing::debug!(%error, ?pause, "trying the origin again");
            tokio::time::sleep(pause).await;
            Ok(())
        }
        None => Err(error),
    }
}

pub(super) fn unavailable(place: &Place, reason: &str) -> OriginError {
    OriginError::Unavailable { place: place.clone(), reason: reason.to_owned(), retry_after: None }
}

/// An error with its causes, without the URL: behind a redirect that carries somebody's signature.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What an answer without success means.
async fn refusal(response: Response, place: &Place, stall: Duration) -> OriginError {
    let status = response.status();
    let retry_after = retry_after(response.headers());
    let place = place.clone();
    let said = match read_body(response, &place, stall, MAX_EXPLANATION_BYTES).await {
        Ok(Some(body)) => explanation(&body),
        _ => String::new(),
    };
    let reason = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    match status {
        StatusCode::NOT_FOUND => OriginError::NotFound { place, reason: said },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OriginError::Denied { place, reason },
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            OriginError::Unavailable { place, reason, retry_after }
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            OriginError::Invalid { place, reason: format!("{reason}: the blob is shorter than was expected") }
        }
        _ if status.is_server_error() => OriginError::Unavailable { place, reason, retry_after },
        _ => OriginError::Invalid { place, reason },
    }
}

/// The whole body, or `None` if it has more than `limit` bytes.
async fn read_body(
    mut response: Response,
    place: &Place,
    stall: Duration,
    limit: usize,
) -> Result<Option<Bytes>, OriginError> {
    let mut body = BytesMut::new();
    loop {
        match tokio::time::timeout(stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > limit => return Ok(None),
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(Some(body.freeze())),
            Ok(Err(error)) => return Err(unavailable(place, &describe(error))),
            Err(_) => return Err(unavailable(place, &format!("no bytes within {stall:?}"))),
        }
    }
}

/// What a registry says in the specification's error format, in one line that is fit for a log.
fn explanation(body: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Explained>,
    }
    #[derive(Deserialize)]
    struct Explained {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|body| body.errors).unwrap_or_default();
    let said = errors.first().map(|first| format!("{} {}", first.code, first.message)).unwrap_or_default();
    said.trim().chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

/// `Retry-After` in seconds. Its other form, a date, says nothing without a clock that agrees with the
/// origin's.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The digest in the headers, if it is of the kind that we can compare.
fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, DigestError> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    match String::from_utf8_lossy(value.as_bytes()).parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn client(config: &RegistryConfig, local: bool) -> Result<Client, reqwest::Error> {
    let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default TLS versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("faasnet/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(config.connect_timeout)
        .redirect(redirect::Policy::custom(follow));
    // As in Go, a proxy from the environment is never asked for this machine itself.
    if local { builder.no_proxy() } else { builder }.build()
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade = attempt.url().scheme() != "https"
        && attempt.previous().first().is_some_and(|first| first.scheme() == "https");
    if downgrade {
        attempt.error("a redirect from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error(format!("more than {MAX_REDIRECTS} redirects"))
    } else {
        attempt.follow()
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
