//! How fresh tags are, and what that costs the origin: clusters in front of a registry that counts.

use std::time::Duration;

use axum::http::Method;
use faasnet::Node;
use faasnet::api::RefreshRequest;
use faasnet::client::{self, Client};
use faasnet::config::{Config, OriginConfig, Secret};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, sleep_until};

use super::http::{Response, head};
use super::origin::{Mood, ToldRegistry};
use super::stage::{meet, until};

/// Longer than any of these tests takes.
const FOR_EVER: Duration = Duration::from_secs(3_600);

struct Scene {
    nodes: Vec<Node>,
    registry: ToldRegistry,
    _scratch: TempDir,
}

impl Scene {
    async fn with(count: usize, tag_ttl: Duration) -> Self {
        let registry = ToldRegistry::start().await;
        let (scratch, secret) = (tempfile::tempdir().unwrap(), Secret::generate());
        let mut nodes: Vec<Node> = Vec::new();
        for number in 1..=count {
            let id = format!("n{number}");
            let url = format!("http://{}", registry.address());
            let config = Config {
                listen: Some(([127, 0, 0, 1], 0).into()),
                http: ([127, 0, 0, 1], 0).into(),
                seeds: nodes.iter().take(2).map(|seed| seed.addr().to_string()).collect(),
                secret: Some(secret.clone()),
                origins: vec![OriginConfig { tag_ttl, ..OriginConfig::at(registry.address(), url) }],
                id: Some(id.parse().unwrap()),
                ..Config::new(scratch.path().join(id))
            };
            nodes.push(Node::start(config).await.unwrap());
        }
        meet(&nodes).await;
        Self { nodes, registry, _scratch: scratch }
    }

    /// What the mirror of each node says of a name, all asked at once.
    async fn everywhere(&self, name: &str) -> Vec<Response> {
        join_all(self.nodes.iter().map(|node| ask(node, name))).await
    }

    async fn refresh(&self, number: usize, tag: &str) -> Result<(Option<String>, String), client::Error> {
        let node = self.nodes[number].http_addr().to_string();
        let reference = format!("{}/app:{tag}", self.registry.address()).parse().unwrap();
        let refreshed = Client::new(node.parse().unwrap()).refresh(&RefreshRequest { reference }).await?;
        Ok((refreshed.was.map(|was| was.to_string()), refreshed.now.to_string()))
    }

    fn stale_served(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.status().stale_served).collect()
    }
}

async fn ask(node: &Node, name: &str) -> Response {
    head(node, &format!("/v2/app/manifests/{name}")).await
}

/// All answers are that digest.
fn check(answers: &[Response], expected: &str) {
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(
            (answer.status, answer.header("docker-content-digest").as_str()),
            (200, expected),
            "n{}",
            number + 1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_for_a_tag_is_one_request_within_its_ttl() {
    let scene = Scene::with(8, FOR_EVER).await;
    let digest = scene.registry.push("v1", "one");
    let bursts = join_all((0..5).map(|_| scene.everywhere("v1"))).await;
    bursts.iter().for_each(|answers| check(answers, &digest));
    let asked = scene.registry.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    check(&scene.everywhere("v1").await, &digest);
    assert_eq!(scene.registry.asked().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_without_a_ttl_is_asked_for_every_time() {
    let scene = Scene::with(3, Duration::ZERO).await;
    for round in 0..3 {
        for node in &scene.nodes {
            let digest = scene.registry.push("v1", &format!("round {round} {}", node.id()));
            check(&[ask(node, "v1").await], &digest);
            let asked = scene.registry.asked();
            // What is known is only compared, and read again when it has changed.
            assert!((1..=2).contains(&asked.len()), "{asked:?}");
            check(&[ask(node, "v1").await], &digest);
            let asked = scene.registry.asked();
            assert!(asked.len() == 1 && asked[0].method == Method::HEAD, "{asked:?}");
        }
    }
    // Those who ask at the same time share what is asked after they came.
    let digest = scene.registry.push("v1", "burst");
    join_all((0..50).map(|_| scene.everywhere("v1")))
        .await
        .iter()
        .for_each(|answers| check(answers, &digest));
    let asked = scene.registry.asked().len();
    assert!(asked < 100, "{asked} requests for 150 questions at once");
}

/// The age travels with the answer: who learns of a tag from another member believes it no longer than that member.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_serves_a_tag_longer_than_its_ttl() {
    let ttl = Duration::from_secs(4);
    let scene = Scene::with(4, ttl).await;
    let old = scene.registry.push("v1", "old");
    check(&[ask(&scene.nodes[0], "v1").await], &old);
    let asked_at = scene.registry.asked()[0].at;
    let new = scene.registry.push("v1", "new");
    sleep_until(asked_at + ttl.mul_f64(0.5)).await;
    let answers = scene.everywhere("v1").await;
    if asked_at.elapsed() < ttl {
        check(&answers, &old);
    }
    sleep_until(asked_at + ttl).await;
    check(&scene.everywhere("v1").await, &new);
    let asked = scene.registry.asked();
    assert!(asked.len() <= 2, "once for all, and the new manifest: {asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_by_digest_is_asked_for_once() {
    let scene = Scene::with(4, Duration::ZERO).await;
    let digest = scene.registry.push("v1", "one");
    for _ in 0..3 {
        check(&scene.everywhere(&digest).await, &digest);
    }
    assert_eq!(scene.registry.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_origin_is_down_the_last_known_version_is_served_as_stale() {
    let scene = Scene::with(4, Duration::ZERO).await;
    let old = scene.registry.push("v1", "old");
    check(&[ask(&scene.nodes[0], "v1").await], &old);
    assert_eq!(scene.stale_served(), [0; 4]);

    scene.registry.becomes(Mood::Broken);
    scene.registry.asked();
    // Those who have never heard of it get it from those who have.
    check(&scene.everywhere("v1").await, &old);
    let asked = scene.registry.asked().len();
    assert!(asked <= 10, "one member asks, and tries again a few times: {asked}");
    assert_eq!(scene.stale_served(), [1; 4]);
    let refused = scene.refresh(1, "v1").await.unwrap_err();
    assert!(refused.to_string().contains("unavailable"), "{refused}");
    scene.registry.asked();
    for _ in 0..20 {
        check(&scene.everywhere("v1").await, &old);
    }
    let asked = scene.registry.asked().len();
    assert!(asked <= 10, "an origin that is down is left alone for a while: {asked}");
    assert!(scene.stale_served().iter().all(|served| *served == 21));

    let warning = ask(&scene.nodes[3], "v1").await.header("warning");
    assert!(warning.starts_with("299 - \"") && warning.contains("last known"), "{warning}");

    // Nothing is known of this one, so there is nothing to serve.
    assert_eq!(ask(&scene.nodes[2], "v2").await.status, 404);

    scene.registry.becomes(Mood::Serves);
    let new = scene.registry.push("v1", "new");
    let back = Instant::now();
    for node in &scene.nodes {
        while ask(node, "v1").await.header("docker-content-digest") != new {
            assert!(back.elapsed() < Duration::from_secs(30), "{} still serves what is stale", node.id());
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_asks_the_origin_now() {
    let scene = Scene::with(4, FOR_EVER).await;
    let old = scene.registry.push("v1", "old");
    check(&scene.everywhere("v1").await, &old);
    let new = scene.registry.push("v1", "new");
    scene.registry.asked();
    assert_eq!(scene.refresh(1, "v1").await.unwrap(), (Some(old.clone()), new.clone()));
    assert_eq!(scene.registry.asked().len(), 2, "what it is, and the new manifest");
    check(&[ask(&scene.nodes[1], "v1").await], &new);
    assert_eq!(scene.refresh(1, "v1").await.unwrap(), (Some(new.clone()), new.clone()));
    assert_eq!(scene.registry.asked().len(), 1);
    // The member responsible and the one that was asked know; the others follow within their TTL.
    let answers = scene.everywhere("v1").await;
    let know = answers.iter().filter(|answer| answer.header("docker-content-digest") == new).count();
    assert!((1..=2).contains(&know), "{know}");
    assert_eq!(scene.registry.asked().len(), 0);

    let gone = scene.refresh(2, "no-such-tag").await.unwrap_err();
    assert!(matches!(gone, client::Error::Refused { status: 404, .. }), "{gone}");
    let node = scene.nodes[0].http_addr().to_string();
    let reference = format!("{}/app@{new}", scene.registry.address()).parse().unwrap();
    let refused =
        Client::new(node.parse().unwrap()).refresh(&RefreshRequest { reference }).await.unwrap_err();
    assert!(matches!(refused, client::Error::Refused { status: 422, .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_asked_for_once_in_a_moment() {
    let scene = Scene::with(3, Duration::ZERO).await;
    for name in ["no-such-tag", &format!("sha256:{}", "0".repeat(64))] {
        let started = Instant::now();
        for _ in 0..10 {
            for answers in join_all((0..100).map(|_| scene.everywhere(name))).await {
                assert!(answers.iter().all(|answer| answer.status == 404));
            }
        }
        let took = started.elapsed();
        let asked = scene.registry.asked().len();
        println!("3,000 questions in {took:?}: {asked} requests");
        assert!(asked as u64 <= 1 + took.as_secs() / 2, "{asked} requests in {took:?}");
    }
    // Whoever has just pushed it need not wait for the moment to be over.
    let digest = scene.registry.push("no-such-tag", "there it is");
    for (number, node) in scene.nodes.iter().enumerate() {
        assert_eq!(scene.refresh(number, "no-such-tag").await.unwrap().1, digest);
        check(&[ask(node, "no-such-tag").await], &digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_is_denied_another_asks_for_itself() {
    let scene = Scene::with(3, FOR_EVER).await;
    scene.registry.becomes(Mood::Denies(1));
    let digest = scene.registry.push("v1", "one");
    let mut answers = Vec::new();
    for node in &scene.nodes {
        answers.push(ask(node, "v1").await);
    }
    let (served, denied): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    // Unless it is the member responsible that was denied, its own question included, all are served.
    assert!(denied.len() <= 1, "{answers:?}");
    assert!(served.iter().all(|answer| answer.header("docker-content-digest") == digest));
    assert!(scene.registry.asked().len() <= 3, "each asks at most once");
    for _ in 0..50 {
        scene.everywhere("v1").await;
    }
    assert_eq!(scene.registry.asked().len(), 0, "and remembers the answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_stalls_holds_nobody_for_long() {
    let scene = Scene::with(3, Duration::ZERO).await;
    let digest = scene.registry.push("v1", "one");
    check(&scene.everywhere("v1").await, &digest);
    scene.registry.becomes(Mood::Stalls);
    let started = Instant::now();
    let (known, unknown) = tokio::join!(scene.everywhere("v1"), scene.everywhere("v2"));
    check(&known, &digest);
    assert!(unknown.iter().all(|answer| answer.status == 404));
    let took = started.elapsed();
    println!("all are answered after {took:?}");
    assert!(took < Duration::from_secs(25), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_one_is_asked_for_is_kept_by_all() {
    let scene = Scene::with(3, Duration::ZERO).await;
    let digest = scene.registry.push("v1", "one");
    check(&scene.everywhere("v1").await, &digest);
    scene.registry.asked();
    scene.registry.becomes(Mood::Throttles(4));
    // Served from what is known meanwhile.
    check(&[ask(&scene.nodes[0], "v1").await], &digest);
    let told = scene.registry.asked();
    assert_eq!((told.len(), told[0].status), (1, 429), "{told:?}");
    assert!(told[0].at.elapsed() < Duration::from_secs(4), "nobody waits who has something to serve");
    until("all know of the pause", || {
        scene.nodes.iter().all(|node| node.status().paused_ms.contains_key(scene.registry.address()))
    })
    .await;
    println!("known to all after {:?}", told[0].at.elapsed());
    // Other tags, other nodes: whoever asks waits or is refused, and nobody asks the origin before its time.
    while told[0].at.elapsed() < Duration::from_secs(8) {
        for (number, node) in scene.nodes.iter().enumerate() {
            ask(node, &format!("tag-{number}")).await;
        }
    }
    let asked = scene.registry.asked();
    let waited: Vec<_> = asked.iter().map(|asked| (asked.path.clone(), asked.at - told[0].at)).collect();
    assert!(!waited.is_empty(), "the pause has ended");
    assert!(waited.iter().all(|(_, waited)| *waited >= Duration::from_secs(4)), "{waited:?}");
    until("nobody shows the pause any more", || {
        scene.nodes.iter().all(|node| node.status().paused_ms.is_empty())
    })
    .await;
}
