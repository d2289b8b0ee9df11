//! Nodes on the way from the file to the graph, and the names they are given.

use std::collections::HashMap;

use super::affine::Affine;
use crate::graph::{Op, ValueId};

/// What a node of the file became.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lowered {
    /// An operator of the graph.
    Op(Op),
    /// Something that is yet to be folded into the layer before it.
    Affine(Affine),
}

/// A node whose final form is not yet known.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Draft {
    /// Index of the file's node that it comes from.
    pub(super) origin: usize,
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
}

/// For each name taken, the number that the next one like it gets: a file in which all nodes have one
/// name costs no more than another.
struct Taken(HashMap<String, usize>);

impl Names {
    /// Keeps clear of the names in the file. Those of nodes need not be unique there; the first to ask
    /// for one gets it.
    pub(crate) fn new<'a>(values: impl Iterator<Item = &'a str>) -> Names {
        Names { nodes: Taken(HashMap::new()), values: Taken(values.map(|name| (name.to_owned(), 2)).collect()) }
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
