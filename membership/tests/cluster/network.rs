//! A network in memory: streams between nodes, and the ways in which it may fail.
//!
//! Like a network with reliable connections: what is under way while a path is closed waits for it to open again, and
//! the stream breaks when that takes too long. Streams are carried by tasks, so time may be virtual.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use membership::NodeId;
use membership::link::{Incoming, Link, LinkError, Peer, Protocol, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a stream waits for a closed path to open, or a connection for an answer, as QUIC does.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes under way per stream and hop.
const WINDOW: usize = 64 * 1024;

/// Bytes that arrive at once at most.
const CHUNK: usize = 8 * 1024;

/// Streams that a node has not accepted yet.
const BACKLOG: usize = 1_024;

/// How long a loopback datagram may take, in virtual time.
const BEAT: Duration = Duration::from_millis(1);

/// The network. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub(crate) struct Network {
    state: Arc<Mutex<State>>,
    /// Says that a path may have opened.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    ports: BTreeMap<SocketAddr, Port>,
    /// Addresses at which a machine runs, but no node: connecting fails at once.
    refusing: BTreeSet<SocketAddr>,
    frozen: BTreeSet<SocketAddr>,
    /// Gossip from and to these is lost.
    mute: BTreeSet<SocketAddr>,
    cut: BTreeSet<(SocketAddr, SocketAddr)>,
    delay: BTreeMap<SocketAddr, Duration>,
    opened: BTreeMap<SocketAddr, usize>,
}

#[derive(Clone)]
struct Port {
    node: NodeId,
    gossip: mpsc::Sender<Stream>,
    control: mpsc::Sender<Stream>,
}

impl Network {
    pub(crate) fn new() -> Self {
        // Gossip's messages cross a loopback socket to be encoded (see `envelope`). A paused clock does not know of
        // them and leaps to the next timer meanwhile, so there is always one close by.
        tokio::spawn(async {
            loop {
                sleep(BEAT).await;
            }
        });
        Self { state: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// Connects a node at `addr`. Who was there before is there no longer.
    pub(crate) fn attach(&self, node: NodeId, addr: SocketAddr) -> (Arc<dyn Link>, Incoming, Incoming) {
        let (gossip, gossip_in) = mpsc::channel(BACKLOG);
        let (control, control_in) = mpsc::channel(BACKLOG);
        self.change(|state| {
            state.ports.insert(addr, Port { node: node.clone(), gossip, control });
            state.refusing.remove(&addr);
            state.frozen.remove(&addr);
        });
        (Arc::new(End { network: self.clone(), node, addr }), gossip_in, control_in)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
        self.changed.send_replace(());
    }

    /// The machine at `addr` is gone: whoever calls it hears nothing.
    pub(crate) fn crash(&self, addr: SocketAddr) {
        self.change(|state| {
            state.ports.remove(&addr);
            state.frozen.insert(addr);
        });
    }

    /// The process at `addr` is gone, and its machine says so to whoever calls.
    pub(crate) fn refuse(&self, addr: SocketAddr) {
        self.crash(addr);
        self.change(|state| _ = state.refusing.insert(addr));
    }

    /// The node at `addr` neither hears nor is heard.
    pub(crate) fn freeze(&self, addr: SocketAddr) {
        self.change(|state| _ = state.frozen.insert(addr));
    }

    pub(crate) fn thaw(&self, addr: SocketAddr) {
        self.change(|state| _ = state.frozen.remove(&addr));
    }

    /// The node at `addr` hears no gossip and none of it is heard. All else gets through.
    pub(crate) fn mute(&self, addr: SocketAddr) {
        self.change(|state| _ = state.mute.insert(addr));
    }

    /// Nothing gets from `from` to `to` any more. The other way is still open.
    pub(crate) fn cut_one_way(&self, from: SocketAddr, to: SocketAddr) {
        self.change(|state| _ = state.cut.insert((from, to)));
    }

    pub(crate) fn cut(&self, a: SocketAddr, b: SocketAddr) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    pub(crate) fn mend(&self) {
        self.change(|state| state.cut.clear());
    }

    /// Whatever goes to or from `addr` takes so much longer.
    pub(crate) fn delay(&self, addr: SocketAddr, delay: Duration) {
        self.change(|state| _ = state.delay.insert(addr, delay));
    }

    /// No stream reaches the node at `addr` any more, as if its socket had failed.
    pub(crate) fn unplug(&self, addr: SocketAddr) {
        self.change(|state| _ = state.ports.remove(&addr));
    }

    /// How many streams the node at `addr` has opened so far.
    pub(crate) fn opened_by(&self, addr: SocketAddr) -> usize {
        self.state.lock().opened.get(&addr).copied().unwrap_or(0)
    }

    /// Resolves when the node at `addr` accepts streams of neither protocol any more.
    pub(crate) async fn closed(&self, addr: SocketAddr) {
        let port = self.state.lock().ports.get(&addr).cloned();
        if let Some(port) = port {
            port.gossip.closed().await;
            port.control.closed().await;
        }
    }

    fn open_path(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let state = self.state.lock();
        !state.cut.contains(&(from, to)) && !state.frozen.contains(&from) && !state.frozen.contains(&to)
    }

    fn delay_between(&self, from: SocketAddr, to: SocketAddr) -> Duration {
        let state = self.state.lock();
        [from, to].iter().filter_map(|end| state.delay.get(end)).sum()
    }

    /// Waits until the way is free, but not for ever.
    async fn cross(&self, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
        let mut changed = self.changed.subscribe();
        timeout(PATIENCE, changed.wait_for(|()| self.open_path(from, to)))
            .await?
            .map(|_| ())
            .map_err(io::Error::other)
    }

    /// Carries bytes from one end to the other. An error means that the stream is broken.
    async fn carry(
        &self,
        (from, to): (SocketAddr, SocketAddr),
        mut recv: impl AsyncRead + Unpin,
        mut send: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (under_way, mut arriving) = mpsc::unbounded_channel();
        let read = async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                let length = recv.read(&mut buffer).await?;
                let due = Instant::now() + self.delay_between(from, to);
                if under_way.send((due, buffer[..length].to_vec())).is_err() || length == 0 {
                    return Ok(());
                }
            }
        };
        let write = async move {
            while let Some((due, bytes)) = arriving.recv().await {
                sleep_until(due).await;
                self.cross(from, to).await?;
                if bytes.is_empty() {
                    send.shutdown().await?;
                } else {
                    send.write_all(&bytes).await?;
                }
            }
            Ok(())
        };
        tokio::try_join!(read, write).map(|_| ())
    }
}

/// One node's end.
struct End {
    network: Network,
    node: NodeId,
    addr: SocketAddr,
}

#[async_trait]
impl Link for End {
    async fn open(&self, peer: &Peer, protocol: Protocol) -> Result<Stream, LinkError> {
        let unreachable =
            |reason: &str| LinkError::Unreachable { peer: peer.clone(), reason: reason.to_owned() };
        let (port, refused) = {
            let mut state = self.network.state.lock();
            *state.opened.entry(self.addr).or_default() += 1;
            if protocol == Protocol::Gossip
                && [self.addr, peer.addr].iter().any(|end| state.mute.contains(end))
            {
                return Err(unreachable("gossip is lost"));
            }
            (state.ports.get(&peer.addr).cloned(), state.refusing.contains(&peer.addr))
        };
        let Some(port) = port else {
            if !refused {
                let _ = timeout(PATIENCE, pending::<()>()).await;
            }
            return Err(unreachable("nobody answers"));
        };
        if peer.id.as_ref().is_some_and(|id| *id != port.node) {
            return Err(unreachable("another node answers at that address"));
        }
        let accept = match protocol {
            Protocol::Gossip => port.gossip,
            Protocol::Control => port.control,
            Protocol::Blocks => return Err(unreachable("no blocks here")),
        };
        let (ours, ours_far) = duplex(WINDOW);
        let (theirs, theirs_far) = duplex(WINDOW);
        let arriving = stream(self.node.clone(), self.addr, theirs);
        let (network, here, there) = (self.network.clone(), self.addr, peer.addr);
        tokio::spawn(async move {
            let arrival = async {
                sleep(network.delay_between(here, there)).await;
                network.cross(here, there).await?;
                accept.try_send(arriving).map_err(|error| io::Error::other(error.to_string()))
            };
            let ((from_us, to_us), (from_them, to_them)) = (split(ours_far), split(theirs_far));
            let _broken = tokio::try_join!(
                arrival,
                network.carry((here, there), from_us, to_them),
                network.carry((there, here), from_them, to_us),
            );
        });
        Ok(stream(port.node, peer.addr, ours))
    }
}

fn stream(peer: NodeId, addr: SocketAddr, end: tokio::io::DuplexStream) -> Stream {
    let (recv, send) = split(end);
    Stream { peer, addr, send: Box::new(send), recv: Box::new(recv) }
}
