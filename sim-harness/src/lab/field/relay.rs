//! A link of the ideal chain: what comes in goes to a file and to the next host, as it comes. No checks, no blocks, no encryption.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::netns::Host;
use crate::lab::runner::say;

/// What is moved at once.
const PIECE: usize = 256 * 1024;

/// The hidden subcommand of the harness that runs [`run`].
pub const SUBCOMMAND: &str = "relay";

/// The command that relays on a host.
pub(super) fn command(
    host: &Host,
    listen: SocketAddr,
    next: Option<SocketAddr>,
    file: &Path,
) -> Result<Command> {
    let mut relay = host.command(std::env::current_exe().context("cannot tell where this program is")?);
    relay.arg(SUBCOMMAND).arg(listen.to_string()).arg(file);
    relay.args(next.map(|next| next.to_string()));
    Ok(relay)
}

/// Says `ready`, takes one connection, keeps what comes in a file and passes it on, and says `done`.
///
/// # Errors
/// When a connection breaks, or the disk is full.
pub fn run(listen: SocketAddr, file: &Path, next: Option<SocketAddr>) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    let mut file = File::create(file)?;
    say("ready")?;
    let (mut from, _) = listener.accept()?;
    let mut next = next.map(TcpStream::connect).transpose()?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            break;
        }
        file.write_all(&piece[..length])?;
        if let Some(next) = &mut next {
            next.write_all(&piece[..length])?;
        }
    }
    drop(next);
    say("done")
}

/// Sends a file to the first of a chain.
pub(super) fn send(file: &Path, first: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(first)?;
    io::copy(&mut File::open(file)?, &mut stream)?;
    Ok(())
}
