//! The function tree: which participant of a function fetches from which.
//!
//! Owns the shape of the tree. Does not own who participates (the view says so), who is alive, or what travels along
//! an edge.
//!
//! Participants line up by seniority and enter, one after the other, a binary digital search tree (Coffman and
//! Eve, "File Structures Using Hashing Functions", CACM 1970). The first is the root. Each next one walks down
//! from the root, turning left or right by the bits of a hash of its name, and stays at the first free place. Each
//! zone has such a trie of its own. The most senior participant of a zone leads it, and the leaders stand in one
//! more trie, in which a zone's *name* tells the way:
//!
//! ```text
//!    zone a           zone b          `─`, `│`: within a zone     `═`: from leader to leader
//!
//!      1 ══════════════ 3             Numbers are ranks by seniority. 6 turned left at 1, found 2 there,
//!    ┌─┴─┐            ┌─┘             turned right at 2, and found nobody.
//!    2   4            5
//!    └─┐
//!      6
//! ```
//!
//! So each zone but the root's is entered once, and a participant has at most two children in its own zone; a
//! leader has at most two other leaders as children besides. The trie stays within a few levels of the ideal height,
//! since hashes spread evenly. Whoever joins is the most junior and moves nobody. When somebody leaves, a descendant
//! takes its place, another that one's place, and so on; nobody but descendants moves.
//!
//! **Invariant.** Every edge goes to a strictly smaller [`Key`], whatever the set of participants: on its walk a
//! participant meets only those that entered before it. A key depends on nothing but its own participant. So nodes
//! whose views differ may disagree about the tree, but following parents never loops, even from view to view.
//!
//! Function trees for container images: Wang et al., "FaaSNet", USENIX ATC 2021, which balances by rotation, under a
//! central scheduler.

use std::collections::BTreeMap;
use std::iter::successors;

use crate::{FunctionId, NodeId, Stamp, Zone};

/// A member that provisions or holds the function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Participant {
    /// Its name.
    pub node: NodeId,
    /// When it joined the function.
    pub stamp: Stamp,
    /// Where it stands.
    pub zone: Zone,
}

impl Participant {
    /// Its rank among the function's participants.
    pub fn seniority(&self) -> Key<'_> {
        Key { stamp: self.stamp, node: &self.node }
    }
}

/// A participant's rank by seniority: the smaller key is the more senior. A parent's key is smaller than its child's,
/// and a parent may hold a child to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key<'a> {
    /// When the participant joined the function.
    pub stamp: Stamp,
    /// Its name, which ranks those of equal stamps.
    pub node: &'a NodeId,
}

/// The tree over a function's participants for one stripe.
///
/// Nodes that do not participate are strangers to it: they have no parent, no children and no depth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Ordered by node id, so that a name is found by binary search.
    participants: Vec<Participant>,
    /// `edges[i]` are those of `participants[i]`.
    edges: Vec<Edges>,
    /// Indices of participants, the most senior first.
    by_seniority: Vec<usize>,
}

/// Where a participant hangs, by indices of participants. Children form a list, the most senior first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Edges {
    parent: Option<usize>,
    first_child: Option<usize>,
    next_sibling: Option<usize>,
}

impl Tree {
    /// The tree of these participants. It depends on the set alone, not on the order in which they come.
    ///
    /// When a node occurs more than once, its lowest stamp counts, and among equal stamps the lowest zone.
    ///
    /// Takes O(n log n) time.
    pub fn derive(
        function: &FunctionId,
        stripe: u8,
        participants: impl IntoIterator<Item = Participant>,
    ) -> Self {
        let mut participants: Vec<Participant> = participants.into_iter().collect();
        participants.sort_unstable_by(|a, b| (&a.node, a.stamp, &a.zone).cmp(&(&b.node, b.stamp, &b.zone)));
        participants.dedup_by(|later, earlier| later.node == earlier.node);

        // Indices go by node id, so `(stamp, index)` ranks like `(stamp, node id)`, without comparing any text.
        let mut by_seniority: Vec<usize> = (0..participants.len()).collect();
        by_seniority.sort_unstable_by_key(|&index| (participants[index].stamp, index));

        let salts = Salts::new(function, stripe);
        let mut edges = vec![Edges::default(); participants.len()];
        for (child, parent) in choose_parents(&participants, &by_seniority, &salts) {
            edges[child].parent = Some(parent);
        }
        // From the most junior on, so that each list of children ends up with the most senior in front.
        for &child in by_seniority.iter().rev() {
            if let Some(parent) = edges[child].parent {
                edges[child].next_sibling = edges[parent].first_child.replace(child);
            }
        }
        Self { participants, edges, by_seniority }
    }

    /// The most senior participant, who fetches from the origin. None when nobody participates.
    pub fn root(&self) -> Option<&NodeId> {
        self.by_seniority.first().map(|&index| self.node(index))
    }

    /// From whom `node` fetches. None for the root and for strangers.
    pub fn parent(&self, node: &NodeId) -> Option<&NodeId> {
        self.edges[self.find(node)?].parent.map(|parent| self.node(parent))
    }

    /// Who fetches from `node`, the most senior first.
    pub fn children(&self, node: &NodeId) -> impl Iterator<Item = &NodeId> + use<'_> {
        let first = self.find(node).and_then(|index| self.edges[index].first_child);
        successors(first, |&child| self.edges[child].next_sibling).map(|child| self.node(child))
    }

    /// The parent of `node`, the parent's parent, and so on; the root comes last. Each is senior to the one before.
    pub fn ancestors(&self, node: &NodeId) -> impl Iterator<Item = &NodeId> + use<'_> {
        self.find(node).into_iter().flat_map(|index| self.upwards(index)).map(|index| self.node(index))
    }

    /// How many edges lead from `node` to the root: 0 for the root itself. None for strangers.
    pub fn depth(&self, node: &NodeId) -> Option<usize> {
        self.find(node).map(|index| self.upwards(index).count())
    }

    /// The greatest depth; 0 when nobody participates. Looks at all participants.
    pub fn height(&self) -> usize {
        let mut depths = vec![0; self.len()];
        for &index in &self.by_seniority {
            // A parent is senior to its child, so its depth is known by now.
            depths[index] = self.edges[index].parent.map_or(0, |parent| depths[parent] + 1);
        }
        depths.into_iter().max().unwrap_or(0)
    }

    /// How many participate.
    pub fn len(&self) -> usize {
        self.participants.len()
    }

    /// Whether nobody participates.
    pub fn is_empty(&self) -> bool {
        self.participants.is_empty()
    }

    /// Whether `node` participates.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.find(node).is_some()
    }

    /// All participants, each with its parent, the most senior first.
    pub fn iter(&self) -> impl Iterator<Item = (&Participant, Option<&NodeId>)> {
        self.by_seniority.iter().map(|&index| {
            let parent = self.edges[index].parent.map(|parent| self.node(parent));
            (&self.participants[index], parent)
        })
    }

    fn find(&self, node: &NodeId) -> Option<usize> {
        self.participants.binary_search_by(|participant| participant.node.cmp(node)).ok()
    }

    fn node(&self, index: usize) -> &NodeId {
        &self.participants[index].node
    }

    fn upwards(&self, index: usize) -> impl Iterator<Item = usize> {
        successors(self.edges[index].parent, |&at| self.edges[at].parent)
    }
}

/// Each participant but the root with its parent, as indices.
fn choose_parents(
    participants: &[Participant],
    by_seniority: &[usize],
    salts: &Salts,
) -> Vec<(usize, usize)> {
    let Some((&root, others)) = by_seniority.split_first() else { return Vec::new() };
    let mut leaders = BTreeMap::from([(&participants[root].zone, root)]);
    let mut within_zones = Trie::with_capacity(participants.len());
    let mut between_zones = Trie::with_capacity(participants.len());
    let mut place = |newcomer: usize| {
        let Participant { node, zone, .. } = &participants[newcomer];
        if let Some(&leader) = leaders.get(zone) {
            return within_zones.insert(leader, newcomer, Path::new(&salts.node, node.as_str()));
        }
        leaders.insert(zone, newcomer);
        // By the zone's name, not the leader's: the next leader then takes the same way and ends up no higher, so
        // that a change of leader moves nobody but descendants of the one who left.
        between_zones.insert(root, newcomer, Path::new(&salts.zone, zone.as_str()))
    };
    others.iter().map(|&newcomer| (newcomer, place(newcomer))).collect()
}

/// The free and the taken places left and right below each participant: a binary digital search tree, or several that
/// share no participant.
struct Trie {
    below: Vec<[Option<usize>; 2]>,
}

impl Trie {
    fn with_capacity(participants: usize) -> Self {
        Self { below: vec![[None; 2]; participants] }
    }

    /// Puts `newcomer` at the first free place along its path from `root`, and says below whom that is. Takes as many
    /// turns as there are others on the way, so it ends whatever the path.
    fn insert(&mut self, root: usize, newcomer: usize, mut path: Path) -> usize {
        let mut parent = root;
        loop {
            match &mut self.below[parent][path.turn()] {
                Some(taken) => parent = *taken,
                free => {
                    *free = Some(newcomer);
                    return parent;
                }
            }
        }
    }
}

/// What makes paths differ from function to function, from stripe to stripe, and between nodes and zones of one name.
///
/// All nodes must compute the very same paths, so this encoding is part of the protocol:
///
/// - a salt is blake3's `derive_key` of one of the two contexts below, over 33 bytes: the function's digest (32)
///   and the stripe (1);
/// - a path is blake3's `keyed_hash`, under that salt, of a name as UTF-8 text, with blake3's extended output;
/// - turn number d, from 0, is bit d of that output, each byte beginning with its most significant bit.
///
/// No length needs to be encoded: under a salt, nothing but one name is ever hashed.
struct Salts {
    node: [u8; 32],
    zone: [u8; 32],
}

impl Salts {
    const NODE_CONTEXT: &str = "faasnet function tree v1: path of a node within its zone";
    const ZONE_CONTEXT: &str = "faasnet function tree v1: path of a zone among zones";

    fn new(function: &FunctionId, stripe: u8) -> Self {
        let mut material = [stripe; 33];
        material[..32].copy_from_slice(function.as_bytes());
        Self {
            node: blake3::derive_key(Self::NODE_CONTEXT, &material),
            zone: blake3::derive_key(Self::ZONE_CONTEXT, &material),
        }
    }
}

/// The turns that a name takes on its way down; it never runs out of them.
struct Path {
    output: blake3::OutputReader,
    /// The next turns, the very next as the most significant bit.
    turns: u64,
    /// How many of `turns` are still to be taken.
    left: u32,
}

impl Path {
    fn new(salt: &[u8; 32], name: &str) -> Self {
        let output = blake3::Hasher::new_keyed(salt).update(name.as_bytes()).finalize_xof();
        Self { output, turns: 0, left: 0 }
    }

    /// 0 or 1.
    fn turn(&mut self) -> usize {
        if self.left == 0 {
            let mut bytes = [0; 8];
            self.output.fill(&mut bytes);
            self.turns = u64::from_be_bytes(bytes);
            self.left = u64::BITS;
        }
        self.left -= 1;
        self.turns = self.turns.rotate_left(1);
        (self.turns & 1) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by a separate program from the definition: at each place stands the most senior of all whose path
    /// leads there. Nodes of different versions would build different trees if this test had to change.
    #[test]
    fn the_very_same_tree_for_ever() {
        #[rustfmt::skip]
        let rows = [
            // stamp, node, zone, parent
            (0,  "n0",  "a", None),
            (1,  "n5",  "c", Some("n0")),
            (2,  "n10", "a", Some("n0")),
            (3,  "n3",  "a", Some("n10")),
            (4,  "m0",  "b", Some("n5")),
            (4,  "m1",  "d", Some("n5")),
            (4,  "n8",  "c", Some("n5")),
            (5,  "n1",  "b", Some("m0")),
            (6,  "n6",  "a", Some("n0")),
            (7,  "n11", "a", Some("n6")),
            (8,  "n4",  "b", Some("n1")),
            (9,  "n9",  "a", Some("n6")),
            (10, "n2",  "c", Some("n8")),
            (11, "n7",  "b", Some("n4")),
        ];
        let tree = derive(rows.map(|(stamp, node, zone, _)| participant(stamp, node, zone)));
        let derived: Vec<_> = tree
            .iter()
            .map(|(p, parent)| {
                (p.stamp.wall_ms, p.node.as_str(), p.zone.as_str(), parent.map(NodeId::as_str))
            })
            .collect();
        assert_eq!(derived, rows);

        assert_eq!(names(tree.children(&id("n5"))), ["m0", "m1", "n8"]);
        assert_eq!(names(tree.ancestors(&id("n7"))), ["n4", "n1", "m0", "n5", "n0"]);
        assert_eq!((tree.depth(&id("n7")), tree.height()), (Some(5), 5));
    }

    #[test]
    fn nobody_and_strangers() {
        let stranger = &id("stranger");
        for (tree, root, len) in [(derive([]), None, 0), (derive([participant(1, "n0", "a")]), Some("n0"), 1)]
        {
            assert_eq!((tree.root().map(NodeId::as_str), tree.len(), tree.is_empty()), (root, len, len == 0));
            assert_eq!((tree.height(), tree.iter().count()), (0, len));
            assert!(!tree.contains(stranger));
            assert_eq!((tree.parent(stranger), tree.depth(stranger)), (None, None));
            assert_eq!((tree.children(stranger).count(), tree.ancestors(stranger).count()), (0, 0));
        }
    }

    #[test]
    fn of_two_stamps_of_a_node_the_lower_counts() {
        let twice = |p, q| derive([p, participant(5, "n1", "a"), q]);
        let (old, new) = (participant(3, "n0", "b"), participant(9, "n0", "a"));
        let expected = derive([participant(5, "n1", "a"), old.clone()]);
        assert_eq!(twice(old.clone(), new.clone()), expected);
        assert_eq!(twice(new, old.clone()), expected);

        let elsewhere = participant(3, "n0", "c");
        assert_eq!(twice(elsewhere.clone(), old.clone()), expected);
        assert_eq!(twice(old, elsewhere), expected);
    }

    #[test]
    fn a_path_goes_on_for_as_long_as_it_is_walked() {
        let (salt, name) = ([9; 32], "n0");
        let mut output = [0; 100];
        blake3::Hasher::new_keyed(&salt).update(name.as_bytes()).finalize_xof().fill(&mut output);
        let expected: Vec<usize> = output
            .iter()
            .flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1)))
            .collect();

        let mut path = Path::new(&salt, name);
        let taken: Vec<usize> = expected.iter().map(|_| path.turn()).collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn even_the_same_path_for_all_ends_at_a_free_place() {
        let mut trie = Trie::with_capacity(1_000);
        for newcomer in 1..1_000 {
            assert_eq!(trie.insert(0, newcomer, Path::new(&[9; 32], "n0")), newcomer - 1);
        }
    }

    fn derive<const N: usize>(participants: [Participant; N]) -> Tree {
        let function = FunctionId::from_bytes(std::array::from_fn(|i| i as u8));
        Tree::derive(&function, 3, participants)
    }

    fn participant(wall_ms: u64, node: &str, zone: &str) -> Participant {
        Participant { node: id(node), stamp: Stamp { wall_ms, logical: 0 }, zone: zone.parse().unwrap() }
    }

    fn id(node: &str) -> NodeId {
        node.parse().unwrap()
    }

    fn names<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> Vec<&'a str> {
        nodes.map(NodeId::as_str).collect()
    }
}
