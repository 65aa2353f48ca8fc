//! Standard output and what it can show.

use std::io::{ErrorKind, IsTerminal, Write, stdout};

use anyhow::Context;
use faasnet::render::Paint;
use serde::Serialize;

/// Writes `text` to standard output. Whoever reads it may stop early, as `head` does.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes `value` to standard output as JSON.
pub(super) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).context("the answer cannot be written as JSON")?;
    print(&format!("{text}\n"))
}

/// Whether standard output takes colours: it is a terminal, and nobody has objected by NO_COLOR (no-color.org).
pub(super) fn paint() -> Paint {
    if stdout().is_terminal() && wants_colour() { Paint::Coloured } else { Paint::Plain }
}

pub(super) fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
