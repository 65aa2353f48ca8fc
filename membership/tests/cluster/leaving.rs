//! News that must reach everybody: what members hold, and that they leave.

use membership::Stamp;
use membership::view::{MemberState, Participation, ParticipationState};
use tokio::time::Instant;

use crate::cluster::{Cluster, FUNCTION, id, seconds, time_passes};
use crate::joining::{all_join, publish_all};

#[tokio::test(start_paused = true)]
async fn what_one_publishes_and_withdraws_is_seen_by_all() {
    let cluster = Cluster::of(16).await;
    let held = Participation { stamp: Stamp { wall_ms: 5, logical: 5 }, state: ParticipationState::Ready };
    let holder = cluster.node(9);
    holder.publish(FUNCTION, held).await;
    let took = cluster
        .everybody_sees("that n09 holds it", |view| {
            view.get(&id(9)).unwrap().functions.get(&FUNCTION) == Some(&held)
        })
        .await;
    println!("published to all within {took:?}");
    assert!(took < seconds(2), "{took:?}");
    holder.withdraw(FUNCTION).await;
    let took = cluster
        .everybody_sees("that n09 holds it no longer", |view| view.get(&id(9)).unwrap().functions.is_empty())
        .await;
    println!("withdrawn from all within {took:?}");
    assert!(took < seconds(2), "{took:?}");
    assert!(cluster.nodes().all(|node| node.tree(&FUNCTION).is_empty()));
}

#[tokio::test(start_paused = true)]
async fn who_withdraws_soon_after_joining_leaves_the_tree_everywhere() {
    let cluster = Cluster::of(8).await;
    all_join(&cluster).await;
    publish_all(&cluster).await;
    cluster.everybody_sees("all take part", |view| view.participants(&FUNCTION).count() == 8).await;
    cluster.node(3).withdraw(FUNCTION).await;
    cluster.everybody_sees("one participant less", |view| view.participants(&FUNCTION).count() == 7).await;
    for node in cluster.nodes() {
        assert!(!node.tree(&FUNCTION).contains(&id(3)), "in the tree of {}", node.config().node);
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_is_leaving_at_once_in_no_tree_and_then_gone() {
    let mut cluster = Cluster::of(16).await;
    all_join(&cluster).await;
    publish_all(&cluster).await;
    cluster.everybody_sees("all take part", |view| view.participants(&FUNCTION).count() == 16).await;
    let leaver = cluster.forget(9);
    let started = Instant::now();
    leaver.announce_leave().await;
    cluster
        .everybody_sees("that n09 leaves", |view| {
            view.get(&id(9)).is_some_and(|n| n.state == MemberState::Leaving)
        })
        .await;
    println!("all know after {:?}", started.elapsed());
    assert!(started.elapsed() < seconds(1) / 10, "{:?}", started.elapsed());
    let in_no_tree = |when: &str| {
        for node in cluster.nodes() {
            let lineage = node.lineage(&FUNCTION, &[]);
            let named = lineage.ancestors.iter().chain(&lineage.ready).any(|contact| contact.node == id(9));
            let me = &node.config().node;
            assert!(!named && !node.tree(&FUNCTION).contains(&id(9)), "{when}, {me} names the leaver");
        }
    };
    in_no_tree("while it leaves");
    time_passes(seconds(3)).await;
    cluster
        .everybody_sees("that it still leaves", |view| {
            view.get(&id(9)).is_some_and(|n| n.state == MemberState::Leaving)
        })
        .await;
    leaver.stop();
    cluster.network.crash(leaver.config().addr);
    let took = cluster.everybody_sees("that n09 is gone", |view| view.get(&id(9)).is_none()).await;
    println!("gone {took:?} after it stopped");
    assert!(took < seconds(3), "{took:?}");
    in_no_tree("when it is gone");
    assert_eq!(cluster.lost(), [id(9)].into());
}
