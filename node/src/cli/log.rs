//! Where the log goes, and that its level can change while the process runs.

use std::io::{IsTerminal, stderr};

use faasnet::config::{LogFilter, LogFormat, LogSettings};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

use super::terminal;

/// The log of this process.
#[derive(Debug)]
pub(super) struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Begins to log, for the rest of the process.
    pub(super) fn start(settings: &LogSettings) -> Self {
        let (filter, handle) = reload::Layer::new(settings.log.filter());
        let ansi = stderr().is_terminal() && terminal::wants_colour();
        let lines = fmt::layer().with_writer(stderr).with_ansi(ansi);
        let log = tracing_subscriber::registry().with(filter);
        match settings.log_format {
            LogFormat::Text => log.with(lines).init(),
            LogFormat::Json => log.with(lines.json()).init(),
        }
        Self { filter: handle }
    }

    /// From now on logs what this filter lets through.
    pub(super) fn set(&self, filter: &LogFilter) {
        // It fails only once the subscriber is gone, which stays for the whole process.
        let _ = self.filter.reload(filter.filter());
    }
}
