//! Reads a range of a blob from a registry, and goes on where it stopped when the connection breaks.
//!
//! Knows ranges and bodies; what an answer's status means is [`super::registry`]'s to say.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode, Url};

use super::registry::{describe, pause, send, unavailable};
use super::retry::{Retry, RetryPolicy};
use super::{BlobStream, MAX_CHUNK_BYTES, OriginError, Place, invalid};

/// How many bytes count as progress that lets the tries begin anew. An origin that breaks off after every few
/// bytes would otherwise be asked millions of times for one layer.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Where the blob is, and how long to wait for its bytes.
pub(super) struct BlobRequest {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) place: Place,
    pub(super) stall: Duration,
}

/// Opens the blob, so that an absent one is an error here and not in the stream.
pub(super) async fn read(
    request: BlobRequest,
    range: Range<u64>,
    policy: RetryPolicy,
) -> Result<BlobStream, OriginError> {
    let retry = Retry::new(policy);
    let mut reader = Reader { request, at: range.start, end: range.end, body: None, retry, since_failure: 0 };
    if reader.at < reader.end {
        reader.open().await?;
    }
    Ok(Box::pin(stream::try_unfold(reader, async |mut reader| {
        Ok(reader.next().await?.map(|chunk| (chunk, reader)))
    })))
}

struct Reader {
    request: BlobRequest,
    /// The next byte to deliver.
    at: u64,
    end: u64,
    body: Option<Body>,
    retry: Retry,
    /// Bytes delivered since a try last failed.
    since_failure: u64,
}

struct Body {
    response: Response,
    /// Bytes before the range, which an origin without range support sends too.
    skip: u64,
    /// Received and not yet delivered.
    rest: Bytes,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        while self.at < self.end {
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match body.next(self.request.stall).await {
                Ok(chunk) => return Ok(Some(self.deliver(chunk))),
                Err(fault) => {
                    self.body = None;
                    let reason = format!("{fault} at byte {} of {}", self.at, self.end);
                    self.failed(unavailable(&self.request.place, &reason)).await?;
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
        chunk
    }

    async fn failed(&mut self, error: OriginError) -> Result<(), OriginError> {
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
        let BlobRequest { client, url, place, stall } = &self.request;
        let range = format!("bytes={}-{}", self.at, self.end - 1);
        let response = send(client.get(url.clone()).header(header::RANGE, range), place, *stall).await?;
        let skip = accept(response.status(), response.headers(), self.at..self.end)
            .map_err(|reason| invalid(place, reason))?;
        Ok(Body { response, skip, rest: Bytes::new() })
    }
}

impl Body {
    /// The next bytes of the range; the error says how the body broke off.
    async fn next(&mut self, stall: Duration) -> Result<Bytes, String> {
        loop {
            let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(self.rest.len());
            let _ = self.rest.split_to(skipped);
            self.skip -= skipped as u64;
            if !self.rest.is_empty() {
                return Ok(self.rest.split_to(self.rest.len().min(MAX_CHUNK_BYTES)));
            }
            self.rest = match tokio::time::timeout(stall, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Err("the body ended early".into()),
                Ok(Err(error)) => return Err(describe(error)),
                Err(_) => return Err(format!("the body stalled for {stall:?}")),
            };
        }
    }
}

/// How many bytes of the body come before the range, or what is wrong with the answer.
fn accept(status: StatusCode, headers: &HeaderMap, range: Range<u64>) -> Result<u64, String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // Login pages and the like, which would pass for bytes until the whole blob is hashed.
    if text(header::CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html")) {
        return Err("an HTML page instead of a blob: is a proxy or a login in the way?".into());
    }
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let found = text(header::CONTENT_RANGE).unwrap_or("none");
            let expected = format!("bytes {}-{}", range.start, range.end - 1);
            match found.split_once('/') {
                Some((span, _)) if span.trim() == expected => Ok(0),
                _ => Err(format!("asked for {expected:?}, it answers with Content-Range {found:?}")),
            }
        }
        StatusCode::OK => match text(header::CONTENT_LENGTH).map(str::parse::<u64>) {
            Some(Ok(length)) if length < range.end => {
                Err(format!("the blob has {length} bytes, fewer than the {} that were expected", range.end))
            }
            _ => Ok(range.start),
        },
        other => Err(format!("{other} in answer to a range")),
    }
}
