//! Answers `POST /api/v1/refreshes`: has the origin asked now what a tag stands for.

use axum::Json;
use axum::extract::State;

use super::problem::Refusal;
use super::server::Sent;
use super::{RefreshRequest, Refreshed};
use crate::node::Node;

pub(super) async fn refresh(
    State(node): State<Node>,
    Sent(request): Sent<RefreshRequest>,
) -> Result<Json<Refreshed>, Refusal> {
    Ok(Json(node.refresh(&request.reference).await?))
}
