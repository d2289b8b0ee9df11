//! A value times a gate of itself.

use super::{Change, Drafts, near};
use crate::graph::{Function, Op, ValueId};

/// Both ways round.
fn ways(inputs: &[ValueId]) -> Vec<(ValueId, ValueId)> {
    match *inputs {
        [a, b] => vec![(a, b), (b, a)],
        _ => Vec::new(),
    }
}

/// `x · sigmoid(alpha·x)`, as exporters write SiLU.
pub(super) fn swish(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let Op::Mul = drafts.op(at)? else { return None };
    ways(&drafts.all[at].inputs).into_iter().find_map(|(x, gate)| {
        let (Op::Map(Function::Sigmoid), &[inner]) = drafts.written(gate)? else { return None };
        let (alpha, inner) = if inner == x { (1.0, x) } else { drafts.scaled(inner) };
        let op = Op::Map(Function::Swish { alpha: alpha as f32 });
        (inner == x).then(|| Change { kind: "silu", op, inputs: vec![x] })
    })
}

/// `x · hard_sigmoid(x)`, and `x · clip(x + 3, 0, 6) / 6` with the division in any of its places.
pub(super) fn hard_swish(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let change = |x| Some(Change { kind: "hard swish", op: Op::Map(Function::HardSwish), inputs: vec![x] });
    // The product, divided.
    if let Some((sixth, 0.0, product)) = drafts.affine(drafts.all[at].output)
        && near(sixth, 1.0 / 6.0)
        && let Some((Op::Mul, inputs)) = drafts.written(product)
    {
        return ways(inputs).into_iter().find_map(|(x, gate)| if is_relu6(drafts, gate, x) { change(x) } else { None });
    }
    let Op::Mul = drafts.op(at)? else { return None };
    ways(&drafts.all[at].inputs).into_iter().find_map(|(x, gate)| match drafts.written(gate) {
        Some((&Op::Map(Function::HardSigmoid { alpha, beta }), &[inner])) => {
            let standard = near(f64::from(alpha), 1.0 / 6.0) && beta == 0.5;
            if inner == x && standard { change(x) } else { None }
        }
        _ => {
            let (sixth, inner) = drafts.scaled(gate);
            if near(sixth, 1.0 / 6.0) && is_relu6(drafts, inner, x) {
                return change(x);
            }
            let (sixth, inner) = drafts.scaled(x);
            if near(sixth, 1.0 / 6.0) && is_relu6(drafts, gate, inner) { change(inner) } else { None }
        }
    })
}

/// Whether `gate` is `clip(x + 3, 0, 6)`.
fn is_relu6(drafts: &Drafts<'_>, gate: ValueId, x: ValueId) -> bool {
    matches!(drafts.written(gate), Some((&Op::Clip { min: 0.0, max: 6.0 }, &[inner]))
        if drafts.affine(inner).is_some_and(|(scale, shift, inner)| scale == 1.0 && shift == 3.0 && inner == x))
}
