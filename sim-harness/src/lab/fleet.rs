//! A stage as on a platform: the registry has a name and speaks TLS, and programs on the nodes' hosts pull through the nodes.
//!
//! Two registries share one storage, so that their access logs tell who asked: the one of the stage is where nodes get what they
//! need, the other one ([`Fleet::upstream`]) is where programs find the name of the registry, when they go past their node.

use anyhow::{Context, Result};

use super::node::HTTP_PORT;
use super::registry::{READER_AUTH, Registry, RegistryPlan};
use super::runtime::{DOCKER_REGISTRY, DOCKER_SERVER, Kind, REGISTRY, Runtime, World};
use super::stage::Stage;
use super::tls::Authority;

/// What the registry is called. The first is what nodes take for meant where none is named.
const NAMES: [&str; 2] = [DOCKER_REGISTRY, REGISTRY];

/// Nodes `n1`, `n2`, … before a registry that programs know by name.
#[derive(Debug)]
pub struct Fleet {
    // In the order in which they are to be dropped: the network takes away the ground.
    /// What programs reach under the registry's name.
    pub upstream: Registry,
    /// The nodes, and what they reach.
    pub stage: Stage,
    world: World,
}

impl Fleet {
    /// A fleet of so many nodes. `title` goes before all that is printed.
    ///
    /// # Errors
    /// When a piece is missing or does not come up.
    pub fn new(title: &str, nodes: usize) -> Result<Self> {
        let stage = Stage::named(title, nodes, &NAMES)?;
        Self::before(stage, false)
    }

    /// One node before a private registry, where only the node may have what it takes to read there. It finds the
    /// registry where programs find it too, so here both leave their traces at [`Fleet::upstream`].
    ///
    /// # Errors
    /// See [`Fleet::new`].
    pub fn private(title: &str, credentials: bool) -> Result<Self> {
        let stage = Stage::named(title, 0, &NAMES)?;
        let mut fleet = Self::before(stage, true)?;
        let config = fleet.node_config(credentials)?;
        fleet.stage.configure(config);
        fleet.stage.start_node()?;
        fleet.stage.wait_acquainted()?;
        Ok(fleet)
    }

    fn before(stage: Stage, private: bool) -> Result<Self> {
        let directory = stage.network.directory();
        let authority = Authority::new(&directory.join("authority"))?;
        let host = stage.registry.host();
        let address = host.address().to_string();
        let plan = RegistryPlan {
            certificate: Some(authority.issue(&[REGISTRY, DOCKER_SERVER, &address])?),
            storage: Some(stage.registry.storage()),
            private,
        };
        let world = World { mirror_port: HTTP_PORT, registry: host.address(), authority: authority.file() };
        let upstream = Registry::start_as(host, &directory.join("upstream"), plan)
            .context("cannot start the registry's other side")?;
        Ok(Self { upstream, stage, world })
    }

    /// What makes a node read from the registry's encrypted side.
    fn node_config(&self, credentials: bool) -> Result<String> {
        let docker_config = self.stage.network.directory().join("docker.json");
        let address = self.world.registry;
        let entry = serde_json::json!({"auth": READER_AUTH});
        let auths = serde_json::json!({"auths": {(address.to_string()): entry, (REGISTRY): entry}});
        std::fs::write(&docker_config, auths.to_string()).context("cannot write credentials")?;
        let mut config = String::new();
        for name in NAMES {
            let authority = &self.world.authority;
            config += &format!("[origin.{name:?}]\nurl = \"https://{address}\"\nca-file = {authority:?}\n");
            if credentials {
                config += &format!("docker-config = {docker_config:?}\n");
            }
        }
        Ok(config)
    }

    /// A program with empty storage on the host of a node. `title` tells programs of one kind on one host apart.
    ///
    /// # Errors
    /// See [`Runtime::start`].
    pub fn runtime(&self, node: usize, kind: Kind, title: &str) -> Result<Runtime> {
        let host = self.stage.nodes[node].host();
        let directory = self.stage.network.directory().join(format!("{}-{kind}{title}", host.name()));
        Runtime::start(kind, host, &directory, &self.world)
    }

    /// Stops the registry, on both of its sides.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn stop_registry(&mut self) -> Result<()> {
        self.stage.registry.stop()?;
        self.upstream.stop()
    }
}
