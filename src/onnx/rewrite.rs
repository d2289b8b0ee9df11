//! What exporters write in many operators and the graph says in one: each is a function of its own, in a file of its
//! own, that looks at one draft and what feeds it.

mod activations;
mod attention;
mod gelu;
mod layer_norm;
mod moves;

use super::{
    affine::Affine,
    draft::{Draft, Lowered},
};
use crate::graph::{Op, Value, ValueId};

/// Something that was done to a node of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// What.
    pub kind: &'static str,
    /// The node's name.
    pub node: String,
}

/// Tries to say a draft in other words.
type Rule = fn(&Drafts<'_>, usize) -> Option<Change>;

/// What takes a draft's place.
struct Change {
    kind: &'static str,
    op: Op,
    inputs: Vec<ValueId>,
}

/// All rules, in the order in which they are tried.
const RULES: [Rule; 8] = [
    activations::swish,
    activations::hard_swish,
    gelu::by_erf,
    gelu::by_tanh,
    layer_norm::decomposed,
    attention::decomposed,
    moves::join_reshapes,
    moves::channel_shuffle,
];

/// Applies all rules until none does anything more. What they make superfluous is dropped.
pub(super) fn apply(drafts: &mut Vec<Draft>, values: &[Value], outputs: &[ValueId], rewrites: &mut Vec<Rewrite>) {
    // Each pass may make room for another rule; patterns are few levels deep.
    for _ in 0..8 {
        let mut changes = Vec::new();
        let view = Drafts::new(drafts, values);
        for at in 0..drafts.len() {
            if let Some(change) = RULES.iter().find_map(|rule| rule(&view, at)) {
                changes.push((at, change));
            }
        }
        if changes.is_empty() {
            return;
        }
        for (at, Change { kind, op, inputs }) in changes {
            let draft = &mut drafts[at];
            rewrites.push(Rewrite { kind, node: draft.name.clone() });
            draft.op = Lowered::Op(op);
            // It is no node of the file any more.
            draft.origin = None;
            draft.inputs = inputs;
        }
        super::import::prune(drafts, values.len(), outputs);
    }
}

/// Drafts, and what writes and reads their values.
struct Drafts<'a> {
    all: &'a [Draft],
    values: &'a [Value],
    producers: Vec<Option<usize>>,
}

impl<'a> Drafts<'a> {
    fn new(all: &'a [Draft], values: &'a [Value]) -> Drafts<'a> {
        let mut producers = vec![None; values.len()];
        for (at, draft) in all.iter().enumerate() {
            producers[draft.output.0] = Some(at);
        }
        Drafts { all, values, producers }
    }

    /// What a draft computes.
    fn op(&self, at: usize) -> Option<&'a Op> {
        match &self.all[at].op {
            Lowered::Op(op) => Some(op),
            _ => None,
        }
    }

    /// The draft that writes a value.
    fn producer(&self, value: ValueId) -> Option<&'a Draft> {
        self.producers[value.0].map(|at| &self.all[at])
    }

    /// The operator that writes a value, and what it reads.
    fn written(&self, value: ValueId) -> Option<(&'a Op, &'a [ValueId])> {
        match self.producer(value) {
            Some(Draft { op: Lowered::Op(op), inputs, .. }) => Some((op, inputs)),
            _ => None,
        }
    }

    /// Factor and summand of the uniform affine function that writes a value, and what it reads.
    fn affine(&self, value: ValueId) -> Option<(f64, f64, ValueId)> {
        match self.producer(value)? {
            Draft { op: Lowered::Affine(affine), inputs, .. } => {
                let (scale, shift) = Affine::uniform(affine)?;
                Some((scale, shift, *inputs.first()?))
            }
            _ => None,
        }
    }

    /// As [`Drafts::affine`], of any value: one that nothing scales is itself.
    fn scaled(&self, value: ValueId) -> (f64, ValueId) {
        match self.affine(value) {
            Some((scale, 0.0, inner)) => (scale, inner),
            _ => (1.0, value),
        }
    }

    fn shape(&self, value: ValueId) -> &'a [usize] {
        &self.values[value.0].shape
    }
}

/// Whether two numbers are the same but for rounding to f32.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs()
}
