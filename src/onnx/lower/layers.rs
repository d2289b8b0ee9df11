//! Layers with weights.

use std::sync::Arc;

use super::{
    super::{
        affine::Affine,
        array::Array,
        draft::Lowered,
        site::{Refusal, Site, Weight},
    },
    Outcome, Step,
    window::{Rounding, kernel_shape, window},
};
use crate::graph::{Constant, Conv, Linear, Op, ValueId};

pub(super) fn conv(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, [channels, height, width]) = site.picture(0)?;
    let Weight { name: weight_name, array: Array { dims, data } } = site.required_weight(1)?;
    let &[out, per_group, height_taps, width_taps] = &dims[..] else { return Err(rank(&dims, 4)) };
    let kernel = [height_taps, width_taps];
    if kernel_shape(site)?.is_some_and(|given| given != kernel) {
        return Err(format!("kernel_shape is not that of its weight, {kernel:?}").into());
    }
    let groups = usize::try_from(site.int("group", 1)?).unwrap_or(0);
    if groups == 0 || per_group.checked_mul(groups) != Some(channels) || out % groups != 0 {
        return Err(format!("a weight of shape {dims:?} in {groups} groups does not fit {channels} channels").into());
    }
    let bias = site.weight(2)?.map(|bias| bias.array);
    if let Some(bias) = bias.as_ref().filter(|bias| bias.dims != [out]) {
        return Err(format!("a bias of shape {:?} does not fit {out} output channels", bias.dims).into());
    }
    let (window, [out_height, out_width]) = window(site, kernel, [height, width], Rounding::Floor)?;
    let weight = Constant { dims, data };
    let conv = Conv { weight, bias: bias.map(|bias| bias.data), weight_name, groups, window };
    Ok(Outcome::one(input, Op::Conv(conv), [out, out_height, out_width]))
}

/// `y = alpha·a·b + beta·c`, with `b` and `c` constant.
pub(super) fn gemm(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let weight = site.required_weight(1)?;
    if site.flag("transA")? {
        return Err("transA is not supported".into());
    }
    let mut linear = linear(site, shape, weight, site.flag("transB")?)?;
    let out = linear.weight.dims[0];
    let alpha = site.float("alpha", 1.0)?;
    if alpha != 1.0 {
        site.budget.spend(linear.weight.data.len())?;
        linear.weight.data = scaled(&linear.weight.data, alpha)?;
    }
    if let Some(bias) = site.weight(2)? {
        linear.bias = match bias.array.dims[..] {
            [n] | [1, n] if n == out => Some(bias.array.data),
            [] | [1] | [1, 1] => Some(vec![bias.array.data[0]; out].into()),
            _ => {
                return Err(format!("input 2 of shape {:?} is not one number an output", bias.array.dims).into());
            }
        };
        let beta = site.float("beta", 1.0)?;
        if beta != 1.0 {
            linear.bias = linear.bias.map(|bias| scaled(&bias, beta)).transpose()?;
        }
    }
    Ok(linear_outcome(input, linear))
}

/// `y = a·b` with `b` constant.
pub(super) fn mat_mul(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    let weight = site.required_weight(1)?;
    Ok(linear_outcome(input, linear(site, shape, weight, false)?))
}

/// The inference form, `scale·(x − mean) / √(variance + epsilon) + bias` for each channel.
pub(super) fn batch_normalization(site: &Site<'_>) -> Result<Outcome, Refusal> {
    let (input, shape) = site.value(0)?;
    if site.flag("training_mode")? {
        return Err("it is in training mode".into());
    }
    if site.opset < 9 && site.int("spatial", 1)? != 1 {
        return Err("statistics for each pixel (spatial = 0) are not supported".into());
    }
    let (1 | 3, channels) = (shape.len(), shape[0]) else {
        return Err(format!("it normalizes {} dimensions; 2 and 4 are supported", shape.len() + 1).into());
    };
    let mut parameters = Vec::new();
    for index in 1..=4 {
        let weight = site.required_weight(index)?;
        if weight.array.dims != [channels] {
            let dims = &weight.array.dims;
            return Err(format!("input {index} of shape {dims:?} does not fit {channels} channels").into());
        }
        parameters.push(weight);
    }
    let epsilon = f64::from(site.float("epsilon", 1e-5)?);
    let wide = |which: usize, channel: usize| f64::from(parameters[which].array.data[channel]);
    let mut scale = Vec::with_capacity(channels);
    let mut shift = Vec::with_capacity(channels);
    for channel in 0..channels {
        let factor = wide(0, channel) / (wide(3, channel) + epsilon).sqrt();
        if !factor.is_finite() {
            return Err(format!("the variance of channel {channel} with epsilon is not above 0").into());
        }
        scale.push(factor);
        shift.push(wide(1, channel) - wide(2, channel) * factor);
    }
    let weight_name = parameters.swap_remove(0).name;
    let op = Lowered::Affine(Affine { scale: Some(scale), shift, weight_name });
    Ok(Outcome::Steps { inputs: vec![input], steps: vec![Step { op, shape: shape.to_vec() }] })
}

/// A linear layer whose weight is `[out, in]` in the file when `transposed`, else `[in, out]`.
fn linear(site: &Site<'_>, shape: &[usize], weight: Weight, transposed: bool) -> Result<Linear, Refusal> {
    let Weight { name: weight_name, mut array } = weight;
    let &[features] = shape else {
        return Err(format!("input 0 has {} dimensions; only [batch, features] is supported", shape.len() + 1).into());
    };
    let &[a, b] = &array.dims[..] else { return Err(rank(&array.dims, 2)) };
    if features != if transposed { b } else { a } {
        return Err(format!("a weight of shape {:?} does not fit {features} features", array.dims).into());
    }
    if !transposed {
        site.budget.spend(array.data.len())?;
        array = array.transposed(&[1, 0]).ok_or("its weight cannot be transposed")?;
    }
    Ok(Linear { weight: Constant { dims: array.dims, data: array.data }, bias: None, weight_name })
}

fn linear_outcome(input: ValueId, linear: Linear) -> Outcome {
    let out = linear.weight.dims[0];
    Outcome::one(input, Op::Linear(linear), [out])
}

fn scaled(data: &[f32], factor: f32) -> Result<Arc<[f32]>, Refusal> {
    let scaled: Arc<[f32]> = data.iter().map(|x| x * factor).collect();
    if scaled.iter().all(|x| x.is_finite()) { Ok(scaled) } else { Err("alpha or beta makes a weight infinite".into()) }
}

fn rank(dims: &[usize], wanted: usize) -> Refusal {
    format!("its weight has the shape {dims:?}; only {wanted} dimensions are supported").into()
}
