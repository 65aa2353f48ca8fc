//! Style that matters, as a test: each rule says what to do instead.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules that decide. They take time, randomness and everything else as arguments.
const PURE: &[&str] = &[
    "membership/src/greeter.rs",
    "membership/src/hold.rs",
    "membership/src/id.rs",
    "membership/src/rendezvous.rs",
    "membership/src/stamp.rs",
    "membership/src/suspicion.rs",
    "membership/src/tree.rs",
    "membership/src/view.rs",
    "membership/src/wire.rs",
    "node/src/api/types.rs",
    "node/src/config/example.rs",
    "node/src/config/file.rs",
    "node/src/config/problem.rs",
    "node/src/config/reload.rs",
    "node/src/config/schema.rs",
    "node/src/config/settings.rs",
    "node/src/config/show.rs",
    "node/src/demo/report.rs",
    "node/src/documents/freshness.rs",
    "node/src/range.rs",
    "node/src/render/mod.rs",
    "node/src/render/table.rs",
    "node/src/render/tree.rs",
    "node/src/units.rs",
    "sim-harness/src/lab/play/judge.rs",
    "sim-harness/src/lab/play/timeline.rs",
    "sim-harness/src/lab/record.rs",
    "sim-harness/src/lab/report/film.rs",
    "sim-harness/src/lab/report/mod.rs",
    "sim-harness/src/lab/report/plot.rs",
    "sim-harness/src/lab/report/table.rs",
    "sim-harness/src/lab/scenario/file.rs",
    "sim-harness/src/lab/scenario/words.rs",
    "transfer/src/blocks.rs",
    "transfer/src/digest.rs",
    "transfer/src/manifest.rs",
    "transfer/src/origin/challenge.rs",
    "transfer/src/origin/docker_config.rs",
    "transfer/src/origin/rate.rs",
    "transfer/src/origin/reach.rs",
    "transfer/src/origin/retry.rs",
    "transfer/src/origin/secret.rs",
    "transfer/src/plan.rs",
    "transfer/src/reference.rs",
    "transfer/src/wire.rs",
];

/// What pure modules must not name, and what to do instead.
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("tokio::", "leave waiting and I/O to a module that does"),
    ("quinn", "take what came over the network as an argument"),
    ("chitchat", "take what gossip says as an argument"),
    ("axum", "leave HTTP to the modules that speak it"),
    ("reqwest", "leave HTTP to the modules that speak it"),
    ("async fn", "leave waiting to a module that does"),
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime", "take `now` as an argument"),
    ("rand::", "take randomness as an argument"),
    ("HashMap", "use a BTreeMap: its order is the same on every node"),
    ("HashSet", "use a BTreeSet: its order is the same on every node"),
    ("std::fs", "leave files to a module that does"),
];

/// Where imports may not point: the direction is membership <- transfer <- node <- the rest.
const BANNED_IMPORTS: &[(&str, &[&str])] = &[
    ("membership/", &["transfer", "faasnet", "faasnet_sim"]),
    ("transfer/", &["faasnet", "faasnet_sim"]),
    ("node/", &["faasnet_sim"]),
];

/// Lines before its tests past which a file holds two nouns.
const MAX_LINES: usize = 520;

#[test]
fn pure_modules_are_pure() {
    for name in PURE {
        let text = fs::read_to_string(root().join(name)).unwrap();
        for (number, line) in code_before_tests(&text) {
            for (banned, instead) in BANNED_IN_PURE {
                assert!(!line.contains(banned), "{name}:{number}: `{banned}` is banned here: {instead}");
            }
        }
    }
}

#[test]
fn imports_go_one_way() {
    for (path, text) in sources() {
        for (folder, banned) in BANNED_IMPORTS.iter().filter(|(folder, _)| path.starts_with(folder)) {
            for (number, line) in code_before_tests(&text) {
                let imported = line.trim().strip_prefix("use ").and_then(|path| path.split("::").next());
                let wrong = imported.is_some_and(|name| banned.contains(&name));
                assert!(!wrong, "{path}:{number}: {folder} must not import {}", imported.unwrap_or_default());
            }
        }
    }
}

#[test]
fn chitchat_and_bincode_stay_behind_their_modules() {
    let homes = [
        ("chitchat::", vec!["gossip.rs", "transport.rs", "envelope.rs"]),
        ("bincode::", vec!["codec.rs"]),
        ("quinn", vec!["congestion.rs", "quic.rs", "trust.rs", "hop/bare.rs", "hop/mod.rs"]),
    ];
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.starts_with("tests/")) {
        for (banned, homes) in &homes {
            let at_home = homes.iter().any(|home| path.ends_with(home));
            let found = code_before_tests(&text).find(|(_, line)| line.contains(banned));
            assert!(at_home || found.is_none(), "{path}: `{banned}` belongs in {homes:?} alone");
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_is_of_one_noun() {
    for (path, text) in sources() {
        assert!(text.starts_with("//!"), "{path}: open with `//!`: what it owns, and what it does not");
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        assert!(lines <= MAX_LINES, "{path}: {lines} lines before its tests; split it: it holds two nouns");
    }
}

#[test]
fn the_tests_that_conformance_names_exist() {
    let text = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    let code: String = sources().into_iter().map(|(_, text)| text).collect();
    for row in &rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in tests.split(", ").map(|name| name.trim_matches('`')) {
            assert!(code.contains(&format!("fn {name}(")), "no test is called {name}: {row}");
        }
    }
    assert!(rows.len() > 20, "the tables are not read: {}", rows.len());
}

#[test]
fn nothing_is_left_behind() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for (number, line) in text.lines().enumerate() {
            for banned in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"] {
                assert!(!line.contains(banned), "{path}:{}: finish or delete `{banned}`", number + 1);
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Lines of code with their numbers, without comments and without the tests at the end.
fn code_before_tests(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines.map(|(number, line)| (number + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// All Rust files of the workspace, by their path from its top.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["membership", "transfer", "node", "sim-harness", "tests"] {
        collect(&root().join(folder), &mut files);
    }
    assert!(files.len() > 40, "the sources were not found");
    files
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}
