//! Where a setting was set, and what is wrong with it.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a setting has its value from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Source {
    /// The command line.
    Flag {
        /// The flag, with its dashes.
        flag: String,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The configuration file.
    File {
        /// Its path, as it was given.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
    },
    /// Nobody said anything.
    Default,
}

/// As a person is told where a value comes from: `flag --zone`, `faasnet.toml:7`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag { flag } => write!(f, "flag {flag}"),
            Self::Environment { variable } => write!(f, "environment {variable}"),
            Self::File { file, line, .. } => {
                let name = file.file_name().unwrap_or(file.as_os_str());
                write!(f, "{}:{line}", name.display())
            }
            Self::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Where to mend it.
    #[serde(flatten)]
    pub source: Source,
    /// What is wrong, and what to do.
    pub message: String,
}

/// As compilers write it, so that editors can jump there: `faasnet.toml:12:5: unknown key "tag-tll"`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Flag { flag } => write!(f, "{flag}: ")?,
            Source::Environment { variable } => write!(f, "{variable}: ")?,
            Source::File { file, line, column } => write!(f, "{}:{line}:{column}: ", file.display())?,
            Source::Default => {}
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of the places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("the configuration is wrong:{}", lines(problems))]
pub struct Problems {
    /// At least one.
    pub problems: Vec<Problem>,
}

/// Each on a line of its own, after what was before.
fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n{problem}")).collect()
}
