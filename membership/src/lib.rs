//! Who is here, what they hold, and the trees that follow.
//!
//! This crate knows nothing of images, blocks or registries: a function is a name to it.
//!
//! Deciding (pure: no sockets, no clock, no randomness of their own): [`id`], [`stamp`], [`tree`], [`view`], [`hold`],
//! [`rendezvous`], [`greeter`], [`suspicion`], [`wire`].
//! Doing: [`membership`] with `joining`, `gossip`, `transport`, `envelope`, `seeds`, `control` and `probe` behind it; [`codec`], [`clock`],
//! [`counters`] and the [`link`] that a network must offer.

pub mod clock;
pub mod codec;
mod control;
pub mod counters;
mod envelope;
mod gossip;
pub mod greeter;
pub mod hold;
pub mod id;
mod joining;
pub mod link;
pub mod membership;
mod probe;
pub mod rendezvous;
mod seeds;
pub mod stamp;
pub mod suspicion;
mod transport;
pub mod tree;
pub mod view;
pub mod wire;

pub use id::{FunctionId, NodeId, Zone};
pub use membership::Membership;
pub use stamp::{Seniority, Stamp};
pub use view::View;
