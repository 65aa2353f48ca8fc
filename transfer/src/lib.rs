//! How blocks move, are verified and kept.
//!
//! Deciding (pure): [`blocks`], [`plan`], [`wire`], [`digest`], [`mod@reference`], [`manifest`].
//! Doing: [`store`] and [`blob`] keep; [`fetch`] and [`serve`] move; [`origin`] reads the backing store.

pub mod blob;
pub mod blocks;
pub mod counters;
pub mod digest;
pub mod fetch;
pub mod manifest;
pub mod origin;
pub mod plan;
mod recent;
pub mod reference;
pub mod serve;
pub mod store;
pub mod wire;
