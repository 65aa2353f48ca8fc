//! One running machine.
//!
//! [`node`] runs, as [`config`] tells it to: it wires `membership` and `transfer` to the network (`quic`, [`trust`]), and
//! adds what an image is (`documents`, `provision`) and where it is from (`origins`, `pauses`). Container runtimes meet it in
//! the `mirror`; people and schedulers over the [`api`], most of them through the [`client`]; `http` lets all of them in,
//! `metrics` tells Prometheus; [`render`] and [`units`] turn its answers into text; `whole` writes small
//! files. [`demo`] shows many nodes on one machine.

pub mod api;
pub mod client;
pub mod config;
mod congestion;
pub mod demo;
mod documents;
mod error;
mod http;
mod metrics;
mod mirror;
pub mod node;
mod origins;
mod pauses;
mod provision;
mod quic;
mod range;
mod records;
pub mod render;
pub mod trust;
pub mod units;
mod whole;

pub use node::Node;
