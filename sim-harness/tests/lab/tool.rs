//! The command as people run it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use faasnet_sim::lab::process::run;
use rustix::process::{Pid, Signal, kill_process};

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faasnet-sim"));
    command.arg("lab").args(args);
    command
}

/// What is left behind by whoever does not clear up: namespaces, links of this one, mounts.
fn traces() -> Vec<String> {
    [
        &["ip", "netns", "list"][..],
        &["ip", "-brief", "link"],
        &["findmnt", "--noheadings", "--output", "TARGET"],
    ]
    .iter()
    .map(|line| run(Command::new(line[0]).args(&line[1..])).unwrap())
    .collect()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
#[ignore = "needs root, network namespaces and the release binary; .ci/run runs it"]
fn an_interrupted_run_says_so_and_leaves_nothing_behind() {
    let before = traces();
    for signal in [Signal::INT, Signal::TERM] {
        let out = tempfile::tempdir().unwrap();
        let mut child = lab(&["run", "burst", "--out", out.path().to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        // In the middle of it, by its own words.
        lines.by_ref().find(|line| line.contains("pull")).unwrap();
        assert_ne!(traces(), before);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let last = lines.last().unwrap_or_default();
        assert_eq!(child.wait().unwrap().code(), Some(3), "{last}");
        assert!(last.contains("interrupted"), "{last}");
        assert_eq!(traces(), before);
        assert_eq!(out.path().read_dir().unwrap().count(), 0);
    }
}

#[test]
#[ignore = "needs root, network namespaces, the release binary, nginx, curl and python3-libtorrent; .ci/run runs it"]
fn everybody_in_the_field_finishes() {
    let args = [
        "compare",
        "--nodes",
        "3",
        "--rate",
        "200 Mbit/s",
        "--layers",
        "8 MiB,4 MiB",
        "--rounds",
        "1",
        "--json",
    ];
    let output = lab(&args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let entries = json(&output)["fields"][0]["entries"].as_array().unwrap().clone();
    assert_eq!(entries.len(), 6);
    for entry in entries {
        let run = &entry["runs"][0];
        let (time, egress) = (run["time_to_all"].as_f64().unwrap(), run["egress"].as_f64().unwrap());
        // Nobody is faster than one link, and somebody has to ask the registry for it all.
        assert!(time > 12.0 * 1.048_576 * 8.0 / 200.0 * 0.9, "{entry}");
        assert!(egress > 0.99, "{entry}");
    }
}

#[test]
#[ignore = "needs the release binary, nginx and curl; .ci/run runs it"]
fn a_hop_is_measured_beside_others() {
    let output = lab(&["hop", "--size", "64 MiB", "--rounds", "1", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let outcome = json(&output);
    let mut ways: Vec<_> =
        outcome["ways"].as_array().unwrap().iter().map(|way| way["way"].as_str().unwrap()).collect();
    ways.sort_unstable();
    assert_eq!(ways, ["bare-quic", "faasnet", "kept-quic", "nginx-curl"]);
    let first_runs = outcome["ways"].as_array().unwrap().iter().map(|way| &way["runs"][0]);
    assert!(first_runs.into_iter().all(|run| run["seconds"].as_f64().unwrap() > 0.0), "{outcome}");
}
