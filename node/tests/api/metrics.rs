//! What `/metrics` says, against what happened.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use faasnet::Node;
use faasnet::config::Config;
use faasnet::demo::image;

use crate::stage::{Request, Stage, start, until};

/// A page by series.
struct Page(BTreeMap<String, f64>);

impl Page {
    async fn of(node: &Node) -> Self {
        let response = Request::get("/metrics").to(node).await;
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4"));
        let text = response.text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    /// The value of a series.
    fn get(&self, series: &str) -> u64 {
        let found = self.0.get(series);
        let value = found.unwrap_or_else(|| panic!("{series} is not among {:#?}", self.0.keys()));
        assert_eq!(value.fract(), 0.0, "{series}");
        *value as u64
    }

    fn check(&self, rows: &[(&str, u64)]) {
        for (series, expected) in rows {
            assert_eq!(self.get(series), *expected, "{series}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_seen_in_the_metrics_as_in_the_api() {
    let stage = Stage::new().await;
    let root = start(stage.config("root")).await;
    let child = Config { seeds: vec![root.addr().to_string()], ..stage.config("child") };
    let child = start(child).await;
    until("they know each other", || [&root, &child].iter().all(|node| node.members().len() == 2)).await;
    Page::of(&child).await.check(&[
        ("faasnet_ready", 1),
        ("faasnet_members{state=\"alive\"}", 2),
        ("faasnet_provisions_total{result=\"ready\"}", 0),
        ("faasnet_time_to_ready_seconds_count", 0),
        ("faasnet_received_bytes_total{source=\"origin\"}", 0),
        ("faasnet_received_bytes_total{source=\"peer\"}", 0),
        ("faasnet_functions{state=\"ready\"}", 0),
        ("faasnet_store_bytes", 0),
    ]);
    for node in [&root, &child] {
        let response = stage.provision().to(node).await;
        assert_eq!(response.status, 200, "{}", response.text());
    }
    let path = format!("/v2/demo/image/manifests/{}", image::TAG);
    let manifest = Request::get(&path).to(&child).await;
    assert_eq!(manifest.status, 200);

    let (page, status) = (Page::of(&child).await, child.status());
    let moved = status.transfer;
    let version = format!("faasnet_build_info{{version=\"{}\"}}", status.version);
    page.check(&[
        (&version, 1),
        ("faasnet_provisions_total{result=\"ready\"}", 1),
        ("faasnet_provisions_total{result=\"failed\"}", 0),
        ("faasnet_time_to_ready_seconds_count", 1),
        ("faasnet_received_bytes_total{source=\"origin\"}", moved.origin_bytes),
        ("faasnet_received_bytes_total{source=\"peer\"}", moved.peer_bytes),
        ("faasnet_served_bytes_total{to=\"peer\"}", moved.served_bytes),
        ("faasnet_served_bytes_total{to=\"client\"}", manifest.body.len() as u64),
        ("faasnet_blocks_verified_total", moved.verified_blocks),
        ("faasnet_blocks_refused_total", 0),
        ("faasnet_functions{state=\"ready\"}", 1),
        ("faasnet_functions{state=\"provisioning\"}", 0),
        ("faasnet_functions_at_depth{depth=\"1\"}", 1),
        ("faasnet_store_bytes", status.store_bytes),
        ("faasnet_http_requests_total{method=\"POST\",route=\"/api/v1/provisions\",status=\"200\"}", 1),
        ("faasnet_http_requests_total{method=\"GET\",route=\"/v2/{name}/manifests/{reference}\",status=\"200\"}", 1),
        ("faasnet_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\"}", 1),
        ("faasnet_stale_documents_total", 0),
    ]);
    assert_eq!(moved.peer_bytes, stage.image.bytes);
    assert!(moved.verified_blocks > 0);
    assert!(page.get("faasnet_gossip_messages_total{result=\"sent\"}") > 0);
    Page::of(&root).await.check(&[
        ("faasnet_received_bytes_total{source=\"origin\"}", stage.image.bytes),
        ("faasnet_served_bytes_total{to=\"peer\"}", root.status().transfer.served_bytes),
        ("faasnet_functions_at_depth{depth=\"0\"}", 1),
    ]);

    child.shutdown().await;
    until("it is gone", || root.members().len() == 1).await;
    drop(child);
    let again = start(Config { seeds: vec![root.addr().to_string()], ..stage.config("child") }).await;
    until("it has taken up what it held", || again.functions().len() == 1).await;
    let function = again.finished(stage.image.manifest.into()).await.unwrap();
    assert_eq!(function.error, None);
    Page::of(&again).await.check(&[
        ("faasnet_provisions_total{result=\"ready\"}", 0),
        ("faasnet_functions{state=\"ready\"}", 1),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_requests_make_few_series() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    for number in 0..50 {
        for target in [format!("/x{number}"), format!("/api/x{number}"), format!("/v2/x{number}/y")] {
            Request::new(&format!("BREW{number}"), &target).to(&node).await;
        }
    }
    let page = Page::of(&node).await;
    let series = page.0.keys().filter(|series| series.starts_with("faasnet_http_requests_total"));
    assert_eq!(series.count(), 2, "{:#?}", page.0.keys());
    page.check(&[
        ("faasnet_http_requests_total{method=\"other\",route=\"none\",status=\"404\"}", 100),
        ("faasnet_http_requests_total{method=\"other\",route=\"/v2/{*rest}\",status=\"405\"}", 50),
    ]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs promtool, from Debian's package prometheus"]
async fn promtool_finds_nothing_to_mend() {
    let stage = Stage::new().await;
    let node = start(stage.config("n1")).await;
    assert_eq!(stage.provision().to(&node).await.status, 200);
    // The second page has the request for the first.
    Request::get("/metrics").to(&node).await;
    let page = Request::get("/metrics").to(&node).await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(&page.body).unwrap();
    let found = promtool.wait_with_output().unwrap();
    let words = [found.stdout, found.stderr].concat();
    assert!(found.status.success() && words.is_empty(), "{}", String::from_utf8_lossy(&words));
}
