//! The functions that this node provisions, and since when: what its children may wait for.

use std::collections::BTreeMap;
use std::sync::Arc;

use membership::{FunctionId, Stamp};
use tokio::sync::watch;

/// All functions that this node provisions now.
#[derive(Default)]
pub struct Expectations {
    by_function: watch::Sender<BTreeMap<FunctionId, Expected>>,
}

/// How far a function is that is provisioned here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is about to be joined: its blobs may not be known here yet. That waits for nobody but a greeter.
    Joining,
    /// It was joined at that time, and all its blobs are known here.
    Joined(Stamp),
}

pub(crate) struct Expected {
    times: usize,
    stage: Stage,
}

impl Expectations {
    /// Says that this node provisions a function. To be said before others can learn of it, since they may ask at
    /// once, before there is anything to ask for.
    pub fn expect(self: &Arc<Self>, function: FunctionId) -> Expectation {
        self.by_function.send_modify(|all| {
            all.entry(function).or_insert(Expected { times: 0, stage: Stage::Joining }).times += 1;
        });
        Expectation { all: self.clone(), function }
    }

    pub(crate) fn stage(&self, function: &FunctionId) -> Option<Stage> {
        self.by_function.borrow().get(function).map(|expected| expected.stage)
    }

    /// Told of every change.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.by_function.subscribe())
    }
}

/// Tells of changes in what is expected.
pub(crate) struct Changes(watch::Receiver<BTreeMap<FunctionId, Expected>>);

impl Changes {
    /// Waits for the next change since the last call.
    pub(crate) async fn next(&mut self) {
        // Whoever waits holds the sender.
        let _ = self.0.changed().await;
    }
}

/// One function that is provisioned, while it lives.
pub struct Expectation {
    all: Arc<Expectations>,
    function: FunctionId,
}

impl Expectation {
    /// The function was joined, and its blobs are known.
    pub fn joined(&self, stamp: Stamp) {
        self.all.by_function.send_modify(|all| {
            if let Some(expected) = all.get_mut(&self.function) {
                expected.stage = Stage::Joined(stamp);
            }
        });
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        self.all.by_function.send_modify(|all| {
            if let Some(expected) = all.get_mut(&self.function) {
                expected.times -= 1;
                if expected.times == 0 {
                    all.remove(&self.function);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_expected_until_the_last_of_those_who_expect_it_is_done() {
        let (all, function) = (Arc::new(Expectations::default()), FunctionId::from_bytes([1; 32]));
        let stamp = Stamp { wall_ms: 1, logical: 0 };
        assert_eq!(all.stage(&function), None);
        let (one, other) = (all.expect(function), all.expect(function));
        assert_eq!(all.stage(&function), Some(Stage::Joining));
        one.joined(stamp);
        drop(one);
        assert_eq!(all.stage(&function), Some(Stage::Joined(stamp)));
        drop(other);
        assert_eq!(all.stage(&function), None);
    }
}
