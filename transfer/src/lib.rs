//! How blocks move, are verified and kept.
