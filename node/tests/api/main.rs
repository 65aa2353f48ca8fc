//! The API and the metrics of real nodes, over real sockets on loopback.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test itself")]

mod document;
mod doors;
mod metrics;
mod stage;
