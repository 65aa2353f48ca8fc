//! The mirror that container runtimes see: the pull part of the OCI distribution API, on localhost.
//!
//! Names the origin by `?ns=` (containerd), by the first part of the path (podman, CRI-O), or by default. Getting an
//! image's manifest starts to provision it; blobs are streamed while their blocks still arrive. A client that goes
//! away never cancels what others may be waiting for.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, on};
use axum::{Json, Router, routing::MethodFilter};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tracing::{debug, warn};
use transfer::blob::{Blob, BlobError};
use transfer::blocks;
use transfer::digest::Digest;
use transfer::manifest::Manifest;
use transfer::reference::{Reference, Selector, check_registry};

use crate::error::Error;
use crate::node::Node;
use crate::range::{Ranges, parse};

/// The routes of the mirror.
pub(crate) fn router(node: Node) -> Router {
    Router::new()
        .route("/v2/", read_only(version))
        .route("/v2", read_only(version))
        .route("/v2/{*rest}", read_only(pull))
        .with_state(node)
}

fn read_only<H, T>(handler: H) -> MethodRouter<Node>
where
    H: axum::handler::Handler<T, Node>,
    T: 'static,
{
    on(MethodFilter::GET.or(MethodFilter::HEAD), handler).fallback(|| async {
        refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this is a pull-only mirror")
    })
}

async fn version() -> Response {
    with_version(Json(json!({})).into_response())
}

#[derive(Deserialize)]
struct Namespace {
    ns: Option<String>,
}

async fn pull(
    State(node): State<Node>,
    method: Method,
    Path(rest): Path<String>,
    Query(namespace): Query<Namespace>,
    headers: HeaderMap,
) -> Response {
    let response = match locate(&node, &rest, namespace.ns.as_deref()) {
        Ok(Wanted::Manifest(reference)) => manifest(&node, &method, &reference).await,
        Ok(Wanted::Blob(reference, digest)) => blob(&node, &method, &reference, digest, &headers).await,
        Err(refused) => *refused,
    };
    with_version(response)
}

#[derive(Debug)]
enum Wanted {
    Manifest(Reference),
    Blob(Reference, Digest),
}

/// Reads `<name>/manifests/<reference>` or `<name>/blobs/<digest>`.
fn locate(node: &Node, rest: &str, ns: Option<&str>) -> Result<Wanted, Box<Response>> {
    let unknown = |text: String| Box::new(refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", &text));
    let mut parts = rest.rsplitn(3, '/');
    let (Some(last), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unknown(format!("/v2/{rest} is no manifest and no blob")));
    };
    let (registry, repository) = name_origin(name, ns, node.default_registry());
    let selector = match last.parse::<Digest>() {
        Ok(digest) => Selector::Digest(digest),
        Err(error) if kind == "blobs" || last.contains(':') => {
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID", &error.to_string())));
        }
        Err(_) => Selector::Tag(last.to_owned()),
    };
    let reference = Reference::new(registry, repository, selector.clone())
        .map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, "NAME_INVALID", &error.to_string())))?;
    match (kind, selector) {
        ("manifests", _) => Ok(Wanted::Manifest(reference)),
        ("blobs", Selector::Digest(digest)) => Ok(Wanted::Blob(reference, digest)),
        _ => Err(unknown(format!("/v2/{rest} is no manifest and no blob"))),
    }
}

/// The registry and the repository that a name in a path means.
fn name_origin<'a>(name: &'a str, ns: Option<&'a str>, default: &'a str) -> (&'a str, &'a str) {
    if let Some(ns) = ns {
        return (ns, name);
    }
    match name.split_once('/') {
        // As in references: a first part with a dot or a port, or localhost, is a host.
        Some((host, rest))
            if (host.contains(['.', ':']) || host == "localhost") && check_registry(host).is_ok() =>
        {
            (host, rest)
        }
        _ => (default, name),
    }
}

async fn manifest(node: &Node, method: &Method, reference: &Reference) -> Response {
    if let Err(error) = node.ready().await {
        return not_served("MANIFEST_UNKNOWN", &error);
    }
    let found = match node.documents().get(reference).await {
        Ok(found) => found,
        Err(error) => return not_served("MANIFEST_UNKNOWN", &error),
    };
    let document = found.document;
    let is_image = matches!(Manifest::parse(&document), Ok(Manifest::Image { .. }));
    if method == Method::GET
        && is_image
        && let Err(error) = node.provisioner().start(reference, &document)
    {
        return not_served("MANIFEST_INVALID", &error);
    }
    let mut headers = named_by(document.digest, document.bytes.len() as u64);
    let Ok(media_type) = HeaderValue::from_str(&document.media_type) else {
        return refuse(
            StatusCode::NOT_FOUND,
            "MANIFEST_INVALID",
            "the manifest's media type is no header value",
        );
    };
    headers.insert(CONTENT_TYPE, media_type);
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(document.bytes) };
    (headers, body).into_response()
}

async fn blob(
    node: &Node,
    method: &Method,
    reference: &Reference,
    digest: Digest,
    headers: &HeaderMap,
) -> Response {
    let blob = match node.provisioner().blob(reference, digest).await {
        Ok(blob) => blob,
        Err(error) => return not_served("BLOB_UNKNOWN", &error),
    };
    let size = blob.size();
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let (status, range) = match range.map_or(Ranges::Whole, |range| parse(range, size)) {
        Ranges::Whole => (StatusCode::OK, 0..size),
        Ranges::One(range) => (StatusCode::PARTIAL_CONTENT, range),
        Ranges::Many => {
            return refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", "one range at a time, please");
        }
        Ranges::Beyond => {
            let mut refused =
                refuse(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "the blob ends before that");
            refused.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
            return refused;
        }
    };
    let mut headers = named_by(digest, range.end - range.start);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(CONTENT_RANGE, header(&content_range));
    }
    let body = if method == Method::HEAD { Body::empty() } else { stream_blob(blob, range) };
    (status, headers, body).into_response()
}

/// The bytes of `range` in order, each block as soon as it is held.
fn stream_blob(blob: Arc<Blob>, range: Range<u64>) -> Body {
    Body::from_stream(stream::try_unfold((blob, range), |(blob, rest)| async move {
        if rest.is_empty() {
            return Ok::<_, BlobError>(None);
        }
        let index = blocks::index_of(rest.start);
        let span = blocks::span(blob.size(), index);
        let block = blob.wait_and_read(index).await.inspect_err(|error| {
            warn!(blob = %blob.digest(), %error, "a client's download ends early");
        })?;
        let end = rest.end.min(span.end);
        let within = |offset: u64| usize::try_from(offset - span.start).unwrap_or(usize::MAX);
        let piece: Bytes = block.slice(within(rest.start)..within(end));
        Ok(Some((piece, (blob, end..rest.end))))
    }))
}

fn named_by(digest: Digest, length: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("docker-content-digest", header(&digest.to_string()));
    headers.insert(ETAG, header(&format!("\"{digest}\"")));
    headers.insert(CONTENT_LENGTH, length.into());
    headers
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits, hexadecimal and punctuation are fit for headers")
}

fn with_version(mut response: Response) -> Response {
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

/// What cannot be served is 404, whatever the reason: then every client goes on to its next host.
fn not_served(code: &str, error: &Error) -> Response {
    debug!(code, %error, "not served");
    refuse(StatusCode::NOT_FOUND, code, &error.to_string())
}

/// The body that the distribution spec gives errors.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_is_named_by_namespace_then_path_then_default() {
        for (name, ns, expected) in [
            ("library/alpine", Some("docker.io"), ("docker.io", "library/alpine")),
            ("a/b", Some("10.0.0.1:5000"), ("10.0.0.1:5000", "a/b")),
            ("quay.io/a/b", None, ("quay.io", "a/b")),
            ("localhost/a", None, ("localhost", "a")),
            ("r:5000/a", None, ("r:5000", "a")),
            ("library/alpine", None, ("default.example", "library/alpine")),
            ("alpine", None, ("default.example", "alpine")),
            ("quay.io", None, ("default.example", "quay.io")),
        ] {
            assert_eq!(name_origin(name, ns, "default.example"), expected, "{name}");
        }
    }
}
