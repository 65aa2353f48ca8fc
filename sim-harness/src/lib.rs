//! Many nodes on one machine.

pub mod lab;
