//! Bytes that are no messages, streams that say nothing, and nodes of another version.

use std::time::Duration;

use membership::Stamp;
use membership::codec::{encode, read_frame, write_frame};
use membership::link::{Incoming, Peer, Protocol};
use membership::membership::StartError;
use membership::view::{Participation, ParticipationState};
use membership::wire::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION, Refusal, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use crate::cluster::{Cluster, FUNCTION, LONG, Spec, addr, id, seconds, time_passes};

/// What no node should say, by kind.
fn nonsense() -> Vec<Vec<u8>> {
    let noise = |seed: u8, length: usize| {
        let mut bytes = vec![0; length];
        fill_with_noise(seed, &mut bytes);
        bytes
    };
    let mut all = vec![
        Vec::new(),
        vec![0],
        vec![255; 4],
        vec![0; 70_000],
        u32::MAX.to_le_bytes().to_vec(),
        [&u32::to_le_bytes(5)[..], b"ab"].concat(),
        [&u32::to_le_bytes(200)[..], &[250; 200]].concat(),
        [&u32::to_le_bytes(40)[..], &encode(&Request::Probe), &[0; 39]].concat(),
    ];
    all.extend((0..40).map(|seed| noise(seed, 1 + usize::from(seed) * 37)));
    all
}

/// Xorshift, so that the same bytes come every time.
fn fill_with_noise(seed: u8, bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(seed);
    for byte in bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
}

async fn send(cluster: &Cluster, to: usize, protocol: Protocol, bytes: &[u8]) {
    let (link, ..) = cluster.network.attach("stranger".parse().unwrap(), addr(99));
    let mut stream = link.open(&Peer::any(addr(to)), protocol).await.unwrap();
    let _ = stream.send.write_all(bytes).await;
    let _ = stream.send.shutdown().await;
    let _ = timeout(LONG, stream.recv.read_to_end(&mut Vec::new())).await.expect("the stream hangs");
}

#[tokio::test(start_paused = true)]
async fn nonsense_leaves_the_node_running_and_the_cluster_whole() {
    let cluster = Cluster::of(4).await;
    for protocol in [Protocol::Control, Protocol::Gossip] {
        for bytes in nonsense() {
            send(&cluster, 2, protocol, &bytes).await;
        }
    }
    // News still reaches it, and leaves it, at the usual pace.
    for from in [1, 2] {
        let held = Participation { stamp: Stamp::default(), state: ParticipationState::Ready };
        cluster.node(from).publish(FUNCTION, held).await;
        let took = cluster
            .everybody_sees("the news", |view| view.get(&id(from)).unwrap().functions.contains_key(&FUNCTION))
            .await;
        println!("news from n0{from} took {took:?}");
        assert!(took < seconds(2), "{took:?}");
    }
    time_passes(seconds(30)).await;
    assert_eq!(cluster.losses(), []);
}

#[tokio::test(start_paused = true)]
async fn a_control_stream_without_a_request_is_dropped() {
    let cluster = Cluster::of(2).await;
    let (link, ..) = cluster.network.attach("stranger".parse().unwrap(), addr(99));
    for half_a_frame in [&b""[..], b"\x05\0", b"\x05\0\0\0ab"] {
        let mut stream = link.open(&Peer::any(addr(1)), Protocol::Control).await.unwrap();
        stream.send.write_all(half_a_frame).await.unwrap();
        let started = Instant::now();
        let ended = timeout(LONG, stream.recv.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.expect("the stream hangs").unwrap(), 0);
        assert!(started.elapsed() < seconds(6), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_say_nothing_do_not_keep_others_from_being_heard() {
    let cluster = Cluster::of(3).await;
    let (link, ..) = cluster.network.attach("stranger".parse().unwrap(), addr(99));
    let mut silent = Vec::new();
    for _ in 0..200 {
        for protocol in [Protocol::Control, Protocol::Gossip] {
            silent.push(link.open(&Peer::any(addr(1)), protocol).await.unwrap());
        }
    }
    let mut asked = link.open(&Peer::any(addr(1)), Protocol::Control).await.unwrap();
    write_frame(&mut asked.send, &Request::Probe).await.unwrap();
    let reply = read_frame::<Reply>(&mut asked.recv, MAX_MESSAGE_BYTES);
    let reply = timeout(Duration::from_millis(100), reply).await.unwrap().unwrap();
    assert_eq!(reply, Reply::Alive { incarnation: 1 });
    time_passes(seconds(30)).await;
    assert_eq!(cluster.losses(), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_version_is_turned_away_and_nobody_hears_of_it() {
    let cluster = Cluster::of(3).await;
    let (link, ..) = cluster.network.attach("stranger".parse().unwrap(), addr(99));
    for theirs in [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1, u16::MAX] {
        let mut stream = link.open(&Peer::any(addr(1)), Protocol::Control).await.unwrap();
        let hello = Request::Hello { protocol: theirs, incarnation: 1, addr: addr(99) };
        write_frame(&mut stream.send, &hello).await.unwrap();
        let reply: Reply = read_frame(&mut stream.recv, MAX_MESSAGE_BYTES).await.unwrap();
        assert_eq!(reply, Reply::Refused(Refusal::Protocol { ours: PROTOCOL_VERSION, theirs }));
    }
    time_passes(seconds(30)).await;
    cluster.everybody_sees_members(3).await;
    assert_eq!(cluster.losses(), []);
}

/// Answers all requests as a seed of the next version answers a Hello.
async fn refuse_all(mut control: Incoming) {
    while let Some(mut stream) = control.recv().await {
        let _: Request = read_frame(&mut stream.recv, MAX_MESSAGE_BYTES).await.unwrap();
        let refusal = Refusal::Protocol { ours: PROTOCOL_VERSION + 1, theirs: PROTOCOL_VERSION };
        write_frame(&mut stream.send, &Reply::Refused(refusal)).await.unwrap();
        stream.send.shutdown().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_turned_away_for_its_version_says_what_to_do() {
    let (ours, theirs) = (PROTOCOL_VERSION + 1, PROTOCOL_VERSION);
    let upgrade = format!("the cluster speaks protocol {ours}, this node {theirs}; upgrade the older one");
    let mut cluster = Cluster::empty();
    let seed = addr(9).to_string();
    // The seed may come up before the node, or after.
    let early = cluster.start(Spec::of(1).seeds(&[&seed])).await.unwrap();
    let (_link, _gossip, control) = cluster.network.attach(id(9), addr(9));
    tokio::spawn(refuse_all(control));
    match cluster.start(Spec::of(2).seeds(&[&seed])).await.err() {
        Some(error @ StartError::Refused { .. }) => {
            assert_eq!(error.to_string(), format!("seed {seed} refuses this node: {upgrade}"));
        }
        other => panic!("{other:?}"),
    }
    let reason = timeout(LONG, early.expelled()).await.unwrap();
    assert_eq!(reason, format!("seed {seed} refuses this node: {upgrade}"));
}
