//! An origin that is an OCI registry, with its mirrors.
//!
//! Owns who is asked, in which order, and how often: the mirrors first, each once; then the registry itself, as often as
//! the policy of retries allows. What one request is made of is [`super::upstream`]'s to say.

use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::blob;
use super::budget::Budget;
use super::counts::OriginCounts;
use super::listing::{Answered, Listing};
use super::location::Location;
use super::pause::Pause;
use super::retry::{Retry, RetryPolicy};
use super::tls::{Tls, TlsConfig};
use super::upstream::{Shared, Upstream};
use super::{BlobStream, Credentials, Origin, OriginError, Place};
use crate::digest::Digest;
use crate::manifest::Document;
use crate::reference::Selector;

/// How long a body, or the head of an answer, may bring nothing before the connection is given up. Shorter
/// than the patience of every client that waits behind us, longer than a registry takes to find a cold blob.
pub const STALL: Duration = Duration::from_secs(10);

/// Over how long a time of waiting a body's rate is judged: a registry that is busy may drip for a while.
const DRIP_WINDOW: Duration = Duration::from_secs(30);

/// How an origin is reached, and within which limits.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Use HTTP even though the registry is not on this machine's loopback. Whoever is on the path can then
    /// move tags; content named by digest stays safe. Default false.
    pub plain_http: bool,
    /// Registries with the same content, like the registry itself in [`RegistryOrigin::new`]. They are asked first, in
    /// this order, for everything but lists, of which mirrors seldom have all.
    pub mirrors: Vec<String>,
    /// Whom to believe, and how to prove who we are.
    pub tls: TlsConfig,
    /// What to show the registry if it asks. Default: nothing.
    pub credentials: Option<Credentials>,
    /// The most requests that are open at once, mirrors included. Default 64.
    pub max_requests: NonZeroU32,
    /// The most bytes a second of all bodies, mirrors included. Default: no limit.
    pub max_rate: Option<NonZeroU64>,
    /// How long the registry asks to be left alone. Others may read and lengthen it.
    pub pause: Arc<Pause>,
    /// What came of all requests.
    pub counts: Arc<OriginCounts>,
    /// For connecting, TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// See [`STALL`]. Lower turns to another source sooner, but gives up on slow registries. Default 10 s.
    pub stall: Duration,
    /// Over how long a time of waiting for its bytes a body must bring 1 KiB a second. Default 30 s.
    pub drip_window: Duration,
    /// For one try at a whole manifest, which is small. Default 30 s.
    pub document_timeout: Duration,
    /// How often, and when, to try again.
    pub retry: RetryPolicy,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            plain_http: false,
            mirrors: Vec::new(),
            tls: TlsConfig::default(),
            credentials: None,
            max_requests: NonZeroU32::new(64).expect("not zero"),
            max_rate: None,
            pause: Arc::default(),
            counts: Arc::default(),
            connect_timeout: Duration::from_secs(5),
            stall: STALL,
            drip_window: DRIP_WINDOW,
            document_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
        }
    }
}

/// One registry.
#[derive(Debug, Clone)]
pub struct RegistryOrigin {
    mirrors: Vec<Arc<Upstream>>,
    origin: Arc<Upstream>,
    retry: RetryPolicy,
}

impl RegistryOrigin {
    /// The registry that references call `registry`: a host with an optional port, or such a host behind
    /// `http://` or `https://`, with an optional path that stands before all repositories. Without a scheme it is HTTPS,
    /// except on loopback, where registries seldom have certificates.
    ///
    /// Reads certificates; connects to nobody yet. The error is [`OriginError::Invalid`].
    pub fn new(registry: &str, config: RegistryConfig) -> Result<Self, OriginError> {
        let invalid = |(text, reason): (&str, String)| OriginError::Invalid {
            place: Place { origin: text.to_owned(), repository: String::new(), object: "registry".into() },
            reason,
        };
        let tls = config.tls.read().map_err(|reason| invalid((registry, reason)))?;
        let retry = config.retry;
        let budget = Budget::new(config.max_requests, config.max_rate);
        let shared = Arc::new(Shared { config, budget });
        type Make = fn(Location, &Tls, Arc<Shared>) -> Result<Upstream, String>;
        let open = |text: &str, make: Make| {
            let location = Location::parse(text, shared.config.plain_http);
            let made = location.and_then(|location| make(location, &tls, shared.clone()));
            made.map(Arc::new).map_err(|reason| invalid((text, reason)))
        };
        let mirrors = shared.config.mirrors.iter().map(|mirror| open(mirror, Upstream::mirror));
        Ok(Self {
            mirrors: mirrors.collect::<Result<_, _>>()?,
            origin: open(registry, Upstream::origin)?,
            retry,
        })
    }

    /// What the first has who has it: each mirror is asked once, the registry itself as often as the policy allows.
    async fn first<'a, T, F>(&'a self, ask: impl Fn(&'a Upstream) -> F) -> Result<T, OriginError>
    where
        F: Future<Output = Result<T, OriginError>>,
    {
        for mirror in self.mirrors.iter().filter(|mirror| !mirror.rests()) {
            match ask(mirror).await {
                Ok(found) => return Ok(found),
                Err(error) => mirror.passed_over(&error),
            }
        }
        let mut retry = Retry::new(self.retry);
        loop {
            match ask(&self.origin).await {
                Ok(found) => return Ok(found),
                Err(error) => pause(&mut retry, error).await?,
            }
        }
    }
}

#[async_trait]
impl Origin for RegistryOrigin {
    async fn manifest(&self, repository: &str, selector: &Selector) -> Result<Document, OriginError> {
        self.first(|upstream| upstream.manifest(repository, selector)).await
    }

    async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError> {
        self.first(|upstream| upstream.head(repository, selector)).await
    }

    async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        self.first(|upstream| upstream.blob_size(repository, digest)).await
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let mirrors = self.mirrors.iter().filter(|mirror| !mirror.rests() && !mirror.is_distrusted(digest));
        let sources = mirrors.chain([&self.origin]).cloned().collect();
        blob::read(sources, repository, *digest, range, self.retry).await
    }

    async fn list(&self, repository: &str, listing: &Listing, query: &str) -> Result<Answered, OriginError> {
        let mut retry = Retry::new(self.retry);
        loop {
            match self.origin.list(repository, listing, query).await {
                Ok(found) => return Ok(found),
                Err(error) => pause(&mut retry, error).await?,
            }
        }
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
