//! Nodes to ask, an image that they can pull, and HTTP by hand, so that a test says and sees the very bytes.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use faasnet::Node;
use faasnet::config::{Config, OriginConfig};
use faasnet::demo::image::{self, DemoImage};
use faasnet::demo::registry::EmbeddedRegistry;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::{sleep, timeout};
use transfer::origin::open_local;

/// How long anything may take. Generous: it only bounds a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// A token that is strong enough.
pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// A registry that is not what a test waits for, in bytes per second.
const FAST: NonZeroU64 = NonZeroU64::new(1 << 30).unwrap();

pub(crate) struct Stage {
    pub(crate) scratch: TempDir,
    pub(crate) image: DemoImage,
    pub(crate) registry: EmbeddedRegistry,
    /// A web server that knows nothing of registries and says so with status 200.
    nonsense: SocketAddr,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = scratch.path().join("image");
        let image = image::write(&layout, 4 << 20, 7).unwrap();
        let origin = Arc::new(open_local(&layout).await.unwrap());
        let broken = scratch.path().join("broken");
        let without_layers = image::write(&broken, 1000, 8).unwrap();
        for blob in std::fs::read_dir(broken.join("blobs/sha256")).unwrap() {
            let path = blob.unwrap().path();
            if !path.ends_with(without_layers.manifest.hex()) {
                std::fs::remove_file(path).unwrap();
            }
        }
        let registry = EmbeddedRegistry::start(origin, FAST).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nonsense = listener.local_addr().unwrap();
        let router = Router::new().fallback(async || "<html>It works!</html>");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { scratch, image, registry, nonsense }
    }

    /// How a node of that name runs.
    pub(crate) fn config(&self, name: &str) -> Config {
        let registry = self.registry.address().to_string();
        Config {
            id: Some(name.parse().unwrap()),
            listen: Some(([127, 0, 0, 1], 0).into()),
            http: ([127, 0, 0, 1], 0).into(),
            cluster: "test".to_owned(),
            origins: vec![
                OriginConfig::at(&registry, format!("http://{registry}")),
                OriginConfig::at("nonsense.example", format!("http://{}", self.nonsense)),
                // It has the image's manifest and nothing else.
                OriginConfig::at("broken.example", self.scratch.path().join("broken").display().to_string()),
                // Nothing listens on the port for discarding.
                OriginConfig::at("down.example", "http://127.0.0.1:9"),
            ],
            default_origin: Some(registry),
            ..Config::new(self.scratch.path().join(name))
        }
    }

    /// The image, as people name it.
    pub(crate) fn reference(&self) -> String {
        format!("{}/demo/image:{}", self.registry.address(), image::TAG)
    }

    /// What has the image provisioned.
    pub(crate) fn provision(&self) -> Request {
        Request::post("/api/v1/provisions", &format!(r#"{{"reference":"{}"}}"#, self.reference()))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.path().join("faasnet.sock")
    }
}

/// Starts a node and waits until it provisions.
pub(crate) async fn start(config: Config) -> Node {
    let node = Node::start(config).await.unwrap();
    timeout(LIMIT, node.ready()).await.unwrap().unwrap();
    node
}

/// Waits for a condition that nothing announces, and says which one when it does not come true.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let polled = async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, polled).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    headers: Vec<(&'static str, String)>,
    body: String,
}

impl Request {
    pub(crate) fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: String::new() }
    }

    pub(crate) fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A body of JSON.
    pub(crate) fn post(target: &str, body: &str) -> Self {
        let request = Self { body: body.into(), ..Self::new("POST", target) };
        request.with("Content-Type", "application/json")
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    /// The path, without what is asked of it.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) async fn to(&self, node: &Node) -> Response {
        self.over(TcpStream::connect(("127.0.0.1", node.http_addr().port())).await.unwrap()).await
    }

    pub(crate) async fn to_socket(&self, path: PathBuf) -> Response {
        self.over(UnixStream::connect(path).await.unwrap()).await
    }

    /// As HTTP/1.0, whose answers are not cut in chunks.
    async fn over(&self, mut connection: impl AsyncRead + AsyncWrite + Unpin) -> Response {
        let Self { method, target, headers, body } = self;
        let mut text = format!("{method} {target} HTTP/1.0\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        connection.write_all(format!("{text}\r\n{body}").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(LIMIT, connection.read_to_end(&mut answer)).await.expect("an answer").unwrap();
        Response::read(&answer)
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    fn read(answer: &[u8]) -> Self {
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let (first, headers) = head.split_once("\r\n").unwrap();
        let headers = headers.lines().filter_map(|line| line.split_once(": "));
        Self {
            status: first.split(' ').nth(1).unwrap().parse().unwrap(),
            headers: headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect(),
            body: answer[end + 4..].to_vec(),
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The name of the problem that it is, and what it says.
    pub(crate) fn problem(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem: faasnet::api::Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status);
        (problem.kind.rsplit(':').next().unwrap().to_owned(), problem.detail)
    }
}
