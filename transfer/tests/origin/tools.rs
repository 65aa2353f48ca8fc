//! Archives and registries of real tools.
