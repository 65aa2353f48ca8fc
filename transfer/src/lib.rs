//! How blocks move, are verified and kept.

pub mod digest;
pub mod manifest;
pub mod origin;
pub mod reference;
