//! A cluster to test: nodes, the registry behind them, and the image it has.

use std::num::NonZeroU64;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use faasnet::Node;
use faasnet::api;
use faasnet::config::{Config, OriginConfig, Secret};
use faasnet::demo::image::{self, DemoImage};
use faasnet::demo::registry::EmbeddedRegistry;
use futures_util::StreamExt;
use futures_util::future::join_all;
use membership::{FunctionId, NodeId};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use transfer::digest::Digest;
use transfer::manifest::{Document, Manifest};
use transfer::origin::{Answered, BlobStream, LayoutOrigin, Listing, OriginError, open_local};
use transfer::reference::{Reference, Selector};

/// How long anything may take. Generous: machines are noisy, and this only bounds a failure.
pub(super) const LIMIT: Duration = Duration::from_secs(120);

/// A registry that is not what a test waits for, in bytes per second.
pub(super) const FAST: NonZeroU64 = NonZeroU64::new(1 << 30).unwrap();

/// A registry that sends so many bytes per second.
pub(super) fn slow(bytes_per_second: u64) -> NonZeroU64 {
    NonZeroU64::new(bytes_per_second).unwrap()
}

pub(super) fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

use super::vast::{self, Vast};

const IMAGE_BYTES: u64 = 24 << 20;

/// What is behind the registry.
pub(super) enum Origin {
    Honest,
    /// Every blob comes with one bit changed.
    FlipsABit,
    /// An image with one layer, see [`vast::Vast`].
    Vast,
}

pub(super) struct Stage {
    pub(super) nodes: Vec<Node>,
    pub(super) registry: Registry,
    pub(super) image: DemoImage,
    secret: Secret,
    scratch: TempDir,
}

/// The registry, until it is stopped.
pub(super) struct Registry {
    address: String,
    running: Option<EmbeddedRegistry>,
}

impl Registry {
    pub(super) fn egress_bytes(&self) -> u64 {
        self.running.as_ref().unwrap().egress_bytes()
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }
}

impl Stage {
    pub(super) async fn with_nodes(count: usize, rate: NonZeroU64) -> Self {
        Self::with_origin(count, rate, Origin::Honest).await
    }

    pub(super) async fn with_origin(count: usize, rate: NonZeroU64, origin: Origin) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = scratch.path().join("image");
        let mut image = image::write(&layout, IMAGE_BYTES, 7).unwrap();
        let honest = open_local(&layout).await.unwrap();
        let behind: Arc<dyn transfer::origin::Origin> = match origin {
            Origin::Honest => Arc::new(honest),
            Origin::FlipsABit => Arc::new(FlipsABit(honest)),
            Origin::Vast => {
                image = DemoImage { manifest: Vast::manifest().digest, bytes: vast::SIZE };
                Arc::new(Vast)
            }
        };
        let running = EmbeddedRegistry::start(behind, rate).await.unwrap();
        let registry = Registry { address: running.address().to_string(), running: Some(running) };
        let mut stage = Self { nodes: Vec::new(), registry, image, secret: Secret::generate(), scratch };
        for _ in 0..count {
            stage.add_node().await;
        }
        stage
    }

    fn config(&self, number: usize) -> Config {
        let name = format!("n{}", number + 1);
        let address = self.registry.address.clone();
        Config {
            id: Some(name.parse().unwrap()),
            listen: Some(([127, 0, 0, 1], 0).into()),
            http: ([127, 0, 0, 1], 0).into(),
            seeds: self.nodes.iter().take(2).map(|seed| seed.addr().to_string()).collect(),
            cluster: "test".to_owned(),
            secret: Some(self.secret.clone()),
            origins: vec![OriginConfig::at(&address, format!("http://{address}"))],
            ..Config::new(self.scratch.path().join(name))
        }
    }

    /// Starts one more node and waits until all know each other. Says which one it is.
    pub(super) async fn add_node(&mut self) -> usize {
        let number = self.nodes.len();
        self.nodes.push(Node::start(self.config(number)).await.unwrap());
        self.meet().await;
        number
    }

    async fn meet(&self) {
        meet(&self.nodes).await;
    }

    /// Ends a node and starts it again on the same data.
    pub(super) async fn restart(&mut self, number: usize) {
        let old = self.nodes.remove(number);
        old.shutdown().await;
        drop(old);
        let config = Config { seeds: vec![self.nodes[0].addr().to_string()], ..self.config(number) };
        // The old one's last tasks may hold its directory for another moment.
        let node = loop {
            match Node::start(config.clone()).await {
                Ok(node) => break node,
                Err(error) if format!("{error:#}").contains("in use") => tokio::task::yield_now().await,
                Err(error) => panic!("{error:#}"),
            }
        };
        self.nodes.insert(number, node);
    }

    pub(super) async fn start_double_on_data_of(&self, number: usize) -> anyhow::Result<Node> {
        Node::start(Config { id: None, ..self.config(number) }).await
    }

    pub(super) async fn start_double_with_id_of(&self, number: usize) -> anyhow::Result<Node> {
        Node::start(Config { data: self.scratch.path().join("double"), ..self.config(number) }).await
    }

    pub(super) async fn start_stranger(&self) -> anyhow::Result<Node> {
        Node::start(Config { secret: Some(Secret::generate()), ..self.config(self.nodes.len()) }).await
    }

    fn reference(&self) -> Reference {
        let tag = Selector::Tag(image::TAG.to_owned());
        Reference::new(&self.registry.address, "demo/image", tag).unwrap()
    }

    pub(super) fn manifest_path(&self) -> String {
        format!("/v2/demo/image/manifests/{}", image::TAG)
    }

    pub(super) fn function(&self) -> FunctionId {
        FunctionId::from(self.image.manifest)
    }

    pub(super) async fn provision_on(&self, number: usize) -> api::Function {
        let node = &self.nodes[number];
        let provisioned = async {
            let id = node.provision(&self.reference(), None).await.unwrap();
            node.finished(id).await.unwrap()
        };
        timeout(LIMIT, provisioned).await.expect("provisioning ends")
    }

    pub(super) async fn provision_everywhere(&self) -> Vec<api::Function> {
        join_all((0..self.nodes.len()).map(|number| self.provision_on(number))).await
    }

    /// Has all nodes start at the same moment, and does not wait for them.
    pub(super) async fn start_everywhere(&self) {
        let reference = self.reference();
        let starts = self.nodes.iter().map(|node| node.provision(&reference, None));
        for started in join_all(starts).await {
            started.unwrap();
        }
    }

    /// Waits until so many nodes hold that share of the image.
    pub(super) async fn reach(&self, nodes: usize, percent: u64) {
        let enough = |node: &Node| {
            node.function(self.function()).is_some_and(|f| f.held_bytes * 100 >= f.bytes * percent)
        };
        until("enough of the image is there", || self.nodes.iter().filter(|n| enough(n)).count() >= nodes)
            .await;
    }

    /// Which node is the root.
    pub(super) async fn root(&self) -> usize {
        let tree = self.settled_tree().await;
        let root = tree.nodes.iter().find(|node| node.parent.is_none()).unwrap();
        self.nodes.iter().position(|node| *node.id() == root.node).unwrap()
    }

    /// The tree, once all nodes derive the same.
    pub(super) async fn settled_tree(&self) -> api::Tree {
        let edges = |node: &Node| self.places(&node.tree(self.function()));
        let first = &self.nodes[0];
        until("all nodes derive the same tree", || {
            edges(first).len() == self.nodes.len()
                && self.nodes.iter().all(|node| edges(node) == edges(first))
        })
        .await;
        first.tree(self.function())
    }

    /// Who is under whom.
    pub(super) fn places(&self, tree: &api::Tree) -> Vec<(NodeId, Option<NodeId>)> {
        tree.nodes.iter().map(|node| (node.node.clone(), node.parent.clone())).collect()
    }

    /// Waits until a node that was restarted has taken up its function and ended it.
    pub(super) async fn wait_for_function(&self, node: &Node) -> api::Function {
        until("the function is taken up", || node.function(self.function()).is_some()).await;
        timeout(LIMIT, node.finished(self.function())).await.unwrap().unwrap()
    }

    fn layout(&self) -> std::path::PathBuf {
        self.scratch.path().join("image/blobs/sha256")
    }

    /// The image's configuration and layers.
    pub(super) fn blobs(&self) -> Vec<Digest> {
        let bytes = std::fs::read(self.layout().join(self.image.manifest.hex())).unwrap();
        let document = Document::received(None, bytes.into()).unwrap();
        Manifest::parse(&document).unwrap().blobs().map(|blob| blob.digest).collect()
    }

    /// The digest and the bytes of the image's largest layer.
    pub(super) fn largest_blob(&self) -> (String, Vec<u8>) {
        let blobs = self.blobs().into_iter();
        let read = blobs.map(|digest| (digest, std::fs::read(self.layout().join(digest.hex())).unwrap()));
        let (digest, bytes) = read.max_by_key(|(_, bytes)| bytes.len()).unwrap();
        (digest.to_string(), bytes)
    }

    fn store_of(&self, node: &Node) -> std::path::PathBuf {
        self.scratch.path().join(node.id().as_str()).join("blobs/sha256")
    }

    /// Every blob of the image is on the node's disk, byte for byte.
    pub(super) fn check_store(&self, node: &Node) {
        for digest in self.blobs() {
            let bytes = std::fs::read(self.store_of(node).join(digest.hex())).unwrap();
            assert_eq!(Digest::of(&bytes), digest, "{}", node.id());
        }
    }

    /// No file in the node's store has a name that its bytes belie.
    pub(super) fn wrong_blob_is_absent(&self, node: &Node) -> bool {
        let right = |path: &Path| {
            let digest = Digest::of(&std::fs::read(path).unwrap());
            path.file_name().is_some_and(|name| *name == *digest.hex())
        };
        std::fs::read_dir(self.store_of(node)).unwrap().all(|entry| right(&entry.unwrap().path()))
    }
}

/// Waits until all these nodes know each other.
pub(super) async fn meet(nodes: &[Node]) {
    let all = nodes.len();
    until("all nodes know each other", || nodes.iter().all(|node| node.members().len() == all)).await;
    for node in nodes {
        node.ready().await.unwrap();
    }
}

/// Waits for a condition that nothing announces, and says which one when it does not come true.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let polled = async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, polled).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

struct FlipsABit(LayoutOrigin);

#[async_trait]
impl transfer::origin::Origin for FlipsABit {
    async fn manifest(&self, repository: &str, selector: &Selector) -> Result<Document, OriginError> {
        self.0.manifest(repository, selector).await
    }

    async fn head(&self, repository: &str, selector: &Selector) -> Result<Digest, OriginError> {
        self.0.head(repository, selector).await
    }

    async fn blob_size(&self, repository: &str, digest: &Digest) -> Result<u64, OriginError> {
        self.0.blob_size(repository, digest).await
    }

    async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let stream = self.0.blob(repository, digest, range).await?;
        Ok(Box::pin(stream.map(|chunk| {
            let mut bytes = chunk?.to_vec();
            bytes[0] ^= 1;
            Ok(bytes.into())
        })))
    }

    async fn list(&self, repository: &str, listing: &Listing, query: &str) -> Result<Answered, OriginError> {
        self.0.list(repository, listing, query).await
    }
}
