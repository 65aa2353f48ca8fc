//! Origins against real HTTP servers, files and archives, well-behaved and not.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test itself")]

mod fixture;
mod local;
mod registry;
mod tools;
