//! Layers that take a scale and a shift into their weights.

use std::sync::Arc;

use super::{Affine, Factors, channel_axis};
use crate::{
    graph::{Constant, Conv, Linear, Normalize, Op, Window},
    onnx::site::{Budget, Refusal},
};

/// Whether an operator has weights that a scale and a shift behind it may go into.
pub(super) fn is_layer(op: &Op) -> bool {
    matches!(op, Op::Conv(_) | Op::Linear(_) | Op::Normalize(_))
}

/// Folds `affine` into what writes samples of this rank, where that scales or shifts its channels too; `false` where
/// not.
pub(super) fn absorb(op: &mut Op, affine: &Affine, rank: usize, budget: &Budget) -> Result<bool, Refusal> {
    let (weight, bias) = match op {
        Op::Conv(conv) => (&mut conv.weight, &mut conv.bias),
        Op::Linear(linear) => (&mut linear.weight, &mut linear.bias),
        Op::Normalize(normalize) if normalize.axis == channel_axis(rank) => {
            return Ok(into_normalize(normalize, affine));
        }
        _ => return Ok(false),
    };
    let channels = weight.dims[0];
    if affine.scale.is_some() {
        budget.spend(weight.data.len())?;
        let data = Arc::make_mut(&mut weight.data);
        let row = data.len() / channels;
        for (channel, row) in data.chunks_exact_mut(row).enumerate() {
            for w in row {
                *w = (f64::from(*w) * affine.scale(channel)) as f32;
            }
        }
        if data.iter().any(|w| !w.is_finite()) {
            return Err("folded into the weights before it, it makes them infinite".into());
        }
    }
    let folded = |channel: usize| {
        let before = bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
        (before * affine.scale(channel) + affine.shift.at(channel)) as f32
    };
    let data: Arc<[f32]> = (0..channels).map(folded).collect();
    if data.iter().any(|b| !b.is_finite()) {
        return Err("folded into the bias before it, it makes that infinite".into());
    }
    *bias = Some(data);
    Ok(true)
}

/// Folds `affine` into the scale and shift of a normalization; `false` where it has neither and nothing tells how many
/// there are.
fn into_normalize(normalize: &mut Normalize, affine: &Affine) -> bool {
    let known = |data: &Option<Arc<[f32]>>| data.as_ref().map(|data| data.len());
    let each = |factors: &Factors| match factors {
        Factors::Same(_) => None,
        Factors::Each(all) => Some(all.len()),
    };
    let Some(channels) = known(&normalize.scale)
        .or(known(&normalize.shift))
        .or(affine.scale.as_ref().and_then(each))
        .or(each(&affine.shift))
    else {
        return false;
    };
    let before = |data: &Option<Arc<[f32]>>, channel: usize, none: f64| {
        data.as_ref().map_or(none, |data| f64::from(data[channel]))
    };
    let scale = (0..channels).map(|c| (before(&normalize.scale, c, 1.0) * affine.scale(c)) as f32).collect();
    let shift = (0..channels)
        .map(|c| (before(&normalize.shift, c, 0.0) * affine.scale(c) + affine.shift.at(c)) as f32)
        .collect();
    (normalize.scale, normalize.shift) = (Some(scale), Some(shift));
    true
}

/// The scale as weights of a convolution that sees one channel and one pixel.
pub(super) fn depthwise(affine: Affine, channels: usize) -> Result<Conv, String> {
    let narrow = |wide: &dyn Fn(usize) -> f64| {
        let narrow: Arc<[f32]> = (0..channels).map(|channel| wide(channel) as f32).collect();
        let finite = narrow.iter().all(|x| x.is_finite());
        finite.then_some(narrow).ok_or_else(|| "its scale or shift is infinite".to_owned())
    };
    let data = narrow(&|channel| affine.scale(channel))?;
    let bias = narrow(&|channel| affine.shift.at(channel))?;
    Ok(Conv {
        weight: Constant { dims: vec![channels, 1, 1, 1], data },
        bias: Some(bias),
        weight_name: affine.weight_name,
        groups: channels,
        window: Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] },
    })
}

/// Whether [`absorb_ahead`] gives what the layer gives behind `affine`, which has so many channels: where padding is seen,
/// a shift would not be; and weights and biases must stay finite.
pub(super) fn can_absorb_ahead(op: &Op, affine: &Affine, channels: usize) -> bool {
    let fits = match op {
        Op::Conv(conv) => {
            let reads = conv.weight.dims[1] * conv.groups;
            reads == channels && (conv.window.pads == [0; 4] || affine.only_scales())
        }
        Op::Linear(linear) => linear.weight.dims[1] == channels,
        _ => false,
    };
    let finite = |conv: &Constant, bias: Option<&[f32]>, groups: usize| {
        let (data, bias) = ahead(conv, bias, groups, affine);
        data.iter().chain(&bias).all(|x| x.is_finite())
    };
    fits && match op {
        Op::Conv(Conv { weight, bias, groups, .. }) => finite(weight, bias.as_deref(), *groups),
        Op::Linear(Linear { weight, bias, .. }) => finite(weight, bias.as_deref(), 1),
        _ => false,
    }
}

/// Folds `affine`, which the layer reads, into it: `w·(s·x + t) + b` is `(w·s)·x + (b + Σ w·t)`.
pub(super) fn absorb_ahead(op: &mut Op, affine: &Affine) {
    let (weight, bias, groups) = match op {
        Op::Conv(conv) => (&mut conv.weight, &mut conv.bias, conv.groups),
        Op::Linear(linear) => (&mut linear.weight, &mut linear.bias, 1),
        _ => return,
    };
    let (data, shifted) = ahead(weight, bias.as_deref(), groups, affine);
    weight.data = data.into();
    if bias.is_some() || !affine.only_scales() {
        *bias = Some(shifted.into());
    }
}

/// Weights and biases of a layer with `affine` in it, that it reads.
fn ahead(weight: &Constant, bias: Option<&[f32]>, groups: usize, affine: &Affine) -> (Vec<f32>, Vec<f32>) {
    let (out, per_group) = (weight.dims[0], weight.dims[1]);
    let taps = weight.dims[2..].iter().product::<usize>().max(1);
    let mut data = Vec::with_capacity(weight.data.len());
    let mut biases = Vec::with_capacity(out);
    for (channel, weights) in weight.data.chunks(per_group * taps).enumerate() {
        let first = channel / (out / groups).max(1) * per_group;
        let mut sum = bias.map_or(0.0, |bias| f64::from(bias[channel]));
        for (at, &w) in weights.iter().enumerate() {
            let read = first + at / taps;
            sum += f64::from(w) * affine.shift.at(read);
            data.push((f64::from(w) * affine.scale(read)) as f32);
        }
        biases.push(sum as f32);
    }
    (data, biases)
}
