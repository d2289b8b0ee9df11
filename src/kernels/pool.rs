//! Pooling on NHWC pictures, vectorized over channels.

use rayon::prelude::*;

use super::{Kernels, Simd, dispatch};
use crate::graph::Window;

/// A window over pictures `[batch][height][width][channels]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolWindow {
    /// Where it moves.
    pub window: Window,
    /// Batch, height, width and channels.
    pub dims: [usize; 4],
}

impl PoolWindow {
    /// Output height and width; `[0, 0]` when the window does not fit.
    fn out(&self) -> [usize; 2] {
        self.window.output_size([self.dims[1], self.dims[2]]).unwrap_or([0, 0])
    }

    /// Runs `work` on parts of the output, each some rows of pixels: on the first of them and its elements.
    fn in_parts<Y: Send>(&self, y: &mut [Y], parallel: bool, work: impl Fn(usize, &mut [Y]) + Sync) {
        let [_, width] = self.out();
        let row = width * self.dims[3];
        if !parallel || row == 0 {
            return work(0, y);
        }
        let rows = (y.len() / row).div_ceil(4 * rayon::current_num_threads()).max(1);
        y.par_chunks_mut(rows * row).enumerate().for_each(|(part, y)| work(part * rows * width, y));
    }

    /// Calls `visit` with each of `pixels` output pixels from `first` on, counted from 0, and its taps' input pixels,
    /// in order of rows; taps in the padding are left out.
    #[inline(always)]
    fn for_each(&self, first: usize, pixels: usize, mut visit: impl FnMut(usize, &[usize])) {
        let [_, height, width, _] = self.dims;
        let [out_height, out_width] = self.out();
        let Window { kernel, stride, dilation, pads } = self.window;
        let mut taps = Vec::with_capacity(kernel[0] * kernel[1]);
        let along = |at: usize, k: usize, axis: usize, size: usize| {
            (at * stride[axis] + k * dilation[axis]).checked_sub(pads[axis]).filter(|&i| i < size)
        };
        for index in first..first + pixels {
            let (n, y, x) = (index / (out_height * out_width), index / out_width % out_height, index % out_width);
            taps.clear();
            for row in (0..kernel[0]).filter_map(|k| along(y, k, 0, height)) {
                taps.extend(
                    (0..kernel[1]).filter_map(|k| along(x, k, 1, width)).map(|c| (n * height + row) * width + c),
                );
            }
            visit(index - first, &taps);
        }
    }
}

impl Kernels {
    /// The largest element under each window, channel by channel. Padding never wins; a window that holds
    /// padding only gives the smallest value. `parallel` as for [`Kernels::conv_float`], here and below.
    pub fn max_pool_float(self, x: &[f32], pool: PoolWindow, y: &mut [f32], parallel: bool) {
        pool.in_parts(y, parallel, |first, y| max_float(self, x, &pool, first, y));
    }

    /// The same on quantized elements: rounding keeps order, so it is the quantized result.
    pub fn max_pool_integer(self, x: &[u8], pool: PoolWindow, y: &mut [u8], parallel: bool) {
        pool.in_parts(y, parallel, |first, y| max_integer(self, x, &pool, first, y));
    }

    /// The sum under each window in f32, channel by channel, in order of rows; `divide` turns sum and number of
    /// taps into what is written.
    pub fn average_pool_float<Y: Send>(
        self,
        x: &[f32],
        pool: PoolWindow,
        y: &mut [Y],
        parallel: bool,
        divide: impl Fn(f32, usize) -> Y + Sync,
    ) {
        pool.in_parts(y, parallel, |first, y| {
            let mut sums = vec![0.0; y.len()];
            let counts = sum_floats(self, x, &pool, first, &mut sums);
            finish(&sums, &counts, y, &divide);
        });
    }

    /// The sum of `x − zero_point` under each window, exact in s32; `divide` turns sum and number of taps into what is
    /// written.
    pub fn average_pool_integer<Y: Send>(
        self,
        (x, zero_point): (&[u8], u8),
        pool: PoolWindow,
        y: &mut [Y],
        parallel: bool,
        divide: impl Fn(i32, usize) -> Y + Sync,
    ) {
        pool.in_parts(y, parallel, |first, y| {
            let mut sums = vec![0; y.len()];
            let counts = sum_integers(self, x, &pool, first, i32::from(zero_point), &mut sums);
            finish(&sums, &counts, y, &divide);
        });
    }
}

/// What is written for each sum; all channels of a pixel have one count.
fn finish<S: Copy, Y>(sums: &[S], counts: &[usize], y: &mut [Y], divide: impl Fn(S, usize) -> Y) {
    let channels = y.len() / counts.len().max(1);
    for (at, (y, &sum)) in y.iter_mut().zip(sums).enumerate() {
        *y = divide(sum, counts[at / channels]);
    }
}

/// The sum under each window; gives the number of taps of each.
#[inline(always)]
fn sum_body<X: Copy, T: Copy>(
    x: &[X],
    pool: &PoolWindow,
    first: usize,
    sums: &mut [T],
    add: impl Fn(T, X) -> T,
) -> Vec<usize> {
    let channels = pool.dims[3];
    let pixels = sums.len() / channels.max(1);
    let mut counts = Vec::with_capacity(pixels);
    pool.for_each(first, pixels, |index, taps| {
        let sums = &mut sums[index * channels..(index + 1) * channels];
        for &tap in taps {
            sums.iter_mut().zip(&x[tap * channels..]).for_each(|(s, &x)| *s = add(*s, x));
        }
        counts.push(taps.len());
    });
    counts
}

#[inline(always)]
fn sum_floats_body<S: Simd>(x: &[f32], pool: &PoolWindow, first: usize, sums: &mut [f32]) -> Vec<usize> {
    sum_body(x, pool, first, sums, |sum, x| sum + x)
}
dispatch!(fn sum_floats(x: &[f32], pool: &PoolWindow, first: usize, sums: &mut [f32]) -> Vec<usize> = sum_floats_body);

#[inline(always)]
fn sum_integers_body<S: Simd>(
    x: &[u8],
    pool: &PoolWindow,
    first: usize,
    zero_point: i32,
    sums: &mut [i32],
) -> Vec<usize> {
    sum_body(x, pool, first, sums, |sum, x| sum + i32::from(x) - zero_point)
}
dispatch!(fn sum_integers(x: &[u8], pool: &PoolWindow, first: usize, zero_point: i32, sums: &mut [i32]) -> Vec<usize> = sum_integers_body);

/// Channels whose largest elements are kept in registers while the taps pass by.
const CHANNELS: usize = 64;

#[inline(always)]
fn max_body<X: Copy + PartialOrd>(x: &[X], pool: &PoolWindow, first: usize, y: &mut [X], least: X) {
    let channels = pool.dims[3];
    let larger = |a: X, b: X| if b > a { b } else { a };
    pool.for_each(first, y.len() / channels.max(1), |index, taps| {
        let (blocks, rest) = y[index * channels..(index + 1) * channels].as_chunks_mut::<CHANNELS>();
        let whole = blocks.len() * CHANNELS;
        for (block, out) in blocks.iter_mut().enumerate() {
            let mut largest = [least; CHANNELS];
            for &tap in taps {
                let x = &x[tap * channels + block * CHANNELS..][..CHANNELS];
                for c in 0..CHANNELS {
                    largest[c] = larger(largest[c], x[c]);
                }
            }
            *out = largest;
        }
        rest.fill(least);
        for &tap in taps {
            let x = &x[tap * channels + whole..(tap + 1) * channels];
            rest.iter_mut().zip(x).for_each(|(y, &x)| *y = larger(*y, x));
        }
    });
}

#[inline(always)]
fn max_float_body<S: Simd>(x: &[f32], pool: &PoolWindow, first: usize, y: &mut [f32]) {
    max_body(x, pool, first, y, f32::NEG_INFINITY);
}
dispatch!(fn max_float(x: &[f32], pool: &PoolWindow, first: usize, y: &mut [f32]) -> () = max_float_body);

#[inline(always)]
fn max_integer_body<S: Simd>(x: &[u8], pool: &PoolWindow, first: usize, y: &mut [u8]) {
    max_body(x, pool, first, y, 0);
}
dispatch!(fn max_integer(x: &[u8], pool: &PoolWindow, first: usize, y: &mut [u8]) -> () = max_integer_body);
