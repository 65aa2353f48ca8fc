//! Carries chitchat's messages over the node's own link, one stream a message.
//!
//! So gossip is encrypted and authenticated like all else, and needs no port of its own. Knows nothing of what the
//! messages say.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use chitchat::ChitchatEnvelope;
use chitchat::transport::{RecvOutcome, SendOutcome, Socket, Transport};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use crate::counters::Messages;
use crate::envelope::{EnvelopeCodec, MAX_MESSAGE_BYTES};
use crate::link::{Incoming, Link, Peer, Protocol, Stream};

/// Messages kept for one destination that is slow to take them. Gossip repeats itself, so old ones are dropped first.
const OUTBOX_PER_PEER: usize = 8;

/// Destinations with an outbox at once; a round talks to five at most, and slow ones linger for [`SEND_TIMEOUT`].
const MAX_OUTBOXES: usize = 1_024;

/// How long one message may take, connecting included. Past that the destination is down or as good as down.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// Messages read but not yet handled, before new ones are dropped.
const INBOX: usize = 256;

/// Messages being read at once, each up to [`MAX_MESSAGE_BYTES`].
const MAX_READERS: usize = 64;

/// A [`Transport`] that can be opened once, over one link.
pub(crate) struct LinkTransport {
    link: Arc<dyn Link>,
    local_addr: SocketAddr,
    incoming: Mutex<Option<Incoming>>,
    messages: Arc<Messages>,
}

impl LinkTransport {
    /// Sends over `link`, of which this node's end is known to others as `local_addr`; receives from `incoming`.
    pub(crate) fn new(link: Arc<dyn Link>, local_addr: SocketAddr, incoming: Incoming) -> Self {
        Self { link, local_addr, incoming: Mutex::new(Some(incoming)), messages: Arc::default() }
    }

    /// What becomes of the messages that it sends.
    pub(crate) fn messages(&self) -> Arc<Messages> {
        self.messages.clone()
    }
}

#[async_trait]
impl Transport for LinkTransport {
    async fn open(&self, _listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let incoming = self.incoming.lock().take().context("the gossip transport is open already")?;
        let (bytes_tx, bytes) = mpsc::channel(INBOX);
        let (inbox_tx, inbox) = mpsc::channel(1);
        let closed = CancellationToken::new();
        let decoder = EnvelopeCodec::open().await?;
        tokio::spawn(closed.clone().run_until_cancelled_owned(receive(incoming, bytes_tx)));
        tokio::spawn(closed.clone().run_until_cancelled_owned(decode(decoder, bytes, inbox_tx)));
        Ok(Box::new(LinkSocket {
            link: self.link.clone(),
            local_addr: self.local_addr,
            encoder: EnvelopeCodec::open().await?,
            outboxes: Arc::default(),
            messages: self.messages.clone(),
            inbox,
            _close: closed.clone().drop_guard(),
            closed,
        }))
    }
}

struct LinkSocket {
    link: Arc<dyn Link>,
    local_addr: SocketAddr,
    encoder: EnvelopeCodec,
    /// A destination is in here while a task of its own sends to it.
    outboxes: Arc<Mutex<BTreeMap<SocketAddr, VecDeque<Vec<u8>>>>>,
    messages: Arc<Messages>,
    inbox: mpsc::Receiver<RecvOutcome>,
    /// Ends the tasks that send and receive.
    closed: CancellationToken,
    _close: DropGuard,
}

#[async_trait]
impl Socket for LinkSocket {
    fn local_addr(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.local_addr)
    }

    /// Never waits for the network: chitchat calls this inside its loop.
    async fn send(&mut self, to: SocketAddr, envelope: ChitchatEnvelope) -> anyhow::Result<SendOutcome> {
        let bytes = match self.encoder.encode(envelope).await {
            Ok(bytes) => bytes,
            Err(error) => {
                // An error from here would end chitchat for good; a message that is not sent is sent next round.
                warn!(%to, "a gossip message was not encoded: {error:#}");
                self.messages.failed();
                return Ok(SendOutcome { num_bytes_sent: 0 });
            }
        };
        let num_bytes_sent = bytes.len();
        let mut outboxes = self.outboxes.lock();
        if let Some(outbox) = outboxes.get_mut(&to) {
            outbox.push_back(bytes);
            if outbox.len() > OUTBOX_PER_PEER {
                outbox.pop_front();
                self.messages.dropped();
            }
        } else if outboxes.len() < MAX_OUTBOXES {
            outboxes.insert(to, VecDeque::from([bytes]));
            let drain = drain(self.link.clone(), to, self.outboxes.clone(), self.messages.clone());
            tokio::spawn(self.closed.clone().run_until_cancelled_owned(drain));
        } else {
            self.messages.dropped();
        }
        Ok(SendOutcome { num_bytes_sent })
    }

    async fn recv(&mut self) -> anyhow::Result<RecvOutcome> {
        self.inbox.recv().await.context("the link is closed")
    }
}

/// Sends what is in one destination's outbox until it is empty.
async fn drain(
    link: Arc<dyn Link>,
    to: SocketAddr,
    outboxes: Arc<Mutex<BTreeMap<SocketAddr, VecDeque<Vec<u8>>>>>,
    messages: Arc<Messages>,
) {
    loop {
        let message = {
            let mut outboxes = outboxes.lock();
            let Some(message) = outboxes.get_mut(&to).and_then(VecDeque::pop_front) else {
                outboxes.remove(&to);
                return;
            };
            message
        };
        let sent = timeout(SEND_TIMEOUT, send_one(link.as_ref(), to, &message)).await;
        match sent.unwrap_or_else(|_| Err(anyhow!("timed out"))) {
            Ok(()) => messages.sent(),
            Err(error) => {
                debug!(%to, %error, "a gossip message was not sent");
                messages.failed();
            }
        }
    }
}

async fn send_one(link: &dyn Link, to: SocketAddr, message: &[u8]) -> anyhow::Result<()> {
    let mut stream = link.open(&Peer::any(to), Protocol::Gossip).await?;
    stream.send.write_all(message).await?;
    stream.send.shutdown().await?;
    // The end of the other half says that it was read; without it the stream could be cancelled under way.
    stream.recv.take(1).read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn receive(mut incoming: Incoming, inbox: mpsc::Sender<(SocketAddr, Vec<u8>)>) {
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    while let Some(stream) = incoming.recv().await {
        // Over the limit, the message is dropped by dropping its stream: gossip repeats itself.
        let Ok(permit) = readers.clone().try_acquire_owned() else { continue };
        let inbox = inbox.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let Stream { peer, addr, mut recv, mut send } = stream;
            let mut bytes = Vec::new();
            let mut limited = (&mut recv).take(MAX_MESSAGE_BYTES as u64 + 1);
            let read = timeout(SEND_TIMEOUT, limited.read_to_end(&mut bytes)).await;
            match read {
                Ok(Ok(_)) if bytes.len() <= MAX_MESSAGE_BYTES => {
                    let _ = send.shutdown().await;
                    if inbox.try_send((addr, bytes)).is_err() {
                        debug!(%peer, "dropped a gossip message: too many are waiting");
                    }
                }
                Ok(Ok(_)) => debug!(%peer, "dropped a gossip message over {MAX_MESSAGE_BYTES} bytes"),
                Ok(Err(error)) => debug!(%peer, %error, "a gossip message broke off"),
                Err(_) => debug!(%peer, "a gossip message took too long"),
            }
        });
    }
}

async fn decode(
    mut decoder: EnvelopeCodec,
    mut bytes: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    inbox: mpsc::Sender<RecvOutcome>,
) {
    while let Some((from_addr, bytes)) = bytes.recv().await {
        match decoder.decode(&bytes).await {
            Ok(envelope) => {
                let received = RecvOutcome { from_addr, envelope, num_bytes_received: bytes.len() };
                if inbox.send(received).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(%from_addr, "dropped a gossip message: {error:#}"),
        }
    }
}
