//! Draws a function tree: for a terminal, and for Graphviz. Pure.
//!
//! Draws what it is given, even if that is no tree: a participant whose parent is not there stands at the left edge,
//! and each participant appears exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use membership::{NodeId, Zone};

use super::table::{Cell, Table};
use super::{Paint, Tone, participation};
use crate::api::{Tree, TreeNode};

/// The tree with its branches, as lines: a heading, the origin, and below it a line for each participant.
pub fn draw(tree: &Tree, paint: Paint) -> String {
    let name = tree.reference.as_ref().map_or(tree.function.to_string(), |reference| reference.to_string());
    let name = paint.apply(&name, Tone::Strong);
    if tree.nodes.is_empty() {
        return format!("{name}: no member provisions or holds it\n");
    }
    let levels = tree.nodes.iter().map(|node| node.depth).max().unwrap_or(0) + 1;
    let ready = tree.nodes.iter().filter(|node| participation(node.state).0 == "ready").count();
    let mut text = format!(
        "{name}\n{}, {ready} ready, {}\n\n",
        count(tree.nodes.len(), "participant"),
        count(levels, "level")
    );
    let many_zones = zones(tree).len() > 1;
    let mut table = Table::bare(3);
    table.row(["origin".into()]);
    for Line { node, branches, parent_is_missing } in lines(tree) {
        let (state, tone) = participation(node.state);
        let zone = if many_zones { node.zone.as_str() } else { "" };
        let place = Cell::new(format!("{branches}{}", node.node), Tone::Plain);
        let state = match &node.parent {
            Some(parent) if parent_is_missing => format!("{state}, below {parent}, which is not there"),
            _ => state.to_owned(),
        };
        let state = Cell::new(state, tone);
        if many_zones {
            table.row([place, zone.into(), state])
        } else {
            table.row([place, state])
        };
    }
    text.push_str(&table.render(paint));
    text
}

/// The tree in Graphviz's language; `dot -Tsvg` makes a picture of it.
pub fn dot(tree: &Tree) -> String {
    let mut text = format!("digraph \"{}\" {{\n", tree.function);
    text.push_str("  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];\n");
    // No node can have a colon in its name, so none can be mistaken for the origin.
    text.push_str("  \"origin:\" [label=\"origin\", shape=cylinder, fillcolor=\"#dddddd\"];\n");
    let zones = zones(tree);
    for zone in &zones {
        let framed = zones.len() > 1;
        if framed {
            let _ = writeln!(text, "  subgraph \"cluster_{zone}\" {{\n    label=\"zone {zone}\";");
        }
        let indent = if framed { "    " } else { "  " };
        for node in tree.nodes.iter().filter(|node| node.zone == **zone) {
            let colour = if participation(node.state).1 == Tone::Good { "#c8e6c9" } else { "#ffe0b2" };
            let _ = writeln!(text, "{indent}\"{}\" [fillcolor=\"{colour}\"];", node.node);
        }
        if framed {
            text.push_str("  }\n");
        }
    }
    for node in &tree.nodes {
        let parent = node.parent.as_ref().map_or("origin:", |parent| parent.as_str());
        let _ = writeln!(text, "  \"{parent}\" -> \"{}\";", node.node);
    }
    text.push_str("}\n");
    text
}

struct Line<'a> {
    node: &'a TreeNode,
    /// What stands to the left of the name.
    branches: String,
    parent_is_missing: bool,
}

/// The participants from the top down, each parent before its children. A stack rather than recursion: what comes over
/// a network may be as deep as it likes.
fn lines(tree: &Tree) -> Vec<Line<'_>> {
    let names: BTreeSet<&NodeId> = tree.nodes.iter().map(|node| &node.node).collect();
    let mut children: BTreeMap<&NodeId, Vec<&TreeNode>> = BTreeMap::new();
    let mut tops = Vec::new();
    for node in &tree.nodes {
        match &node.parent {
            Some(parent) if names.contains(parent) => children.entry(parent).or_default().push(node),
            _ => tops.push(node),
        }
    }
    let mut lines = Vec::new();
    let mut drawn = BTreeSet::new();
    let mut stack: Vec<(&TreeNode, String, bool)> = Vec::new();
    let tops_last = tops.len().saturating_sub(1);
    stack.extend(tops.iter().enumerate().rev().map(|(at, top)| (*top, String::new(), at == tops_last)));
    // Whoever cannot be reached from the top stands in a circle, which can be entered anywhere.
    let mut unreached = tree.nodes.iter();
    while let Some((node, margin, is_last)) = stack
        .pop()
        .or_else(|| Some((unreached.find(|node| !drawn.contains(&node.node))?, String::new(), true)))
    {
        if !drawn.insert(&node.node) {
            continue;
        }
        let (elbow, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let parent_is_missing = node.parent.as_ref().is_some_and(|parent| !names.contains(parent));
        lines.push(Line { node, branches: format!("{margin}{elbow}"), parent_is_missing });
        let below = format!("{margin}{below}");
        let own = children.get(&node.node).map_or(&[][..], Vec::as_slice);
        let last = own.len().saturating_sub(1);
        stack.extend(own.iter().enumerate().rev().map(|(at, child)| (*child, below.clone(), at == last)));
    }
    lines
}

fn zones(tree: &Tree) -> BTreeSet<&Zone> {
    tree.nodes.iter().map(|node| &node.zone).collect()
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use membership::FunctionId;
    use membership::view::ParticipationState::{self, Provisioning, Ready};

    use super::*;

    fn node(name: &str, zone: &str, parent: &str, depth: usize, state: ParticipationState) -> TreeNode {
        TreeNode {
            node: name.parse().unwrap(),
            zone: zone.parse().unwrap(),
            parent: (!parent.is_empty()).then(|| parent.parse().unwrap()),
            depth,
            state,
        }
    }

    fn tree(nodes: &[TreeNode]) -> Tree {
        Tree {
            function: FunctionId::from_bytes([0xab; 32]),
            reference: "alpine:3.20".parse().ok(),
            nodes: nodes.to_vec(),
        }
    }

    #[test]
    fn one_zone() {
        let sample = tree(&[
            node("vm-1", "a", "", 0, Ready),
            node("vm-2", "a", "vm-1", 1, Ready),
            node("vm-3", "a", "vm-1", 1, Ready),
            node("vm-4", "a", "vm-2", 2, Provisioning),
            node("vm-5", "a", "vm-2", 2, Ready),
            node("vm-6", "a", "vm-4", 3, Provisioning),
        ]);
        let expected = "\
docker.io/library/alpine:3.20
6 participants, 4 ready, 4 levels

origin
└─ vm-1           ready
   ├─ vm-2        ready
   │  ├─ vm-4     provisioning
   │  │  └─ vm-6  provisioning
   │  └─ vm-5     ready
   └─ vm-3        ready
";
        assert_eq!(draw(&sample, Paint::Plain), expected);
    }

    #[test]
    fn many_zones_have_a_column() {
        let sample = tree(&[
            node("vm-1", "a", "", 0, Ready),
            node("vm-2", "zone-b", "vm-1", 1, Ready),
            node("vm-3", "a", "vm-1", 1, Provisioning),
        ]);
        let expected = "\
docker.io/library/alpine:3.20
3 participants, 2 ready, 2 levels

origin
└─ vm-1     a       ready
   ├─ vm-2  zone-b  ready
   └─ vm-3  a       provisioning
";
        assert_eq!(draw(&sample, Paint::Plain), expected);
    }

    #[test]
    fn what_is_no_tree_is_drawn_all_the_same() {
        let sample = tree(&[
            node("vm-1", "a", "", 0, Ready),
            node("vm-2", "a", "gone", 4, Ready),
            node("vm-3", "a", "vm-4", 1, Ready),
            node("vm-4", "a", "vm-3", 1, Ready),
            node("vm-5", "a", "vm-5", 1, Ready),
        ]);
        let expected = "\
docker.io/library/alpine:3.20
5 participants, 5 ready, 5 levels

origin
├─ vm-1     ready
└─ vm-2     ready, below gone, which is not there
└─ vm-3     ready
   └─ vm-4  ready
└─ vm-5     ready
";
        assert_eq!(draw(&sample, Paint::Plain), expected);
        let nobody = Tree { reference: None, ..tree(&[]) };
        let digest = "ab".repeat(32);
        let expected = format!("sha256:{digest}: no member provisions or holds it\n");
        assert_eq!(draw(&nobody, Paint::Plain), expected);
    }

    #[test]
    fn a_deep_tree_needs_no_deep_stack() {
        let name = |at: usize| format!("vm-{at}");
        let nodes: Vec<TreeNode> = (0..2_000)
            .map(|at| node(&name(at), "a", &at.checked_sub(1).map(name).unwrap_or_default(), at, Ready))
            .collect();
        assert_eq!(draw(&tree(&nodes), Paint::Plain).lines().count(), 2_004);
    }

    #[test]
    fn graphviz() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let one_zone = tree(&[node("vm-1", "a", "", 0, Ready), node("vm-2", "a", "vm-1", 1, Provisioning)]);
        let expected = format!(
            "digraph \"{digest}\" {{
  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];
  \"origin:\" [label=\"origin\", shape=cylinder, fillcolor=\"#dddddd\"];
  \"vm-1\" [fillcolor=\"#c8e6c9\"];
  \"vm-2\" [fillcolor=\"#ffe0b2\"];
  \"origin:\" -> \"vm-1\";
  \"vm-1\" -> \"vm-2\";
}}
"
        );
        assert_eq!(dot(&one_zone), expected);
        let two_zones = tree(&[node("vm-1", "a", "", 0, Ready), node("vm-2", "b", "vm-1", 1, Ready)]);
        let expected = format!(
            "digraph \"{digest}\" {{
  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\"];
  \"origin:\" [label=\"origin\", shape=cylinder, fillcolor=\"#dddddd\"];
  subgraph \"cluster_a\" {{
    label=\"zone a\";
    \"vm-1\" [fillcolor=\"#c8e6c9\"];
  }}
  subgraph \"cluster_b\" {{
    label=\"zone b\";
    \"vm-2\" [fillcolor=\"#c8e6c9\"];
  }}
  \"origin:\" -> \"vm-1\";
  \"vm-1\" -> \"vm-2\";
}}
"
        );
        assert_eq!(dot(&two_zones), expected);
    }
}
