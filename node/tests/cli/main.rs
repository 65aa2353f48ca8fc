//! The `faasnet` program as a process, with a real environment, real files and real signals.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod config;
mod reload;
mod stage;
