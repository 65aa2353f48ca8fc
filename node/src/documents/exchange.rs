//! One question to another member about a document, and the answer to one.
//!
//! While the member that was asked waits for the origin it says so again and again: so a member that hangs is told within
//! seconds from an origin that is slow, and only the first is a reason to ask somebody else.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use membership::codec::{MAX_FRAME_BYTES, read_frame, write_frame};
use membership::link::{Link, Peer, Protocol, Stream};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use transfer::digest::Digest;
use transfer::manifest::Document;
use transfer::reference::Reference;
use transfer::wire::{DocumentReply, DocumentRequest, Fresh, Request};

use crate::error::Error;

/// How often a member that waits says that it is still there.
const STILL_HERE: Duration = Duration::from_millis(500);

/// How long a member may be silent, connecting included, before somebody else is asked. Several times [`STILL_HERE`], for
/// machines that are busy.
pub(super) const SILENCE_LIMIT: Duration = Duration::from_secs(3);

/// What a member answered.
#[derive(Debug)]
pub(super) enum Said {
    /// Here it is.
    Found {
        document: Document,
        stale: bool,
        /// How old the answer was when the question came in.
        age: Duration,
    },
    /// It has none, for this reason.
    Refused(Error),
}

/// Asks `peer` and waits at most `limit`. The error says why there is no answer to go by.
pub(super) async fn ask(
    link: &dyn Link,
    peer: &Peer,
    reference: &Reference,
    fresh: Fresh,
    limit: Duration,
) -> Result<Said, String> {
    let request = Request::Document(DocumentRequest { reference: reference.clone(), fresh });
    let exchange = async {
        let mut stream = timeout(SILENCE_LIMIT, async {
            let mut stream = link.open(peer, Protocol::Blocks).await.map_err(|error| error.to_string())?;
            write_frame(&mut stream.send, &request).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(stream)
        })
        .await
        .map_err(|_| silent())??;
        loop {
            let reply = timeout(SILENCE_LIMIT, read_frame(&mut stream.recv, MAX_FRAME_BYTES)).await;
            match reply.map_err(|_| silent())?.map_err(|error| error.to_string())? {
                DocumentReply::Waiting => {}
                reply => return read(reference, reply),
            }
        }
    };
    timeout(limit, exchange).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

fn silent() -> String {
    format!("silent for {SILENCE_LIMIT:?}")
}

fn read(reference: &Reference, reply: DocumentReply) -> Result<Said, String> {
    let error = match reply {
        DocumentReply::Found { media_type, bytes, stale, age_ms } => {
            let bytes = Bytes::from(bytes);
            let document = Document { media_type, digest: Digest::of(&bytes), bytes };
            if reference.digest().is_some_and(|wanted| wanted != document.digest) {
                return Err(format!("it sent a document of another digest, {}", document.digest));
            }
            return Ok(Said::Found { document, stale, age: Duration::from_millis(age_ms) });
        }
        DocumentReply::Waiting => return Err("it waits".to_owned()),
        DocumentReply::NotFound(text) => Error::NotFound(text),
        DocumentReply::Invalid(text) => Error::Invalid(text),
        DocumentReply::Denied(text) => Error::Denied(text),
        DocumentReply::Unavailable(text) => Error::Unavailable(text),
    };
    Ok(Said::Refused(error))
}

/// Answers on `stream` with `reply`, and says that it is still here until that is there.
pub(super) async fn answer(mut stream: Stream, reply: impl Future<Output = DocumentReply>) -> io::Result<()> {
    tokio::pin!(reply);
    let reply = loop {
        match timeout(STILL_HERE, &mut reply).await {
            Ok(reply) => break reply,
            Err(_) => write_frame(&mut stream.send, &DocumentReply::Waiting).await?,
        }
    };
    write_frame(&mut stream.send, &reply).await?;
    stream.send.shutdown().await
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use membership::link::LinkError;
    use tokio::io::{duplex, split};
    use tokio::sync::mpsc;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// A link to one member, whose end of each stream comes out here.
    struct OneMember(mpsc::UnboundedSender<Stream>);

    #[async_trait]
    impl Link for OneMember {
        async fn open(&self, peer: &Peer, _: Protocol) -> Result<Stream, LinkError> {
            let (ours, theirs) = duplex(64 * 1024);
            let stream = |end| {
                let (recv, send) = split(end);
                let peer = "n1".parse().unwrap();
                Stream { peer, addr: ([127, 0, 0, 1], 1).into(), send: Box::new(send), recv: Box::new(recv) }
            };
            let _ = self.0.send(stream(theirs));
            assert!(peer.id.is_some());
            Ok(stream(ours))
        }
    }

    /// Asks a member that does `what` with the question, and says what came of it after how long.
    async fn asked<F: Future<Output = ()> + Send + 'static>(
        what: impl FnOnce(Stream) -> F,
    ) -> (Result<Said, String>, Duration) {
        let (link, mut streams) = mpsc::unbounded_channel();
        let peer = Peer::node("n1".parse().unwrap(), ([127, 0, 0, 1], 1).into());
        let (reference, link) = ("registry.example/app:v1".parse().unwrap(), OneMember(link));
        let started = Instant::now();
        let asking = ask(&link, &peer, &reference, Fresh::Now, Duration::from_secs(12));
        let member = async {
            let mut stream: Stream = streams.recv().await.unwrap();
            let request: Request = read_frame(&mut stream.recv, 1000).await.unwrap();
            assert!(matches!(request, Request::Document(DocumentRequest { fresh: Fresh::Now, .. })));
            tokio::spawn(what(stream));
        };
        let (said, ()) = tokio::join!(asking, member);
        (said, started.elapsed())
    }

    fn found() -> DocumentReply {
        DocumentReply::Found { media_type: "x".into(), bytes: b"x".to_vec(), stale: true, age_ms: 7 }
    }

    async fn reply_after(seconds: u64) -> DocumentReply {
        sleep(Duration::from_secs(seconds)).await;
        found()
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_waits_is_waited_for() {
        let (said, after) = asked(|stream| async { answer(stream, reply_after(9)).await.unwrap() }).await;
        let Ok(Said::Found { document, stale: true, age }) = said else { panic!("{said:?}") };
        assert_eq!((document.digest, age), (Digest::of(b"x"), Duration::from_millis(7)));
        assert_eq!(after, Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_hangs_is_given_up_soon_and_one_that_waits_for_ever_in_the_end() {
        let (said, after) = asked(|stream| async {
            let _hanging = stream;
            sleep(Duration::from_secs(1_000)).await;
        })
        .await;
        assert!(said.unwrap_err().contains("silent"));
        assert_eq!(after, SILENCE_LIMIT);
        let (said, after) = asked(|stream| async { _ = answer(stream, reply_after(1_000)).await }).await;
        assert!(said.unwrap_err().contains("no answer within"));
        assert_eq!(after, Duration::from_secs(12));
        let (said, after) = asked(|stream| async { drop(stream) }).await;
        assert!(said.is_err());
        assert_eq!(after, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_keep_their_kind() {
        let text = || "because".to_owned();
        let rows = [
            (DocumentReply::NotFound(text()), Error::NotFound(text())),
            (DocumentReply::Invalid(text()), Error::Invalid(text())),
            (DocumentReply::Denied(text()), Error::Denied(text())),
            (DocumentReply::Unavailable(text()), Error::Unavailable(text())),
        ];
        for (reply, expected) in rows {
            assert_eq!(DocumentReply::from(expected.clone()), reply);
            let (said, _) = asked(|stream| async { answer(stream, async { reply }).await.unwrap() }).await;
            let Ok(Said::Refused(error)) = said else { panic!("{said:?}") };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_document_of_another_digest_is_no_answer() {
        let named = |digest: Digest| format!("registry.example/app@{digest}").parse().unwrap();
        assert!(read(&named(Digest::of(b"x")), found()).is_ok());
        assert!(read(&named(Digest::of(b"y")), found()).is_err());
    }
}
