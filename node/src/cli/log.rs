//! Where the log goes.

use std::io::{IsTerminal, stderr};

use faasnet::config::{LogFormat, LogSettings};

use super::terminal;

/// Begins to log, for the rest of the process.
pub(super) fn start(settings: &LogSettings) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(settings.log.filter())
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && terminal::wants_colour());
    match settings.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
