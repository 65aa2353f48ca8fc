//! What a node asks of a registry, and how much of it: caps, pauses and counts.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Response, StatusCode};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use transfer::digest::Digest;
use transfer::manifest::OCI_MANIFEST;
use transfer::origin::{Origin, OriginError, RegistryConfig, RequestCounts};

use crate::fixture::*;

const KIB: usize = 1 << 10;

fn image() -> Response<Body> {
    with_body(200, &[("content-type", OCI_MANIFEST)], manifest(b"config", &[]))
}

#[tokio::test]
async fn no_more_requests_are_open_than_allowed() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (open.clone(), most.clone());
    let blob = pattern(10);
    let server = Server::start(move |_, _| {
        let open = counted.clone();
        highest.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // A body counts as open until its last bytes.
        let last = stream::once(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            open.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_static(b"9"))
        });
        let body = Body::from_stream(stream::iter([Ok(blob.slice(..9))]).chain(last));
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header("content-range", "bytes 0-9/10")
            .header("content-length", "10")
            .body(body)
            .unwrap()
    });
    let server = server.await;
    let origin = server.origin_with(RegistryConfig { max_requests: NonZeroU32::new(4).unwrap(), ..config() });
    let results = join_all((0..20).map(|_| read(&origin, 0..10))).await;
    assert!(results.iter().all(Result::is_ok));
    assert_eq!((server.seen().len(), most.load(Ordering::SeqCst)), (20, 3), "one is kept for documents");
}

#[tokio::test]
async fn a_document_does_not_queue_behind_blobs() {
    let blob = pattern(10);
    let server = Server::start(move |_, seen| match seen.uri.path().contains("/blobs/") {
        true => partial(&blob, seen),
        false => image(),
    });
    let server = server.await;
    let origin = server.origin_with(RegistryConfig { max_requests: NonZeroU32::new(2).unwrap(), ..config() });
    let digest = Digest::of(b"whatever");
    let unread = origin.blob("a/b", &digest, 0..10).await.unwrap();
    assert_eq!(kind(&origin.manifest("a/b", &tag()).await), "fine");
    let second = origin.blob("a/b", &digest, 0..10);
    assert!(
        tokio::time::timeout(Duration::from_millis(50), second).await.is_err(),
        "there is no leave for it"
    );
    drop(unread);
    assert_eq!(kind(&read(&origin, 0..10).await), "fine");
}

#[tokio::test]
async fn bytes_come_no_faster_than_allowed_over_all_blobs() {
    let blob = pattern(200 * KIB);
    let served = blob.clone();
    let server = Server::start(move |_, seen| partial(&served, seen)).await;
    let max_rate = NonZeroU64::new(400 * KIB as u64);
    let origin = server.origin_with(RegistryConfig { max_rate, ..config() });
    let start = Instant::now();
    let whole = join_all((0..3).map(|_| read(&origin, 0..blob.len()))).await;
    // 600 KiB at 400 KiB a second, of which a quarter of a second may come at once.
    let took = start.elapsed().as_secs_f64();
    assert!(whole.iter().all(|bytes| bytes.as_ref().unwrap() == &blob));
    assert!((1.2..4.0).contains(&took), "{took}");
}

#[tokio::test]
async fn a_rate_is_kept_smoothly() {
    let blob = pattern(400 * KIB);
    let served = blob.clone();
    let server = Server::start(move |_, seen| partial(&served, seen)).await;
    let origin =
        server.origin_with(RegistryConfig { max_rate: NonZeroU64::new(400 * KIB as u64), ..config() });
    let stream = origin.blob("a/b", &Digest::of(b"whatever"), 0..400 * KIB as u64).await.unwrap();
    let sizes: Vec<usize> = stream.map_ok(|chunk| chunk.len()).try_collect().await.unwrap();
    assert!(sizes.iter().all(|size| *size <= 100 * KIB), "{sizes:?}");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_gets_it_from_everybody() {
    let server = Server::start(|nth, _| match nth {
        0 => status(429, &[("retry-after", "3600")]),
        _ => image(),
    });
    let server = server.await;
    let config = config();
    let (pause, counts) = (config.pause.clone(), config.counts.clone());
    let origin = server.origin_with(config);
    for _ in 0..3 {
        let error = origin.manifest("a/b", &tag()).await.unwrap_err();
        let OriginError::Unavailable { retry_after: Some(asked), .. } = error else { panic!("{error}") };
        assert!((3590..=3600).contains(&asked.as_secs()), "{asked:?}");
    }
    assert_eq!(kind(&read(&origin, 0..10).await), "unavailable");
    assert_eq!(server.seen().len(), 1, "nothing else was asked");
    assert!(pause.remaining().unwrap().as_secs() >= 3590);
    assert_eq!(counts.read(), RequestCounts { throttled: 1, ..RequestCounts::default() });
}

#[tokio::test]
async fn a_short_pause_is_waited_for() {
    let server = Server::start(|_, _| image()).await;
    let config = config();
    config.pause.ask_for(Duration::from_millis(300));
    let start = Instant::now();
    assert_eq!(kind(&server.origin_with(config).manifest("a/b", &tag()).await), "fine");
    assert!(start.elapsed() >= Duration::from_millis(290));
}

#[tokio::test]
async fn pauses_are_told_in_all_their_forms() {
    type Row = (u16, &'static [(&'static str, &'static str)], Option<u64>);
    let rows: &[Row] = &[
        (429, &[("retry-after", "100")], Some(100)),
        (503, &[("retry-after", "100")], Some(100)),
        (
            503,
            &[("retry-after", "Sun, 06 Nov 1994 08:51:40 GMT"), ("date", "Sun, 06 Nov 1994 08:50:00 GMT")],
            Some(100),
        ),
        (429, &[("retry-after", "999999999")], Some(3600)),
        (429, &[], Some(1)),
        (503, &[], None),
        (500, &[], None),
        (404, &[("retry-after", "100")], None),
    ];
    for (code, headers, expected) in rows {
        let server = Server::start(|_, _| status(*code, headers)).await;
        let mut config = config();
        config.retry.tries = 1;
        let pause = config.pause.clone();
        assert!(server.origin_with(config).manifest("a/b", &tag()).await.is_err());
        let left = pause.remaining().map(|left| left.as_secs_f64().ceil() as u64);
        assert_eq!(left, *expected, "{code} {headers:?}");
    }
}

#[tokio::test]
async fn a_registry_that_says_only_that_it_is_too_much_is_left_alone_longer_each_time() {
    let server = Server::start(|_, _| status(429, &[])).await;
    let mut config = config();
    config.retry.tries = 1;
    config.retry.max_retry_after = Duration::from_secs(10);
    let pause = config.pause.clone();
    let origin = server.origin_with(config);
    let mut left = Vec::new();
    for _ in 0..2 {
        // Those who are answered so together do not each double it.
        let selector = tag();
        join_all((0..10).map(|_| origin.manifest("a/b", &selector))).await;
        left.push(pause.remaining().unwrap().as_secs_f64().ceil() as u64);
    }
    assert_eq!(left, [1, 2]);
}

#[tokio::test]
async fn requests_are_counted_by_what_came_of_them() {
    type Row = (fn() -> Response<Body>, RequestCounts);
    let rows: [Row; 6] = [
        (image, RequestCounts { ok: 1, ..RequestCounts::default() }),
        (|| status(404, &[]), RequestCounts { not_found: 1, ..RequestCounts::default() }),
        (|| status(403, &[]), RequestCounts { denied: 1, ..RequestCounts::default() }),
        (|| status(429, &[]), RequestCounts { throttled: 1, ..RequestCounts::default() }),
        (|| status(502, &[]), RequestCounts { unavailable: 1, ..RequestCounts::default() }),
        (|| with_body(200, &[], "<html>"), RequestCounts { invalid: 1, ..RequestCounts::default() }),
    ];
    for (answer, expected) in rows {
        let server = Server::start(move |_, _| answer()).await;
        let mut config = config();
        config.retry.tries = 1;
        let counts = config.counts.clone();
        let _ = server.origin_with(config).manifest("a/b", &tag()).await;
        assert_eq!(counts.read(), expected);
    }
}
