//! Lists for clients, a repository's tags and what refers to a manifest: passed on from the origin page by page.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::{IntoResponse, Response};
use transfer::origin::{Answered, Listing};
use transfer::reference::Reference;

use super::answer::not_served;
use crate::error::Error;
use crate::node::Node;

/// Answers a request for a list of the repository that `reference` names. The next page has the same path as `uri`.
pub(super) async fn serve(
    node: &Node,
    method: &Method,
    reference: &Reference,
    listing: &Listing,
    uri: &Uri,
) -> Response {
    let (ours, theirs) = split(uri.query().unwrap_or_default());
    match read(node, reference, listing, &theirs).await {
        Ok(answered) => pass_on(answered, method, uri.path(), ours),
        Err(error) => not_served("NAME_UNKNOWN", &error),
    }
}

async fn read(node: &Node, reference: &Reference, listing: &Listing, query: &str) -> Result<Answered, Error> {
    let origin = node.origin(reference.registry())?;
    Ok(origin.list(reference.repository(), listing, query).await?)
}

/// The part of a query that names the origin to this node, and the part that is the origin's.
fn split(query: &str) -> (Option<&str>, String) {
    let (ours, theirs): (Vec<&str>, Vec<&str>) =
        query.split('&').filter(|part| !part.is_empty()).partition(|part| part.starts_with("ns="));
    (ours.first().copied(), theirs.join("&"))
}

fn pass_on(answered: Answered, method: &Method, path: &str, ours: Option<&str>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, answered.body.len().into());
    let next = answered.next.map(|next| {
        let query = [Some(next.as_str()), ours].into_iter().flatten().collect::<Vec<_>>().join("&");
        format!("<{path}?{query}>; rel=\"next\"")
    });
    let texts = [
        (CONTENT_TYPE, Some(answered.content_type)),
        (LINK, next),
        ("oci-filters-applied".parse().expect("a header's name"), answered.filters_applied),
    ];
    for (name, text) in texts {
        // What is no header value does not go into a header.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    }
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(answered.body) };
    (headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_origin_is_not_passed_on() {
        for (query, ours, theirs) in [
            ("", None, ""),
            ("ns=docker.io", Some("ns=docker.io"), ""),
            ("n=5&ns=r%3A5000&last=v1", Some("ns=r%3A5000"), "n=5&last=v1"),
            ("artifactType=a%2Fb", None, "artifactType=a%2Fb"),
        ] {
            assert_eq!(split(query), (ours, theirs.to_owned()), "{query}");
        }
    }
}
