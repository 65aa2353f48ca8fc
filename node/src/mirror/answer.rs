//! The headers and errors that the distribution specification has registries answer with.

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::debug;
use transfer::digest::Digest;

use crate::error::Error;

/// The entity tag of what has this digest.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// The headers of `length` bytes that are, or are part of, what has this digest.
pub(super) fn named_by(digest: &Digest, length: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("docker-content-digest", header(&digest.to_string()));
    headers.insert(ETAG, header(&etag(digest)));
    headers.insert(CONTENT_LENGTH, length.into());
    headers
}

/// A header's value of digits, hexadecimal and punctuation.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits, hexadecimal and punctuation are fit for headers")
}

/// What a condition of the request makes of an answer: not modified, or a failed precondition.
pub(super) fn unmet(status: StatusCode, digest: &Digest) -> Response {
    let mut headers = named_by(digest, 0);
    headers.remove(CONTENT_LENGTH);
    (status, headers).into_response()
}

/// What cannot be served is 404, whatever the reason: then every client goes on to its next host.
pub(super) fn not_served(unknown: &str, error: &Error) -> Response {
    let code = match error {
        Error::NotAllowed { .. } => "NAME_UNKNOWN",
        Error::Denied(_) => "DENIED",
        _ => unknown,
    };
    debug!(code, %error, "not served");
    refuse(StatusCode::NOT_FOUND, code, &error.to_string())
}

/// The body that the specification gives errors.
pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}

/// Whoever wants to change something is at the wrong door.
pub(super) async fn read_only() -> Response {
    let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this is a pull-only mirror");
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    with_version(refused)
}

/// Says which API this is, as every answer of a registry does.
pub(super) fn with_version(mut response: Response) -> Response {
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

/// Says that bytes of no particular kind follow.
pub(super) fn octets(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
}
