//! Blobs for clients: all of one, or ranges of it, streamed while blocks still arrive.
//!
//! A client that goes away never cancels what others may be waiting for: fetches belong to the node.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tracing::warn;
use transfer::blob::{Blob, BlobError};
use transfer::digest::Digest;
use transfer::reader::{Reader, ask_for};
use transfer::reference::Reference;

use super::answer::{etag, header, named_by, not_served, octets, refuse, unmet};
use super::conditions;
use crate::node::Node;
use crate::range::{Ranges, parse};

/// Stands between the parts of several ranges. Parts have lengths, so it need not be absent from their bytes.
const BOUNDARY: &str = "faasnet-part";

/// Answers a request for a blob.
pub(super) async fn serve(
    node: &Node,
    method: &Method,
    reference: &Reference,
    digest: Digest,
    headers: &HeaderMap,
) -> Response {
    let blob = match node.blob(reference, digest).await {
        Ok(blob) => blob,
        Err(error) => return not_served("BLOB_UNKNOWN", &error),
    };
    let etag = etag(&digest);
    if let Some(status) = conditions::unmet(headers, &etag) {
        return unmet(status, &digest);
    }
    let size = blob.size();
    // Only a GET has ranges.
    let range = headers.get(RANGE).filter(|_| method == Method::GET);
    let range = range.filter(|_| conditions::range_is_current(headers, &etag));
    match range.and_then(|range| range.to_str().ok()).map_or(Ranges::Whole, |range| parse(range, size)) {
        Ranges::Whole => {
            let body = if method == Method::HEAD { Body::empty() } else { stream_one(blob, 0..size, true) };
            (whole(&digest, size), body).into_response()
        }
        // Whoever reads to the end has the rest already, and takes it all for the digest's.
        Ranges::From(start) => part(blob, start..size, true),
        Ranges::One(range) => part(blob, range, false),
        Ranges::Several(ranges) => parts(&blob, &ranges),
        Ranges::TooMany => refuse(
            StatusCode::BAD_REQUEST,
            "UNSUPPORTED",
            "these ranges are too many, or more than the blob itself; ask for fewer at a time",
        ),
        Ranges::Beyond => {
            let mut refused =
                refuse(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "the blob ends before that");
            refused.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
            refused
        }
    }
}

fn whole(digest: &Digest, length: u64) -> HeaderMap {
    let mut headers = named_by(digest, length);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    octets(&mut headers);
    headers
}

fn part(blob: Arc<Blob>, range: Range<u64>, verified: bool) -> Response {
    let mut headers = whole(&blob.digest(), range.end - range.start);
    headers.insert(CONTENT_RANGE, header(&content_range(&range, blob.size())));
    (StatusCode::PARTIAL_CONTENT, headers, stream_one(blob, range, verified)).into_response()
}

/// Several ranges, as `multipart/byteranges` (RFC 9110, section 14.6).
fn parts(blob: &Arc<Blob>, ranges: &[Range<u64>]) -> Response {
    let heading = |range: &Range<u64>| {
        let range = content_range(range, blob.size());
        let heading = format!(
            "\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\nContent-Range: {range}\r\n\r\n"
        );
        Bytes::from(heading)
    };
    let end = Bytes::from(format!("\r\n--{BOUNDARY}--\r\n"));
    let length =
        ranges.iter().map(|range| heading(range).len() as u64 + range.end - range.start).sum::<u64>();
    let mut headers = whole(&blob.digest(), length + end.len() as u64);
    headers.insert(CONTENT_TYPE, header(&format!("multipart/byteranges; boundary={BOUNDARY}")));

    // All of them are fetched at once, while they are sent one after the other.
    let demand = ask_for(blob, ranges);
    let parts: Vec<_> = ranges.iter().map(|range| (heading(range), range.clone())).collect();
    let blob = blob.clone();
    let body = stream::iter(parts).flat_map(move |(heading, range)| {
        let _until_sent = &demand;
        stream::once(async { Ok(heading) }).chain(read(blob.clone(), range, false))
    });
    let body = Body::from_stream(body.chain(stream::once(async { Ok(end) })));
    (StatusCode::PARTIAL_CONTENT, headers, body).into_response()
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn stream_one(blob: Arc<Blob>, range: Range<u64>, verified: bool) -> Body {
    Body::from_stream(read(blob, range, verified))
}

/// The bytes of a range in order, each block as soon as it may be shown. A failure ends the body short of its length.
fn read(blob: Arc<Blob>, range: Range<u64>, verified: bool) -> impl Stream<Item = Result<Bytes, BlobError>> {
    let reader = Reader::new(blob.clone(), range, verified);
    stream::try_unfold((reader, blob), async |(mut reader, blob)| {
        let bytes = reader.next().await.inspect_err(|error| {
            warn!(blob = %blob.digest(), %error, "a client's download ends early");
        })?;
        Ok(bytes.map(|bytes| (bytes, (reader, blob))))
    })
}
