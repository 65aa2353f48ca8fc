//! What people see of a run: a table, and two drawings. Pure: where they go is not known here.

mod film;
mod plot;
mod table;

pub use self::film::film;
pub use self::plot::plot;
pub use self::table::table;
use super::record::{Happening, Record};

/// From how many names on an event says how many there are in place of who they are.
const MANY: usize = 5;

/// An event in a few words: `kill n3`, `pull 16 nodes`.
fn caption(event: &Happening) -> String {
    match event.nodes.len() {
        0..MANY => event.what.clone(),
        many => {
            let verb = event.what.split(" n").next().unwrap_or_default();
            format!("{verb} {many} nodes")
        }
    }
}

/// What became of a node by a moment: it was killed or said goodbye, or it is frozen, and has not come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Runs,
    Frozen,
    Gone,
}

fn fate(record: &Record, node: &str, at: f64) -> Fate {
    let events =
        record.events.iter().filter(|event| event.at <= at && event.nodes.iter().any(|name| name == node));
    events.fold(Fate::Runs, |fate, event| match event.what.split(' ').next() {
        Some("kill" | "leave") => Fate::Gone,
        Some("freeze") => Fate::Frozen,
        Some("restart" | "thaw") => Fate::Runs,
        _ => fate,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::lab::record::{Check, Flow, Machine, NodeRecord, ORIGIN, OriginRecord, Sample, ZoneRecord};

    /// Three nodes in a row, of which the last is killed, and a fourth that comes late.
    pub(super) fn example() -> Record {
        let node = |number: usize, finished: Option<f64>| NodeRecord {
            node: format!("n{number}"),
            zone: (number == 2).then(|| "far <& \"away\"".to_owned()),
            alive: finished.is_some(),
            asked: Some(0.0),
            first_byte: Some(0.5),
            finished,
            stalled: 0.25 * number as f64,
            received: BTreeMap::from([(
                if number == 1 { ORIGIN.to_owned() } else { format!("n{}", number - 1) },
                1_000_000,
            )]),
            sent: BTreeMap::new(),
            cpu_seconds: 0.5,
            peak_rss_bytes: 40 << 20,
            errors: Vec::new(),
        };
        let samples = (0..=20_u64).map(|step| {
            let held = (1..=3)
                .map(|number: u64| (format!("n{number}"), (50_000 * step).saturating_sub(50_000 * number)));
            let flow =
                |from: &str, to: &str| Flow { from: from.to_owned(), to: to.to_owned(), bytes: 50_000 };
            let flows = vec![flow(ORIGIN, "n1"), flow("n1", "n2"), flow("n2", "n3")];
            Sample { at: 0.2 * step as f64, held: held.collect(), flows }
        });
        let event = |at: f64, what: &str, nodes: &[&str]| Happening {
            at,
            what: what.to_owned(),
            nodes: nodes.iter().map(|&node| node.to_owned()).collect(),
        };
        Record {
            scenario: "three <in> a row".to_owned(),
            about: "Three & more.".to_owned(),
            seed: 7,
            machine: Machine { cores: 2, kernel: "6.1".to_owned(), delays: "none".to_owned(), busy: 0.3 },
            image_bytes: 950_000,
            ideal_seconds: Some(2.0),
            seconds: 4.0,
            over_ideal: Some(2.0),
            events: vec![event(0.0, "pull n1 n2 n3", &["n1", "n2", "n3"]), event(2.0, "kill n3", &["n3"])],
            nodes: vec![node(1, Some(3.5)), node(2, Some(4.0)), node(3, None)],
            zones: vec![ZoneRecord { zone: "far <& \"away\"".to_owned(), received: 1_000_000, sent: 2_000 }],
            origin: OriginRecord { blob_bytes: 950_000, sent: 990_000, blob_requests: 3 },
            samples: samples.collect(),
            checks: vec![
                Check { what: "it holds".to_owned(), passed: true, found: "yes".to_owned() },
                Check { what: "it does not".to_owned(), passed: false, found: "no".to_owned() },
            ],
        }
    }

    #[test]
    fn fates_follow_events() {
        let record = example();
        assert_eq!(fate(&record, "n3", 1.9), Fate::Runs);
        assert_eq!(fate(&record, "n3", 2.0), Fate::Gone);
        assert_eq!(fate(&record, "n1", 9.0), Fate::Runs);
        assert_eq!(caption(&record.events[1]), "kill n3");
        let nodes = (1..=6).map(|number| format!("n{number}")).collect();
        assert_eq!(
            caption(&Happening { at: 0.0, what: "change the link of n1 n2".to_owned(), nodes }),
            "change the link of 6 nodes"
        );
    }

    /// Text with letters that mean something in XML comes out as text, and what is not there does no harm.
    #[test]
    fn drawings_are_well_formed() {
        let whole = example();
        let empty = Record {
            samples: Vec::new(),
            events: Vec::new(),
            nodes: Vec::new(),
            zones: Vec::new(),
            seconds: 0.0,
            ..example()
        };
        for record in [&whole, &empty] {
            for drawing in [plot(record), film(record)] {
                let text =
                    roxmltree::Document::parse(&drawing).unwrap_or_else(|error| panic!("{error}: {drawing}"));
                let words: String = text.descendants().filter_map(|node| node.text()).collect();
                assert!(words.contains("three <in> a row"), "{words}");
                for node in &record.nodes {
                    assert!(words.contains(&node.node), "{words}");
                }
            }
        }
        assert!(plot(&whole).contains("kill n3") && film(&whole).contains("kill n3"));
    }
}
