//! What the tests are made of: bytes, an image, and an HTTP server that does as it is told.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use axum::serve::Listener;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::net::TcpListener;
use transfer::digest::Digest;
use transfer::manifest::{MAX_MANIFEST_BYTES, OCI_MANIFEST};
use transfer::origin::retry::RetryPolicy;
use transfer::origin::{BlobStream, MAX_CHUNK_BYTES, Origin, OriginError, RegistryConfig, RegistryOrigin};
use transfer::reference::Selector;

/// Bytes that do not repeat, so that one range cannot pass for another.
pub(crate) fn pattern(len: usize) -> Bytes {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>().into()
}

/// An image's manifest: its configuration is `config`, its layers are `layers`.
pub(crate) fn manifest(config: &[u8], layers: &[&[u8]]) -> String {
    let describe = |kind: &str, bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":{}}}"#,
            Digest::of(bytes),
            bytes.len()
        )
    };
    let layers: Vec<String> = layers.iter().map(|bytes| describe("layer.v1.tar", bytes)).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        describe("config.v1+json", config),
        layers.join(",")
    )
}

/// All that a stream yields, or its error; checks the bound on chunks.
pub(crate) async fn collect(stream: Result<BlobStream, OriginError>) -> Result<Vec<u8>, OriginError> {
    let mut all = Vec::new();
    let mut stream = stream?;
    while let Some(chunk) = stream.try_next().await? {
        assert!((1..=MAX_CHUNK_BYTES).contains(&chunk.len()));
        all.extend_from_slice(&chunk);
    }
    assert!(stream.next().await.is_none());
    Ok(all)
}

/// Short bounds, so that tests wait for faults and for nothing else.
pub(crate) fn config() -> RegistryConfig {
    RegistryConfig {
        plain_http: true,
        connect_timeout: Duration::from_secs(2),
        stall: Duration::from_millis(300),
        document_timeout: Duration::from_secs(5),
        retry: RetryPolicy {
            tries: 3,
            base: Duration::from_millis(1),
            max_pause: Duration::from_millis(2),
            max_retry_after: Duration::from_secs(1),
        },
        ..RegistryConfig::default()
    }
}

/// The tag that most tests ask for.
pub(crate) fn tag() -> Selector {
    Selector::Tag("v1".into())
}

/// The name of an error's variant: what callers act on.
pub(crate) fn kind<T>(result: &Result<T, OriginError>) -> &'static str {
    match result {
        Ok(_) => "fine",
        Err(OriginError::NotFound { .. }) => "not found",
        Err(OriginError::Denied { .. }) => "denied",
        Err(OriginError::Unavailable { .. }) => "unavailable",
        Err(OriginError::Invalid { .. }) => "invalid",
    }
}

/// All bytes of `range` of a blob.
pub(crate) async fn read(origin: &RegistryOrigin, range: Range<usize>) -> Result<Vec<u8>, OriginError> {
    collect(origin.blob("a/b", &Digest::of(b"whatever"), range.start as u64..range.end as u64).await).await
}

/// What the server saw of a request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Seen {
    /// The `Range` header, or nothing.
    pub(crate) fn range(&self) -> &str {
        self.headers.get("range").map_or("", |value| value.to_str().unwrap())
    }

    /// The `Authorization` header, or nothing.
    pub(crate) fn authorization(&self) -> &str {
        self.headers.get("authorization").map_or("", |value| value.to_str().unwrap())
    }

    /// The first and the last byte that the `Range` header asks for.
    pub(crate) fn span(&self) -> (usize, usize) {
        let (first, last) = self.range().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse().unwrap(), last.parse().unwrap())
    }
}

/// What a server answers to its nth request.
pub(crate) trait Answers: Fn(usize, &Seen) -> Response<Body> + Send + Sync + 'static {}
impl<F: Fn(usize, &Seen) -> Response<Body> + Send + Sync + 'static> Answers for F {}

/// An HTTP server on a free port that answers the nth request as a function says.
pub(crate) struct Server {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(answer: impl Answers) -> Self {
        Self::start_on("127.0.0.1:0", answer).await
    }

    pub(crate) async fn start_on(address: &str, answer: impl Answers) -> Self {
        Self::start_with(TcpListener::bind(address).await.unwrap(), answer)
    }

    pub(crate) fn start_with<L>(listener: L, answer: impl Answers) -> Self
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let address = format!("{:?}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, answer) = (seen.clone(), Arc::new(answer));
        let count = Arc::new(AtomicUsize::new(0));
        let router = axum::Router::new().fallback(move |request: Request| {
            let (record, count, answer) = (record.clone(), count.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                let body = String::from_utf8(body.into()).unwrap();
                let request = Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
                record.lock().unwrap().push(request.clone());
                answer(count.fetch_add(1, Ordering::SeqCst), &request)
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, seen, task }
    }

    pub(crate) fn origin(&self) -> RegistryOrigin {
        self.origin_with(config())
    }

    pub(crate) fn origin_with(&self, config: RegistryConfig) -> RegistryOrigin {
        RegistryOrigin::new(&self.address, config).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The methods and paths of all requests, with their queries.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.uri)).collect()
    }

    pub(crate) fn ranges(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.range().to_owned()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a body ends that does not deliver all it promised.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Cut,
    Stall,
}

/// A body of `bytes`, announced as `length` long.
pub(crate) fn broken(bytes: Bytes, length: usize, end: End) -> (Body, String) {
    let sent = stream::iter([Ok::<_, std::io::Error>(bytes)]);
    let body = match end {
        End::Cut => {
            let cut = stream::once(async {
                // Lets what was sent so far go out before the connection is dropped.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(sent.chain(cut))
        }
        End::Stall => Body::from_stream(sent.chain(stream::pending())),
    };
    (body, length.to_string())
}

/// The 206 to a request for `blob`.
pub(crate) fn partial(blob: &Bytes, seen: &Seen) -> Response<Body> {
    let (first, last) = seen.span();
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", format!("bytes {first}-{last}/{}", blob.len()))
        .body(Body::from(blob.slice(first..=last)))
        .unwrap()
}

/// The 206 to a request for `blob`, of which only `sent` bytes arrive.
pub(crate) fn partial_broken(blob: &Bytes, seen: &Seen, sent: usize, end: End) -> Response<Body> {
    let (first, last) = seen.span();
    let until = (first + sent).min(last + 1);
    let (body, length) = broken(blob.slice(first..until), last + 1 - first, end);
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", format!("bytes {first}-{last}/{}", blob.len()))
        .header("content-length", length)
        .body(body)
        .unwrap()
}

/// An answer without a body.
pub(crate) fn status(code: u16, headers: &[(&str, &str)]) -> Response<Body> {
    with_body(code, headers, Body::empty())
}

pub(crate) fn with_body(code: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let builder =
        headers.iter().fold(Response::builder().status(code), |builder, (k, v)| builder.header(*k, *v));
    builder.body(body.into()).unwrap()
}

/// Writes an OCI layout with these blobs and this `index.json`.
pub(crate) fn write_layout(at: &Path, blobs: &[&[u8]], index: &str) {
    std::fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    for blob in blobs {
        assert!(blob.len() <= 2 * MAX_MANIFEST_BYTES);
        std::fs::write(at.join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
    }
    std::fs::write(at.join("index.json"), index).unwrap();
    std::fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
