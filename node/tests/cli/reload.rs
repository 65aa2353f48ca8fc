//! SIGHUP: a running node reads its configuration file again.

use rustix::process::Signal;

use super::stage::Stage;

const HELD: &str = "holds from now on";

#[test]
fn what_can_change_does_and_the_rest_is_named() {
    let stage = Stage::new("log = \"info\"\n[origin.\"one.example\"]\n");
    let mut node = stage.start();
    // The refusal of what is no origin of this node names those that are.
    let allowed = "/v2/a/manifests/latest?ns=unlisted.example";
    let answer = node.get(allowed);
    assert!(answer.contains("one.example") && !answer.contains("two.example"), "{answer}");

    stage.write(
        "faasnet.toml",
        "log = \"info\"\nzone = \"rack-2\"\n[origin.\"two.example\"]\ntag-ttl = \"0\"\n",
    );
    node.signal(Signal::HUP);
    node.log_until("zone cannot change while the node runs; restart it");
    node.log_until(&format!("origin has changed and {HELD}"));
    let answer = node.get(allowed);
    assert!(answer.contains("two.example") && !answer.contains("one.example"), "{answer}");

    stage.write("faasnet.toml", "log = \"debug\"\n[origin.\"two.example\"]\ntag-ttl = \"0\"\n");
    node.signal(Signal::HUP);
    node.log_until(&format!("log has changed and {HELD}"));
    node.signal(Signal::HUP);
    node.log_until("nothing has changed");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn a_broken_file_changes_nothing() {
    let stage = Stage::new("log = \"info\"\n[origin.\"one.example\"]\n");
    let mut node = stage.start();
    for (file, problems) in [
        (
            "zon = \"a\"\ntag-ttl = \"soon\"\n[origin.\"two.example\"]\n",
            &["faasnet.toml:1:1: unknown key", "faasnet.toml:2:11: tag-ttl: \"soon\" is no"][..],
        ),
        ("[origin.\"two.example\"]\npath = \".\"\n", &["cannot use"]),
    ] {
        stage.write("faasnet.toml", file);
        node.signal(Signal::HUP);
        let log = node.log_until("this node goes on with the");
        for problem in problems {
            assert!(log.contains(problem), "{problem}\n{log}");
        }
        let answer = node.get("/v2/a/manifests/latest?ns=unlisted.example");
        assert!(answer.contains("one.example") && !answer.contains("two.example"), "{answer}");
    }
    std::fs::remove_file(stage.path("faasnet.toml")).unwrap();
    node.signal(Signal::HUP);
    let log = node.log_until("this node goes on with the");
    assert!(log.contains("cannot read faasnet.toml"), "{log}");
    assert_eq!(node.stop(), Some(0));
}
