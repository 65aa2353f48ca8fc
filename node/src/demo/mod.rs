//! A cluster to try things on: an image made on the spot, and a registry with a narrow uplink that serves it.

pub mod image;
pub mod registry;
