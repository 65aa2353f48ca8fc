//! One running node: everything wired together, and its life from start to leave.
//!
//! Owns no logic of its own beyond the order of things.

mod describe;

use std::fmt::Display;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use membership::clock::WallClock;
use membership::codec::read_frame;
use membership::link::{Incoming, Link, Stream};
use membership::membership::DEFAULT_GOSSIP_INTERVAL;
use membership::{FunctionId, Membership, NodeId, suspicion};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use transfer::blob::Blob;
use transfer::counters::Counters;
use transfer::digest::Digest;
use transfer::expectation::Expectations;
use transfer::fetch::Fetcher;
use transfer::manifest::Platform;
use transfer::origin::Origin;
use transfer::reference::Reference;
use transfer::serve::Server;
use transfer::store::Store;
use transfer::wire::{MAX_REQUEST_BYTES, Request};

use crate::api;
use crate::config::{Change, Config};
use crate::documents::{Documents, Refreshed};
pub use crate::error::Error;
use crate::http::{self, Doors, Limits, Socket};
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::pauses;
use crate::provision::{Parts, Provisioner};
use crate::quic::QuicLink;
use crate::records::Records;
use crate::trust::Trust;
use crate::whole::write_whole;

/// How long a peer may take to state its request once its stream is open.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a node that leaves waits for those it serves: peers, to move on, and clients, to have their answers.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// How long a node that starts looks for the address that leads to its seeds, whose names may be slow to resolve.
const ADVERTISE_LIMIT: Duration = Duration::from_secs(1);

/// How long a request may wait for a node that has only just started.
const START_LIMIT: Duration = Duration::from_secs(30);

/// One running node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    /// As it is now; [`Node::reload`] changes it.
    config: watch::Sender<Arc<Config>>,
    membership: Membership,
    link: Arc<QuicLink>,
    store: Arc<Store>,
    server: Arc<Server>,
    counters: Arc<Counters>,
    origins: Arc<Origins>,
    documents: Arc<Documents>,
    provisioner: Arc<Provisioner>,
    metrics: Arc<Metrics>,
    doors: Doors,
    http_addr: SocketAddr,
    ready: watch::Sender<bool>,
    leaving: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Node {
    /// Starts a node: binds its ports, finds its cluster, and takes up what it held before. Returns once it can be
    /// asked; it is ready (see [`Node::is_ready`]) a moment later, when it has met the cluster.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        config.check()?;
        let store = Arc::new(Store::open(&config.data)?);
        let id = node_id(&config)?;
        let clock = WallClock::system();
        let incarnation = next_incarnation(&config.data, clock.now_ms())?;
        let origins = Arc::new(Origins::open(&config.origins).await?);
        let http_listener = TcpListener::bind(config.http).await.with_context(|| {
            format!(
                "cannot listen on http://{}; give an address of this machine that is free with --http ADDR:PORT",
                config.http
            )
        })?;
        let http_addr = http_listener.local_addr()?;
        let socket = config.socket.as_deref().map(Socket::bind).transpose()?;
        let trust = Trust::new(id.clone(), &config.cluster, config.secret.as_ref())?;
        let (link, streams) = QuicLink::bind(config.listen(), trust)?;
        let addr = advertised(&config, link.local_addr()?).await;
        let membership_config = membership::membership::Config {
            node: id.clone(),
            incarnation,
            zone: config.zone.clone(),
            cluster: config.cluster.clone(),
            addr,
            seeds: config.seeds.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            gossip_interval: DEFAULT_GOSSIP_INTERVAL,
            suspicion: suspicion::Config::default(),
            clock,
        };
        let membership =
            Membership::start(membership_config, link.clone(), streams.gossip, streams.control).await?;

        let stop = CancellationToken::new();
        let leaving = watch::Sender::new(false);
        let counters = Arc::new(Counters::default());
        let expectations = Arc::new(Expectations::default());
        let server = Arc::new(Server::new(
            id.clone(),
            store.clone(),
            counters.clone(),
            expectations.clone(),
            leaving.subscribe(),
        ));
        let metrics = Arc::new(Metrics::default());
        let as_link: Arc<dyn Link> = link.clone();
        let documents = Documents::open(
            &config.data,
            membership.clone(),
            as_link.clone(),
            origins.clone(),
            stop.clone(),
        )?;
        let documents = Arc::new(documents);
        let fetcher =
            Arc::new(Fetcher { membership: membership.clone(), link: as_link, counters: counters.clone() });
        let (records, zone) = (Records::open(&config.data)?, config.zone.clone());
        let config = watch::Sender::new(Arc::new(config));
        let provisioner = Provisioner::new(Parts {
            records,
            membership: membership.clone(),
            store: store.clone(),
            expectations,
            fetcher,
            documents: documents.clone(),
            origins: origins.clone(),
            config: config.subscribe(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        });
        info!(node = %id, %addr, http = %http_addr, %zone, "started");
        let node = Self {
            inner: Arc::new(Inner {
                config,
                membership,
                link,
                store,
                server,
                counters,
                origins,
                documents,
                provisioner,
                doors: Doors::new(Limits::default(), metrics.clone(), stop.clone()),
                metrics,
                http_addr,
                ready: watch::Sender::new(false),
                leaving,
                stop,
            }),
        };
        node.spawn(node.clone().answer_peers(streams.blocks));
        node.open_doors(http_listener, socket);
        node.spawn(node.clone().settle());
        let origins = node.inner.origins.clone();
        node.spawn(pauses::keep_in_step(node.inner.membership.clone(), move || origins.pauses()));
        Ok(node)
    }

    fn open_doors(&self, port: TcpListener, socket: Option<Socket>) {
        let router = http::router(self.clone(), self.inner.metrics.clone());
        if let Some(socket) = socket {
            self.inner.doors.open_socket(socket, router.clone());
        }
        self.inner.doors.open_port(port, router);
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.inner.stop.clone().run_until_cancelled_owned(task));
    }

    async fn settle(self) {
        self.inner.membership.settle().await;
        self.inner.provisioner.resume();
        self.inner.ready.send_replace(true);
        info!(members = self.inner.membership.view().borrow().members().len(), "ready to provision");
    }

    async fn answer_peers(self, mut incoming: Incoming) {
        while let Some(stream) = incoming.recv().await {
            let node = self.clone();
            self.spawn(async move {
                let peer = stream.peer.clone();
                if let Err(error) = node.answer(stream).await {
                    debug!(%peer, %error, "a peer's request broke off");
                }
            });
        }
    }

    async fn answer(&self, mut stream: Stream) -> std::io::Result<()> {
        let request = timeout(REQUEST_TIMEOUT, read_frame(&mut stream.recv, MAX_REQUEST_BYTES))
            .await
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::TimedOut, "the request did not come"))??;
        match request {
            Request::Fetch(fetch) => self.inner.server.serve(stream, fetch).await,
            Request::Document(request) => self.inner.documents.serve(stream, request).await,
        }
    }

    // What can be asked of it.

    /// Its name.
    pub fn id(&self) -> &NodeId {
        &self.inner.membership.config().node
    }

    /// Where its mirror and API listen.
    pub fn http_addr(&self) -> SocketAddr {
        self.inner.http_addr
    }

    /// Where its peers reach it.
    pub fn addr(&self) -> SocketAddr {
        self.inner.membership.config().addr
    }

    /// Whether it has met the cluster (or found nobody in time) and is not leaving.
    pub fn is_ready(&self) -> bool {
        *self.inner.ready.borrow() && !*self.inner.leaving.borrow()
    }

    /// Waits until it is ready, for a bounded time.
    pub async fn ready(&self) -> Result<(), Error> {
        let mut ready = self.inner.ready.subscribe();
        match timeout(START_LIMIT, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) if !*self.inner.leaving.borrow() => Ok(()),
            Ok(_) => Err(Error::NotReady("this node is leaving")),
            Err(_) => Err(Error::NotReady("this node is still starting")),
        }
    }

    /// How it runs now.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.inner.config.borrow().clone()
    }

    /// Takes over what can change while a node runs, and says what is changed. What cannot stays as it was. On an error
    /// everything does.
    pub async fn reload(&self, new: Config) -> anyhow::Result<Vec<Change>> {
        let (config, changes) = self.config().reloaded(new);
        self.inner.origins.reload(&config.origins).await?;
        self.inner.config.send_replace(Arc::new(config));
        Ok(changes)
    }

    /// Refuses registries that are not among this node's origins.
    pub(crate) fn check_allowed(&self, registry: &str) -> Result<(), Error> {
        self.inner.origins.config(registry).map(|_| ())
    }

    /// The origin that a registry's name stands for.
    pub(crate) fn origin(&self, registry: &str) -> Result<Arc<dyn Origin>, Error> {
        self.inner.origins.get(registry)
    }

    /// Whether only what is read of that registry's images is fetched.
    pub(crate) fn is_lazy(&self, registry: &str) -> bool {
        self.inner.origins.config(registry).is_ok_and(|config| config.lazy)
    }

    /// A blob for a client, whatever of it is here.
    pub(crate) async fn blob(&self, reference: &Reference, digest: Digest) -> Result<Arc<Blob>, Error> {
        if let Some(blob) = self.inner.store.lookup(digest).await.filter(|blob| blob.is_complete()) {
            return Ok(blob);
        }
        // A node that has just started may be about to take up the function that the blob is of.
        self.ready().await?;
        self.inner.provisioner.blob(reference, digest).await
    }

    pub(crate) fn documents(&self) -> &Arc<Documents> {
        &self.inner.documents
    }

    pub(crate) fn provisioner(&self) -> &Arc<Provisioner> {
        &self.inner.provisioner
    }

    /// The function that a reference stands for: the image for this node's platform.
    pub async fn resolve(&self, reference: &Reference) -> Result<FunctionId, Error> {
        self.ready().await?;
        let document = self.inner.provisioner.image(reference, None).await?;
        Ok(FunctionId::from(document.digest))
    }

    /// Starts to provision an image, or joins whoever does. Returns once it is known which function it is.
    pub async fn provision(
        &self,
        reference: &Reference,
        platform: Option<Platform>,
    ) -> Result<FunctionId, Error> {
        self.ready().await?;
        let document = self.inner.provisioner.image(reference, platform.as_ref()).await?;
        Ok(self.inner.provisioner.start(reference, &document, false)?.id)
    }

    /// Has the origin asked now what a tag stands for, whatever its TTL. This node knows the answer from then on, others
    /// within their TTL.
    pub async fn refresh(&self, reference: &Reference) -> Result<api::Refreshed, Error> {
        self.ready().await?;
        let Refreshed { was, now } = self.inner.documents.refresh(reference).await?;
        Ok(api::Refreshed { reference: reference.clone(), was, now })
    }

    /// Waits until a function is ready or failed, and tells how it went. `None` if it is not on this node.
    pub async fn finished(&self, id: FunctionId) -> Option<api::Function> {
        let function = self.inner.provisioner.function(id)?;
        function.finished().await;
        Some(self.describe(&function))
    }

    // Its end.

    /// Resolves when the cluster will not have this node any longer, with the reason.
    pub async fn stopped(&self) -> String {
        self.inner.membership.expelled().await
    }

    /// Leaves the cluster: says so, takes no new clients, lets those it serves move on or have their answers, and stops.
    /// What it holds stays on disk. Says whether all that it served were done in time.
    pub async fn shutdown(&self) -> bool {
        if self.inner.leaving.send_replace(true) {
            return true;
        }
        self.inner.membership.announce_leave().await;
        let children = async {
            while self.inner.server.active_streams() > 0 {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let (moved_on, answered) =
            tokio::join!(timeout(DRAIN_LIMIT, children), timeout(DRAIN_LIMIT, self.inner.doors.close()));
        if moved_on.is_err() {
            warn!("some children have not moved on in time");
        }
        if answered.is_err() {
            warn!("some clients have not had their answers in time");
        }
        self.inner.stop.cancel();
        self.inner.membership.stop();
        self.inner.link.close().await;
        moved_on.is_ok() && answered.is_ok()
    }
}

/// The address to tell peers, without waiting long for names to resolve.
async fn advertised(config: &Config, bound: SocketAddr) -> SocketAddr {
    let own = config.clone();
    let found = timeout(ADVERTISE_LIMIT, spawn_blocking(move || own.advertise(bound))).await;
    let addr = found.ok().and_then(Result::ok);
    let addr = addr.unwrap_or_else(|| Config { seeds: Vec::new(), ..config.clone() }.advertise(bound));
    if addr.ip().is_loopback() && bound.ip().is_unspecified() {
        warn!(
            "others are told to reach this node at {addr}, which only this machine can; if they are elsewhere, start it \
             again with the right address as --advertise"
        );
    }
    addr
}

/// The configured name; else the one kept in the data directory; else a new one, which is kept there.
fn node_id(config: &Config) -> anyhow::Result<NodeId> {
    if let Some(id) = &config.id {
        return Ok(id.clone());
    }
    let path = config.data.join("node-id");
    if let Ok(text) = fs::read_to_string(&path) {
        return text.trim().parse().with_context(|| {
            format!("{} does not hold a node id; mend it, or remove it to get a new one", path.display())
        });
    }
    let id: NodeId = format!("node-{:08x}", rand::random::<u32>()).parse()?;
    keep(&path, &id)?;
    Ok(id)
}

/// Greater than that of every earlier start, even if the clock was set back.
fn next_incarnation(data: &Path, now_ms: u64) -> anyhow::Result<u64> {
    let path = data.join("incarnation");
    let last = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let next = last.map_or(now_ms, |last| now_ms.max(last + 1));
    keep(&path, next)?;
    Ok(next)
}

/// Half a file would be taken for a fault at the next start, or for a name or number that it is not.
fn keep(path: &Path, value: impl Display) -> anyhow::Result<()> {
    write_whole(path, format!("{value}\n").as_bytes()).with_context(|| {
        format!(
            "cannot write {}; make room on that disk, or give another directory with --data",
            path.display()
        )
    })
}
