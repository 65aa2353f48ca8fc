//! Asks and answers the requests of [`crate::wire`], one a stream.
//!
//! Thin: reads, hands on, writes. What an answer says is decided by `Membership` and the pure modules below it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

use crate::codec::{read_frame, write_frame};
use crate::link::{Incoming, Link, LinkError, Peer, Protocol, Stream};
use crate::membership::Membership;
use crate::wire::{MAX_MESSAGE_BYTES, Reply, Request};

/// How long a peer may take to state its request once its stream is open, and as long again to take the reply.
const PEER_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests answered at once. Past that a stream is dropped, and its asker turns to somebody else.
const MAX_REQUESTS: usize = 1_024;

/// A question that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No stream.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The stream broke, or carried something else than a reply.
    #[error("{peer} did not answer: {error}")]
    Broken {
        /// Who was asked.
        peer: Peer,
        /// What happened.
        error: io::Error,
    },
    /// Nothing came in time.
    #[error("{peer} did not answer within {after:?}")]
    Silent {
        /// Who was asked.
        peer: Peer,
        /// How long was waited.
        after: Duration,
    },
}

/// Asks a peer and waits for its reply, connecting first if need be, all within `limit`.
pub(crate) async fn ask(
    link: &dyn Link,
    peer: &Peer,
    request: &Request,
    limit: Duration,
) -> Result<Reply, AskError> {
    let exchange = async {
        let mut stream = link.open(peer, Protocol::Control).await?;
        let broken = |error| AskError::Broken { peer: peer.clone(), error };
        write_frame(&mut stream.send, request).await.map_err(broken)?;
        read_frame(&mut stream.recv, MAX_MESSAGE_BYTES).await.map_err(broken)
    };
    timeout(limit, exchange)
        .await
        .unwrap_or_else(|_| Err(AskError::Silent { peer: peer.clone(), after: limit }))
}

/// Answers until the link closes.
pub(crate) async fn serve(membership: Membership, mut incoming: Incoming) {
    let slots = Arc::new(Semaphore::new(MAX_REQUESTS));
    while let Some(stream) = incoming.recv().await {
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let answering = membership.background();
        membership.spawn(async move {
            let _slot = slot;
            let peer = stream.peer.clone();
            if let Err(error) = answer(&answering, stream).await {
                debug!(%peer, %error, "a request was not answered");
            }
        });
    }
}

async fn answer(membership: &Membership, mut stream: Stream) -> io::Result<()> {
    let request = timeout(PEER_TIMEOUT, read_frame(&mut stream.recv, MAX_MESSAGE_BYTES)).await??;
    let reply = membership.reply(&stream.peer, stream.addr, request).await;
    timeout(PEER_TIMEOUT, write_frame(&mut stream.send, &reply)).await??;
    stream.send.shutdown().await
}
