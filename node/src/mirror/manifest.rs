//! Manifests and indexes for clients. Getting an image's manifest starts to provision it.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, WARNING};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use transfer::manifest::{Document, Manifest};
use transfer::reference::Reference;

use super::answer::{etag, named_by, not_served, refuse, unmet};
use super::conditions;
use crate::error::Error;
use crate::node::Node;

/// The header by which a client says how much of an image to provision: `lazy` for what it reads, `whole` for all.
/// Without it, the origin's setting counts.
const PROVISION: &str = "faasnet-provision";

/// Said with a tag's last known version. Code and agent are those that the distribution specification allows.
const STALE: &str = "299 - \"the origin could not be asked; this is the last known version\"";

/// Answers a request for a manifest or an index.
pub(super) async fn serve(
    node: &Node,
    method: &Method,
    reference: &Reference,
    headers: &HeaderMap,
) -> Response {
    match answer(node, method, reference, headers).await {
        Ok(response) => response,
        Err(error) => not_served("MANIFEST_UNKNOWN", &error),
    }
}

async fn answer(
    node: &Node,
    method: &Method,
    reference: &Reference,
    headers: &HeaderMap,
) -> Result<Response, Error> {
    node.ready().await?;
    let found = node.documents().get(reference).await?;
    let document = found.document;
    if !conditions::accepts(headers, &document.media_type) {
        let text = format!("{reference} is {}, which the request does not accept", document.media_type);
        return Err(Error::NotFound(text));
    }
    let Ok(media_type) = HeaderValue::from_str(&document.media_type) else {
        return Err(Error::Invalid(format!("{reference}: its media type is no header value")));
    };
    if method == Method::GET {
        let lazy = match headers.get(PROVISION).map(HeaderValue::as_bytes) {
            None => node.is_lazy(reference.registry()),
            Some(b"lazy") => true,
            Some(b"whole") => false,
            Some(_) => {
                let text = format!("the header {PROVISION} is either `lazy` or `whole`");
                return Ok(refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", &text));
            }
        };
        provision(node, reference, &document, lazy)?;
    }
    if let Some(status) = conditions::unmet(headers, &etag(&document.digest)) {
        return Ok(unmet(status, &document.digest));
    }
    let mut headers = named_by(&document.digest, document.bytes.len() as u64);
    headers.insert(CONTENT_TYPE, media_type);
    if found.stale {
        headers.insert(WARNING, HeaderValue::from_static(STALE));
    }
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(document.bytes) };
    Ok((headers, body).into_response())
}

/// Starts to provision an image. What is no image goes to the client as it is.
fn provision(node: &Node, reference: &Reference, document: &Document, lazy: bool) -> Result<(), Error> {
    if let Ok(Manifest::Image { .. }) = Manifest::parse(document) {
        node.provisioner().start(reference, document, lazy)?;
    }
    Ok(())
}
