//! Operators that candle's tensors do, or plain loops over rows: those that take little time in classifiers.
//!
//! Tensors come and go in storage order (see [`stored`]).

use candle_core::{D, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    attention::attention,
    workspace::{logical, stored, stored_axis},
};
use crate::{
    graph::{Binary, Constant, Normalize, Op, Reduction},
    kernels::Kernels,
};

/// Computes `op`; `shape` is the output's, without the batch.
pub(super) fn compute(kernels: Kernels, op: &Op, inputs: &[Tensor], shape: &[usize]) -> Result<Tensor> {
    let Some(first) = inputs.first() else { bail!("{} reads no tensor", op.name()) };
    let batch = first.dim(0)?;
    let dims: Vec<usize> = std::iter::once(batch).chain(shape.iter().copied()).collect();
    match op {
        // A copy, since the buffer below it is written again.
        Op::Reshape => stored(&logical(first)?.force_contiguous()?.reshape(dims)?),
        Op::Transpose { order } => {
            let order: Vec<usize> = std::iter::once(0).chain(order.iter().map(|axis| axis + 1)).collect();
            stored(&logical(first)?.permute(order)?)?.force_contiguous()
        }
        Op::Select { axis, indices } => select(first, stored_axis(first.rank(), *axis), indices),
        Op::Softmax { axis, log } => {
            let x = logical(first)?.contiguous()?;
            stored(&match log {
                false => candle_nn::ops::softmax(&x, axis + 1)?,
                true => candle_nn::ops::log_softmax(&x, axis + 1)?,
            })
        }
        Op::Normalize(normalize) => normalized(first, normalize),
        Op::MatMul => {
            let [a, b] = inputs else { bail!("a product has two operands") };
            stored(&product(&logical(a)?, &logical(b)?, &dims)?)
        }
        &Op::Attention { scale, keys_in_rows } => attention(kernels, inputs, scale, keys_in_rows, &dims),
        Op::Add => pairs(inputs, &dims, |a, b| a + b),
        Op::Mul => pairs(inputs, &dims, |a, b| a * b),
        Op::Binary(binary) => by_binary(*binary, inputs, &dims),
        Op::Where => {
            let [condition, yes, no] = inputs else { bail!("a choice has three operands") };
            let (condition, yes, no) = (spread(condition, &dims)?, spread(yes, &dims)?, spread(no, &dims)?);
            let chosen = condition.iter().zip(yes.iter().zip(&no)).map(|(&c, (&y, &n))| if c != 0.0 { y } else { n });
            stored(&Tensor::from_vec(chosen.collect(), dims, &Device::Cpu)?)
        }
        Op::Reduce { kind, axes } => stored(&reduce(&logical(first)?.contiguous()?, *kind, axes)?.reshape(dims)?),
        Op::Pad { pads, value } => {
            let mut x = logical(first)?;
            for (axis, &[before, after]) in pads.iter().enumerate() {
                let border = |x: &Tensor, width: usize| -> Result<Tensor> {
                    let mut dims = x.dims().to_vec();
                    dims[axis + 1] = width;
                    Tensor::full(*value, dims, &Device::Cpu)
                };
                if before + after > 0 {
                    x = Tensor::cat(&[&border(&x, before)?, &x.contiguous()?, &border(&x, after)?], axis + 1)?;
                }
            }
            stored(&x)?.force_contiguous()
        }
        Op::Resample { axis, taps } => resample(first, stored_axis(first.rank(), *axis), taps),
        Op::LocalResponse { size, alpha, beta, bias } => local_response(first, *size, [*alpha, *beta, *bias]),
        Op::Constant(Constant { data, .. }) => {
            let all: Vec<f32> = (0..batch).flat_map(|_| data.iter().copied()).collect();
            stored(&Tensor::from_vec(all, dims, &Device::Cpu)?)
        }
        Op::Expand => stored(&Tensor::from_vec(spread(first, &dims)?, dims, &Device::Cpu)?),
        Op::Conv(_)
        | Op::Linear(_)
        | Op::Clip { .. }
        | Op::Map(_)
        | Op::MaxPool(_)
        | Op::AveragePool { .. }
        | Op::GlobalAveragePool
        | Op::Concat { .. } => bail!("{} is no operator of tensors", op.name()),
    }
}

/// Products of matrices to `dims`; the dimensions before the last two broadcast, and count as one for candle.
fn product(a: &Tensor, b: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let lead = &dims[..dims.len().saturating_sub(2)];
    let flat = |x: &Tensor| -> Result<Tensor> {
        let matrix = [x.dim(D::Minus2)?, x.dim(D::Minus1)?];
        let whole: Vec<usize> = lead.iter().copied().chain(matrix).collect();
        x.broadcast_as(whole)?.contiguous()?.reshape((lead.iter().product::<usize>(), matrix[0], matrix[1]))
    };
    flat(a)?.matmul(&flat(b)?)?.reshape(dims)
}

/// Slices of an axis: a view where they follow each other, else gathered.
fn select(x: &Tensor, axis: usize, indices: &[usize]) -> Result<Tensor> {
    let start = indices.first().copied().unwrap_or(0);
    if indices.iter().enumerate().all(|(i, &index)| index == start + i) {
        return x.narrow(axis, start, indices.len())?.force_contiguous();
    }
    let indices: Vec<u32> = indices.iter().map(|&index| index as u32).collect();
    let len = indices.len();
    x.contiguous()?.index_select(&Tensor::from_vec(indices, len, &Device::Cpu)?, axis)
}

/// The elements in logical order, repeated along axes of size 1 to `dims`.
fn spread(x: &Tensor, dims: &[usize]) -> Result<Vec<f32>> {
    logical(x)?.broadcast_as(dims)?.contiguous()?.flatten_all()?.to_vec1()
}

fn pairs(inputs: &[Tensor], dims: &[usize], f: impl Fn(f32, f32) -> f32) -> Result<Tensor> {
    let [a, b] = inputs else { bail!("a pair has two operands") };
    let (mut a, b) = (spread(a, dims)?, spread(b, dims)?);
    a.iter_mut().zip(b).for_each(|(a, b)| *a = f(*a, b));
    stored(&Tensor::from_vec(a, dims, &Device::Cpu)?)
}

/// One loop for each function that networks use much, so that it is chosen outside the loop.
fn by_binary(binary: Binary, inputs: &[Tensor], dims: &[usize]) -> Result<Tensor> {
    match binary {
        Binary::Sub => pairs(inputs, dims, |a, b| a - b),
        Binary::Div => pairs(inputs, dims, |a, b| a / b),
        other => pairs(inputs, dims, |a, b| other.apply(a, b)),
    }
}

fn reduce(x: &Tensor, kind: Reduction, axes: &[usize]) -> Result<Tensor> {
    let axes: Vec<usize> = axes.iter().map(|axis| axis + 1).collect();
    let each = |x: Tensor, f: fn(&Tensor, usize) -> Result<Tensor>| axes.iter().try_fold(x, |x, &axis| f(&x, axis));
    match kind {
        Reduction::Sum => x.sum_keepdim(&axes[..]),
        Reduction::Mean => x.mean_keepdim(&axes[..]),
        Reduction::Max => each(x.clone(), |x, axis| x.max_keepdim(axis)),
        Reduction::Min => each(x.clone(), |x, axis| x.min_keepdim(axis)),
        Reduction::L1 => x.abs()?.sum_keepdim(&axes[..]),
        Reduction::L2 => x.sqr()?.sum_keepdim(&axes[..])?.sqrt(),
        Reduction::SumSquare => x.sqr()?.sum_keepdim(&axes[..]),
        Reduction::LogSum => x.sum_keepdim(&axes[..])?.log(),
        Reduction::LogSumExp => {
            let largest = each(x.clone(), |x, axis| x.max_keepdim(axis))?;
            x.broadcast_sub(&largest)?.exp()?.sum_keepdim(&axes[..])?.log()?.add(&largest)
        }
        Reduction::Product => each(x.clone(), |x, axis| {
            let mut product = x.narrow(axis, 0, 1)?;
            for at in 1..x.dim(axis)? {
                product = product.mul(&x.narrow(axis, at, 1)?)?;
            }
            Ok(product)
        }),
    }
}

/// The rows of a tensor whose last axis is `axis`, which is copied there where it is not.
fn rows(x: &Tensor, axis: usize) -> Result<(Vec<f32>, usize)> {
    let x = if axis + 1 == x.rank() { x.clone() } else { x.transpose(axis, D::Minus1)? };
    Ok((x.contiguous()?.flatten_all()?.to_vec1()?, x.dim(D::Minus1)?))
}

/// The inverse of [`rows`].
fn from_rows(data: Vec<f32>, like: &Tensor, axis: usize) -> Result<Tensor> {
    let mut dims = like.dims().to_vec();
    let last = dims.len() - 1;
    dims.swap(axis, last);
    let x = Tensor::from_vec(data, dims, &Device::Cpu)?;
    if axis == last { Ok(x) } else { x.transpose(axis, last)?.contiguous() }
}

/// Partial sums of a row: enough that they are vector code, in an order of their own for each element.
const LANES: usize = 16;

/// `Σ f(x)` of a row, always in the same order.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(chunk[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>()
}

fn normalized(x: &Tensor, normalize: &Normalize) -> Result<Tensor> {
    let Normalize { axis, epsilon, centered, scale, shift } = normalize;
    let axis = stored_axis(x.rank(), *axis);
    let (mut data, len) = rows(x, axis)?;
    data.par_chunks_mut(len.max(1)).for_each(|row| {
        let mean = if *centered { sum(row, |x| x) / len as f32 } else { 0.0 };
        let variance = sum(row, |x| (x - mean) * (x - mean)) / len as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        row.iter_mut().for_each(|x| *x = (*x - mean) * factor);
        if let Some(scale) = scale {
            row.iter_mut().zip(scale.iter()).for_each(|(x, s)| *x *= s);
        }
        if let Some(shift) = shift {
            row.iter_mut().zip(shift.iter()).for_each(|(x, s)| *x += s);
        }
    });
    from_rows(data, x, axis)
}

fn local_response(x: &Tensor, size: usize, [alpha, beta, bias]: [f32; 3]) -> Result<Tensor> {
    let axis = stored_axis(x.rank(), 0);
    let (mut data, len) = rows(x, axis)?;
    let (before, after) = (size.saturating_sub(1) / 2, size.saturating_sub(1).div_ceil(2));
    data.par_chunks_mut(len.max(1)).for_each(|row| {
        let squares: Vec<f32> = row.iter().map(|x| x * x).collect();
        for (channel, x) in row.iter_mut().enumerate() {
            let window = &squares[channel.saturating_sub(before)..len.min(channel + after + 1)];
            *x /= (bias + alpha / size as f32 * window.iter().sum::<f32>()).powf(beta);
        }
    });
    from_rows(data, x, axis)
}

fn resample(x: &Tensor, axis: usize, taps: &[Vec<(usize, f32)>]) -> Result<Tensor> {
    let dims = x.dims();
    let (len, inner) = (dims[axis], dims[axis + 1..].iter().product::<usize>());
    let data = x.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
    let outer = data.len() / (len * inner).max(1);
    let mut y = vec![0.0f32; outer * taps.len() * inner];
    y.par_chunks_mut((taps.len() * inner).max(1)).zip(data.par_chunks((len * inner).max(1))).for_each(|(y, x)| {
        for (y, taps) in y.chunks_mut(inner.max(1)).zip(taps) {
            for &(from, weight) in taps {
                let x = &x[from * inner..(from + 1) * inner];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += weight * x);
            }
        }
    });
    let mut dims = dims.to_vec();
    dims[axis] = taps.len();
    Tensor::from_vec(y, dims, &Device::Cpu)
}
