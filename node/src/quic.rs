//! The network: one QUIC endpoint, one connection per peer and protocol, one stream per request.
//!
//! Implements [`Link`] for what this node opens and hands out what others open. Knows certificates and streams, and
//! nothing of what they carry.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use membership::NodeId;
use membership::link::{Incoming, Link, LinkError, Peer, Protocol, Stream};
use parking_lot::{Mutex, RwLock};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, VarInt};
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Socket, Type};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::congestion::FairShares;
use crate::trust::{RENEWAL, Trust, node_of, server_name};

/// How long connecting may take. A peer on the same network answers within milliseconds; this is for lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may be silent before both sides forget it. Gossip keeps those that matter in use.
const IDLE_TIMEOUT_MS: u32 = 10_000;

/// Connections that others may have open to this node: three a member of a cluster of a thousand.
const MAX_INCOMING_CONNECTIONS: usize = 4_096;

/// Streams that one peer may have open on one connection.
const MAX_STREAMS_PER_CONNECTION: u32 = 256;

/// Streams accepted but not yet taken by whom they are for; past that their senders wait.
const BACKLOG: usize = 64;

/// Bytes under way on one stream, and on all of a connection: at 1 Gbit/s, 16 ms and 64 ms of travel. More would only
/// fill memory.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Bytes of socket buffer asked of the system, so that a burst is not dropped while this process has no CPU.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// QUIC's code for "a TLS alert follows" (RFC 9001, section 4.8); the alert is the low byte.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// The alert for "no such protocol": no version in common (RFC 7301, section 3.2).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;

/// This node's end of the network.
pub(crate) struct QuicLink {
    endpoint: Endpoint,
    clients: RwLock<BTreeMap<Protocol, quinn::ClientConfig>>,
    shares: Arc<FairShares>,
    pool: Mutex<BTreeMap<(SocketAddr, Protocol), Arc<Slot>>>,
    closed: tokio_util::sync::CancellationToken,
}

/// At most one connection, and at most one attempt to make it.
type Slot = tokio::sync::Mutex<Option<(NodeId, Connection)>>;

/// What others open, by protocol.
pub(crate) struct Streams {
    /// Gossip messages.
    pub(crate) gossip: Incoming,
    /// Requests about membership.
    pub(crate) control: Incoming,
    /// Requests for blocks and documents.
    pub(crate) blocks: Incoming,
}

impl QuicLink {
    /// Binds the UDP port and starts to accept.
    pub(crate) fn bind(listen: SocketAddr, trust: Trust) -> anyhow::Result<(Arc<Self>, Streams)> {
        let socket = bind_udp(listen).with_context(|| {
            format!(
                "cannot listen on {listen}/udp; give an address of this machine that is free with --listen ADDR:PORT"
            )
        })?;
        let shares = Arc::default();
        let (server, clients) = configs(&trust, &shares)?;
        let seed = trust.endpoint_seed();
        let mut config = EndpointConfig::new(Arc::new(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, seed)));
        // A restarted node must recognise the connection ids it gave out before, to reset those connections.
        let cid_key = u64::from_le_bytes(seed[..8].try_into().expect("eight bytes"));
        config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(cid_key)));
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new(config, Some(server), socket, runtime)?;
        let link = Arc::new(Self {
            endpoint,
            clients: RwLock::new(clients),
            shares,
            pool: Mutex::default(),
            closed: tokio_util::sync::CancellationToken::new(),
        });
        let (gossip_tx, gossip) = mpsc::channel(BACKLOG);
        let (control_tx, control) = mpsc::channel(BACKLOG);
        let (blocks_tx, blocks) = mpsc::channel(BACKLOG);
        let takers = Takers { gossip: gossip_tx, control: control_tx, blocks: blocks_tx };
        tokio::spawn(accept(link.endpoint.clone(), takers));
        tokio::spawn(link.closed.clone().run_until_cancelled_owned(link.clone().renew(trust)));
        Ok((link, Streams { gossip, control, blocks }))
    }

    /// Where it listens, with the port that the system chose if none was given.
    pub(crate) fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.endpoint.local_addr()?)
    }

    /// Closes all connections and tells the peers.
    pub(crate) async fn close(&self) {
        self.closed.cancel();
        self.endpoint.close(VarInt::from_u32(0), b"leaving");
        let _ = timeout(CONNECT_TIMEOUT, self.endpoint.wait_idle()).await;
    }

    async fn renew(self: Arc<Self>, trust: Trust) {
        loop {
            sleep(RENEWAL).await;
            match configs(&trust, &self.shares) {
                Ok((server, clients)) => {
                    self.endpoint.set_server_config(Some(server));
                    *self.clients.write() = clients;
                    debug!("renewed this node's certificate");
                }
                Err(error) => warn!("cannot renew this node's certificate: {error:#}"),
            }
        }
    }

    fn slot(&self, peer: &Peer, protocol: Protocol) -> Arc<Slot> {
        let mut pool = self.pool.lock();
        let key = (peer.addr, protocol);
        if !pool.contains_key(&key) {
            pool.retain(|_, slot| {
                let idle = slot.try_lock().is_ok_and(|connection| {
                    connection.as_ref().is_none_or(|(_, connection)| connection.close_reason().is_some())
                });
                !idle || Arc::strong_count(slot) > 1
            });
        }
        pool.entry(key).or_default().clone()
    }

    /// The connection in the pool, or a new one.
    async fn connection(&self, peer: &Peer, protocol: Protocol) -> Result<(NodeId, Connection), LinkError> {
        let slot = self.slot(peer, protocol);
        let mut slot = slot.lock().await;
        if let Some((node, connection)) = slot.as_ref() {
            let wanted = peer.id.as_ref().is_none_or(|id| id == node);
            if connection.close_reason().is_none() && wanted {
                return Ok((node.clone(), connection.clone()));
            }
        }
        let connected = timeout(CONNECT_TIMEOUT, self.connect(peer, protocol)).await;
        let (node, connection) = connected.unwrap_or_else(|_| {
            let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
            Err(LinkError::Unreachable { peer: peer.clone(), reason })
        })?;
        *slot = Some((node.clone(), connection.clone()));
        Ok((node, connection))
    }

    async fn connect(&self, peer: &Peer, protocol: Protocol) -> Result<(NodeId, Connection), LinkError> {
        let unreachable = |reason: String| LinkError::Unreachable { peer: peer.clone(), reason };
        let client = self.clients.read().get(&protocol).cloned().expect("there is one for each protocol");
        let connecting = self
            .endpoint
            .connect_with(client, peer.addr, &server_name(peer.id.as_ref()))
            .map_err(|error| unreachable(error.to_string()))?;
        let connection = connecting.await.map_err(|error| explain(peer, &error))?;
        let node = peer_node(&connection).map_err(|error| unreachable(format!("{error:#}")))?;
        Ok((node, connection))
    }
}

#[async_trait]
impl Link for QuicLink {
    async fn open(&self, peer: &Peer, protocol: Protocol) -> Result<Stream, LinkError> {
        // A connection from the pool may have died without our noticing; a new one has not.
        for _ in 0..2 {
            let (node, connection) = self.connection(peer, protocol).await?;
            match timeout(CONNECT_TIMEOUT, connection.open_bi()).await {
                Ok(Ok((send, recv))) => {
                    return Ok(Stream {
                        peer: node,
                        addr: peer.addr,
                        send: Box::new(send),
                        recv: Box::new(recv),
                    });
                }
                Ok(Err(error)) if is_refused(&error) => return Err(explain(peer, &error)),
                Ok(Err(error)) => debug!(%peer, %error, "a connection is dead; connecting again"),
                Err(_) => {
                    let reason = "it accepts no more streams".to_owned();
                    return Err(LinkError::Unreachable { peer: peer.clone(), reason });
                }
            }
        }
        Err(LinkError::Unreachable {
            peer: peer.clone(),
            reason: "connections to it break at once".to_owned(),
        })
    }
}

fn bind_udp(listen: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, None)?;
    // Best effort: the system has limits of its own.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

fn configs(
    trust: &Trust,
    shares: &Arc<FairShares>,
) -> anyhow::Result<(quinn::ServerConfig, BTreeMap<Protocol, quinn::ClientConfig>)> {
    let tls = trust.issue()?;
    let transport = Arc::new(transport(shares.clone()));
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls.server)?));
    server.transport_config(transport.clone());
    let clients = tls.clients.into_iter().map(|(protocol, tls)| {
        let mut client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        client.transport_config(transport.clone());
        Ok((protocol, client))
    });
    Ok((server, clients.collect::<anyhow::Result<_>>()?))
}

fn transport(shares: Arc<FairShares>) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS_PER_CONNECTION))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .congestion_controller_factory(shares);
    transport
}

fn peer_node(connection: &Connection) -> anyhow::Result<NodeId> {
    let identity = connection.peer_identity().context("the peer showed no certificate")?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| anyhow!("the peer's identity is no certificate"))?;
    node_of(chain.first().context("the peer showed no certificate")?)
}

/// Whether the handshake failed, which it will do again.
fn is_refused(error: &ConnectionError) -> bool {
    crypto_error(error).is_some()
}

fn crypto_error(error: &ConnectionError) -> Option<u64> {
    let code = match error {
        ConnectionError::TransportError(error) => error.code.into(),
        ConnectionError::ConnectionClosed(close) => close.error_code.into(),
        _ => return None,
    };
    CRYPTO_ERRORS.contains(&code).then_some(code)
}

fn explain(peer: &Peer, error: &ConnectionError) -> LinkError {
    let (peer, reason) = (peer.clone(), error.to_string());
    if reason.contains("not valid for name") {
        return LinkError::Unreachable { peer, reason: "another node answers at that address".to_owned() };
    }
    match crypto_error(error) {
        Some(NO_APPLICATION_PROTOCOL) => LinkError::Incompatible { peer, reason },
        Some(_) => LinkError::Untrusted { peer, reason },
        None => LinkError::Unreachable { peer, reason },
    }
}

struct Takers {
    gossip: mpsc::Sender<Stream>,
    control: mpsc::Sender<Stream>,
    blocks: mpsc::Sender<Stream>,
}

impl Takers {
    fn of(&self, alpn: Option<&[u8]>) -> Option<mpsc::Sender<Stream>> {
        let protocol = Protocol::ALL.into_iter().find(|protocol| Some(protocol.alpn()) == alpn)?;
        let taker = match protocol {
            Protocol::Gossip => &self.gossip,
            Protocol::Control => &self.control,
            Protocol::Blocks => &self.blocks,
        };
        Some(taker.clone())
    }
}

async fn accept(endpoint: Endpoint, takers: Takers) {
    let takers = Arc::new(takers);
    while let Some(incoming) = endpoint.accept().await {
        if endpoint.open_connections() > MAX_INCOMING_CONNECTIONS {
            incoming.refuse();
            continue;
        }
        let takers = takers.clone();
        let from = incoming.remote_address();
        tokio::spawn(async move {
            let connected = async { anyhow::Ok(timeout(CONNECT_TIMEOUT, incoming.accept()?).await??) };
            match connected.await {
                Ok(connection) => take_streams(connection, &takers).await,
                Err(error) => tell_refused(from, &error),
            }
        });
    }
}

fn tell_refused(from: SocketAddr, error: &anyhow::Error) {
    match error.downcast_ref::<ConnectionError>().and_then(crypto_error) {
        Some(NO_APPLICATION_PROTOCOL) => {
            info!(%from, "refused a connection: the peer speaks another version of the protocol ({error:#})");
        }
        Some(_) => {
            info!(%from, "refused a connection: the peer has another cluster secret or name ({error:#})");
        }
        None => debug!(%from, "a connection was not made: {error:#}"),
    }
}

async fn take_streams(connection: Connection, takers: &Takers) {
    let handshake = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let alpn = handshake.and_then(|handshake| handshake.protocol);
    let (Some(taker), Ok(peer)) = (takers.of(alpn.as_deref()), peer_node(&connection)) else {
        connection.close(VarInt::from_u32(1), b"no such protocol, or no node in the certificate");
        return;
    };
    while let Ok((send, recv)) = connection.accept_bi().await {
        let addr = connection.remote_address();
        let stream = Stream { peer: peer.clone(), addr, send: Box::new(send), recv: Box::new(recv) };
        if taker.send(stream).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Secret;

    fn bind(name: &str, secret: &Secret) -> (Arc<QuicLink>, Streams) {
        let trust = Trust::new(name.parse().unwrap(), "test", Some(secret)).unwrap();
        QuicLink::bind(([127, 0, 0, 1], 0).into(), trust).unwrap()
    }

    /// The trust of a node whose protocols all have another number.
    fn of_the_future(secret: &Secret) -> BTreeMap<Protocol, quinn::ClientConfig> {
        let trust = Trust::new("n2".parse().unwrap(), "test", Some(secret)).unwrap();
        let clients = trust.issue().unwrap().clients.into_iter().map(|(protocol, mut tls)| {
            tls.alpn_protocols = vec![[protocol.alpn(), b"0"].concat()];
            (protocol, quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())))
        });
        clients.collect()
    }

    #[tokio::test]
    async fn a_peer_of_another_version_is_told_from_one_of_another_cluster() {
        let secret = Secret::generate();
        let (server, _streams) = bind("n1", &secret);
        let peer = Peer::any(server.local_addr().unwrap());
        let (stranger, _streams) = bind("n2", &Secret::generate());
        let (future, _streams) = bind("n2", &secret);
        future.open(&peer, Protocol::Control).await.unwrap();
        *future.clients.write() = of_the_future(&secret);
        for protocol in Protocol::ALL {
            let untrusted = stranger.open(&peer, protocol).await.unwrap_err();
            assert!(matches!(untrusted, LinkError::Untrusted { .. }), "{untrusted}");
        }
        for protocol in [Protocol::Gossip, Protocol::Blocks] {
            let incompatible = future.open(&peer, protocol).await.unwrap_err();
            assert!(matches!(incompatible, LinkError::Incompatible { .. }), "{incompatible}");
        }
    }
}
