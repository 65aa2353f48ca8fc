//! Manifests and indexes: what a name stands for, asked of the origin once for the whole cluster.
//!
//! The rendezvous member for a name asks the origin, once per TTL of its tags, and everybody else asks that member. What is
//! named by digest never changes, is kept for good and asked for once. When the origin is down the last known version is
//! served and marked stale; it is looked for on the members next in line, too.
//!
//! [`freshness`] decides what may be believed for how long; [`shelf`] keeps, [`flights`] joins callers, [`exchange`] asks
//! other members.

mod exchange;
mod flights;
mod freshness;
mod shelf;

use std::future::pending;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use membership::link::{Link, Peer, Stream};
use membership::{FunctionId, Membership, rendezvous};
use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use transfer::digest::Digest;
use transfer::manifest::Document;
use transfer::origin::pause::Pause;
use transfer::origin::{Origin, OriginError};
use transfer::reference::Reference;
use transfer::wire::{DocumentReply, DocumentRequest, Fresh};

use crate::error::Error;
use crate::origins::Origins;
use exchange::{SILENCE_LIMIT, Said};
use flights::Flights;
use freshness::{Answer, Heard, Lately};
use shelf::Shelf;

/// How long a question about one document may take in all, whoever hangs: two members that are silent, the origin, and
/// those who may hold the last known version, with a little to spare. Clients of the mirror wait at least 30 s.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an origin may take, its retries included. A manifest is a few kilobytes; what is not there by then is taken from
/// whoever holds it.
const ORIGIN_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest pause of an origin that is waited out although there is a last known version to serve: a fresh answer is worth
/// that. Where nothing is known, [`ORIGIN_TIMEOUT`].
const PAUSE_PATIENCE: Duration = Duration::from_secs(2);

/// How long members may take to answer from what they hold. They are asked at the same time.
const HELD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a member may take to ask the origin for us.
const MEMBER_TIMEOUT: Duration = Duration::from_secs(12);

const _: () = assert!(
    2 * SILENCE_LIMIT.as_secs() + ORIGIN_TIMEOUT.as_secs() + HELD_TIMEOUT.as_secs() <= ASK_TIMEOUT.as_secs()
        && ORIGIN_TIMEOUT.as_secs() + HELD_TIMEOUT.as_secs() < MEMBER_TIMEOUT.as_secs(),
    "a member that is asked must have the time to answer, and an asker the time to do without it"
);

/// How many members may be asked to ask the origin, one after the other, before this node does so itself.
const MEMBERS_ASKED: usize = 2;

/// How many members are asked for what they hold when the origin is down.
const HOLDERS_ASKED: usize = 6;

/// A document, and how fresh it is.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) document: Document,
    /// Whether it is the last known one because the origin could not be asked.
    pub(crate) stale: bool,
    /// How long before the question the origin was asked, or found to be down. 0 if since then, and for what never changes.
    age: Duration,
}

/// What a tag stood for before it was refreshed, and what it stands for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refreshed {
    /// None if this node had never asked for it.
    pub(crate) was: Option<Digest>,
    pub(crate) now: Digest,
}

/// The documents of one node.
pub(crate) struct Documents {
    membership: Membership,
    link: Arc<dyn Link>,
    origins: Arc<Origins>,
    stop: CancellationToken,
    shelf: Shelf,
    flights: Flights,
    lately: Mutex<Lately>,
    stale_served: AtomicU64,
}

/// Which way a question goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the members responsible, as this node's own questions do.
    Members,
    /// To the origin, as those of other members do: two that each believe the other to be responsible must not wait in a
    /// circle.
    Origin,
}

impl Documents {
    pub(crate) fn open(
        root: &Path,
        membership: Membership,
        link: Arc<dyn Link>,
        origins: Arc<Origins>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            membership,
            link,
            origins,
            stop,
            shelf: Shelf::open(root)?,
            flights: Flights::default(),
            lately: Mutex::default(),
            stale_served: AtomicU64::new(0),
        })
    }

    /// The document that `reference` names, from wherever it is nearest. Takes at most [`ASK_TIMEOUT`].
    pub(crate) async fn get(self: &Arc<Self>, reference: &Reference) -> Result<Found, Error> {
        let ttl = self.origins.config(reference.registry())?.tag_ttl;
        let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let found = self.bounded(reference, Fresh::Within { ms }).await?;
        if found.stale {
            self.stale_served.fetch_add(1, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Has the member responsible ask the origin now what a tag stands for. Takes at most [`ASK_TIMEOUT`]. Fails when the
    /// origin cannot be asked; what is known stays known.
    pub(crate) async fn refresh(self: &Arc<Self>, reference: &Reference) -> Result<Refreshed, Error> {
        self.origins.get(reference.registry())?;
        if reference.digest().is_some() {
            return Err(Error::Invalid(format!(
                "{reference} names a digest, which never changes; refresh a tag"
            )));
        }
        let was = self.shelf.last_digest(reference);
        let found = self.bounded(reference, Fresh::Now).await?;
        Ok(Refreshed { was, now: found.document.digest })
    }

    /// What is held under that digest.
    pub(crate) fn held(&self, digest: &Digest) -> Option<Document> {
        self.shelf.document(digest)
    }

    /// How often the last known version of a tag was served here because its origin was down.
    pub(crate) fn stale_served(&self) -> u64 {
        self.stale_served.load(Ordering::Relaxed)
    }

    /// Answers another node.
    pub(crate) async fn serve(
        self: &Arc<Self>,
        stream: Stream,
        request: DocumentRequest,
    ) -> std::io::Result<()> {
        exchange::answer(stream, async {
            match self.answer(request).await {
                Ok(Found { document, stale, age }) => DocumentReply::Found {
                    media_type: document.media_type,
                    bytes: document.bytes.to_vec(),
                    stale,
                    age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                },
                Err(error) => error.into(),
            }
        })
        .await
    }

    async fn answer(self: &Arc<Self>, request: DocumentRequest) -> Result<Found, Error> {
        let DocumentRequest { reference, fresh } = request;
        if fresh != Fresh::Held {
            return self.look_up(reference, fresh, Way::Origin).await;
        }
        let held = self.last_held(&reference);
        let stale = reference.digest().is_none();
        held.map(|document| Found { document, stale, age: Duration::ZERO })
            .ok_or_else(|| Error::Unavailable(format!("{reference} is not held here")))
    }

    // Looking up.

    async fn bounded(self: &Arc<Self>, reference: &Reference, fresh: Fresh) -> Result<Found, Error> {
        let late = || Error::Unavailable(format!("{reference}: no answer within {ASK_TIMEOUT:?}"));
        timeout(ASK_TIMEOUT, self.look_up(reference.clone(), fresh, Way::Members))
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// What is known, if it is fresh enough; else what those say who are asked. A caller that goes away does not end the
    /// asking: others wait for the same.
    fn look_up(
        self: &Arc<Self>,
        reference: Reference,
        fresh: Fresh,
        way: Way,
    ) -> BoxFuture<'static, Result<Found, Error>> {
        let documents = self.clone();
        Box::pin(async move {
            let put = documents.now();
            if let Some(known) = documents.known(&reference, fresh, put) {
                return known;
            }
            let seat = documents.flights.board(&format!("{way:?} {reference}")).await;
            if let Some(known) = documents.known(&reference, fresh, put) {
                return known;
            }
            let stop = documents.stop.clone();
            let asking = async move {
                let _seat = seat;
                match way {
                    Way::Members => documents.ask_members(&reference, fresh).await,
                    Way::Origin => documents.ask_origin(&reference, fresh).await,
                }
            };
            let asked = tokio::spawn(stop.run_until_cancelled_owned(asking)).await;
            asked.ok().flatten().unwrap_or_else(|| Err(Error::Unavailable("this node stops".to_owned())))
        })
    }

    /// What can be said to a question put at `put` without asking anybody.
    fn known(&self, reference: &Reference, fresh: Fresh, put: Duration) -> Option<Result<Found, Error>> {
        if let Some(document) = reference.digest().and_then(|digest| self.held(&digest)) {
            return Some(Ok(Found { document, stale: false, age: Duration::ZERO }));
        }
        let answer = self.lately.lock().get(&reference.to_string()).cloned()?;
        if !answer.serves(fresh, put) {
            return None;
        }
        let age = answer.age(put);
        let (digest, stale) = match answer.heard {
            Heard::Current(digest) => (digest, false),
            Heard::Stale(digest) => (digest, true),
            Heard::Refused(error) => return Some(Err(error)),
        };
        Some(Ok(Found { document: self.held(&digest)?, stale, age }))
    }

    /// Asks the members responsible, or failing that the origin.
    async fn ask_members(self: &Arc<Self>, reference: &Reference, fresh: Fresh) -> Result<Found, Error> {
        for peer in self.in_line(reference).into_iter().take(MEMBERS_ASKED) {
            if peer.id.as_ref() == Some(&self.membership.config().node) {
                break;
            }
            let sent = self.now();
            match exchange::ask(self.link.as_ref(), &peer, reference, fresh, MEMBER_TIMEOUT).await {
                Ok(Said::Found { document, stale, age }) => {
                    let asked = sent.saturating_sub(age);
                    return Ok(match stale {
                        false => self.keep_current(reference, document, asked),
                        true => self.keep_stale(reference, document, asked, &format!("so says {peer}")),
                    });
                }
                Ok(Said::Refused(error @ (Error::NotFound(_) | Error::Invalid(_)))) => {
                    self.note(reference, Heard::Refused(error.clone()), sent);
                    return Err(error);
                }
                // This node may have other credentials, or another way to the origin.
                Ok(Said::Refused(error)) => {
                    debug!(%peer, %reference, %error, "asking the origin ourselves");
                    break;
                }
                Err(reason) => {
                    debug!(%peer, %reference, %reason, "asking the next in line");
                    if let Some(node) = &peer.id {
                        self.membership.suspect(node);
                    }
                }
            }
        }
        self.look_up(reference.clone(), fresh, Way::Origin).await
    }

    /// Asks the origin, or failing that whoever holds the last known version. What the rendezvous member does.
    async fn ask_origin(&self, reference: &Reference, fresh: Fresh) -> Result<Found, Error> {
        let origin = self.origins.get(reference.registry())?;
        let asked = self.now();
        let error = match self.read_origin(origin.as_ref(), reference).await {
            Ok(document) => return Ok(self.keep_current(reference, document, asked)),
            Err(error) => error,
        };
        let is_down = matches!(error, Error::Unavailable(_));
        // A tag that the origin has no longer is gone. A digest means the same to whoever holds it.
        if fresh != Fresh::Now
            && (is_down || reference.digest().is_some())
            && let Some(document) = self.last_known(reference).await
        {
            return Ok(self.keep_stale(reference, document, self.now(), &error.to_string()));
        }
        // That the origin was down when somebody insisted on asking it keeps nobody from what is known.
        if fresh != Fresh::Now || !is_down {
            self.note(reference, Heard::Refused(error.clone()), asked);
        }
        Err(error)
    }

    /// What the origin has now. Reads the whole document only if its digest is not held.
    async fn read_origin(&self, origin: &dyn Origin, reference: &Reference) -> Result<Document, Error> {
        let (registry, repository) = (reference.registry(), reference.repository());
        let (known, selector) = (self.last_held(reference), reference.selector());
        let reading = async {
            if known.is_some() {
                let digest = origin.head(repository, &selector).await?;
                if let Some(document) = self.held(&digest) {
                    return Ok(document);
                }
            }
            info!(%reference, "reading a manifest from the origin");
            origin.manifest(repository, &selector).await
        };
        let patience = if known.is_some() { PAUSE_PATIENCE } else { ORIGIN_TIMEOUT };
        tokio::select! {
            biased;
            left = asked_to_wait(self.pause(registry), patience) => {
                let left = left.as_secs_f64();
                Err(Error::Unavailable(format!("{registry} wants to be left alone for another {left:.1} s")))
            }
            read = timeout(ORIGIN_TIMEOUT, reading) => {
                let late = |_| Error::Unavailable(format!("{registry}: no answer within {ORIGIN_TIMEOUT:?}"));
                read.map_err(late)?.map_err(|error: OriginError| error.into())
            }
        }
    }

    /// The pause of an origin, unless there are mirrors that may answer in its place.
    fn pause(&self, registry: &str) -> Option<Arc<Pause>> {
        self.origins.config(registry).ok().filter(|config| config.mirrors.is_empty())?;
        let mut pauses = self.origins.pauses().into_iter();
        pauses.find_map(|(name, pause)| (name == registry).then_some(pause))
    }

    /// The last known version: what is held here, or failing that what the member first in line holds of those asked.
    async fn last_known(&self, reference: &Reference) -> Option<Document> {
        if let Some(document) = self.last_held(reference) {
            return Some(document);
        }
        let mut holders = self.in_line(reference);
        if let Some(digest) = reference.digest() {
            let contacts = self.membership.participants(&FunctionId::from(digest));
            let contacts = contacts.into_iter().map(|contact| Peer::node(contact.node, contact.addr));
            holders.splice(0..0, contacts.take(HOLDERS_ASKED / 2));
        }
        holders.retain(|peer| peer.id.as_ref() != Some(&self.membership.config().node));
        holders.truncate(HOLDERS_ASKED);
        let answers = holders.into_iter().map(|peer| async move {
            let answer = exchange::ask(self.link.as_ref(), &peer, reference, Fresh::Held, HELD_TIMEOUT).await;
            match answer {
                Ok(Said::Found { document, .. }) => Some(document),
                _ => None,
            }
        });
        let found = stream::iter(answers).buffered(HOLDERS_ASKED).filter_map(std::future::ready);
        std::pin::pin!(found).next().await
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

    // What is kept.

    /// Time since this node's start. What others say is told in ages: clocks of different machines are never compared.
    fn now(&self) -> Duration {
        self.membership.config().clock.uptime()
    }

    /// What is held under that name, however old.
    fn last_held(&self, reference: &Reference) -> Option<Document> {
        self.held(&self.shelf.last_digest(reference)?)
    }

    fn keep_current(&self, reference: &Reference, document: Document, asked: Duration) -> Found {
        self.shelf.keep(reference, &document);
        if self.note(reference, Heard::Current(document.digest), asked) {
            info!(%reference, "the origin answers again");
        }
        Found { document, stale: false, age: Duration::ZERO }
    }

    fn keep_stale(&self, reference: &Reference, document: Document, asked: Duration, why: &str) -> Found {
        self.shelf.keep(reference, &document);
        let stale = reference.digest().is_none();
        if stale && !self.note(reference, Heard::Stale(document.digest), asked) {
            let digest = document.digest;
            warn!(%reference, %digest, %why, "the origin cannot be asked; serving the last known version");
        }
        Found { document, stale, age: Duration::ZERO }
    }

    /// Notes what was heard. Says whether the name was stale before.
    fn note(&self, reference: &Reference, heard: Heard, asked: Duration) -> bool {
        let name = reference.to_string();
        // What is stale or refused counts from when that was known.
        let answered = if let Heard::Stale(_) = heard { asked } else { self.now() };
        let mut lately = self.lately.lock();
        let was_stale = lately.get(&name).is_some_and(|known| matches!(known.heard, Heard::Stale(_)));
        lately.note(name, Answer { heard, asked, answered });
        was_stale
    }
}

/// Resolves when an origin wants to be left alone for longer than `patience`, with how long.
async fn asked_to_wait(pause: Option<Arc<Pause>>, patience: Duration) -> Duration {
    let Some(pause) = pause else { return pending().await };
    let mut changes = pause.changes();
    loop {
        if let Some(left) = pause.remaining().filter(|left| *left > patience) {
            return left;
        }
        if changes.changed().await.is_err() {
            return pending().await;
        }
    }
}
