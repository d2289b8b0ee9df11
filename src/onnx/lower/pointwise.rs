//! Clips, sums and softmax.

use super::{
    super::{
        affine::Affine,
        draft::Lowered,
        site::{Refusal, Site, axis},
    },
    Outcome, Step, is_known,
};
use crate::graph::Op;

pub(super) fn relu(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    Ok(Outcome::one(input, Op::Clip { min: 0.0, max: f32::INFINITY }, shape))
}

/// Bounds are attributes up to operator set 10 and inputs from then on; each may be left out.
pub(super) fn clip(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let (min, max) = if site.opset < 11 {
        (site.float("min", f32::NEG_INFINITY)?, site.float("max", f32::INFINITY)?)
    } else {
        (site.float_input(1)?.unwrap_or(f32::NEG_INFINITY), site.float_input(2)?.unwrap_or(f32::INFINITY))
    };
    if min.is_nan() || max.is_nan() {
        return Err("a bound is NaN".into());
    }
    // The extremes of f32 are how a bound is left out where there is no other way.
    let min = if min == f32::MIN { f32::NEG_INFINITY } else { min };
    let max = if max == f32::MAX { f32::INFINITY } else { max };
    if min == f32::NEG_INFINITY && max == f32::INFINITY {
        return Ok(Outcome::Alias(input));
    }
    Ok(Outcome::one(input, Op::Clip { min, max }, shape))
}

/// Two values of one shape, or a value and a constant for each channel, which goes into the layer before.
pub(super) fn add(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let constant = match (is_known(site, 0)?, is_known(site, 1)?) {
        (true, _) => 0,
        (_, true) => 1,
        _ => {
            let ((a, shape), (b, other)) = (site.value(0)?, site.value(1)?);
            if shape != other {
                return Err(format!(
                    "it adds samples of shapes {shape:?} and {other:?}; only equal ones are supported"
                )
                .into());
            }
            return Ok(Outcome::Steps {
                inputs: vec![a, b],
                steps: vec![Step { op: Lowered::Op(Op::Add), shape: shape.to_vec() }],
            });
        }
    };
    let (input, shape) = site.value(1 - constant)?;
    let weight = site.required_weight(constant)?;
    let rank = shape.len() + 1;
    let missing = rank.checked_sub(weight.array.dims.len());
    let per_channel = missing.is_some_and(|missing| {
        let mut dims = weight.array.dims.iter().enumerate();
        dims.all(|(at, &dim)| dim == 1 || (at + missing == 1 && dim == shape[0]))
    });
    if !per_channel {
        let dims = &weight.array.dims;
        return Err(format!("it adds a constant of shape {dims:?}; only one number a channel is supported").into());
    }
    let data = &weight.array.data;
    let shift = (0..shape[0]).map(|channel| f64::from(data[if data.len() == 1 { 0 } else { channel }])).collect();
    let op = Lowered::Affine(Affine { scale: None, shift, weight_name: weight.name });
    Ok(Outcome::Steps { inputs: vec![input], steps: vec![Step { op, shape: shape.to_vec() }] })
}

pub(super) fn softmax(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let rank = shape.len() + 1;
    let given = axis(site.int("axis", if site.opset < 13 { 1 } else { -1 })?, rank)?;
    let first = given.checked_sub(1).ok_or("its axis is the batch, which is not supported")?;
    let one = if site.opset < 13 {
        // All dimensions from the axis on count as one: the same as a single axis when the others are 1.
        let mut wide = (first..shape.len()).filter(|&at| shape[at] != 1);
        let one = wide.next().unwrap_or(first);
        if wide.next().is_some() {
            return Err("before operator set 13 it is over several dimensions, which is not supported".into());
        }
        one
    } else {
        first
    };
    Ok(Outcome::one(input, Op::Softmax { axis: one }, shape))
}
