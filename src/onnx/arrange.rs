//! Tensors put in order, where an operator cannot read them as they lie.

use super::{
    draft::Lowered,
    lower::{Outcome, Step, head_axes},
    site::{Form, Refusal, join_leading, row_axes},
    tensor::MAX_RANK,
    view::{Axes, Factor, View, plain},
};
use crate::graph::Op;

/// The steps that bring a tensor into a form; `shape` is that of its value.
pub(super) fn arrange(view: &View, shape: &[usize], form: Form) -> Result<Outcome, Refusal> {
    let rank = shape.len();
    let order = view.order(rank);
    let mut steps = Vec::new();
    let mut now: Vec<usize> = order.iter().map(|&axis| shape[axis]).collect();
    // Moving an axis of size 1 moves no element: a reshape does it.
    let moving: Vec<usize> = order.iter().copied().filter(|&axis| shape[axis] != 1).collect();
    let mut reshape = !order.iter().copied().eq(0..rank);
    if !moving.is_sorted() {
        steps.push(Step { op: Lowered::Op(Op::Transpose { order: order.clone() }), shape: now.clone() });
        reshape = false;
    }
    let sample = || {
        view.sample(shape).ok_or_else(|| {
            Refusal::from("its input does not have the batch as its first dimension, or has it joined with another")
        })
    };
    let (wanted, axes): (Vec<usize>, Axes) = match form {
        Form::Plain => {
            let dims = sample()?;
            let axes = plain(dims.len());
            (dims, axes)
        }
        Form::Matrices if view.joined() => {
            let dims = view.split().sample(shape).ok_or("its input has the batch in two dimensions")?;
            let (dims, axes) = in_matrices(dims);
            (dims, join_leading(axes))
        }
        Form::Matrices => in_matrices(sample()?),
        Form::Row => match sample()?[..] {
            [channels, length] => (vec![channels, 1, length], row_axes()),
            _ => return Err("it has not the dimensions [batch, channels, length]".into()),
        },
        Form::Heads(heads) => {
            let [length, features] = sample()?[..] else {
                return Err("it has not the dimensions [batch, length, heads times depth]".into());
            };
            let depth = features.checked_div(heads).filter(|depth| depth * heads == features);
            let depth = depth.ok_or_else(|| format!("{heads} heads do not divide {features} features"))?;
            if reshape || now != [length, heads, depth] {
                steps.push(Step { op: Lowered::Op(Op::Reshape), shape: vec![length, heads, depth] });
            }
            let turned = Op::Transpose { order: vec![1, 0, 2] };
            steps.push(Step { op: Lowered::Op(turned), shape: vec![heads, length, depth] });
            (reshape, now) = (false, vec![heads, length, depth]);
            (vec![1, heads, length, depth], head_axes())
        }
        Form::Ordered | Form::Rows => {
            let mut at = 0;
            let mut next = |factor: &Factor| match factor {
                Factor::Batch => Factor::Batch,
                Factor::Axis(_) => {
                    at += 1;
                    Factor::Axis(at - 1)
                }
            };
            let axes: Axes = view.axes.iter().map(|factors| factors.iter().map(&mut next).collect()).collect();
            let dims = now[..at].to_vec();
            if form == Form::Ordered || dims.len() != 3 {
                (dims, axes)
            } else {
                // A picture stores its channels last: one axis more, and it is none.
                let shifted = |factor: &Factor| match *factor {
                    Factor::Axis(axis) => Factor::Axis(axis + 1),
                    Factor::Batch => Factor::Batch,
                };
                let axes = axes.iter().map(|factors| factors.iter().map(shifted).collect()).collect();
                (std::iter::once(1).chain(dims).collect(), axes)
            }
        }
    };
    if wanted.len() >= MAX_RANK {
        return Err("it has too many dimensions".into());
    }
    if reshape || wanted != now {
        now.clone_from(&wanted);
        steps.push(Step { op: Lowered::Op(Op::Reshape), shape: wanted });
    }
    if steps.is_empty() {
        return Ok(Outcome::View(View { value: view.value, axes }));
    }
    Ok(Outcome::Steps { inputs: vec![view.value], steps, axes: Some(axes) })
}

/// A sample with its last axis stored last.
fn in_matrices(dims: Vec<usize>) -> (Vec<usize>, Axes) {
    if dims.len() != 3 {
        let axes = plain(dims.len());
        return (dims, axes);
    }
    let axes = [vec![Factor::Batch]].into_iter().chain((1..4).map(|axis| vec![Factor::Axis(axis)])).collect();
    (std::iter::once(1).chain(dims).collect(), axes)
}
