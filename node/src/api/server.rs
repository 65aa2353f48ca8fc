//! stub
use crate::Node;
pub fn router(_n: Node) -> axum::Router {
    axum::Router::new()
}
