//! What a function tree costs, by the number of its participants. They stand in four zones and come in no order.

use std::hint::black_box;

use divan::Bencher;
use membership::tree::{Participant, Tree};
use membership::{FunctionId, NodeId, Stamp};

const SIZES: [usize; 4] = [100, 1_000, 10_000, 100_000];
const ZONES: usize = 4;
const FUNCTION: FunctionId = FunctionId::from_bytes([7; 32]);

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES)]
fn derive(bencher: Bencher<'_, '_>, n: usize) {
    let participants = participants(n);
    bencher.with_inputs(|| participants.clone()).bench_values(|p| Tree::derive(&FUNCTION, 0, p));
}

/// What a greeter does for a node that joins.
#[divan::bench(args = SIZES)]
fn derive_and_list_ancestors(bencher: Bencher<'_, '_>, n: usize) {
    let participants = participants(n);
    let node = &participants[n / 2].node;
    bencher.with_inputs(|| participants.clone()).bench_values(|p| {
        let tree = Tree::derive(&FUNCTION, 0, p);
        tree.ancestors(node).cloned().collect::<Vec<NodeId>>()
    });
}

#[divan::bench(args = SIZES)]
fn list_ancestors(bencher: Bencher<'_, '_>, n: usize) {
    let participants = participants(n);
    let node = &participants[n / 2].node;
    let tree = Tree::derive(&FUNCTION, 0, participants.clone());
    bencher.bench(|| tree.ancestors(black_box(node)).cloned().collect::<Vec<NodeId>>());
}

fn participants(n: usize) -> Vec<Participant> {
    // A prime scatters the stamps over the order of names, each of them once.
    let scattered = |i: usize| (i * 7_919 % n) as u64;
    (0..n)
        .map(|i| Participant {
            node: format!("vm-{i}").parse().expect("a label"),
            stamp: Stamp { wall_ms: scattered(i), logical: 0 },
            zone: format!("zone-{}", i % ZONES).parse().expect("a label"),
        })
        .collect()
}
