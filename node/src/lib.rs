//! One running machine.

pub mod api;
pub mod config;
pub mod demo;
mod documents;
mod error;
mod http;
mod mirror;
pub mod node;
mod origins;
mod provision;
mod quic;
mod range;
pub mod trust;

pub use node::Node;
