//! Mirrors of a registry, well-behaved and not.

use axum::body::Body;
use axum::http::Response;
use tempfile::TempDir;
use tokio::net::TcpListener;
use transfer::digest::Digest;
use transfer::origin::{Credentials, Listing, Origin, RegistryConfig, RegistryOrigin};
use transfer::reference::Selector;

use crate::fixture::*;

fn behind(mirrors: &[&Server], origin: &Server) -> RegistryOrigin {
    origin.origin_with(config_of(mirrors))
}

fn config_of(mirrors: &[&Server]) -> RegistryConfig {
    RegistryConfig { mirrors: mirrors.iter().map(|mirror| mirror.url()).collect(), ..config() }
}

fn image() -> Response<Body> {
    with_body(200, &[], manifest(b"config", &[]))
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_origin_last() {
    let [first, second] = [Server::start(|_, _| status(404, &[])).await, Server::start(|_, _| image()).await];
    let origin = Server::start(|_, _| image()).await;
    let reader = behind(&[&first, &second], &origin);
    reader.manifest("a/b", &tag()).await.unwrap();
    reader.head("a/b", &tag()).await.unwrap();
    reader.blob_size("a/b", &Digest::of(b"")).await.unwrap();
    // The second has no digest in its heads, so that a head takes two requests.
    assert_eq!((first.seen().len(), second.seen().len(), origin.seen().len()), (3, 4, 0));
    let counts = reader.list("a/b", &Listing::Tags, "").await;
    assert_eq!((kind(&counts), origin.seen().len()), ("invalid", 1), "lists are the origin's own");
}

#[tokio::test]
async fn whatever_is_wrong_with_a_mirror_the_next_is_asked() {
    let digest = Digest::of(manifest(b"config", &[]).as_bytes());
    let answers: [fn() -> Response<Body>; 8] = [
        || status(404, &[]),
        || status(401, &[("www-authenticate", "Basic")]),
        || status(403, &[]),
        || status(429, &[("retry-after", "3600")]),
        || status(500, &[]),
        || with_body(200, &[("content-type", "text/html")], "<html>"),
        || with_body(200, &[("content-encoding", "gzip")], "x"),
        || with_body(200, &[], manifest(b"other", &[])),
    ];
    for (at, answer) in answers.into_iter().enumerate() {
        let mirror = Server::start(move |_, _| answer()).await;
        let origin = Server::start(|_, _| image()).await;
        let reader = behind(&[&mirror], &origin);
        let found = reader.manifest("a/b", &Selector::Digest(digest)).await;
        assert_eq!(found.map(|document| document.digest), Ok(digest), "row {at}");
        assert_eq!((mirror.seen().len(), origin.seen().len()), (1, 1), "row {at}");
    }
}

#[tokio::test]
async fn what_nobody_has_is_told_as_the_origin_tells_it() {
    let mirror = Server::start(|_, _| status(500, &[])).await;
    let origin = Server::start(|_, _| status(404, &[])).await;
    let reader = behind(&[&mirror], &origin);
    let error = reader.manifest("a/b", &tag()).await.unwrap_err().to_string();
    assert_eq!(error, format!("manifest v1 of a/b at {}: not found", origin.address));
}

#[tokio::test]
async fn a_mirror_that_is_down_is_left_alone_for_a_while() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let broken = Server::start(|_, _| status(503, &[])).await;
    let fine = Server::start(|_, _| status(404, &[])).await;
    let origin = Server::start(|_, _| image()).await;
    let mut config = config_of(&[&broken, &fine]);
    config.mirrors.push(silent);
    let counts = config.counts.clone();
    let reader = origin.origin_with(config);
    for _ in 0..5 {
        reader.manifest("a/b", &tag()).await.unwrap();
    }
    assert_eq!((broken.seen().len(), fine.seen().len(), origin.seen().len()), (1, 5, 5));
    let counts = counts.read();
    assert_eq!((counts.ok, counts.not_found, counts.unavailable), (5, 5, 2));
}

#[tokio::test]
async fn a_blob_goes_on_from_the_next_where_a_mirror_broke_off() {
    for end in [End::Cut, End::Stall] {
        let blob = pattern(200 << 10);
        let (half, whole) = (blob.clone(), blob.clone());
        let mirror = Server::start(move |_, seen| partial_broken(&half, seen, 100 << 10, end)).await;
        let origin = Server::start(move |_, seen| partial(&whole, seen)).await;
        let reader = behind(&[&mirror], &origin);
        assert_eq!(read(&reader, 0..blob.len()).await.unwrap(), blob, "{end:?}");
        assert_eq!(mirror.ranges(), ["bytes=0-204799"], "{end:?}");
        assert_eq!(origin.ranges(), ["bytes=102400-204799"], "{end:?}");
    }
}

#[tokio::test]
async fn a_mirror_with_other_bytes_is_not_asked_for_that_blob_again() {
    let (blob, other) = (pattern(100 << 10), pattern(99 << 10));
    let (right, mut wrong) = (blob.clone(), other.to_vec());
    wrong.resize(blob.len(), 7);
    let wrong = bytes::Bytes::from(wrong);
    let digest = Digest::of(&blob);
    let bad = Server::start(move |_, seen| partial(&wrong, seen)).await;
    let origin = Server::start(move |_, seen| partial(&right, seen)).await;
    let reader = behind(&[&bad], &origin);
    let whole = async || collect(reader.blob("a/b", &digest, 0..100 << 10).await).await.unwrap();
    assert_ne!(whole().await, blob, "the bytes are their reader's to check");
    assert_eq!(whole().await, blob);
    assert_eq!((bad.seen().len(), origin.seen().len()), (1, 1));
    collect(reader.blob("a/b", &Digest::of(b"another"), 0..10).await).await.unwrap();
    assert_eq!((bad.seen().len(), origin.seen().len()), (2, 1), "it may be right about others");
}

#[tokio::test]
async fn a_mirror_is_not_shown_the_origins_credentials() {
    let directory = TempDir::new().unwrap();
    let password_file = directory.path().join("password");
    std::fs::write(&password_file, "hunter2").unwrap();
    let challenge = |_: usize, seen: &Seen| match seen.authorization() {
        "" => status(401, &[("www-authenticate", "Basic")]),
        _ => image(),
    };
    let (mirror, origin) = (Server::start(challenge).await, Server::start(challenge).await);
    let basic = Credentials::Basic { username: "me".into(), password_file };
    let config = RegistryConfig { credentials: Some(basic), ..config_of(&[&mirror]) };
    assert_eq!(kind(&origin.origin_with(config).manifest("a/b", &tag()).await), "fine");
    assert_eq!((mirror.seen().len(), origin.seen().len()), (1, 2));
    assert_eq!(mirror.seen()[0].authorization(), "");

    let keyed = directory.path().join("config.json");
    let auths = format!(r#"{{"auths":{{"{}":{{"username":"you","password":"mine"}}}}}}"#, mirror.address);
    std::fs::write(&keyed, auths).unwrap();
    let config =
        RegistryConfig { credentials: Some(Credentials::DockerConfig(keyed)), ..config_of(&[&mirror]) };
    assert_eq!(kind(&origin.origin_with(config).manifest("a/b", &tag()).await), "fine");
    assert_eq!(
        (mirror.seen().len(), origin.seen().len()),
        (3, 2),
        "a file can have an entry of the mirror's own"
    );
}

#[tokio::test]
async fn a_path_in_a_location_stands_before_the_repository() {
    let issuer = Server::start(|_, _| with_body(200, &[], r#"{"token":"t"}"#)).await;
    let challenge = format!(r#"Bearer realm="{}""#, issuer.url());
    let server = Server::start(move |_, seen| match seen.authorization() {
        "" => status(401, &[("www-authenticate", &challenge)]),
        _ => image(),
    });
    let server = server.await;
    let origin = RegistryOrigin::new(&format!("{}/proxy/hub/", server.url()), config()).unwrap();
    origin.manifest("library/x", &tag()).await.unwrap();
    assert_eq!(server.asked()[1], "GET /v2/proxy/hub/library/x/manifests/v1");
    assert_eq!(issuer.asked(), ["GET /?scope=repository%3Aproxy%2Fhub%2Flibrary%2Fx%3Apull"]);

    let absent = Server::start(|_, _| status(404, &[])).await;
    let mirrors = vec![format!("{}/cache", server.url())];
    let mirrored = absent.origin_with(RegistryConfig { mirrors, ..config() });
    mirrored.manifest("library/x", &tag()).await.unwrap();
    assert_eq!(server.asked().last().unwrap(), "GET /v2/cache/library/x/manifests/v1");
    let error = origin.head("Bad", &tag()).await.unwrap_err().to_string();
    assert!(error.contains("\"Bad\" is no repository"), "{error}");
}
