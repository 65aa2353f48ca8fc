//! Who waits for which blocks of a blob: readers at this node's mirror, and children.
//!
//! Demand says nothing of what is held. Fetches read it to know what to bring first and, where an image is loaded lazily,
//! what to bring at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::blocks::BlockSet;
use crate::wire::Want;

/// What everybody who waits for blocks of one blob asks for.
#[derive(Default)]
pub(crate) struct Demands {
    asked: Mutex<Asked>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Asked {
    by: BTreeMap<u64, Want>,
    next: u64,
}

impl Demands {
    /// Nothing is asked for yet. The demand ends when it is dropped.
    pub(crate) fn add(self: &Arc<Self>) -> Demand {
        let mut asked = self.asked.lock();
        let id = asked.next;
        asked.next += 1;
        Demand { demands: self.clone(), id }
    }

    /// The urgent blocks, and those that are wanted at all, of a blob that has `count`.
    pub(crate) fn total(&self, count: u32) -> (BlockSet, BlockSet) {
        let (mut urgent, mut wanted) = (BlockSet::empty(count), BlockSet::empty(count));
        for want in self.asked.lock().by.values() {
            urgent.add(&want.urgent);
            wanted.add(&want.urgent);
            wanted.add(&want.wanted);
        }
        (urgent, wanted)
    }

    /// Told whenever somebody asks for something else.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }
}

/// What one reader or child waits for, until it is dropped.
pub struct Demand {
    demands: Arc<Demands>,
    id: u64,
}

impl Demand {
    /// Asks for this from now on, instead of what was asked for before.
    pub fn set(&self, want: Want) {
        let mut asked = self.demands.asked.lock();
        if asked.by.get(&self.id) != Some(&want) {
            asked.by.insert(self.id, want);
            drop(asked);
            self.demands.changes.send_replace(());
        }
    }
}

impl Drop for Demand {
    fn drop(&mut self) {
        self.demands.asked.lock().by.remove(&self.id);
        // What is wanted no longer may come all the same: nobody is told.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demand_of_all_is_what_anybody_asks_for_now() {
        let demands = Arc::new(Demands::default());
        let total = || {
            let (urgent, wanted) = demands.total(10);
            [urgent, wanted].map(|set| (0..10).filter(|index| set.contains(*index)).collect::<Vec<u32>>())
        };
        let (one, other) = (demands.add(), demands.add());
        assert_eq!(total(), [Vec::<u32>::new(), Vec::new()]);
        one.set(Want { urgent: vec![1..3], wanted: vec![8..20] });
        other.set(Want { urgent: vec![2..4], wanted: vec![] });
        assert_eq!(total(), [vec![1, 2, 3], vec![1, 2, 3, 8, 9]]);
        one.set(Want { urgent: vec![5..6], wanted: vec![] });
        assert_eq!(total(), [vec![2, 3, 5], vec![2, 3, 5]]);
        drop(other);
        assert_eq!(total(), [vec![5], vec![5]]);
    }

    #[tokio::test]
    async fn asking_for_something_else_is_a_change_and_asking_again_is_none() {
        let demands = Arc::new(Demands::default());
        let (mut changes, demand) = (demands.changes(), demands.add());
        let want = Want { urgent: vec![1..3], wanted: vec![] };
        demand.set(want.clone());
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        demand.set(want);
        assert!(!changes.has_changed().unwrap());
    }
}
