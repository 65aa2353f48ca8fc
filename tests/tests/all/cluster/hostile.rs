//! What no honest registry or peer sends: images of absurd shapes, and noise on both ports.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use faasnet::Node;
use faasnet::api::{Function, FunctionState};
use faasnet::config::{Config, OriginConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use transfer::digest::Digest;
use transfer::manifest::{MAX_INDEX_ENTRIES, MAX_LAYERS, OCI_INDEX, OCI_MANIFEST, Platform};
use transfer::reference::Reference;

use super::http::get;
use super::stage::{LIMIT, Stage, meet, slow};

/// Two nodes before a layout with images of all shapes.
struct Shapes {
    nodes: [Node; 2],
    layout: Layout,
    scratch: TempDir,
}

impl Shapes {
    async fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::new(scratch.path().join("layout"));
        let config = |name: &str, seeds| Config {
            id: Some(name.parse().unwrap()),
            listen: Some(([127, 0, 0, 1], 0).into()),
            http: ([127, 0, 0, 1], 0).into(),
            seeds,
            origins: vec![OriginConfig::at("shapes.test", layout.root.to_str().unwrap())],
            ..Config::new(scratch.path().join(name))
        };
        let first = Node::start(config("n1", Vec::new())).await.unwrap();
        let seeds = vec![first.addr().to_string()];
        let nodes = [first, Node::start(config("n2", seeds)).await.unwrap()];
        meet(&nodes).await;
        Self { nodes, layout, scratch }
    }

    async fn pull(&self, node: usize, tag: &str) -> Result<Function, String> {
        let reference: Reference = format!("shapes.test/image:{tag}").parse().unwrap();
        let pulled = async {
            let id = self.nodes[node].provision(&reference, None).await.map_err(|error| error.to_string())?;
            Ok(self.nodes[node].finished(id).await.unwrap())
        };
        timeout(LIMIT, pulled).await.expect("a pull ends")
    }

    async fn check_pulled(&self, node: usize, tag: &str) -> Function {
        let function = self.pull(node, tag).await.unwrap();
        assert_eq!(function.state, FunctionState::Ready, "{tag}: {:?}", function.error);
        assert_eq!(function.held_bytes, function.bytes, "{tag}");
        function
    }

    /// The names of all that a node keeps of images, but for the documents as the origin has them.
    fn kept(&self, node: usize) -> Vec<PathBuf> {
        let data = self.scratch.path().join(self.nodes[node].id().as_str());
        let folders = ["blobs/sha256", "partial", "functions"].map(|folder| data.join(folder));
        folders
            .iter()
            .flat_map(|folder| fs::read_dir(folder).unwrap())
            .map(|file| file.unwrap().path())
            .collect()
    }
}

/// An OCI layout on disk that is filled during a test.
struct Layout {
    root: PathBuf,
    tags: Vec<Value>,
}

impl Layout {
    fn new(root: PathBuf) -> Self {
        fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let mut layout = Self { root, tags: Vec::new() };
        let image = layout.image(1);
        layout.tag("plain", image);
        layout
    }

    /// Keeps some bytes, and describes them.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        fs::write(blob_path(&self.root, &digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn image(&self, layers: usize) -> Value {
        let layer = |number| self.put("application/octet-stream", format!("layer {number}").as_bytes());
        let layers: Vec<Value> = (0..layers).map(layer).collect();
        let config = self.put("application/vnd.oci.image.config.v1+json", b"{}");
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers });
        self.put(OCI_MANIFEST, manifest.to_string().as_bytes())
    }

    fn index(&self, entries: &[Value]) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        self.put(OCI_INDEX, index.to_string().as_bytes())
    }

    /// An image below so many indexes that have nothing but the next one.
    fn chain(&self, indexes: usize) -> Value {
        (0..indexes).fold(self.image(1), |below, _| self.index(&[below]))
    }

    /// An index in which the image for this machine is the last one of many.
    fn crowd(&self, entries: usize) -> Value {
        let host = Platform::host();
        let entry = |number: usize| {
            let mut entry = self.image(1);
            let os = if number + 1 == entries { host.os.clone() } else { format!("os-{number}") };
            entry["platform"] = json!({ "os": os, "architecture": host.architecture });
            entry
        };
        self.index(&(0..entries).map(entry).collect::<Vec<_>>())
    }

    fn tag(&mut self, name: &str, mut described: Value) {
        described["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        self.tags.push(described);
        let index = json!({ "schemaVersion": 2, "manifests": self.tags });
        fs::write(self.root.join("index.json"), index.to_string()).unwrap();
    }
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_within_the_limits_are_pulled_however_odd() {
    let mut shapes = Shapes::start().await;
    let layout = &mut shapes.layout;
    for (tag, image) in [
        ("layers", layout.image(1_000)),
        ("most-layers", layout.image(MAX_LAYERS)),
        ("chain", layout.chain(3)),
        ("crowd", layout.crowd(1_000)),
    ] {
        layout.tag(tag, image);
    }
    for tag in ["layers", "most-layers", "chain", "crowd"] {
        let first = shapes.check_pulled(0, tag).await;
        let second = shapes.check_pulled(1, tag).await;
        assert_eq!((second.origin_bytes, second.bytes), (0, first.bytes), "{tag}");
    }
    for node in &shapes.nodes {
        let data = shapes.scratch.path().join(node.id().as_str());
        for number in 0..MAX_LAYERS {
            let layer = format!("layer {number}");
            let kept = fs::read(blob_path(&data, &Digest::of(layer.as_bytes()))).unwrap();
            assert!(kept == layer.as_bytes(), "{}: {layer}", node.id());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_past_the_limits_are_refused_by_name_and_leave_nothing() {
    let mut shapes = Shapes::start().await;
    let layout = &mut shapes.layout;
    let rows = [
        ("layers", layout.image(MAX_LAYERS + 1), "1025 layers, and the limit is 1024"),
        ("crowd", layout.crowd(MAX_INDEX_ENTRIES + 1), "1025 manifests, and the limit is 1024"),
        ("chain-4", layout.chain(4), "image:chain-4: indexes are nested more than 3 deep"),
        ("chain-10", layout.chain(10), "image:chain-10: indexes are nested more than 3 deep"),
    ];
    for (tag, image, _) in &rows {
        layout.tag(tag, image.clone());
    }
    for (tag, _, expected) in &rows {
        for node in [0, 1] {
            let refused = shapes.pull(node, tag).await.unwrap_err();
            assert!(refused.contains(expected) && refused.contains("image"), "{tag} on {node}: {refused}");
            assert!(shapes.nodes[node].functions().is_empty(), "{tag} on {node}");
            assert_eq!(shapes.kept(node), Vec::<PathBuf>::new(), "{tag} on {node}");
        }
    }
    for node in [0, 1] {
        shapes.check_pulled(node, "plain").await;
    }
}

/// Xorshift, so that the same bytes come every time.
struct Noise(u64);

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    /// What looks like the first packet of a QUIC connection (RFC 9000, section 17.2.2) for so many bytes, and is noise.
    fn initial(&mut self, version: u32, length: usize) -> Vec<u8> {
        let mut packet = vec![0xc0 | self.bytes(1)[0] & 0x0f];
        packet.extend(version.to_be_bytes());
        packet.push(8);
        packet.extend(self.bytes(8));
        packet.extend([0, 0, 0x44, 0x9e]);
        let rest = length.saturating_sub(packet.len());
        packet.extend(self.bytes(rest));
        packet.truncate(length);
        packet
    }

    /// Datagrams of every kind that no peer sends.
    fn datagrams(&mut self) -> Vec<Vec<u8>> {
        /// The most that IPv4 carries in one.
        const LARGEST: usize = 65_507;
        let mut all =
            vec![Vec::new(), vec![0; 1_200], vec![0xff; 1_200], self.bytes(LARGEST), vec![0x40; LARGEST]];
        all.extend((1..64).map(|length| self.bytes(length * 23)));
        for version in [0, 1, 0xff00_001d, u32::MAX] {
            all.extend(
                [1, 5, 6, 7, 14, 15, 40, 600, 1_200, 1_452].map(|length| self.initial(version, length)),
            );
        }
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_both_ports_does_not_disturb_a_pull() {
    // The image takes 3 s.
    let stage = Stage::with_nodes(2, slow(8 << 20)).await;
    stage.start_everywhere().await;
    stage.reach(2, 1).await;
    let mut noise = Noise(7);
    let datagrams = noise.datagrams();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for round in 0..50 {
        for node in &stage.nodes {
            for datagram in &datagrams {
                // The system may have no room for it, which is the same as losing it.
                let _ = socket.send_to(datagram, node.addr());
            }
            shout(node.http_addr(), &noise.bytes(1 + round * 100)).await;
        }
    }
    let under_way = stage.nodes.iter().all(|node| {
        node.function(stage.function()).is_some_and(|function| function.state == FunctionState::Provisioning)
    });
    assert!(under_way, "the pull was over before the noise was");
    for node in &stage.nodes {
        let function = timeout(LIMIT, node.finished(stage.function())).await.unwrap().unwrap();
        assert_eq!(function.state, FunctionState::Ready, "{:?}", function.error);
        stage.check_store(node);
        assert_eq!(get(node, "/readyz", &[]).await.status, 200);
        assert_eq!(node.members().len(), 2);
    }
    let egress = stage.registry.egress_bytes();
    assert!(egress < stage.image.bytes * 105 / 100, "{egress} of {} left the origin", stage.image.bytes);
}

/// Says something that is no HTTP, and waits until the node hangs up.
async fn shout(to: SocketAddr, bytes: &[u8]) {
    let mut connection = TcpStream::connect(to).await.unwrap();
    // It may hang up before it has heard everything.
    let _ = connection.write_all(bytes).await;
    let _ = connection.shutdown().await;
    let mut answer = Vec::new();
    let end = timeout(Duration::from_secs(10), connection.read_to_end(&mut answer)).await;
    let _ = end.expect("the node hangs up");
}
