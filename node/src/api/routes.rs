//! Every method and path of the API, in one table, and what those that are not in it are told.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, any, on};

use super::problem::Refusal;
use super::{guard, refresh, server};
use crate::node::Node;

/// The largest body of a request, in bytes. References and platforms come to less than a kilobyte.
const MAX_BODY_BYTES: usize = 16 << 10;

/// One thing that can be asked of a node.
struct Route {
    method: Method,
    path: &'static str,
    answer: MethodRouter<Node>,
}

fn route<H, T>(method: Method, path: &'static str, handler: H) -> Route
where
    H: Handler<T, Node>,
    T: 'static,
{
    let filter = MethodFilter::try_from(method.clone()).expect("the table has methods that HTTP knows");
    Route { method, path, answer: on(filter, handler) }
}

/// All there is. `openapi.json` describes each.
fn table() -> [Route; 10] {
    [
        route(Method::GET, "/api/v1/status", server::status),
        route(Method::GET, "/api/v1/members", server::members),
        route(Method::GET, "/api/v1/functions", server::functions),
        route(Method::GET, "/api/v1/tree", server::tree),
        route(Method::POST, "/api/v1/provisions", server::provision),
        route(Method::POST, "/api/v1/refreshes", refresh::refresh),
        route(Method::GET, "/api/v1/openapi.json", server::openapi),
        route(Method::GET, "/metrics", server::metrics),
        route(Method::GET, "/healthz", server::healthz),
        route(Method::GET, "/readyz", server::readyz),
    ]
}

/// The API of `node`: everything under `/api/`, `/metrics` for Prometheus, and `/healthz` and `/readyz` for whoever
/// supervises the process. What may change something is guarded, whichever route it is.
pub(crate) fn router(node: Node) -> Router {
    let routes = table().into_iter().fold(Router::new(), |routes, Route { method, path, answer }| {
        let answer = match method.is_safe() {
            true => answer,
            false => answer.route_layer(from_fn_with_state(node.clone(), guard::admit)),
        };
        routes.route(path, answer)
    });
    bounded(routes).with_state(node)
}

/// These routes, with a bound on bodies, and a problem for each method and each path under `/api` that is not among
/// them. Other paths stay free for other routers.
fn bounded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let unknown = ["/api", "/api/", "/api/{*rest}"];
    unknown
        .into_iter()
        .fold(routes.method_not_allowed_fallback(unknown_method), |routes, path| {
            routes.route(path, any(unknown_path))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

async fn unknown_path(method: Method, uri: Uri) -> Refusal {
    let reason = format!("{method} {} is not part of the API; its paths begin with /api/v1/", uri.path());
    Refusal::of_status(StatusCode::NOT_FOUND, reason)
}

async fn unknown_method(method: Method, uri: Uri) -> Refusal {
    Refusal::of_status(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::Json;
    use axum::extract::Query;
    use axum::extract::rejection::QueryRejection;
    use axum::routing::{get, post};
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::server::Sent;
    use super::super::{Problem, ProvisionRequest, TreeQuery};
    use super::*;

    #[test]
    fn the_document_has_the_routes_that_there_are_and_no_others() {
        let document: Value = serde_json::from_str(server::OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap().iter();
        let described: BTreeSet<(String, String)> = paths
            .flat_map(|(path, item)| {
                item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let served = table().map(|route| (route.method.to_string(), route.path.to_owned()));
        assert_eq!(described, BTreeSet::from(served));
    }

    #[test]
    fn what_changes_something_is_described_as_guarded_and_nothing_else() {
        let document: Value = serde_json::from_str(server::OPENAPI).unwrap();
        for Route { method, path, .. } in table() {
            let operation = &document["paths"][path][method.as_str().to_lowercase()];
            let guarded = operation.get("security").is_some();
            assert_eq!(guarded, !method.is_safe(), "{method} {path}");
        }
    }

    /// The status and the body that a server with two routes gives to this request.
    async fn exchange(request: String) -> (u16, String) {
        async fn echo(Sent(request): Sent<ProvisionRequest>) -> Json<ProvisionRequest> {
            Json(request)
        }
        async fn query(query: Result<Query<TreeQuery>, QueryRejection>) -> Result<String, Refusal> {
            Ok(format!("{:?}", query?.0.reference))
        }
        let routes = Router::new().route("/api/v1/echo", post(echo)).route("/api/v1/query", get(query));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, bounded(routes)).await });
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn post_json(path: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )
    }

    fn bare(method: &str, path: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    }

    #[tokio::test]
    async fn what_cannot_be_served_is_a_problem_that_says_why() {
        let large = format!(r#"{{"reference":"{}"}}"#, "a".repeat(MAX_BODY_BYTES));
        let rows = [
            (bare("GET", "/api"), 404, "GET /api is not part of the API"),
            (bare("GET", "/api/"), 404, "GET /api/ is not part of the API"),
            (bare("PUT", "/api/v2/x"), 404, "PUT /api/v2/x is not part of the API"),
            (bare("GET", "/api/v1/echo"), 405, "/api/v1/echo does not take GET"),
            (bare("POST", "/api/v1/echo"), 415, "application/json"),
            (post_json("/api/v1/echo", "{"), 400, "EOF while parsing"),
            (post_json("/api/v1/echo", "{}"), 422, "missing field `reference`"),
            (post_json("/api/v1/echo", r#"{"reference":"A"}"#), 422, "is no repository"),
            (post_json("/api/v1/echo", &large), 413, "length limit exceeded"),
            (bare("GET", "/api/v1/query?reference=A"), 400, "is no repository"),
            (bare("GET", "/api/v1/query?name=a"), 400, "unknown field `name`"),
        ];
        for (request, status, reason) in rows {
            let line = request.lines().next().unwrap().to_owned();
            let (found, body) = exchange(request).await;
            let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{line}: {body}"));
            assert_eq!(found, status, "{line}: {}", problem.detail);
            assert!(problem.detail.contains(reason), "{line}: {}", problem.detail);
        }
    }

    #[tokio::test]
    async fn what_is_well_formed_reaches_the_handler() {
        let body = r#"{"reference":"docker.io/library/a:b","platform":"linux/arm/v7"}"#;
        assert_eq!(exchange(post_json("/api/v1/echo", body)).await, (200, body.to_owned()));
        let (status, body) = exchange(bare("GET", "/api/v1/query?reference=quay.io%2Fa%3Ab")).await;
        assert_eq!(status, 200);
        assert!(body.contains("quay.io"), "{body}");
        assert_eq!(exchange(bare("GET", "/v2/")).await.0, 404);
    }
}
