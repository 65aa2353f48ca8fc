//! Functions on this node: provisioning them, and remembering them over restarts.
//!
//! One function is provisioned once at a time, whoever asks and however often. [`crate::records`] are kept of
//! them, so that a restarted node keeps its seniority and goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use membership::view::{Participation, ParticipationState};
use membership::{FunctionId, Membership, Seniority, Stamp};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transfer::blob::Blob;
use transfer::claim::Claim;
use transfer::digest::Digest;
use transfer::expectation::{Expectation, Expectations};
use transfer::fetch::{FetchError, Fetcher, Job, Source, Story};
use transfer::manifest::{Descriptor, Document, Manifest, Platform, select};
use transfer::reference::{Reference, Selector};
use transfer::store::Store;

use crate::config::Config;
use crate::documents::Documents;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::origins::Origins;
use crate::records::{Record, RecordState, Records};
use crate::units;

/// Indexes within indexes that are followed to find an image. Real ones are one deep.
const MAX_INDEX_DEPTH: usize = 3;

/// What provisioning needs from the rest of the node.
pub(crate) struct Parts {
    pub(crate) records: Records,
    pub(crate) membership: Membership,
    pub(crate) store: Arc<Store>,
    pub(crate) expectations: Arc<Expectations>,
    pub(crate) fetcher: Arc<Fetcher>,
    pub(crate) documents: Arc<Documents>,
    pub(crate) origins: Arc<Origins>,
    pub(crate) config: watch::Receiver<Arc<Config>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stop: CancellationToken,
}

/// All functions of one node.
pub(crate) struct Provisioner {
    parts: Parts,
    /// What an earlier run of this node left, until it is taken up. Children that ask for it before wait that long.
    to_resume: Mutex<Vec<(FunctionId, Record, Expectation)>>,
    functions: Mutex<BTreeMap<FunctionId, Arc<Function>>>,
    /// Blobs being fetched that a client asked for by themselves: no manifest of theirs is known here.
    lone: Mutex<BTreeSet<Digest>>,
}

/// One function on this node.
pub(crate) struct Function {
    pub(crate) id: FunctionId,
    pub(crate) reference: Reference,
    pub(crate) blobs: Vec<Descriptor>,
    progress: watch::Sender<Progress>,
    /// Whether only what is read of it is fetched. Once it is to be provisioned as a whole, it stays so.
    lazy: watch::Sender<bool>,
}

/// How far a function is.
#[derive(Clone)]
pub(crate) struct Progress {
    pub(crate) state: State,
    pub(crate) started: Instant,
    /// Time from the request to the end, once there is one.
    pub(crate) elapsed: Option<Duration>,
    opened: Vec<Arc<Blob>>,
    job: Option<Arc<Job>>,
    story: Story,
}

/// The state of a function on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Provisioning,
    Ready,
    Failed(String),
}

impl Function {
    /// The size of all its blobs together.
    pub(crate) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.size).sum()
    }

    /// Whether only what is read of it is fetched.
    pub(crate) fn is_lazy(&self) -> bool {
        *self.lazy.borrow()
    }

    /// Its progress now.
    pub(crate) fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until it is ready or failed.
    pub(crate) async fn finished(&self) {
        let mut progress = self.progress.subscribe();
        let _ = progress.wait_for(|progress| progress.state != State::Provisioning).await;
    }
}

impl Progress {
    /// Bytes held of the function's blobs.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.opened.iter().map(|blob| blob.held_bytes()).sum()
    }

    /// Bytes by source, of this run.
    pub(crate) fn story(&self) -> Story {
        self.job.as_ref().map_or_else(|| self.story.clone(), |job| job.story())
    }
}

impl Provisioner {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let expected = |(id, record)| (id, record, parts.expectations.expect(id));
        let to_resume = Mutex::new(parts.records.all().map(expected).collect());
        Arc::new(Self { parts, to_resume, functions: Mutex::default(), lone: Mutex::default() })
    }

    /// All functions, by id.
    pub(crate) fn functions(&self) -> Vec<Arc<Function>> {
        self.functions.lock().values().cloned().collect()
    }

    /// One function.
    pub(crate) fn function(&self, id: FunctionId) -> Option<Arc<Function>> {
        self.functions.lock().get(&id).cloned()
    }

    /// The image that `reference` names, for `platform` where there are several.
    pub(crate) async fn image(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Document, Error> {
        let platform = platform.cloned().unwrap_or_else(|| self.parts.config.borrow().platform.clone());
        let asked = reference;
        let mut reference = asked.clone();
        for _ in 0..=MAX_INDEX_DEPTH {
            let document = self.parts.documents.get(&reference).await?.document;
            match Manifest::parse(&document)? {
                Manifest::Image { .. } => return Ok(document),
                Manifest::Index(entries) => {
                    let digest = select(&entries, &platform)
                        .map_err(|error| Error::NotFound(format!("{asked}: {error}")))?
                        .digest;
                    reference = Reference::new(
                        reference.registry(),
                        reference.repository(),
                        Selector::Digest(digest),
                    )
                    .map_err(|error| Error::Invalid(error.to_string()))?;
                }
            }
        }
        Err(Error::Invalid(format!("{asked}: indexes are nested more than {MAX_INDEX_DEPTH} deep")))
    }

    /// Starts to provision the image in `document`, or joins whoever does. `reference` says where it is from. If `lazy`,
    /// only what clients and children read is fetched, until somebody asks for the whole.
    pub(crate) fn start(
        self: &Arc<Self>,
        reference: &Reference,
        document: &Document,
        lazy: bool,
    ) -> Result<Arc<Function>, Error> {
        let manifest = Manifest::parse(document)?;
        if let Manifest::Index(_) = manifest {
            return Err(Error::Invalid(format!("{reference} is an index, not an image")));
        }
        let id = FunctionId::from(document.digest);
        let mut functions = self.functions.lock();
        if let Some(known) = functions.get(&id).filter(|known| self.is_good(known)) {
            let known = known.clone();
            drop(functions);
            if !lazy {
                self.make_whole(&known);
            }
            return Ok(known);
        }
        let progress = Progress {
            state: State::Provisioning,
            started: Instant::now(),
            elapsed: None,
            opened: Vec::new(),
            job: None,
            story: Story::default(),
        };
        let function = Arc::new(Function {
            id,
            reference: reference.clone(),
            blobs: manifest.blobs().cloned().collect(),
            progress: watch::Sender::new(progress),
            lazy: watch::Sender::new(lazy),
        });
        let mut record = self.parts.records.get(id);
        let earlier = functions.insert(id, function.clone());
        drop(functions);
        // On a full disk its record could not say so.
        if earlier.is_some_and(|earlier| matches!(earlier.progress.borrow().state, State::Failed(_))) {
            record.iter_mut().for_each(|record| record.state = RecordState::Failed);
        }
        // Others may ask for its blobs as soon as the greeter knows of us.
        let expectation = self.parts.expectations.expect(id);
        let run = self.clone().run(function.clone(), record, expectation);
        tokio::spawn(self.parts.stop.clone().run_until_cancelled_owned(run));
        Ok(function)
    }

    /// From now on a function is provisioned as a whole.
    fn make_whole(&self, function: &Function) {
        if !function.lazy.send_replace(false) {
            return;
        }
        info!(function = %function.reference, "to be provisioned as a whole from now on");
        if let Some(job) = &function.progress.borrow().job {
            self.save(function, job.stamp(), RecordState::Provisioning);
        }
    }

    /// Whether it is on its way, or ready with all its blobs still on disk.
    fn is_good(&self, function: &Function) -> bool {
        match function.progress.borrow().state {
            State::Provisioning => true,
            State::Ready => function.blobs.iter().all(|blob| self.parts.store.has(&blob.digest)),
            State::Failed(_) => false,
        }
    }

    async fn run(self: Arc<Self>, function: Arc<Function>, record: Option<Record>, expectation: Expectation) {
        let was_ready = record.as_ref().is_some_and(|record| record.state == RecordState::Ready);
        let result = self.provision(&function, record, expectation).await;
        let (state, elapsed) = match result {
            Ok(()) => {
                let elapsed = function.progress.borrow().started.elapsed();
                // What an earlier run had finished, and was found whole, is no provisioning.
                if !was_ready || !function.progress().story().bytes.is_empty() {
                    self.parts.metrics.provisioned(elapsed);
                }
                (State::Ready, elapsed)
            }
            Err(error) => {
                self.parts.metrics.provision_failed();
                error!(function = %function.reference, %error, "provisioning failed");
                self.parts.membership.withdraw(function.id).await;
                if let Some(job) = &function.progress().job {
                    self.save(&function, job.stamp(), RecordState::Failed);
                }
                (State::Failed(error), function.progress.borrow().started.elapsed())
            }
        };
        function.progress.send_modify(|progress| {
            progress.state = state;
            progress.elapsed = Some(elapsed);
            if let Some(job) = progress.job.take() {
                progress.story = job.story();
            }
        });
    }

    async fn provision(
        &self,
        function: &Arc<Function>,
        record: Option<Record>,
        expectation: Expectation,
    ) -> Result<(), String> {
        let membership = &self.parts.membership;
        let seniority = record.as_ref().map_or(Seniority::New, Record::seniority);
        let opened = self.open_blobs(function).await.map_err(|error| error.to_string())?;
        if !function.is_lazy() {
            self.check_room(&opened)?;
        }
        let whole = opened.iter().all(|blob| blob.is_complete());
        let stamp = match seniority {
            Seniority::Kept(stamp) if whole => stamp,
            _ => membership.join(function.id, seniority, &[]).await,
        };
        expectation.joined(stamp);
        let claim = Claim { function: function.id, stamp };
        let origin = self.origin(&function.reference);
        let job = Arc::new(Job::new(self.parts.fetcher.clone(), claim, origin, function.lazy.subscribe()));
        function.progress.send_modify(|progress| {
            progress.opened.clone_from(&opened);
            progress.job = Some(job.clone());
        });
        if !whole {
            self.save(function, stamp, RecordState::Provisioning);
            membership
                .publish(function.id, Participation { stamp, state: ParticipationState::Provisioning })
                .await;
            self.tell_joined(function);
            let fetched: Result<Vec<()>, FetchError> =
                try_join_all(opened.iter().map(|blob| job.fetch(blob))).await;
            fetched.map_err(|error| error.to_string())?;
        }
        drop(expectation);
        self.save(function, stamp, RecordState::Ready);
        membership.publish(function.id, Participation { stamp, state: ParticipationState::Ready }).await;
        tell_finished(function, &job.story());
        Ok(())
    }

    async fn open_blobs(&self, function: &Function) -> Result<Vec<Arc<Blob>>, transfer::blob::BlobError> {
        let mut opened = Vec::with_capacity(function.blobs.len());
        for blob in &function.blobs {
            let blob = self.parts.store.blob(blob.digest, blob.size).await?;
            blob.hope();
            opened.push(blob);
        }
        Ok(opened)
    }

    /// Refuses what does not fit on the disk before any of it comes: in parts it would be of no use, and leave no room for
    /// what does fit.
    fn check_room(&self, blobs: &[Arc<Blob>]) -> Result<(), String> {
        let missing: u64 = blobs.iter().map(|blob| blob.size() - blob.held_bytes()).sum();
        let root = self.parts.store.root().display();
        let free = self.parts.store.free_bytes();
        let free = free.map_err(|error| format!("cannot tell how much room is in {root}: {error}"))?;
        if missing <= free {
            return Ok(());
        }
        let (missing, free) = (units::bytes(missing), units::bytes(free));
        Err(format!(
            "no space left in {root} for it: {missing} are to come, {free} are free; make room and pull it again"
        ))
    }

    fn origin(&self, reference: &Reference) -> Option<(Arc<dyn transfer::origin::Origin>, String)> {
        match self.parts.origins.get(reference.registry()) {
            Ok(origin) => Some((origin, reference.repository().to_owned())),
            Err(error) => {
                warn!(%reference, %error, "there is no origin to fall back on");
                None
            }
        }
    }

    fn tell_joined(&self, function: &Function) {
        let lineage = self.parts.membership.lineage(&function.id, &[]);
        let depth = lineage.ancestors.len();
        match lineage.ancestors.first() {
            Some(parent) => {
                info!(function = %function.reference, parent = %parent.node, depth, "joined the function tree");
            }
            None => info!(function = %function.reference, "joined the function tree as its root"),
        }
    }

    /// A blob that is not complete, for a client: of a function that is on its way, or by itself.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        reference: &Reference,
        digest: Digest,
    ) -> Result<Arc<Blob>, Error> {
        let disk = |error: transfer::blob::BlobError| Error::Unavailable(error.to_string());
        let known = self.functions().into_iter().find_map(|function| {
            let provisioning = function.progress.borrow().state == State::Provisioning;
            let blob = function.blobs.iter().find(|blob| blob.digest == digest)?;
            provisioning.then_some(blob.size)
        });
        if let Some(size) = known {
            let blob = self.parts.store.blob(digest, size).await.map_err(disk)?;
            // A lazy function has not failed when somebody could not be served: it goes on with who asks next.
            blob.hope();
            return Ok(blob);
        }
        self.lone_blob(reference, digest).await
    }

    /// Reads a blob through from its origin alone: without a manifest there is no function whose tree it could come by.
    async fn lone_blob(self: &Arc<Self>, reference: &Reference, digest: Digest) -> Result<Arc<Blob>, Error> {
        let no_origin = || Error::NotFound(format!("{reference}: there is no such origin"));
        let (origin, repository) = self.origin(reference).ok_or_else(no_origin)?;
        let size = origin.blob_size(&repository, &digest).await?;
        let opened = self.parts.store.blob(digest, size).await;
        let blob = opened.map_err(|error| Error::Unavailable(error.to_string()))?;
        if self.lone.lock().insert(digest) {
            blob.hope();
            let claim = Claim { function: FunctionId::from(digest), stamp: Stamp::default() };
            let whole = watch::Sender::new(false).subscribe();
            let job = Job::new(self.parts.fetcher.clone(), claim, Some((origin, repository)), whole);
            let (provisioner, fetched) = (self.clone(), blob.clone());
            let fetch = async move {
                if let Err(error) = job.fetch(&fetched).await {
                    warn!(blob = %digest, %error, "a blob could not be fetched");
                }
                provisioner.lone.lock().remove(&digest);
            };
            tokio::spawn(self.parts.stop.clone().run_until_cancelled_owned(fetch));
        }
        Ok(blob)
    }

    // What is kept over restarts.

    fn save(&self, function: &Function, stamp: Stamp, state: RecordState) {
        let record = Record { reference: function.reference.clone(), stamp, state, lazy: function.is_lazy() };
        if let Err(error) = self.parts.records.save(function.id, &record) {
            warn!(function = %function.reference, %error, "cannot keep a function's record; a restart will not know it");
        }
    }

    /// Takes up what an earlier run of this node held or was provisioning.
    pub(crate) fn resume(self: &Arc<Self>) {
        let to_resume = std::mem::take(&mut *self.to_resume.lock());
        for (id, record, _expectation) in &to_resume {
            let resumed = self
                .parts
                .documents
                .held(&Digest::from(*id))
                .ok_or_else(|| Error::NotFound("its manifest is gone".to_owned()))
                .and_then(|document| self.start(&record.reference, &document, record.lazy));
            match resumed {
                Ok(_) => debug!(function = %record.reference, state = ?record.state, "taken up again"),
                Err(error) => warn!(function = %record.reference, %error, "cannot be taken up again"),
            }
        }
    }
}

fn tell_finished(function: &Function, story: &Story) {
    let elapsed_ms = function.progress.borrow().started.elapsed().as_millis();
    let mut sources: Vec<_> = story.bytes.iter().collect();
    sources.sort_by(|a, b| b.1.cmp(a.1));
    let name = |source: &Source| match source {
        Source::Origin => "origin".to_owned(),
        Source::Peer(node) => node.to_string(),
    };
    let sources: Vec<String> =
        sources.into_iter().map(|(source, bytes)| format!("{} {bytes}", name(source))).collect();
    let bytes = function.bytes();
    info!(function = %function.reference, elapsed_ms, bytes, by_source = %sources.join(", "), "ready");
}
