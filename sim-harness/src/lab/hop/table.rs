//! The speeds of a hop for people. Pure.

use super::{Outcome, Run, Runs, Way};

/// The whole, as text.
pub fn table(outcome: &Outcome) -> String {
    let mut text = format!(
        "one hop, {:.0} MB, unshaped; median of {}\n{:18} {:>8} {:>12} {:>16}\n",
        outcome.bytes as f64 / 1e6,
        outcome.ways.first().map_or(0, |way| way.runs.len()),
        "",
        "MB/s",
        "of bare QUIC",
        "CPU s per GiB"
    );
    let bare =
        outcome.ways.iter().find(|way| way.way == Way::BareQuic).map(|way| median(way, |run| run.seconds));
    for way in &outcome.ways {
        let seconds = median(way, |run| run.seconds);
        text += &format!(
            "{:18} {:>8.0} {:>12} {:>16.2}\n",
            way.way.name(),
            outcome.bytes as f64 / 1e6 / seconds,
            bare.map_or("-".to_owned(), |bare| format!("{:.0}%", 100.0 * bare / seconds)),
            median(way, |run| run.cpu) * f64::from(1 << 30) / outcome.bytes as f64
        );
    }
    text.trim_end().to_owned()
}

fn median(runs: &Runs, figure: impl Fn(&Run) -> f64) -> f64 {
    let mut figures: Vec<f64> = runs.runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_medians_and_compared_with_the_bare_stream() {
        let runs = |way, seconds: [f64; 3]| Runs {
            way,
            runs: seconds.map(|seconds| Run { seconds, cpu: 2.0 * seconds }).into(),
        };
        let ways = vec![runs(Way::BareQuic, [2.0, 9.0, 1.0]), runs(Way::Faasnet, [2.5, 2.5, 2.5])];
        let text = table(&Outcome { bytes: 1 << 30, ways });
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2][3..], ["537", "100%", "4.00"], "{text}");
        assert_eq!(lines[3][1..], ["429", "80%", "5.00"], "{text}");
    }
}
