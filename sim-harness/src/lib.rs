//! Many nodes on one machine.
