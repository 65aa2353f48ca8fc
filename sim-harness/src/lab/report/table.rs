//! A run as a table for the terminal. Pure.

use crate::lab::record::{NodeRecord, ORIGIN, Record};

/// The table, what left the registry, the zones, and what had to hold.
pub fn table(record: &Record) -> String {
    let mut text = format!("{}: {}\n\n", record.scenario, record.about);
    text += &columns(&rows(record));
    let image = record.image_bytes as f64;
    text += &format!("\nall after   {:.2} s", record.seconds);
    if let (Some(over), Some(ideal)) = (record.over_ideal, record.ideal_seconds) {
        text += &format!(" = {over:.2} x S/B, where S/B = {ideal:.2} s is the image at the rate of a link");
    }
    text += &format!(
        "\nregistry    {:.3} images in {} answers; {} on the wire\n",
        record.origin.blob_bytes as f64 / image,
        record.origin.blob_requests,
        megabytes(record.origin.sent)
    );
    for zone in &record.zones {
        let images = |bytes: u64| bytes as f64 / image;
        text += &format!(
            "zone        {}: {:.3} images in, {:.3} out\n",
            zone.zone,
            images(zone.received),
            images(zone.sent)
        );
    }
    let machine = &record.machine;
    text += &format!(
        "machine     {} processors, {:.0}% busy; Linux {}; delay by {}; seed {}\n\n",
        machine.cores,
        100.0 * machine.busy,
        machine.kernel,
        machine.delays,
        record.seed
    );
    for check in &record.checks {
        text += &format!("{} {}: {}\n", if check.passed { "✓" } else { "✗" }, check.what, check.found);
    }
    text + if record.passed() { "all held\n" } else { "NOT all held\n" }
}

/// A heading, and a line per node; columns in which nobody has anything are left out.
fn rows(record: &Record) -> Vec<Vec<String>> {
    let seconds = |time: Option<f64>| time.map_or(String::new(), |time| format!("{time:.2}"));
    let from_peers = |node: &NodeRecord| {
        node.received.iter().filter(|(from, _)| *from != ORIGIN).map(|(_, bytes)| bytes).sum::<u64>()
    };
    let took = |node: &NodeRecord| Some(node.finished? - node.asked?);
    let cells = |node: &NodeRecord| {
        vec![
            node.node.clone(),
            node.zone.clone().unwrap_or_default(),
            seconds(node.asked),
            seconds(node.first_byte),
            seconds(node.finished),
            took(node)
                .zip(record.ideal_seconds)
                .map_or(String::new(), |(took, ideal)| format!("{:.2}", took / ideal)),
            seconds(Some(node.stalled).filter(|stalled| *stalled > 0.0)),
            megabytes(node.received.get(ORIGIN).copied().unwrap_or_default()),
            megabytes(from_peers(node)),
            megabytes(node.sent.values().sum()),
            format!("{:.2}", node.cpu_seconds),
            format!("{}", node.peak_rss_bytes >> 20),
            if node.alive { String::new() } else { "gone".to_owned() },
        ]
    };
    let headings = [
        "node",
        "zone",
        "asked s",
        "first byte",
        "done s",
        "over S/B",
        "stalled s",
        "origin MB",
        "peers MB",
        "sent MB",
        "CPU s",
        "RSS MiB",
        "",
    ];
    let mut rows: Vec<Vec<String>> = vec![headings.map(str::to_owned).into()];
    rows.extend(record.nodes.iter().map(cells));
    let used: Vec<bool> =
        (0..headings.len()).map(|column| rows[1..].iter().any(|row| !row[column].is_empty())).collect();
    for row in &mut rows {
        let mut used = used.iter();
        row.retain(|_| *used.next().unwrap_or(&true));
    }
    rows
}

/// Millions of bytes; nothing for less than a hundred thousand, which is what gossip takes.
fn megabytes(bytes: u64) -> String {
    if bytes < 100_000 { String::new() } else { format!("{:.1}", bytes as f64 / 1e6) }
}

/// Columns of equal width, the first set to the left, all others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::example;
    use super::*;

    #[test]
    fn the_table_says_it_all() {
        let expected = r#"three <in> a row: Three & more.

node           zone  asked s  first byte  done s  over S/B  stalled s  origin MB  peers MB  CPU s  RSS MiB
n1                      0.00        0.50    3.50      1.75       0.25        1.0             0.50       40
n2    far <& "away"     0.00        0.50    4.00      2.00       0.50                  1.0   0.50       40
n3                      0.00        0.50                         0.75                  1.0   0.50       40  gone

all after   4.00 s = 2.00 x S/B, where S/B = 2.00 s is the image at the rate of a link
registry    1.000 images in 3 answers; 1.0 on the wire
zone        far <& "away": 1.053 images in, 0.002 out
machine     2 processors, 30% busy; Linux 6.1; delay by none; seed 7

✓ it holds: yes
✗ it does not: no
NOT all held
"#;
        assert_eq!(table(&example()), expected);
    }
}
