//! The faasnet binary.
fn main() {}
