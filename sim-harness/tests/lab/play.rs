//! Scenarios played with real nodes.

use std::sync::Arc;

use faasnet_sim::lab::play::play;
use faasnet_sim::lab::scenario::{self, Scenario, file};

/// A burst of eight, one of which may be killed.
fn burst_of_eight(event: &str) -> Scenario {
    let text = format!(
        r#"
        about = "A node of a burst is killed."
        image = ["32 MiB", "16 MiB"]
        origin = {{ rate = "100 Mbit/s" }}
        [[nodes]]
        count = 8
        link = {{ rate = "100 Mbit/s" }}
        [[event]]
        pull = ["all"]
        {event}
        [bounds]
        origin-egress = 2.1
        "#
    );
    file::read("kill-any", &text).unwrap()
}

#[test]
#[ignore = "needs root, network namespaces and the release binary, and takes minutes; .ci/run runs it"]
fn whichever_node_dies_at_whatever_moment_the_others_finish_in_less_than_twice_the_time() {
    let never = Arc::default();
    let undisturbed = play(&burst_of_eight(""), 0, &never).unwrap();
    assert!(undisturbed.passed(), "{:?}", undisturbed.checks);
    for moment in 0..20 {
        // Spread over the whole burst; which node it is, the seed decides.
        let event = format!("[[event]]\nat = \"{}%\"\nkill = [\"random\"]", 2 + 5 * moment);
        let record = play(&burst_of_eight(&event), moment, &never).unwrap();
        eprintln!("{event}: {:.1} s of {:.1} s", record.seconds, undisturbed.seconds);
        assert!(record.passed(), "{event}: {:?}", record.checks);
        assert_eq!(
            record.nodes.iter().filter(|node| node.finished.is_some() && node.alive).count(),
            7,
            "{event}"
        );
        assert!(record.seconds <= 2.0 * undisturbed.seconds, "{event}: {} s", record.seconds);
    }
}

#[test]
#[ignore = "needs root, network namespaces and the release binary, and takes minutes; .ci/run runs it"]
fn every_scenario_that_comes_with_the_lab_holds() {
    let never = Arc::default();
    for (name, text) in scenario::library() {
        let record = play(&file::read(name, text).unwrap(), 1, &never).unwrap();
        eprintln!("{name}: {:.1} s, {:?}", record.seconds, record.checks);
        assert!(record.passed(), "{name}: {:?}", record.checks);
    }
}
