//! Finding each other: seeds, restarts, and two nodes under one id.

use std::time::Duration;

use membership::membership::StartError;
use membership::wire::Refusal;
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, LONG, Spec, addr, eventually, id, seconds, time_passes};

#[tokio::test(start_paused = true)]
async fn sixteen_nodes_find_each_other_through_one_seed() {
    let cluster = Cluster::starting(16).await;
    let took = cluster.everybody_sees_members(16).await;
    println!("sixteen see each other after {took:?}");
    assert!(took < seconds(3), "{took:?}");
    assert_eq!(cluster.losses(), []);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_a_member_of_a_large_cluster_soon() {
    let mut cluster = Cluster::of(16).await;
    let started = Instant::now();
    let newcomer = cluster.start(Spec::of(16)).await.unwrap();
    assert!(newcomer.settle().await);
    println!("settled after {:?}", started.elapsed());
    cluster.everybody_sees_members(17).await;
    println!("member of all after {:?}", started.elapsed());
    assert!(started.elapsed() < seconds(3), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_node_is_back_at_once_with_its_new_incarnation() {
    let elsewhere = addr(20);
    for (gone_for, place) in [(0, addr(5)), (2, addr(5)), (30, addr(5)), (0, elsewhere), (30, elsewhere)] {
        let mut cluster = Cluster::of(7).await;
        let spec = cluster.crash(5);
        time_passes(seconds(gone_for)).await;
        let started = Instant::now();
        cluster.start(spec.again().at(place)).await.unwrap();
        cluster
            .everybody_sees("the new n05", |view| {
                let found = view.get(&id(5)).map(|member| (member.incarnation, member.addr));
                found == Some((2, place)) && view.alive().count() == 7
            })
            .await;
        println!("down for {gone_for} s, at {place}: back after {:?}", started.elapsed());
        assert!(started.elapsed() < seconds(4), "{:?}", started.elapsed());
        time_passes(seconds(10)).await;
        cluster.everybody_sees_members(7).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_node_under_one_id_is_refused_and_does_the_first_no_harm() {
    for answers_after_ms in [0, 400] {
        let mut cluster = Cluster::of(6).await;
        cluster.network.delay(addr(5), Duration::from_millis(answers_after_ms));
        time_passes(seconds(10)).await;
        let refused = cluster.start(Spec::of(5).again().at(addr(20))).await.err();
        let expected = Refusal::DuplicateId { id: id(5), holder: addr(5) };
        match refused {
            Some(StartError::Refused { seed, refusal }) => assert_eq!((seed, refusal), (addr(0), expected)),
            other => panic!("{other:?}"),
        }
        cluster.network.crash(addr(20));
        let expelled = timeout(seconds(20), cluster.node(5).expelled()).await;
        assert!(expelled.is_err(), "the holder is expelled: {expelled:?}");
        cluster
            .everybody_sees("the first n05", |view| view.get(&id(5)).is_some_and(|n| n.incarnation == 1))
            .await;
        assert_eq!(cluster.losses(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_nodes_under_one_id_that_meet_late_exactly_one_is_expelled() {
    for second_is_newer in [true, false] {
        let mut cluster = Cluster::of(6).await;
        // Its seed is down, so nobody can tell the second that its id is taken.
        let lonely = Spec { incarnation: u64::from(second_is_newer) * 2, ..Spec::of(5) };
        let seed = addr(9).to_string();
        cluster.network.crash(addr(9));
        let second = cluster.start(lonely.at(addr(20)).seeds(&[&seed])).await.unwrap();
        cluster.start(Spec::of(9)).await.unwrap();
        let first = cluster.node(5);
        let (goes, stays, reason) = tokio::select! {
            reason = first.expelled() => (first, &second, reason),
            reason = second.expelled() => (&second, first, reason),
            () = time_passes(LONG) => panic!("nobody is expelled"),
        };
        println!("{reason}");
        assert!(
            reason.contains("n05") && reason.contains("10.0.0.") && reason.contains("another id"),
            "{reason}"
        );
        goes.stop();
        assert!(timeout(seconds(20), stays.expelled()).await.is_err(), "both are expelled");
    }
}

#[tokio::test(start_paused = true)]
async fn two_nodes_under_one_id_that_only_gossip_brings_together_are_told_apart() {
    for incarnation in [0, 2] {
        let mut cluster = Cluster::of(6).await;
        cluster.cut(0..3, 3..6);
        cluster.network.cut(addr(20), addr(5));
        // Its seed knows the first, but cannot reach it.
        let second = cluster.start(Spec { incarnation, ..Spec::of(5) }.at(addr(20))).await.unwrap();
        time_passes(seconds(20)).await;
        cluster.network.mend();
        let first = cluster.node(5);
        let (older, newer) = if incarnation == 0 { (&second, first) } else { (first, &second) };
        let reason = timeout(LONG, older.expelled()).await.unwrap();
        assert!(reason.contains("another live node at 10.0.0."), "{reason}");
        older.stop();
        assert!(timeout(seconds(20), newer.expelled()).await.is_err(), "both are expelled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_seeds_are_down_starts_soon_and_finds_them_later() {
    let down = [addr(8).to_string(), addr(9).to_string()];
    for refusing in [false, true] {
        let mut cluster = Cluster::empty();
        for i in [8, 9] {
            cluster.network.crash(addr(i));
            if refusing {
                cluster.network.refuse(addr(i));
            }
        }
        let started = Instant::now();
        let early = cluster.start(Spec::of(1).seeds(&[&down[0], &down[1]])).await.unwrap();
        println!("started after {:?} without seeds (refusing: {refusing})", started.elapsed());
        assert!(started.elapsed() <= seconds(3), "{:?}", started.elapsed());
        assert!(!early.settle().await);
        time_passes(seconds(30)).await;
        cluster.start(Spec::of(9).seeds(&[])).await.unwrap();
        let took = cluster.everybody_sees_members(2).await;
        println!("found its seed {took:?} after that came up");
        assert!(took < seconds(5), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_live_seed_among_dead_ones_and_bad_names_is_enough_and_soon() {
    let mut cluster = Cluster::of(3).await;
    cluster.network.crash(addr(9));
    let (live, dead) = (addr(0).to_string(), addr(9).to_string());
    let seeds = ["no-such-host.invalid:7000", "not an address", &dead, &live];
    let started = Instant::now();
    let newcomer = cluster.start(Spec::of(5).seeds(&seeds)).await.unwrap();
    assert!(newcomer.settle().await);
    println!("settled after {:?}", started.elapsed());
    assert!(started.elapsed() < seconds(4), "{:?}", started.elapsed());
    cluster.everybody_sees_members(4).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_may_be_among_its_own_seeds() {
    let mut cluster = Cluster::empty();
    let all: Vec<_> = (0..3).map(|i| addr(i).to_string()).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    cluster.start_all((0..3).map(|i| Spec::of(i).seeds(&all))).await;
    let took = cluster.everybody_sees_members(3).await;
    assert!(took < seconds(5), "{took:?}");
    let alone = Cluster::starting(1).await;
    assert!(timeout(Duration::from_millis(10), alone.node(0).settle()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn two_halves_find_back_together_when_the_cut_is_mended() {
    // The second is longer than gossip remembers the dead.
    for (minutes, bound) in [(1, seconds(10)), (11, seconds(30))] {
        let cluster = Cluster::of(4).await;
        cluster.cut(0..2, 2..4);
        let took = cluster.everybody_sees_members(2).await;
        println!("halves after {took:?}");
        time_passes(seconds(60 * minutes)).await;
        cluster.network.mend();
        let took = cluster.everybody_sees_members(4).await;
        println!("whole {took:?} after {minutes} minutes apart");
        assert!(took < bound, "{took:?}");
        cluster.forget_losses();
        time_passes(seconds(30)).await;
        assert_eq!(cluster.losses(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_or_is_dropped_ends_all_that_it_runs() {
    for dropped in [false, true] {
        let mut cluster = Cluster::of(3).await;
        let network = cluster.network.clone();
        let membership = cluster.forget(2);
        let keep = (!dropped).then(|| membership.clone());
        if !dropped {
            membership.stop();
        }
        drop(membership);
        assert!(timeout(LONG, network.closed(addr(2))).await.is_ok(), "dropped: {dropped}");
        // What was being sent may still be sent.
        time_passes(seconds(5)).await;
        let opened = network.opened_by(addr(2));
        time_passes(seconds(30)).await;
        assert_eq!(network.opened_by(addr(2)), opened);
        eventually("that it is gone", cluster.nodes(), |view| view.members().len() == 2).await;
        drop(keep);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_link_fails_says_so() {
    let mut cluster = Cluster::of(3).await;
    cluster.network.unplug(addr(2));
    let reason = timeout(LONG, cluster.forget(2).expelled()).await.unwrap();
    assert!(reason.contains("gossip has ended"), "{reason}");
}
