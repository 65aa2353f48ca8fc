//! What had to hold in a run, and whether it did. Pure.

use crate::lab::record::{Check, Record};
use crate::lab::scenario::Bounds;

/// What was found when the disks were read after the run.
#[derive(Debug, Clone, Default)]
pub(super) struct Findings {
    /// Per live node that was asked for the image: what is wrong with what it holds, if anything is.
    pub(super) wrong: Vec<(String, Option<String>)>,
    /// What did not come to an end in time.
    pub(super) unfinished: Vec<String>,
    /// Whether the access log has all that the registry sent: not if it was stopped while it answered.
    pub(super) log_is_whole: bool,
}

/// Judges a run that is over.
pub(super) fn judge(record: &Record, bounds: &Bounds, findings: &Findings) -> Vec<Check> {
    let mut checks = vec![in_time(bounds, findings), bytes(findings), egress(record, bounds, findings)];
    checks.extend(bounds.zone_crossing.map(|bound| crossing(record, bound)));
    checks.extend(bounds.time_to_all.map(|bound| time_to_all(record, bound)));
    checks.extend(bounds.spread.map(|bound| spread(record, bound)));
    checks.extend([memory(record, bounds), errors(record, bounds)]);
    checks
}

fn check(what: &str, passed: bool, found: String) -> Check {
    Check { what: what.to_owned(), passed, found }
}

fn in_time(bounds: &Bounds, findings: &Findings) -> Check {
    let limit = bounds.limit.as_secs();
    let found = match findings.unfinished.as_slice() {
        [] => format!("within {limit} s"),
        some => format!("after {limit} s: {}", some.join(", ")),
    };
    check("everything came to its end", findings.unfinished.is_empty(), found)
}

fn bytes(findings: &Findings) -> Check {
    let wrong: Vec<String> = findings
        .wrong
        .iter()
        .filter_map(|(node, wrong)| wrong.as_ref().map(|wrong| format!("{node}: {wrong}")))
        .collect();
    let nodes = findings.wrong.len();
    let found = match wrong.as_slice() {
        [] => format!("{nodes} of {nodes}"),
        some => some.join("; "),
    };
    check("every live node that was asked holds every blob", wrong.is_empty() && nodes > 0, found)
}

fn egress(record: &Record, bounds: &Bounds, findings: &Findings) -> Check {
    // Packet headers are a few percent at most where segments are cut by the card, as they are here.
    let (bytes, by) = if findings.log_is_whole {
        (record.origin.blob_bytes, "by its access log")
    } else {
        (record.origin.sent, "on the wire")
    };
    let images = bytes as f64 / record.image_bytes as f64;
    let found = format!("{images:.3} images {by}, at most {:.2}", bounds.origin_egress);
    check("what left the registry", images <= bounds.origin_egress, found)
}

fn crossing(record: &Record, bound: f64) -> Check {
    let images = |bytes: u64| bytes as f64 / record.image_bytes as f64;
    let ways = record.zones.iter().map(|zone| (&zone.zone, images(zone.received), images(zone.sent)));
    let passed = ways.clone().all(|(_, into, out)| into <= bound && out <= bound);
    let found: Vec<String> =
        ways.map(|(zone, into, out)| format!("{zone} {into:.3} in, {out:.3} out")).collect();
    check(
        "images over each zone's link",
        passed,
        format!("{}; at most {bound:.2} each way", found.join(", ")),
    )
}

fn time_to_all(record: &Record, bound: f64) -> Check {
    let found = match record.over_ideal {
        Some(over) => format!("{over:.2} x S/B, at most {bound:.2}"),
        None => "the scenario's links have no rate to compare with".to_owned(),
    };
    check("time until all have the image", record.over_ideal.is_some_and(|over| over <= bound), found)
}

fn spread(record: &Record, bound: f64) -> Check {
    let mut took: Vec<f64> =
        record.nodes.iter().filter_map(|node| Some(node.finished? - node.asked?)).collect();
    took.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (took.first(), took.last()) else {
        return check("the last after the first", false, "nobody finished".to_owned());
    };
    let found = format!("{last:.2} s after {first:.2} s: {:.2} times, at most {bound:.2}", last / first);
    check("the last after the first", *last <= bound * first, found)
}

fn memory(record: &Record, bounds: &Bounds) -> Check {
    let most = record.nodes.iter().max_by_key(|node| node.peak_rss_bytes);
    let (bytes, node) = most.map_or((0, ""), |node| (node.peak_rss_bytes, &node.node));
    let mebibytes = |bytes: u64| bytes >> 20;
    let found = format!("{} MiB on {node}, at most {} MiB", mebibytes(bytes), mebibytes(bounds.memory));
    check("the most memory of a node", bytes <= bounds.memory, found)
}

fn errors(record: &Record, bounds: &Bounds) -> Check {
    let expected = |line: &str| bounds.expected_errors.iter().any(|part| line.contains(part.as_str()));
    let unexpected: Vec<String> = record
        .nodes
        .iter()
        .flat_map(|node| node.errors.iter().map(move |line| format!("{}: {line}", node.node)))
        .filter(|line| !expected(line))
        .collect();
    let found = match unexpected.as_slice() {
        [] => "none".to_owned(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    };
    check("error lines that are not expected", unexpected.is_empty(), found)
}
