//! One pause for the whole cluster: what an origin asked one node to wait, all nodes wait.
//!
//! A pause that an origin asked of this node is published as a [`Hold`]; a hold of another member lengthens the pause of that
//! origin here. What was learned from others is not published again, so every pause ends: nobody's echo lengthens it.
//! Knows neither requests nor answers: those who read from the origin lengthen and obey its [`Pause`].
//!
//! [`Hold`]: membership::hold::Hold

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use membership::{Membership, NodeId, View};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;
use transfer::origin::pause::Pause;

/// How often this node's own pauses are looked at. A fraction of the time that gossip takes to spread one.
const STEP: Duration = Duration::from_millis(100);

/// The pauses of a node's origins, with the name of each origin.
pub(crate) type Pauses = [(String, Arc<Pause>)];

/// Publishes the pauses that this node is asked for and takes over those of others, for as long as it is polled.
pub(crate) async fn keep_in_step(membership: Membership, pauses: impl Fn() -> Vec<(String, Arc<Pause>)>) {
    let (mut ledger, mut view) = (Ledger::default(), membership.view());
    let mut steps = interval(STEP);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = steps.tick() => {}
            changed = view.changed() => if changed.is_err() { return },
        }
        let seen = view.borrow_and_update().clone();
        for change in ledger.step(Instant::now(), &seen, &pauses()) {
            match change {
                Change::Hold(origin, duration) => membership.hold(&origin, duration).await,
                Change::Release(origin) => membership.release(&origin).await,
            }
        }
    }
}

/// How long each origin is to be left alone, in milliseconds; those that may be asked are left out.
pub(crate) fn remaining_ms(pauses: &Pauses) -> BTreeMap<String, u64> {
    let left = pauses.iter().filter_map(|(origin, pause)| Some((origin, pause.remaining()?)));
    left.map(|(origin, left)| (origin.clone(), u64::try_from(left.as_millis()).unwrap_or(u64::MAX))).collect()
}

/// What this node is to do to its own gossip state.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Hold(String, Duration),
    Release(String),
}

/// Who asked for which pause.
#[derive(Default)]
struct Ledger {
    /// The holds of others that were counted already: incarnation and serial by publisher and origin. Only of those in the
    /// view, which bounds it.
    counted: BTreeMap<(NodeId, String), (u64, u64)>,
    /// Until when others have asked for a pause, by origin.
    learned: BTreeMap<String, Instant>,
    /// Until when this node's own holds last, by origin.
    published: BTreeMap<String, Instant>,
}

impl Ledger {
    fn step(&mut self, now: Instant, view: &View, pauses: &Pauses) -> Vec<Change> {
        self.learn(view, pauses);
        self.learned.retain(|_, until| *until > now);
        let mut changes = Vec::new();
        self.published.retain(|origin, until| {
            let lasts = *until > now;
            if !lasts {
                changes.push(Change::Release(origin.clone()));
            }
            lasts
        });
        for (origin, pause) in pauses {
            let until = *pause.changes().borrow();
            let Some(until) = until.filter(|until| *until > now) else { continue };
            let known = self.learned.get(origin).max(self.published.get(origin));
            if known.is_none_or(|known| *known < until) {
                self.published.insert(origin.clone(), until);
                changes.push(Change::Hold(origin.clone(), until - now));
            }
        }
        changes
    }

    /// Counts the holds of others that are new from now on.
    fn learn(&mut self, view: &View, pauses: &Pauses) {
        let mut counted = BTreeMap::new();
        for member in view.members().filter(|member| member.node != *view.me()) {
            for (origin, hold) in &member.holds {
                let Some((_, pause)) = pauses.iter().find(|(name, _)| name == origin) else { continue };
                let (key, version) =
                    ((member.node.clone(), origin.clone()), (member.incarnation, hold.serial));
                if self.counted.get(&key) != Some(&version) {
                    if pause.ask_for(hold.duration) {
                        let seconds = hold.duration.as_secs_f64();
                        info!(%origin, asked = %member.node, seconds, "the origin wants to be left alone");
                    }
                    // Not before the end that this has given the pause: else it would look like one of our own.
                    let until = Instant::now() + hold.duration;
                    let learned = self.learned.entry(origin.clone()).or_insert(until);
                    *learned = until.max(*learned);
                }
                counted.insert(key, version);
            }
        }
        self.counted = counted;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use membership::Zone;
    use membership::hold::Hold;
    use membership::view::{Member, MemberState};
    use tokio::time::{advance, sleep};

    use super::*;

    const R: &str = "registry.example";

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One node, and what it has published.
    struct Node {
        id: NodeId,
        pauses: Vec<(String, Arc<Pause>)>,
        ledger: Ledger,
        holds: BTreeMap<String, Hold>,
        serial: u64,
    }

    impl Node {
        fn new(number: usize) -> Self {
            Self {
                id: format!("n{number}").parse().unwrap(),
                pauses: vec![(R.to_owned(), Arc::default())],
                ledger: Ledger::default(),
                holds: BTreeMap::new(),
                serial: 0,
            }
        }

        fn member(&self) -> Arc<Member> {
            Arc::new(Member {
                node: self.id.clone(),
                incarnation: 1,
                addr: SocketAddr::from(([127, 0, 0, 1], 1)),
                zone: Zone::default(),
                state: MemberState::Alive,
                version: String::new(),
                functions: BTreeMap::new(),
                holds: self.holds.clone(),
            })
        }

        fn pause(&self) -> &Pause {
            &self.pauses[0].1
        }

        fn step(&mut self, members: &[Arc<Member>]) -> usize {
            let view = View::new(self.id.clone(), members.iter().cloned());
            let changes = self.ledger.step(Instant::now(), &view, &self.pauses);
            let count = changes.len();
            for change in changes {
                match change {
                    Change::Hold(origin, duration) => {
                        self.serial += 1;
                        self.holds.insert(origin, Hold { serial: self.serial, duration });
                    }
                    Change::Release(origin) => _ = self.holds.remove(&origin).expect("it was published"),
                }
            }
            count
        }
    }

    /// Everybody hears of everybody once in each of so many steps. Says how many changes were published.
    async fn gossip(nodes: &mut [Node], steps: usize) -> usize {
        let mut changes = 0;
        for _ in 0..steps {
            advance(STEP).await;
            let members: Vec<_> = nodes.iter().map(Node::member).collect();
            changes += nodes.iter_mut().map(|node| node.step(&members)).sum::<usize>();
        }
        changes
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_is_asked_all_obey_and_it_ends() {
        let mut nodes: Vec<_> = (0..5).map(Node::new).collect();
        nodes[0].pause().ask_for(seconds(30));
        assert_eq!(gossip(&mut nodes, 3).await, 1, "nobody else publishes it");
        for node in &nodes {
            let left = node.pause().remaining().unwrap();
            assert!(left > seconds(29) && left <= seconds(30), "{} waits {left:?}", node.id);
        }
        // Long enough for any echo to be heard.
        assert_eq!(gossip(&mut nodes, 310).await, 1, "it is withdrawn");
        assert!(nodes.iter().all(|node| node.pause().remaining().is_none() && node.holds.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_are_asked_at_once_wait_little_longer_than_asked() {
        let mut nodes: Vec<_> = (0..5).map(Node::new).collect();
        for node in &nodes {
            node.pause().ask_for(seconds(30));
        }
        gossip(&mut nodes, 5).await;
        for node in &nodes {
            let left = node.pause().remaining().unwrap();
            assert!(left <= seconds(30), "{} waits {left:?}", node.id);
        }
        gossip(&mut nodes, 300).await;
        assert!(nodes.iter().all(|node| node.pause().remaining().is_none() && node.holds.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_pause_replaces_a_shorter_one() {
        let mut nodes: Vec<_> = (0..3).map(Node::new).collect();
        nodes[0].pause().ask_for(seconds(5));
        gossip(&mut nodes, 5).await;
        // Shorter than what others asked for already: no news. Longer: news, whoever is asked.
        nodes[1].pause().ask_for(seconds(2));
        assert_eq!(gossip(&mut nodes, 5).await, 0);
        nodes[1].pause().ask_for(seconds(20));
        assert_eq!(gossip(&mut nodes, 5).await, 1);
        assert!(nodes.iter().all(|node| node.pause().remaining().unwrap() > seconds(18)));
        gossip(&mut nodes, 210).await;
        assert!(nodes.iter().all(|node| node.pause().remaining().is_none() && node.holds.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_joiner_waits_once_and_strangers_origins_are_nothing_to_us() {
        let mut nodes = vec![Node::new(0)];
        nodes[0].pause().ask_for(seconds(30));
        gossip(&mut nodes, 200).await;
        let mut stranger = Node::new(1);
        stranger.pauses = vec![("other.example".to_owned(), Arc::default())];
        nodes.extend([stranger, Node::new(2)]);
        gossip(&mut nodes, 3).await;
        assert_eq!(nodes[1].pause().remaining(), None);
        assert!(nodes[2].pause().remaining().unwrap() <= seconds(30));
        nodes[1].pauses = vec![(R.to_owned(), Arc::default())];
        gossip(&mut nodes, 400).await;
        assert!(nodes.iter().all(|node| node.pause().remaining().is_none() && node.holds.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn status_shows_only_what_is_paused() {
        let pauses = ["a", "b"].map(|name| (name.to_owned(), Arc::<Pause>::default()));
        pauses[1].1.ask_for(seconds(3));
        sleep(seconds(1)).await;
        assert_eq!(remaining_ms(&pauses), BTreeMap::from([("b".to_owned(), 2_000)]));
    }
}
