//! Depthwise convolution: memory work, over vectors of channels. Windows are read in place: a tap outside the picture
//! reads a row of padding instead.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    Kernels, Output, Pictures, Simd, Weight, dispatch,
    epilogue::{Epilogue, FloatLayer, IntegerLayer, Target},
    packing::Geometry,
};
use crate::graph::Window;

pub(super) fn float(
    kernels: Kernels,
    layer: FloatLayer<'_>,
    pictures: Pictures<'_, f32>,
    out: Output<'_>,
    parallel: bool,
) {
    let geometry = layer.packed.geometry;
    run(&geometry, pictures, out, parallel, |rows, target| float_rows(kernels, &layer, pictures, rows, target));
}

pub(super) fn integer(
    kernels: Kernels,
    layer: IntegerLayer<'_>,
    pictures: Pictures<'_, u8>,
    out: Output<'_>,
    parallel: bool,
) {
    let geometry = layer.packed.geometry;
    run(&geometry, pictures, out, parallel, |rows, target| integer_rows(kernels, &layer, pictures, rows, target));
}

/// A part of the work: output rows of a picture.
struct Rows {
    picture: usize,
    rows: Range<usize>,
    /// Height and width of the whole output.
    height: usize,
    width: usize,
}

/// Runs `work` on parts that together make the whole output.
fn run<X: Copy>(
    geometry: &Geometry,
    pictures: Pictures<'_, X>,
    mut out: Output<'_>,
    parallel: bool,
    work: impl Fn(&Rows, Target) + Sync,
) {
    let [batch, height, width] = pictures.dims;
    let channels = geometry.in_channels;
    assert_eq!(pictures.x.len(), batch * height * width * channels, "elements of the pictures");
    let [height, width] = geometry.window.output_size([height, width]).unwrap_or([0, 0]);
    assert_eq!(out.len(), batch * height * width * channels, "elements of the output");
    if out.len() == 0 {
        return;
    }
    let target = out.target();
    let parts = if parallel { rayon::current_num_threads().min(height) } else { 1 };
    let rows = |index: usize| {
        let (picture, part) = (index / parts, index % parts);
        Rows { picture, rows: height * part / parts..height * (part + 1) / parts, height, width }
    };
    if batch * parts > 1 && parallel {
        (0..batch * parts).into_par_iter().with_max_len(1).for_each(|index| work(&rows(index), target));
    } else {
        (0..batch * parts).for_each(|index| work(&rows(index), target));
    }
}

/// Windows side by side.
struct Line<'a, X> {
    /// Where each tap of the first window is.
    taps: &'a [*const X],
    /// Elements from one window to the next.
    step: usize,
    windows: usize,
    /// The first output element.
    at: usize,
}

/// A depthwise convolution for one instruction set. Its methods ask of their caller what those of [`Simd`] do.
trait Depthwise<S: Simd>: Epilogue<S> {
    type X: Copy;
    type W: Copy;
    /// Taps of one product.
    const TAPS: usize;

    fn geometry(&self) -> &Geometry;
    fn packed(&self) -> &[Self::W];

    /// `start` and the sums of two vectors of channels for `P` windows: the first `at` elements behind the taps, each
    /// other `step` elements behind the last.
    unsafe fn sums<const P: usize>(
        start: [Self::Sum; 2],
        taps: &[*const Self::X],
        at: usize,
        step: usize,
        w: *const Self::W,
    ) -> [[Self::Sum; 2]; P];
}

impl<S: Simd> Depthwise<S> for FloatLayer<'_> {
    type X = f32;
    type W = f32;
    const TAPS: usize = 1;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        &self.packed.geometry
    }

    #[inline(always)]
    fn packed(&self) -> &[f32] {
        self.packed.weights.as_slice()
    }

    #[inline(always)]
    unsafe fn sums<const P: usize>(
        start: [S::F; 2],
        taps: &[*const f32],
        at: usize,
        step: usize,
        mut w: *const f32,
    ) -> [[S::F; 2]; P] {
        // SAFETY: the caller's promise: two vectors at each tap of each window, and two of weights a tap.
        unsafe {
            let mut sums = [start; P];
            for &tap in taps {
                let weights = [S::load(w), S::load(w.add(S::WIDTH))];
                for p in 0..P {
                    let x = tap.add(at + p * step);
                    sums[p][0] = S::fma(S::load(x), weights[0], sums[p][0]);
                    sums[p][1] = S::fma(S::load(x.add(S::WIDTH)), weights[1], sums[p][1]);
                }
                w = w.add(2 * S::WIDTH);
            }
            sums
        }
    }
}

impl<S: Simd> Depthwise<S> for IntegerLayer<'_> {
    type X = u8;
    type W = S::Weight;
    const TAPS: usize = S::TAPS;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        &self.packed.geometry
    }

    #[inline(always)]
    fn packed(&self) -> &[S::Weight] {
        S::Weight::unpacked(&self.packed.weights).expect("weights are packed for these kernels")
    }

    #[inline(always)]
    unsafe fn sums<const P: usize>(
        start: [S::I; 2],
        taps: &[*const u8],
        at: usize,
        step: usize,
        mut w: *const S::Weight,
    ) -> [[S::I; 2]; P] {
        // SAFETY: the caller's promise, as for f32.
        unsafe {
            let mut sums = [[S::splat_i(0); 2]; P];
            for taps in taps.chunks_exact(S::TAPS) {
                let weights = S::depthwise_weights(w);
                for p in 0..P {
                    sums[p] = S::depthwise(sums[p], taps, at + p * step, &weights);
                }
                w = w.add(2 * S::WIDTH * S::TAPS);
            }
            let mut ordered = [start; P];
            for p in 0..P {
                let [a, b] = S::depthwise_in_order(sums[p]);
                ordered[p] = [S::add_i(a, start[0]), S::add_i(b, start[1])];
            }
            ordered
        }
    }
}

/// Windows whose sums are formed together.
const WINDOWS: usize = 4;

/// The outputs of a line of windows.
///
/// # Safety
/// As for [`Simd`]: each tap of each window leads to as many elements as there are channels, and as there are lanes;
/// the outputs are inside the target, and nothing else uses them now.
#[inline(always)]
unsafe fn line_body<S: Simd, D: Depthwise<S>>(layer: &D, line: &Line<'_, D::X>, target: Target) {
    let (geometry, packed, lanes) = (layer.geometry(), layer.packed(), 2 * S::WIDTH);
    let channels = geometry.in_channels;
    let block_len = line.taps.len() * lanes;
    assert_eq!(packed.len(), channels.div_ceil(lanes) * block_len, "packed weights");
    for (block, channel) in geometry.depthwise_blocks(lanes).enumerate() {
        let lanes = lanes.min(channels);
        // SAFETY: the caller's promise; the weights are as many as are read.
        unsafe {
            let of_block = layer.channels(channel, lanes);
            let start = D::start(&of_block);
            let weights = packed.as_ptr().add(block * block_len);
            let to = line.at + channel;
            let mut window = 0;
            while window + WINDOWS <= line.windows {
                let sums = D::sums::<WINDOWS>(start, line.taps, window * line.step + channel, line.step, weights);
                D::write(&of_block, &sums, target, to + window * channels, channels, lanes);
                window += WINDOWS;
            }
            while window < line.windows {
                let sums = D::sums::<1>(start, line.taps, window * line.step + channel, line.step, weights);
                D::write(&of_block, &sums, target, to + window * channels, channels, lanes);
                window += 1;
            }
        }
    }
}

/// Output positions whose windows see no padding, along one axis.
fn inner(window: &Window, axis: usize, input: usize, output: usize) -> Range<usize> {
    let (stride, pad) = (window.stride[axis], window.pads[axis]);
    let reach = window.dilation[axis] * (window.kernel[axis] - 1) + 1;
    let first = pad.div_ceil(stride).min(output);
    let end = (input + pad).checked_sub(reach).map_or(0, |last| last / stride + 1);
    first..end.clamp(first, output)
}

#[inline(always)]
fn rows_body<S: Simd, D: Depthwise<S>>(layer: &D, pictures: Pictures<'_, D::X>, rows: &Rows, target: Target) {
    let geometry = layer.geometry();
    let (channels, lanes, window) = (geometry.in_channels, 2 * S::WIDTH, geometry.window);
    let [_, height, width] = pictures.dims;
    let mut picture =
        Cow::Borrowed(&pictures.x[rows.picture * height * width * channels..][..height * width * channels]);
    if channels < lanes {
        // The last pixels have fewer elements behind them than a tile reads.
        picture.to_mut().resize(height * width * channels + lanes, pictures.padding);
    }
    let inner = inner(&window, 1, width, rows.width);
    let step = window.stride[1] * channels;
    let reach = |windows: usize| (windows - 1) * step + channels.max(lanes);
    let outside = vec![pictures.padding; if window.pads == [0; 4] { 0 } else { reach(inner.len().max(1)) }];
    let count = geometry.taps();
    let mut taps = Vec::with_capacity(count + D::TAPS);
    for y in rows.rows.clone() {
        let edges = (0..inner.start).chain(inner.end..rows.width).map(|x| x..x + 1);
        for columns in std::iter::once(inner.clone()).chain(edges).filter(|columns| !columns.is_empty()) {
            let reach = reach(columns.len());
            taps.clear();
            for tap in 0..count {
                let (down, right) =
                    (tap / window.kernel[1] * window.dilation[0], tap % window.kernel[1] * window.dilation[1]);
                let row = (y * window.stride[0] + down).checked_sub(window.pads[0]).filter(|&row| row < height);
                let column = columns.start * window.stride[1] + right;
                let column = column.checked_sub(window.pads[1]).filter(|&column| column < width);
                let from = match (row, column) {
                    (Some(row), Some(column)) => &picture[(row * width + column) * channels..],
                    _ => &outside,
                };
                assert!(reach <= from.len(), "a window reaches outside its input");
                taps.push(from.as_ptr());
            }
            // Where products want more taps than there are, the weights are 0 and any element does.
            taps.resize(count.next_multiple_of(D::TAPS), taps[0]);
            let at = ((rows.picture * rows.height + y) * rows.width + columns.start) * channels;
            let line = Line { taps: &taps, step, windows: columns.len(), at };
            // SAFETY: S is the instruction set that this is compiled for (see `dispatch`); the taps were found to
            // reach far enough; and parts of a call write rows of their own, inside the output.
            unsafe { line_body::<S, _>(layer, &line, target) };
        }
    }
}

#[inline(always)]
fn float_rows_body<S: Simd>(layer: &FloatLayer<'_>, pictures: Pictures<'_, f32>, rows: &Rows, target: Target) {
    rows_body::<S, _>(layer, pictures, rows, target);
}
dispatch!(fn float_rows(layer: &FloatLayer<'_>, pictures: Pictures<'_, f32>, rows: &Rows, target: Target) -> () = float_rows_body);

#[inline(always)]
fn integer_rows_body<S: Simd>(layer: &IntegerLayer<'_>, pictures: Pictures<'_, u8>, rows: &Rows, target: Target) {
    rows_body::<S, _>(layer, pictures, rows, target);
}
dispatch!(fn integer_rows(layer: &IntegerLayer<'_>, pictures: Pictures<'_, u8>, rows: &Rows, target: Target) -> () = integer_rows_body);
