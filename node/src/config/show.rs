//! What every setting is, and where that comes from; of secrets, only where they come from.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

use clap::Arg;
use serde::Serialize;

use super::file::OriginTable;
use super::problem::Source;
use super::schema::{Kind, Layer, Said, Schema, key, kind};
use super::secrets::{API_TOKEN, CLUSTER_SECRET};
use super::surroundings::Surroundings;
use super::{Config, OriginConfig};

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Its key; `origin."NAME".KEY` for one of an origin.
    pub setting: String,
    /// What it is.
    pub value: Value,
    /// Who says so.
    #[serde(flatten)]
    pub source: Source,
}

/// The value of a setting, as in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(missing_docs, reason = "the names are those of the kinds of TOML")]
pub enum Value {
    Text(String),
    Number(u64),
    Boolean(bool),
    List(Vec<String>),
    /// There is none.
    Nothing,
}

impl Value {
    pub(super) fn new<'a>(kind: Kind, values: impl IntoIterator<Item = &'a OsStr>) -> Self {
        let mut values = values.into_iter().map(|value| value.to_string_lossy().into_owned());
        if kind == Kind::List {
            return Self::List(values.collect());
        }
        match (kind, values.next()) {
            (_, None) => Self::Nothing,
            (Kind::Boolean, Some(text)) => Self::Boolean(text == "true"),
            (Kind::Number, Some(text)) => text.parse().map_or(Self::Text(text), Self::Number),
            (_, Some(text)) => Self::Text(text),
        }
    }

    /// As TOML has it; nothing for nothing.
    pub(super) fn toml(&self) -> String {
        // A string of JSON is one of TOML.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// As a person is shown it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::List(texts) if texts.is_empty() => f.write_str("-"),
            Self::List(texts) => f.write_str(&texts.join(", ")),
            Self::Nothing => f.write_str("-"),
        }
    }
}

/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// What there is to show of a configuration.
pub(super) struct Parts<'a> {
    pub(super) file: Option<(&'a Path, &'a Source)>,
    pub(super) said: &'a Layer,
    pub(super) tables: &'a [OriginTable],
    pub(super) surroundings: &'a Surroundings,
    pub(super) config: &'a Config,
}

impl Parts<'_> {
    /// Every setting of the node, and of its origins those that somebody set.
    pub(super) fn rows(&self, schema: &Schema) -> Vec<Shown> {
        let value = self.file.map_or(Value::Nothing, |(path, _)| Value::Text(path.display().to_string()));
        let source = self.file.map_or(Source::Default, |(_, source)| source.clone());
        let mut rows = vec![Shown { setting: "config".to_owned(), value, source }];
        rows.extend(schema.args().filter(|arg| key(arg) != "origin").map(|arg| self.row(arg)));
        rows.extend([&CLUSTER_SECRET, &API_TOKEN].into_iter().filter_map(|kind| {
            let place = kind.place(self.said, self.surroundings)?;
            let value = Value::Text(HIDDEN.to_owned());
            let shown = Shown { setting: kind.name.to_owned(), value, source: place.source.clone() };
            place.is_in_environment().then_some(shown)
        }));
        rows.extend(self.origins());
        rows
    }

    fn row(&self, arg: &Arg) -> Shown {
        let shown = |value, source| Shown { setting: key(arg).to_owned(), value, source };
        if let Some(Said { values, source }) = self.said.get(key(arg)) {
            return shown(value_of(arg, values), source.clone());
        }
        let value = match key(arg) {
            "data" => Value::Text(self.config.data.display().to_string()),
            "listen" => Value::Text(self.config.listen().to_string()),
            _ => Value::new(kind(arg), arg.get_default_values().iter().map(|value| value.as_ref())),
        };
        shown(value, Source::Default)
    }

    fn origins(&self) -> Vec<Shown> {
        let listed = self.said.get("origin");
        if listed.is_none() && self.tables.is_empty() {
            let names = self.config.origins.iter().map(|origin| origin.name.clone()).collect();
            let (setting, value) = ("origin".to_owned(), Value::List(names));
            return vec![Shown { setting, value, source: Source::Default }];
        }
        let schema = Schema::origin();
        let mut rows = Vec::new();
        for origin in &self.config.origins {
            let setting = format!("origin.{}", Value::Text(origin.name.clone()).toml());
            let table = self.tables.iter().find(|table| table.name == origin.name);
            let is_located = listed.is_some_and(|said| {
                let mut listed = said.values.iter().filter_map(|text| text.to_str()?.parse().ok());
                listed.any(|other: OriginConfig| other.name == origin.name && other.location.is_some())
            });
            let source = table.filter(|_| !is_located).map(|table| &table.source);
            let source = source.or(listed.map(|said| &said.source));
            let value = origin.location.clone().map_or(Value::Nothing, Value::Text);
            let source = source.cloned().unwrap_or(Source::Default);
            rows.push(Shown { setting: setting.clone(), value, source });
            for arg in schema.args() {
                if let Some(said) = table.and_then(|table| table.settings.get(key(arg))) {
                    let setting = format!("{setting}.{}", key(arg));
                    rows.push(Shown {
                        setting,
                        value: value_of(arg, &said.values),
                        source: said.source.clone(),
                    });
                }
            }
        }
        rows
    }
}

fn value_of(arg: &Arg, values: &[OsString]) -> Value {
    Value::new(kind(arg), values.iter().map(OsString::as_os_str))
}
