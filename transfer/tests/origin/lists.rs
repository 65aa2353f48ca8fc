//! Lists of tags and referrers.

use std::collections::BTreeMap;

use tempfile::TempDir;
use transfer::digest::Digest;
use transfer::manifest::{OCI_INDEX, OCI_MANIFEST};
use transfer::origin::{Listing, MAX_LISTING_BYTES, Origin, open_local};

use crate::fixture::*;

#[tokio::test]
async fn a_list_of_tags_is_passed_on_page_by_page() {
    let server = Server::start(|nth, _| {
        let link = r#"</v2/hub/a/tags/list?n=2&last=v2>; rel="next""#;
        let headers = [("content-type", "application/json"), ("link", link)];
        with_body(200, &headers[..2 - nth], r#"{"name":"hub/a","tags":["v1","v2"]}"#)
    });
    let server = server.await;
    let location = format!("{}/hub", server.url());
    let origin = transfer::origin::RegistryOrigin::new(&location, config()).unwrap();
    let page = origin.list("a", &Listing::Tags, "n=2&ns=quay.io").await.unwrap();
    assert_eq!((page.content_type.as_str(), page.next.as_deref()), ("application/json", Some("n=2&last=v2")));
    assert_eq!(page.body, r#"{"name":"hub/a","tags":["v1","v2"]}"#);
    let last = origin.list("a", &Listing::Tags, &page.next.unwrap()).await.unwrap();
    assert_eq!(last.next, None);
    assert_eq!(server.asked(), ["GET /v2/hub/a/tags/list?n=2", "GET /v2/hub/a/tags/list?n=2&last=v2"]);
}

#[tokio::test]
async fn referrers_are_passed_on_with_their_filter() {
    let server = Server::start(|_, _| {
        let headers = [("content-type", OCI_INDEX), ("oci-filters-applied", "artifactType")];
        with_body(200, &headers, r#"{"schemaVersion":2,"manifests":[]}"#)
    });
    let server = server.await;
    let digest = Digest::of(b"x");
    let listing = Listing::Referrers(digest);
    let page = server.origin().list("a", &listing, "artifactType=application/x").await.unwrap();
    assert_eq!(
        (page.content_type.as_str(), page.filters_applied.as_deref()),
        (OCI_INDEX, Some("artifactType"))
    );
    let asked = format!("GET /v2/a/referrers/{digest}?artifactType=application%2Fx");
    assert_eq!(server.asked(), [asked]);
    assert_eq!(server.seen()[0].headers["accept"], OCI_INDEX);
}

#[tokio::test]
async fn what_is_no_list_is_refused() {
    let json = &[("content-type", "application/json")];
    let rows = [
        (status(404, &[]), "not found"),
        (with_body(200, &[("content-type", "text/html")], "<html>"), "invalid"),
        (with_body(200, json, " ".repeat(MAX_LISTING_BYTES)), "fine"),
        (with_body(200, json, " ".repeat(MAX_LISTING_BYTES + 1)), "invalid"),
    ];
    for (answer, expected) in rows {
        let told = format!("{answer:?}");
        let answer = std::sync::Mutex::new(Some(answer));
        let server = Server::start(move |_, _| answer.lock().unwrap().take().unwrap()).await;
        assert_eq!(kind(&server.origin().list("a", &Listing::Tags, "").await), expected, "{told}");
    }
}

#[tokio::test]
async fn a_layout_lists_its_tags() {
    let directory = TempDir::new().unwrap();
    let names = ["v2", "v1", "quay.io/team/app:v3", "quay.io/other:v4"];
    let entries: Vec<_> = names
        .map(|name| {
            let digest = Digest::of(name.as_bytes());
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":2,"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
            )
        })
        .into();
    write_layout(directory.path(), &[], &format!(r#"{{"manifests":[{}]}}"#, entries.join(",")));
    let origin = open_local(directory.path()).await.unwrap();
    let rows: [(&str, &[&str], Option<&str>); 6] = [
        ("", &["v1", "v2", "v3"], None),
        ("n=2", &["v1", "v2"], Some("n=2&last=v2")),
        ("n=2&last=v2", &["v3"], None),
        ("last=v1", &["v2", "v3"], None),
        ("n=0", &[], None),
        ("last=zzz&n=many", &[], None),
    ];
    for (query, expected, next) in rows {
        let page = origin.list("team/app", &Listing::Tags, query).await.unwrap();
        let body: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&page.body).unwrap();
        assert_eq!((&body["name"], &body["tags"]), (&"team/app".into(), &expected.into()), "{query}");
        assert_eq!(page.next.as_deref(), next, "{query}");
    }
    let referrers = origin.list("team/app", &Listing::Referrers(Digest::of(b"")), "").await;
    assert_eq!(kind(&referrers), "not found");
}
