//! Images that are not for everybody: the node has what it takes to read them, its clients have not.
//!
//! The registry speaks TLS under an authority that the web does not know, and asks for a name and a password; the node's
//! configuration file has both from `ca-file` and `docker-config`.

use std::time::Duration;

use anyhow::ensure;
use faasnet_sim::lab::fleet::Fleet;
use faasnet_sim::lab::registry::{READER, READER_AUTH};
use faasnet_sim::lab::runtime::Kind;

use super::{Watch, each, name, publish, pull, wait_ready};

/// A few blocks.
const SMALL: u64 = 3_000_000;

/// Nobody retries who was told that he may not.
const AT_ONCE: Duration = Duration::from_secs(15);

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn a_node_with_credentials_reads_for_clients_without() {
    let fleet = Fleet::private("private", true).unwrap();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), SMALL)?;
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        pull(&runtime, &runtime.wanted(&name(kind)), &image)?;
        wait_ready(&fleet, 0, &image)?;
        let sent = watch.by_clients()?.blob_bytes();
        ensure!(sent == image.bytes(), "{sent} bytes were sent for an image of {}", image.bytes());
        Ok(())
    });
    let log = fleet.stage.nodes[0].log_text().unwrap();
    let secrets = [READER.1, READER_AUTH];
    assert!(!secrets.iter().any(|secret| log.contains(secret)), "a secret is in the log:\n{log}");
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn without_credentials_a_client_is_told_so_at_once() {
    let fleet = Fleet::private("refused", false).unwrap();
    each(&Kind::ALL, |kind| {
        publish(&fleet, kind.name(), SMALL)?;
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        let outcome = runtime.pull(&runtime.wanted(&name(kind)))?.wait(AT_ONCE)?.failure()?;
        let said = outcome.text.to_lowercase();
        let words = ["unauthorized", "authentication required", "no basic auth", "denied", "401"];
        ensure!(words.iter().any(|words| said.contains(words)), "it says {said:?}");
        let sent = watch.by_clients()?.blob_bytes();
        ensure!(sent == 0, "{sent} bytes were sent");
        Ok(())
    });
}
