//! Chitchat's messages as bytes, and back.
//!
//! Chitchat 0.13 has a `Transport` trait for carriers like ours but keeps the encoding of what they carry to itself:
//! only its own UDP socket can do it. So each codec is a pair of UDP sockets on loopback, chitchat's and ours, and a
//! message becomes bytes by being sent from one to the other. This costs some 20 us a message, and bounds one to a
//! datagram. Were the encoding public, this file would be two calls.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use chitchat::ChitchatEnvelope;
use chitchat::transport::{Socket, UdpSocket};
use tokio::time::timeout;

/// Largest message, in bytes: a UDP datagram over IPv4. A compressed digest reaches it at some 3,000 members.
pub(crate) const MAX_MESSAGE_BYTES: usize = 65_507;

/// How long a datagram may take over loopback. It is there at once unless the bytes are no message.
const CROSSING_LIMIT: Duration = Duration::from_secs(1);

/// Turns messages into bytes or bytes into messages, one at a time.
pub(crate) struct EnvelopeCodec {
    theirs: UdpSocket,
    ours: tokio::net::UdpSocket,
    ours_addr: SocketAddr,
}

impl EnvelopeCodec {
    pub(crate) async fn open() -> anyhow::Result<Self> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let theirs = UdpSocket::open(loopback).await?;
        let ours = tokio::net::UdpSocket::bind(loopback).await.context("cannot bind a loopback UDP port")?;
        // Connected, so that nobody else on this machine can slip bytes in between.
        ours.connect(theirs.local_addr()?).await?;
        let ours_addr = ours.local_addr()?;
        Ok(Self { theirs, ours, ours_addr })
    }

    pub(crate) async fn encode(&mut self, envelope: ChitchatEnvelope) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; MAX_MESSAGE_BYTES];
        self.theirs.send(self.ours_addr, envelope).await?;
        match timeout(CROSSING_LIMIT, self.ours.recv(&mut bytes)).await {
            Ok(length) => {
                bytes.truncate(length?);
                Ok(bytes)
            }
            Err(_) => self.start_afresh("a message was lost on loopback").await,
        }
    }

    pub(crate) async fn decode(&mut self, bytes: &[u8]) -> anyhow::Result<ChitchatEnvelope> {
        self.ours.send(bytes).await?;
        let arrival = async {
            loop {
                let received = self.theirs.recv().await?;
                if received.from_addr == self.ours_addr {
                    return anyhow::Ok(received.envelope);
                }
            }
        };
        match timeout(CROSSING_LIMIT, arrival).await {
            Ok(envelope) => envelope,
            Err(_) => self.start_afresh("the bytes are no chitchat message").await,
        }
    }

    /// What was given up must not turn up as the answer to the next call.
    async fn start_afresh<T>(&mut self, why: &str) -> anyhow::Result<T> {
        *self = Self::open().await?;
        bail!("{why}")
    }
}

#[cfg(test)]
mod tests {
    use chitchat::{ChitchatMessage, ProtocolVersion};

    use super::*;

    fn message() -> ChitchatEnvelope {
        ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster }
    }

    #[tokio::test]
    async fn a_message_survives_and_nonsense_does_not_disturb_the_next() {
        let mut codec = EnvelopeCodec::open().await.unwrap();
        let bytes = codec.encode(message()).await.unwrap();
        assert_eq!(codec.decode(&bytes).await.unwrap(), message());
        assert!(codec.decode(b"nonsense").await.is_err());
        assert_eq!(codec.decode(&bytes).await.unwrap(), message());
    }
}
