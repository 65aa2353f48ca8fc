//! `faasnet config`, and a node that starts or refuses to.

use serde_json::Value;

use super::stage::Stage;

#[test]
fn a_check_says_what_it_found_by_its_exit_code_and_in_words() {
    // File, flags, environment; exit code, words.
    type Row = (
        &'static str,
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
        i32,
        &'static [&'static str],
    );
    let rows: [Row; 8] = [
        (
            "zone = \"a\"\n[origin.\"quay.io\"]",
            &[],
            &[],
            0,
            &["faasnet.toml is good: 2 settings", "1 origins"],
        ),
        ("", &["--zone", "a"], &[], 0, &["faasnet.toml is good: 1 settings"]),
        (
            "zone = 1\nzon = \"a\"",
            &[],
            &[],
            1,
            &["faasnet.toml:1:8: zone", "faasnet.toml:2:1: unknown key \"zon\""],
        ),
        ("zone = 1", &["--json"], &[], 1, &["\"line\": 1,", "\"column\": 8,"]),
        ("", &["--config", "absent.toml"], &[], 1, &["--config: cannot read absent.toml"]),
        ("", &[], &[("FAASNET_SECRET_FILE", "absent")], 1, &["FAASNET_SECRET_FILE: cannot read absent"]),
        ("", &[], &[("FAASNET_TAG_TTL", "soon")], 2, &["for 'FAASNET_TAG_TTL': \"soon\" is no duration"]),
        ("", &["--tag-ttl", "soon"], &[], 2, &["for '--tag-ttl <DURATION>': \"soon\" is no duration"]),
    ];
    for (file, flags, environment, exit, words) in rows {
        let stage = Stage::new(file);
        let environment = [environment, &[("FAASNET_CONFIG", "faasnet.toml")]].concat();
        let ended = stage.run(&[&["config", "check"], flags].concat(), &environment);
        let said = ended.stdout + &ended.stderr;
        assert_eq!(ended.exit, Some(exit), "{flags:?} {file}: {said}");
        for word in words {
            assert!(said.contains(word), "{flags:?} {file}: {said}");
        }
    }
}

#[test]
fn a_node_refuses_what_a_check_finds() {
    let stage = Stage::new("zone = 1\ntag-tll = \"1s\"\n");
    let arguments = |command: &[&'static str]| [command, &["--config", "faasnet.toml"]].concat();
    let refused = stage.run(&arguments(&["node"]), &[]);
    let found = stage.run(&arguments(&["config", "check"]), &[]);
    assert_eq!((refused.exit, refused.stderr), (Some(1), found.stderr));
}

#[test]
fn each_value_is_shown_with_where_it_is_from() {
    let stage = Stage::new("zone = \"file\"\ncluster = \"file\"\nid = \"file\"\n");
    let secret = stage.run(&["secret"], &[]).stdout;
    let environment = [
        ("FAASNET_CONFIG", "faasnet.toml"),
        ("FAASNET_ZONE", "variable"),
        ("FAASNET_ID", "variable"),
        ("FAASNET_LAZY", "yes"),
        ("FAASNET_LOG", "info"),
        ("FAASNET_CLUSTER_SECRET", secret.trim()),
    ];
    let shown = stage.run(&["config", "show", "--id", "flag"], &environment);
    for (setting, value, from) in [
        ("config", "faasnet.toml", "environment FAASNET_CONFIG"),
        ("id", "flag", "flag --id"),
        ("zone", "variable", "environment FAASNET_ZONE"),
        ("cluster", "file", "faasnet.toml:2"),
        ("lazy", "true", "environment FAASNET_LAZY"),
        ("log", "info", "environment FAASNET_LOG"),
        ("tag-ttl", "10s", "default"),
        ("listen", "0.0.0.0:7400", "default"),
        ("cluster-secret", "(hidden)", "environment FAASNET_CLUSTER_SECRET"),
    ] {
        let row = shown.stdout.lines().find(|line| line.split_whitespace().next() == Some(setting));
        let words: Vec<&str> = row.unwrap().split_whitespace().collect();
        assert_eq!(words[1..].join(" "), format!("{value} {from}"), "{}", shown.stdout);
    }
    assert!(!shown.stdout.contains(secret.trim()));

    let json = stage.run(&["config", "show", "--json"], &environment).stdout;
    let rows: Vec<Value> = serde_json::from_str(&json).unwrap();
    let cluster = rows.iter().find(|row| row["setting"] == "cluster").unwrap();
    assert_eq!(
        (&cluster["value"], &cluster["from"], &cluster["line"]),
        (&"file".into(), &"file".into(), &2.into())
    );
}

#[test]
fn the_example_is_a_configuration() {
    let stage = Stage::new("");
    let example = stage.run(&["config", "example"], &[]).stdout;
    stage.write("faasnet.toml", &example);
    let ended = stage.run(&["config", "check", "--config", "faasnet.toml"], &[]);
    assert_eq!(
        ended.stdout, "faasnet.toml is good: 0 settings beyond the defaults, 8 origins\n",
        "{}",
        ended.stderr
    );
}
