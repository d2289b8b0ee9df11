//! Pooling on NHWC pictures, vectorized over channels.

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

    /// Calls `visit` with the index of each output pixel and its taps' input pixels, in order of rows; taps in
    /// the padding are left out.
    #[inline(always)]
    fn for_each(&self, mut visit: impl FnMut(usize, &[usize])) {
        let [batch, height, width, _] = self.dims;
        let [out_height, out_width] = self.out();
        let Window { kernel, stride, dilation, pads } = self.window;
        let mut taps = Vec::with_capacity(kernel[0] * kernel[1]);
        let along = |at: usize, k: usize, axis: usize, size: usize| {
            (at * stride[axis] + k * dilation[axis]).checked_sub(pads[axis]).filter(|&i| i < size)
        };
        for index in 0..batch * out_height * out_width {
            let (n, y, x) = (index / (out_height * out_width), index / out_width % out_height, index % out_width);
            taps.clear();
            for row in (0..kernel[0]).filter_map(|k| along(y, k, 0, height)) {
                taps.extend(
                    (0..kernel[1]).filter_map(|k| along(x, k, 1, width)).map(|c| (n * height + row) * width + c),
                );
            }
            visit(index, &taps);
        }
    }
}

impl Kernels {
    /// The largest element under each window, channel by channel. Padding never wins; a window that holds
    /// padding only gives the smallest value.
    pub fn max_pool_float(self, x: &[f32], pool: PoolWindow, y: &mut [f32]) {
        max_float(self, x, &pool, y);
    }

    /// The same on quantized elements: rounding keeps order, so it is the quantized result.
    pub fn max_pool_integer(self, x: &[u8], pool: PoolWindow, y: &mut [u8]) {
        max_integer(self, x, &pool, y);
    }

    /// The sum under each window in f32, channel by channel, in order of rows; `divide` turns sum and number of
    /// taps into what is written.
    pub fn average_pool_float<Y>(self, x: &[f32], pool: PoolWindow, y: &mut [Y], divide: impl Fn(f32, usize) -> Y) {
        let mut sums = vec![0.0; y.len()];
        let counts = sum_floats(self, x, &pool, &mut sums);
        finish(&sums, &counts, y, divide);
    }

    /// The sum of `x − zero_point` under each window, exact in s32; `divide` turns sum and number of taps into what is
    /// written.
    pub fn average_pool_integer<Y>(
        self,
        x: &[u8],
        zero_point: u8,
        pool: PoolWindow,
        y: &mut [Y],
        divide: impl Fn(i32, usize) -> Y,
    ) {
        let mut sums = vec![0; y.len()];
        let counts = sum_integers(self, x, &pool, i32::from(zero_point), &mut sums);
        finish(&sums, &counts, y, divide);
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
fn sum_body<X: Copy, T: Copy>(x: &[X], pool: &PoolWindow, sums: &mut [T], add: impl Fn(T, X) -> T) -> Vec<usize> {
    let channels = pool.dims[3];
    let mut counts = Vec::with_capacity(sums.len() / channels.max(1));
    pool.for_each(|index, taps| {
        let sums = &mut sums[index * channels..(index + 1) * channels];
        for &tap in taps {
            sums.iter_mut().zip(&x[tap * channels..]).for_each(|(s, &x)| *s = add(*s, x));
        }
        counts.push(taps.len());
    });
    counts
}

#[inline(always)]
fn sum_floats_body<S: Simd>(x: &[f32], pool: &PoolWindow, sums: &mut [f32]) -> Vec<usize> {
    sum_body(x, pool, sums, |sum, x| sum + x)
}
dispatch!(fn sum_floats(x: &[f32], pool: &PoolWindow, sums: &mut [f32]) -> Vec<usize> = sum_floats_body);

#[inline(always)]
fn sum_integers_body<S: Simd>(x: &[u8], pool: &PoolWindow, zero_point: i32, sums: &mut [i32]) -> Vec<usize> {
    sum_body(x, pool, sums, |sum, x| sum + i32::from(x) - zero_point)
}
dispatch!(fn sum_integers(x: &[u8], pool: &PoolWindow, zero_point: i32, sums: &mut [i32]) -> Vec<usize> = sum_integers_body);

#[inline(always)]
fn max_body<X: Copy + PartialOrd>(x: &[X], pool: &PoolWindow, y: &mut [X], least: X) {
    let channels = pool.dims[3];
    pool.for_each(|index, taps| {
        let out = &mut y[index * channels..(index + 1) * channels];
        out.fill(least);
        for &tap in taps {
            let x = &x[tap * channels..(tap + 1) * channels];
            out.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
        }
    });
}

#[inline(always)]
fn max_float_body<S: Simd>(x: &[f32], pool: &PoolWindow, y: &mut [f32]) {
    max_body(x, pool, y, f32::NEG_INFINITY);
}
dispatch!(fn max_float(x: &[f32], pool: &PoolWindow, y: &mut [f32]) -> () = max_float_body);

#[inline(always)]
fn max_integer_body<S: Simd>(x: &[u8], pool: &PoolWindow, y: &mut [u8]) {
    max_body(x, pool, y, 0);
}
dispatch!(fn max_integer(x: &[u8], pool: &PoolWindow, y: &mut [u8]) -> () = max_integer_body);
