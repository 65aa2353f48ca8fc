//! Who is here, what they hold, and the trees that follow.
//!
//! This crate knows nothing of images, blocks or registries: a function is a name to it.
//!
//! Pure modules (no sockets, no clock, no randomness of their own): [`id`], [`stamp`], [`tree`].

pub mod id;
pub mod stamp;
pub mod tree;

pub use id::{FunctionId, NodeId, Zone};
pub use stamp::Stamp;
