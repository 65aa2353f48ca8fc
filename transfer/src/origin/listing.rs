//! Lists of a repository, passed on page by page: its tags, and what refers to one of its manifests.
//!
//! The body is the registry's own. What goes back and forth besides is only what has a meaning in the specification:
//! the query, the next page's query, and which filters were applied. Asks nobody.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{self, HeaderMap};

use super::answer::text;
use crate::digest::Digest;
use crate::manifest::OCI_INDEX;

/// The largest page: what the specification demands of an index.
pub const MAX_LISTING_BYTES: usize = 4 << 20;
/// The longest query, of ours or of a next page. Registries put the last name into it, or a token of their own.
const MAX_QUERY_BYTES: usize = 4 << 10;

/// Which list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// The repository's tags.
    Tags,
    /// The manifests whose subject has this digest.
    Referrers(Digest),
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What to serve it as: some kind of JSON.
    pub content_type: String,
    /// At most [`MAX_LISTING_BYTES`], as the origin served it.
    pub body: Bytes,
    /// The query that asks for the next page of the same list, if there is one.
    pub next: Option<String>,
    /// `OCI-Filters-Applied`: the filters of the query that the origin heeded.
    pub filters_applied: Option<String>,
}

impl Listing {
    /// Where it stands below a repository.
    pub(super) fn path(&self) -> (&'static str, String) {
        match self {
            Self::Tags => ("tags", "list".to_owned()),
            Self::Referrers(digest) => ("referrers", digest.to_string()),
        }
    }

    /// What to ask for it as.
    pub(super) fn accept(&self) -> &'static str {
        match self {
            Self::Tags => "application/json",
            Self::Referrers(_) => OCI_INDEX,
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags => f.write_str("tags"),
            Self::Referrers(digest) => write!(f, "referrers of {digest}"),
        }
    }
}

/// The page of `tags` that `query` asks for, as the specification writes it: at most `n`, from behind `last`.
pub(super) fn page_of_tags(repository: &str, tags: &BTreeSet<String>, query: &str) -> Answered {
    let pairs = pairs(query);
    let parameter =
        |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
    let limit = parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let last = parameter("last").map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = tags.range((last, Bound::Unbounded));
    let page: Vec<&String> = rest.by_ref().take(limit).collect();
    let next = page.last().filter(|_| rest.next().is_some()).map(|last| format!("n={limit}&last={last}"));
    let body = serde_json::json!({ "name": repository, "tags": page }).to_string();
    Answered { content_type: "application/json".into(), body: body.into(), next, filters_applied: None }
}

/// A query, written anew without what is for us alone, or nothing. What is too long to be one is left out.
pub(super) fn clean(query: &str) -> Option<String> {
    if query.len() > MAX_QUERY_BYTES {
        return None;
    }
    let kept: Vec<_> = pairs(query).into_iter().filter(|(name, _)| name != "ns").collect();
    let url = Url::parse_with_params("http://query", kept).ok()?;
    url.query().filter(|query| !query.is_empty()).map(str::to_owned)
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let url = Url::parse("http://query").map(|mut url| {
        url.set_query(Some(query));
        url
    });
    url.iter().flat_map(Url::query_pairs).map(|(name, value)| (name.into(), value.into())).collect()
}

/// What the answer of `url` says, or what is wrong with it.
pub(super) fn read(headers: &HeaderMap, url: &Url, body: Bytes) -> Result<Answered, String> {
    let content_type = text(headers, header::CONTENT_TYPE).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !essence.ends_with("+json") {
        return Err(format!("a list served as {content_type:?}, which is no JSON"));
    }
    Ok(Answered {
        content_type: content_type.to_owned(),
        body,
        next: headers
            .get_all(header::LINK)
            .iter()
            .filter_map(|link| next_page(link.to_str().ok()?, url))
            .next(),
        filters_applied: headers
            .get("oci-filters-applied")
            .and_then(|value| Some(value.to_str().ok()?.to_owned())),
    })
}

/// The query of the next page, if `link` leads to one of the same list: `<URL>; rel="next"`.
fn next_page(link: &str, url: &Url) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = parameters.split([';', ',']).any(|parameter| {
        let parameter: String = parameter.chars().filter(|c| !c.is_whitespace() && *c != '"').collect();
        parameter.eq_ignore_ascii_case("rel=next")
    });
    let next = url.join(target).ok()?;
    let is_same_list = next.path() == url.path() && next.host_str() == url.host_str();
    (is_next && is_same_list).then(|| clean(next.query()?)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_passed_on_without_what_is_ours() {
        let long = "n=".to_owned() + &"1".repeat(MAX_QUERY_BYTES);
        let rows = [
            ("", None),
            ("n=5&last=v1", Some("n=5&last=v1")),
            ("ns=quay.io", None),
            ("ns=quay.io&artifactType=application%2Fx%2By", Some("artifactType=application%2Fx%2By")),
            ("last=a#b c", Some("last=a%23b+c")),
            ("next_page=gAAA==", Some("next_page=gAAA%3D%3D")),
            (&long, None),
        ];
        for (query, expected) in rows {
            assert_eq!(clean(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn only_a_link_to_the_same_list_is_a_next_page() {
        let url: Url = "https://r.example/v2/hub/a/tags/list?n=2".parse().unwrap();
        let rows = [
            (r#"</v2/hub/a/tags/list?n=2&last=b>; rel="next""#, Some("n=2&last=b")),
            (r#"<https://r.example/v2/hub/a/tags/list?last=b>; rel=next"#, Some("last=b")),
            (r#"<?last=b>;rel="next""#, Some("last=b")),
            (r#"<http://r.example/v2/hub/a/tags/list?last=b>; rel="next""#, Some("last=b")),
            (r#"<https://evil.example/v2/hub/a/tags/list?last=b>; rel="next""#, None),
            (r#"</v2/hub/b/tags/list?last=b>; rel="next""#, None),
            (r#"</v2/hub/a/tags/list?last=b>; rel="prev""#, None),
            (r#"</v2/hub/a/tags/list>; rel="next""#, None),
            ("nonsense", None),
            ("", None),
        ];
        for (link, expected) in rows {
            assert_eq!(next_page(link, &url).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn a_list_is_json() {
        let url: Url = "https://r.example/v2/a/tags/list".parse().unwrap();
        let rows = [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            (OCI_INDEX, true),
            ("text/html", false),
            ("", false),
        ];
        for (content_type, is_list) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
            assert_eq!(read(&headers, &url, Bytes::new()).is_ok(), is_list, "{content_type}");
        }
    }
}
