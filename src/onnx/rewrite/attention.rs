//! Scaled dot-product attention, as exporters write it.

use super::{Change, Drafts};
use crate::graph::{Op, ValueId};

/// `softmax(q·k)·v` over the last axis, with numbers before any of `q`, `k` and their product; `k` turned where that is a
/// step of its own. A mask in between makes it something else.
pub(super) fn decomposed(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let Op::MatMul = drafts.op(at)? else { return None };
    let &[weights, v] = &drafts.all[at].inputs[..] else { return None };
    let (&Op::Softmax { axis, log: false }, &[scores]) = drafts.written(weights)? else { return None };
    let (scale, product) = drafts.scaled(scores);
    let (Op::MatMul, &[q, k]) = drafts.written(product)? else { return None };
    let ((q_scale, q), (k_scale, k)) = (drafts.scaled(q), drafts.scaled(k));
    let mut scale = scale * q_scale * k_scale;
    let shape = |value: ValueId| drafts.shape(value);
    let rank = shape(q).len();
    let lead = |value: ValueId| shape(value).get(..rank.saturating_sub(2));
    // Pictures are stored in another order than rows of rows.
    let fits = rank >= 2 && rank != 3 && axis + 1 == rank && [k, v].iter().all(|x| shape(*x).len() == rank);
    if !fits || lead(q) != lead(k) || lead(q) != lead(v) {
        return None;
    }
    let (mut keys, mut in_rows) = (k, false);
    if let Some((Op::Transpose { order }, &[rows])) = drafts.written(k)
        && order[..rank - 2].iter().copied().eq(0..rank - 2)
        && order[rank - 2] == rank - 1
    {
        let (number, rows) = drafts.scaled(rows);
        scale *= number;
        (keys, in_rows) = (rows, true);
    }
    let op = Op::Attention { scale: scale as f32, keys_in_rows: in_rows };
    Some(Change { kind: "attention", op, inputs: vec![q, keys, v] })
}
