//! Scaled dot-product attention, a few rows of queries at a time.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::workspace::{logical, stored};
use crate::{
    graph::Window,
    kernels::{FloatEpilogue, Geometry, Kernels, Output, PackedFloat, Pictures},
};

/// Rows of queries whose scores are there at the same time.
const ROWS: usize = 64;

/// A product as it is.
const EPILOGUE: FloatEpilogue = FloatEpilogue { min: f32::NEG_INFINITY, max: f32::INFINITY, grid: None };

/// `softmax(scale · q·kᵀ)·v` of the matrices in the last two dimensions of `[queries, keys, values]`, to `dims`: `keys` are
/// rows where `in_rows`, else columns. Several matrices of queries may share keys and values: so many after each other as
/// there are more of them. The scores of one head are never there as a whole.
pub(super) fn attention(
    kernels: Kernels,
    inputs: &[Tensor],
    scale: f32,
    in_rows: bool,
    dims: &[usize],
) -> Result<Tensor> {
    let [queries, keys, values] = inputs else { bail!("attention reads queries, keys and values") };
    let matrices = |x: &Tensor| -> Result<(Vec<f32>, [usize; 2])> {
        let x = logical(x)?;
        let &[.., rows, columns] = x.dims() else { bail!("attention reads matrices") };
        Ok((x.contiguous()?.flatten_all()?.to_vec1()?, [rows, columns]))
    };
    let ((q, [rows, depth]), (k, k_shape), (v, [count, width])) =
        (matrices(queries)?, matrices(keys)?, matrices(values)?);
    if k_shape != if in_rows { [count, depth] } else { [depth, count] } || [rows, depth, count, width].contains(&0) {
        bail!("queries, keys and values of attention do not fit");
    }
    let (heads, shared) = (q.len() / (rows * depth), k.len() / (depth * count));
    if shared == 0 || heads % shared != 0 || v.len() != shared * count * width {
        bail!("heads of queries, keys and values of attention do not fit");
    }
    let mut y = vec![0.0; heads * rows * width];
    // Keys and values are packed as the weights of linear layers, once for all queries that see them.
    let together = heads / shared;
    y.par_chunks_mut(together * rows * width)
        .zip(q.par_chunks(together * rows * depth))
        .zip(k.par_chunks(depth * count).zip(v.par_chunks(count * width)))
        .for_each(|((y, q), (k, v))| {
            let turned;
            let k = if in_rows {
                k
            } else {
                turned = transposed(k, count);
                &turned
            };
            let (keys, values) = (packed(kernels, k, depth), packed(kernels, &transposed(v, width), count));
            y.par_chunks_mut(ROWS * width).zip(q.par_chunks(ROWS * depth)).for_each(|(y, q)| {
                let rows = q.len() / depth;
                let mut scores = vec![0.0; rows * count];
                product(kernels, &keys, q, rows, &mut scores);
                scores.chunks_exact_mut(count).for_each(|row| softmax(row, scale));
                product(kernels, &values, &scores, rows, y);
            });
        });
    stored(&Tensor::from_vec(y, dims, &Device::Cpu)?)
}

/// A matrix of so many columns, the other way round.
fn transposed(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns;
    (0..columns).flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column])).collect()
}

/// A matrix whose rows are multiplied with rows of `inner` elements.
fn packed(kernels: Kernels, matrix: &[f32], inner: usize) -> PackedFloat {
    let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
    let geometry = Geometry { in_channels: inner, out_channels: matrix.len() / inner, groups: 1, window };
    PackedFloat::new(kernels, geometry, matrix, None)
}

/// `y = x·matrixᵀ`.
fn product(kernels: Kernels, matrix: &PackedFloat, x: &[f32], rows: usize, y: &mut [f32]) {
    let pictures = Pictures { x, dims: [rows, 1, 1], padding: 0.0 };
    kernels.conv_float(matrix, pictures, EPILOGUE, None, Output::Float(y), false);
}

/// `exp(scale·x) / Σ exp(scale·x)`, with the largest taken off first.
fn softmax(row: &mut [f32], scale: f32) {
    row.iter_mut().for_each(|x| *x *= scale);
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        sum += *x;
    }
    row.iter_mut().for_each(|x| *x /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919) % 211) as f32 / 105.0 - 1.0).collect()
    }

    /// As it is defined, in f64.
    fn naive([q, k, v]: [&[f32]; 3], [rows, depth, count, width]: [usize; 4], scale: f64) -> Vec<f64> {
        let mut y = Vec::new();
        for row in 0..rows {
            let dot =
                |key: usize| (0..depth).map(|i| f64::from(q[row * depth + i]) * f64::from(k[key * depth + i])).sum();
            let scores: Vec<f64> = (0..count)
                .map(|key| {
                    let dot: f64 = dot(key);
                    (scale * dot).exp()
                })
                .collect();
            let total: f64 = scores.iter().sum();
            for column in 0..width {
                let sum: f64 = (0..count).map(|key| scores[key] / total * f64::from(v[key * width + column])).sum();
                y.push(sum);
            }
        }
        y
    }

    #[test]
    fn any_kernels_give_what_is_defined() {
        let (heads, shared) = (4, 2);
        for [rows, depth, count, width] in [[1, 1, 1, 1], [70, 5, 33, 19], [9, 16, 64, 8]] {
            let (q, k) = (numbers(heads * rows * depth, 1), numbers(shared * count * depth, 2));
            let v = numbers(shared * count * width, 3);
            let wanted: Vec<f64> = (0..heads)
                .flat_map(|head| {
                    let of = head / (heads / shared);
                    let q = &q[head * rows * depth..][..rows * depth];
                    let (k, v) = (&k[of * count * depth..][..count * depth], &v[of * count * width..][..count * width]);
                    naive([q, k, v], [rows, depth, count, width], 0.7)
                })
                .collect();
            let tensor =
                |data: &[f32], dims: [usize; 4]| Tensor::from_vec(data.to_vec(), &dims[..], &Device::Cpu).unwrap();
            // Rank 4 is stored with its second axis last.
            let flat =
                |data: &[f32], [n, h, r, c]: [usize; 4]| tensor(data, [n, h, r, c]).reshape((n, 1, h, r, c)).unwrap();
            for kernels in Kernels::available() {
                for in_rows in [true, false] {
                    let keys = flat(&k, [1, shared, count, depth]);
                    let keys = if in_rows { keys } else { keys.transpose(3, 4).unwrap() };
                    let inputs = [flat(&q, [1, heads, rows, depth]), keys, flat(&v, [1, shared, count, width])];
                    let y = attention(kernels, &inputs, 0.7, in_rows, &[1, 1, heads, rows, width]).unwrap();
                    let y: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
                    let close = y.iter().zip(&wanted).all(|(x, y)| (f64::from(*x) - y).abs() < 1e-5);
                    assert!(close && y.len() == wanted.len(), "{} {rows}×{count}", kernels.name());
                }
            }
        }
    }
}
