//! Reads a range of a blob from the first who has it, and goes on where it stopped when the connection breaks.
//!
//! Knows ranges and bodies; what the head of an answer means is [`super::upstream`]'s to say. A mirror that fails is left
//! for the next in line at once; the last, the registry itself, is asked again.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{self, HeaderMap};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;

use super::answer::{describe, text, unavailable};
use super::budget::Permit;
use super::registry::pause;
use super::retry::{Retry, RetryPolicy};
use super::upstream::{Shared, Upstream};
use super::{BlobStream, MAX_CHUNK_BYTES, OriginError, Place, invalid};
use crate::digest::{Digest, Sha256};

/// How many bytes count as progress that lets the tries begin anew. An origin that breaks off after every few
/// bytes would otherwise be asked millions of times for one layer.
const PROGRESS_BYTES: u64 = 64 << 10;

/// The fewest bytes a second of a body that is not as good as stalled: the slowest modem had more.
const MIN_RATE: u64 = 1 << 10;

/// Opens the blob, so that an absent one is an error here and not in the stream. `sources` end with the registry itself.
pub(super) async fn read(
    sources: Vec<Arc<Upstream>>,
    repository: &str,
    digest: Digest,
    range: Range<u64>,
    policy: RetryPolicy,
) -> Result<BlobStream, OriginError> {
    let proof = (sources.len() > 1 && range.start == 0).then(Sha256::new);
    let mut reader = Reader {
        sources,
        current: 0,
        repository: repository.to_owned(),
        digest,
        at: range.start,
        end: range.end,
        body: None,
        retry: Retry::new(policy),
        since_failure: 0,
        proof,
    };
    if reader.at < reader.end {
        reader.open().await?;
    }
    Ok(Box::pin(stream::try_unfold(reader, async |mut reader| {
        Ok(reader.next().await?.map(|chunk| (chunk, reader)))
    })))
}

struct Reader {
    sources: Vec<Arc<Upstream>>,
    /// The source in use. Those before it have failed.
    current: usize,
    repository: String,
    digest: Digest,
    /// The next byte to deliver.
    at: u64,
    end: u64,
    body: Option<Body>,
    retry: Retry,
    /// Bytes delivered since a try last failed.
    since_failure: u64,
    /// The hash of what was delivered, as long as it may become that of a whole blob of which a mirror sent some.
    proof: Option<Sha256>,
}

struct Body {
    response: Response,
    /// Bytes before the range, which an origin without range support sends too.
    skip: u64,
    /// Received and not yet delivered.
    rest: Bytes,
    /// How long this body was waited for, and what it brought, since its rate was last judged.
    waited: Duration,
    brought: u64,
    /// How many bytes the whole blob has, if the answer tells.
    whole: Option<u64>,
    _permit: Permit,
}

impl Reader {
    fn source(&self) -> &Arc<Upstream> {
        &self.sources[self.current]
    }

    fn is_last_source(&self) -> bool {
        self.current + 1 == self.sources.len()
    }

    fn place(&self) -> Place {
        self.source().place(&self.repository, format!("blob {}", self.digest))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        while self.at < self.end {
            let source = self.source().clone();
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match body.next(source.shared()).await {
                Ok(chunk) => {
                    let chunk = self.deliver(chunk);
                    source.shared().budget.pace(chunk.len()).await;
                    return Ok(Some(chunk));
                }
                Err(fault) => {
                    self.body = None;
                    let reason = format!("{fault} at byte {} of {}", self.at, self.end);
                    let error = unavailable(&self.place(), &reason);
                    source.counts().record::<()>(&Err(error.clone()));
                    self.failed(error).await?;
                }
            }
        }
        Ok(None)
    }

    fn deliver(&mut self, mut chunk: Bytes) -> Bytes {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        chunk.truncate(left);
        self.at += chunk.len() as u64;
        self.since_failure += chunk.len() as u64;
        if let Some(proof) = &mut self.proof {
            proof.update(&chunk);
            if self.at == self.end {
                self.judge();
            }
        }
        chunk
    }

    /// Sees to it that mirrors that sent other bytes are not asked for this blob again. What was delivered is its
    /// reader's to check, who will throw it away.
    fn judge(&mut self) {
        let whole = self.body.as_ref().and_then(|body| body.whole) == Some(self.end);
        let Some(proof) = self.proof.take().filter(|_| whole) else { return };
        if proof.finish() != self.digest {
            tracing::warn!(place = %self.place(), "a mirror sent other bytes; it is not asked for this blob again");
            let mirrors = self.sources.split_last().map_or(&[][..], |(_, mirrors)| mirrors);
            mirrors.iter().for_each(|mirror| mirror.distrust(self.digest));
        }
    }

    /// Goes to the next source, or waits before this one is asked again.
    async fn failed(&mut self, error: OriginError) -> Result<(), OriginError> {
        if !self.is_last_source() {
            self.source().passed_over(&error);
            self.current += 1;
            self.since_failure = 0;
            return Ok(());
        }
        if self.since_failure >= PROGRESS_BYTES {
            self.retry.progress();
        }
        self.since_failure = 0;
        pause(&mut self.retry, error).await
    }

    async fn open(&mut self) -> Result<(), OriginError> {
        loop {
            match self.open_once().await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(error) => self.failed(error).await?,
            }
        }
    }

    async fn open_once(&self) -> Result<Body, OriginError> {
        let range = format!("bytes={}-{}", self.at, self.end - 1);
        let source = self.source();
        source.wait(&self.place()).await?;
        let opened = source.open_blob(&self.repository, &self.digest, &range).await;
        let opened = opened.and_then(|(response, permit)| {
            let accepted = accept(response.status(), response.headers(), self.at..self.end);
            let (skip, whole) = accepted.map_err(|reason| invalid(&self.place(), reason))?;
            let (waited, brought) = (Duration::ZERO, 0);
            Ok(Body { response, skip, rest: Bytes::new(), waited, brought, whole, _permit: permit })
        });
        source.counts().record(&opened);
        opened
    }
}

impl Body {
    /// The next bytes of the range; the error says how the body broke off.
    async fn next(&mut self, shared: &Shared) -> Result<Bytes, String> {
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.rest.len());
            let _ = self.rest.split_to(skipped);
            self.skip -= skipped as u64;
            if !self.rest.is_empty() {
                let piece = self.rest.len().min(MAX_CHUNK_BYTES).min(shared.budget.piece());
                return Ok(self.rest.split_to(piece));
            }
            self.rest = self.receive(shared.config.stall, shared.config.drip_window).await?;
        }
    }

    async fn receive(&mut self, stall: Duration, window: Duration) -> Result<Bytes, String> {
        let asked = Instant::now();
        let chunk = match tokio::time::timeout(stall, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err("the body ended early".into()),
            Ok(Err(error)) => return Err(describe(error)),
            Err(_) => return Err(format!("the body stalled for {stall:?}")),
        };
        // Only the time in which we waited counts: neither our own rate nor a slow reader is the registry's fault.
        self.waited += asked.elapsed();
        self.brought += chunk.len() as u64;
        if self.waited >= window {
            if (self.brought as f64) < MIN_RATE as f64 * self.waited.as_secs_f64() {
                return Err(format!("the body brought {} bytes in {:.1?}", self.brought, self.waited));
            }
            (self.waited, self.brought) = (Duration::ZERO, 0);
        }
        Ok(chunk)
    }
}

/// How many bytes of the body come before the range, and how many bytes the blob has, if that is told; or what is wrong
/// with the answer.
fn accept(status: StatusCode, headers: &HeaderMap, range: Range<u64>) -> Result<(u64, Option<u64>), String> {
    // Login pages and the like, which would pass for bytes until the whole blob is hashed.
    let kind = text(headers, header::CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
    if kind.starts_with("text/html") {
        return Err("an HTML page instead of a blob: is a proxy or a login in the way?".into());
    }
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let found = text(headers, header::CONTENT_RANGE).unwrap_or("none");
            let expected = format!("bytes {}-{}", range.start, range.end - 1);
            match found.split_once('/') {
                Some((span, whole)) if span.trim() == expected => Ok((0, whole.trim().parse().ok())),
                _ => Err(format!("asked for {expected:?}, it answers with Content-Range {found:?}")),
            }
        }
        StatusCode::OK => match text(headers, header::CONTENT_LENGTH).map(str::parse::<u64>) {
            Some(Ok(length)) if length < range.end => {
                Err(format!("the blob has {length} bytes, fewer than the {} that were expected", range.end))
            }
            length => Ok((range.start, length.and_then(Result::ok))),
        },
        other => Err(format!("{other} in answer to a range")),
    }
}
