//! The questions that one can ask a node of the lab, and its answers.
//!
//! They go through the same command line that users have, run on the node's own host. What the node prints as JSON is read
//! here, and nowhere else.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::{HttpReply, HttpRequest};
use super::image::Image;
use super::netns::Host;
use super::node::HTTP_PORT;
use super::process::{COMMAND_LIMIT, output_within, run};

/// Asks a node through the command line, on its own host.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) node: String,
    pub(super) host: Host,
    pub(super) binary: PathBuf,
}

impl Client {
    /// The node's own account of itself.
    ///
    /// # Errors
    /// As for all questions: when the node does not answer, or not as agreed.
    pub fn status(&self) -> Result<Status> {
        self.json(["status"], COMMAND_LIMIT)
    }

    /// Whom it knows, itself included.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub fn members(&self) -> Result<Vec<Member>> {
        self.json(["members"], COMMAND_LIMIT)
    }

    /// What it provisions and holds.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub fn functions(&self) -> Result<Vec<Function>> {
        self.json(["functions"], COMMAND_LIMIT)
    }

    /// One function that it provisions or holds; `None` when it has not begun.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub fn function(&self, reference: &str) -> Result<Option<Function>> {
        Ok(self.functions()?.into_iter().find(|function| function.reference == reference))
    }

    /// The function that an image is, by whatever name it was asked for.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub fn function_of(&self, image: &Image) -> Result<Option<Function>> {
        Ok(self.functions()?.into_iter().find(|function| function.function == image.manifest.digest))
    }

    /// The function tree as this node derives it.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub fn tree(&self, reference: &str) -> Result<Vec<Place>> {
        #[derive(Deserialize)]
        struct Tree {
            nodes: Vec<Place>,
        }
        let tree: Tree = self.json(["tree", reference], COMMAND_LIMIT)?;
        Ok(tree.nodes)
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        let server = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT));
        self.host.http_get(server, "/readyz").is_ok_and(|reply| reply.status == 200)
    }

    /// Has it provision an image, and waits for that.
    ///
    /// # Errors
    /// When the node cannot, or takes too long.
    pub fn provision(&self, reference: &str, limit: Duration) -> Result<Pulled> {
        self.json(["pull", reference], limit)
    }

    /// Begins to provision an image.
    pub fn pull(&self, reference: &str, limit: Duration) -> Pulling {
        let (client, reference) = (self.clone(), reference.to_owned());
        Pulling(thread::spawn(move || client.provision(&reference, limit)))
    }

    /// Asks the node's mirror as a client on its host would.
    ///
    /// # Errors
    /// When the node does not answer.
    pub fn mirror(&self, request: &HttpRequest) -> Result<HttpReply> {
        self.host.http(SocketAddr::from(([127, 0, 0, 1], HTTP_PORT)), request)
    }

    /// Copies an image out of the node's mirror, the way a container runtime reads it, into a new layout.
    ///
    /// # Errors
    /// When `skopeo` is not content with what it gets.
    pub fn copy_out(&self, name: &str, layout: &Path) -> Result<Image> {
        let source = format!("docker://127.0.0.1:{HTTP_PORT}/{name}");
        let mut copy = self.host.command("skopeo");
        copy.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", "--src-tls-verify=false"]);
        copy.arg(source).arg(format!("oci:{}:v1", layout.display()));
        run(&mut copy).with_context(|| format!("cannot copy {name} out of {}", self.node))?;
        Image::open(layout)
    }

    fn json<T: DeserializeOwned>(
        &self,
        question: impl IntoIterator<Item = impl AsRef<OsStr>>,
        limit: Duration,
    ) -> Result<T> {
        let mut command = self.host.command(&self.binary);
        let output = output_within(command.args(question).arg("--json"), limit)?;
        let (text, complaint) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {command:?}: {}: {text}{complaint}", self.node, output.status);
        serde_json::from_str(&text).with_context(|| format!("{}: {command:?} answers {text:?}", self.node))
    }
}

/// A pull that goes on.
#[derive(Debug)]
pub struct Pulling(JoinHandle<Result<Pulled>>);

impl Pulling {
    /// Waits for its end.
    ///
    /// # Errors
    /// When the node could not provision the image, or took too long.
    pub fn wait(self) -> Result<Pulled> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }
}

/// What `faasnet pull` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Pulled {
    /// The digest of the manifest.
    pub function: String,
    /// `ready`, if all is well.
    pub state: String,
    /// Of the whole image.
    pub bytes: u64,
    /// Received from the registry.
    pub origin_bytes: u64,
    /// Received from other nodes.
    pub peer_bytes: u64,
    /// From the request to the last byte, in milliseconds.
    pub elapsed_ms: u64,
}

/// What `faasnet status` says, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// Grows with each start of the node.
    pub incarnation: u64,
    /// Bytes moved.
    pub transfer: Transfer,
}

/// Bytes of blocks that a node has moved since it was started.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Transfer {
    /// Received from the registry, and verified.
    pub origin_bytes: u64,
    /// Received from other nodes, and verified.
    pub peer_bytes: u64,
    /// Sent to other nodes.
    pub served_bytes: u64,
    /// Received although the node held them already.
    pub wasted_bytes: u64,
    /// How many blocks did not match their hash.
    pub refused_blocks: u64,
}

impl Transfer {
    /// All that was received, useful or not.
    pub fn received(&self) -> u64 {
        self.origin_bytes + self.peer_bytes + self.wasted_bytes
    }
}

/// A line of `faasnet members`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Member {
    /// Its name.
    pub node: String,
    /// What the node that was asked thinks of it.
    pub state: MemberState,
    /// Where it is reached.
    pub address: String,
    /// Grows with each start of the member.
    pub incarnation: u64,
}

/// What a node thinks of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// All is well.
    Alive,
    /// Silent; it is being probed.
    Suspect,
    /// It has said goodbye.
    Leaving,
}

/// A line of `faasnet functions`.
#[derive(Debug, Clone, Deserialize)]
pub struct Function {
    /// The digest of its manifest.
    pub function: String,
    /// What was asked for.
    pub reference: String,
    /// `provisioning`, `ready` or `failed`.
    pub state: String,
    /// Verified bytes on this node.
    pub held_bytes: u64,
}

/// One participant in what `faasnet tree` says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Place {
    /// The participant.
    pub node: String,
    /// Whom it gets its blocks from; the root has none.
    pub parent: Option<String>,
    /// 0 for the root.
    pub depth: u64,
}
