//! The answers of the HTTP API: the translation between HTTP and the [`Node`], which decides everything.
//!
//! Owns neither paths, which are in [`super::routes`], nor connections.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::problem::{Kind, Refusal};
use super::{Function, FunctionState, Member, ProvisionRequest, Status, Tree, TreeQuery, events};
use crate::metrics;
use crate::node::Node;

/// What this API is, as OpenAPI 3.1 has it.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// How long the body of a request may take. They are of a kilobyte, and come right behind their heads.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// What stands for the reason of a failure that has none.
const NO_REASON: &str = "no reason is known";

pub(super) async fn status(State(node): State<Node>) -> Json<Status> {
    Json(node.status())
}

pub(super) async fn members(State(node): State<Node>) -> Json<Vec<Member>> {
    Json(node.members())
}

pub(super) async fn functions(State(node): State<Node>) -> Json<Vec<Function>> {
    Json(node.functions())
}

pub(super) async fn tree(
    State(node): State<Node>,
    query: Result<Query<TreeQuery>, QueryRejection>,
) -> Result<Json<Tree>, Refusal> {
    let Query(query) = query?;
    let function = match (&query.reference, query.function) {
        (Some(reference), None) => node.resolve(reference).await?,
        (None, Some(function)) => function,
        _ => {
            return Err(Refusal::of_status(
                StatusCode::BAD_REQUEST,
                "give either ?reference=REF or ?function=DIGEST",
            ));
        }
    };
    let tree = node.tree(function);
    Ok(Json(Tree { reference: tree.reference.or(query.reference), ..tree }))
}

/// Whoever waits and goes away leaves the provisioning to go on: others may wait for it, too.
pub(super) async fn provision(
    State(node): State<Node>,
    headers: HeaderMap,
    Sent(request): Sent<ProvisionRequest>,
) -> Result<Response, Refusal> {
    let id = node.provision(&request.reference, request.platform).await?;
    let failed = |reason: String| {
        Refusal::new(Kind::ProvisionFailed, reason).told_at(format!("/api/v1/tree?function={id}"))
    };
    let forgotten = || failed(format!("{id} was dropped while it was provisioned"));
    if events::are_wanted(&headers) {
        let first = node.function(id).ok_or_else(forgotten)?;
        return Ok(events::follow(node, first));
    }
    let function = node.finished(id).await.ok_or_else(forgotten)?;
    match function.state {
        FunctionState::Failed => {
            let reason = function.error.as_deref().unwrap_or(NO_REASON);
            Err(failed(format!("{}: {reason}", function.reference)))
        }
        FunctionState::Ready | FunctionState::Provisioning => Ok(Json(function).into_response()),
    }
}

/// What this API is, for programs that make clients.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// What Prometheus reads.
pub(super) async fn metrics(State(node): State<Node>) -> impl IntoResponse {
    // It looks through the store's directory and derives each function's tree.
    let page = spawn_blocking(move || node.metrics_page()).await;
    let page = page.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page)
}

/// The process answers requests, whatever it can do.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The node is in its cluster and provisions functions.
pub(super) async fn readyz(State(node): State<Node>) -> Result<&'static str, Refusal> {
    match node.is_ready() {
        true => Ok("ready\n"),
        false => Err(Refusal::new(
            Kind::NotReady,
            format!("{} is not ready: it has not found its cluster yet, or is leaving it", node.id()),
        )),
    }
}

/// A request's body, as JSON, if it comes in time.
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match timeout(BODY_LIMIT, Json::<T>::from_request(request, state)).await {
            Ok(read) => Ok(Self(read?.0)),
            Err(_) => Err(Refusal::of_status(
                StatusCode::REQUEST_TIMEOUT,
                format!("the body of the request did not come within {BODY_LIMIT:?}"),
            )),
        }
    }
}
