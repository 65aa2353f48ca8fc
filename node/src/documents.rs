//! Manifests and indexes: what a name stands for, asked of the origin once for the whole cluster.
//!
//! The rendezvous member for a name asks the origin, once per [`TAG_TTL`], and everybody else asks that member. What
//! is named by digest never changes and is kept for good. When the origin is down the last known version is served
//! and marked stale; it is looked for on the members next in line, too.
//!
//! Kept below the data directory: `documents/<hex>`, the media type on a line of its own before the bytes, and
//! `tags/<hash of the name>`, what a tag stood for when.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use membership::clock::WallClock;
use membership::codec::{MAX_FRAME_BYTES, read_frame, write_frame};
use membership::link::{Link, Peer, Protocol};
use membership::{FunctionId, Membership, rendezvous};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{debug, info, warn};
use transfer::digest::Digest;
use transfer::manifest::Document;
use transfer::origin::{Origin, OriginError};
use transfer::reference::{Reference, Selector};
use transfer::wire::{DocumentReply, DocumentRequest, Request};

use crate::error::Error;
use crate::origins::Origins;

/// How long a tag stands for the same digest before the origin is asked again.
const TAG_TTL: Duration = Duration::from_secs(10);

/// How long a member may take to ask the origin for us. Covers its retries.
const ASK_TIMEOUT: Duration = Duration::from_secs(40);

/// How long a member may take to answer from what it holds.
const HELD_TIMEOUT: Duration = Duration::from_secs(2);

/// How many members are asked for what they hold when the origin is down.
const HOLDERS_ASKED: usize = 6;

/// A document, and whether it is the last known one because the origin could not be asked.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) document: Document,
    pub(crate) stale: bool,
}

/// The documents of one node.
pub(crate) struct Documents {
    root: PathBuf,
    membership: Membership,
    link: Arc<dyn Link>,
    origins: Arc<Origins>,
    clock: WallClock,
    /// Names being asked for, so that many callers make one request.
    flights: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a tag stood for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct TagRecord {
    reference: Reference,
    digest: Digest,
    checked_ms: u64,
}

impl Documents {
    pub(crate) fn open(
        root: &Path,
        membership: Membership,
        link: Arc<dyn Link>,
        origins: Arc<Origins>,
    ) -> anyhow::Result<Self> {
        for folder in ["documents", "tags"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        let clock = membership.config().clock;
        Ok(Self { root: root.to_owned(), membership, link, origins, clock, flights: Mutex::default() })
    }

    /// The document that `reference` names, from wherever it is nearest.
    pub(crate) async fn get(&self, reference: &Reference) -> Result<Found, Error> {
        if let Some(found) = self.fresh(reference) {
            return Ok(found);
        }
        let name = reference.to_string();
        let flight = self.flights.lock().entry(name.clone()).or_default().clone();
        let _flight = flight.lock().await;
        let result = match self.fresh(reference) {
            Some(found) => Ok(found),
            None => self.ask(reference).await,
        };
        self.flights.lock().retain(|other, flight| *other != name || Arc::strong_count(flight) > 2);
        result
    }

    async fn ask(&self, reference: &Reference) -> Result<Found, Error> {
        for peer in self.in_line(reference).into_iter().take(2) {
            if peer.id.as_ref() == Some(&self.membership.config().node) {
                break;
            }
            match self.ask_peer(&peer, reference, true, ASK_TIMEOUT).await {
                Ok(Some(found)) => {
                    self.keep(reference, &found);
                    return Ok(found);
                }
                Ok(None) => debug!(%peer, %reference, "a member could not ask the origin for us"),
                Err(error @ Error::Unavailable(_)) => debug!(%peer, %error, "asking the next in line"),
                Err(error) => return Err(error),
            }
        }
        self.ask_origin(reference).await
    }

    /// Asks the origin, or failing that whoever holds the last known version. What the rendezvous member does.
    async fn ask_origin(&self, reference: &Reference) -> Result<Found, Error> {
        let origin = self.origins.get(reference.registry())?;
        match self.read_origin(origin.as_ref(), reference).await {
            Ok(document) => {
                let found = Found { document, stale: false };
                self.keep(reference, &found);
                Ok(found)
            }
            Err(error) if reference.digest().is_none() && !error.is_transient() => Err(error.into()),
            Err(error) => match self.last_known(reference).await {
                Some(document) => {
                    warn!(%reference, %error, digest = %document.digest, "serving the last known version");
                    Ok(Found { document, stale: reference.digest().is_none() })
                }
                None => Err(error.into()),
            },
        }
    }

    async fn read_origin(&self, origin: &dyn Origin, reference: &Reference) -> Result<Document, OriginError> {
        let (repository, selector) = (reference.repository(), reference.selector());
        let known = self.tag(reference).and_then(|record| self.held(&record.digest));
        if let Some(known) = known
            && origin.head(repository, &selector).await? == known.digest
        {
            return Ok(known);
        }
        info!(%reference, "reading a manifest from the origin");
        origin.manifest(repository, &selector).await
    }

    async fn last_known(&self, reference: &Reference) -> Option<Document> {
        if let Some(found) = self.held_for(reference) {
            return Some(found);
        }
        let mut holders = self.in_line(reference);
        if let Some(digest) = reference.digest() {
            let contacts = self.membership.participants(&FunctionId::from(digest));
            holders.splice(
                0..0,
                contacts.into_iter().map(|c| Peer::node(c.node, c.addr)).take(HOLDERS_ASKED / 2),
            );
        }
        holders.retain(|peer| peer.id.as_ref() != Some(&self.membership.config().node));
        for peer in holders.into_iter().take(HOLDERS_ASKED) {
            if let Ok(Some(found)) = self.ask_peer(&peer, reference, false, HELD_TIMEOUT).await {
                self.keep(reference, &found);
                return Some(found.document);
            }
        }
        None
    }

    /// The members in the order in which they are responsible for a name.
    fn in_line(&self, reference: &Reference) -> Vec<Peer> {
        let view = self.membership.view().borrow().clone();
        let alive: Vec<_> = view.alive().collect();
        let name = reference.to_string();
        let order = rendezvous::order(name.as_bytes(), alive.iter().map(|member| &member.node));
        let members = order.into_iter().filter_map(|node| view.get(node));
        members.map(|member| Peer::node(member.node.clone(), member.addr)).collect()
    }

    async fn ask_peer(
        &self,
        peer: &Peer,
        reference: &Reference,
        ask_origin: bool,
        limit: Duration,
    ) -> Result<Option<Found>, Error> {
        let request = Request::Document(DocumentRequest { reference: reference.clone(), ask_origin });
        let exchange = async {
            let mut stream = self.link.open(peer, Protocol::Blocks).await?;
            write_frame(&mut stream.send, &request).await?;
            anyhow::Ok(read_frame::<DocumentReply>(&mut stream.recv, MAX_FRAME_BYTES).await?)
        };
        let reply = match timeout(limit, exchange).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(Error::Unavailable(format!("{peer}: {error:#}"))),
            Err(_) => return Err(Error::Unavailable(format!("{peer} did not answer in time"))),
        };
        match reply {
            DocumentReply::Found { media_type, bytes, stale } => {
                let bytes = Bytes::from(bytes);
                let document = Document { media_type, digest: Digest::of(&bytes), bytes };
                if reference.digest().is_some_and(|wanted| wanted != document.digest) {
                    warn!(%peer, %reference, "a member sent a document of another digest");
                    return Ok(None);
                }
                Ok(Some(Found { document, stale }))
            }
            DocumentReply::NotFound(text) => Err(Error::NotFound(text)),
            DocumentReply::Denied(text) => Err(Error::Denied(text)),
            DocumentReply::Unavailable(text) => Err(Error::Unavailable(text)),
        }
    }

    /// Answers another node.
    pub(crate) async fn answer(&self, request: &DocumentRequest) -> DocumentReply {
        let reference = &request.reference;
        let found = match (self.fresh(reference), request.ask_origin) {
            (Some(found), _) => Ok(found),
            (None, true) => self.answer_from_origin(reference).await,
            (None, false) => self
                .held_for(reference)
                .map(|document| Found { document, stale: reference.digest().is_none() })
                .ok_or_else(|| Error::Unavailable(format!("{reference} is not held here"))),
        };
        match found {
            Ok(Found { document, stale }) => DocumentReply::Found {
                media_type: document.media_type,
                bytes: document.bytes.to_vec(),
                stale,
            },
            Err(error) => error.into(),
        }
    }

    async fn answer_from_origin(&self, reference: &Reference) -> Result<Found, Error> {
        // In a flight of its own kind: two members that each believe the other to be first must not wait in a circle.
        let name = format!("origin {reference}");
        let flight = self.flights.lock().entry(name.clone()).or_default().clone();
        let _flight = flight.lock().await;
        let result = match self.fresh(reference) {
            Some(found) => Ok(found),
            None => self.ask_origin(reference).await,
        };
        self.flights.lock().retain(|other, flight| *other != name || Arc::strong_count(flight) > 2);
        result
    }

    // What is kept.

    /// What is held and known to be current: named by digest, or a tag that was checked within its TTL.
    fn fresh(&self, reference: &Reference) -> Option<Found> {
        let current = match reference.selector() {
            Selector::Digest(digest) => digest,
            Selector::Tag(_) => {
                let record = self.tag(reference)?;
                let age = self.clock.now_ms().checked_sub(record.checked_ms)?;
                (Duration::from_millis(age) < TAG_TTL).then_some(record.digest)?
            }
        };
        Some(Found { document: self.held(&current)?, stale: false })
    }

    /// What is held under that name, however old.
    fn held_for(&self, reference: &Reference) -> Option<Document> {
        match reference.selector() {
            Selector::Digest(digest) => self.held(&digest),
            Selector::Tag(_) => self.held(&self.tag(reference)?.digest),
        }
    }

    /// What is held under that digest.
    pub(crate) fn held(&self, digest: &Digest) -> Option<Document> {
        let file = fs::read(self.document_path(digest)).ok()?;
        let end = file.iter().position(|byte| *byte == b'\n')?;
        let media_type = String::from_utf8(file[..end].to_vec()).ok()?;
        let bytes = Bytes::from(file).slice(end + 1..);
        (Digest::of(&bytes) == *digest).then_some(Document { media_type, digest: *digest, bytes })
    }

    fn tag(&self, reference: &Reference) -> Option<TagRecord> {
        let record: TagRecord = serde_json::from_slice(&fs::read(self.tag_path(reference)).ok()?).ok()?;
        (record.reference == *reference).then_some(record)
    }

    /// Keeps a document and, unless it is stale, what its tag stands for. A disk that is full costs only the memory of it.
    fn keep(&self, reference: &Reference, found: &Found) {
        let document = &found.document;
        let bytes = [document.media_type.as_bytes(), b"\n", &document.bytes].concat();
        let mut kept = write_whole(&self.document_path(&document.digest), &bytes);
        if reference.digest().is_none() {
            let checked_ms = if found.stale { 0 } else { self.clock.now_ms() };
            let record = TagRecord { reference: reference.clone(), digest: document.digest, checked_ms };
            let json = serde_json::to_vec(&record).unwrap_or_default();
            kept = kept.and_then(|()| write_whole(&self.tag_path(reference), &json));
        }
        if let Err(error) = kept {
            warn!(%reference, %error, "cannot keep a manifest on disk");
        }
    }

    fn document_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("documents").join(digest.hex())
    }

    fn tag_path(&self, reference: &Reference) -> PathBuf {
        let hash = Digest::of(reference.to_string().as_bytes());
        self.root.join("tags").join(hash.hex())
    }
}

/// Writes a file so that it is there as a whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let suffix: u64 = rand::random();
    let beside = path.with_extension(format!("{suffix:016x}.tmp"));
    fs::write(&beside, bytes)?;
    fs::rename(&beside, path)
}
