//! What a client of the mirror sees, request by request.

use faasnet::api::FunctionState;
use serde_json::Value;

use super::http::{ask, get, head, head_with, open};
use super::stage::{self, FAST, Stage, slow};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_starts_nothing_and_a_get_provisions() {
    let stage = Stage::with_nodes(1, FAST).await;
    let node = &stage.nodes[0];
    let path = stage.manifest_path();
    let seen = head(node, &path).await;
    assert_eq!(seen.status, 200);
    assert_eq!(seen.header("docker-content-digest"), stage.image.manifest.to_string());
    assert_eq!(seen.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
    assert!(seen.body.is_empty());
    assert!(node.functions().is_empty(), "a HEAD must not start to provision");

    let got = get(node, &path, &[]).await;
    assert_eq!(got.header("content-length"), got.body.len().to_string());
    assert_eq!(seen.header("content-length"), got.body.len().to_string());
    assert_eq!(stage::digest_of(&got.body), stage.image.manifest.to_string());
    let function = node.finished(stage.function()).await.unwrap();
    assert_eq!(function.state, FunctionState::Ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_served_whole_and_in_ranges() {
    let stage = Stage::with_nodes(2, FAST).await;
    stage.provision_everywhere().await;
    let (digest, content) = stage.largest_blob();
    let size = content.len();
    let node = &stage.nodes[1];
    let path = format!("/v2/demo/image/blobs/{digest}");

    let whole = get(node, &path, &[]).await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == content, "the whole blob");
    assert_eq!(whole.header("docker-content-digest"), digest);
    assert_eq!(head(node, &path).await.header("content-length"), size.to_string());

    for (range, expected) in [
        ("bytes=0-0", 0..1),
        ("bytes=262143-262144", 262_143..262_145),
        ("bytes=1000-", 1000..size),
        ("bytes=-5", size - 5..size),
    ] {
        let part = get(node, &path, &[("Range", range)]).await;
        assert_eq!(part.status, 206, "{range}");
        let described = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), described);
        assert!(part.body == content[expected], "{range}");
    }
    let beyond = get(node, &path, &[("Range", &format!("bytes={size}-"))]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, format!("bytes */{size}")));
    let ignored = head_with(node, &path, &[("Range", "bytes=0-1")]).await;
    assert_eq!((ignored.status, ignored.header("content-length")), (200, size.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_ranges_come_as_parts() {
    let stage = Stage::with_nodes(1, FAST).await;
    let (digest, content) = stage.largest_blob();
    let (node, size) = (&stage.nodes[0], content.len());
    get(node, &stage.manifest_path(), &[]).await;
    let path = format!("/v2/demo/image/blobs/{digest}");
    let answer = get(node, &path, &[("Range", "bytes=262140-262150, 0-1,-3")]).await;
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let kind = answer.header("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut rest = answer.body.as_slice();
    for range in [262_140..262_151, 0..2, size - 3..size] {
        let heading = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {}-{}/{size}\r\n\r\n",
            range.start,
            range.end - 1
        );
        rest = rest.strip_prefix(heading.as_bytes()).unwrap();
        rest = rest.strip_prefix(&content[range]).unwrap();
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
    let greedy = get(node, &path, &[("Range", "bytes=0-,1-,0-")]).await;
    assert_eq!(greedy.status, 206, "they come to one");
    let whole = format!("bytes=1-{size},3-4,0-{size},3-4,1-{size}");
    assert_eq!(get(node, &path, &[("Range", &whole)]).await.status, 206);
    let twice = format!("bytes=5-{size},0-1,5-{size}");
    assert_eq!(get(node, &path, &[("Range", &twice)]).await.status, 400, "more than there is");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_answered_without_bytes() {
    let stage = Stage::with_nodes(1, FAST).await;
    let (node, manifest) = (&stage.nodes[0], stage.manifest_path());
    let seen = get(node, &manifest, &[]).await;
    let (digest, content) = stage.largest_blob();
    let blob = format!("/v2/demo/image/blobs/{digest}");
    let quoted = format!("\"{digest}\"");
    let etag = seen.header("etag");
    for (path, name, value, status) in [
        (&manifest, "If-None-Match", etag.as_str(), 304),
        (&manifest, "If-None-Match", "\"other\"", 200),
        (&manifest, "If-Match", "\"other\"", 412),
        (&blob, "If-None-Match", &quoted, 304),
        (&blob, "If-Match", &quoted, 200),
    ] {
        let answer = get(node, path, &[(name, value)]).await;
        assert_eq!(answer.status, status, "{path} {name}: {value}");
        assert_eq!(answer.body.is_empty(), status != 200, "{path} {name}: {value}");
    }
    for (tag, status, length) in [(quoted.as_str(), 206, 10), ("\"other\"", 200, content.len())] {
        let answer = get(node, &blob, &[("Range", "bytes=0-9"), ("If-Range", tag)]).await;
        assert_eq!((answer.status, answer.body.len()), (status, length), "{tag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_served_to_those_who_can_read_it() {
    let stage = Stage::with_nodes(1, FAST).await;
    let node = &stage.nodes[0];
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    for (accept, status) in [
        ("*/*", 200),
        ("application/vnd.oci.image.manifest.v1+json, */*", 200),
        (manifest, 200),
        ("application/vnd.docker.distribution.manifest.v2+json", 404),
    ] {
        let answer = get(node, &stage.manifest_path(), &[("Accept", accept)]).await;
        assert_eq!(answer.status, status, "{accept}");
    }
    let several = [("Accept", "application/vnd.oci.image.index.v1+json"), ("Accept", manifest)];
    assert_eq!(get(node, &stage.manifest_path(), &several).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_past_the_listed_origins() {
    let stage = Stage::with_nodes(1, FAST).await;
    let node = &stage.nodes[0];
    let (digest, _) = stage.largest_blob();
    stage.provision_on(0).await;
    for path in [
        "/v2/quay.io/demo/image/manifests/latest".to_owned(),
        "/v2/demo/image/manifests/latest?ns=quay.io".to_owned(),
        "/v2/demo/image/manifests/latest?ns=169.254.169.254".to_owned(),
        "/v2/localhost/demo/image/manifests/latest".to_owned(),
        format!("/v2/demo/image/blobs/{digest}?ns=quay.io"),
    ] {
        let refused = get(node, &path, &[]).await;
        assert_eq!(refused.status, 404, "{path}");
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(body["errors"][0]["code"], "NAME_UNKNOWN", "{path}");
        assert!(body["errors"][0]["message"].as_str().unwrap().contains("--origin"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_through_the_mirror() {
    let stage = Stage::with_nodes(1, FAST).await;
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let refused = ask(&stage.nodes[0], method, &stage.manifest_path()).await;
        assert_eq!((refused.status, refused.header("allow")), (405, "GET, HEAD".to_owned()), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_with_a_reason_that_clients_read() {
    let stage = Stage::with_nodes(1, FAST).await;
    let node = &stage.nodes[0];
    let absent = format!("sha256:{}", "0".repeat(64));
    for (path, status, code) in [
        (format!("/v2/demo/image/manifests/{absent}"), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/demo/image/blobs/{absent}"), 404, "BLOB_UNKNOWN"),
        ("/v2/demo/image/blobs/latest".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/demo/image/manifests/sha256:12".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/Demo/manifests/latest".to_owned(), 400, "NAME_INVALID"),
        ("/v2/demo/image/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        (format!("/v2/demo/image/referrers/{absent}"), 404, "NAME_UNKNOWN"),
        ("/v2/demo/image/referrers/sha256:12".to_owned(), 400, "DIGEST_INVALID"),
    ] {
        assert_eq!(head(node, &path).await.status, status, "{path}");
        let refused = get(node, &path, &[]).await;
        assert_eq!(refused.status, status, "{path}");
        let body: Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(body["errors"][0]["code"], code, "{path}");
        assert!(body["errors"][0]["message"].as_str().is_some_and(|text| text.len() > 5), "{path}");
    }
    let version = get(node, "/v2/", &[]).await;
    assert_eq!(
        (version.status, version.header("docker-distribution-api-version")),
        (200, "registry/2.0".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_streamed_while_it_arrives_and_who_hangs_up_disturbs_nobody() {
    let stage = Stage::with_nodes(2, slow(8 << 20)).await;
    let node = &stage.nodes[1];
    get(node, &stage.manifest_path(), &[]).await;
    let (digest, content) = stage.largest_blob();
    let path = format!("/v2/demo/image/blobs/{digest}");

    let mut hasty = open(node, &path, &[]).await;
    let first = hasty.read_some(1000).await;
    assert!(first == content[..1000], "the first bytes");
    let held = node.function(stage.function()).unwrap();
    assert!(held.held_bytes < held.bytes, "bytes flow before all is there");
    drop(hasty);

    let patient = get(node, &path, &[]).await;
    assert!(patient.body == content, "the whole blob");
    assert_eq!(node.finished(stage.function()).await.unwrap().state, FunctionState::Ready);
}
