//! What the demo says at its end, for people and for machines. Pure.

use membership::NodeId;
use serde::Serialize;

use super::run::{Outcome, Pull};
use crate::api::FunctionState;
use crate::render::table::{Cell, Table};
use crate::render::{Paint, Tone, tree};
use crate::units;

/// The demo's result as one JSON object.
#[derive(Debug, Serialize)]
pub struct Report {
    nodes: usize,
    completed: usize,
    image_bytes: u64,
    origin_bytes: u64,
    peer_bytes: u64,
    elapsed_ms: u128,
    direct_origin_bytes: u64,
    direct_elapsed_ms: u128,
    tree: Vec<Place>,
    per_node: Vec<PerNode>,
}

#[derive(Debug, Serialize)]
struct Place {
    node: NodeId,
    parent: Option<NodeId>,
    depth: usize,
}

#[derive(Debug, Serialize)]
struct PerNode {
    node: NodeId,
    elapsed_ms: u64,
    origin_bytes: u64,
    peer_bytes: u64,
    parent: Option<NodeId>,
}

impl Report {
    /// The report of one run.
    pub fn of(outcome: &Outcome) -> Self {
        let ready = outcome.functions.iter().filter(|(_, f)| f.state == FunctionState::Ready);
        let places = outcome.tree.nodes.iter().map(|place| Place {
            node: place.node.clone(),
            parent: place.parent.clone(),
            depth: place.depth,
        });
        let per_node = outcome.functions.iter().map(|(node, function)| PerNode {
            node: node.clone(),
            elapsed_ms: function.elapsed_ms,
            origin_bytes: function.origin_bytes,
            peer_bytes: function.peer_bytes,
            parent: function.parent.clone(),
        });
        Self {
            nodes: outcome.functions.len(),
            completed: ready.count(),
            image_bytes: outcome.image_bytes,
            origin_bytes: outcome.cluster.origin_bytes,
            peer_bytes: outcome.functions.iter().map(|(_, function)| function.peer_bytes).sum(),
            elapsed_ms: outcome.cluster.elapsed.as_millis(),
            direct_origin_bytes: outcome.direct.origin_bytes,
            direct_elapsed_ms: outcome.direct.elapsed.as_millis(),
            tree: places.collect(),
            per_node: per_node.collect(),
        }
    }
}

/// The same in words, with the tree drawn.
pub fn text(outcome: &Outcome, paint: Paint) -> String {
    let mut text =
        paint.apply("The function tree, each node under the one that it fetched from", Tone::Strong);
    text += "\n\n";
    text += &tree::draw(&outcome.tree, paint);
    text += "\n";
    text += &per_node(outcome).render(paint);
    text += "\n";
    text += &comparison(outcome).render(paint);
    text += "\n";
    text += &conclusion(outcome);
    text
}

fn per_node(outcome: &Outcome) -> Table {
    let mut table = Table::new(["NODE", ">TIME", ">FROM ORIGIN", ">FROM PEERS", "PARENT"]);
    for (node, function) in &outcome.functions {
        let time = units::duration(std::time::Duration::from_millis(function.elapsed_ms));
        let parent = function.parent.as_ref().map_or_else(|| "- (root)".to_owned(), NodeId::to_string);
        table.row([
            node.as_str().into(),
            time.into(),
            units::bytes(function.origin_bytes).into(),
            units::bytes(function.peer_bytes).into(),
            parent.into(),
        ]);
    }
    table
}

fn comparison(outcome: &Outcome) -> Table {
    let mut table = Table::new(["ALL OF THEM", ">TIME", ">LEFT THE ORIGIN", ">x IMAGE"]);
    let mut row = |name: &str, pull: &Pull| {
        let cells: [Cell; 4] = [
            name.into(),
            units::duration(pull.elapsed).into(),
            units::bytes(pull.origin_bytes).into(),
            format!("{:.2}", ratio(pull.origin_bytes, outcome.image_bytes)).into(),
        ];
        table.row(cells);
    };
    row("through the tree", &outcome.cluster);
    row("straight from the origin", &outcome.direct);
    table
}

fn conclusion(outcome: &Outcome) -> String {
    let faster = outcome.direct.elapsed.as_secs_f64() / outcome.cluster.elapsed.as_secs_f64().max(1e-3);
    let spared = 1.0 - ratio(outcome.cluster.origin_bytes, outcome.direct.origin_bytes);
    format!("{faster:.1} times as fast, and the origin sent {:.0}% less.\n", 100.0 * spared)
}

#[allow(clippy::cast_precision_loss, reason = "for people, who read three digits")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use membership::FunctionId;
    use membership::Zone;
    use membership::view::ParticipationState;

    use super::*;
    use crate::api;

    const MIB: u64 = 1 << 20;

    fn outcome() -> Outcome {
        let id = FunctionId::from_bytes([1; 32]);
        let function = |parent: Option<&str>, depth, origin_bytes, peer_bytes| api::Function {
            function: id,
            reference: "localhost:5000/demo:latest".parse().unwrap(),
            state: FunctionState::Ready,
            bytes: MIB,
            held_bytes: MIB,
            origin_bytes,
            peer_bytes,
            elapsed_ms: 1500,
            parent: parent.map(|name| name.parse().unwrap()),
            depth: Some(depth),
            participants: 2,
            sources: BTreeMap::new(),
            error: None,
        };
        let place = |node: &str, parent: Option<&str>, depth| api::TreeNode {
            node: node.parse().unwrap(),
            zone: Zone::default(),
            parent: parent.map(|name| name.parse().unwrap()),
            depth,
            state: ParticipationState::Ready,
        };
        Outcome {
            image_bytes: MIB,
            cluster: Pull { origin_bytes: MIB, elapsed: Duration::from_secs(2) },
            direct: Pull { origin_bytes: 2 * MIB, elapsed: Duration::from_secs(4) },
            functions: vec![
                ("n1".parse().unwrap(), function(None, 0, MIB, 0)),
                ("n2".parse().unwrap(), function(Some("n1"), 1, 0, MIB)),
            ],
            tree: api::Tree {
                function: id,
                reference: None,
                nodes: vec![place("n1", None, 0), place("n2", Some("n1"), 1)],
            },
        }
    }

    #[test]
    fn people_see_the_tree_the_nodes_and_the_gain() {
        let text = text(&outcome(), Paint::Plain);
        for line in [
            "NODE    TIME  FROM ORIGIN  FROM PEERS  PARENT",
            "n1    1.50 s      1.0 MiB         0 B  - (root)",
            "n2    1.50 s          0 B     1.0 MiB  n1",
            "through the tree          2.00 s          1.0 MiB     1.00",
            "straight from the origin  4.00 s          2.0 MiB     2.00",
            "2.0 times as fast, and the origin sent 50% less.",
        ] {
            assert!(text.lines().any(|seen| seen == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn machines_get_every_figure() {
        let json = serde_json::to_value(Report::of(&outcome())).unwrap();
        for (name, value) in [
            ("nodes", 2),
            ("completed", 2),
            ("image_bytes", MIB),
            ("origin_bytes", MIB),
            ("peer_bytes", MIB),
            ("elapsed_ms", 2000),
            ("direct_origin_bytes", 2 * MIB),
            ("direct_elapsed_ms", 4000),
        ] {
            assert_eq!(json[name], value, "{name}");
        }
        assert_eq!(json["tree"][1], serde_json::json!({ "node": "n2", "parent": "n1", "depth": 1 }));
    }
}
