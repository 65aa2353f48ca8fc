//! How blocks move, are verified and kept.
//!
//! Deciding (pure): [`blocks`], [`plan`], [`wire`], [`digest`], [`mod@reference`], [`manifest`].
//! Doing: [`store`] and [`blob`] keep; [`reader`] reads along, and [`demand`] says who waits for what; [`fetch`] and [`serve`] move; [`origin`] reads the backing store.

pub mod blob;
pub mod blocks;
pub mod claim;
pub mod counters;
pub mod demand;
pub mod digest;
pub mod expectation;
pub mod fetch;
pub mod manifest;
pub mod origin;
pub mod plan;
pub mod reader;
mod recent;
pub mod reference;
pub mod serve;
pub mod store;
pub mod wire;
