//! stub
use crate::{FunctionId, NodeId, Stamp, Zone};
#[derive(Debug, Clone)]
pub struct Participant {
    pub node: NodeId,
    pub stamp: Stamp,
    pub zone: Zone,
}
pub struct Tree(Vec<Participant>);
impl Tree {
    pub fn derive(_f: &FunctionId, _s: u8, p: impl IntoIterator<Item = Participant>) -> Self {
        let mut v: Vec<_> = p.into_iter().collect();
        v.sort_by(|a, b| (a.stamp, &a.node).cmp(&(b.stamp, &b.node)));
        Tree(v)
    }
    pub fn ancestors(&self, n: &NodeId) -> impl Iterator<Item = &NodeId> {
        let i = self.0.iter().position(|p| p.node == *n).unwrap_or(0);
        self.0[..i].iter().rev().map(|p| &p.node)
    }
}
