//! Scale and shift of channels moved in front of operators that keep channels apart.

use super::{Affine, Factors, channel_axis};
use crate::{graph::Op, onnx::site::Budget};

/// The function in front of `op` that gives what `affine` gives behind it, but for rounding; `None` where there is none,
/// or none that this knows. `op` reads one value; `shapes` are those of a sample of what it reads and writes.
///
/// These are operators that form no group: what they pass on is on the grid of the layer before them, with which they
/// stay when a file is written.
pub(super) fn before(op: &Op, affine: Affine, shapes: [&[usize]; 2], budget: &Budget) -> Option<Affine> {
    match op {
        Op::MaxPool(_) => grows(&affine, shapes[0]).then_some(affine),
        Op::Transpose { order } => turned(affine, order),
        Op::Select { axis, .. } => (is_same(&affine) || *axis != channel_axis(shapes[0].len())).then_some(affine),
        Op::Pad { value, .. } => keeps(&affine, f64::from(*value), shapes).then_some(affine),
        Op::Reshape => reshaped(affine, shapes, budget),
        _ => None,
    }
}

/// Whether it is the same function for all channels.
fn is_same(affine: &Affine) -> bool {
    affine.uniform().is_some()
}

/// Whether the larger of two numbers stays the larger, in all channels.
fn grows(affine: &Affine, shape: &[usize]) -> bool {
    (0..shape[channel_axis(shape.len())]).all(|channel| affine.scale(channel) > 0.0)
}

/// Channels stay channels, or all are alike.
fn turned(affine: Affine, order: &[usize]) -> Option<Affine> {
    let channel = channel_axis(order.len());
    (is_same(&affine) || order.get(channel) == Some(&channel)).then_some(affine)
}

/// Whether what stands around a sample is the same before and after, and no channels are added.
fn keeps(affine: &Affine, value: f64, shapes: [&[usize]; 2]) -> bool {
    let channels = shapes.map(|shape| shape[channel_axis(shape.len())]);
    let fixed = |channel| affine.scale(channel) * value + affine.shift.at(channel) == value;
    (is_same(affine) || channels[0] == channels[1]) && (0..channels[0]).all(fixed)
}

/// Each channel read has one factor, that of all the elements written that it goes to.
fn reshaped(affine: Affine, [from, to]: [&[usize]; 2], budget: &Budget) -> Option<Affine> {
    if is_same(&affine) {
        return Some(affine);
    }
    let elements: usize = from.iter().product();
    budget.spend(elements).ok()?;
    // Elements are in the same order in both; the channel of each follows from the axes behind.
    let channel = |shape: &[usize]| {
        let axis = channel_axis(shape.len());
        (shape[axis + 1..].iter().product::<usize>().max(1), shape[axis])
    };
    let ((inner, channels), (behind, written)) = (channel(from), channel(to));
    let mut found: Vec<Option<(f64, f64)>> = vec![None; channels];
    for element in 0..elements {
        let out = element / behind % written;
        let factors = (affine.scale(out), affine.shift.at(out));
        if *found[element / inner % channels].get_or_insert(factors) != factors {
            return None;
        }
    }
    let (scale, shift) = found.into_iter().map(|factors| factors.unwrap_or((1.0, 0.0))).unzip();
    Some(Affine {
        scale: affine.scale.is_some().then_some(Factors::Each(scale)),
        shift: Factors::Each(shift),
        ..affine
    })
}
