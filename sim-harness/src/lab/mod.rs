//! The lab: real `faasnet` processes on one machine, each in a network namespace of its own, before a real registry.
//!
//! Owns what an end-to-end test or a benchmark stands on, from the wires up:
//!
//! | module | gives |
//! |---|---|
//! | [`netns`] | hosts on a switch: namespaces, rates, cuts; cleaned up whatever happens |
//! | [`registry`] | Debian's `docker-registry` on a host, and what its access log says it sent |
//! | [`nginx`] | nginx on a host |
//! | [`image`] | images as OCI layouts, and their digests |
//! | [`debian`] | one from real Debian packages, cached |
//! | [`draft`] | images of all other kinds, layer by layer; artifacts |
//! | [`http`] | one request, one connection |
//! | [`tls`] | an authority for servers with names |
//! | [`node`] | one `faasnet` process: starting, stopping, freezing, killing it |
//! | [`client`] | asking it |
//! | [`runtime`] | programs that pull images through a node: containerd, podman, buildah, skopeo, docker |
//! | [`stage`] | all of these together, as a test wants them |
//! | [`fleet`] | a stage with such programs on its nodes |
//! | [`record`] | what a run of a scenario leaves |
//! | [`scenario`] | who exists, what happens, what has to hold: as a file |
//! | [`play`] | a scenario, played on this machine |
//! | [`field`] | other ways to bring an image to many hosts, beside ours |
//! | [`hop`] | one hop of a tree, beside a bare QUIC stream and nginx |
//! | [`runner`] | programs of the lab's own |
//! | [`process`] | bounded commands and bounded waiting, and what processes use |
//!
//! It needs root, and `ip`, `tc`, `nft`, `docker-registry`, `skopeo`, `mmdebstrap`, `zstd`, `openssl`, `curl` in the path. It contains no
//! code of the nodes: what it knows about them is their command line and their JSON.

pub mod client;
pub mod debian;
pub mod draft;
pub mod field;
pub mod fleet;
pub mod hop;
pub mod http;
pub mod image;
pub mod netns;
pub mod nginx;
pub mod node;
pub mod play;
pub mod process;
pub mod record;
pub mod registry;
pub mod report;
pub mod runner;
pub mod runtime;
pub mod scenario;
pub mod stage;
pub mod tls;

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The directory that cargo builds into, found from the executable that runs, so that it is right for every
/// `CARGO_TARGET_DIR` and `--target`.
///
/// # Errors
/// When the running executable does not stand in a directory that cargo built into.
pub fn target_dir() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot tell where this executable is")?;
    // Cargo marks the top of the directory with this file, for tools that make backups.
    executable
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .map(PathBuf::from)
        .with_context(|| format!("{} was not built by cargo: no CACHEDIR.TAG above it", executable.display()))
}
