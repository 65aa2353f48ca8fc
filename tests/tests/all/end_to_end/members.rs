//! Who is a member, and who is not: quick about those who are gone, and patient with those who are only slow.

use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use faasnet_sim::lab::client::{Member, MemberState};
use faasnet_sim::lab::node::{NodeProcess, new_secret};
use faasnet_sim::lab::process::wait_until;
use faasnet_sim::lab::stage::Stage;

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn members_come_and_go() {
    let mut stage = Stage::new("membership", 16).unwrap();

    let start = Instant::now();
    let n5 = stage.index_of("n5").unwrap();
    stage.nodes[n5].kill().unwrap();
    stage.nodes.remove(n5);
    let took = until_all_see(&stage, &[], start, |members| find(members, "n5").is_none());
    stage.say(&format!("n5 was killed: dropped by all after {took:.2} s"));
    assert!(took < 5.0);

    stage.say("a second n3 starts, on another host");
    let n3 = member(&stage, "n3");
    let mut double = stage.start_impostor(101, "n3", None).unwrap();
    let status = double.wait_ended(Duration::from_secs(60)).unwrap();
    let log = double.log_text().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("the id n3 is taken by a live node at {}", n3.address)), "{log}");
    assert!(
        everywhere(&stage, |members| find(members, "n3") == Some(&n3)),
        "the second n3 has disturbed the first"
    );

    stage.say("a stranger starts, with another secret");
    check_stranger(&stage);

    let n9 = stage.index_of("n9").unwrap();
    let old = member(&stage, "n9").incarnation;
    let start = Instant::now();
    stage.nodes[n9].kill().unwrap();
    stage.nodes[n9].restart().unwrap();
    stage.nodes[n9].wait_ready().unwrap();
    stage.say(&format!("n9 was killed and restarted: ready after {:.2} s", start.elapsed().as_secs_f64()));
    let took = until_all_see(&stage, &[], start, |members| {
        find(members, "n9").is_some_and(|n9| n9.state == MemberState::Alive && n9.incarnation > old)
    });
    stage.say(&format!("its new incarnation is known to all after {took:.2} s"));
    assert!(took < 10.0);

    let n12 = stage.index_of("n12").unwrap();
    let start = Instant::now();
    stage.nodes[n12].terminate().unwrap();
    let took = until_all_see(&stage, &[n12], start, |members| {
        find(members, "n12").is_none_or(|n12| n12.state == MemberState::Leaving)
    });
    stage.say(&format!("n12 left: known to all after {took:.2} s"));
    assert!(took < 2.0);
    let status = stage.nodes[n12].wait_ended(Duration::from_secs(60)).unwrap();
    assert!(status.success(), "leaving ends with {status}");
    stage.wait_acquainted().unwrap();
}

/// A node with another secret: nobody may ever list it, it learns of nobody, and it says what is wrong.
fn check_stranger(stage: &Stage) {
    /// Ten times what a node needs that is let in.
    const OBSERVED: Duration = Duration::from_secs(10);
    let mut stranger = stage.start_impostor(102, "stranger", Some(new_secret().unwrap())).unwrap();
    let start = Instant::now();
    while start.elapsed() < OBSERVED {
        assert!(everywhere(stage, |members| find(members, "stranger").is_none()), "the stranger is listed");
    }
    match stranger.ended().unwrap() {
        Some(status) => assert!(!status.success(), "{status}"),
        // It does not have to answer.
        None => {
            let members = stranger.ask().members().unwrap_or_default();
            assert!(members.iter().all(|member| member.node == "stranger"), "{members:?}");
        }
    }
    let log = stranger.log_text().unwrap();
    assert!(log.contains("the same secret"), "its log does not tell what is wrong:\n{log}");
}

#[test]
#[ignore = "needs root, network namespaces, docker-registry, skopeo and mmdebstrap; .ci/run runs it"]
fn nobody_is_declared_dead_under_load_and_cuts() {
    /// How often all lists are looked at. Asking without a pause would be a load of its own.
    const PACE: Duration = Duration::from_secs(1);
    let seconds = std::env::var("FAASNET_STEADY_SECONDS").map_or(120, |text| text.parse().unwrap());
    let mut stage = Stage::new("steadiness", 16).unwrap();
    let mut ids: Vec<String> = stage.nodes.iter().map(|node| node.id().to_owned()).collect();
    ids.sort_unstable();

    let hosts = stage.hosts();
    let (others, lonely) = hosts.split_at(15);
    for other in &others[..8] {
        stage.network.cut(&lonely[0], other).unwrap();
    }
    let busy = BusyLoops::on(&stage.nodes[1]);
    stage.say(&format!(
        "{} is cut off from half of the others, {} has all cores busy",
        stage.nodes[15].id(),
        stage.nodes[1].id()
    ));
    let (start, mut looks, mut suspected) = (Instant::now(), 0, 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let look = Instant::now();
        for (asked, members) in stage.members_everywhere(&[]).unwrap() {
            let mut listed: Vec<&str> = members.iter().map(|member| member.node.as_str()).collect();
            listed.sort_unstable();
            let at = start.elapsed();
            assert_eq!(listed, ids, "{asked} has dropped somebody after {at:?} and {looks} looks");
            suspected += members.iter().filter(|member| member.state == MemberState::Suspect).count();
        }
        looks += 1;
        thread::sleep(PACE.saturating_sub(look.elapsed()));
    }
    stage.say(&format!(
        "nobody was dropped in {seconds} s, {looks} looks; {suspected} times somebody was a suspect"
    ));
    assert!(looks > seconds / 10, "only {looks} looks in {seconds} s");

    drop(busy);
    for other in &others[..8] {
        stage.network.heal(&lonely[0], other).unwrap();
    }
    stage.wait_acquainted().unwrap();
    stage.say("after healing, all are alive to all");
}

/// A loop per core that does nothing but burn, on the host of a node.
struct BusyLoops(Vec<Child>);

impl BusyLoops {
    fn on(node: &NodeProcess) -> Self {
        let cores = thread::available_parallelism().unwrap().get();
        let burn = || node.host().command("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        Self((0..cores).map(|_| burn()).collect())
    }
}

impl Drop for BusyLoops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn find<'a>(members: &'a [Member], id: &str) -> Option<&'a Member> {
    members.iter().find(|member| member.node == id)
}

/// A member as the first node sees it.
fn member(stage: &Stage, id: &str) -> Member {
    find(&stage.nodes[0].ask().members().unwrap(), id).unwrap().clone()
}

/// Whether something holds for what every node lists.
fn everywhere(stage: &Stage, holds: impl Fn(&[Member]) -> bool) -> bool {
    stage.members_everywhere(&[]).unwrap().iter().all(|(_, members)| holds(members))
}

/// Waits until something holds for the lists of all nodes but `except`; gives the seconds since `start`. Waits longer than
/// any test allows, so that a failure tells by how much.
fn until_all_see(stage: &Stage, except: &[usize], start: Instant, holds: impl Fn(&[Member]) -> bool) -> f64 {
    wait_until("all lists to show it", Duration::from_secs(60), || {
        let lists = stage.members_everywhere(except)?;
        Ok(lists.iter().all(|(_, members)| holds(members)).then(|| start.elapsed().as_secs_f64()))
    })
    .unwrap()
}
