//! The demo's two pulls: a cluster's through its function tree, and the same number of clients' straight from the
//! origin, at the same rate in the same run.
//!
//! Everything is real (gossip, QUIC, HTTP, disk) but on one machine. What is printed is `report`'s business.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use futures_util::future::{join_all, try_join_all};
use membership::{FunctionId, NodeId};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use transfer::digest::Sha256;
use transfer::manifest::{Manifest, Platform, select};
use transfer::origin::{Origin, RegistryConfig, RegistryOrigin, open_local};
use transfer::reference::{Reference, Selector};

use super::image;
use super::progress::Bars;
use super::registry::EmbeddedRegistry;
use crate::api;
use crate::config::{Config, OriginConfig, Secret};
use crate::node::Node;
use crate::render::Paint;

/// How long the nodes may take to find each other: far more than the second it takes.
const MEETING_LIMIT: Duration = Duration::from_secs(60);

/// Blobs that a direct client reads at once, as container runtimes do.
const CLIENT_PARALLEL_BLOBS: usize = 3;

/// What to show.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, and how many direct clients.
    pub nodes: usize,
    /// A registry reference, or the path of an OCI layout or an image archive. Default: an image made for the demo.
    pub image: Option<String>,
    /// The origin's uplink, in bytes per second, shared by all who pull from it.
    pub origin_rate: NonZeroU64,
    /// Print one JSON object and nothing else.
    pub json: bool,
    /// Stay up afterwards until interrupted.
    pub keep: bool,
    /// Whether to write colours.
    pub paint: Paint,
}

/// One way of pulling the image everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Pull {
    /// Bytes that left the origin.
    pub origin_bytes: u64,
    /// From the first request until the last one had everything.
    pub elapsed: Duration,
}

/// What the demo measured.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Size of the image's blobs.
    pub image_bytes: u64,
    /// The cluster's pull.
    pub cluster: Pull,
    /// The direct clients' pull.
    pub direct: Pull,
    /// How each node's went.
    pub functions: Vec<(NodeId, api::Function)>,
    /// The function tree.
    pub tree: api::Tree,
}

/// A running cluster with its origin. Its directories go when it is dropped.
pub struct Cluster {
    /// The nodes, of which the first is the others' seed.
    pub nodes: Vec<Node>,
    /// The image, as the nodes know it.
    pub reference: Reference,
    registry: EmbeddedRegistry,
    _scratch: TempDir,
}

impl Cluster {
    /// Starts the origin and the nodes, and waits until everybody knows everybody.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        ensure!(options.nodes > 0, "a cluster needs at least one node: use --nodes 1 or more");
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let (origin, repository, selector) = find_image(options.image.as_deref(), scratch.path()).await?;
        let registry = EmbeddedRegistry::start(origin, options.origin_rate).await?;
        let reference = Reference::new(&registry.address().to_string(), &repository, selector)?;
        let mut nodes: Vec<Node> = Vec::with_capacity(options.nodes);
        let secret = Secret::generate();
        for number in 1..=options.nodes {
            let seed = nodes.first().map(|seed| seed.addr().to_string());
            let config = config(number, seed, &secret, scratch.path(), &registry);
            nodes.push(Node::start(config).await.with_context(|| format!("node n{number} did not start"))?);
        }
        let cluster = Self { nodes, reference, registry, _scratch: scratch };
        timeout(MEETING_LIMIT, cluster.meet())
            .await
            .context("the nodes did not find each other in time")??;
        Ok(cluster)
    }

    async fn meet(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            node.ready().await?;
            while node.members().len() < self.nodes.len() {
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Has every node provision the image at the same moment.
    pub async fn pull(&self, bars: &Bars) -> anyhow::Result<(Pull, Vec<(NodeId, api::Function)>)> {
        self.registry.reset_egress();
        let started = Instant::now();
        let pulls = self.nodes.iter().map(|node| self.pull_on(node, bars));
        let functions = try_join_all(pulls).await?;
        let pull = Pull { origin_bytes: self.registry.egress_bytes(), elapsed: started.elapsed() };
        Ok((pull, functions))
    }

    async fn pull_on(&self, node: &Node, bars: &Bars) -> anyhow::Result<(NodeId, api::Function)> {
        let id = node.provision(&self.reference, None).await?;
        let finished = node.finished(id);
        tokio::pin!(finished);
        let function = loop {
            tokio::select! {
                function = &mut finished => break function,
                () = sleep(Bars::INTERVAL) => {
                    if let Some(function) = node.function(id) {
                        bars.show(node.id().as_str(), function.held_bytes, function.bytes);
                    }
                }
            }
        };
        let function = function.context("the function is gone")?;
        if let Some(error) = &function.error {
            bail!("{}: {error}", node.id());
        }
        bars.show(node.id().as_str(), function.held_bytes, function.bytes);
        Ok((node.id().clone(), function))
    }

    /// The function that was pulled.
    pub async fn function(&self) -> anyhow::Result<FunctionId> {
        Ok(self.nodes[0].resolve(&self.reference).await?)
    }

    /// Has as many clients as there are nodes pull the image straight from the origin at the same moment.
    pub async fn pull_directly(&self, bars: &Bars) -> anyhow::Result<Pull> {
        self.registry.reset_egress();
        let started = Instant::now();
        try_join_all((1..=self.nodes.len()).map(|number| self.direct_client(number, bars))).await?;
        Ok(Pull { origin_bytes: self.registry.egress_bytes(), elapsed: started.elapsed() })
    }

    /// What a direct client is called.
    pub fn client_name(number: usize) -> String {
        format!("client {number}")
    }

    /// The image's name within its registry, with its tag or digest.
    pub fn path(&self) -> String {
        let name = self.reference.to_string();
        name.split_once('/').map(|(_, path)| path.to_owned()).unwrap_or(name)
    }

    async fn direct_client(&self, number: usize, bars: &Bars) -> anyhow::Result<()> {
        let name = Self::client_name(number);
        let origin = RegistryOrigin::new(self.reference.registry(), RegistryConfig::default())?;
        let repository = self.reference.repository();
        let mut document = origin.manifest(repository, &self.reference.selector()).await?;
        if let Manifest::Index(entries) = Manifest::parse(&document)? {
            let digest = select(&entries, &Platform::host())?.digest;
            document = origin.manifest(repository, &Selector::Digest(digest)).await?;
        }
        let manifest = Manifest::parse(&document)?;
        let total: u64 = manifest.blobs().map(|blob| blob.size).sum();
        let done = AtomicU64::new(0);
        let blobs: Vec<_> = manifest.blobs().cloned().collect();
        let (origin, done, name) = (&origin, &done, &name);
        let pulls = blobs.iter().map(|blob| async move {
            let mut hasher = Sha256::new();
            let mut bytes = origin.blob(repository, &blob.digest, 0..blob.size).await?;
            while let Some(chunk) = bytes.next().await {
                let chunk = chunk?;
                hasher.update(&chunk);
                let length = chunk.len() as u64;
                let before = done.fetch_add(length, Ordering::Relaxed);
                bars.show(name, before + length, total);
            }
            ensure!(hasher.finish() == blob.digest, "{} does not match its digest", blob.digest);
            Ok(())
        });
        let mut pulls = futures_util::stream::iter(pulls).buffer_unordered(CLIENT_PARALLEL_BLOBS);
        while let Some(pulled) = pulls.next().await {
            pulled?;
        }
        Ok(())
    }

    /// Has every node leave, all at once.
    pub async fn shutdown(&self) {
        join_all(self.nodes.iter().map(Node::shutdown)).await;
    }
}

fn config(
    number: usize,
    seed: Option<String>,
    secret: &Secret,
    scratch: &Path,
    registry: &EmbeddedRegistry,
) -> Config {
    let address = registry.address().to_string();
    Config {
        id: format!("n{number}").parse().ok(),
        listen: Some(([127, 0, 0, 1], 0).into()),
        http: ([127, 0, 0, 1], 0).into(),
        seeds: seed.into_iter().collect(),
        cluster: "demo".to_owned(),
        secret: Some(secret.clone()),
        origins: vec![OriginConfig::at(&address, format!("http://{address}"))],
        ..Config::new(scratch.join(format!("n{number}")))
    }
}

/// The origin behind the demo's own, and what the image is called there.
async fn find_image(
    image: Option<&str>,
    scratch: &Path,
) -> anyhow::Result<(Arc<dyn Origin>, String, Selector)> {
    let demo = || ("demo/image".to_owned(), Selector::Tag(image::TAG.to_owned()));
    let Some(image) = image else {
        let layout = scratch.join("image");
        let written = layout.clone();
        tokio::task::spawn_blocking(move || image::write(&written, image::DEFAULT_BYTES, 1)).await??;
        let (repository, selector) = demo();
        return Ok((Arc::new(open_local(&layout).await?), repository, selector));
    };
    if Path::new(image).exists() {
        let (repository, selector) = demo();
        return Ok((Arc::new(open_local(Path::new(image)).await?), repository, selector));
    }
    let reference: Reference = image.parse().with_context(|| {
        format!("{image:?} is neither a file, nor a directory, nor the reference of an image in a registry")
    })?;
    let origin = RegistryOrigin::new(reference.registry(), RegistryConfig::default())?;
    Ok((Arc::new(origin), reference.repository().to_owned(), reference.selector()))
}
