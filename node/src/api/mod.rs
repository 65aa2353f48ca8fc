//! The HTTP API: what schedulers, the command line and the web page ask a node.
//!
//! [`types`] is what travels, as JSON; [`server`] and `refresh` answer. [`crate::client`] asks.

mod refresh;
pub mod server;
mod types;

pub use types::{
    Function, FunctionState, Member, Problem, ProvisionRequest, RefreshRequest, Refreshed, Status, Tree,
    TreeNode, TreeQuery,
};
