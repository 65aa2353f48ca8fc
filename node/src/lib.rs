//! One running machine.

pub mod demo;
