//! The binary as users run it: real processes in network namespaces of their own, a real registry, a real image.
//!
//! Each test says what it is at (`--nocapture` shows it), and prints what it measures before it judges that. Nothing here knows
//! how nodes work inside: it asks them through the command line, reads their disks, and counts at the registry.
//!
//! `cargo build --release && cargo test -p faasnet-tests --test all -- --ignored --nocapture end_to_end`

mod clients;
mod hostile;
mod images;
mod load;
mod members;
mod solo;
