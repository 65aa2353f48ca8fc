//! Black-box tests of the whole, in one binary so that they are linked once.

#![allow(clippy::unwrap_used, reason = "a test panics when something is not as it should be")]

mod cluster;
mod end_to_end;
mod tidy;
