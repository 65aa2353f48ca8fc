//! What is logged, and how it is written: the settings that all commands have. Who writes the log is the command line's
//! business.

use std::str::FromStr;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What can be set for the log.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct LogSettings {
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
    pub log: LogFilter,

    /// How to write the log: lines for people, or a JSON object per line
    #[arg(
        long,
        global = true,
        env = "FAASNET_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        help_heading = "Logging"
    )]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "they would become text in every --help")]
pub enum LogFormat {
    Text,
    Json,
}

/// Directives that `tracing` understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        EnvFilter::builder().parse(text).map(|_| Self(text.to_owned()))
    }
}

impl LogFilter {
    /// The filter that was asked for. chitchat warns of each peer that it cannot reach, in every round; what matters of
    /// that, membership says itself.
    pub fn filter(&self) -> EnvFilter {
        EnvFilter::new(self.directives())
    }

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
