//! The HTTP API: what schedulers, the command line and the web page ask a node.
//!
//! [`types`] is what travels, as JSON; [`server`] answers. [`crate::client`] asks.

pub mod server;
mod types;

pub use types::{
    Function, FunctionState, Member, Problem, ProvisionRequest, Status, Tree, TreeNode, TreeQuery,
};
