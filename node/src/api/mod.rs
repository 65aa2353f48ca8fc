//! The HTTP API: what schedulers, the command line and the web page ask a node.
//!
//! `types` is what travels, as JSON; `routes` says what there is, `server`, `refresh` and `events` answer, `guard` says who may
//! change something, and `problem` says no. `openapi.json` describes all of it to others. [`crate::client`] asks.

mod events;
mod guard;
mod problem;
mod refresh;
mod routes;
mod server;
mod types;

pub(crate) use guard::Door;
pub(crate) use routes::router;
pub use types::{
    Function, FunctionState, Member, Problem, ProvisionRequest, RefreshRequest, Refreshed, Status, Tree,
    TreeNode, TreeQuery,
};
