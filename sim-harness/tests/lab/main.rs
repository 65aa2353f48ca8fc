//! The lab tested by itself.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod network;
mod play;
mod tool;
