//! A comparison for people: a table for each number of hosts, and where ours loses. Pure.

use super::contestants::Contestant;
use super::{Comparison, Entry, Field, Run};

/// A figure of a run, and what it is called. Less is better in all of them.
type Figure = (&'static str, fn(&Run) -> f64);

const TIME: Figure = ("time to all", |run| run.time_to_all);
const FIGURES: [Figure; 4] = [
    TIME,
    ("mean finish", |run| run.mean_finish),
    ("registry egress", |run| run.egress),
    ("CPU s per GiB", |run| run.cpu_per_gib),
];

/// The whole, as text.
pub fn table(comparison: &Comparison) -> String {
    let mut text = format!(
        "an image of {:.0} MB, {} rounds; median (lowest to highest)\n",
        comparison.image_bytes as f64 / 1e6,
        comparison.rounds
    );
    for field in &comparison.fields {
        text += &one(field);
    }
    text
}

fn one(field: &Field) -> String {
    let mut text = format!(
        "\n{} hosts at {} Mbit/s each way; S/B = {:.2} s\n",
        field.nodes,
        field.rate / 1_000_000,
        field.ideal_seconds
    );
    for probe in &field.ceiling {
        text += &format!(
            "    at {} Mbit/s ours keeps {:.0}% of the processors busy and takes {:.2} x S/B\n",
            probe.rate / 1_000_000,
            100.0 * probe.busy,
            probe.over_ideal
        );
    }
    text += &format!(
        "{:18} {:>22} {:>6} {:>12} {:>20} {:>22} {:>6}\n",
        "", "time to all, s", "x S/B", "mean, x S/B", "registry, images", "CPU s per GiB", "busy"
    );
    for entry in &field.entries {
        text += &format!("{:18} ", entry.contestant.name());
        if entry.runs.is_empty() {
            text += &format!("failed: {}\n", entry.failures.first().map_or("it did not run", String::as_str));
            continue;
        }
        let [time, mean, egress, cpu] = FIGURES.map(|(_, figure)| spread(entry, figure));
        text += &format!(
            "{:>22} {:>6.2} {:>12.2} {:>20} {:>22} {:>5.0}%",
            words(time, 2),
            time.1 / field.ideal_seconds,
            mean.1 / field.ideal_seconds,
            words(egress, 2),
            words(cpu, 1),
            100.0 * spread(entry, |run| run.busy).1
        );
        if !entry.failures.is_empty() {
            text += &format!("  {} failed: {}", entry.failures.len(), entry.failures[0]);
        }
        text.push('\n');
    }
    text + &losses(field).iter().map(|loss| format!("    {loss}\n")).collect::<String>()
}

/// Every figure in which somebody is better than ours.
fn losses(field: &Field) -> Vec<String> {
    let ours =
        field.entries.iter().find(|entry| entry.contestant == Contestant::Faasnet && !entry.runs.is_empty());
    let Some(ours) = ours else { return vec!["ours did not finish".to_owned()] };
    let others = field
        .entries
        .iter()
        .filter(|entry| entry.contestant != Contestant::Faasnet && !entry.runs.is_empty());
    let lost = others.flat_map(|other| {
        FIGURES.iter().filter_map(move |(what, figure)| {
            let (mine, theirs) = (spread(ours, figure).1, spread(other, figure).1);
            // What differs by less than a hundredth is a draw.
            (mine > 1.01 * theirs).then(|| {
                format!("ours loses to {} in {what}: {mine:.2} to {theirs:.2}", other.contestant.name())
            })
        })
    });
    lost.collect()
}

/// The lowest, the median, the highest.
fn spread(entry: &Entry, figure: impl Fn(&Run) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = entry.runs.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median =
        if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
    (values[0], median, values[values.len() - 1])
}

fn words((lowest, median, highest): (f64, f64, f64), decimals: usize) -> String {
    format!("{median:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(contestant: Contestant, times: &[f64]) -> Entry {
        let run = |&time: &f64| Run {
            time_to_all: time,
            mean_finish: time,
            egress: 1.0,
            cpu_per_gib: 5.0,
            busy: 0.5,
        };
        Entry { contestant, runs: times.iter().map(run).collect(), failures: Vec::new() }
    }

    #[test]
    fn the_table_has_medians_and_says_where_ours_loses() {
        let failed = Entry { failures: vec!["no python".to_owned()], ..entry(Contestant::Torrent, &[]) };
        let entries = vec![
            entry(Contestant::Faasnet, &[2.0, 4.0, 3.0]),
            entry(Contestant::Direct, &[9.0, 8.0]),
            failed,
            entry(Contestant::Chain, &[1.0]),
        ];
        let field = Field { nodes: 8, rate: 100_000_000, ideal_seconds: 1.0, ceiling: Vec::new(), entries };
        let text = table(&Comparison { image_bytes: 12_500_000, rounds: 3, fields: vec![field] });
        assert!(text.contains("3.00 (2.00 to 4.00)   3.00"), "{text}");
        assert!(text.contains("8.50 (8.00 to 9.00)"), "{text}");
        assert!(text.contains("libtorrent         failed: no python"), "{text}");
        assert!(text.contains("ours loses to ideal TCP chain in time to all: 3.00 to 1.00"), "{text}");
        assert_eq!(text.matches("ours loses").count(), 2, "{text}");
    }
}
