//! Pulls that are disturbed: whoever goes away on the way, the client ends well, and quickly where there is nothing to get.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use faasnet_sim::lab::fleet::Fleet;
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::runtime::{Kind, Pull, Runtime, Wanted};

use super::{PULL_LIMIT, Watch, each, name, publish, pull, slow_down, speed_up, wait_half_way, wait_ready};

/// Large enough that "half-way" is a time that one can hit, see [`super::SHAPED_TIME`].
const LARGE: u64 = 24_000_000;

/// For what is to be said at once, on a machine that may be busy. Clients that retry what is not there need longer.
const AT_ONCE: Duration = Duration::from_secs(15);

/// What the registry may have sent in vain when a node is killed: what was under way, through buffers on both sides.
const UNDER_WAY: u64 = 8 << 20;

/// Who gives up when a body ends early. Debian 12 has their library from before it learned to resume.
const GIVE_UP: [Kind; 3] = [Kind::Podman, Kind::Buildah, Kind::Skopeo];

/// A pull that is half-way.
struct HalfWay<'a> {
    image: Image,
    runtime: Runtime,
    wanted: Wanted,
    pull: Pull,
    watch: Watch<'a>,
}

/// Begins to pull a new image from a slow registry; comes back half-way, and with the registry fast again.
fn begin(fleet: &Fleet, kind: Kind) -> Result<HalfWay<'_>> {
    let image = publish(fleet, kind.name(), LARGE)?;
    let runtime = fleet.runtime(0, kind, "")?;
    let wanted = runtime.wanted(&name(kind));
    let watch = Watch::start(fleet)?;
    slow_down(fleet, &image)?;
    let mut pull = runtime.pull(&wanted)?;
    wait_half_way(fleet, &image)?;
    ensure!(pull.goes_on()?, "the pull was over before the node was half done");
    Ok(HalfWay { image, runtime, wanted, pull, watch })
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn a_killed_client_goes_on_where_the_node_is() {
    let fleet = Fleet::new("client killed", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let HalfWay { image, mut runtime, wanted, pull: mut first, watch } = begin(&fleet, kind)?;
        first.kill()?;
        runtime.kill()?;
        speed_up(&fleet)?;
        runtime.restart()?;
        pull(&runtime, &wanted, &image)?;
        watch.took_once(&image)
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn a_cancelled_pull_does_not_stop_the_node() {
    let fleet = Fleet::new("cancelled", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let HalfWay { image, runtime, wanted, pull: mut first, watch } = begin(&fleet, kind)?;
        first.interrupt()?;
        first.wait(AT_ONCE)?.failure()?;
        speed_up(&fleet)?;
        wait_ready(&fleet, 0, &image)?;
        watch.took_once(&image)?;
        pull(&runtime, &wanted, &image)?;
        watch.took_once(&image).context("after pulling again")
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn a_restarted_node_goes_on() {
    let mut fleet = Fleet::new("node restarted", 1).unwrap();
    each(&Kind::ALL, |kind| {
        let HalfWay { image, runtime, wanted, pull: mut first, watch } = begin(&fleet, kind)?;
        let (origin, upstream) = (watch.origin, watch.upstream);
        fleet.stage.nodes[0].kill()?;
        fleet.stage.nodes[0].restart()?;
        fleet.stage.nodes[0].wait_ready()?;
        speed_up(&fleet)?;
        let outcome = first.wait(PULL_LIMIT)?;
        if GIVE_UP.contains(&kind) && !outcome.status.success() {
            runtime.pull(&wanted)?.wait(PULL_LIMIT)?.success().context("again")?;
        } else {
            outcome.success()?;
        }
        runtime.stored(&wanted)?.is(&image)?;
        // The node takes up by itself what it was at.
        wait_ready(&fleet, 0, &image)?;
        let sent = fleet.stage.registry.access_log()?.since(&origin).blob_bytes();
        let past = fleet.upstream.access_log()?.since(&upstream).blob_bytes();
        fleet.stage.say(&format!("{kind}: the registry sent {sent} B to the node, {past} B past it"));
        ensure!(
            sent <= image.bytes() + UNDER_WAY,
            "{sent} bytes were sent for an image of {}",
            image.bytes()
        );
        Ok(())
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn without_its_node_a_client_goes_to_the_registry() {
    let mut fleet = Fleet::new("node stopped", 1).unwrap();
    fleet.stage.nodes[0].kill().unwrap();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), LARGE)?;
        let runtime = fleet.runtime(0, kind, "")?;
        let watch = Watch::start(&fleet)?;
        pull(&runtime, &runtime.wanted(&name(kind)), &image)?;
        let sent = watch.by_clients()?.blob_bytes();
        ensure!(sent == image.bytes(), "{sent} bytes were sent to the client");
        Ok(())
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn what_is_not_there_is_said_to_be_so_at_once() {
    let fleet = Fleet::new("unknown", 1).unwrap();
    let image = publish(&fleet, "known", 1_000_000).unwrap();
    let no_digest = format!("known/image@sha256:{}", "0".repeat(64));
    each(&Kind::ALL, |kind| {
        let runtime = fleet.runtime(0, kind, "")?;
        for unknown in ["known/image:v2", "unknown/image:v1", &no_digest] {
            let outcome = runtime.pull(&runtime.wanted(unknown))?.wait(AT_ONCE)?.failure()?;
            let said = outcome.text.to_lowercase();
            let words = ["not found", "manifest unknown", "unknown to registry", "does not exist"];
            ensure!(words.iter().any(|words| said.contains(words)), "{unknown}: it says {said:?}");
        }
        runtime
            .pull(&runtime.wanted(&name("known")))?
            .wait(PULL_LIMIT)?
            .success()
            .context("what is there")?;
        runtime.stored(&runtime.wanted(&name("known")))?.is(&image)
    });
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry and real clients; .ci/run runs it"]
fn without_the_registry_a_client_gets_the_image_from_another_node() {
    let mut fleet = Fleet::new("registry stopped", 2).unwrap();
    let mut images = Vec::new();
    each(&Kind::ALL, |kind| {
        let image = publish(&fleet, kind.name(), LARGE)?;
        let runtime = fleet.runtime(0, kind, "")?;
        pull(&runtime, &runtime.wanted(&name(kind)), &image)?;
        wait_ready(&fleet, 0, &image)?;
        images.push((kind, image));
        Ok(())
    });
    fleet.stop_registry().unwrap();
    each(&Kind::ALL, |kind| {
        let (_, image) = images.iter().find(|(other, _)| *other == kind).context("no image")?;
        let runtime = fleet.runtime(1, kind, "")?;
        pull(&runtime, &runtime.wanted(&name(kind)), image)?;
        let function = wait_ready(&fleet, 1, image)?;
        ensure!(function.held_bytes == image.bytes(), "the node says {function:?}");
        Ok(())
    });
    let transfer = fleet.stage.nodes[1].ask().status().unwrap().transfer;
    let bytes: u64 = images.iter().map(|(_, image)| image.bytes()).sum();
    assert_eq!((transfer.origin_bytes, transfer.peer_bytes), (0, bytes));
}
