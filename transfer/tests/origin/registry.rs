//! A registry that misbehaves.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use transfer::digest::Digest;
use transfer::manifest::{DOCKER_MANIFEST, MAX_MANIFEST_BYTES, OCI_MANIFEST};
use transfer::origin::{Origin, OriginError, RegistryConfig, RegistryOrigin};
use transfer::reference::Selector;

use crate::fixture::*;

const KIB: usize = 1 << 10;

async fn read(server: &Server, range: std::ops::Range<usize>) -> Result<Vec<u8>, OriginError> {
    crate::fixture::read(&server.origin(), range).await
}

#[tokio::test]
async fn a_range_is_asked_for_and_delivered() {
    let blob = pattern(3000 * KIB);
    let served = blob.clone();
    let server = Server::start(move |_, seen| partial(&served, seen)).await;
    assert_eq!(read(&server, 0..blob.len()).await.unwrap(), blob);
    assert_eq!(read(&server, 7..9).await.unwrap(), blob[7..9]);
    assert_eq!(read(&server, 5..5).await.unwrap(), b"");
    assert_eq!(server.ranges(), ["bytes=0-3071999", "bytes=7-8"], "an empty range needs no request");
    let seen = &server.seen()[0];
    assert_eq!(seen.uri.path(), format!("/v2/a/b/blobs/{}", Digest::of(b"whatever")));
    assert_eq!(seen.headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn a_body_that_breaks_off_is_resumed_where_it_stopped() {
    for end in [End::Cut, End::Stall] {
        let blob = pattern(300 * KIB);
        let served = blob.clone();
        let server = Server::start(move |nth, seen| match nth {
            0 => partial_broken(&served, seen, 100 * KIB, end),
            1 => status(503, &[]),
            _ => partial(&served, seen),
        });
        let server = server.await;
        assert_eq!(read(&server, 10..200 * KIB).await.unwrap(), blob[10..200 * KIB], "{end:?}");
        let resumed = format!("bytes={}-{}", 10 + 100 * KIB, 200 * KIB - 1);
        assert_eq!(server.ranges(), ["bytes=10-204799", &resumed, &resumed], "{end:?}");
    }
}

#[tokio::test]
async fn progress_lets_tries_begin_anew() {
    let blob = pattern(1000 * KIB);
    let served = blob.clone();
    let server = Server::start(move |_, seen| partial_broken(&served, seen, 70 * KIB, End::Cut)).await;
    assert_eq!(read(&server, 0..blob.len()).await.unwrap(), blob);
    assert_eq!(server.seen().len(), 15, "far more faults than tries in a row");
}

#[tokio::test]
async fn tries_without_progress_are_bounded() {
    for (sent, end) in [(0, End::Cut), (0, End::Stall), (10, End::Cut), (10, End::Stall)] {
        let blob = pattern(KIB);
        let server = Server::start(move |_, seen| partial_broken(&blob, seen, sent, end)).await;
        let result = read(&server, 0..KIB).await;
        assert_eq!((kind(&result), server.seen().len()), ("unavailable", 3), "{sent} {end:?}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains("of a/b at 127.0.0.1:") && text.contains("of 1024"), "{text}");
    }
}

#[tokio::test]
async fn passing_faults_are_tried_again_and_lasting_ones_are_not() {
    type Row = (u16, &'static [(&'static str, &'static str)], &'static str, usize);
    let rows: &[Row] = &[
        (503, &[], "fine", 2),
        (500, &[], "fine", 2),
        (429, &[("retry-after", "0")], "fine", 2),
        (429, &[("retry-after", "soon")], "fine", 2),
        (503, &[("retry-after", "3600")], "unavailable", 1),
        (404, &[], "not found", 1),
        (401, &[("www-authenticate", "Negotiate")], "denied", 1),
        (403, &[], "denied", 1),
        (400, &[], "invalid", 1),
        (416, &[], "invalid", 1),
        (204, &[], "invalid", 1),
    ];
    for (code, headers, expected, tries) in rows {
        let blob = pattern(KIB);
        let server = Server::start(move |nth, seen| match nth {
            0 => status(*code, headers),
            _ => partial(&blob, seen),
        });
        let server = server.await;
        let result = read(&server, 0..KIB).await;
        assert_eq!((kind(&result), server.seen().len()), (*expected, *tries), "{code} {headers:?}");
        if tries == &1 && expected == &"unavailable" {
            let asked = Some(Duration::from_secs(3600));
            assert!(
                matches!(result, Err(OriginError::Unavailable { retry_after, .. }) if retry_after == asked)
            );
        }
    }
}

#[tokio::test]
async fn an_origin_without_ranges_is_read_from_the_start() {
    let blob = pattern(900 * KIB);
    let served = blob.clone();
    let server = Server::start(move |nth, _| match nth {
        0 => {
            let (body, length) = broken(served.slice(..500 * KIB), served.len(), End::Cut);
            with_body(200, &[("content-length", &length)], body)
        }
        _ => with_body(200, &[], served.clone()),
    });
    let server = server.await;
    assert_eq!(read(&server, 400 * KIB..600 * KIB).await.unwrap(), blob[400 * KIB..600 * KIB]);
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn bytes_that_are_skipped_are_no_progress() {
    let blob = pattern(900 * KIB);
    let server = Server::start(move |_, _| {
        let (body, length) = broken(blob.slice(..500 * KIB), blob.len(), End::Cut);
        with_body(200, &[("content-length", &length)], body)
    });
    let server = server.await;
    assert_eq!(kind(&read(&server, 600 * KIB..700 * KIB).await), "unavailable");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn wrong_answers_to_a_range_are_invalid_at_once() {
    let ranges = ["bytes 1-9/10", "bytes 0-8/10", "bytes 0-99/100", "bytes 0-9", "items 0-9/10", ""];
    let mut rows: Vec<Response<Body>> =
        ranges.iter().map(|range| with_body(206, &[("content-range", range)], pattern(10))).collect();
    rows.push(with_body(206, &[("content-type", "multipart/byteranges; boundary=x")], pattern(10)));
    rows.push(with_body(200, &[], pattern(9)));
    rows.push(with_body(200, &[("content-type", "text/html; charset=utf-8")], pattern(100)));
    rows.push(with_body(200, &[("content-encoding", "gzip")], pattern(100)));
    for row in rows {
        let told = format!("{:?} {:?}", row.status(), row.headers());
        let row = std::sync::Mutex::new(Some(row));
        let server = Server::start(move |_, _| row.lock().unwrap().take().unwrap()).await;
        assert_eq!((kind(&read(&server, 0..10).await), server.seen().len()), ("invalid", 1), "{told}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let origin = RegistryOrigin::new(&address, config()).unwrap();
    let result = origin.manifest("a/b", &tag()).await;
    assert_eq!(kind(&result), "unavailable");
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with(&format!("manifest v1 of a/b at {address}: unavailable: ")), "{text}");
}

#[tokio::test]
async fn a_registry_that_accepts_and_never_answers_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let origin = RegistryOrigin::new(&address, config()).unwrap();
    assert_eq!(kind(&origin.head("a/b", &tag()).await), "unavailable");
    let read = origin.blob("a/b", &Digest::of(b""), 0..1).await;
    assert_eq!(kind(&read), "unavailable");
}

/// A manifest, and the answer that serves it as `content_type` under `digest`.
fn serve(content_type: &str, digest: &str, text: &str) -> Response<Body> {
    let headers = [("content-type", content_type), ("docker-content-digest", digest)];
    let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    with_body(200, &headers, text.to_owned())
}

#[tokio::test]
async fn a_manifest_is_had_whole_and_as_served() {
    let text = manifest(b"config", &[b"layer"]);
    let digest = Digest::of(text.as_bytes());
    let sha512 = format!("sha512:{}", "0f".repeat(64));
    for (content_type, header) in
        [(OCI_MANIFEST, digest.to_string()), ("application/octet-stream", String::new()), ("", sha512)]
    {
        let served = text.clone();
        let server = Server::start(move |_, _| serve(content_type, &header, &served)).await;
        for selector in [tag(), Selector::Digest(digest)] {
            let document = server.origin().manifest("a/b", &selector).await.unwrap();
            assert_eq!((document.digest, document.media_type.as_str()), (digest, OCI_MANIFEST));
            assert_eq!(document.bytes, text.as_bytes());
        }
        assert_eq!(server.seen()[0].uri.path(), "/v2/a/b/manifests/v1");
        let accept = server.seen()[0].headers["accept"].to_str().unwrap().to_owned();
        assert!(accept.contains(OCI_MANIFEST) && accept.contains(DOCKER_MANIFEST), "{accept}");
    }
}

#[tokio::test]
async fn a_manifest_of_other_bytes_is_invalid() {
    let text = manifest(b"config", &[b"layer"]);
    let (right, wrong) = (Digest::of(text.as_bytes()), Digest::of(b"other"));
    let rows = [
        (tag(), serve(OCI_MANIFEST, &wrong.to_string(), &text)),
        (tag(), serve(OCI_MANIFEST, "sha256:12", &text)),
        (Selector::Digest(wrong), serve(OCI_MANIFEST, "", &text)),
        (Selector::Digest(wrong), serve(OCI_MANIFEST, &right.to_string(), &text)),
        (tag(), serve(DOCKER_MANIFEST, "", &text)),
        (tag(), serve("text/html", "", "<html>log in</html>")),
        (
            tag(),
            with_body(200, &[("content-type", OCI_MANIFEST), ("content-encoding", "gzip")], text.clone()),
        ),
        (tag(), serve(OCI_MANIFEST, "", "")),
        (tag(), serve(OCI_MANIFEST, "", &" ".repeat(MAX_MANIFEST_BYTES + 1))),
    ];
    for (at, (selector, answer)) in rows.into_iter().enumerate() {
        let answer = std::sync::Mutex::new(Some(answer));
        let server = Server::start(move |_, _| answer.lock().unwrap().take().unwrap()).await;
        let result = server.origin().manifest("a/b", &selector).await;
        assert_eq!((kind(&result), server.seen().len()), ("invalid", 1), "row {at}: {result:?}");
    }
}

#[tokio::test]
async fn an_endless_manifest_is_invalid() {
    let chunk = || Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 64 * KIB]));
    let server = Server::start(move |_, _| {
        let endless = futures_util::stream::repeat_with(chunk);
        with_body(200, &[("content-type", OCI_MANIFEST)], Body::from_stream(endless))
    });
    let server = server.await;
    assert_eq!(kind(&server.origin().manifest("a/b", &tag()).await), "invalid");
}

#[tokio::test]
async fn a_manifest_that_breaks_off_is_asked_for_again() {
    for end in [End::Cut, End::Stall] {
        let text = manifest(b"config", &[]);
        let server = Server::start(move |nth, _| match nth {
            0 => {
                let (body, length) = broken(Bytes::from(text[..9].to_owned()), text.len(), end);
                with_body(200, &[("content-type", OCI_MANIFEST), ("content-length", &length)], body)
            }
            1 => status(502, &[]),
            _ => serve(OCI_MANIFEST, "", &text),
        });
        let server = server.await;
        assert_eq!(kind(&server.origin().manifest("a/b", &tag()).await), "fine", "{end:?}");
    }
}

#[tokio::test]
async fn a_head_tells_the_digest() {
    let text = manifest(b"config", &[]);
    let digest = Digest::of(text.as_bytes());
    let other = Digest::of(b"other").to_string();
    let rows = [
        (tag(), digest.to_string(), "fine", 1),
        (Selector::Digest(digest), digest.to_string(), "fine", 1),
        (tag(), String::new(), "fine", 2),
        (tag(), "nonsense".into(), "invalid", 1),
        (Selector::Digest(digest), other, "invalid", 1),
    ];
    for (selector, header, expected, requests) in rows {
        let (told, served) = (header.clone(), text.clone());
        let server = Server::start(move |_, _| serve(OCI_MANIFEST, &header, &served)).await;
        let result = server.origin().head("a/b", &selector).await;
        assert_eq!((kind(&result), server.seen().len()), (expected, requests), "{selector} {told}");
        assert_eq!(server.seen()[0].method, Method::HEAD);
        assert!(result.is_err() || result.unwrap() == digest);
    }
}

#[tokio::test]
async fn the_size_of_a_blob_is_told() {
    let chunked = || Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(pattern(1))]));
    let by_range = |range| move || with_body(206, &[("content-range", range)], pattern(1));
    type Answer = Box<dyn Fn() -> Response<Body> + Send + Sync>;
    let rows: [(Answer, Answer, Result<u64, &str>, usize); 7] = [
        (Box::new(|| with_body(200, &[], pattern(1234))), Box::new(|| status(500, &[])), Ok(1234), 1),
        (Box::new(|| status(404, &[])), Box::new(|| status(500, &[])), Err("not found"), 1),
        (Box::new(move || with_body(200, &[], chunked())), Box::new(by_range("bytes 0-0/99")), Ok(99), 2),
        (Box::new(|| status(405, &[])), Box::new(by_range("bytes 0-0/99")), Ok(99), 2),
        (Box::new(|| status(501, &[])), Box::new(|| with_body(200, &[], pattern(77))), Ok(77), 2),
        (Box::new(|| status(405, &[])), Box::new(by_range("bytes 0-0/*")), Err("invalid"), 2),
        (Box::new(|| status(405, &[])), Box::new(|| status(404, &[])), Err("not found"), 2),
    ];
    for (at, (head, get, expected, requests)) in rows.into_iter().enumerate() {
        let server =
            Server::start(move |_, seen| if seen.method == Method::HEAD { head() } else { get() }).await;
        let size = server.origin().blob_size("a/b", &Digest::of(b"")).await;
        assert_eq!(
            size.as_ref().map_err(|_| kind(&size)),
            expected.as_ref().map_err(|kind| *kind),
            "row {at}"
        );
        assert_eq!(server.seen().len(), requests, "row {at}");
    }
}

#[tokio::test]
async fn a_registry_that_knows_no_head_is_asked_for_the_document() {
    for code in [405, 501] {
        let text = manifest(b"config", &[]);
        let digest = Digest::of(text.as_bytes());
        let server = Server::start(move |_, seen| match seen.method {
            Method::HEAD => status(code, &[]),
            _ => serve(OCI_MANIFEST, "", &text),
        });
        let server = server.await;
        assert_eq!(server.origin().head("a/b", &tag()).await, Ok(digest), "{code}");
    }
}

#[tokio::test]
async fn a_body_that_drips_is_as_good_as_stalled() {
    let byte = |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
    };
    let server = Server::start(move |_, seen| {
        let (first, last) = seen.span();
        let length = (last + 1 - first).to_string();
        let drips = futures_util::stream::StreamExt::then(futures_util::stream::iter(0..), byte);
        let range = format!("bytes {first}-{last}/{}", last + 1);
        with_body(206, &[("content-range", &range), ("content-length", &length)], Body::from_stream(drips))
    });
    let server = server.await;
    let config =
        RegistryConfig { stall: Duration::from_secs(5), drip_window: Duration::from_millis(500), ..config() };
    let result = crate::fixture::read(&server.origin_with(config), 0..200).await;
    assert_eq!((kind(&result), server.seen().len()), ("unavailable", 3));
    let text = result.unwrap_err().to_string();
    assert!(text.contains("the body brought") && text.contains("of 200"), "{text}");
}

#[tokio::test]
async fn what_is_no_http_is_unavailable() {
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "\0\0\0",
        "HTTP/1.1 200 OK\r\nx\r\n\r\n",
        "",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(garbage.as_bytes()).await;
            }
        });
        let origin = RegistryOrigin::new(&address, config()).unwrap();
        assert_eq!(kind(&origin.manifest("a/b", &tag()).await), "unavailable", "{garbage:?}");
        assert_eq!(kind(&origin.blob("a/b", &Digest::of(b""), 0..1).await), "unavailable", "{garbage:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_head_without_end_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
                while stream.write_all(b"x: y\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        }
    });
    let origin = RegistryOrigin::new(&address, config()).unwrap();
    assert_eq!(kind(&origin.blob("a/b", &Digest::of(b""), 0..1).await), "unavailable");
    server.abort();
}

#[tokio::test]
async fn what_the_registry_says_reaches_the_person() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\u001b[31m unknown"}]}"#;
    let server = Server::start(move |_, _| with_body(404, &[], body)).await;
    let error = server.origin().manifest("a/b", &tag()).await.unwrap_err().to_string();
    assert!(error.ends_with(": not found: MANIFEST_UNKNOWN manifest[31m unknown"), "{error:?}");
}

#[tokio::test]
async fn names_that_could_alter_the_request_are_refused() {
    let server = Server::start(|_, _| status(200, &[])).await;
    for repository in ["..", "a/../b", "a?b", "a#b", "a b", "", "/", "A", "a//b", "a%2fb", "http://elsewhere"]
    {
        assert_eq!(kind(&server.origin().head(repository, &tag()).await), "invalid", "{repository}");
        assert_eq!(
            kind(&server.origin().blob(repository, &Digest::of(b""), 0..1).await),
            "invalid",
            "{repository}"
        );
    }
    for name in ["../x", "", "a?b", "a/b"] {
        assert_eq!(kind(&server.origin().head("a", &Selector::Tag(name.into())).await), "invalid", "{name}");
    }
    assert_eq!(server.seen().len(), 0);
    for registry in ["", "a b", "ftp://a", "a/b", "user@host", "http://a/B"] {
        assert!(RegistryOrigin::new(registry, config()).is_err(), "{registry}");
    }
    for registry in ["docker.io", "https://quay.io/", "http://10.0.0.1:5000", "[::1]:5000", "https://a/b"] {
        assert!(RegistryOrigin::new(registry, config()).is_ok(), "{registry}");
    }
}
