//! Products of matrices.

use std::sync::Arc;

use super::{
    super::{
        array::{Array, broadcast},
        site::{Form, Refusal, Site, Weight},
        view::Factor,
    },
    Outcome, Step,
    align::list,
    is_known,
};
use crate::graph::{Constant, Conv, Linear, Op, Window};

/// `y = alpha·a·b + beta·c`, with `b` and `c` constant.
pub(super) fn gemm(site: &Site<'_>) -> Result<Outcome, Refusal> {
    site.view(0)?;
    let weight = site.required_weight(1)?;
    if site.flag("transA")? {
        return Err("transA is not supported".into());
    }
    if site.dims(0)?.len() != 2 {
        return Err(format!("input 0 is {}; only [batch, features] is supported", list(&site.dims(0)?)).into());
    }
    let mut linear = linear(site, weight, site.flag("transB")?)?;
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
    on_last_axis(site, linear)
}

/// `y = a·b`: with `b` a constant matrix, or of two values.
pub(super) fn mat_mul(site: &Site<'_>) -> Result<Outcome, Refusal> {
    if !is_known(site, 0)? && is_known(site, 1)? && site.dims(1)?.len() == 2 {
        let weight = site.required_weight(1)?;
        return on_last_axis(site, linear(site, weight, false)?);
    }
    let constant = [0, 1].into_iter().find(|&index| is_known(site, index).unwrap_or(false));
    if let Some(constant) = constant {
        return stored(site, constant);
    }
    let ((a, x), (b, y)) = (site.matrices(0)?, site.matrices(1)?);
    let (Some(&[rows, inner]), Some(&[same, columns])) = (x.last_chunk::<2>(), y.last_chunk::<2>()) else {
        return Err("an operand is no matrix for each sample".into());
    };
    let fits = inner == same && x.len() == y.len() && a.joined() == b.joined();
    let lead = broadcast(&x[..x.len() - 2], &y[..y.len() - 2]).filter(|_| fits);
    let Some(mut shape) = lead else {
        return Err(format!("{} times {} is no product", list(&site.dims(0)?), list(&site.dims(1)?)).into());
    };
    shape.extend([rows, columns]);
    let step = Step::new(Op::MatMul, shape);
    Ok(Outcome::Steps { inputs: vec![a.value, b.value], steps: vec![step], axes: Some(a.axes.clone()) })
}

/// A product with a constant that is no matrix, or comes first: the constant becomes a value.
fn stored(site: &Site<'_>, constant: usize) -> Result<Outcome, Refusal> {
    let array = site.constant(constant)?;
    let (view, shape) = site.matrices(1 - constant)?;
    let rank = view.axes.len();
    if array.dims.len() < 2 || array.dims.len() > rank {
        return Err(format!("a constant of shape {:?} is not supported", array.dims).into());
    }
    let mut dims = vec![1; rank - array.dims.len()];
    dims.extend(&array.dims);
    if dims[0] != 1 {
        return Err("a constant differs from sample to sample".into());
    }
    // As many axes as the value beside it has.
    let mut sample = vec![1; shape.len() + 1 - rank];
    sample.extend(&dims[1..]);
    let array = array.reshaped(sample).ok_or("a constant does not fit")?;
    site.budget.spend(array.data.len())?;
    Err(Refusal::Store(constant, array, view.axes.clone()))
}

/// A linear layer whose weight is `[out, in]` in the file when `transposed`, else `[in, out]`.
fn linear(site: &Site<'_>, weight: Weight, transposed: bool) -> Result<Linear, Refusal> {
    let Weight { name: weight_name, mut array } = weight;
    if array.dims.len() != 2 {
        return Err(format!("its weight has the shape {:?}; only 2 dimensions are supported", array.dims).into());
    }
    if !transposed {
        site.budget.spend(array.data.len())?;
        array = array.transposed(&[1, 0]).ok_or("its weight cannot be transposed")?;
    }
    let Array { dims, data } = array;
    Ok(Linear { weight: Constant { dims, data }, bias: None, weight_name })
}

/// The product of input 0 with a weight over its last axis, wherever that is stored last: for the channels of a
/// picture it is a convolution that sees one pixel.
fn on_last_axis(site: &Site<'_>, linear: Linear) -> Result<Outcome, Refusal> {
    let (view, shape) = site.view(0)?;
    let &[out, features] = &linear.weight.dims[..] else { return Err("its weight is no matrix".into()) };
    let fits = |found: usize| {
        if found == features { Ok(()) } else { Err(format!("a weight for {features} features does not fit {found}")) }
    };
    let at = view.axes.len().checked_sub(1).ok_or("it has no dimensions")?;
    match (view.single(at), shape) {
        (Some(0), &[channels, height, width]) => {
            fits(channels)?;
            let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
            let Linear { weight: Constant { data, .. }, bias, weight_name } = linear;
            let weight = Constant { dims: vec![out, features, 1, 1], data };
            let conv = Conv { weight, bias, weight_name, groups: 1, window };
            Ok(Outcome::like(view, vec![Step::new(Op::Conv(conv), [out, height, width])]))
        }
        (Some(last), shape) if shape.len() != 3 && last + 1 == shape.len() => {
            fits(shape[last])?;
            let mut to = shape.to_vec();
            to[last] = out;
            Ok(Outcome::like(view, vec![Step::new(Op::Linear(linear), to)]))
        }
        (None, _) if view.axes[at].contains(&Factor::Batch) => {
            Err("its last axis has the batch in it, which is not supported".into())
        }
        _ => Err(Refusal::Rearrange(0, Form::Rows)),
    }
}

fn scaled(data: &[f32], factor: f32) -> Result<Arc<[f32]>, Refusal> {
    let scaled: Arc<[f32]> = data.iter().map(|x| x * factor).collect();
    if scaled.iter().all(|x| x.is_finite()) { Ok(scaled) } else { Err("alpha or beta makes a weight infinite".into()) }
}
