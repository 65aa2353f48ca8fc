//! A registry in this process, with a narrow uplink that all its clients share.
//!
//! Serves the pull half of the OCI distribution specification over HTTP on loopback, from any [`Origin`], and
//! counts the bytes that leave: what a burst costs its origin. Keeps nothing and checks nothing; anybody may
//! read.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use transfer::digest::Digest;
use transfer::origin::{BlobStream, Origin, OriginError};
use transfer::reference::Selector;

use crate::range::{self, Ranges};

/// The piece in which clients take turns. Small, so that many clients advance together; at 1 Gbit/s it takes
/// 0.1 ms, and thousands a second cost little.
const TURN_BYTES: usize = 16 << 10;
/// How far the uplink may catch up after it stood idle or a timer fired late. Timers tick in milliseconds.
const MAX_CATCH_UP: Duration = Duration::from_millis(20);

/// A running registry. Dropping it stops it and breaks off what it is sending.
#[derive(Debug)]
pub struct EmbeddedRegistry {
    address: SocketAddr,
    uplink: Arc<Uplink>,
    _stop: DropGuard,
}

impl EmbeddedRegistry {
    /// Serves `origin` on a free port of 127.0.0.1, with at most `bytes_per_second` of bodies to all clients
    /// together.
    pub async fn start(origin: Arc<dyn Origin>, bytes_per_second: NonZeroU64) -> Result<Self> {
        let listener =
            TcpListener::bind("127.0.0.1:0").await.context("the demo registry found no free port")?;
        let address = listener.local_addr().context("the demo registry has no address")?;
        let bucket = Mutex::new(Bucket { bytes_per_second, free_at: Instant::now() });
        let uplink = Arc::new(Uplink { bucket, sent: AtomicU64::new(0) });
        let stop = CancellationToken::new();
        let service = Service { origin, uplink: uplink.clone(), stop: stop.clone() };
        let router = axum::Router::new()
            .route("/v2/", any(|| async { Json(json!({})) }))
            .route("/v2/{*path}", any(answer))
            .with_state(service);
        let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the demo registry stopped");
            }
        });
        Ok(Self { address, uplink, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of bodies sent, since the start or the last [`reset_egress`](Self::reset_egress).
    pub fn egress_bytes(&self) -> u64 {
        self.uplink.sent.load(Ordering::Relaxed)
    }

    /// Counts from zero again.
    pub fn reset_egress(&self) {
        self.uplink.sent.store(0, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Service {
    origin: Arc<dyn Origin>,
    uplink: Arc<Uplink>,
    stop: CancellationToken,
}

async fn answer(
    State(service): State<Service>,
    method: Method,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only");
    }
    let Some((repository, kind, name)) = split(&path) else {
        return refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such path");
    };
    let whole = method == Method::GET;
    let answered = match (kind, name.parse()) {
        ("manifests", Ok(selector)) => service.manifest(repository, &selector, whole).await,
        ("blobs", Ok(Selector::Digest(digest))) => {
            let range = headers.get(header::RANGE).map(|value| value.to_str().unwrap_or_default());
            service.blob(repository, &digest, range, whole).await
        }
        _ => return refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "neither a tag nor a sha256 digest"),
    };
    answered.unwrap_or_else(|error| {
        let (status, code) = match &error {
            OriginError::NotFound { .. } if kind == "blobs" => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
            OriginError::NotFound { .. } => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
            OriginError::Denied { .. } => (StatusCode::FORBIDDEN, "DENIED"),
            OriginError::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            OriginError::Invalid { .. } => (StatusCode::BAD_GATEWAY, "UNAVAILABLE"),
        };
        refuse(status, code, &error.to_string())
    })
}

impl Service {
    async fn manifest(
        &self,
        repository: &str,
        selector: &Selector,
        whole: bool,
    ) -> Result<Response, OriginError> {
        let document = self.origin.manifest(repository, selector).await?;
        let response = Response::builder()
            .header(header::CONTENT_TYPE, document.media_type)
            .header(header::CONTENT_LENGTH, document.bytes.len())
            .header("docker-content-digest", document.digest.to_string());
        let bytes = document.bytes;
        let body = || self.body(stream::once(async { Ok(bytes) }).boxed());
        Ok(finish(response, whole.then(body)))
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Option<&str>,
        whole: bool,
    ) -> Result<Response, OriginError> {
        let size = self.origin.blob_size(repository, digest).await?;
        let mut response = Response::builder()
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT_RANGES, "bytes")
            .header("docker-content-digest", digest.to_string());
        let asked = range.filter(|_| whole).map_or(Ranges::Whole, |range| range::parse(range, size));
        let range = match asked {
            Ranges::Whole => None,
            Ranges::From(start) => Some(start..size),
            Ranges::One(range) => Some(range),
            Ranges::Beyond => {
                let headers = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
            }
            Ranges::Several(_) | Ranges::TooMany => {
                let why = "not a single range of bytes";
                return Ok(refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", why));
            }
        };
        if let Some(range) = &range {
            let (first, last) = (range.start, range.end - 1);
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {first}-{last}/{size}"));
        }
        let range = range.unwrap_or(0..size);
        let response = response.header(header::CONTENT_LENGTH, range.end - range.start);
        let body = if whole { Some(self.origin.blob(repository, digest, range).await?) } else { None };
        Ok(finish(response, body.map(|stream| self.body(stream))))
    }

    /// A body that takes its turns at the uplink, and breaks off when the registry stops.
    fn body(&self, stream: BlobStream) -> Body {
        let uplink = self.uplink.clone();
        let turns = stream.map_ok(turns).try_flatten().and_then(move |turn: Bytes| {
            let uplink = uplink.clone();
            async move {
                uplink.send(turn.len()).await;
                Ok(turn)
            }
        });
        // The end comes short of Content-Length then, which closes the connection.
        Body::from_stream(turns.take_until(self.stop.clone().cancelled_owned()))
    }
}

fn turns(mut chunk: Bytes) -> impl futures_util::Stream<Item = Result<Bytes, OriginError>> {
    stream::iter(std::iter::from_fn(move || {
        let turn = chunk.split_to(chunk.len().min(TURN_BYTES));
        (!turn.is_empty()).then_some(Ok(turn))
    }))
}

/// The one way out, shared by all bodies.
#[derive(Debug)]
struct Uplink {
    bucket: Mutex<Bucket>,
    sent: AtomicU64,
}

impl Uplink {
    /// Waits until `bytes` have had their turn. Each body waits for one turn at a time, so bodies share
    /// evenly.
    async fn send(&self, bytes: usize) {
        let sent_at = self.bucket.lock().reserve(Instant::now(), bytes);
        tokio::time::sleep_until(sent_at).await;
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A token bucket, kept as the time at which what was reserved so far is sent.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: NonZeroU64,
    free_at: Instant,
}

impl Bucket {
    /// When the last of `bytes` leaves, if they follow everything reserved before.
    fn reserve(&mut self, now: Instant, bytes: usize) -> Instant {
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.get() as f64);
        let earliest = now.checked_sub(MAX_CATCH_UP).unwrap_or(now);
        self.free_at = self.free_at.max(earliest) + takes;
        self.free_at
    }
}

/// `<repository>/manifests|blobs/<name>`
fn split(path: &str) -> Option<(&str, &str, &str)> {
    let (rest, name) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    Some((repository, kind, name))
}

fn finish(response: axum::http::response::Builder, body: Option<Body>) -> Response {
    let response = response.body(body.unwrap_or_else(Body::empty));
    response.unwrap_or_else(|error| {
        refuse(
            StatusCode::BAD_GATEWAY,
            "UNAVAILABLE",
            &format!("the origin's answer cannot be passed on: {error}"),
        )
    })
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use transfer::manifest::Manifest;
    use transfer::origin::retry::RetryPolicy;
    use transfer::origin::{RegistryConfig, RegistryOrigin, open_local};

    use super::*;
    use crate::demo::image;

    const BYTES: u64 = 3_000_000;

    async fn start(rate: u64) -> (EmbeddedRegistry, RegistryOrigin, TempDir) {
        let directory = TempDir::new().unwrap();
        image::write(directory.path(), BYTES, 1).unwrap();
        let layout = open_local(directory.path()).await.unwrap();
        let registry =
            EmbeddedRegistry::start(Arc::new(layout), NonZeroU64::new(rate).unwrap()).await.unwrap();
        let retry = RetryPolicy { tries: 2, base: Duration::from_millis(1), ..RetryPolicy::default() };
        let config = RegistryConfig { retry, ..RegistryConfig::default() };
        let client = RegistryOrigin::new(&registry.address().to_string(), config).unwrap();
        (registry, client, directory)
    }

    fn latest() -> Selector {
        Selector::Tag(image::TAG.into())
    }

    async fn collect(stream: BlobStream) -> Result<Vec<u8>, OriginError> {
        let chunks: Vec<Bytes> = stream.try_collect().await?;
        Ok(chunks.concat())
    }

    #[tokio::test]
    async fn what_the_origin_has_is_served_and_counted() {
        let (registry, client, _directory) = start(1 << 40).await;
        let document = client.manifest("demo/x", &latest()).await.unwrap();
        assert_eq!(client.head("demo/x", &latest()).await.unwrap(), document.digest);
        assert_eq!(registry.egress_bytes(), document.bytes.len() as u64, "heads send no body");
        registry.reset_egress();
        let manifest = Manifest::parse(&document).unwrap();
        let mut total = 0;
        for blob in manifest.blobs() {
            assert_eq!(client.blob_size("demo/x", &blob.digest).await.unwrap(), blob.size);
            let bytes =
                collect(client.blob("demo/x", &blob.digest, 0..blob.size).await.unwrap()).await.unwrap();
            assert_eq!(Digest::of(&bytes), blob.digest);
            let part = collect(client.blob("demo/x", &blob.digest, 100..300).await.unwrap()).await.unwrap();
            assert_eq!(part, bytes[100..300]);
            total += blob.size + 200;
        }
        assert_eq!(registry.egress_bytes(), total);
        let absent = Selector::Digest(Digest::of(b"absent"));
        assert!(matches!(client.manifest("demo/x", &absent).await, Err(OriginError::NotFound { .. })));
    }

    #[tokio::test]
    #[ignore = "needs skopeo"]
    async fn skopeo_pulls_the_image() {
        let (registry, _, directory) = start(1 << 40).await;
        let from = format!("docker://{}/demo/x:{}", registry.address(), image::TAG);
        let to = format!("oci:{}", directory.path().join("copy").display());
        let mut skopeo = std::process::Command::new("skopeo");
        skopeo.args(["copy", "--src-tls-verify=false", &from, &to]);
        let output = tokio::task::spawn_blocking(move || skopeo.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(registry.egress_bytes() > BYTES);
    }

    #[tokio::test]
    async fn all_clients_share_the_rate() {
        let (registry, client, _directory) = start(20_000_000).await;
        let manifest = Manifest::parse(&client.manifest("x", &latest()).await.unwrap()).unwrap();
        let blobs: Vec<_> = manifest.blobs().cloned().collect();
        registry.reset_egress();
        let begun = Instant::now();
        let reads = blobs.iter().map(async |blob| {
            let stream = client.blob("x", &blob.digest, 0..blob.size).await.unwrap();
            collect(stream).await.unwrap().len()
        });
        futures_util::future::join_all(reads).await;
        let least = Duration::from_secs_f64(registry.egress_bytes() as f64 / 20e6) - MAX_CATCH_UP;
        assert!(begun.elapsed() >= least, "{:?} is less than {least:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn dropping_it_breaks_off_and_refuses() {
        let (registry, client, _directory) = start(100_000).await;
        let manifest = Manifest::parse(&client.manifest("x", &latest()).await.unwrap()).unwrap();
        let blob = manifest.blobs().max_by_key(|blob| blob.size).unwrap().clone();
        let mut stream = client.blob("x", &blob.digest, 0..blob.size).await.unwrap();
        stream.try_next().await.unwrap().unwrap();
        drop(registry);
        let error = collect(stream).await.unwrap_err();
        assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
        let error = client.head("x", &latest()).await.unwrap_err();
        assert!(matches!(error, OriginError::Unavailable { .. }), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_bucket_keeps_the_rate_and_shares_it_evenly() {
        let bytes_per_second = NonZeroU64::new(1_000_000).unwrap();
        let start = Instant::now();
        let uplink = Uplink {
            bucket: Mutex::new(Bucket { bytes_per_second, free_at: start }),
            sent: AtomicU64::new(0),
        };
        let counts = [const { AtomicU64::new(0) }; 4];
        let greedy = counts.iter().map(async |count| {
            loop {
                uplink.send(10_000).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _ = tokio::time::timeout(Duration::from_secs(10), futures_util::future::join_all(greedy)).await;
        let counts = counts.map(AtomicU64::into_inner);
        assert!(counts.iter().all(|count| (249..=251).contains(count)), "{counts:?}");
        tokio::time::advance(Duration::from_secs(100)).await;
        let mut bucket = uplink.bucket.into_inner();
        let now = Instant::now();
        let saved = bucket.reserve(now, 1_000_000);
        assert_eq!(saved, now + Duration::from_secs(1) - MAX_CATCH_UP, "idle time is not saved up");
    }
}
