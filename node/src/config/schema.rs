//! What a table of the configuration file may hold, taken from the definitions of the flags: a key is a flag without its
//! dashes, so there is one list of settings, one reading of each value, and one default.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command};

use super::log::LogSettings;
use super::origin_settings::OriginSettings;
use super::problem::Source;
use super::settings::Settings;

/// The settings of one table that somebody set, by key.
pub(super) type Layer = BTreeMap<String, Said>;

/// The value of one setting, as text; several for a list.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) values: Vec<OsString>,
    pub(super) source: Source,
}

/// What kind of value a setting has in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Text, too. In the file, a relative one begins where the file is.
    Path,
    Number,
    Boolean,
    List,
}

/// The settings that one table may hold.
pub(super) struct Schema {
    command: Command,
    variables: BTreeMap<String, String>,
}

impl Schema {
    /// Those of the node as a whole, with its log.
    pub(super) fn node() -> Self {
        Self::new(LogSettings::augment_args(Settings::augment_args(Command::new("node"))))
    }

    /// Those of one origin.
    pub(super) fn origin() -> Self {
        Self::new(OriginSettings::augment_args(Command::new("origin")))
    }

    fn new(command: Command) -> Self {
        let variable = |arg: &Arg| Some((key(arg).to_owned(), arg.get_env()?.to_string_lossy().into_owned()));
        let variables = command.get_arguments().filter_map(variable).collect();
        // What the environment says is a layer like the others, and must not come in twice.
        let command = command.mut_args(|arg| arg.env(Resettable::<clap::builder::OsStr>::Reset));
        Self { command: command.no_binary_name(true).disable_help_flag(true), variables }
    }

    /// All settings, in the order of their definition.
    pub(super) fn args(&self) -> impl Iterator<Item = &Arg> {
        self.command.get_arguments()
    }

    pub(super) fn arg(&self, key: &str) -> Option<&Arg> {
        self.args().find(|arg| arg.get_long() == Some(key))
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self, key: &str) -> Option<&str> {
        self.variables.get(key).map(String::as_str)
    }

    /// Reads all that was said, over the defaults. Each value must have passed [`Self::refusal`].
    pub(super) fn read(&self, said: &Layer) -> ArgMatches {
        let flags = said.iter().flat_map(|(key, said)| said.values.iter().map(move |value| flag(key, value)));
        let matches = self.command.clone().try_get_matches_from(flags);
        matches.expect("values that are each good and of different settings are good together")
    }

    /// Why a setting cannot have this value.
    pub(super) fn refusal(&self, key: &str, value: &OsStr) -> Option<String> {
        let error = self.command.clone().try_get_matches_from([flag(key, value)]).err()?;
        if let Some(reason) = error.source() {
            return Some(reason.to_string());
        }
        if value.is_empty() {
            return Some("it must not be empty".to_owned());
        }
        let choices = self.arg(key).map(Arg::get_possible_values).unwrap_or_default();
        let names: Vec<&str> = choices.iter().map(|choice| choice.get_name()).collect();
        Some(match error.kind() {
            ErrorKind::InvalidUtf8 => "it is no Unicode text".to_owned(),
            _ => format!("it must be one of: {}", names.join(", ")),
        })
    }
}

/// The key of a setting: its flag without the dashes.
pub(super) fn key(arg: &Arg) -> &str {
    arg.get_long().expect("settings have long flags only")
}

/// What kind of value it has.
pub(super) fn kind(arg: &Arg) -> Kind {
    let holds = arg.get_value_parser().type_id();
    if matches!(arg.get_action(), ArgAction::Append) {
        Kind::List
    } else if holds == TypeId::of::<bool>() {
        Kind::Boolean
    } else if holds == TypeId::of::<std::num::NonZeroU32>() {
        Kind::Number
    } else if holds == TypeId::of::<PathBuf>() {
        Kind::Path
    } else {
        Kind::Text
    }
}

fn flag(key: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{key}="));
    flag.push(value);
    flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_of_a_node_is_a_flag_a_variable_and_a_key() {
        let schema = Schema::node();
        for arg in schema.args() {
            let name = key(arg).to_uppercase().replace('-', "_");
            assert_eq!(schema.variable(key(arg)), Some(&*format!("FAASNET_{name}")));
            assert!(arg.get_short().is_none() && arg.get_help().is_some(), "{}", key(arg));
        }
        assert!(Schema::origin().variables.is_empty());
    }

    #[test]
    fn kinds_follow_from_what_a_flag_holds() {
        let rows = [
            ("zone", Kind::Text),
            ("http", Kind::Text),
            ("log-format", Kind::Text),
            ("data", Kind::Path),
            ("socket", Kind::Path),
            ("seed", Kind::List),
            ("lazy", Kind::Boolean),
        ];
        let schema = Schema::node();
        for (key, expected) in rows {
            assert_eq!(schema.arg(key).map(kind), Some(expected), "{key}");
        }
        let numbers: Vec<_> = Schema::origin()
            .args()
            .filter(|arg| kind(arg) == Kind::Number)
            .map(key)
            .map(str::to_owned)
            .collect();
        assert_eq!(numbers, ["max-requests"]);
    }

    #[test]
    fn a_refusal_says_why() {
        let rows = [
            ("zone", "rack-1", None),
            ("tag-ttl", "10", Some("\"10\" is no duration: it must be")),
            ("zone", "", Some("")),
            ("data", "", Some("it must not be empty")),
            ("http", "7401", Some("invalid socket address")),
            ("log-format", "xml", Some("it must be one of: text, json")),
            ("seed", "vm-1", Some("a seed must read HOST:PORT")),
        ];
        for (key, value, expected) in rows {
            let refusal = Schema::node().refusal(key, value.as_ref());
            assert_eq!(refusal.is_some(), expected.is_some(), "{key} {value}: {refusal:?}");
            let starts = refusal.unwrap_or_default().starts_with(expected.unwrap_or_default());
            assert!(starts, "{key} {value}: {:?}", Schema::node().refusal(key, value.as_ref()));
        }
    }
}
