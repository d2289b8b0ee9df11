//! Depthwise convolution: memory work, vectorized over channels.

use rayon::prelude::*;

use super::{
    FloatEpilogue, IntegerEpilogue, Kernels, Output, PackedFloat, PackedInteger, Pictures, Tile,
    conv::{FloatToFloat, FloatToQuantized, IntegerToFloat, IntegerToQuantized, Sink, pad},
    dispatch,
    packing::Geometry,
};

/// Channels summed at once: one vector of 256 bits. Of two, the compiler takes the second apart.
const STEP: usize = 8;

/// One row of output pixels: `sum[x][c] = Σ w[tap][c] · input[x·stride + tap][c]`.
struct Row<'a, X, W> {
    x: &'a [X],
    weights: &'a [W],
    /// Offsets of the window's taps from its first element.
    taps: &'a [usize],
    channels: usize,
    /// Where the first window begins, and elements from one window to the next.
    start: usize,
    step: usize,
}

/// How an element and a weight are multiplied and summed.
trait Multiply: Copy {
    type Weight: Copy;
    type Sum: Copy + Default + Send;
    fn multiply_add(self, weight: Self::Weight, sum: Self::Sum) -> Self::Sum;
}

impl Multiply for f32 {
    type Weight = f32;
    type Sum = f32;
    #[inline(always)]
    fn multiply_add(self, weight: f32, sum: f32) -> f32 {
        self.mul_add(weight, sum)
    }
}

impl Multiply for u8 {
    type Weight = i32;
    type Sum = i32;
    #[inline(always)]
    fn multiply_add(self, weight: i32, sum: i32) -> i32 {
        sum + i32::from(self) * weight
    }
}

#[inline(always)]
fn row_body<K: Tile, X: Multiply, S: Sink<X::Sum>>(row: &Row<'_, X, X::Weight>, pixels: usize, sink: &mut S) {
    let channels = row.channels;
    for pixel in 0..pixels {
        let base = row.start + pixel * row.step;
        let mut c = 0;
        while c + STEP <= channels {
            let mut sums = [X::Sum::default(); STEP];
            for (&tap, w) in row.taps.iter().zip(row.weights.chunks_exact(channels)) {
                let x = &row.x[base + tap + c..][..STEP];
                let w = &w[c..][..STEP];
                for i in 0..STEP {
                    sums[i] = x[i].multiply_add(w[i], sums[i]);
                }
            }
            sink.put::<K>(pixel, c, &sums);
            c += STEP;
        }
        for c in c..channels {
            let taps = row.taps.iter().enumerate();
            let sum = taps.fold(X::Sum::default(), |sum, (t, &tap)| {
                row.x[base + tap + c].multiply_add(row.weights[t * channels + c], sum)
            });
            sink.put::<K>(pixel, c, &[sum]);
        }
    }
}

#[inline(always)]
fn float_to_float_body<K: Tile>(row: &Row<'_, f32, f32>, pixels: usize, sink: &mut FloatToFloat<'_>) {
    row_body::<K, _, _>(row, pixels, sink);
}
#[inline(always)]
fn float_to_quantized_body<K: Tile>(row: &Row<'_, f32, f32>, pixels: usize, sink: &mut FloatToQuantized<'_>) {
    row_body::<K, _, _>(row, pixels, sink);
}
#[inline(always)]
fn integer_to_float_body<K: Tile>(row: &Row<'_, u8, i32>, pixels: usize, sink: &mut IntegerToFloat<'_>) {
    row_body::<K, _, _>(row, pixels, sink);
}
#[inline(always)]
fn integer_to_quantized_body<K: Tile>(row: &Row<'_, u8, i32>, pixels: usize, sink: &mut IntegerToQuantized<'_>) {
    row_body::<K, _, _>(row, pixels, sink);
}
dispatch!(fn float_to_float(row: &Row<'_, f32, f32>, pixels: usize, sink: &mut FloatToFloat<'_>) = float_to_float_body);
dispatch!(fn float_to_quantized(row: &Row<'_, f32, f32>, pixels: usize, sink: &mut FloatToQuantized<'_>) = float_to_quantized_body);
dispatch!(fn integer_to_float(row: &Row<'_, u8, i32>, pixels: usize, sink: &mut IntegerToFloat<'_>) = integer_to_float_body);
dispatch!(fn integer_to_quantized(row: &Row<'_, u8, i32>, pixels: usize, sink: &mut IntegerToQuantized<'_>) = integer_to_quantized_body);

pub(super) fn float(
    kernels: Kernels,
    packed: &PackedFloat,
    pictures: Pictures<'_, f32>,
    epilogue: FloatEpilogue,
    out: Output<'_>,
    parallel: bool,
) {
    let work = |row: &Row<'_, f32, f32>, pixels: usize, out: Output<'_>| match (out, epilogue.grid) {
        (Output::Float(y), _) => {
            float_to_float(kernels, row, pixels, &mut FloatToFloat(y, &packed.bias, epilogue));
        }
        (Output::Quantized(y), Some(grid)) => {
            float_to_quantized(kernels, row, pixels, &mut FloatToQuantized(y, &packed.bias, epilogue, grid));
        }
        (Output::Quantized(_), None) => panic!("a quantized output needs a grid"),
    };
    rows(&packed.geometry, pictures, &packed.weights, out, parallel, work);
}

pub(super) fn integer(
    kernels: Kernels,
    packed: &PackedInteger,
    pictures: Pictures<'_, u8>,
    epilogue: &IntegerEpilogue,
    out: Output<'_>,
    parallel: bool,
) {
    let work = |row: &Row<'_, u8, i32>, pixels: usize, out: Output<'_>| match out {
        Output::Float(y) => integer_to_float(kernels, row, pixels, &mut IntegerToFloat(y, epilogue)),
        Output::Quantized(y) => integer_to_quantized(kernels, row, pixels, &mut IntegerToQuantized(y, epilogue)),
    };
    rows(&packed.geometry, pictures, &packed.depthwise, out, parallel, work);
}

/// Runs `work` on every row of output pixels of every picture.
fn rows<X: Multiply + Sync, W: Sync>(
    geometry: &Geometry,
    pictures: Pictures<'_, X>,
    weights: &[W],
    mut out: Output<'_>,
    parallel: bool,
    work: impl Fn(&Row<'_, X, W>, usize, Output<'_>) + Sync,
) {
    let Pictures { x, dims: [batch, height, width], padding } = pictures;
    let Some([out_height, out_width]) = geometry.window.output_size([height, width]) else { return };
    let (window, channels) = (geometry.window, geometry.in_channels);
    let line = (width + window.pads[1] + window.pads[3]) * channels;
    let taps: Vec<usize> = (0..geometry.taps())
        .map(|t| {
            let (y, x) = (t / window.kernel[1] * window.dilation[0], t % window.kernel[1] * window.dilation[1]);
            y * line + x * channels
        })
        .collect();
    let picture = height * width * channels;
    for n in 0..batch {
        let source = &x[n * picture..(n + 1) * picture];
        let padded = pad(source, [height, width, channels], window.pads, padding, 0, |v| v);
        let run = |y: usize, out: Output<'_>| {
            let start = y * window.stride[0] * line;
            let step = window.stride[1] * channels;
            work(&Row { x: &padded, weights, taps: &taps, channels, start, step }, out_width, out);
        };
        let row_len = out_width * channels;
        let part = n * out_height * row_len..(n + 1) * out_height * row_len;
        match (&mut out, parallel) {
            (Output::Float(y), false) => {
                y[part].chunks_mut(row_len).enumerate().for_each(|(i, y)| run(i, Output::Float(y)));
            }
            (Output::Quantized(y), false) => {
                y[part].chunks_mut(row_len).enumerate().for_each(|(i, y)| run(i, Output::Quantized(y)));
            }
            (Output::Float(y), true) => {
                y[part].par_chunks_mut(row_len).enumerate().for_each(|(i, y)| run(i, Output::Float(y)));
            }
            (Output::Quantized(y), true) => {
                y[part].par_chunks_mut(row_len).enumerate().for_each(|(i, y)| run(i, Output::Quantized(y)));
            }
        }
    }
}
