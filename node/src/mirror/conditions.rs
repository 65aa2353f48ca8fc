//! What a request's headers make its answer depend on: `Accept` and the conditions of RFC 9110, section 13.

use axum::http::header::{ACCEPT, IF_MATCH, IF_NONE_MATCH, IF_RANGE};
use axum::http::{HeaderMap, HeaderName, StatusCode};

/// The status to answer with instead of the thing itself, which has this strong entity tag.
pub(super) fn unmet(headers: &HeaderMap, etag: &str) -> Option<StatusCode> {
    let named = |name: HeaderName| values(headers, name).any(|tag| tag == "*" || strong(tag) == etag);
    if headers.contains_key(IF_MATCH) && !named(IF_MATCH) {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    named(IF_NONE_MATCH).then_some(StatusCode::NOT_MODIFIED)
}

/// Whether a range of the thing with this entity tag is still a range of what the client has the rest of.
pub(super) fn range_is_current(headers: &HeaderMap, etag: &str) -> bool {
    // A date is no strong validator of ours: then the whole is sent.
    headers.get(IF_RANGE).is_none_or(|tag| tag.to_str().is_ok_and(|tag| tag.trim() == etag))
}

/// Whether the client takes a document of this media type. One that says nothing takes everything.
pub(super) fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let mut accepted = values(headers, ACCEPT).map(essence).peekable();
    let family = media_type.split_once('/').map_or("", |(family, _)| family);
    accepted.peek().is_none()
        || accepted.any(|range| match range.split_once('/') {
            Some(("*", "*")) => true,
            Some((of, "*")) => of.eq_ignore_ascii_case(family),
            _ => range.eq_ignore_ascii_case(media_type),
        })
}

/// A media range without its parameters; nothing if the client refuses it by a weight of zero.
fn essence(range: &str) -> &str {
    let mut parts = range.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let refused = parts.any(|parameter| {
        let weight = parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q="));
        weight.and_then(|weight| weight.parse::<f32>().ok()) == Some(0.0)
    });
    if refused { "" } else { essence }
}

/// The members of a header's lists: clients send several lines as well as commas.
fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// Digests name bytes exactly, whatever a cache made of the tag on its way.
fn strong(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let line =
            |(name, value): &(&str, &str)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn conditions_are_met_or_not() {
        let etag = "\"sha256:ab\"";
        for (lines, expected) in [
            (&[][..], None),
            (&[("if-none-match", "\"sha256:ab\"")], Some(304)),
            (&[("if-none-match", "\"x\", W/\"sha256:ab\"")], Some(304)),
            (&[("if-none-match", "\"x\""), ("if-none-match", "\"sha256:ab\"")], Some(304)),
            (&[("if-none-match", "*")], Some(304)),
            (&[("if-none-match", "\"x\"")], None),
            (&[("if-none-match", "sha256:ab")], None),
            (&[("if-match", "\"sha256:ab\"")], None),
            (&[("if-match", "\"x\"")], Some(412)),
        ] {
            assert_eq!(unmet(&headers(lines), etag).map(|status| status.as_u16()), expected, "{lines:?}");
        }
        for (value, expected) in [
            (etag, true),
            ("\"x\"", false),
            ("Sat, 29 Oct 1994 19:43:31 GMT", false),
            ("W/\"sha256:ab\"", false),
        ] {
            assert_eq!(range_is_current(&headers(&[("if-range", value)]), etag), expected, "{value}");
        }
        assert!(range_is_current(&headers(&[]), etag));
    }

    #[test]
    fn clients_say_what_they_take() {
        let index = "application/vnd.oci.image.index.v1+json";
        let other = "application/vnd.oci.image.manifest.v1+json";
        for (lines, expected) in [
            (&[][..], true),
            (&[("accept", "")], true),
            (&[("accept", index)], true),
            (&[("accept", "APPLICATION/vnd.oci.image.index.v1+json;q=0.5")], true),
            (&[("accept", other), ("accept", index)], true),
            (&[("accept", "application/vnd.oci.image.manifest.v1+json, */*")], true),
            (&[("accept", "application/*")], true),
            (&[("accept", "text/*")], false),
            (&[("accept", other)], false),
            (&[("accept", "application/vnd.oci.image.index.v1+json;q=0")], false),
        ] {
            assert_eq!(accepts(&headers(lines), index), expected, "{lines:?}");
        }
    }
}
