//! Pooling on NHWC pictures, vectorized over channels.

use std::ops::Range;

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

    /// Taps along an axis that are inside the picture.
    #[inline(always)]
    fn inside(&self, at: usize, axis: usize) -> Range<usize> {
        let Window { kernel, stride, dilation, pads } = self.window;
        let (start, size) = (at * stride[axis], self.dims[axis + 1] + pads[axis]);
        let first = pads[axis].saturating_sub(start).div_ceil(dilation[axis]).min(kernel[axis]);
        let end = size.saturating_sub(start).div_ceil(dilation[axis]).min(kernel[axis]);
        first..end.max(first)
    }
}

/// Goes through the windows of output pixels, counted from 0.
struct Windows<'a> {
    pool: &'a PoolWindow,
    /// Taps inside the picture, of each output row and of each output column.
    rows: Vec<Range<usize>>,
    columns: Vec<Range<usize>>,
    /// Picture, row and column of the next one.
    at: [usize; 3],
}

impl<'a> Windows<'a> {
    /// From this output pixel on.
    fn new(pool: &'a PoolWindow, first: usize) -> Windows<'a> {
        let [height, width] = pool.out();
        let rows = (0..height).map(|y| pool.inside(y, 0)).collect();
        let columns = (0..width).map(|x| pool.inside(x, 1)).collect();
        let row = first / width.max(1);
        let at = [row / height.max(1), row % height.max(1), first % width.max(1)];
        Windows { pool, rows, columns, at }
    }

    /// The input pixels under the next window, in order of rows; taps in the padding are left out.
    #[inline(always)]
    fn next(&mut self, taps: &mut Vec<usize>) {
        let Window { stride, dilation, pads, .. } = self.pool.window;
        let [_, height, width, _] = self.pool.dims;
        let [n, y, x] = self.at;
        taps.clear();
        for row in self.rows[y].clone() {
            let row = (n * height + y * stride[0] + row * dilation[0] - pads[0]) * width;
            for column in self.columns[x].clone() {
                taps.push(row + x * stride[1] + column * dilation[1] - pads[1]);
            }
        }
        self.at[2] += 1;
        if self.at[2] == self.columns.len() {
            self.at = if y + 1 == self.rows.len() { [n + 1, 0, 0] } else { [n, y + 1, 0] };
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

/// Defines the sum under each window, which gives the number of taps of each. Not a generic function of a closure: that
/// would not be compiled for the instruction set.
macro_rules! sum_body {
    ($name:ident, $x:ty, $sum:ty, $($zero_point:ident)?, |$s:ident, $v:ident| $add:expr) => {
        #[inline(always)]
        fn $name<S: Simd>(
            x: &[$x],
            pool: &PoolWindow,
            first: usize,
            $($zero_point: i32,)?
            sums: &mut [$sum],
        ) -> Vec<usize> {
            let channels = pool.dims[3];
            let pixels = sums.len() / channels.max(1);
            let mut windows = Windows::new(pool, first);
            let (mut counts, mut taps) = (Vec::with_capacity(pixels), Vec::new());
            for index in 0..pixels {
                windows.next(&mut taps);
                let sums = &mut sums[index * channels..(index + 1) * channels];
                for &tap in &taps {
                    for ($s, &$v) in sums.iter_mut().zip(&x[tap * channels..]) {
                        *$s = $add;
                    }
                }
                counts.push(taps.len());
            }
            counts
        }
    };
}

sum_body!(sum_floats_body, f32, f32, , |sum, x| *sum + x);
dispatch!(fn sum_floats(x: &[f32], pool: &PoolWindow, first: usize, sums: &mut [f32]) -> Vec<usize> = sum_floats_body);

sum_body!(sum_integers_body, u8, i32, zero_point, |sum, x| *sum + i32::from(x) - zero_point);
dispatch!(fn sum_integers(x: &[u8], pool: &PoolWindow, first: usize, zero_point: i32, sums: &mut [i32]) -> Vec<usize> = sum_integers_body);

/// Channels whose largest elements are kept in registers while the taps pass by.
const CHANNELS: usize = 64;

#[inline(always)]
fn max_body<X: Copy + PartialOrd>(x: &[X], pool: &PoolWindow, first: usize, y: &mut [X], least: X) {
    let channels = pool.dims[3];
    let whole = channels / CHANNELS * CHANNELS;
    let mut windows = Windows::new(pool, first);
    let mut taps = Vec::with_capacity(pool.window.kernel[0] * pool.window.kernel[1]);
    for index in 0..y.len() / channels.max(1) {
        windows.next(&mut taps);
        let y = &mut y[index * channels..(index + 1) * channels];
        for block in (0..whole).step_by(CHANNELS) {
            let mut largest = [least; CHANNELS];
            for &tap in &taps {
                let x = &x[tap * channels + block..][..CHANNELS];
                for c in 0..CHANNELS {
                    largest[c] = if x[c] > largest[c] { x[c] } else { largest[c] };
                }
            }
            y[block..block + CHANNELS].copy_from_slice(&largest);
        }
        let rest = &mut y[whole..];
        rest.fill(least);
        for &tap in &taps {
            for (y, &x) in rest.iter_mut().zip(&x[tap * channels + whole..(tap + 1) * channels]) {
                *y = if x > *y { x } else { *y };
            }
        }
    }
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
