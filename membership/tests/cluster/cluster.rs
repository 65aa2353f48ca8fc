//! Nodes on one network, and ways to wait for what they see.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use membership::clock::WallClock;
use membership::membership::{Config, DEFAULT_GOSSIP_INTERVAL, StartError};
use membership::{FunctionId, Membership, NodeId, View, suspicion};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::network::Network;

pub(crate) const FUNCTION: FunctionId = FunctionId::from_bytes([7; 32]);

/// The wall clock when a cluster is made.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// More than anything is waited for that will happen.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Lets virtual time pass: what is under test is that something does *not* happen.
pub(crate) async fn time_passes(time: Duration) {
    sleep(time).await;
}

pub(crate) fn id(i: usize) -> NodeId {
    format!("n{i:02}").parse().unwrap()
}

pub(crate) fn addr(i: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(i + 1).unwrap()], 7_000))
}

/// A node to start.
#[derive(Clone)]
pub(crate) struct Spec {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) incarnation: u64,
    pub(crate) seeds: Vec<String>,
}

impl Spec {
    /// Node `i` in its usual place, with node 0 as its seed.
    pub(crate) fn of(i: usize) -> Self {
        Self { id: id(i), addr: addr(i), incarnation: 1, seeds: vec![addr(0).to_string()] }
    }

    pub(crate) fn again(self) -> Self {
        Self { incarnation: self.incarnation + 1, ..self }
    }

    pub(crate) fn at(self, addr: SocketAddr) -> Self {
        Self { addr, ..self }
    }

    pub(crate) fn seeds(self, seeds: &[&str]) -> Self {
        Self { seeds: seeds.iter().map(ToString::to_string).collect(), ..self }
    }
}

/// A member that vanished from somebody's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) after: Duration,
    pub(crate) observer: NodeId,
    pub(crate) lost: NodeId,
}

pub(crate) struct Cluster {
    pub(crate) network: Network,
    clock: WallClock,
    nodes: Vec<(Spec, Membership)>,
    losses: Arc<Mutex<Vec<Loss>>>,
}

impl Cluster {
    pub(crate) fn empty() -> Self {
        let clock = WallClock::starting_at(EPOCH_MS);
        Self { network: Network::new(), clock, nodes: Vec::new(), losses: Arc::default() }
    }

    /// Nodes 0 to `count`, started at the same moment, who do not know each other yet.
    pub(crate) async fn starting(count: usize) -> Self {
        let mut cluster = Self::empty();
        cluster.start_all((0..count).map(Spec::of)).await;
        cluster
    }

    /// Nodes 0 to `count` who know each other, and have done so for some time.
    pub(crate) async fn of(count: usize) -> Self {
        let cluster = Self::starting(count).await;
        cluster.everybody_sees_members(count).await;
        time_passes(seconds(5)).await;
        cluster.losses.lock().clear();
        cluster
    }

    pub(crate) async fn start_all(&mut self, specs: impl Iterator<Item = Spec>) {
        let started = join_all(specs.map(|spec| self.run(spec))).await;
        self.nodes.extend(started.into_iter().map(Result::unwrap));
    }

    pub(crate) async fn start(&mut self, spec: Spec) -> Result<Membership, StartError> {
        let started = self.run(spec).await?;
        let membership = started.1.clone();
        self.nodes.push(started);
        Ok(membership)
    }

    async fn run(&self, spec: Spec) -> Result<(Spec, Membership), StartError> {
        let config = Config {
            node: spec.id.clone(),
            incarnation: spec.incarnation,
            zone: "z1".parse().unwrap(),
            cluster: "test".to_owned(),
            addr: spec.addr,
            seeds: spec.seeds.clone(),
            version: "1.2.3".to_owned(),
            gossip_interval: DEFAULT_GOSSIP_INTERVAL,
            suspicion: suspicion::Config::default(),
            clock: self.clock,
        };
        let (link, gossip_in, control_in) = self.network.attach(spec.id.clone(), spec.addr);
        let membership = Membership::start(config, link, gossip_in, control_in).await?;
        tokio::spawn(note_losses(membership.view(), self.clock, self.losses.clone()));
        Ok((spec, membership))
    }

    /// Node `i`.
    pub(crate) fn node(&self, i: usize) -> &Membership {
        &self.nodes.iter().find(|(spec, _)| spec.id == id(i)).unwrap().1
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Membership> {
        self.nodes.iter().map(|(_, membership)| membership)
    }

    /// Takes node `i` away as if its machine had lost power.
    pub(crate) fn crash(&mut self, i: usize) -> Spec {
        let spec = self.remove(i);
        self.network.crash(spec.addr);
        spec
    }

    /// Takes node `i` away as if its process had been killed.
    pub(crate) fn kill(&mut self, i: usize) -> Spec {
        let spec = self.remove(i);
        self.network.refuse(spec.addr);
        spec
    }

    /// Node `i` is no longer one of those whose views count.
    pub(crate) fn forget(&mut self, i: usize) -> Membership {
        self.take(i).1
    }

    fn remove(&mut self, i: usize) -> Spec {
        let (spec, membership) = self.take(i);
        membership.stop();
        spec
    }

    fn take(&mut self, i: usize) -> (Spec, Membership) {
        let at = self.nodes.iter().position(|(spec, _)| spec.id == id(i)).unwrap();
        self.nodes.remove(at)
    }

    pub(crate) fn cut(&self, some: Range<usize>, others: Range<usize>) {
        for a in some {
            for b in others.clone() {
                self.network.cut(addr(a), addr(b));
            }
        }
    }

    /// Waits until all nodes have a view like that, and says how long it took.
    pub(crate) async fn everybody_sees(&self, what: &str, wanted: impl Fn(&View) -> bool) -> Duration {
        eventually(what, self.nodes(), wanted).await
    }

    pub(crate) async fn everybody_sees_members(&self, count: usize) -> Duration {
        self.everybody_sees(&format!("{count} members alive"), |view| view.alive().count() == count).await
    }

    /// Who was lost by anybody since the cluster was whole.
    pub(crate) fn lost(&self) -> BTreeSet<NodeId> {
        self.losses.lock().iter().map(|loss| loss.lost.clone()).collect()
    }

    pub(crate) fn losses(&self) -> Vec<Loss> {
        self.losses.lock().clone()
    }

    pub(crate) fn forget_losses(&self) {
        self.losses.lock().clear();
    }
}

/// Waits until these nodes have a view like that, and says how long it took.
pub(crate) async fn eventually<'a>(
    what: &str,
    nodes: impl Iterator<Item = &'a Membership>,
    wanted: impl Fn(&View) -> bool,
) -> Duration {
    let started = Instant::now();
    let wanted = &wanted;
    let waiting = nodes.map(|node| async move {
        let mut view = node.view();
        let seen = timeout(LONG, view.wait_for(|view| wanted(view))).await.is_ok();
        assert!(seen, "{} never sees {what}, but {}", node.config().node, listed(&node.view().borrow()));
    });
    join_all(waiting).await;
    started.elapsed()
}

fn listed(view: &View) -> String {
    view.members().fold(String::new(), |mut text, member| {
        let _ = write!(text, "{}/{} {:?}, ", member.node, member.incarnation, member.state);
        text
    })
}

async fn note_losses(
    mut view: tokio::sync::watch::Receiver<Arc<View>>,
    clock: WallClock,
    losses: Arc<Mutex<Vec<Loss>>>,
) {
    let mut before = view.borrow_and_update().clone();
    while view.changed().await.is_ok() {
        let now = view.borrow_and_update().clone();
        for member in before.members().filter(|member| now.get(&member.node).is_none()) {
            let (observer, lost) = (now.me().clone(), member.node.clone());
            losses.lock().push(Loss { after: clock.uptime(), observer, lost });
        }
        before = now;
    }
}
