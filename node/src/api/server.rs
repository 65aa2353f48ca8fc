//! Answers the HTTP API.
//!
//! Owns paths, statuses, and the translation between HTTP and the [`Node`], which decides everything. Owns neither
//! the listening socket nor the mirror under `/v2/`: whoever runs the server merges this router with others.
//!
//! Every answer that is not a success carries a [`Problem`].

use std::future::Future;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::{Stream, StreamExt, stream};

use super::refresh::refresh;
use super::{Function, FunctionState, Member, Problem, ProvisionRequest, Status, Tree, TreeQuery};
use crate::node::{self, Node};

/// How often progress is reported at most: five times a second look smooth to people, and a thousand watchers cost
/// little.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// How long an event stream stays silent at most. Well below the patience of [`crate::client`] and of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The largest body of a request. References and platforms come to less than a kilobyte.
const MAX_BODY_BYTES: usize = 16 << 10;

/// The API of `node`: everything under `/api/`, and `/healthz` and `/readyz` for whoever supervises the process.
pub fn router(node: Node) -> Router {
    let routes = Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/members", get(members))
        .route("/api/v1/functions", get(functions))
        .route("/api/v1/tree", get(tree))
        .route("/api/v1/provisions", post(provision))
        .route("/api/v1/refreshes", post(refresh))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    guarded(routes).with_state(node)
}

/// These routes, with a bound on bodies, and a [`Problem`] for each method and each path under `/api` that is not
/// among them. Other paths stay free for other routers.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Router<S>) -> Router<S> {
    let unknown = ["/api", "/api/", "/api/{*rest}"];
    unknown
        .into_iter()
        .fold(routes.method_not_allowed_fallback(unknown_method), |routes, path| {
            routes.route(path, any(unknown_path))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

async fn status(State(node): State<Node>) -> Json<Status> {
    Json(node.status())
}

async fn members(State(node): State<Node>) -> Json<Vec<Member>> {
    Json(node.members())
}

async fn functions(State(node): State<Node>) -> Json<Vec<Function>> {
    Json(node.functions())
}

async fn tree(
    State(node): State<Node>,
    query: Result<Query<TreeQuery>, QueryRejection>,
) -> Result<Json<Tree>, Refusal> {
    let Query(query) = query?;
    let function = match (&query.reference, query.function) {
        (Some(reference), None) => node.resolve(reference).await?,
        (None, Some(function)) => function,
        _ => {
            return Err(Refusal::new(
                StatusCode::BAD_REQUEST,
                "give either ?reference=REF or ?function=DIGEST",
            ));
        }
    };
    let tree = node.tree(function);
    Ok(Json(Tree { reference: tree.reference.or(query.reference), ..tree }))
}

/// Whoever waits and goes away leaves the provisioning to go on: others may wait for it, too.
async fn provision(
    State(node): State<Node>,
    headers: HeaderMap,
    request: Result<Json<ProvisionRequest>, JsonRejection>,
) -> Result<Response, Refusal> {
    let Json(request) = request?;
    let id = node.provision(&request.reference, request.platform).await?;
    let forgotten =
        || Refusal::new(StatusCode::BAD_GATEWAY, format!("{id} was dropped while it was provisioned"));
    if wants_events(&headers) {
        let first = node.function(id).ok_or_else(forgotten)?;
        let watched = node.clone();
        let finished = async move { watched.finished(id).await };
        let events = reports(first, move || node.function(id), finished)
            .map(|(name, function)| Event::default().event(name).json_data(function));
        return Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response());
    }
    let function = node.finished(id).await.ok_or_else(forgotten)?;
    match function.state {
        FunctionState::Failed => {
            let reason = function.error.as_deref().unwrap_or(NO_REASON);
            Err(Refusal::new(StatusCode::BAD_GATEWAY, format!("{}: {reason}", function.reference)))
        }
        FunctionState::Ready | FunctionState::Provisioning => Ok(Json(function).into_response()),
    }
}

/// The process answers requests, whatever it can do.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The node is in its cluster and provisions functions.
async fn readyz(State(node): State<Node>) -> Result<&'static str, Refusal> {
    match node.is_ready() {
        true => Ok("ready\n"),
        false => Err(Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{} is not ready: it has not found its cluster yet, or is leaving it", node.id()),
        )),
    }
}

async fn unknown_path(method: Method, uri: Uri) -> Refusal {
    let reason = format!("{method} {} is not part of the API; its paths begin with /api/v1/", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, reason)
}

async fn unknown_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path()))
}

/// What stands for the reason of a failure that has none.
const NO_REASON: &str = "no reason is known";

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, problem: Problem { error: error.into() } }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<node::Error> for Refusal {
    fn from(error: node::Error) -> Self {
        let status = match error {
            node::Error::NotFound(_) => StatusCode::NOT_FOUND,
            node::Error::Denied(_) | node::Error::NotAllowed { .. } => StatusCode::FORBIDDEN,
            node::Error::Unavailable(_) => StatusCode::BAD_GATEWAY,
            node::Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, error.to_string())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let essence = range.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// The events about one provisioning: `progress` at once and whenever `look` shows a change, at most once in
/// [`PROGRESS_PERIOD`]; then `done` or `failed`, and nothing more.
fn reports(
    first: Function,
    look: impl Fn() -> Option<Function>,
    finished: impl Future<Output = Option<Function>>,
) -> impl Stream<Item = (&'static str, Function)> {
    let opening = stream::iter([("progress", first.clone())]);
    let state = Some((first, look, Box::pin(finished)));
    opening.chain(stream::unfold(state, |state| async move {
        let (mut shown, look, mut finished) = state?;
        loop {
            tokio::select! {
                biased;
                last = &mut finished => {
                    let last = last.unwrap_or_else(|| dropped(shown));
                    let name = if last.state == FunctionState::Failed { "failed" } else { "done" };
                    return Some(((name, last), None));
                }
                () = tokio::time::sleep(PROGRESS_PERIOD) => {}
            }
            if let Some(now) = look().filter(|now| has_changed(&shown, now)) {
                shown.clone_from(&now);
                return Some((("progress", now), Some((shown, look, finished))));
            }
        }
    }))
}

/// Time alone always goes on.
fn has_changed(shown: &Function, now: &Function) -> bool {
    Function { elapsed_ms: shown.elapsed_ms, ..now.clone() } != *shown
}

/// What to say of a function that its node no longer knows.
fn dropped(shown: Function) -> Function {
    let error = Some("it was dropped while it was provisioned".into());
    Function { state: FunctionState::Failed, error, ..shown }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use axum::http::HeaderValue;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, sleep};

    use super::*;

    /// The status and the body that a server with two routes gives to this request.
    async fn exchange(request: String) -> (u16, String) {
        async fn echo(
            request: Result<Json<ProvisionRequest>, JsonRejection>,
        ) -> Result<Json<ProvisionRequest>, Refusal> {
            Ok(request?)
        }
        async fn query(query: Result<Query<TreeQuery>, QueryRejection>) -> Result<String, Refusal> {
            Ok(format!("{:?}", query?.0.reference))
        }
        let routes = Router::new().route("/api/v1/echo", post(echo)).route("/api/v1/query", get(query));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, guarded(routes)).await });
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
            assert_eq!(found, status, "{line}: {}", problem.error);
            assert!(problem.error.contains(reason), "{line}: {}", problem.error);
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

    #[test]
    fn errors_of_the_node_keep_their_words_and_have_their_statuses() {
        let rows = [
            (node::Error::NotFound("a: no such tag".into()), 404),
            (node::Error::Denied("a: no such tag".into()), 403),
            (node::Error::Unavailable("a: no such tag".into()), 502),
            (node::Error::Invalid("a: no such tag".into()), 422),
        ];
        for (error, status) in rows {
            let words = error.to_string();
            let refusal = Refusal::from(error);
            assert_eq!((refusal.status.as_u16(), refusal.problem.error), (status, words));
        }
    }

    #[test]
    fn events_are_sent_to_those_who_ask() {
        let rows = [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("application/json", false),
            ("*/*", false),
            ("", false),
        ];
        for (accept, expected) in rows {
            let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_events(&headers), expected, "{accept}");
        }
        assert!(!wants_events(&HeaderMap::new()));
    }

    fn function(state: FunctionState, held_bytes: u64) -> Function {
        Function {
            function: membership::FunctionId::from_bytes([1; 32]),
            reference: "alpine".parse().unwrap(),
            state,
            bytes: 100,
            held_bytes,
            origin_bytes: 0,
            peer_bytes: held_bytes,
            elapsed_ms: 0,
            parent: None,
            depth: None,
            participants: 1,
            sources: Default::default(),
            error: None,
        }
    }

    /// The times in milliseconds, names and held bytes of the reports about a function that changes at these times
    /// and is finished at `end`.
    async fn watch(
        changes: &[(u64, u64)],
        end: u64,
        last: Option<Function>,
    ) -> Vec<(u64, &'static str, u64)> {
        let start = Instant::now();
        let passed = || start.elapsed().as_millis() as u64;
        let shown = RefCell::new(Vec::new());
        let look = || {
            let held = changes.iter().rfind(|(at, _)| *at <= passed()).map_or(0, |(_, held)| *held);
            let elapsed_ms = passed();
            Some(Function { elapsed_ms, ..function(FunctionState::Provisioning, held) })
        };
        let finished = async {
            sleep(Duration::from_millis(end)).await;
            last
        };
        let first = function(FunctionState::Provisioning, 0);
        reports(first, look, finished)
            .for_each(|(name, function)| {
                shown.borrow_mut().push((passed(), name, function.held_bytes));
                std::future::ready(())
            })
            .await;
        shown.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_reported_when_it_changes_and_not_too_often() {
        let changes = [(10, 1), (20, 2), (30, 3), (900, 50)];
        let done = Some(function(FunctionState::Ready, 100));
        let expected =
            [(0, "progress", 0), (200, "progress", 3), (1000, "progress", 50), (1100, "done", 100)];
        assert_eq!(watch(&changes, 1100, done).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_report_says_how_it_ended() {
        let failed = Some(function(FunctionState::Failed, 7));
        assert_eq!(watch(&[], 50, failed).await, [(0, "progress", 0), (50, "failed", 7)]);
        assert_eq!(
            watch(&[(1, 5)], 300, None).await,
            [(0, "progress", 0), (200, "progress", 5), (300, "failed", 5)]
        );
    }
}
