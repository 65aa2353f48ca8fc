//! Joining a function: one root from the first moment, greeters that are dead, and joining again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use membership::view::{Participation, ParticipationState};
use membership::{Membership, NodeId, Seniority, Stamp, rendezvous};
use tokio::time::Instant;

use crate::cluster::{Cluster, FUNCTION, id, seconds, time_passes};

pub(crate) async fn all_join(cluster: &Cluster) -> Vec<Stamp> {
    join_all(cluster.nodes().map(|node| node.join(FUNCTION, Seniority::New, &[]))).await
}

pub(crate) async fn publish_all(cluster: &Cluster) {
    for node in cluster.nodes() {
        let stamp = node.participants(&FUNCTION).iter().find(|c| c.node == node.config().node).unwrap().stamp;
        let state = ParticipationState::Provisioning;
        node.publish(FUNCTION, Participation { stamp, state }).await;
    }
}

/// The numbers of all nodes in the order in which they greet for [`FUNCTION`].
fn greeters(cluster: &Cluster) -> Vec<usize> {
    let ids: Vec<_> = cluster.nodes().map(|node| node.config().node.clone()).collect();
    let order = rendezvous::order(FUNCTION.as_bytes(), &ids);
    order.into_iter().map(|greeter| ids.iter().position(|id| id == greeter).unwrap()).collect()
}

/// Where each node believes that the bytes come from in the end.
fn roots<'a>(nodes: impl Iterator<Item = &'a Membership>) -> BTreeSet<NodeId> {
    nodes
        .map(|node| {
            let ancestors = node.lineage(&FUNCTION, &[]).ancestors;
            ancestors.last().map_or_else(|| node.config().node.clone(), |root| root.node.clone())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn sixteen_that_join_at_once_have_one_root_before_gossip_says_anything() {
    let cluster = Cluster::of(16).await;
    let started = Instant::now();
    let stamps = all_join(&cluster).await;
    println!("all have joined after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_millis(50), "{:?}", started.elapsed());
    assert_eq!(stamps.iter().collect::<BTreeSet<_>>().len(), 16, "{stamps:?}");
    let rootless = cluster.nodes().filter(|node| node.lineage(&FUNCTION, &[]).ancestors.is_empty());
    assert_eq!(rootless.count(), 1);
    assert_eq!(roots(cluster.nodes()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn everybody_sees_the_same_tree_once_gossip_has_spread_it() {
    let cluster = Cluster::of(16).await;
    all_join(&cluster).await;
    publish_all(&cluster).await;
    let took =
        cluster.everybody_sees("all take part", |view| view.participants(&FUNCTION).count() == 16).await;
    println!("the whole tree is known to all after {took:?}");
    assert!(took < seconds(2), "{took:?}");
    let edges = |node: &Membership| {
        let tree = node.tree(&FUNCTION);
        tree.iter().map(|(who, parent)| (who.node.clone(), parent.cloned())).collect::<Vec<_>>()
    };
    let first = edges(cluster.node(0));
    assert!(cluster.nodes().all(|node| edges(node) == first));
}

#[tokio::test(start_paused = true)]
async fn greeters_that_are_dead_cost_a_bounded_moment() {
    let ms = Duration::from_millis;
    // (greeters dead, whether their machines say so, longest wait, roots among those who join)
    let table =
        [(1, true, ms(100), 1), (1, false, ms(300), 1), (2, true, ms(100), 8), (2, false, ms(2_500), 8)];
    for (dead, refusing, bound, expected_roots) in table {
        let mut cluster = Cluster::of(10).await;
        let order = greeters(&cluster);
        for &greeter in &order[..dead] {
            if refusing {
                cluster.kill(greeter)
            } else {
                cluster.crash(greeter)
            };
        }
        let others: Vec<_> = order[2..].iter().map(|&i| cluster.node(i)).collect();
        let started = Instant::now();
        join_all(others.iter().map(|node| node.join(FUNCTION, Seniority::New, &[]))).await;
        println!("{dead} dead greeters (refusing: {refusing}): joined after {:?}", started.elapsed());
        assert!(started.elapsed() <= bound, "{:?}", started.elapsed());
        assert_eq!(roots(others.into_iter()).len(), expected_roots, "{dead} dead, refusing: {refusing}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_second_greeter_knows_whom_the_first_has_greeted() {
    let mut cluster = Cluster::of(10).await;
    let order = greeters(&cluster);
    let early = cluster.node(order[2]).join(FUNCTION, Seniority::New, &[]).await;
    time_passes(Duration::from_millis(20)).await;
    cluster.kill(order[0]);
    let late = cluster.node(order[3]).join(FUNCTION, Seniority::New, &[]).await;
    assert!(early < late);
    let ancestors = cluster.node(order[3]).lineage(&FUNCTION, &[]).ancestors;
    assert_eq!(ancestors[0].node, id(order[2]));
}

#[tokio::test(start_paused = true)]
async fn who_joins_again_without_its_dead_parent_gets_another_and_keeps_its_stamp() {
    let mut cluster = Cluster::of(16).await;
    all_join(&cluster).await;
    let orphan = (0..16).find(|&i| cluster.node(i).lineage(&FUNCTION, &[]).ancestors.len() >= 2).unwrap();
    let before = cluster.node(orphan).lineage(&FUNCTION, &[]).ancestors;
    let parent = before[0].node.clone();
    let own =
        cluster.node(orphan).participants(&FUNCTION).into_iter().find(|c| c.node == id(orphan)).unwrap();
    cluster.crash((0..16).find(|&i| id(i) == parent).unwrap());
    let orphan = cluster.node(orphan);
    let stamp = orphan.join(FUNCTION, Seniority::New, std::slice::from_ref(&parent)).await;
    assert_eq!(stamp, own.stamp);
    let after = orphan.lineage(&FUNCTION, std::slice::from_ref(&parent)).ancestors;
    assert!(!after.is_empty() && after.iter().all(|ancestor| ancestor.node != parent), "{after:?}");
    // Once it is given up, nobody else is sent to it either.
    cluster.everybody_sees("that it is gone", |view| view.get(&parent).is_none()).await;
    for node in cluster.nodes() {
        assert!(!node.tree(&FUNCTION).contains(&parent), "{} still has it", node.config().node);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stamp_that_was_kept_is_kept() {
    let cluster = Cluster::of(8).await;
    all_join(&cluster).await;
    let kept = Stamp { wall_ms: 1_600_000_000_000, logical: 3 };
    let senior = cluster.node(6);
    assert_eq!(senior.join(FUNCTION, Seniority::Kept(kept), &[]).await, kept);
    // It is the most senior by far, for whoever joins from now on.
    let later = cluster.node(2);
    later.join(FUNCTION, Seniority::New, &[]).await;
    assert_eq!(later.lineage(&FUNCTION, &[]).ancestors.last().unwrap().node, id(6));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_gave_up_comes_back_as_the_last() {
    let cluster = Cluster::of(8).await;
    let stamps = all_join(&cluster).await;
    let root = (0..8).min_by_key(|&i| stamps[i]).unwrap();
    for (node, &stamp) in cluster.nodes().zip(&stamps) {
        node.publish(FUNCTION, Participation { stamp, state: ParticipationState::Provisioning }).await;
    }
    let node = cluster.node(root);
    node.withdraw(FUNCTION).await;
    // At once, while the others still take it for the root.
    let again = node.join(FUNCTION, Seniority::GivenUp(stamps[root]), &[]).await;
    assert!(stamps.iter().all(|stamp| *stamp < again), "{again} is not after {stamps:?}");
    assert!(!node.lineage(&FUNCTION, &[]).ancestors.is_empty());
}
