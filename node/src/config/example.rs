//! A configuration file with every setting, its help and its default, written from the schema.

use clap::Arg;

use super::schema::{Schema, key, kind};
use super::show::Value;

/// The width of a line, so that it fits beside line numbers on a terminal of 100.
const WIDTH: usize = 96;

const HEAD: &str = "\
The configuration of a FaaSNet node. Every setting is here, set to its default, or to an example where there is no default;
take away the # before those that you change. Flags (`--tag-ttl 5s`) and environment variables (FAASNET_TAG_TTL=5s) have
the same names, and count before this file. Paths may be relative to this file's directory. `faasnet config check` finds
mistakes, `faasnet config show` says where each value comes from, and SIGHUP has a running node read the file again.";

const ORIGINS: &str = "\
Each registry that the node may read from can have a table. Once there is one, only those that have one are read. Tables stand
below all other settings.";

/// What to write for settings without a default.
const EXAMPLES: [(&str, &str); 22] = [
    ("id", "\"vm-17\""),
    ("data", "\"/var/lib/faasnet\""),
    ("socket", "\"/run/faasnet.sock\""),
    ("listen", "\"0.0.0.0:7400\""),
    ("advertise", "\"203.0.113.7:7400\""),
    ("seed", "[\"10.0.0.1:7400\", \"seeds.example:7400\"]"),
    ("secret-file", "\"/etc/faasnet/cluster.secret\""),
    ("api-token-file", "\"/etc/faasnet/api.token\""),
    ("default-origin", "\"registry.example\""),
    ("docker-config", "\"/etc/faasnet/docker.json\""),
    ("url", "\"https://10.0.0.5:5000\""),
    ("path", "\"/srv/images\""),
    ("mirrors", "[\"https://mirror.example\"]"),
    ("ca-file", "\"/etc/faasnet/ca.pem\""),
    ("client-certificate-file", "\"/etc/faasnet/client.pem\""),
    ("client-key-file", "\"/etc/faasnet/client.key\""),
    ("username", "\"puller\""),
    ("password-file", "\"/etc/faasnet/registry.password\""),
    ("pull-secret-file", "\"/etc/faasnet/pull-secret.json\""),
    ("max-rate", "\"40MB/s\""),
    ("tag-ttl", "\"10s\""),
    ("lazy", "false"),
];

/// The file. As it stands it sets nothing.
pub fn example() -> String {
    let mut text = comment(HEAD);
    let mut heading = None;
    for arg in Schema::node().args().filter(|arg| key(arg) != "origin") {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            text.push_str(&format!("\n#### {}\n", heading.unwrap_or_default()));
        }
        text.push_str(&setting(arg));
    }
    text.push_str("\n#### Origins\n\n");
    text.push_str(&comment(ORIGINS));
    text.push_str("\n#[origin.\"registry.example\"]\n");
    for arg in Schema::origin().args() {
        text.push_str(&setting(arg));
    }
    text
}

/// Its help, and a line that sets it.
fn setting(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let value = match arg.get_default_values() {
        [] => example_of(key(arg)).to_owned(),
        defaults => Value::new(kind(arg), defaults.iter().map(|value| value.as_ref())).toml(),
    };
    format!("\n{}#{} = {value}\n", comment(&help), key(arg))
}

fn example_of(key: &str) -> &'static str {
    let example = EXAMPLES.iter().find(|(name, _)| *name == key);
    example.map(|(_, value)| *value).expect("a test holds that each setting has a default or an example")
}

/// Lines of comment, broken where they get too long.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::{File, parse};

    fn read(text: &str) -> File {
        let mut problems = Vec::new();
        let file = parse(Path::new("f.toml"), text, &Schema::node(), &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        file
    }

    #[test]
    fn the_example_sets_nothing_and_could_set_everything() {
        let text = example();
        let file = read(&text);
        assert!(file.settings.is_empty() && file.origins.is_empty());

        let settings = text.lines().map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '#']) => setting,
            _ => line,
        });
        let file = read(&settings.collect::<Vec<_>>().join("\n"));
        let keys = |schema: &Schema| {
            let mut keys: Vec<String> = schema.args().map(|arg| key(arg).to_owned()).collect();
            keys.sort();
            keys.retain(|key| key != "origin");
            keys
        };
        assert_eq!(file.settings.into_keys().collect::<Vec<_>>(), keys(&Schema::node()));
        let [origin] = &file.origins[..] else { panic!("one origin") };
        assert_eq!(origin.settings.keys().cloned().collect::<Vec<_>>(), keys(&Schema::origin()));
    }

    #[test]
    fn defaults_are_written_as_they_are() {
        let text = example();
        for line in [
            "#http = \"127.0.0.1:7401\"",
            "#tag-ttl = \"10s\"",
            "#lazy = false",
            "#log = \"warn\"",
            "#zone = \"default\"",
            "#max-requests = 64",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }
}
