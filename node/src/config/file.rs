//! The configuration file: TOML, read against the schemas of its tables, with everything that is wrong with it.
//!
//! Knows keys, kinds of values and places; what a setting means is for others.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;

use clap::Arg;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problem::{Problem, Source};
use super::schema::{Kind, Layer, Said, Schema, key as name, kind};

/// The key of the tables of origins.
const ORIGIN: &str = "origin";

/// Keys that people try, and the setting that names a file instead.
const SECRETS: [(&str, &str); 5] = [
    ("secret", "secret-file"),
    ("cluster-secret", "secret-file"),
    ("api-token", "api-token-file"),
    ("password", "password-file"),
    ("token", "password-file"),
];

/// What a configuration file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) settings: Layer,
    pub(super) origins: Vec<OriginTable>,
}

/// What it says of one origin.
#[derive(Debug)]
pub(super) struct OriginTable {
    pub(super) name: String,
    pub(super) settings: Layer,
    pub(super) source: Source,
}

/// Reads the text of the file at `path`. What is wrong goes to `problems`, and is missing from what is returned.
pub(super) fn parse(path: &Path, text: &str, node: &Schema, problems: &mut Vec<Problem>) -> File {
    let mut reader = Reader { path, text, problems: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let span = error.span().unwrap_or_default();
        let excerpt = text.get(span.clone()).unwrap_or_default();
        match error.message() {
            "duplicate key" => reader.refuse(span, format!("{excerpt} is set twice")),
            message => reader.refuse(span, message.to_owned()),
        }
    }
    // What was made of a line that does not parse is a guess: what else is wrong with it may not be.
    let broken: BTreeSet<usize> = reader.problems.iter().filter_map(line).collect();
    let guesses_from = reader.problems.len();
    let file = reader.file(table.get_ref(), node);
    let mut index = 0;
    reader.problems.retain(|problem| {
        index += 1;
        index <= guesses_from || line(problem).is_none_or(|line| !broken.contains(&line))
    });
    problems.append(&mut reader.problems);
    file
}

fn line(problem: &Problem) -> Option<usize> {
    match problem.source {
        Source::File { line, .. } => Some(line),
        _ => None,
    }
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn file(&mut self, table: &DeTable<'_>, node: &Schema) -> File {
        let origin = Schema::origin();
        let mut file = File::default();
        for (key, value) in table {
            match (key.get_ref().as_ref(), value.get_ref()) {
                (ORIGIN, DeValue::Table(tables)) => {
                    file.origins = tables.iter().filter_map(|(name, table)| self.origin(name, table, &origin)).collect();
                }
                (ORIGIN, _) => self.refuse(
                    key.span(),
                    "each origin has a table of its own: write [origin.\"registry.example\"], and its settings, if \
                     any, below"
                        .to_owned(),
                ),
                (name, _) => match node.arg(name) {
                    Some(arg) => self.setting(arg, node, value, key.span(), &mut file.settings),
                    None => self.unknown(key, value, node, |reader| reader.misplaced_at_the_top(name, &origin)),
                },
            }
        }
        file
    }

    fn origin(
        &mut self,
        name: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        origin: &Schema,
    ) -> Option<OriginTable> {
        let DeValue::Table(table) = value.get_ref() else {
            let text = format!("{ORIGIN}.{0} must be a table: write [origin.\"{0}\"]", name.get_ref());
            self.refuse(name.span(), text);
            return None;
        };
        let mut settings = Layer::new();
        for (key, value) in table {
            match origin.arg(key.get_ref()) {
                Some(arg) => self.setting(arg, origin, value, key.span(), &mut settings),
                None => self.unknown(key, value, origin, |_| misplaced_in_origin(name.get_ref(), key, value)),
            }
        }
        Some(OriginTable { name: name.get_ref().to_string(), settings, source: self.place(name.span()) })
    }

    /// Takes up one setting, unless its value is of the wrong kind or refused.
    fn setting(
        &mut self,
        arg: &Arg,
        schema: &Schema,
        value: &Spanned<DeValue<'_>>,
        key: Range<usize>,
        settings: &mut Layer,
    ) {
        let (elements, as_list): (Vec<_>, _) = match value.get_ref() {
            DeValue::Array(elements) if kind(arg) == Kind::List => (elements.iter().collect(), true),
            _ => (vec![value], false),
        };
        let mut values = Vec::new();
        for element in &elements {
            match self.value(arg, schema, element, as_list) {
                Ok(text) => values.push(text),
                Err(message) => self.refuse(element.span(), message),
            }
        }
        if values.len() == elements.len() {
            let source = self.place(key);
            settings.insert(name(arg).to_owned(), Said { values, source });
        }
    }

    /// The text of one value, or why it cannot be one of this setting.
    fn value(
        &self,
        arg: &Arg,
        schema: &Schema,
        value: &Spanned<DeValue<'_>>,
        as_list: bool,
    ) -> Result<OsString, String> {
        let kind = kind(arg);
        match self.text(kind, value.get_ref()) {
            Some(text) if as_list == (kind == Kind::List) => match schema.refusal(name(arg), &text) {
                Some(reason) => Err(format!("{}: {reason}", name(arg))),
                None => Ok(text),
            },
            _ => {
                let found = self.text.get(value.span()).unwrap_or_default();
                let refusal = schema.refusal(name(arg), found.as_ref());
                Err(format!("{} {}", name(arg), wanted(kind, name(arg), value.get_ref(), found, refusal)))
            }
        }
    }

    /// The text that the value would have on the command line, if it is of the right kind.
    fn text(&self, kind: Kind, value: &DeValue<'_>) -> Option<OsString> {
        match (kind, value) {
            (Kind::Text | Kind::List, DeValue::String(text)) => Some(text.as_ref().into()),
            (Kind::Path, DeValue::String(text)) if text.is_empty() => Some(OsString::new()),
            (Kind::Path, DeValue::String(text)) => {
                let folder = self.path.parent().unwrap_or(Path::new(""));
                Some(folder.join(text.as_ref()).into_os_string())
            }
            (Kind::Number, DeValue::Integer(number)) if number.radix() == 10 => Some(number.as_str().into()),
            (Kind::Boolean, DeValue::Boolean(truth)) => Some(truth.to_string().into()),
            _ => None,
        }
    }

    fn unknown(
        &mut self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        schema: &Schema,
        misplaced: impl FnOnce(&Self) -> Option<String>,
    ) {
        let name = key.get_ref().as_ref();
        let instead = SECRETS.iter().find(|(secret, _)| *secret == name).map(|(_, file)| file);
        let message = if let (Some(file), DeValue::String(_)) = (instead, value.get_ref()) {
            format!(
                "{name} may not stand here, since this file is read by many and kept in version control: put it in a \
                 file of its own, and write {file} = \"PATH\""
            )
        } else if let Some(hint) = misplaced(self) {
            format!("unknown key \"{name}\"{hint}")
        } else if let Some(near) = nearest(name, schema.args().filter_map(Arg::get_long)) {
            format!("unknown key \"{name}\"; did you mean \"{near}\"?")
        } else {
            format!("unknown key \"{name}\"; `faasnet config example` lists all")
        };
        self.refuse(key.span(), message);
    }

    fn misplaced_at_the_top(&self, name: &str, origin: &Schema) -> Option<String> {
        origin.arg(name).map(|_| "; it belongs to one origin, below [origin.\"registry.example\"]".to_owned())
    }

    fn refuse(&mut self, span: Range<usize>, message: String) {
        let source = self.place(span);
        self.problems.push(Problem { source, message });
    }

    fn place(&self, span: Range<usize>) -> Source {
        let before = self.text.get(..span.start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Source::File {
            file: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

/// What is wrong with a key below an origin, if it is one of the two slips that TOML invites: a name with dots and
/// without quotes, and a setting of the node behind the table of an origin.
fn misplaced_in_origin(
    origin: &str,
    key: &Spanned<DeString<'_>>,
    value: &Spanned<DeValue<'_>>,
) -> Option<String> {
    let name = key.get_ref().as_ref();
    if matches!(value.get_ref(), DeValue::Table(_)) {
        return Some(format!(" of an origin; a name with dots needs quotes: [origin.\"{origin}.{name}\"]"));
    }
    let of_the_node = Schema::node().arg(name).is_some();
    of_the_node.then(|| " of an origin; it is one of the node: write it above the first table".to_owned())
}

/// What kind of value a setting must have, and how to write what was found instead; or why it would be refused even then.
fn wanted(kind: Kind, key: &str, value: &DeValue<'_>, found: &str, refusal: Option<String>) -> String {
    let is_text = matches!(value, DeValue::String(_));
    let bare = found.trim_matches(['"', '\'']);
    match kind {
        Kind::List if is_text => format!("must be a list: write {key} = [\"{bare}\"]"),
        Kind::List => "must be a list of texts in quotes: [\"...\", \"...\"]".to_owned(),
        Kind::Boolean => "must be true or false, without quotes".to_owned(),
        Kind::Number if is_text => format!("must be a number: write {key} = {bare}"),
        Kind::Number => "must be a whole number".to_owned(),
        Kind::Text | Kind::Path => match value {
            DeValue::Array(_) | DeValue::Table(_) => {
                format!("must be one text in quotes: write {key} = \"...\"")
            }
            _ => match refusal {
                Some(reason) => format!("must be a text in quotes; {reason}"),
                None => format!("must be a text in quotes: write {key} = \"{found}\""),
            },
        },
    }
}

/// The key that was probably meant: of all, the one with the fewest slips of a finger, if they are few for its length.
fn nearest<'a>(name: &str, keys: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase().replace('_', "-");
    let slips = keys.map(|key| (strsim::damerau_levenshtein(&name, key), key));
    let (slips, key) = slips.min()?;
    (slips <= (key.len() / 3).max(1)).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (File, Vec<String>) {
        let mut problems = Vec::new();
        let file = parse(Path::new("/etc/f.toml"), text, &Schema::node(), &mut problems);
        let shown = problems.iter().map(|problem| {
            let shown = problem.to_string();
            shown.strip_prefix("/etc/f.toml:").unwrap_or(&shown).to_owned()
        });
        (file, shown.collect())
    }

    #[test]
    fn a_file_is_read_key_by_key() {
        let (file, problems) = read(
            "id = \"vm-1\"\nseed = [\"a:1\", \"b:2\"]\nlazy = true\ndata = \"blobs\"\nsocket = \"/run/s\"\n\
             [origin.\"quay.io\"]\n[origin.\"r.example:5000\"]\nurl = \"http://10.0.0.1\"\nmax-requests = 8\n",
        );
        assert_eq!(problems, [""; 0]);
        let said = |layer: &Layer| -> Vec<String> {
            let shown = |(key, said): (&String, &Said)| format!("{key} {:?} {}", said.values, said.source);
            layer.iter().map(shown).collect()
        };
        assert_eq!(
            said(&file.settings),
            [
                "data [\"/etc/blobs\"] f.toml:4",
                "id [\"vm-1\"] f.toml:1",
                "lazy [\"true\"] f.toml:3",
                "seed [\"a:1\", \"b:2\"] f.toml:2",
                "socket [\"/run/s\"] f.toml:5",
            ]
        );
        let names: Vec<&str> = file.origins.iter().map(|origin| &*origin.name).collect();
        assert_eq!(names, ["quay.io", "r.example:5000"]);
        assert_eq!(
            said(&file.origins[1].settings),
            ["max-requests [\"8\"] f.toml:9", "url [\"http://10.0.0.1\"] f.toml:8"]
        );
    }

    #[test]
    fn what_is_wrong_has_a_place_and_a_way_out() {
        let rows = [
            ("tag-tll = \"1s\"", "1:1: unknown key \"tag-tll\"; did you mean \"tag-ttl\"?"),
            ("\n  Tag_TTL = \"1s\"", "2:3: unknown key \"Tag_TTL\"; did you mean \"tag-ttl\"?"),
            ("seeds = []", "1:1: unknown key \"seeds\"; did you mean \"seed\"?"),
            ("peers = []", "1:1: unknown key \"peers\"; `faasnet config example` lists all"),
            ("[node]\nid = \"a\"", "1:2: unknown key \"node\"; `faasnet config example` lists all"),
            ("config = \"x\"", "1:1: unknown key \"config\"; `faasnet config example` lists all"),
            ("url = \"x\"", "1:1: unknown key \"url\"; it belongs to one origin, below [origin."),
            ("secret = \"x\"", "1:1: secret may not stand here, since this file is read by many"),
            ("api-token = \"x\"", "1:1: api-token may not stand here"),
            ("[origin.\"a.b\"]\npassword = \"x\"", "2:1: password may not stand here"),
            ("tag-ttl = 10", "1:11: tag-ttl must be a text in quotes; \"10\" is no duration"),
            ("tag-ttl = 0", "1:11: tag-ttl must be a text in quotes: write tag-ttl = \"0\""),
            ("tag-ttl = \"10\"", "1:11: tag-ttl: \"10\" is no duration: it must be a number with"),
            ("tag-ttl = 10s", "1:11: string values must be quoted"),
            ("zone = [\"a\"]", "1:8: zone must be one text in quotes: write zone = \"...\""),
            ("data = \"\"", "1:8: data: it must not be empty"),
            ("lazy = \"yes\"", "1:8: lazy must be true or false, without quotes"),
            ("seed = \"a:1\"", "1:8: seed must be a list: write seed = [\"a:1\"]"),
            ("seed = [1]", "1:9: seed must be a list of texts in quotes"),
            ("seed = [\"a:1\",\n \"b\"]", "2:2: seed: a seed must read HOST:PORT"),
            ("zone = \"a\"\nzone = \"b\"", "2:1: zone is set twice"),
            ("# é\nzone = \"Ä B\" x", "2:14: "),
            ("origin = [\"quay.io\"]", "1:1: each origin has a table of its own"),
            ("[origin]\nx = 1", "2:1: origin.x must be a table: write [origin.\"x\"]"),
            ("[origin.\"a.b\"]\nmirror = []", "2:1: unknown key \"mirror\"; did you mean \"mirrors\"?"),
            (
                "[origin.a.b]\nurl = \"x\"",
                "1:11: unknown key \"b\" of an origin; a name with dots needs quotes: [origin.\"a.b\"]",
            ),
            (
                "[origin.\"a.b\"]\nzone = \"x\"",
                "2:1: unknown key \"zone\" of an origin; it is one of the node",
            ),
            (
                "[origin.\"a.b\"]\nmax-requests = \"8\"",
                "2:16: max-requests must be a number: write max-requests = 8",
            ),
            ("[origin.\"a.b\"]\nmax-requests = 0", "2:16: max-requests: 0 is no whole number from 1"),
            ("[origin.\"a.b\"]\nmax-requests = 1.5", "2:16: max-requests must be a whole number"),
            ("[origin.\"a.b\"]\nmax-rate = \"fast\"", "2:12: max-rate: \"fast\" is no size"),
            ("[origin.\"a.b\"]\nurl = \"ftp://x\"", "2:7: url: ftp://x is no URL of a registry"),
            ("[origin.\"a.b\"]\n[origin.\"a.b\"]", "2:9: \"a.b\" is set twice"),
        ];
        for (text, expected) in rows {
            let (_, problems) = read(text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].starts_with(expected), "{text}: {}", problems[0]);
        }
    }

    #[test]
    fn all_problems_are_found_at_once_and_the_rest_is_read() {
        let (file, problems) =
            read("zon = \"a\"\ntag-ttl = \"x\"\nid = \"vm-1\"\nlazy =\n[origin.\"q.io\"]\nx = 1\n");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(file.settings.keys().collect::<Vec<_>>(), ["id"]);
    }
}
