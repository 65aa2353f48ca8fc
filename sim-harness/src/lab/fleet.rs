//! A stage as on a platform: the registry has a name and speaks TLS, and programs on the nodes' hosts pull through the nodes.
//!
//! Two registries share one storage, so that their access logs tell who asked: the one of the stage is where nodes get what they
//! need, the other one ([`Fleet::upstream`]) is where programs find the name of the registry, when they go past their node.

use anyhow::{Context, Result};

use super::node::HTTP_PORT;
use super::registry::{Registry, RegistryPlan};
use super::runtime::{DOCKER_REGISTRY, DOCKER_SERVER, Kind, REGISTRY, Runtime, World};
use super::stage::Stage;
use super::tls::Authority;

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
        let stage = Stage::named(title, nodes, &[DOCKER_REGISTRY, REGISTRY])?;
        let directory = stage.network.directory();
        let authority = Authority::new(&directory.join("authority"))?;
        let plan = RegistryPlan {
            certificate: Some(authority.issue(&[REGISTRY, DOCKER_SERVER])?),
            storage: Some(stage.registry.storage()),
            ..RegistryPlan::default()
        };
        let host = stage.registry.host();
        let world = World { mirror_port: HTTP_PORT, registry: host.address(), authority: authority.file() };
        let upstream = Registry::start_as(host, &directory.join("upstream"), plan)
            .context("cannot start the registry's other side")?;
        Ok(Self { upstream, stage, world })
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
