//! Where the log goes, and how much of it.

use std::io::{IsTerminal, stderr};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use super::terminal;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// What to log on standard error: error, warn, info, debug, trace, off, or directives such as
    /// warn,transfer=debug
    #[arg(
        long,
        global = true,
        env = "FAASNET_LOG",
        value_name = "LEVEL",
        default_value = "warn",
        help_heading = "Logging"
    )]
    log: LogFilter,

    /// How to write the log: lines for people, or a JSON object per line
    #[arg(
        long,
        global = true,
        env = "FAASNET_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// Directives that `tracing` understands.
#[derive(Debug, Clone)]
struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))
    }
}

impl LogArgs {
    /// Begins to log, for the rest of the process.
    pub(super) fn start(&self) {
        let filter = EnvFilter::new(self.log.directives());
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal() && terminal::wants_colour());
        match self.log_format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
    }
}

impl LogFilter {
    /// chitchat warns of each peer that it cannot reach, in every round; what matters of that, membership says itself.
    fn directives(&self) -> String {
        let asked = self.0.trim();
        if asked == "off" || asked.contains("chitchat") {
            asked.to_owned()
        } else {
            format!("{asked},chitchat=error")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chitchat_is_quiet_unless_named() {
        let rows = [
            ("warn", "warn,chitchat=error"),
            ("debug,transfer=trace", "debug,transfer=trace,chitchat=error"),
            ("warn,chitchat=debug", "warn,chitchat=debug"),
            ("off", "off"),
        ];
        for (asked, expected) in rows {
            let filter: LogFilter = asked.parse().unwrap();
            assert_eq!(filter.directives(), expected);
            assert!(filter.directives().parse::<LogFilter>().is_ok());
        }
    }
}
