//! What a registry's answers mean: statuses, refusals, headers and bounded bodies.
//!
//! Sends nothing. [`super::http`] gets the answers, [`super::upstream`] acts on them.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{self, HeaderMap, HeaderName};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::{OriginError, Place, invalid};
use crate::digest::{Digest, DigestError};

/// Registries explain refusals in a few hundred bytes of JSON.
const MAX_EXPLANATION_BYTES: usize = 8 << 10;

/// How long a registry that answers 429 without saying how long is left alone the first time.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The answer, if it is one of success and in the encoding that was asked for. `unsaid` is how long to leave the registry
/// alone if it answers 429 and does not say.
pub(super) async fn accept(
    response: Response,
    place: &Place,
    stall: Duration,
    unsaid: Duration,
) -> Result<Response, OriginError> {
    if !response.status().is_success() {
        return Err(refusal(response, place, stall, unsaid).await);
    }
    match text(response.headers(), header::CONTENT_ENCODING).map(str::to_ascii_lowercase) {
        Some(encoding) if encoding != "identity" => {
            Err(invalid(place, format!("encoded as {encoding:?} although that was not asked for")))
        }
        _ => Ok(response),
    }
}

/// What an answer without success means.
pub(super) async fn refusal(
    response: Response,
    place: &Place,
    stall: Duration,
    unsaid: Duration,
) -> OriginError {
    let status = response.status();
    let asked = retry_after(response.headers(), SystemTime::now());
    let place = place.clone();
    let said = match read_body(response, &place, stall, MAX_EXPLANATION_BYTES).await {
        Ok(Some(body)) => explanation(&body),
        _ => String::new(),
    };
    let reason = if said.is_empty() { status.to_string() } else { format!("{status}: {said}") };
    match status {
        StatusCode::NOT_FOUND => OriginError::NotFound { place, reason: said },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => OriginError::Denied { place, reason },
        StatusCode::TOO_MANY_REQUESTS => {
            OriginError::Unavailable { place, reason, retry_after: Some(asked.unwrap_or(unsaid)) }
        }
        StatusCode::REQUEST_TIMEOUT => OriginError::Unavailable { place, reason, retry_after: asked },
        StatusCode::RANGE_NOT_SATISFIABLE => {
            OriginError::Invalid { place, reason: format!("{reason}: the blob is shorter than was expected") }
        }
        _ if status.is_server_error() => OriginError::Unavailable { place, reason, retry_after: asked },
        _ => OriginError::Invalid { place, reason },
    }
}

/// The whole body, or `None` if it has more than `limit` bytes.
pub(super) async fn read_body(
    mut response: Response,
    place: &Place,
    stall: Duration,
    limit: usize,
) -> Result<Option<Bytes>, OriginError> {
    let mut body = BytesMut::new();
    loop {
        match tokio::time::timeout(stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > limit => return Ok(None),
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(Some(body.freeze())),
            Ok(Err(error)) => return Err(unavailable(place, &describe(error))),
            Err(_) => return Err(unavailable(place, &format!("no bytes within {stall:?}"))),
        }
    }
}

pub(super) fn unavailable(place: &Place, reason: &str) -> OriginError {
    OriginError::Unavailable { place: place.clone(), reason: reason.to_owned(), retry_after: None }
}

/// An error with its causes, without the URL: behind a redirect that carries somebody's signature.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A header's value, if it is plain text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The digest in the headers, if it is of the kind that we can compare.
pub(super) fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, DigestError> {
    let Some(value) = headers.get("docker-content-digest") else { return Ok(None) };
    match String::from_utf8_lossy(value.as_bytes()).parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(DigestError::Algorithm(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// When the answer was given by the clock of who gave it.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(text(headers, header::DATE)?).ok()
}

/// `Retry-After`, in seconds or as a date. A date counts from the answer's own, so that our clock need not agree with the
/// registry's; `now` stands in for an answer without one.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text(headers, header::RETRY_AFTER)?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    Some(until.duration_since(date(headers).unwrap_or(now)).unwrap_or_default())
}

/// What a registry says in the specification's error format, in one line that is fit for a log.
fn explanation(body: &[u8]) -> String {
    const MAX_CHARS: usize = 200;
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Explained>,
    }
    #[derive(Deserialize)]
    struct Explained {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors = serde_json::from_slice::<Errors>(body).map(|body| body.errors).unwrap_or_default();
    let said = errors.first().map(|first| format!("{} {}", first.code, first.message)).unwrap_or_default();
    said.trim().chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_read_in_both_forms() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:50:00 GMT").unwrap();
        let rows = [
            ("120", "", Some(120)),
            (" 0 ", "", Some(0)),
            ("-1", "", None),
            ("1.5", "", None),
            ("soon", "", None),
            ("99999999999999999999", "", None),
            ("Sun, 06 Nov 1994 08:51:30 GMT", "", Some(90)),
            ("Sunday, 06-Nov-94 08:51:30 GMT", "", Some(90)),
            ("Sun Nov  6 08:51:30 1994", "", Some(90)),
            ("Sun, 06 Nov 1994 08:51:30 GMT", "Sun, 06 Nov 1994 08:51:00 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:51:30 GMT", "nonsense", Some(90)),
            ("Sun, 06 Nov 1994 08:40:00 GMT", "", Some(0)),
        ];
        for (value, date, expected) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            if !date.is_empty() {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value:?} {date:?}");
        }
    }
}
