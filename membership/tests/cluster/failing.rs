//! Who is dropped and who is not: deaths, pauses, cuts and delays.

use std::time::Duration;

use crate::cluster::{Cluster, addr, id, seconds, time_passes};

/// Detection at default settings: silence, a direct probe, a probe through others, and the last heartbeats on their way.
const DETECTION: Duration = Duration::from_secs(5);

const TEN_MINUTES: Duration = Duration::from_secs(600);

#[tokio::test(start_paused = true)]
async fn a_silent_death_is_found_by_all_and_nobody_else_is_dropped() {
    let mut cluster = Cluster::of(16).await;
    cluster.crash(7);
    let took = cluster.everybody_sees("that n07 is gone", |view| view.get(&id(7)).is_none()).await;
    println!("found after {took:?}");
    assert!(took < DETECTION, "{took:?}");
    time_passes(seconds(10)).await;
    assert_eq!(cluster.losses().len(), 15, "once by each: {:?}", cluster.losses());
    assert_eq!(cluster.lost(), [id(7)].into());
    for node in cluster.nodes() {
        let counts = node.counts();
        assert!(counts.suspicions.confirmed == 1 && counts.suspicions.raised >= 1, "{counts:?}");
        assert!(counts.messages_sent > 0, "{counts:?}");
    }
    let failed: u64 = cluster.nodes().map(|node| node.counts().messages_failed).sum();
    assert!(failed > 0, "messages to the dead one are not read");
}

#[tokio::test(start_paused = true)]
async fn a_death_that_breaks_a_connection_is_found_too() {
    let mut cluster = Cluster::of(16).await;
    cluster.kill(7);
    for node in cluster.nodes() {
        node.suspect(&id(7));
    }
    let took = cluster.everybody_sees("that n07 is gone", |view| view.get(&id(7)).is_none()).await;
    println!("found after {took:?}");
    assert!(took < DETECTION, "{took:?}");
    time_passes(seconds(10)).await;
    assert_eq!(cluster.lost(), [id(7)].into());
}

#[tokio::test(start_paused = true)]
async fn a_suspicion_without_cause_costs_a_node_nothing() {
    let cluster = Cluster::of(8).await;
    for node in cluster.nodes() {
        node.suspect(&id(3));
    }
    let took = cluster.everybody_sees_members(8).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(cluster.losses(), []);
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_forgiven_and_a_long_one_is_no_farewell() {
    let cluster = Cluster::of(16).await;
    for (pause_ms, dropped) in [(1_000, false), (2_000, false), (3_000, false), (10_000, true)] {
        cluster.network.freeze(addr(7));
        time_passes(Duration::from_millis(pause_ms)).await;
        cluster.network.thaw(addr(7));
        let took = cluster.everybody_sees_members(16).await;
        println!("all alive {took:?} after a pause of {pause_ms} ms");
        assert!(took < seconds(3), "{took:?}");
        time_passes(seconds(10)).await;
        assert_eq!(cluster.lost().contains(&id(7)), dropped, "{pause_ms} ms: {:?}", cluster.losses());
        cluster.everybody_sees_members(16).await;
    }
}

/// Whoever cannot reach node 0 complains of it now and then; nobody may lose it, nor it anybody.
async fn check_that_all_stay(cluster: &Cluster, time: Duration) {
    for _ in 0..time.as_secs() / 20 {
        time_passes(seconds(20)).await;
        cluster.node(1).suspect(&id(0));
        cluster.node(0).suspect(&id(1));
    }
    time_passes(seconds(5)).await;
    assert_eq!(cluster.losses(), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_cut_off_from_half_of_the_members_stays_a_member_of_all() {
    let cluster = Cluster::of(5).await;
    cluster.cut(0..1, 1..3);
    check_that_all_stay(&cluster, TEN_MINUTES).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_half_of_the_members_do_not_hear_stays_a_member_of_all() {
    let cluster = Cluster::of(5).await;
    for other in 1..3 {
        cluster.network.cut_one_way(addr(0), addr(other));
    }
    check_that_all_stay(&cluster, TEN_MINUTES).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_stays_a_member() {
    let cluster = Cluster::of(5).await;
    cluster.network.delay(addr(0), Duration::from_millis(800));
    check_that_all_stay(&cluster, TEN_MINUTES).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_gossip_is_lost_stays_as_long_as_somebody_reaches_it() {
    let cluster = Cluster::of(5).await;
    cluster.network.mute(addr(0));
    cluster.cut(0..1, 1..3);
    check_that_all_stay(&cluster, seconds(120)).await;
}
