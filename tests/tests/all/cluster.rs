//! Clusters of real nodes in this process: real QUIC, HTTP and disk on loopback, and a registry with a narrow uplink.
//!
//! What needs other programs, or processes that can be killed, is in `end_to_end`.

mod freshness;
mod hostile;
mod http;
mod lazy;
mod lists;
mod mirror;
mod origin;
mod stage;
mod vast;

use faasnet::api::FunctionState;
use tokio::time::timeout;

use http::{Response, get};
use stage::{FAST, LIMIT, Origin, Stage, slow};

/// Half a block for each of the blobs under way, twice over: what a change of source may fetch again.
const IN_FLIGHT: u64 = 2 * 3 * 256 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_pulls_the_image_from_the_origin_once() {
    let stage = Stage::with_nodes(8, FAST).await;
    let functions = stage.provision_everywhere().await;
    for (node, function) in stage.nodes.iter().zip(&functions) {
        assert_eq!(function.state, FunctionState::Ready, "{}: {:?}", node.id(), function.error);
        assert_eq!(function.origin_bytes + function.peer_bytes, stage.image.bytes, "{}", node.id());
        stage.check_store(node);
    }
    let pulled = functions.iter().filter(|function| function.origin_bytes > 0).count();
    assert_eq!(pulled, 1, "one root");
    let egress = stage.registry.egress_bytes();
    assert!(egress < stage.image.bytes * 105 / 100, "{egress} of {} left the origin", stage.image.bytes);

    let tree = stage.settled_tree().await;
    assert_eq!(tree.nodes.iter().filter(|node| node.parent.is_none()).count(), 1);
    assert_eq!(tree.nodes.len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn children_of_a_node_that_leaves_move_on_and_fetch_nothing_twice() {
    // So slow that the root could not simply finish while it leaves.
    let stage = Stage::with_nodes(5, slow(4 << 20)).await;
    stage.start_everywhere().await;
    stage.reach(stage.nodes.len(), 30).await;
    let root = stage.root().await;
    assert!(stage.nodes[root].shutdown().await, "its children must have moved on before it ends");
    for (number, node) in stage.nodes.iter().enumerate().filter(|(number, _)| *number != root) {
        let function = timeout(LIMIT, node.finished(stage.function())).await.unwrap().unwrap();
        assert_eq!(function.state, FunctionState::Ready, "n{}: {:?}", number + 1, function.error);
        let counts = node.status().transfer;
        assert_eq!(counts.origin_bytes + counts.peer_bytes, stage.image.bytes);
        assert!(counts.wasted_bytes <= IN_FLIGHT, "n{} fetched {} twice", number + 1, counts.wasted_bytes);
        stage.check_store(node);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_restarts_half_way_goes_on_where_it_was() {
    let mut stage = Stage::with_nodes(3, slow(8 << 20)).await;
    stage.start_everywhere().await;
    stage.reach(3, 40).await;
    // The root: without its stamp it would come back as somebody else's child.
    let victim = stage.root().await;
    let tree = stage.settled_tree().await;
    let before = stage.nodes[victim].function(stage.function()).unwrap().held_bytes;
    let old = stage.nodes[victim].status();
    stage.restart(victim).await;
    assert_eq!(
        stage.places(&stage.settled_tree().await),
        stage.places(&tree),
        "seniority survives a restart"
    );
    let node = &stage.nodes[victim];
    let function = stage.wait_for_function(node).await;
    assert_eq!(function.state, FunctionState::Ready, "{:?}", function.error);
    let new = node.status();
    assert_eq!(new.node, old.node);
    assert!(new.incarnation > old.incarnation);
    let received = new.transfer.origin_bytes + new.transfer.peer_bytes;
    assert!(
        received <= stage.image.bytes - before + IN_FLIGHT,
        "held {before} of {}, yet received {received} after the restart",
        stage.image.bytes
    );
    stage.check_store(node);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_origin_the_cluster_still_provisions() {
    let mut stage = Stage::with_nodes(3, FAST).await;
    stage.provision_everywhere().await;
    stage.registry.stop();
    let newcomer = stage.add_node().await;
    let function = stage.provision_on(newcomer).await;
    assert_eq!(function.state, FunctionState::Ready, "{:?}", function.error);
    assert_eq!(function.peer_bytes, stage.image.bytes);
    stage.check_store(&stage.nodes[newcomer]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_serves_wrong_bytes_spoils_nothing() {
    let stage = Stage::with_origin(2, FAST, Origin::FlipsABit).await;
    let functions = stage.provision_everywhere().await;
    for function in functions {
        assert_eq!(function.state, FunctionState::Failed);
        let error = function.error.unwrap();
        assert!(error.contains("sha256:") && error.contains("discarded"), "{error}");
    }
    for node in &stage.nodes {
        assert!(stage.wrong_blob_is_absent(node), "a wrong blob must never be kept as complete");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_directory_has_one_node() {
    let stage = Stage::with_nodes(1, FAST).await;
    let error = stage.start_double_on_data_of(0).await.err().unwrap();
    assert!(format!("{error:#}").contains("in use by another process"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_with_the_same_id_is_refused() {
    let stage = Stage::with_nodes(2, FAST).await;
    let error = stage.start_double_with_id_of(1).await.err().unwrap();
    let text = format!("{error:#}");
    assert!(text.contains("n2") && text.contains("taken by a live node"), "{text}");
    // It must not have been heard of either: the others would take it for the one that they know.
    let known =
        stage.nodes[0].members().into_iter().find(|member| member.node == *stage.nodes[1].id()).unwrap();
    assert_eq!(known.incarnation, stage.nodes[1].status().incarnation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_secret_is_refused() {
    let stage = Stage::with_nodes(2, FAST).await;
    let error = stage.start_stranger().await.err().unwrap();
    assert!(format!("{error:#}").contains("same secret"), "{error:#}");
    assert!(stage.nodes.iter().all(|node| node.members().len() == 2));
}

/// The API is on the mirror's port.
#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told() {
    let stage = Stage::with_nodes(1, FAST).await;
    for path in ["/healthz", "/readyz"] {
        let Response { status, .. } = get(&stage.nodes[0], path, &[]).await;
        assert_eq!(status, 200, "{path}");
    }
}
