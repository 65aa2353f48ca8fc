//! Asks a node over its HTTP API, for the command line and for tests.
//!
//! Owns the exchange and what its failures mean to a person. Owns no output and no retries: whoever asks sees at once
//! that nobody answers. Plain HTTP only, as the API is served, over TCP or a Unix socket.

mod sse;
mod url;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{RequestBuilder, Response, Url, header, redirect};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::api::{
    Function, Member, Problem, ProvisionRequest, RefreshRequest, Refreshed, Status, Tree, TreeQuery,
};
use crate::trust::Secret;

pub use url::{NodeUrl, NodeUrlError};

/// For a connection. The node is on this machine or near it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// For the head of an answer. A node that has to ask an origin about a tag tries for a while before it gives up.
const ANSWER_PATIENCE: Duration = Duration::from_secs(120);
/// For the next piece of an answer. A node that provisions shows every ten seconds that it is there.
const PIECE_PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer, event streams aside. The members of a cluster of 100,000 fit.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A request to a node came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answered; nothing was asked for, or nobody knows.
    #[error(
        "no answer from a node at {node}: {reason}\n\
         Is `faasnet node` running there? Name another node by --node URL or FAASNET_NODE."
    )]
    Unreachable {
        /// Who was asked.
        node: NodeUrl,
        /// What happened instead.
        reason: String,
    },
    /// The node answered that it cannot or will not.
    #[error("{problem}\n(so says the node at {node}, with HTTP status {status})")]
    Refused {
        /// Who was asked.
        node: NodeUrl,
        /// The HTTP status.
        status: u16,
        /// The node's own words.
        problem: String,
    },
    /// The node began to answer and stopped. What was asked for may go on or not.
    #[error("the node at {node} stopped in the middle of its answer: {reason}\nIts log may say why.")]
    Interrupted {
        /// Who was asked.
        node: NodeUrl,
        /// What happened instead.
        reason: String,
    },
    /// Something else than a node answered, or a node of another release.
    #[error(
        "what answers at {node} does not speak faasnet's API: {reason}\n\
         Name a node's HTTP address by --node URL or FAASNET_NODE."
    )]
    Garbled {
        /// Who was asked.
        node: NodeUrl,
        /// What came instead.
        reason: String,
    },
}

/// Asks one node.
#[derive(Debug, Clone)]
pub struct Client {
    node: NodeUrl,
    http: reqwest::Client,
    token: Option<Secret>,
}

impl Client {
    /// Asks the node at this address. Connects to nobody yet. Proxies from the environment are passed by: they stand
    /// between this machine and the world, and the node is on this side.
    pub fn new(node: NodeUrl) -> Self {
        // reqwest wants to know how it would speak TLS before it opens any connection, though none of these will.
        let tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .expect("ring supports the default TLS versions")
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_PATIENCE)
            .user_agent(concat!("faasnet/", env!("CARGO_PKG_VERSION")));
        let builder = match node.socket() {
            Some(socket) => builder.unix_socket(socket),
            None => builder,
        };
        let http = builder.build().expect("these settings do not contradict each other");
        Self { node, http, token: None }
    }

    /// Shows this token with requests that change something, as the node's API token.
    pub fn with_token(self, token: Option<Secret>) -> Self {
        Self { token, ..self }
    }

    /// The node as a whole.
    pub async fn status(&self) -> Result<Status, Error> {
        self.get("status").await
    }

    /// The live members that the node knows.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        self.get("members").await
    }

    /// The functions that the node provisions or holds.
    pub async fn functions(&self) -> Result<Vec<Function>, Error> {
        self.get("functions").await
    }

    /// The function tree that `query` names.
    pub async fn tree(&self, query: &TreeQuery) -> Result<Tree, Error> {
        let mut url = self.url("tree");
        let reference = query.reference.iter().map(|reference| ("reference", reference.to_string()));
        let function = query.function.iter().map(|function| ("function", function.to_string()));
        url.query_pairs_mut().extend_pairs(reference.chain(function));
        self.read(self.http.get(url)).await
    }

    /// Has the node ask the origin now what a tag stands for.
    pub async fn refresh(&self, request: &RefreshRequest) -> Result<Refreshed, Error> {
        let body = serde_json::to_vec(request).expect("names are valid JSON");
        self.read(self.change("refreshes").body(body)).await
    }

    /// A request that changes something, whose body is JSON.
    fn change(&self, path: &str) -> RequestBuilder {
        let request = self.http.post(self.url(path)).header(header::CONTENT_TYPE, "application/json");
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Has the node provision a function and waits for the end, which is `ready` or `failed`. Tells `progress` whenever
    /// something has changed.
    pub async fn provision(
        &self,
        request: &ProvisionRequest,
        mut progress: impl FnMut(&Function),
    ) -> Result<Function, Error> {
        let body = serde_json::to_vec(request).expect("names and platforms are valid JSON");
        let request = self.change("provisions").header(header::ACCEPT, "text/event-stream").body(body);
        let mut response = self.send(request).await?;
        let mut parser = sse::Parser::default();
        while let Some(piece) = self.next_piece(&mut response).await? {
            for event in parser.push(&piece).map_err(|error| self.garbled(error))? {
                let function = || serde_json::from_str(&event.data).map_err(|error| self.garbled(error));
                match event.name.as_str() {
                    "progress" => progress(&function()?),
                    "done" | "failed" => return function(),
                    _ => {}
                }
            }
        }
        Err(self.interrupted("it neither finished nor failed"))
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.node.base();
        url.set_path(&format!("/api/v1/{path}"));
        url
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(self.http.get(self.url(path))).await
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let response = self.send(request).await?;
        let body = self.read_body(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.garbled(error))
    }

    /// The head of an answer of success.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let unreachable = |reason| Error::Unreachable { node: self.node.clone(), reason };
        let response = match timeout(ANSWER_PATIENCE, request.send()).await {
            Ok(sent) => sent.map_err(|error| unreachable(describe(error)))?,
            Err(_) => return Err(unreachable(format!("nothing came within {ANSWER_PATIENCE:?}"))),
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.read_body(response).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(Problem { detail, .. }) => {
                Err(Error::Refused { node: self.node.clone(), status: status.as_u16(), problem: detail })
            }
            Err(_) => Err(self.garbled(format!("it answers with HTTP status {status}"))),
        }
    }

    async fn read_body(&self, mut response: Response) -> Result<Vec<u8>, Error> {
        let mut body = Vec::new();
        while let Some(piece) = self.next_piece(&mut response).await? {
            if body.len() + piece.len() > MAX_ANSWER_BYTES {
                return Err(self.garbled(format!("its answer has more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    async fn next_piece(&self, response: &mut Response) -> Result<Option<bytes::Bytes>, Error> {
        match timeout(PIECE_PATIENCE, response.chunk()).await {
            Ok(piece) => piece.map_err(|error| self.interrupted(&describe(error))),
            Err(_) => Err(self.interrupted(&format!("nothing came for {PIECE_PATIENCE:?}"))),
        }
    }

    fn interrupted(&self, reason: &str) -> Error {
        Error::Interrupted { node: self.node.clone(), reason: reason.to_owned() }
    }

    fn garbled(&self, reason: impl fmt::Display) -> Error {
        Error::Garbled { node: self.node.clone(), reason: reason.to_string() }
    }
}

/// What is at the bottom of an error: the layers above only say that a request has failed.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::{get, post};
    use tokio::net::TcpListener;

    use super::*;
    use crate::api::FunctionState;

    const FUNCTION: &str = r#"{"function":"sha256:abababababababababababababababababababababababababababababababab","reference":"alpine","state":"provisioning","bytes":10,"held_bytes":9,"origin_bytes":1,"peer_bytes":8,"elapsed_ms":5,"parent":null,"depth":null,"participants":3,"sources":{},"error":null}"#;

    async fn serve(routes: Router) -> (Client, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (Client::new(address.to_string().parse().unwrap()), address)
    }

    async fn provision(body: String) -> (Result<Function, Error>, Vec<u64>) {
        let (client, _) = serve(Router::new().route("/api/v1/provisions", post(async || body))).await;
        let request = ProvisionRequest { reference: "alpine".parse().unwrap(), platform: None };
        let mut seen = Vec::new();
        (client.provision(&request, |function| seen.push(function.held_bytes)).await, seen)
    }

    #[tokio::test]
    async fn a_token_is_shown_to_change_something_and_not_to_read() {
        let token: Secret = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let shown = |headers: HeaderMap| async move {
            let shown = headers.get(header::AUTHORIZATION).map(|shown| shown.to_str().unwrap().to_owned());
            let detail = shown.unwrap_or_else(|| "nothing".into());
            let problem = serde_json::json!({
                "type": "about:blank", "title": "Teapot", "status": 418, "detail": detail,
            });
            (StatusCode::IM_A_TEAPOT, problem.to_string())
        };
        let routes =
            Router::new().route("/api/v1/provisions", post(shown)).route("/api/v1/status", get(shown));
        let (client, _) = serve(routes).await;
        let request = ProvisionRequest { reference: "alpine".parse().unwrap(), platform: None };
        let tell = |error: Error| error.to_string().lines().next().unwrap().to_owned();
        assert_eq!(tell(client.provision(&request, |_| ()).await.unwrap_err()), "nothing");
        let client = client.with_token(Some(token));
        let told = tell(client.provision(&request, |_| ()).await.unwrap_err());
        assert_eq!(told, "Bearer 0123456789abcdef0123456789abcdef");
        assert_eq!(tell(client.status().await.unwrap_err()), "nothing");
    }

    #[tokio::test]
    async fn a_unix_socket_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let node: NodeUrl = format!("unix:{}", path.display()).parse().unwrap();
        let client = Client::new(node);
        let error = client.members().await.unwrap_err().to_string();
        assert!(error.contains(&format!("unix:{}: No such file", path.display())), "{error}");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let routes = Router::new().route("/api/v1/members", get(async || "[]"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        assert_eq!(client.members().await.unwrap(), []);
    }

    #[tokio::test]
    async fn provisioning_is_followed_to_its_end() {
        let event = |name: &str, held: u64, state: &str| {
            let held = format!("\"held_bytes\":{held}");
            let data = FUNCTION.replace("\"held_bytes\":9", &held).replace("provisioning", state);
            format!(": still here\n\nevent: {name}\ndata: {data}\n\n")
        };
        let start = event("progress", 1, "provisioning") + &event("progress", 5, "provisioning");
        let (done, seen) = provision(start.clone() + &event("done", 10, "ready")).await;
        assert_eq!((done.unwrap().state, seen), (FunctionState::Ready, vec![1, 5]));
        let (failed, _) = provision(start.clone() + &event("failed", 5, "failed")).await;
        assert_eq!(failed.unwrap().state, FunctionState::Failed);
        let (cut, seen) = provision(start).await;
        assert!(matches!(cut, Err(Error::Interrupted { .. })), "{cut:?}");
        assert_eq!(seen, [1, 5]);
        let (garbled, _) = provision("event: done\ndata: <html>\n\n".into()).await;
        assert!(matches!(garbled, Err(Error::Garbled { .. })), "{garbled:?}");
    }

    #[tokio::test]
    async fn failures_name_the_node_and_the_next_step() {
        let problem = || async {
            let body = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"no such image"}"#;
            (StatusCode::NOT_FOUND, body)
        };
        let routes = Router::new()
            .route("/api/v1/tree", get(problem))
            .route("/api/v1/members", get(async || "<html>"))
            .route("/api/v1/status", get(async || (StatusCode::BAD_GATEWAY, "<html>")));
        let (client, address) = serve(routes).await;
        let check = |error: Error, words: &[&str]| {
            let text = error.to_string();
            assert!(text.contains(&format!("http://{address}")), "{text}");
            assert!(words.iter().all(|words| text.contains(words)), "{text}");
        };
        let query = TreeQuery { reference: "alpine:3".parse().ok(), function: None };
        check(client.tree(&query).await.unwrap_err(), &["no such image", "404"]);
        check(client.members().await.unwrap_err(), &["does not speak faasnet's API", "--node"]);
        check(client.status().await.unwrap_err(), &["502"]);
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Client::new(address.to_string().parse().unwrap()).status().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "no answer from a node at http://{address}: Connection refused (os error 111)\n\
                 Is `faasnet node` running there? Name another node by --node URL or FAASNET_NODE."
            )
        );
    }
}
