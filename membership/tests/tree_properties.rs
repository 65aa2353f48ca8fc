//! What holds of every function tree, whoever participates.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use membership::tree::{Participant, Tree};
use membership::{FunctionId, NodeId, Stamp, Zone};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::test_runner::{Config, TestRunner};

#[test]
fn the_order_of_arrival_does_not_matter() {
    let twice = participants(0..=300).prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle()));
    for_all(twice, |(one, other)| assert_eq!(tree(&one), tree(&other)));
}

#[test]
fn everybody_hangs_below_the_one_root() {
    for_all(participants(0..=300), |participants| {
        let tree = tree(&participants);
        let most_senior = participants.iter().min_by_key(|p| p.seniority()).map(|p| &p.node);
        assert_eq!(tree.root(), most_senior);
        assert_eq!(tree.len(), participants.len());
        for p in &participants {
            assert_eq!(tree.ancestors(&p.node).last().or(Some(&p.node)), most_senior);
            assert_eq!(tree.parent(&p.node).is_none(), tree.root() == Some(&p.node));
        }
    });
}

#[test]
fn all_ways_of_asking_tell_of_the_same_edges() {
    for_all(participants(0..=300), |participants| {
        let tree = tree(&participants);
        let mut deepest = 0;
        let mut children: BTreeMap<&NodeId, Vec<&NodeId>> = BTreeMap::new();
        for (p, parent) in tree.iter() {
            assert_eq!(tree.parent(&p.node), parent);
            let upwards: Vec<_> = std::iter::successors(parent, |q| tree.parent(q)).collect();
            assert_eq!(tree.ancestors(&p.node).collect::<Vec<_>>(), upwards);
            assert_eq!(tree.depth(&p.node), Some(upwards.len()));
            deepest = deepest.max(upwards.len());
            if let Some(parent) = parent {
                children.entry(parent).or_default().push(&p.node);
            }
        }
        assert_eq!(tree.height(), deepest);
        for p in &participants {
            assert!(tree.contains(&p.node));
            let expected = children.remove(&p.node).unwrap_or_default();
            assert_eq!(tree.children(&p.node).collect::<Vec<_>>(), expected, "children of {}", p.node);
        }
        assert!(tree.iter().map(|(p, _)| p.seniority()).is_sorted());
    });
}

#[test]
fn every_edge_goes_to_a_strictly_smaller_key() {
    for_all(participants(0..=300), |participants| {
        let by_node = by_node(&participants);
        for (child, parent) in edges(&tree(&participants)) {
            assert!(by_node[&parent].seniority() < by_node[&child].seniority(), "{child} below {parent}");
        }
    });
}

/// Each node sees itself and a random part of the others, and follows the tree that it derives from these.
#[test]
fn following_parents_from_view_to_view_never_loops() {
    let with_views = participants(1..=64).prop_flat_map(|p| {
        let views = vec(any::<u64>(), p.len());
        (Just(p), views)
    });
    for_all(with_views, |(participants, views)| {
        let parent_in_own_view = |(own, seen): (usize, &u64)| {
            let sees = |other: usize| other == own || seen >> other & 1 == 1;
            let view = participants.iter().enumerate().filter(|(other, _)| sees(*other)).map(|(_, p)| p);
            let node = &participants[own].node;
            (node, tree(view).parent(node).cloned())
        };
        let parents: BTreeMap<_, _> = views.iter().enumerate().map(parent_in_own_view).collect();

        let by_node = by_node(&participants);
        for start in parents.keys() {
            let mut at = *start;
            let mut steps = 0;
            while let Some(parent) = &parents[at] {
                assert!(by_node[parent].seniority() < by_node[at].seniority(), "{at} below {parent}");
                steps += 1;
                assert!(steps < participants.len(), "a loop above {start}");
                at = parent;
            }
        }
    });
}

#[test]
fn a_node_has_two_children_at_most_and_a_leader_two_leaders_besides() {
    for_all(participants(0..=300), |participants| {
        let tree = tree(&participants);
        let by_node = by_node(&participants);
        let leaders = leaders(&participants);
        for p in &participants {
            let (near, far): (Vec<_>, Vec<_>) =
                tree.children(&p.node).partition(|child| by_node[child].zone == p.zone);
            assert!(near.len() <= 2, "{} has {near:?}", p.node);
            assert!(far.len() <= 2, "{} has {far:?}", p.node);
            assert!(far.is_empty() || leaders.contains(&p.node), "{} leads no zone but has {far:?}", p.node);
            assert!(far.iter().all(|child| leaders.contains(child)), "not all of {far:?} lead a zone");
        }
    });
}

#[test]
fn each_zone_but_the_roots_is_entered_once() {
    for_all(participants(1..=300), |participants| {
        let by_node = by_node(&participants);
        let tree = tree(&participants);
        let crossings =
            edges(&tree).into_iter().filter(|(child, parent)| by_node[child].zone != by_node[parent].zone);
        assert_eq!(crossings.count(), leaders(&participants).len() - 1);
    });
}

#[test]
fn a_join_moves_nobody() {
    for_all((participants(0..=300), zone()), |(participants, zone)| {
        let latest = Stamp { wall_ms: 20, logical: 0 };
        let joiner = Participant { node: node(participants.len()), stamp: latest, zone };
        let (before, after) = (tree(&participants), tree(participants.iter().chain([&joiner])));
        assert_eq!(moved(&before, &after), []);
        assert!(after.contains(&joiner.node));
    });
}

#[test]
fn a_leave_moves_only_descendants_of_the_leaver() {
    for_all(participants(1..=60), |participants| {
        let before = tree(&participants);
        for leaver in participants.iter().map(|p| &p.node) {
            let after = tree(participants.iter().filter(|p| p.node != *leaver));
            for node in moved(&before, &after) {
                assert!(before.ancestors(&node).any(|above| above == leaver), "{leaver} left, {node} moved");
            }
        }
    });
}

#[test]
fn stripes_and_functions_have_trees_of_their_own() {
    let participants = evenly_in_zones(1_000, 1);
    let derive = |function, stripe| {
        Tree::derive(&FunctionId::from_bytes([function; 32]), stripe, participants.iter().cloned())
    };
    let tree = derive(0, 0);
    for (function, stripe) in [(0, 1), (0, 255), (1, 0)] {
        let moved = moved(&tree, &derive(function, stripe)).len();
        assert!(
            moved > 900,
            "function {function}, stripe {stripe}: only {moved} of 1,000 have another parent"
        );
    }
}

#[test]
fn the_tree_is_flat_and_a_leave_moves_few() {
    #[rustfmt::skip]
    let rows = [
        // participants, zones, heights allowed (ideal are 6, 9 and 13), leaves to try
        (100,    1,     6..=11,  100),
        (1_000,  1,     9..=15,  100),
        (10_000, 1,     13..=19, 20),
        (1_000,  4,     9..=15,  100),
        (1_000,  1_000, 9..=15,  100),
    ];
    for (n, zones, heights, leaves) in rows {
        let participants = evenly_in_zones(n, zones);
        let before = tree(&participants);
        let height = before.height();
        assert!(heights.contains(&height), "height {height} of {n} in {zones} zones");

        let leavers = (0..n).step_by(n / leaves).map(node);
        let moved: usize = leavers
            .map(|leaver| moved(&before, &tree(participants.iter().filter(|p| p.node != leaver))).len())
            .sum();
        assert!(
            moved < 3 * leaves,
            "{moved} moved when {leaves} of {n} in {zones} zones left, one at a time"
        );
    }
}

/// Runs `check` on random inputs, 256 unless `PROPTEST_CASES` says otherwise. One that fails is made as small as it
/// goes, and printed.
fn for_all<S: Strategy>(inputs: S, check: impl Fn(S::Value)) {
    let config = Config { failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&inputs, |input| {
        check(input);
        Ok(())
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

/// In up to five zones, in any order, with stamps so few that many are equal.
fn participants(count: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Participant>> {
    let stamp = (0..20u64, 0..5u32).prop_map(|(wall_ms, logical)| Stamp { wall_ms, logical });
    let participants = vec((stamp, zone()), count).prop_map(|drawn| {
        let name = |(i, (stamp, zone))| Participant { node: node(i), stamp, zone };
        drawn.into_iter().enumerate().map(name).collect::<Vec<_>>()
    });
    participants.prop_shuffle()
}

/// Their order by seniority is not their order by name.
fn evenly_in_zones(n: usize, zones: usize) -> Vec<Participant> {
    let participant = |i| Participant {
        node: node(i),
        stamp: Stamp { wall_ms: (i * 7_919 % n) as u64, logical: 0 },
        zone: zone_name(i % zones),
    };
    (0..n).map(participant).collect()
}

fn zone() -> impl Strategy<Value = Zone> {
    (0..5usize).prop_map(zone_name)
}

fn zone_name(i: usize) -> Zone {
    format!("zone-{i}").parse().expect("a label")
}

fn node(i: usize) -> NodeId {
    format!("vm-{i}").parse().expect("a label")
}

fn tree<'a>(participants: impl IntoIterator<Item = &'a Participant>) -> Tree {
    Tree::derive(&FunctionId::from_bytes([7; 32]), 0, participants.into_iter().cloned())
}

fn by_node(participants: &[Participant]) -> BTreeMap<&NodeId, &Participant> {
    participants.iter().map(|p| (&p.node, p)).collect()
}

/// The most senior of each zone.
fn leaders(participants: &[Participant]) -> BTreeSet<&NodeId> {
    let mut by_seniority: Vec<_> = participants.iter().collect();
    by_seniority.sort_by_key(|p| p.seniority());
    let mut zones = BTreeSet::new();
    by_seniority.into_iter().filter(|p| zones.insert(&p.zone)).map(|p| &p.node).collect()
}

/// Child and parent of each edge.
fn edges(tree: &Tree) -> Vec<(&NodeId, &NodeId)> {
    tree.iter().filter_map(|(p, parent)| Some((&p.node, parent?))).collect()
}

/// Who is in both trees, but below different parents.
fn moved(before: &Tree, after: &Tree) -> Vec<NodeId> {
    let elsewhere =
        |p: &&Participant| after.contains(&p.node) && before.parent(&p.node) != after.parent(&p.node);
    before.iter().map(|(p, _)| p).filter(elsewhere).map(|p| p.node.clone()).collect()
}
