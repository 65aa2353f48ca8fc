//! Rendezvous hashing: every node picks the same few members for a name, with nobody assigning them.
//!
//! Thaler and Ravishankar, "A name-based mapping scheme for rendezvous" (1996). A member that comes or goes changes
//! the pick only for the names that it wins or won. Pure.

use crate::id::NodeId;

/// The members in the order in which they are responsible for `name`: the first is asked first.
pub fn order<'a>(name: &[u8], members: impl IntoIterator<Item = &'a NodeId>) -> Vec<&'a NodeId> {
    let mut scored: Vec<_> = members.into_iter().map(|node| (score(name, node), node)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.into_iter().map(|(_, node)| node).collect()
}

fn score(name: &[u8], node: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("faasnet rendezvous v1");
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name);
    hasher.update(node.as_str().as_bytes());
    let mut score = [0; 8];
    hasher.finalize_xof().fill(&mut score);
    u64::from_le_bytes(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<NodeId> {
        (0..count).map(|i| format!("n{i}").parse().unwrap()).collect()
    }

    #[test]
    fn the_order_does_not_depend_on_the_order_of_the_members() {
        let nodes = nodes(20);
        let forwards = order(b"name", &nodes);
        let backwards = order(b"name", nodes.iter().rev());
        assert_eq!(forwards, backwards);
    }

    #[test]
    fn a_member_that_leaves_changes_only_what_it_had() {
        let nodes = nodes(20);
        let gone = &nodes[7];
        for name in 0..200u32 {
            let name = name.to_le_bytes();
            let before = order(&name, &nodes);
            let after = order(&name, nodes.iter().filter(|node| *node != gone));
            let expected: Vec<_> = before.into_iter().filter(|node| *node != gone).collect();
            assert_eq!(after, expected);
        }
    }

    #[test]
    fn names_spread_over_the_members() {
        let nodes = nodes(10);
        let mut wins = vec![0; nodes.len()];
        for name in 0..1000u32 {
            let name = name.to_le_bytes();
            let first = order(&name, &nodes)[0];
            wins[nodes.iter().position(|node| node == first).unwrap()] += 1;
        }
        assert!(wins.iter().all(|&won| (50..200).contains(&won)), "{wins:?}");
    }
}
