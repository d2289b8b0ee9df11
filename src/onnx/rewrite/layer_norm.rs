//! Layer normalization written as means and roots.

use super::{Change, Drafts};
use crate::graph::{Binary, Function, Normalize, Op, Reduction, ValueId};

/// The value and axis that `value` is the mean of.
fn mean(drafts: &Drafts<'_>, value: ValueId) -> Option<(ValueId, usize)> {
    match drafts.written(value)? {
        (Op::Reduce { kind: Reduction::Mean, axes }, &[x]) => match axes[..] {
            [axis] => Some((x, axis)),
            _ => None,
        },
        _ => None,
    }
}

/// `d / √(mean(d²) + epsilon)` with `d = x − mean(x)`; the squares as a power or a product, of the same difference or
/// of one that is computed again, as PyTorch does.
pub(super) fn decomposed(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let &Op::Binary(Binary::Div) = drafts.op(at)? else { return None };
    let &[difference, root] = &drafts.all[at].inputs[..] else { return None };
    let centered = |value: ValueId| -> Option<(ValueId, usize)> {
        let (&Op::Binary(Binary::Sub), &[x, subtracted]) = drafts.written(value)? else { return None };
        let (of, axis) = mean(drafts, subtracted)?;
        (of == x).then_some((x, axis))
    };
    let (x, axis) = centered(difference)?;
    let (&Op::Map(Function::Sqrt), &[sum]) = drafts.written(root)? else { return None };
    let (scale, epsilon, variance) = drafts.affine(sum).filter(|(scale, ..)| *scale == 1.0)?;
    let (squares, same_axis) = mean(drafts, variance)?;
    let squared = match drafts.written(squares)? {
        (&Op::Map(Function::Power { exponent: 2.0 }), &[d]) => d,
        (Op::Mul, &[a, b]) if a == b => a,
        _ => return None,
    };
    let whole = centered(squared)? == (x, axis) && same_axis == axis && scale == 1.0;
    // The axis that the kernel of the operator has in rows: others would be copied there, which costs no more.
    let epsilon = epsilon as f32;
    let op = Op::Normalize(Normalize { axis, epsilon, centered: true, scale: None, shift: None });
    (whole && epsilon > 0.0 && drafts.shape(x) == drafts.shape(drafts.all[at].output)).then(|| Change {
        kind: "layer normalization",
        op,
        inputs: vec![x],
    })
}
