//! The mirror that container runtimes see: the pull part of the OCI distribution API, on localhost.
//!
//! Names the origin by `?ns=` (containerd), by the first part of the path (podman, CRI-O), or by default. This module
//! finds out what is asked for; `manifest`, `blob` and `listing` answer.

mod answer;
mod blob;
mod conditions;
mod listing;
mod manifest;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use transfer::digest::Digest;
use transfer::origin::Listing;
use transfer::reference::{Reference, Selector, check_registry};

use self::answer::{not_served, refuse, with_version};
use crate::node::Node;

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
    on(MethodFilter::GET.or(MethodFilter::HEAD), handler).fallback(answer::read_only)
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
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let response = match locate(&node, &rest, namespace.ns.as_deref()) {
        Ok((reference, wanted)) => match node.check_allowed(reference.registry()) {
            Ok(()) => wanted.serve(&node, &method, &reference, &uri, &headers).await,
            Err(error) => not_served("NAME_UNKNOWN", &error),
        },
        Err(refused) => *refused,
    };
    with_version(response)
}

#[derive(Debug)]
enum Wanted {
    Manifest,
    Blob(Digest),
    List(Listing),
}

impl Wanted {
    async fn serve(
        self,
        node: &Node,
        method: &Method,
        reference: &Reference,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Response {
        match self {
            Self::Manifest => manifest::serve(node, method, reference, headers).await,
            Self::Blob(digest) => blob::serve(node, method, reference, digest, headers).await,
            Self::List(list) => listing::serve(node, method, reference, &list, uri).await,
        }
    }
}

/// Reads `<name>/manifests/<reference>`, `<name>/blobs/<digest>`, `<name>/tags/list` or `<name>/referrers/<digest>`.
fn locate(node: &Node, rest: &str, ns: Option<&str>) -> Result<(Reference, Wanted), Box<Response>> {
    let unknown = |text: String| Box::new(refuse(StatusCode::NOT_FOUND, "NAME_UNKNOWN", &text));
    let mut parts = rest.rsplitn(3, '/');
    let (Some(last), Some(kind), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(unknown(format!("/v2/{rest} names nothing that a registry has")));
    };
    let config = node.config();
    let (registry, repository) = name_origin(name, ns, config.default_registry());
    let selector = match last.parse::<Digest>() {
        Ok(digest) => Selector::Digest(digest),
        Err(error) if ["blobs", "referrers"].contains(&kind) || last.contains(':') => {
            return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "DIGEST_INVALID", &error.to_string())));
        }
        Err(_) => Selector::Tag(last.to_owned()),
    };
    let reference = Reference::new(registry, repository, selector.clone())
        .map_err(|error| Box::new(refuse(StatusCode::BAD_REQUEST, "NAME_INVALID", &error.to_string())))?;
    match (kind, selector) {
        ("manifests", _) => Ok((reference, Wanted::Manifest)),
        ("blobs", Selector::Digest(digest)) => Ok((reference, Wanted::Blob(digest))),
        ("referrers", Selector::Digest(digest)) => Ok((reference, Wanted::List(Listing::Referrers(digest)))),
        ("tags", Selector::Tag(list)) if list == "list" => Ok((reference, Wanted::List(Listing::Tags))),
        _ => Err(unknown(format!("/v2/{rest} names nothing that a registry has"))),
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
