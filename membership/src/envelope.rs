//! Chitchat's messages as bytes, and back.
//!
//! Chitchat 0.13 has a `Transport` trait for carriers like ours but keeps the encoding of what they carry to itself:
//! only its own UDP socket can do it. So each codec is a pair of UDP sockets on loopback, chitchat's and ours, and a
//! message becomes bytes by being sent from one to the other. This costs some 20 us a message, and bounds one to a
//! datagram. Were the encoding public, this file would be two calls.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use chitchat::transport::{Socket, UdpSocket};
use chitchat::{ChitchatEnvelope, ChitchatMessage, ProtocolVersion};
use tokio::time::timeout;

/// Largest message, in bytes: a UDP datagram over IPv4. A compressed digest reaches it at some 3,000 members.
pub(crate) const MAX_MESSAGE_BYTES: usize = 65_507;

/// How long a datagram may take over loopback. It is there at once, and is not lost unless the machine is in distress.
const CROSSING_LIMIT: Duration = Duration::from_secs(1);

/// Turns messages into bytes or bytes into messages, one at a time.
pub(crate) struct EnvelopeCodec {
    theirs: UdpSocket,
    ours: tokio::net::UdpSocket,
    ours_addr: SocketAddr,
    /// Rung after each message for chitchat's socket, which keeps bytes to itself that are no message.
    bell: tokio::net::UdpSocket,
    bell_addr: SocketAddr,
    /// The sound of the bell: some message.
    ring: Vec<u8>,
    buffer: Vec<u8>,
}

impl EnvelopeCodec {
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let mut codec = Self::with_ring(Vec::new()).await?;
        codec.ring = codec.encode(any_message()).await?;
        Ok(codec)
    }

    async fn with_ring(ring: Vec<u8>) -> anyhow::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let theirs = UdpSocket::open(loopback).await?;
        let [ours, bell] = [connected(&theirs).await?, connected(&theirs).await?];
        let (ours_addr, bell_addr) = (ours.local_addr()?, bell.local_addr()?);
        let buffer = vec![0; MAX_MESSAGE_BYTES];
        Ok(Self { theirs, ours, ours_addr, bell, bell_addr, ring, buffer })
    }

    pub(crate) async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Vec<u8>> {
        self.theirs.send(self.ours_addr, envelope).await?;
        match timeout(CROSSING_LIMIT, self.ours.recv(&mut self.buffer)).await {
            Ok(length) => Ok(self.buffer[..length?].to_vec()),
            Err(_) => self.start_afresh().await,
        }
    }

    pub(crate) async fn decode(&mut self, bytes: &[u8]) -> anyhow::Result<ChitchatEnvelope> {
        self.ours.send(bytes).await?;
        self.bell.send(&self.ring).await?;
        let arrival = async {
            let mut envelope = None;
            loop {
                let received = self.theirs.recv().await?;
                if received.from_addr == self.ours_addr {
                    envelope = Some(received.envelope);
                } else if received.from_addr == self.bell_addr {
                    return anyhow::Ok(envelope);
                }
            }
        };
        match timeout(CROSSING_LIMIT, arrival).await {
            Ok(envelope) => envelope?.context("the bytes are no chitchat message"),
            Err(_) => self.start_afresh().await,
        }
    }

    /// What was given up must not turn up as the answer to the next call.
    async fn start_afresh<T>(&mut self) -> anyhow::Result<T> {
        *self = Self::with_ring(std::mem::take(&mut self.ring)).await?;
        bail!("a message was lost on loopback")
    }
}

fn any_message() -> ChitchatEnvelope {
    ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster }
}

/// A socket that talks to `theirs` alone, so that nobody else on this machine can slip bytes in between.
async fn connected(theirs: &UdpSocket) -> anyhow::Result<tokio::net::UdpSocket> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = tokio::net::UdpSocket::bind(loopback).await.context("cannot bind a loopback UDP port")?;
    socket.connect(theirs.local_addr()?).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_message_survives_and_nonsense_does_not_disturb_the_next() {
        let mut codec = EnvelopeCodec::open().await.unwrap();
        let bytes = codec.encode(any_message()).await.unwrap();
        assert_eq!(codec.decode(&bytes).await.unwrap(), any_message());
        let started = Instant::now();
        for nonsense in [&b"nonsense"[..], b"", &[0; MAX_MESSAGE_BYTES]] {
            assert!(codec.decode(nonsense).await.is_err());
        }
        assert!(started.elapsed() < CROSSING_LIMIT, "nonsense must not hold up the next message");
        assert_eq!(codec.decode(&bytes).await.unwrap(), any_message());
    }
}
