//! A registry of manifests that behaves as it is told, and remembers each request and its time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::stage::digest_of;

/// What the registry does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Serves,
    /// 500.
    Broken,
    /// 403 to the next so many requests, then it serves.
    Denies(usize),
    /// No answer at all.
    Stalls,
    /// 429 to the next request, with so many seconds to wait, then it serves.
    Throttles(u64),
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) at: Instant,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) status: u16,
}

/// A registry with one repository, `app`.
pub(super) struct ToldRegistry {
    address: String,
    state: Arc<Mutex<Told>>,
    server: JoinHandle<()>,
}

struct Told {
    mood: Mood,
    tags: BTreeMap<String, String>,
    asked: Vec<Asked>,
}

impl ToldRegistry {
    pub(super) async fn start() -> Self {
        let told = Told { mood: Mood::Serves, tags: BTreeMap::new(), asked: Vec::new() };
        let state = Arc::new(Mutex::new(told));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .route("/v2/app/manifests/{name}", any(answer))
            .route("/v2/app/tags/list", any(tags))
            .route("/v2/app/referrers/{digest}", any(referrers))
            .with_state(state.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, state, server }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn becomes(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Has a tag stand for a manifest of that text. Returns its digest.
    pub(super) fn push(&self, tag: &str, text: &str) -> String {
        let manifest = manifest(text);
        let digest = digest_of(manifest.as_bytes());
        let mut told = self.state.lock().unwrap();
        told.tags.insert(tag.to_owned(), manifest.clone());
        told.tags.insert(digest.clone(), manifest);
        digest
    }

    /// The requests since this was last called.
    pub(super) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }
}

impl Drop for ToldRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An index without entries: enough for a name to stand for.
fn manifest(text: &str) -> String {
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"is":"{text}"}}}}"#)
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A page of one tag, and where the next one is.
async fn tags(RawQuery(query): RawQuery) -> impl IntoResponse {
    let next = "</v2/app/tags/list?n=1&last=v1>; rel=\"next\"";
    let body = format!(r#"{{"name":"app","tags":["v1"],"asked":"{}"}}"#, query.unwrap_or_default());
    ([("content-type", "application/json"), ("link", next)], body)
}

async fn referrers(RawQuery(query): RawQuery) -> impl IntoResponse {
    let applied = if query.unwrap_or_default().contains("artifactType=") { "artifactType" } else { "" };
    ([("content-type", INDEX), ("oci-filters-applied", applied)], manifest("referrers"))
}

async fn answer(State(state): State<Arc<Mutex<Told>>>, method: Method, Path(name): Path<String>) -> Response {
    let (status, retry_after, body) = {
        let mut told = state.lock().unwrap();
        let (mood, status, retry_after) = match told.mood {
            Mood::Denies(left @ 1..) => (Mood::Denies(left - 1), StatusCode::FORBIDDEN, None),
            Mood::Throttles(seconds) => (Mood::Serves, StatusCode::TOO_MANY_REQUESTS, Some(seconds)),
            Mood::Broken => (Mood::Broken, StatusCode::INTERNAL_SERVER_ERROR, None),
            mood => (mood, StatusCode::OK, None),
        };
        let body = told.tags.get(&name).cloned();
        let status = if status == StatusCode::OK && body.is_none() { StatusCode::NOT_FOUND } else { status };
        told.asked.push(Asked {
            at: Instant::now(),
            method: method.clone(),
            path: name,
            status: status.into(),
        });
        told.mood = mood;
        (status, retry_after, body.unwrap_or_default())
    };
    if state.lock().unwrap().mood == Mood::Stalls {
        sleep(Duration::from_secs(3_600)).await;
    }
    let mut response = Response::builder().status(status);
    if let Some(seconds) = retry_after {
        response = response.header("retry-after", seconds.to_string());
    }
    if status != StatusCode::OK {
        return response.body(Body::empty()).unwrap();
    }
    let response = response
        .header("content-type", INDEX)
        .header("content-length", body.len())
        .header("docker-content-digest", digest_of(body.as_bytes()));
    response.body(if method == Method::HEAD { Body::empty() } else { Body::from(body) }).unwrap()
}
