//! The node's one HTTP port: the mirror and the API.

use axum::Router;
use tokio::net::TcpListener;
use tracing::error;

use crate::node::Node;
use crate::{api, mirror};

/// Serves until it is dropped.
pub(crate) async fn serve(listener: TcpListener, node: Node) {
    let router: Router = mirror::router(node.clone()).merge(api::server::router(node));
    if let Err(error) = axum::serve(listener, router).await {
        error!(%error, "the HTTP port has failed");
    }
}
