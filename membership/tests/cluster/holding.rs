//! Holds: what one was asked to leave alone, all know of, until it is withdrawn.

use std::time::Duration;

use membership::hold::{MAX_HOLD, MAX_HOLDS, MAX_NAME_BYTES};
use membership::{NodeId, View};

use crate::cluster::{Cluster, Spec, eventually, id, seconds, time_passes};

/// How long what `node` holds under that name lasts.
fn held(view: &View, node: &NodeId, name: &str) -> Option<Duration> {
    Some(view.get(node)?.holds.get(name)?.duration)
}

#[tokio::test(start_paused = true)]
async fn what_one_holds_and_releases_is_seen_by_all() {
    let cluster = Cluster::of(16).await;
    let holder = cluster.node(9);
    holder.hold("registry.example:5000", seconds(30)).await;
    let took = cluster
        .everybody_sees("the hold of n09", |view| {
            held(view, &id(9), "registry.example:5000") == Some(seconds(30))
        })
        .await;
    println!("a hold is known to all within {took:?}");
    assert!(took < seconds(2), "{took:?}");
    holder.release("registry.example:5000").await;
    let took =
        cluster.everybody_sees("no hold", |view| view.members().all(|member| member.holds.is_empty())).await;
    println!("and gone from all within {took:?}");
    assert!(took < seconds(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_hold_of_one_name_is_told_from_the_first() {
    let cluster = Cluster::of(4).await;
    let holder = cluster.node(1);
    let serial = |view: &View| Some(view.get(&id(1))?.holds.get("r")?.serial);
    holder.hold("r", seconds(5)).await;
    let first = serial(&holder.view().borrow()).unwrap();
    cluster.everybody_sees("the first", |view| serial(view) == Some(first)).await;
    holder.hold("r", seconds(5)).await;
    let second = serial(&holder.view().borrow()).unwrap();
    assert!(second > first);
    cluster.everybody_sees("the second", |view| serial(view) == Some(second)).await;
    // Released and held anew, it is a third.
    holder.release("r").await;
    holder.hold("r", seconds(5)).await;
    assert!(serial(&holder.view().borrow()).unwrap() > second);
}

#[tokio::test(start_paused = true)]
async fn who_comes_late_sees_the_hold_and_who_restarts_has_none() {
    let mut cluster = Cluster::of(4).await;
    cluster.node(1).hold("r", seconds(600)).await;
    cluster.everybody_sees("the hold", |view| held(view, &id(1), "r").is_some()).await;
    let late = cluster.start(Spec::of(4)).await.unwrap();
    eventually("the hold", [&late].into_iter(), |view| held(view, &id(1), "r") == Some(seconds(600))).await;

    let spec = cluster.kill(1);
    cluster.start(spec.again()).await.unwrap();
    cluster
        .everybody_sees("n01 without its hold", |view| {
            view.get(&id(1)).is_some_and(|member| member.incarnation == 2 && member.holds.is_empty())
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn holds_are_bounded() {
    let cluster = Cluster::of(3).await;
    let holder = cluster.node(1);
    holder.hold(&"x".repeat(MAX_NAME_BYTES + 1), seconds(5)).await;
    holder.hold("", seconds(5)).await;
    holder.hold("long", Duration::MAX).await;
    cluster.everybody_sees("the long one", |view| held(view, &id(1), "long") == Some(MAX_HOLD)).await;
    assert!(cluster.nodes().all(|node| node.view().borrow().get(&id(1)).unwrap().holds.len() == 1));
    for number in 0..2 * MAX_HOLDS {
        holder.hold(&format!("many-{number}"), seconds(5)).await;
    }
    cluster
        .everybody_sees("as many as are read", |view| view.get(&id(1)).unwrap().holds.len() == MAX_HOLDS)
        .await;
    time_passes(seconds(5)).await;
    assert!(cluster.nodes().all(|node| node.view().borrow().get(&id(1)).unwrap().holds.len() == MAX_HOLDS));
    assert_eq!(cluster.losses(), []);
}
