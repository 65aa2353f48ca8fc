//! Whole clusters in one process, over a network in memory that fails as told, in virtual time.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test itself")]

mod cluster;
mod failing;
mod holding;
mod hostile;
mod joining;
mod leaving;
mod network;
mod starting;
