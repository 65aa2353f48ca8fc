//! One server that speaks the OCI pull API, asked once: a registry, or a mirror of one.
//!
//! Owns what a single request is made of: where it goes, what it shows, what it waits for beforehand, and what its answer
//! means. Who is asked, in which order and how often is [`super::registry`]'s to say; bodies of blobs are
//! [`super::blob`]'s to read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use tokio::time::timeout;

use super::answer::{FIRST_PAUSE, accept, content_digest, read_body, text, unavailable};
use super::authorizer::Authorizer;
use super::budget::{Budget, Permit};
use super::counts::OriginCounts;
use super::http::Http;
use super::listing::{self, Answered, Listing};
use super::location::Location;
use super::pause::Pause;
use super::registry::RegistryConfig;
use super::tls::Tls;
use super::{OriginError, Place, invalid};
use crate::digest::Digest;
use crate::manifest::{ACCEPT, Document, MAX_MANIFEST_BYTES};
use crate::reference::{Selector, check_tag};

/// How long a mirror that could not be reached is passed over, so that not every request pays for finding out.
const MIRROR_REST: Duration = Duration::from_secs(30);
/// The longest that a registry is left alone which answers 429 again and again without saying how long.
const MAX_UNSAID_PAUSE: Duration = Duration::from_secs(60);
/// The most blobs of which a mirror is known to have other bytes; past it, the table starts anew.
const MAX_DISTRUSTED: usize = 1024;

/// One server.
#[derive(Debug)]
pub(super) struct Upstream {
    location: Location,
    http: Http,
    authorizer: Authorizer,
    pause: Arc<Pause>,
    /// How often in a row it answered 429 without saying how long to stay away.
    throttles: AtomicU32,
    distrusted: Mutex<BTreeSet<Digest>>,
    shared: Arc<Shared>,
}

/// What an origin and its mirrors have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RegistryConfig,
    pub(super) budget: Budget,
}

/// One request.
struct Call {
    method: Method,
    url: Url,
    place: Place,
    /// As the server calls it, for tokens.
    repository: String,
    headers: HeaderMap,
}

/// A successful answer, or one that says that there is no HEAD. The body of a HEAD is empty.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    url: Url,
    body: Bytes,
}

impl Upstream {
    /// The registry at `location`.
    pub(super) fn origin(location: Location, tls: &Tls, shared: Arc<Shared>) -> Result<Self, String> {
        let (pause, credentials) = (shared.config.pause.clone(), shared.config.credentials.clone());
        Self::new(location, tls, pause, credentials, shared)
    }

    /// A mirror at `location`. It sees neither the origin's credentials nor our certificate, and its pauses are its own.
    pub(super) fn mirror(location: Location, tls: &Tls, shared: Arc<Shared>) -> Result<Self, String> {
        let credentials =
            shared.config.credentials.as_ref().and_then(|credentials| credentials.for_mirrors());
        let tls = Tls { home: tls.abroad.clone(), abroad: tls.abroad.clone() };
        Self::new(location, &tls, Arc::default(), credentials, shared)
    }

    fn new(
        location: Location,
        tls: &Tls,
        pause: Arc<Pause>,
        credentials: Option<super::Credentials>,
        shared: Arc<Shared>,
    ) -> Result<Self, String> {
        let RegistryConfig { connect_timeout, stall, .. } = shared.config;
        let http = Http::new(location.base().clone(), tls, connect_timeout, stall)?;
        let authorizer = Authorizer::new(location.authority(), credentials);
        Ok(Self {
            location,
            http,
            authorizer,
            pause,
            throttles: AtomicU32::new(0),
            distrusted: Mutex::default(),
            shared,
        })
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    // Of mirrors.

    /// Whether it is to be passed over for now.
    pub(super) fn rests(&self) -> bool {
        self.pause.remaining().is_some()
    }

    /// Remembers why it was passed over.
    pub(super) fn passed_over(&self, error: &OriginError) {
        if let OriginError::Unavailable { .. } = error
            && self.pause.ask_for(MIRROR_REST)
        {
            tracing::info!(%error, "passing over a mirror for a while");
        } else {
            tracing::debug!(%error, "passing over a mirror");
        }
    }

    /// Whether it is known to have other bytes under that digest.
    pub(super) fn is_distrusted(&self, digest: &Digest) -> bool {
        self.distrusted.lock().contains(digest)
    }

    /// Not to be asked for that blob again.
    pub(super) fn distrust(&self, digest: Digest) {
        let mut distrusted = self.distrusted.lock();
        if distrusted.len() >= MAX_DISTRUSTED {
            distrusted.clear();
        }
        distrusted.insert(digest);
    }

    // Documents.

    /// The whole document, if its bytes match its digest and the selector's.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        selector: &Selector,
    ) -> Result<Document, OriginError> {
        let call = self.for_manifest(Method::GET, repository, selector)?;
        self.wait(&call.place).await?;
        let result = self.document(&call, MAX_MANIFEST_BYTES).await;
        self.counted(result.and_then(|answer| checked(answer, selector, &call.place)))
    }

    /// The digest that the selector stands for.
    pub(super) async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError> {
        let call = self.for_manifest(Method::HEAD, repository, selector)?;
        self.wait(&call.place).await?;
        let told = self.document(&call, 0).await.and_then(|answer| {
            let told =
                content_digest(&answer.headers).map_err(|error| invalid(&call.place, error.to_string()))?;
            match (told, selector) {
                (Some(found), Selector::Digest(asked)) if found != *asked => {
                    Err(invalid(&call.place, format!("asked for {asked}, it answers for {found}")))
                }
                (told, _) => Ok(told.filter(|_| answer.status.is_success())),
            }
        });
        match self.counted(told)? {
            Some(digest) => Ok(digest),
            // The header is optional in the specification, and some know no HEAD; only the document itself tells then.
            None => Ok(self.manifest(repository, selector).await?.digest),
        }
    }

    /// How many bytes the blob has.
    pub(super) async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        let mut call = self.for_blob(Method::HEAD, repository, digest)?;
        self.wait(&call.place).await?;
        let answer = self.counted(self.document(&call, 0).await)?;
        if answer.status.is_success()
            && let Some(length) = length(&answer.headers)
        {
            return Ok(length);
        }
        // A range of one byte tells what HEAD does not.
        call.method = Method::GET;
        call.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        self.wait(&call.place).await?;
        let permit = self.shared.budget.document().await;
        let told = self.open(&call, permit).await.and_then(|(response, _permit)| {
            let range = text(response.headers(), header::CONTENT_RANGE);
            let told = match response.status() {
                StatusCode::PARTIAL_CONTENT => range.and_then(|range| range.rsplit('/').next()?.parse().ok()),
                _ => length(response.headers()),
            };
            told.ok_or_else(|| invalid(&call.place, "it does not say how long the blob is".into()))
        });
        self.counted(told)
    }

    /// One page of a list.
    pub(super) async fn list(
        &self,
        repository: &str,
        listing: &Listing,
        query: &str,
    ) -> Result<Answered, OriginError> {
        let (kind, name) = listing.path();
        let mut call = self.call(Method::GET, repository, kind, &name)?;
        call.url.set_query(listing::clean(query).as_deref());
        call.headers.insert(header::ACCEPT, HeaderValue::from_static(listing.accept()));
        self.wait(&call.place).await?;
        let result = self.document(&call, listing::MAX_LISTING_BYTES).await;
        self.counted(result.and_then(|Answer { headers, url, body, .. }| {
            listing::read(&headers, &url, body).map_err(|reason| invalid(&call.place, reason))
        }))
    }

    // Blobs.

    /// The head of an answer with the bytes of `range`, a `Range` header, and leave to read them.
    pub(super) async fn open_blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: &str,
    ) -> Result<(Response, Permit), OriginError> {
        let mut call = self.for_blob(Method::GET, repository, digest)?;
        let range = HeaderValue::from_str(range).map_err(|error| invalid(&call.place, error.to_string()))?;
        call.headers.insert(header::RANGE, range);
        let permit = self.shared.budget.blob().await;
        self.open(&call, permit).await
    }

    pub(super) fn place(&self, repository: &str, object: String) -> Place {
        Place { origin: self.location.name().to_owned(), repository: repository.to_owned(), object }
    }

    pub(super) fn counts(&self) -> &OriginCounts {
        &self.shared.config.counts
    }

    fn counted<T>(&self, result: Result<T, OriginError>) -> Result<T, OriginError> {
        self.counts().record(&result);
        result
    }

    // One request.

    fn for_manifest(
        &self,
        method: Method,
        repository: &str,
        selector: &Selector,
    ) -> Result<Call, OriginError> {
        let mut call = self.call(method, repository, "manifests", &selector.to_string())?;
        if let Selector::Tag(tag) = selector {
            check_tag(tag).map_err(|error| invalid(&call.place, error.to_string()))?;
        }
        call.headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        Ok(call)
    }

    fn for_blob(&self, method: Method, repository: &str, digest: &Digest) -> Result<Call, OriginError> {
        self.call(method, repository, "blobs", &digest.to_string())
    }

    fn call(&self, method: Method, repository: &str, kind: &str, name: &str) -> Result<Call, OriginError> {
        let place = self.place(repository, format!("{} {name}", kind.trim_end_matches('s')));
        let located = self.location.locate(repository, kind, name);
        let (url, repository) = located.map_err(|reason| invalid(&place, reason))?;
        Ok(Call { method, url, place, repository, headers: HeaderMap::new() })
    }

    /// A whole answer of at most `limit` bytes.
    async fn document(&self, call: &Call, limit: usize) -> Result<Answer, OriginError> {
        let permit = self.shared.budget.document().await;
        let config = &self.shared.config;
        let exchange = async {
            let (response, permit) = self.open(call, permit).await?;
            let (status, headers, url) =
                (response.status(), response.headers().clone(), response.url().clone());
            let body = match call.method {
                Method::HEAD => Some(Bytes::new()),
                _ => read_body(response, &call.place, config.stall, limit).await?,
            };
            drop(permit);
            let body = body.ok_or_else(|| invalid(&call.place, format!("it has more than {limit} bytes")))?;
            self.shared.budget.charge(body.len());
            Ok(Answer { status, headers, url, body })
        };
        let late = || unavailable(&call.place, "no complete answer in time");
        timeout(config.document_timeout, exchange).await.unwrap_or_else(|_| Err(late()))
    }

    /// Waits until the server may be asked, if that is soon. To be called before each request.
    pub(super) async fn wait(&self, place: &Place) -> Result<(), OriginError> {
        let patience = self.shared.config.retry.max_retry_after;
        let Some(left) = self.pause.remaining() else { return Ok(()) };
        if left <= patience && timeout(patience, self.pause.over()).await.is_ok() {
            // Spreads those who waited together.
            tokio::time::sleep((left / 4).mul_f64(rand::random())).await;
            return Ok(());
        }
        let retry_after = self.pause.remaining().unwrap_or(left);
        let reason = format!("it asks to be left alone for another {} s", retry_after.as_secs_f64().ceil());
        Err(OriginError::Unavailable { place: place.clone(), reason, retry_after: Some(retry_after) })
    }

    /// Sends one request, once more with other credentials if the first ones are refused. The answer is one of success.
    async fn open(&self, call: &Call, permit: Permit) -> Result<(Response, Permit), OriginError> {
        let result = self.ask(call).await;
        match &result {
            Ok(_) => self.throttles.store(0, Ordering::Relaxed),
            Err(OriginError::Unavailable { retry_after: Some(asked), .. }) => {
                self.pause.ask_for(*asked);
            }
            Err(_) => {}
        }
        result.map(|response| (response, permit))
    }

    async fn ask(&self, call: &Call) -> Result<Response, OriginError> {
        let Call { method, url, place, repository, headers } = call;
        let shown = self.authorizer.authorization(&self.http, repository, place).await?;
        let reply = self.http.get(method, url.clone(), headers, shown.as_ref(), place).await?;
        let mut response = reply.response;
        let is_refused = match response.status() {
            StatusCode::UNAUTHORIZED => reply.is_home,
            // ECR says so when a password has ended.
            StatusCode::FORBIDDEN => reply.is_home && Authorizer::is_basic(shown.as_ref()),
            _ => false,
        };
        if is_refused {
            let refused = response.headers();
            let other =
                self.authorizer.instead(&self.http, repository, refused, shown.as_ref(), place).await?;
            if let Some(other) = other {
                response = self.http.get(method, url.clone(), headers, Some(&other), place).await?.response;
            }
        }
        if *method == Method::HEAD && knows_no_head(response.status()) {
            return Ok(response);
        }
        let unsaid = match response.status() {
            StatusCode::TOO_MANY_REQUESTS => self.unsaid_pause(),
            _ => FIRST_PAUSE,
        };
        match accept(response, place, self.http.stall(), unsaid).await {
            Err(OriginError::Denied { place, reason })
                if is_refused && !self.authorizer.has_credentials() =>
            {
                let reason = format!("{reason} (it wants credentials, and none are configured for it)");
                Err(OriginError::Denied { place, reason })
            }
            result => result,
        }
    }

    /// How long to stay away after a 429 that does not say it: twice as long each time, but once for all who were
    /// answered so together.
    fn unsaid_pause(&self) -> Duration {
        let so_far = match self.pause.remaining() {
            Some(_) => self.throttles.load(Ordering::Relaxed).saturating_sub(1),
            None => self.throttles.fetch_add(1, Ordering::Relaxed),
        };
        FIRST_PAUSE.saturating_mul(1 << so_far.min(16)).min(MAX_UNSAID_PAUSE)
    }
}

fn knows_no_head(status: StatusCode) -> bool {
    [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED].contains(&status)
}

fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.parse().ok()
}

/// The document, if it is what was asked for.
fn checked(answer: Answer, selector: &Selector, place: &Place) -> Result<Document, OriginError> {
    let Answer { headers, body, .. } = answer;
    let content_type = text(&headers, header::CONTENT_TYPE);
    let document =
        Document::received(content_type, body).map_err(|error| invalid(place, error.to_string()))?;
    let claimed = content_digest(&headers).map_err(|error| invalid(place, error.to_string()))?;
    let asked = match selector {
        Selector::Digest(digest) => Some(*digest),
        Selector::Tag(_) => None,
    };
    for expected in [asked, claimed].into_iter().flatten() {
        if expected != document.digest {
            let reason = format!("the bytes hash to {}, not to {expected}", document.digest);
            return Err(invalid(place, reason));
        }
    }
    Ok(document)
}
