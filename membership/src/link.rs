//! The one thing that the rest asks of a network: open a stream to a node, and be handed those that others open.
//!
//! What is behind it (QUIC, or simulated links under virtual time) is not this crate's business.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::id::NodeId;

/// What a stream is for. Each has a connection of its own, so that bulk never stands in front of gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Scuttlebutt messages, one a stream.
    Gossip,
    /// Requests about membership, one a stream.
    Control,
    /// Requests for blocks and documents, one a stream.
    Blocks,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Gossip, Self::Control, Self::Blocks];

    /// Its name on the wire (ALPN, RFC 7301). The number rises with every incompatible change.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Gossip => b"faasnet-gossip/1",
            Self::Control => b"faasnet-control/1",
            Self::Blocks => b"faasnet-blocks/2",
        }
    }
}

/// Whom to open a stream to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Who must answer there. `None` for a seed, of which only the address is known: any member of the cluster will do.
    pub id: Option<NodeId>,
}

impl Peer {
    /// The node `id`, which listens at `addr`.
    pub fn node(id: NodeId, addr: SocketAddr) -> Self {
        Self { addr, id: Some(id) }
    }

    /// Whichever member listens at `addr`.
    pub fn any(addr: SocketAddr) -> Self {
        Self { addr, id: None }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{id} ({})", self.addr),
            None => write!(f, "{}", self.addr),
        }
    }
}

/// One stream between two nodes. Dropping it cancels it in both directions.
pub struct Stream {
    /// Who is at the other end, as its certificate says.
    pub peer: NodeId,
    /// Where it is.
    pub addr: SocketAddr,
    /// Our half; shut down to say that no more will come.
    pub send: Box<dyn AsyncWrite + Send + Unpin>,
    /// The other half.
    pub recv: Box<dyn AsyncRead + Send + Unpin>,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} at {})", self.peer, self.addr)
    }
}

/// The streams that others opened to us, of one protocol.
pub type Incoming = mpsc::Receiver<Stream>;

/// Why no stream could be opened. Nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// Nobody answered there in time, or the connection broke.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Whom we wanted.
        peer: Peer,
        /// What the network said.
        reason: String,
    },
    /// The two have no version of the protocol in common (see [`Protocol::alpn`]).
    #[error(
        "{peer} speaks another version of the protocol, so one of the two runs an older faasnet: {reason}"
    )]
    Incompatible {
        /// Whom we wanted.
        peer: Peer,
        /// What the handshake said.
        reason: String,
    },
    /// The two do not trust each other's certificates.
    #[error("{peer} is of another cluster, or has another cluster secret: {reason}")]
    Untrusted {
        /// Whom we wanted.
        peer: Peer,
        /// What the handshake said.
        reason: String,
    },
}

/// A way to reach nodes.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Opens a stream to `peer`, connecting first if need be. Bounded in time by the implementation.
    async fn open(&self, peer: &Peer, protocol: Protocol) -> Result<Stream, LinkError>;
}
