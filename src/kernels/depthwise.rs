//! Depthwise convolution: memory work, over vectors of channels. Windows are read in place; a copy is made only of
//! those that reach into the padding.

use std::ops::Range;

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

/// Windows side by side in one slice.
struct Line<'a, X> {
    x: &'a [X],
    /// Where the first window begins, and elements from one window to the next.
    start: usize,
    step: usize,
    /// Offsets of a window's taps from its beginning.
    taps: &'a [usize],
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

    /// `start` and the sums of two vectors of channels for `P` windows, `step` elements apart.
    unsafe fn sums<const P: usize>(
        start: [Self::Sum; 2],
        x: *const Self::X,
        step: usize,
        taps: &[usize],
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
        x: *const f32,
        step: usize,
        taps: &[usize],
        mut w: *const f32,
    ) -> [[S::F; 2]; P] {
        // SAFETY: the caller's promise: two vectors at each tap of each window, and two of weights a tap.
        unsafe {
            let mut sums = [start; P];
            for &tap in taps {
                let weights = [S::load(w), S::load(w.add(S::WIDTH))];
                for p in 0..P {
                    let x = x.add(tap + p * step);
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
        x: *const u8,
        step: usize,
        taps: &[usize],
        mut w: *const S::Weight,
    ) -> [[S::I; 2]; P] {
        // SAFETY: the caller's promise, as for f32.
        unsafe {
            let mut sums = [[S::splat_i(0); 2]; P];
            for taps in taps.chunks_exact(S::TAPS) {
                let weights = S::depthwise_weights(w);
                for p in 0..P {
                    sums[p] = S::depthwise(sums[p], x.add(p * step), taps, &weights);
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
#[inline(always)]
fn line_body<S: Simd, D: Depthwise<S>>(layer: &D, line: &Line<'_, D::X>, target: Target) {
    let (geometry, packed, lanes) = (layer.geometry(), layer.packed(), 2 * S::WIDTH);
    let channels = geometry.in_channels;
    let block_len = line.taps.len() * lanes;
    assert_eq!(packed.len(), channels.div_ceil(lanes) * block_len, "packed weights");
    let furthest = line.taps.iter().max().copied().unwrap_or(0);
    let reach = line.start + (line.windows - 1) * line.step + furthest + channels.max(lanes);
    assert!(reach <= line.x.len(), "a window reaches outside its input");
    for (block, channel) in geometry.depthwise_blocks(lanes).enumerate() {
        let lanes = lanes.min(channels);
        // SAFETY: S is the instruction set that this is compiled for (see `dispatch`); the reads were found to be
        // inside the input and the weights above; and parts of a call write rows of their own, inside the output.
        unsafe {
            let of_block = layer.channels(channel, lanes);
            let start = D::start(&of_block);
            let weights = packed.as_ptr().add(block * block_len);
            let x = line.x.as_ptr().add(line.start + channel);
            let at = line.at + channel;
            let mut window = 0;
            while window + WINDOWS <= line.windows {
                let sums = D::sums::<WINDOWS>(start, x.add(window * line.step), line.step, line.taps, weights);
                D::write(&of_block, &sums, target, at + window * channels, channels, lanes);
                window += WINDOWS;
            }
            while window < line.windows {
                let sums = D::sums::<1>(start, x.add(window * line.step), line.step, line.taps, weights);
                D::write(&of_block, &sums, target, at + window * channels, channels, lanes);
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
    let picture = &pictures.x[rows.picture * height * width * channels..][..height * width * channels];
    let count = geometry.taps();
    let places =
        |tap: usize| [tap / window.kernel[1] * window.dilation[0], tap % window.kernel[1] * window.dilation[1]];
    // Where products want more taps than there are, the weights are 0 and any element does.
    let taps = |offset: &dyn Fn(usize) -> usize| -> Vec<usize> {
        (0..count.next_multiple_of(D::TAPS)).map(|tap| if tap < count { offset(tap) } else { offset(0) }).collect()
    };
    let taps_in_place = taps(&|tap| (places(tap)[0] * width + places(tap)[1]) * channels);
    // In a copied window a pixel is wide enough for a tile.
    let wide = channels.max(lanes);
    let taps_of_copy = taps(&|tap| tap * wide);
    let mut copy = vec![pictures.padding; count * wide];

    let mut inner_rows = inner(&window, 0, height, rows.height);
    if channels < lanes {
        inner_rows = 0..0;
    }
    let inner_columns = inner(&window, 1, width, rows.width);
    for y in rows.rows.clone() {
        let at = (rows.picture * rows.height + y) * rows.width * channels;
        let inner = if inner_rows.contains(&y) { inner_columns.clone() } else { 0..0 };
        if !inner.is_empty() {
            let top = y * window.stride[0] - window.pads[0];
            let left = inner.start * window.stride[1] - window.pads[1];
            let line = Line {
                x: picture,
                start: (top * width + left) * channels,
                step: window.stride[1] * channels,
                taps: &taps_in_place,
                windows: inner.len(),
                at: at + inner.start * channels,
            };
            line_body::<S, _>(layer, &line, target);
        }
        for x in (0..inner.start).chain(inner.end..rows.width) {
            for (tap, to) in copy.chunks_exact_mut(wide).enumerate() {
                let [down, right] = places(tap);
                let row = (y * window.stride[0] + down).checked_sub(window.pads[0]).filter(|&row| row < height);
                let column = (x * window.stride[1] + right).checked_sub(window.pads[1]).filter(|&c| c < width);
                match (row, column) {
                    (Some(row), Some(column)) => {
                        let pixel = (row * width + column) * channels;
                        to[..channels].copy_from_slice(&picture[pixel..pixel + channels]);
                    }
                    _ => to.fill(pictures.padding),
                }
            }
            let line = Line { x: &copy, start: 0, step: 0, taps: &taps_of_copy, windows: 1, at: at + x * channels };
            line_body::<S, _>(layer, &line, target);
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
