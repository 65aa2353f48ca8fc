//! What Prometheus reads at `/metrics`: names, units and labels after its conventions.
//!
//! Most values are read from the node when they are asked for ([`Reading`]), so that what moves bytes knows nothing of
//! metrics; only what leaves no trace is counted while it happens ([`Metrics`]). Nothing is global: several nodes run in
//! one process in tests and in the demo.
//!
//! Every label has a bounded set of values: states and results are listed here, routes in [`requests`], origins in the
//! node's configuration, and depths end at [`MAX_DEPTH`].

mod page;
pub(crate) mod requests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use membership::counters::Counts as Gossip;
use membership::view::MemberState;
use prometheus::process_collector::ProcessCollector;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, Opts};

use crate::api::{Function, FunctionState, Member, Status};
use page::Page;

/// The format of a page.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Depths from here on are counted as one. Trees of ten thousand are 16 high.
const MAX_DEPTH: usize = 20;

/// The bounds of times to ready, in seconds: from an image that shares its layers with one that is here, to one of several
/// gigabytes behind a slow uplink.
const SECONDS_TO_READY: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0];

/// What happens on a node and leaves no trace that could be read later.
#[derive(Debug)]
pub(crate) struct Metrics {
    provisions: IntCounterVec,
    seconds_to_ready: Histogram,
    requests: IntCounterVec,
    client_bytes: AtomicU64,
    refused_connections: AtomicU64,
}

/// What a scrape reads of a node.
pub(crate) struct Reading {
    pub(crate) status: Status,
    pub(crate) members: Vec<Member>,
    pub(crate) functions: Vec<Function>,
    pub(crate) gossip: Gossip,
    pub(crate) origins: Vec<OriginReading>,
    pub(crate) stale_documents: u64,
}

/// What a scrape reads of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OriginReading {
    /// Its name in the node's configuration.
    pub(crate) origin: String,
    /// How many requests to it came to what.
    pub(crate) requests: Vec<(&'static str, u64)>,
    /// How much longer it is to be left alone.
    pub(crate) pause: Option<Duration>,
}

impl Default for Metrics {
    fn default() -> Self {
        let sound = "these are sound";
        let provisions = Opts::new("faasnet_provisions_total", "Provisionings that came to an end, by how.");
        let seconds = HistogramOpts::new(
            "faasnet_time_to_ready_seconds",
            "Time from the request for a function until it was ready.",
        );
        let requests = Opts::new(
            "faasnet_http_requests_total",
            "Requests to mirror and API that were answered, by how.",
        );
        let metrics = Self {
            provisions: IntCounterVec::new(provisions, &["result"]).expect(sound),
            seconds_to_ready: Histogram::with_opts(seconds.buckets(SECONDS_TO_READY.to_vec())).expect(sound),
            requests: IntCounterVec::new(requests, &["route", "method", "status"]).expect(sound),
            client_bytes: AtomicU64::new(0),
            refused_connections: AtomicU64::new(0),
        };
        // So that they are zero, and not unknown, before the first.
        for result in ["ready", "failed"] {
            metrics.provisions.with_label_values(&[result]);
        }
        metrics
    }
}

impl Metrics {
    /// A function became ready, so long after it was asked for.
    pub(crate) fn provisioned(&self, after: Duration) {
        self.provisions.with_label_values(&["ready"]).inc();
        self.seconds_to_ready.observe(after.as_secs_f64());
    }

    /// A function could not be provisioned.
    pub(crate) fn provision_failed(&self) {
        self.provisions.with_label_values(&["failed"]).inc();
    }

    /// A client was sent away, because too many were there.
    pub(crate) fn connection_refused(&self) {
        self.refused_connections.fetch_add(1, Ordering::Relaxed);
    }

    fn served_to_client(&self, bytes: u64) {
        self.client_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The page that Prometheus reads.
    pub(crate) fn page(&self, reading: &Reading) -> String {
        let page = Page::default();
        about_node(&page, reading);
        about_functions(&page, &reading.functions);
        about_gossip(&page, &reading.members, &reading.gossip);
        about_origins(&page, &reading.origins, reading.stale_documents);
        self.about_bytes(&page, &reading.status);
        page.counters(
            "faasnet_http_connections_refused_total",
            "Connections closed at once because too many were open.",
            [],
            [([], count(self.refused_connections.load(Ordering::Relaxed)))],
        );
        page.add(self.provisions.clone());
        page.add(self.seconds_to_ready.clone());
        page.add(self.requests.clone());
        page.add(ProcessCollector::for_self());
        page.text()
    }

    fn about_bytes(&self, page: &Page, status: &Status) {
        let moved = &status.transfer;
        page.counters(
            "faasnet_received_bytes_total",
            "Bytes of blobs that were received and kept, by where they came from.",
            ["source"],
            [(["origin"], count(moved.origin_bytes)), (["peer"], count(moved.peer_bytes))],
        );
        page.counters(
            "faasnet_served_bytes_total",
            "Bytes sent to peers, and to clients of the mirror.",
            ["to"],
            [
                (["peer"], count(moved.served_bytes)),
                (["client"], count(self.client_bytes.load(Ordering::Relaxed))),
            ],
        );
        page.counters(
            "faasnet_wasted_bytes_total",
            "Bytes of blobs that were received although they were held already.",
            [],
            [([], count(moved.wasted_bytes))],
        );
        page.counters(
            "faasnet_blocks_verified_total",
            "Blocks from peers that matched their hash and were kept.",
            [],
            [([], count(moved.verified_blocks))],
        );
        page.counters(
            "faasnet_blocks_refused_total",
            "Blocks from peers that did not match their hash.",
            [],
            [([], count(moved.refused_blocks))],
        );
        page.gauges(
            "faasnet_store_bytes",
            "Bytes of the complete blobs on disk.",
            [],
            [([], count(status.store_bytes))],
        );
    }
}

fn about_node(page: &Page, reading: &Reading) {
    let status = &reading.status;
    page.gauges(
        "faasnet_build_info",
        "Always 1; the release that this node runs.",
        ["version"],
        [([status.version.as_str()], 1.0)],
    );
    page.gauges(
        "faasnet_ready",
        "Whether the node is in its cluster and provisions functions.",
        [],
        [([], f64::from(u8::from(status.ready)))],
    );
}

fn about_functions(page: &Page, functions: &[Function]) {
    let states = [
        (FunctionState::Provisioning, "provisioning"),
        (FunctionState::Ready, "ready"),
        (FunctionState::Failed, "failed"),
    ];
    page.gauges(
        "faasnet_functions",
        "Functions on this node, by how far they are.",
        ["state"],
        states.map(|(state, name)| {
            ([name], functions.iter().filter(|function| function.state == state).count() as f64)
        }),
    );
    let depths: Vec<String> =
        functions.iter().filter_map(|function| function.depth).map(depth_label).collect();
    page.gauges(
        "faasnet_functions_at_depth",
        "Functions on this node, by its depth in their trees. The root's is 0.",
        ["depth"],
        depths.iter().map(|depth| ([depth.as_str()], 1.0)),
    );
}

fn depth_label(depth: usize) -> String {
    if depth < MAX_DEPTH { depth.to_string() } else { format!("{MAX_DEPTH}+") }
}

fn about_gossip(page: &Page, members: &[Member], gossip: &Gossip) {
    let states =
        [(MemberState::Alive, "alive"), (MemberState::Suspect, "suspect"), (MemberState::Leaving, "leaving")];
    page.gauges(
        "faasnet_members",
        "Live members of the cluster as this node knows them, itself among them, by state.",
        ["state"],
        states.map(|(state, name)| {
            ([name], members.iter().filter(|member| member.state == state).count() as f64)
        }),
    );
    let suspicions = gossip.suspicions;
    page.counters(
        "faasnet_suspicions_raised_total",
        "Times that a member was suspected and probed.",
        [],
        [([], count(suspicions.raised))],
    );
    page.counters(
        "faasnet_suspicions_resolved_total",
        "Suspicions that came to an end: refuted by the member, or confirmed by nobody reaching it.",
        ["result"],
        [(["refuted"], count(suspicions.refuted)), (["confirmed"], count(suspicions.confirmed))],
    );
    page.counters(
        "faasnet_gossip_messages_total",
        "Gossip messages to others: read there, dropped for newer ones, or not delivered.",
        ["result"],
        [
            (["sent"], count(gossip.messages_sent)),
            (["dropped"], count(gossip.messages_dropped)),
            (["failed"], count(gossip.messages_failed)),
        ],
    );
}

fn about_origins(page: &Page, origins: &[OriginReading], stale_documents: u64) {
    let requests = origins.iter().flat_map(|of| {
        of.requests.iter().map(|(result, number)| ([of.origin.as_str(), *result], count(*number)))
    });
    page.counters(
        "faasnet_origin_requests_total",
        "Requests to origins, by what they came to.",
        ["origin", "result"],
        requests,
    );
    page.gauges(
        "faasnet_origin_pause_seconds",
        "How much longer an origin is to be left alone, as it has asked.",
        ["origin"],
        origins.iter().map(|of| ([of.origin.as_str()], of.pause.map_or(0.0, |pause| pause.as_secs_f64()))),
    );
    page.counters(
        "faasnet_stale_documents_total",
        "Manifests served although their origin could not be asked whether they are current.",
        [],
        [([], count(stale_documents))],
    );
}

/// Prometheus counts in floating point: exact up to nine petabytes.
fn count(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use membership::suspicion;
    use transfer::counters::Counts;

    use super::*;

    fn reading() -> Reading {
        let member = |state| Member {
            node: "n1".parse().unwrap(),
            zone: Default::default(),
            state,
            address: ([127, 0, 0, 1], 1).into(),
            incarnation: 1,
            version: "1.2.3".into(),
            functions: 0,
        };
        let function = |state, depth| Function {
            function: membership::FunctionId::from_bytes([1; 32]),
            reference: "alpine".parse().unwrap(),
            state,
            bytes: 100,
            held_bytes: 100,
            origin_bytes: 0,
            peer_bytes: 100,
            elapsed_ms: 0,
            parent: None,
            depth,
            participants: 1,
            sources: Default::default(),
            error: None,
        };
        let status = Status {
            node: "n1".parse().unwrap(),
            incarnation: 1,
            zone: Default::default(),
            version: "1.2.3".into(),
            address: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 2).into(),
            ready: true,
            members: 3,
            functions: 4,
            paused_ms: Default::default(),
            stale_served: 0,
            store_bytes: 11,
            transfer: Counts {
                origin_bytes: 12,
                peer_bytes: 13,
                served_bytes: 14,
                wasted_bytes: 15,
                verified_blocks: 16,
                refused_blocks: 17,
            },
        };
        let origin = |name: &str, pause| OriginReading {
            origin: name.into(),
            requests: vec![("ok", 18), ("throttled", 19)],
            pause,
        };
        Reading {
            status,
            members: [MemberState::Alive, MemberState::Alive, MemberState::Leaving].map(member).to_vec(),
            functions: vec![
                function(FunctionState::Provisioning, Some(2)),
                function(FunctionState::Ready, Some(0)),
                function(FunctionState::Ready, Some(MAX_DEPTH + 7)),
                function(FunctionState::Ready, Some(MAX_DEPTH)),
                function(FunctionState::Failed, None),
            ],
            gossip: Gossip {
                messages_sent: 20,
                messages_dropped: 21,
                messages_failed: 22,
                suspicions: suspicion::Counts { raised: 23, refuted: 24, confirmed: 25 },
            },
            origins: vec![origin("quay.io", None), origin("a\"b\\c", Some(Duration::from_millis(1500)))],
            stale_documents: 26,
        }
    }

    #[test]
    fn a_page_says_what_was_read_and_what_was_counted() {
        let metrics = Metrics::default();
        metrics.provisioned(Duration::from_millis(300));
        metrics.provisioned(Duration::from_secs(3600));
        metrics.provision_failed();
        metrics.connection_refused();
        metrics.served_to_client(27);
        metrics.requests.with_label_values(&["/v2/", "GET", "200"]).inc();
        let page = metrics.page(&reading());
        let expected = r#"
            faasnet_build_info{version="1.2.3"} 1
            faasnet_ready 1
            faasnet_functions{state="provisioning"} 1
            faasnet_functions{state="ready"} 3
            faasnet_functions{state="failed"} 1
            faasnet_functions_at_depth{depth="0"} 1
            faasnet_functions_at_depth{depth="2"} 1
            faasnet_functions_at_depth{depth="20+"} 2
            faasnet_members{state="alive"} 2
            faasnet_members{state="suspect"} 0
            faasnet_members{state="leaving"} 1
            faasnet_suspicions_raised_total 23
            faasnet_suspicions_resolved_total{result="refuted"} 24
            faasnet_suspicions_resolved_total{result="confirmed"} 25
            faasnet_gossip_messages_total{result="sent"} 20
            faasnet_gossip_messages_total{result="dropped"} 21
            faasnet_gossip_messages_total{result="failed"} 22
            faasnet_origin_requests_total{origin="quay.io",result="ok"} 18
            faasnet_origin_requests_total{origin="quay.io",result="throttled"} 19
            faasnet_origin_pause_seconds{origin="quay.io"} 0
            faasnet_origin_pause_seconds{origin="a\"b\\c"} 1.5
            faasnet_stale_documents_total 26
            faasnet_received_bytes_total{source="origin"} 12
            faasnet_received_bytes_total{source="peer"} 13
            faasnet_served_bytes_total{to="peer"} 14
            faasnet_served_bytes_total{to="client"} 27
            faasnet_wasted_bytes_total 15
            faasnet_blocks_verified_total 16
            faasnet_blocks_refused_total 17
            faasnet_store_bytes 11
            faasnet_http_connections_refused_total 1
            faasnet_provisions_total{result="ready"} 2
            faasnet_provisions_total{result="failed"} 1
            faasnet_time_to_ready_seconds_bucket{le="0.25"} 0
            faasnet_time_to_ready_seconds_bucket{le="0.5"} 1
            faasnet_time_to_ready_seconds_bucket{le="+Inf"} 2
            faasnet_time_to_ready_seconds_sum 3600.3
            faasnet_time_to_ready_seconds_count 2
            faasnet_http_requests_total{method="GET",route="/v2/",status="200"} 1
        "#;
        for line in expected.lines().map(str::trim).filter(|line| !line.is_empty()) {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_page_tells_of_its_process() {
        let page = Metrics::default().page(&reading());
        for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
            assert!(page.lines().any(|line| line.starts_with(name)), "{name} is not in\n{page}");
        }
    }

    #[test]
    fn a_node_with_nothing_to_tell_has_a_page() {
        let nothing = Reading { members: vec![], functions: vec![], origins: vec![], ..reading() };
        let page = Metrics::default().page(&nothing);
        assert!(page.contains("faasnet_provisions_total{result=\"ready\"} 0"), "{page}");
    }
}
