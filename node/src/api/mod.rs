//! The API.
pub mod server;
pub mod types;
pub use types::*;
