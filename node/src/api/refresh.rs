//! Answers `POST /api/v1/refreshes`: has the origin asked now what a tag stands for.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;

use super::server::Refusal;
use super::{RefreshRequest, Refreshed};
use crate::node::Node;

pub(super) async fn refresh(
    State(node): State<Node>,
    request: Result<Json<RefreshRequest>, JsonRejection>,
) -> Result<Json<Refreshed>, Refusal> {
    let Json(request) = request?;
    Ok(Json(node.refresh(&request.reference).await?))
}
