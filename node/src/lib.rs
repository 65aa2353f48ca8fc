//! One running machine.
