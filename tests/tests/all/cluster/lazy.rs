//! Reading some of a layer before, or without, having all of it.

use faasnet::api::FunctionState;
use futures_util::future::join_all;

use super::http::get;
use super::stage::{FAST, Origin, Stage, slow};
use super::vast::{self, Vast};

const LAZY: (&str, &str) = ("Faasnet-Provision", "lazy");

fn range_header(start: u64, length: u64) -> String {
    format!("bytes={start}-{}", start + length - 1)
}

/// 1% of 1 GiB, read from the far end of a chain of three nodes that have nothing yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_reader_moves_little_more_than_it_reads() {
    // Four, so that one of them is two steps below the root wherever hashes put it.
    let stage = Stage::with_origin(4, FAST, Origin::Vast).await;
    for node in &stage.nodes {
        assert_eq!(get(node, &stage.manifest_path(), &[LAZY]).await.status, 200);
    }
    let tree = stage.settled_tree().await;
    let deepest = tree.nodes.iter().max_by_key(|node| node.depth).unwrap();
    assert!(deepest.depth >= 2);
    let reader = stage.nodes.iter().find(|node| *node.id() == deepest.node).unwrap();

    let path = format!("/v2/demo/image/blobs/{}", Vast::layer());
    let percent = vast::SIZE / 100;
    let (pieces, length) = (20, percent / 20);
    for piece in 0..pieces {
        // The last of them ends with the layer, as the footer does that lazy readers begin with.
        let start = (vast::SIZE - length) / (pieces - 1) * piece;
        let answer = get(reader, &path, &[("Range", &range_header(start, length))]).await;
        assert_eq!(answer.status, 206);
        assert!(answer.body == Vast::bytes(start..start + length), "piece {piece}");
    }

    let most = 3 * percent;
    let egress = stage.registry.egress_bytes();
    assert!(egress < most, "{egress} of {} left the origin", vast::SIZE);
    let mut moved = 0;
    for node in &stage.nodes {
        let counts = node.status().transfer;
        let received = counts.origin_bytes + counts.peer_bytes;
        assert!(received < most, "{} received {received}", node.id());
        moved += received;
    }
    println!("read {percent} of {}, {egress} left the origin, {moved} moved over three hops", vast::SIZE);
    assert_eq!(stage.nodes[0].functions()[0].state, FunctionState::Provisioning);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_reads_comes_before_what_nobody_waits_for() {
    // The whole takes 6 s.
    let stage = Stage::with_nodes(4, slow(4 << 20)).await;
    stage.start_everywhere().await;
    let (digest, content) = stage.largest_blob();
    let path = format!("/v2/demo/image/blobs/{digest}");
    let size = content.len() as u64;
    let tails = join_all(stage.nodes.iter().map(async |node| {
        let tail = get(node, &path, &[("Range", &range_header(size - 1000, 1000))]).await;
        assert!(tail.body == content[content.len() - 1000..], "{}", node.id());
        node.function(stage.function()).unwrap()
    }))
    .await;
    for function in tails {
        assert!(function.held_bytes < function.bytes / 2, "{} of {}", function.held_bytes, function.bytes);
    }
    for node in &stage.nodes {
        assert_eq!(node.finished(stage.function()).await.unwrap().state, FunctionState::Ready);
        stage.check_store(node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lazy_function_becomes_whole_when_somebody_asks_for_that() {
    let mut stage = Stage::with_nodes(2, FAST).await;
    for node in &stage.nodes {
        get(node, &stage.manifest_path(), &[LAZY]).await;
    }
    let (digest, content) = stage.largest_blob();
    let path = format!("/v2/demo/image/blobs/{digest}");
    let read = get(&stage.nodes[1], &path, &[("Range", "bytes=300000-300009")]).await;
    assert!(read.body == content[300_000..300_010]);
    stage.restart(1).await;
    let read = get(&stage.nodes[1], &path, &[("Range", "bytes=900000-900009")]).await;
    assert!(read.body == content[900_000..900_010]);
    let function = &stage.nodes[1].functions()[0];
    assert!(function.held_bytes < function.bytes / 2, "it is lazy after the restart, too");

    let whole = get(&stage.nodes[1], &path, &[]).await;
    assert!(whole.body == content, "a client may read all of a blob");
    assert_eq!(stage.provision_on(1).await.state, FunctionState::Ready);
    stage.check_store(&stage.nodes[1]);
}

/// More of them than a node fetches as a whole at once.
#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_read_all_at_once_are_each_fetched_once() {
    let stage = Stage::with_nodes(1, FAST).await;
    let node = &stage.nodes[0];
    get(node, &stage.manifest_path(), &[]).await;
    let layers = stage.blobs();
    assert!(layers.len() > 3);
    join_all(layers.iter().map(async |digest| {
        let layer = get(node, &format!("/v2/demo/image/blobs/{digest}"), &[]).await;
        assert_eq!(super::stage::digest_of(&layer.body), digest.to_string());
    }))
    .await;
    let egress = stage.registry.egress_bytes();
    assert!(egress <= stage.image.bytes * 105 / 100, "{egress} of {} left the origin", stage.image.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provision_header_that_means_nothing_is_refused() {
    let stage = Stage::with_nodes(1, FAST).await;
    let refused = get(&stage.nodes[0], &stage.manifest_path(), &[("Faasnet-Provision", "fast")]).await;
    assert_eq!(refused.status, 400);
}
