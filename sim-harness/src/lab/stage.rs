//! Everything that a test of the whole stands on, in one call: a network, a registry with an image, and nodes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::client::{Member, MemberState, Pulling};
use super::image::Image;
use super::netns::{Host, Link, Network, Zone, address};
use super::node::{NodePlan, NodeProcess, endpoint, new_secret};
use super::process::wait_until;
use super::registry::Registry;

/// The host number of the registry, and the one before the first node's.
const REGISTRY_NUMBER: u16 = 1;
const NODES_AFTER: u16 = 10;

/// The first nodes are everybody's seeds: more than one, so that a killed seed does not keep others from joining.
const SEEDS: u16 = 3;

/// How long nodes may take to know each other. Gossip takes a second or two; the machine may be busy.
const ACQUAINTANCE_LIMIT: Duration = Duration::from_secs(60);

/// What an image is called in the registry, without the registry's own name.
pub const IMAGE_NAME: &str = "test/image:v1";

/// Where a node stands.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Its zone, if not the backbone.
    pub zone: Option<Zone>,
    /// Its link.
    pub link: Link,
    /// The size of its disk in bytes, if it has one of its own.
    pub disk: Option<u64>,
}

/// A registry and nodes `n1`, `n2`, … which know each other.
#[derive(Debug)]
pub struct Stage {
    // In the order in which they are to be dropped: the network takes away the ground.
    /// The nodes, in the order in which they were added.
    pub nodes: Vec<NodeProcess>,
    /// The origin.
    pub registry: Registry,
    /// The wires.
    pub network: Network,
    names: Vec<String>,
    config: Option<String>,
    seeds: u16,
    secret: String,
    title: String,
    start: Instant,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    /// A registry, and `nodes` nodes that are ready and know each other. `title` goes before all that is printed.
    ///
    /// # Errors
    /// When a piece is missing or does not come up.
    pub fn new(title: &str, nodes: usize) -> Result<Self> {
        Self::named(title, nodes, &[])
    }

    /// The same, where the nodes know the registry by these names as well. The first, if there is one, is what they take
    /// for meant where none is named.
    ///
    /// # Errors
    /// See [`Stage::new`].
    pub fn named(title: &str, nodes: usize, names: &[&str]) -> Result<Self> {
        let mut stage = Self::over(Network::new()?, title, nodes, names)?;
        stage.say(&format!("starting {nodes} nodes"));
        for _ in 0..nodes {
            stage.start_node()?;
        }
        stage.wait_acquainted()?;
        Ok(stage)
    }

    /// A registry on a network without hosts, and no nodes yet; so many are to come first.
    ///
    /// # Errors
    /// See [`Stage::new`].
    pub fn on(network: Network, title: &str, nodes: usize) -> Result<Self> {
        Self::over(network, title, nodes, &[])
    }

    fn over(network: Network, title: &str, nodes: usize, names: &[&str]) -> Result<Self> {
        // One stage at a time: each has the machine to itself, or else times and loads would mean nothing.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        let secret = new_secret()?;
        let host = network.host("registry", REGISTRY_NUMBER)?;
        let registry = Registry::start(&host, &network.directory().join("registry"))?;
        let names = names.iter().map(|&name| name.to_owned()).chain([registry.name()]).collect();
        Ok(Self {
            nodes: Vec::new(),
            registry,
            network,
            names,
            config: None,
            // A node waits for its seeds, so none has one that will not be there.
            seeds: if nodes <= 1 { 0 } else { nodes.min(SEEDS.into()) as u16 },
            secret,
            title: title.to_owned(),
            start,
            _alone: alone,
        })
    }

    /// Adds one more node, and waits until it is ready and all know each other. Gives its index.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn add_node(&mut self) -> Result<usize> {
        self.seeds = SEEDS;
        let index = self.start_node()?;
        self.wait_acquainted()?;
        Ok(index)
    }

    /// Waits until all nodes that run are ready, and each lists exactly those as alive.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn wait_acquainted(&mut self) -> Result<()> {
        let mut running = Vec::new();
        for node in &mut self.nodes {
            if node.ended()?.is_none() {
                node.wait_ready()?;
                running.push(node.id().to_owned());
            }
        }
        running.sort_unstable();
        for node in &mut self.nodes {
            if node.ended()?.is_some() {
                continue;
            }
            wait_until(&format!("{} to know all others", node.id()), ACQUAINTANCE_LIMIT, || {
                let members = node.ask().members()?;
                let alive = members.iter().filter(|member| member.state == MemberState::Alive);
                let mut alive: Vec<&str> = alive.map(|member| member.node.as_str()).collect();
                alive.sort_unstable();
                Ok((alive == running).then_some(()))
            })?;
        }
        Ok(())
    }

    /// A node that is not part of [`Stage::nodes`], as the `number`th host, with another id or secret than it should have.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_impostor(&self, number: u16, id: &str, secret: Option<String>) -> Result<NodeProcess> {
        let host = self.network.host(&format!("impostor{number}"), NODES_AFTER + number)?;
        let plan = NodePlan { secret: secret.unwrap_or_else(|| self.secret.clone()), ..self.plan(id) };
        NodeProcess::start(&host, plan, &self.network.directory().join(host.name()))
    }

    /// Puts an image into the registry and gives the reference to it.
    ///
    /// # Errors
    /// See [`Registry::push`].
    pub fn publish(&self, image: &Image) -> Result<String> {
        self.say(&format!("pushing an image of {} MB", image.bytes() / 1_000_000));
        self.registry.push(image, IMAGE_NAME)
    }

    /// Lets all nodes begin to provision an image at once.
    pub fn pull_everywhere(&self, reference: &str, limit: Duration) -> Vec<Pulling> {
        self.nodes.iter().map(|node| node.ask().pull(reference, limit)).collect()
    }

    /// Waits until the nodes together hold this share of what they will hold in the end, and checks that none of them holds
    /// everything yet, since what happens next is to happen half-way. Gives the bytes held by each.
    ///
    /// # Errors
    /// When that does not happen within `limit`, or goes by unseen.
    pub fn wait_half_way(&self, reference: &str, image: &Image, limit: Duration) -> Result<Vec<u64>> {
        let held = wait_until("the nodes to be half done", limit, || {
            let held = self.nodes.iter().map(|node| {
                let function = node.ask().function(reference)?;
                Ok(function.map_or(0, |function| function.held_bytes))
            });
            let held = held.collect::<Result<Vec<u64>>>()?;
            let wanted = image.bytes() * self.nodes.len() as u64;
            Ok((2 * held.iter().sum::<u64>() >= wanted).then_some(held))
        })?;
        let done = held.iter().filter(|held| **held >= image.bytes()).count();
        ensure!(done == 0, "{done} nodes were done before the others were half done: {held:?}");
        self.say(&format!("half-way: {}", percentages(&held, image.bytes())));
        Ok(held)
    }

    /// What every running node but `except` says about the members, in parallel: with the node's own name.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub fn members_everywhere(&self, except: &[usize]) -> Result<Vec<(String, Vec<Member>)>> {
        let asked = self.nodes.iter().enumerate().filter(|(index, _)| !except.contains(index));
        thread::scope(|scope| {
            let asking: Vec<_> = asked
                .map(|(_, node)| scope.spawn(|| Ok((node.id().to_owned(), node.ask().members()?))))
                .collect();
            let answers = asking
                .into_iter()
                .map(|asking| asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            answers.collect()
        })
    }

    /// The hosts of all nodes.
    pub fn hosts(&self) -> Vec<Host> {
        self.nodes.iter().map(|node| node.host().clone()).collect()
    }

    /// The index of a node.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn index_of(&self, id: &str) -> Result<usize> {
        self.nodes.iter().position(|node| node.id() == id).with_context(|| format!("there is no node {id}"))
    }

    /// Prints what the test is at.
    pub fn say(&self, what: &str) {
        eprintln!("[{} {:6.2} s] {what}", self.title, self.start.elapsed().as_secs_f64());
    }

    /// Adds one more node without waiting for anything. Gives its index.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&mut self) -> Result<usize> {
        self.start_node_at(&Site::default())
    }

    /// The same, at a place of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node_at(&mut self, site: &Site) -> Result<usize> {
        let index = self.nodes.len();
        let number = u16::try_from(index + 1).context("too many nodes")?;
        let id = format!("n{number}");
        let host = self.network.host_in(site.zone.as_ref(), &id, NODES_AFTER + number, &site.link)?;
        let directory = self.network.directory().join(&id);
        if let Some(bytes) = site.disk {
            self.network.disk(&directory, bytes)?;
        }
        let plan = NodePlan { zone: site.zone.as_ref().map(|zone| zone.name().to_owned()), ..self.plan(&id) };
        self.nodes.push(NodeProcess::start(&host, plan, &directory)?);
        Ok(index)
    }

    /// Gives the nodes that are started from now on a configuration file, which also says what they may read from.
    pub fn configure(&mut self, config: String) {
        self.config = Some(config);
    }

    /// All names of the registry, as `--origin` takes them.
    fn origins(&self) -> Vec<String> {
        self.names.iter().map(|name| format!("{name}=http://{}", self.registry.name())).collect()
    }

    fn plan(&self, id: &str) -> NodePlan {
        NodePlan {
            id: id.to_owned(),
            zone: None,
            seeds: (1..=self.seeds).map(|number| endpoint(address(NODES_AFTER + number))).collect(),
            origins: if self.config.is_some() { Vec::new() } else { self.origins() },
            default_origin: self.names[0].clone(),
            config: self.config.clone(),
            secret: self.secret.clone(),
        }
    }
}

/// Shares of a whole, for people.
fn percentages(parts: &[u64], whole: u64) -> String {
    parts.iter().map(|part| format!("{}%", part * 100 / whole)).collect::<Vec<_>>().join(" ")
}
