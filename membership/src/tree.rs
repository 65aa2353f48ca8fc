//! The function tree.
