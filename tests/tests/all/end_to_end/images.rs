//! Images through the whole: every byte right on every node, each from the origin once, whoever dies on the way.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use faasnet_sim::lab::client::{Place, Pulling};
use faasnet_sim::lab::image::Image;
use faasnet_sim::lab::netns::{Link, Rate};
use faasnet_sim::lab::process::wait_until;
use faasnet_sim::lab::registry::AccessLog;
use faasnet_sim::lab::stage::{IMAGE_NAME, Stage};

/// A provision may take this long before it counts as stuck. The slowest one here takes some twenty seconds on two cores.
const PULL_LIMIT: Duration = Duration::from_secs(240);

/// How long the registry is made to need for one image, so that "half-way" is a time that one can hit, and so that the
/// registry is the bottleneck on a busy machine too.
const SHAPED_TIME: Duration = Duration::from_secs(15);

/// What the registry may send for one image that all nodes pull at once: each byte once, and a little.
const ORIGIN_SHARE: f64 = 1.05;

/// What may be in flight twice when a node loses a parent and attaches to another: some blocks of 256 KiB per stripe.
const IN_FLIGHT: u64 = 16 * 256 * 1024;

/// How long a frozen node stays so, at least: until the others have closed their connections to it.
const FROZEN: Duration = Duration::from_secs(15);

const MEBIBYTE: u64 = 1 << 20;

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn a_burst_takes_the_image_from_the_origin_once() {
    let image = Image::debian().unwrap();
    assert!(image.bytes() > 200_000_000);
    let mut stage = Stage::new("burst", 8).unwrap();
    let reference = stage.publish(&image).unwrap();
    let before = stage.registry.access_log().unwrap();
    let wire_before = stage.registry.host().bytes_sent().unwrap();

    stage.say("all nodes pull at once");
    let start = Instant::now();
    let mut from_origin = 0;
    for (index, pulling) in stage.pull_everywhere(&reference, PULL_LIMIT).into_iter().enumerate() {
        let pulled = pulling.wait().unwrap();
        assert_eq!(
            (pulled.state.as_str(), pulled.function.as_str()),
            ("ready", image.manifest.digest.as_str())
        );
        // Whether the manifest counts as a part of the image is the node's own business.
        assert!((image.bytes()..=image.bytes() + image.manifest.size).contains(&pulled.bytes), "{pulled:?}");
        assert!(pulled.origin_bytes + pulled.peer_bytes >= image.bytes(), "{pulled:?}");
        from_origin += pulled.origin_bytes;
        stage.nodes[index].verify_store(&image).unwrap();
    }
    stage.say(&format!("all are ready and verified after {:.2} s", start.elapsed().as_secs_f64()));

    let log = stage.registry.access_log().unwrap().since(&before);
    let wire = stage.registry.host().bytes_sent().unwrap() - wire_before;
    check_origin(&stage, &log, &image, ORIGIN_SHARE);
    assert!(
        (from_origin as f64) <= ORIGIN_SHARE * image.bytes() as f64,
        "nodes count {from_origin} B from the origin"
    );
    // What the log may not see: requests that were given up.
    assert!(wire as f64 <= 1.1 * image.bytes() as f64, "{wire} B on the registry's wire");
    assert!(
        log.manifest_requests() < stage.nodes.len(),
        "{} requests for manifests",
        log.manifest_requests()
    );
    let transfers: Vec<_> = stage.nodes.iter().map(|node| node.ask().status().unwrap().transfer).collect();
    let served: u64 = transfers.iter().map(|transfer| transfer.served_bytes).sum();
    let from_peers: u64 = transfers.iter().map(|transfer| transfer.peer_bytes).sum();
    assert!(served >= from_peers, "received {from_peers} B from peers who served {served} B");
    assert!(transfers.iter().all(|transfer| transfer.refused_blocks == 0), "{transfers:?}");

    let tree = agreed_tree(&stage, &reference);
    stage.say(&format!("all agree on the tree: {}", drawn(&tree)));

    for index in [0, 3, 7] {
        stage.say(&format!("skopeo copies the image out of {}", stage.nodes[index].id()));
        check_mirror(&stage, index, &image);
    }

    stage.say("the registry stops, and a ninth node joins");
    stage.registry.stop().unwrap();
    let ninth = stage.add_node().unwrap();
    let pulled = stage.nodes[ninth].ask().pull(&reference, PULL_LIMIT).wait().unwrap();
    stage.say(&format!("it has the image from its peers after {} ms", pulled.elapsed_ms));
    assert_eq!((pulled.state.as_str(), pulled.origin_bytes), ("ready", 0));
    stage.nodes[ninth].verify_store(&image).unwrap();
    check_mirror(&stage, ninth, &image);
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn the_root_is_killed_half_way() {
    kill_half_way("root killed", |tree| tree.iter().find(|place| place.parent.is_none()));
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn an_inner_node_is_killed_half_way() {
    kill_half_way("inner killed", inner_node);
}

/// Kills the node that `choose` picks from the tree, half-way, and judges what that costs the others.
fn kill_half_way(title: &str, choose: impl Fn(&[Place]) -> Option<&Place>) {
    let Shaped { mut stage, image, reference, before, mut pulls } = start_shaped_burst(title, 8, debian);
    stage.wait_half_way(&reference, &image, PULL_LIMIT).unwrap();
    let tree = stage.nodes[0].ask().tree(&reference).unwrap();
    let victim = choose(&tree).unwrap_or_else(|| panic!("nobody to kill in {}", drawn(&tree))).node.clone();
    let index = stage.index_of(&victim).unwrap();
    stage.nodes[index].kill().unwrap();
    stage.say(&format!("killed {victim} in {}", drawn(&tree)));
    assert!(pulls.remove(index).wait().is_err(), "{victim} was done before it was killed");

    stage.nodes.remove(index);
    finish(&stage, pulls, &image);
    let mut received = 0;
    for node in &stage.nodes {
        let transfer = node.ask().status().unwrap().transfer;
        stage.say(&format!("{}: {transfer:?}", node.id()));
        received += transfer.received();
    }
    let wanted = stage.nodes.len() as u64 * (image.bytes() + IN_FLIGHT);
    assert!(
        received <= wanted,
        "the survivors received {received} B, {} more than they should",
        received - wanted
    );
    // What only the killed node had got is asked for again, by whoever took its place.
    check_origin(&stage, &stage.registry.access_log().unwrap().since(&before), &image, 1.25);
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn a_frozen_inner_node_is_gone_around() {
    let Shaped { stage, image, reference, before, mut pulls } = start_shaped_burst("inner frozen", 8, debian);
    stage.wait_half_way(&reference, &image, PULL_LIMIT).unwrap();
    let tree = stage.nodes[0].ask().tree(&reference).unwrap();
    let index = stage.index_of(&inner_node(&tree).unwrap().node).unwrap();
    let frozen = &stage.nodes[index];
    frozen.freeze().unwrap();
    let start = Instant::now();
    stage.say(&format!("froze {} in {}", frozen.id(), drawn(&tree)));
    let its_pull = pulls.remove(index);
    for (node, pulling) in stage.nodes.iter().filter(|node| node.id() != frozen.id()).zip(pulls) {
        assert_eq!(pulling.wait().unwrap().state, "ready");
        node.verify_store(&image).unwrap();
    }
    stage.say("all others are ready and verified");
    thread::sleep(FROZEN.saturating_sub(start.elapsed()));
    assert!(!its_pull.is_over(), "the frozen node is done");
    frozen.thaw().unwrap();
    assert_eq!(its_pull.wait().unwrap().state, "ready");
    frozen.verify_store(&image).unwrap();
    stage.say("thawed, it is ready too");
    check_origin(&stage, &stage.registry.access_log().unwrap().since(&before), &image, ORIGIN_SHARE);
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn the_registry_is_restarted_half_way() {
    let Shaped { mut stage, image, reference, pulls, .. } =
        start_shaped_burst("registry restarted", 8, debian);
    stage.wait_half_way(&reference, &image, PULL_LIMIT).unwrap();
    stage.registry.stop().unwrap();
    stage.say("the registry is gone");
    stage.registry.restart().unwrap();
    stage.say("the registry is back");
    finish(&stage, pulls, &image);
    // The registry logs no request that it was killed in, so here the nodes are the witnesses.
    let from_origin: u64 =
        stage.nodes.iter().map(|node| node.ask().status().unwrap().transfer.origin_bytes).sum();
    stage.say(&format!(
        "{from_origin} B came from the origin, {:.3} images",
        from_origin as f64 / image.bytes() as f64
    ));
    assert!(from_origin as f64 <= ORIGIN_SHARE * image.bytes() as f64);
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn a_node_joins_when_the_others_are_half_done() {
    let Shaped { mut stage, image, reference, before, mut pulls } =
        start_shaped_burst("late joiner", 8, debian);
    stage.wait_half_way(&reference, &image, PULL_LIMIT).unwrap();
    let late = stage.start_node().unwrap();
    stage.nodes[late].wait_ready().unwrap();
    stage.say("a ninth node has joined");
    pulls.push(stage.nodes[late].ask().pull(&reference, PULL_LIMIT));
    assert!(!pulls[0].is_over(), "the others were done before it had joined");
    finish(&stage, pulls, &image);
    check_origin(&stage, &stage.registry.access_log().unwrap().since(&before), &image, ORIGIN_SHARE);
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn a_restarted_node_keeps_the_blocks_it_had() {
    // One layer: what the node holds half-way is a part of a blob, which is what could get lost.
    let one_layer = |stage: &Stage| synthetic(stage, 200_000_000);
    let Shaped { mut stage, image, reference, mut pulls, .. } =
        start_shaped_burst("node restarted", 8, one_layer);
    // All that can be asked before is, so that the node dies with little more than what it was seen to hold.
    let tree = wait_until("the tree to have all nodes", PULL_LIMIT, || {
        Ok(Some(stage.nodes[0].ask().tree(&reference)?).filter(|tree| tree.len() == stage.nodes.len()))
    });
    let index = stage.index_of(&inner_node(&tree.unwrap()).unwrap().node).unwrap();
    let old = stage.nodes[index].ask().status().unwrap().incarnation;
    let held = stage.wait_half_way(&reference, &image, PULL_LIMIT).unwrap()[index];
    stage.nodes[index].kill().unwrap();
    assert!(held > image.bytes() / 4, "it held only {held} B, so this would show nothing");
    assert!(pulls.remove(index).wait().is_err(), "it was done before it was killed");
    stage.nodes[index].restart().unwrap();
    stage.nodes[index].wait_ready().unwrap();
    stage.say(&format!("{} held {held} B, was killed, and is back", stage.nodes[index].id()));
    pulls.insert(index, stage.nodes[index].ask().pull(&reference, PULL_LIMIT));
    finish(&stage, pulls, &image);

    let status = stage.nodes[index].ask().status().unwrap();
    stage.say(&format!("since then: {:?}", status.transfer));
    assert!(status.incarnation > old, "incarnation {} after {old}", status.incarnation);
    let (received, wanted) = (status.transfer.received(), image.bytes() - held + IN_FLIGHT);
    assert!(received <= wanted, "it received {received} B and should have needed at most {wanted}");
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn memory_does_not_grow_with_the_image() {
    let small = peak_memory("256 MiB", 256 * MEBIBYTE);
    let large = peak_memory("1 GiB", 1024 * MEBIBYTE);
    eprintln!("peak memory: {small:?} for 256 MiB, {large:?} for 1 GiB");
    let (small, large) = (small.into_iter().max().unwrap(), large.into_iter().max().unwrap());
    assert!(large < 150 * MEBIBYTE, "{} MiB", large / MEBIBYTE);
    assert!(large <= small + 20 * MEBIBYTE, "{} MiB after {} MiB", large / MEBIBYTE, small / MEBIBYTE);
}

/// The peak memory, in bytes, of each of three fresh nodes that pull an image at once and serve each other.
fn peak_memory(title: &str, bytes: u64) -> Vec<u64> {
    let stage = Stage::new(title, 3).unwrap();
    let image = synthetic(&stage, bytes);
    let reference = stage.publish(&image).unwrap();
    finish(&stage, stage.pull_everywhere(&reference, PULL_LIMIT), &image);
    let served: Vec<u64> =
        stage.nodes.iter().map(|node| node.ask().status().unwrap().transfer.served_bytes).collect();
    stage.say(&format!("served: {served:?}"));
    // Two of the three copies came from peers: whoever did that work is among those measured.
    assert!(served.iter().sum::<u64>() as f64 >= 1.9 * bytes as f64, "{served:?}");
    let peaks: Vec<u64> = stage.nodes.iter().map(|node| node.peak_memory().unwrap()).collect();
    stage.say(&format!(
        "peak memory in MiB: {:?}",
        peaks.iter().map(|peak| peak / MEBIBYTE).collect::<Vec<_>>()
    ));
    peaks
}

/// A burst that goes on.
struct Shaped {
    stage: Stage,
    image: Image,
    reference: String,
    /// What the registry had logged before.
    before: AccessLog,
    /// One per node, in their order.
    pulls: Vec<Pulling>,
}

/// Lets so many nodes pull an image at once from a registry that needs [`SHAPED_TIME`] for it.
fn start_shaped_burst(title: &str, nodes: usize, image: impl Fn(&Stage) -> Image) -> Shaped {
    let stage = Stage::new(title, nodes).unwrap();
    let image = image(&stage);
    let reference = stage.publish(&image).unwrap();
    let link = Link { up: Some(Rate::of(image.bytes(), SHAPED_TIME)), ..Link::default() };
    stage.network.shape(stage.registry.host(), &link).unwrap();
    let before = stage.registry.access_log().unwrap();
    stage.say("all nodes pull at once, from a slow registry");
    let pulls = stage.pull_everywhere(&reference, PULL_LIMIT);
    Shaped { stage, image, reference, before, pulls }
}

/// The image of real packages.
fn debian(_: &Stage) -> Image {
    Image::debian().unwrap()
}

/// An image with one layer of noise, which goes with the stage.
fn synthetic(stage: &Stage, bytes: u64) -> Image {
    Image::synthetic(&stage.network.directory().join("image"), bytes).unwrap()
}

/// Waits for the pulls of all nodes, in their order, and checks what lies on their disks.
fn finish(stage: &Stage, pulls: Vec<Pulling>, image: &Image) {
    assert_eq!(pulls.len(), stage.nodes.len());
    let mut times = Vec::new();
    for (node, pulling) in stage.nodes.iter().zip(pulls) {
        let pulled = pulling.wait().unwrap();
        assert_eq!(
            (pulled.state.as_str(), pulled.function.as_str()),
            ("ready", image.manifest.digest.as_str())
        );
        node.verify_store(image).unwrap();
        times.push(pulled.elapsed_ms);
    }
    stage.say(&format!("all are ready and verified; their pulls took {times:?} ms"));
}

/// Checks that the registry sent each blob at least once, and in all at most `share` times.
fn check_origin(stage: &Stage, log: &AccessLog, image: &Image, share: f64) {
    /// Below this size, a blob is a block or few, and asking twice for one tells nothing.
    const WORTH_COUNTING: u64 = 10 * MEBIBYTE;
    let (sent, images) = (log.bytes_by_blob(), log.blob_bytes() as f64 / image.bytes() as f64);
    let manifests = log.manifest_requests();
    stage.say(&format!(
        "the registry sent {images:.3} images, and answered {manifests} requests for manifests"
    ));
    for blob in &image.blobs {
        let sent = sent.get(&blob.digest).copied().unwrap_or(0);
        assert!(sent >= blob.size, "{blob:?} left the registry incompletely: {sent} B");
        assert!(
            blob.size < WORTH_COUNTING || sent as f64 <= share * blob.size as f64,
            "{blob:?}: {sent} B sent"
        );
    }
    assert!(images <= share, "the registry sent {images} images");
}

/// Copies the image out of a node with a client that people use, and compares.
fn check_mirror(stage: &Stage, node: usize, image: &Image) {
    let node = &stage.nodes[node];
    let layout = stage.network.directory().join(format!("out-of-{}", node.id()));
    let copy = node.ask().copy_out(IMAGE_NAME, &layout).unwrap();
    assert_eq!((&copy.manifest.digest, &copy.blobs), (&image.manifest.digest, &image.blobs));
    copy.verify().unwrap();
    fs::remove_dir_all(layout).unwrap();
}

/// Waits until all nodes derive the same tree with all of them in it, and checks that it is one.
fn agreed_tree(stage: &Stage, reference: &str) -> Vec<Place> {
    let tree = wait_until("all nodes to derive the same tree", Duration::from_secs(30), || {
        let trees = stage.nodes.iter().map(|node| {
            let mut tree = node.ask().tree(reference)?;
            tree.sort_unstable();
            Ok(tree)
        });
        let mut trees: Vec<Vec<Place>> = trees.collect::<anyhow::Result<_>>()?;
        trees.dedup();
        let only = trees.pop().filter(|tree| trees.is_empty() && tree.len() == stage.nodes.len());
        Ok(only)
    })
    .unwrap();
    assert_eq!(tree.iter().filter(|place| place.parent.is_none()).count(), 1, "{}", drawn(&tree));
    for place in &tree {
        let parent =
            place.parent.as_ref().map(|parent| tree.iter().find(|other| other.node == *parent).unwrap());
        assert_eq!(place.depth, parent.map_or(0, |parent| parent.depth + 1), "{place:?} in {}", drawn(&tree));
    }
    tree
}

/// A node that has a parent and a child.
fn inner_node(tree: &[Place]) -> Option<&Place> {
    let is_a_parent = |node: &str| tree.iter().any(|place| place.parent.as_deref() == Some(node));
    tree.iter().find(|place| place.parent.is_some() && is_a_parent(&place.node))
}

/// A tree for people: `n1 n1>n2 n2>n3`.
fn drawn(tree: &[Place]) -> String {
    let edge = |place: &Place| match &place.parent {
        Some(parent) => format!("{parent}>{}", place.node),
        None => place.node.clone(),
    };
    tree.iter().map(edge).collect::<Vec<_>>().join(" ")
}
