//! Lists that the mirror passes on.

use faasnet::Node;
use faasnet::config::{Config, OriginConfig};

use super::http::get;
use super::origin::ToldRegistry;

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_the_origins_own() {
    let registry = ToldRegistry::start().await;
    let scratch = tempfile::tempdir().unwrap();
    let url = format!("http://{}", registry.address());
    let node = Node::start(Config {
        listen: Some(([127, 0, 0, 1], 0).into()),
        http: ([127, 0, 0, 1], 0).into(),
        origins: vec![OriginConfig::at("r.example", url)],
        ..Config::new(scratch.path().to_owned())
    })
    .await
    .unwrap();

    let tags = get(&node, "/v2/app/tags/list?n=1&ns=r.example", &[]).await;
    assert_eq!((tags.status, tags.header("content-type").as_str()), (200, "application/json"));
    assert_eq!(tags.body, br#"{"name":"app","tags":["v1"],"asked":"n=1"}"#);
    assert_eq!(tags.header("link"), "</v2/app/tags/list?n=1&last=v1&ns=r.example>; rel=\"next\"");
    let by_path = get(&node, "/v2/r.example/app/tags/list", &[]).await;
    assert_eq!(by_path.header("link"), "</v2/r.example/app/tags/list?n=1&last=v1>; rel=\"next\"");

    let digest = format!("sha256:{}", "a".repeat(64));
    let referrers = format!("/v2/app/referrers/{digest}?ns=r.example&artifactType=text%2Fsig");
    let referrers = get(&node, &referrers, &[]).await;
    assert_eq!(referrers.status, 200);
    assert_eq!(referrers.header("content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(referrers.header("oci-filters-applied"), "artifactType");

    for (path, status) in [
        ("/v2/other/tags/list?ns=r.example".to_owned(), 404),
        ("/v2/app/tags/list?ns=quay.io".to_owned(), 404),
        (format!("/v2/app/referrers/{digest}?ns=quay.io"), 404),
        ("/v2/app/referrers/sha256:12?ns=r.example".to_owned(), 400),
    ] {
        assert_eq!(get(&node, &path, &[]).await.status, status, "{path}");
    }
}
