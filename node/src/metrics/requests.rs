//! Counts what is asked of the HTTP port: each request by its route, and the bytes of what clients of the mirror get.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::Metrics;

/// The route of the mirror that stands for several: names of repositories have slashes, so it is told only behind it what
/// is asked for.
const MIRROR: &str = "/v2/{*rest}";

/// What stands for paths that are no route, so that whoever tries many makes one series.
const NO_ROUTE: &str = "none";

/// These routes, with every answer counted.
pub(crate) fn counted(routes: Router, metrics: Arc<Metrics>) -> Router {
    routes.layer(from_fn_with_state(metrics, count))
}

async fn count(
    State(metrics): State<Arc<Metrics>>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = route(matched.as_ref().map(MatchedPath::as_str), request.uri().path());
    let method = method(request.method());
    let response = next.run(request).await;
    metrics.requests.with_label_values(&[route, method, response.status().as_str()]).inc();
    if !route.starts_with("/v2/") {
        return response;
    }
    response.map(|body| Body::new(Counted { body, metrics }))
}

/// The name of a route. There are as many as the routers have, and four for [`MIRROR`].
fn route<'a>(matched: Option<&'a str>, path: &str) -> &'a str {
    match matched {
        Some(MIRROR) => match path.rsplit('/').nth(1) {
            Some("manifests") => "/v2/{name}/manifests/{reference}",
            Some("blobs") => "/v2/{name}/blobs/{digest}",
            Some("referrers") => "/v2/{name}/referrers/{digest}",
            _ => MIRROR,
        },
        // These stand for what is no part of the API.
        Some("/api" | "/api/" | "/api/{*rest}") | None => NO_ROUTE,
        Some(route) => route,
    }
}

/// The method, or `other` for those that no route takes: clients may make up their own.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        _ => "other",
    }
}

/// A body whose bytes are counted as they are handed to the connection.
struct Counted {
    body: Body,
    metrics: Arc<Metrics>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            let length = frame.data_ref().map_or(0, Bytes::len);
            self.metrics.served_to_client(length as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_routes_are_few_whatever_is_asked_for() {
        let rows = [
            (Some("/api/v1/status"), "/api/v1/status", "/api/v1/status"),
            (Some("/v2/"), "/v2/", "/v2/"),
            (Some(MIRROR), "/v2/a/b/manifests/latest", "/v2/{name}/manifests/{reference}"),
            (Some(MIRROR), "/v2/a/blobs/sha256:12", "/v2/{name}/blobs/{digest}"),
            (Some(MIRROR), "/v2/a/referrers/sha256:12", "/v2/{name}/referrers/{digest}"),
            (Some(MIRROR), "/v2/a/tags/list", MIRROR),
            (Some(MIRROR), "/v2/x", MIRROR),
            (Some("/api/{*rest}"), "/api/v9/x", NO_ROUTE),
            (None, "/index.php", NO_ROUTE),
        ];
        for (matched, path, expected) in rows {
            assert_eq!(route(matched, path), expected, "{path}");
        }
        assert_eq!(method(&Method::HEAD), "HEAD");
        assert_eq!(method(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}
