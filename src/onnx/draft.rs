//! Nodes on the way from the file to the graph, and the names they are given.

use std::collections::{HashMap, HashSet};

use super::affine::Affine;
use crate::graph::{Op, ValueId};

/// What a node of the file became.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lowered {
    /// An operator of the graph.
    Op(Op),
    /// An operator that reads this value beside the step before it.
    Also(Op, ValueId),
    /// Something that is yet to be folded into the layer before it.
    Affine(Affine),
}

/// A node whose final form is not yet known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    /// Index of the file's node that it comes from.
    pub(super) origin: Option<usize>,
    pub(super) name: String,
    pub(super) op_type: String,
    pub(super) op: Lowered,
    pub(super) inputs: Vec<ValueId>,
    pub(super) output: ValueId,
}

/// Hands out names that no other node, or value, has.
pub(crate) struct Names {
    nodes: Taken,
    values: Taken,
    /// Names of the file that a node, or value, has been given.
    given: HashSet<String>,
    outputs: HashSet<String>,
}

/// For each name taken, the number that the next one like it gets: a file in which all nodes have one
/// name costs no more than another.
struct Taken(HashMap<String, usize>);

impl Names {
    /// Keeps clear of the names in the file. Those of nodes need not be unique there; the first to ask
    /// for one gets it.
    pub(crate) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Names {
        Names {
            nodes: Taken(HashMap::new()),
            values: Taken(values.map(|name| (name.to_owned(), 2)).collect()),
            given: HashSet::new(),
            outputs: HashSet::new(),
        }
    }

    /// The name of a node in the file for the first that asks for it, which is the node itself; for others another.
    pub(super) fn own(&mut self, name: &str) -> String {
        if self.given.insert(name.to_owned()) && self.nodes.0.contains_key(name) {
            return name.to_owned();
        }
        self.node(name)
    }

    /// The name of a value in the file for the first that asks for it; for others another.
    pub(super) fn output(&mut self, name: &str) -> String {
        if self.outputs.insert(name.to_owned()) && self.values.0.contains_key(name) {
            return name.to_owned();
        }
        self.value(name)
    }

    /// A name for a node: `wish`, or that with a number.
    pub(crate) fn node(&mut self, wish: &str) -> String {
        self.nodes.fresh(wish)
    }

    /// A name for a value that the file does not have.
    pub(crate) fn value(&mut self, wish: &str) -> String {
        self.values.fresh(wish)
    }
}

impl Taken {
    fn fresh(&mut self, wish: &str) -> String {
        let Some(next) = self.0.get_mut(wish) else {
            self.0.insert(wish.to_owned(), 2);
            return wish.to_owned();
        };
        let mut number = *next;
        let name = loop {
            let name = format!("{wish}#{number}");
            number += 1;
            if !self.0.contains_key(&name) {
                break name;
            }
        };
        self.0.insert(wish.to_owned(), number);
        self.0.insert(name.clone(), 2);
        name
    }
}
