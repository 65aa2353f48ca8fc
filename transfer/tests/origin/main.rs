//! Origins against real HTTP servers, files and archives, well-behaved and not.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail like the test itself")]

mod auth;
mod fixture;
mod limits;
mod lists;
mod local;
mod mirrors;
mod redirects;
mod registry;
mod tls;
mod tools;
