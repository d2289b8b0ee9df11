//! Convolution and linear layers: direct, without im2col, over register tiles of pixels × channels.

use std::borrow::Cow;

use rayon::prelude::*;

use super::{
    Kernels, LANES, PIXELS, PackedFloat, PackedInteger, Tile, depthwise, dispatch, packing::Geometry, reference,
};
use crate::quant::Affine;

/// Where a kernel writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32 elements.
    Float(&'a mut [f32]),
    /// Quantized elements.
    Quantized(&'a mut [u8]),
}

/// What a convolution reads: a batch of pictures, channels last.
#[derive(Clone, Copy, Debug)]
pub struct Pictures<'a, T> {
    /// `x[batch][height][width][channel]`.
    pub x: &'a [T],
    /// Batch, height and width.
    pub dims: [usize; 3],
    /// What the window sees outside a picture: 0, or the zero point of integers.
    pub padding: T,
}

/// What happens to an f32 sum: bias is added, the result clipped, and quantized when the output is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatEpilogue {
    /// Lower bound.
    pub min: f32,
    /// Upper bound.
    pub max: f32,
    /// The grid of a quantized output.
    pub grid: Option<Affine>,
}

/// What happens to an s32 sum: `q = clamp(rne(f32(sum + constant) · multiplier) + zero_point)`, written as is or
/// dequantized.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerEpilogue {
    /// One a channel: bias in steps of `s_x·s_w`, less the input's zero point times the sum of weights.
    pub constants: Vec<i32>,
    /// One a channel: `f32(s_x·s_w / s_y)`.
    pub multipliers: Vec<f32>,
    /// The grid of the output.
    pub grid: Affine,
    /// Smallest integer written; above `quant_min` where an activation clips.
    pub low: u8,
    /// Largest integer written.
    pub high: u8,
}

impl FloatEpilogue {
    /// `min(max(x, min), max)`; a NaN becomes `min`.
    #[inline(always)]
    pub fn clip(&self, x: f32) -> f32 {
        let x = if x > self.min { x } else { self.min };
        if x < self.max { x } else { self.max }
    }
}

impl IntegerEpilogue {
    /// Writes one pixel's sums from `channel` on. `eight` and `one` get quantized results less their zero point:
    /// integers as f32, where 0 may be -0.
    #[inline(always)]
    fn put<K: Tile, Y>(
        &self,
        channel: usize,
        sums: &[i32],
        out: &mut [Y],
        eight: impl Fn([f32; 8]) -> [Y; 8],
        one: impl Fn(f32) -> Y,
    ) {
        let range = channel..channel + sums.len();
        let (constants, constants_rest) = self.constants[range.clone()].as_chunks();
        let (multipliers, multipliers_rest) = self.multipliers[range].as_chunks();
        let (sums, sums_rest) = sums.as_chunks();
        let (out, out_rest) = out.as_chunks_mut();
        let zero_point = f32::from(self.grid.zero_point);
        let (low, high) = (f32::from(self.low) - zero_point, f32::from(self.high) - zero_point);
        for (((y, s), c), m) in out.iter_mut().zip(sums).zip(constants).zip(multipliers) {
            // SAFETY: K's instruction set is the one this function is compiled for (see `dispatch`).
            *y = eight(unsafe { K::steps(s, c, m, low, high) });
        }
        for (((y, &s), &c), &m) in out_rest.iter_mut().zip(sums_rest).zip(constants_rest).zip(multipliers_rest) {
            *y = one(reference::steps(s, c, m, low, high));
        }
    }
}

/// `y = f(a, b)` of every element, all of one length. Eight results are formed before they are written: the compiler
/// cannot know that `y` is apart from the other slices, and would else take one element at a time.
#[inline(always)]
fn by_eights<Y>(y: &mut [Y], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> Y) {
    let (y, y_rest) = y.as_chunks_mut::<8>();
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
        *y = std::array::from_fn(|i| f(a[i], b[i]));
    }
    for ((y, &a), &b) in y_rest.iter_mut().zip(a_rest).zip(b_rest) {
        *y = f(a, b);
    }
}

/// A part of an output, by the pixels and channels it begins at.
pub(super) trait Sink<T: Copy>: Send {
    /// Writes one pixel's sums for the channels from `channel` on; `pixel` counts within this part.
    fn put<K: Tile>(&mut self, pixel: usize, channel: usize, sums: &[T]);
}

pub(super) struct FloatToFloat<'a>(pub &'a mut [f32], pub &'a [f32], pub FloatEpilogue);
pub(super) struct FloatToQuantized<'a>(pub &'a mut [u8], pub &'a [f32], pub FloatEpilogue, pub Affine);
pub(super) struct IntegerToFloat<'a>(pub &'a mut [f32], pub &'a IntegerEpilogue);
pub(super) struct IntegerToQuantized<'a>(pub &'a mut [u8], pub &'a IntegerEpilogue);

impl Sink<f32> for FloatToFloat<'_> {
    #[inline(always)]
    fn put<K: Tile>(&mut self, pixel: usize, channel: usize, sums: &[f32]) {
        let bias = &self.1[channel..channel + sums.len()];
        let out = &mut self.0[pixel * self.1.len() + channel..][..sums.len()];
        by_eights(out, sums, bias, |sum, bias| self.2.clip(sum + bias));
    }
}

impl Sink<f32> for FloatToQuantized<'_> {
    #[inline(always)]
    fn put<K: Tile>(&mut self, pixel: usize, channel: usize, sums: &[f32]) {
        let bias = &self.1[channel..channel + sums.len()];
        let out = &mut self.0[pixel * self.1.len() + channel..][..sums.len()];
        by_eights(out, sums, bias, |sum, bias| self.3.quantize(self.2.clip(sum + bias)));
    }
}

impl Sink<i32> for IntegerToFloat<'_> {
    #[inline(always)]
    fn put<K: Tile>(&mut self, pixel: usize, channel: usize, sums: &[i32]) {
        let epilogue = self.1;
        let out = &mut self.0[pixel * epilogue.constants.len() + channel..][..sums.len()];
        // Adding 0 turns -0 into 0: a small negative sum is the zero point, which dequantizes to 0.
        let dequantize = |steps: f32| (steps + 0.0) * epilogue.grid.scale;
        epilogue.put::<K, _>(channel, sums, out, |steps| steps.map(dequantize), dequantize);
    }
}

impl Sink<i32> for IntegerToQuantized<'_> {
    #[inline(always)]
    fn put<K: Tile>(&mut self, pixel: usize, channel: usize, sums: &[i32]) {
        let epilogue = self.1;
        let out = &mut self.0[pixel * epilogue.constants.len() + channel..][..sums.len()];
        let zero_point = f32::from(epilogue.grid.zero_point);
        // SAFETY: K's instruction set is the one this function is compiled for (see `dispatch`).
        let eight = |steps| unsafe { K::stored(steps, zero_point) };
        epilogue.put::<K, _>(channel, sums, out, eight, |steps| reference::stored(steps, zero_point));
    }
}

/// A picture, or several, as kernels see it.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    x: &'a [T],
    /// Elements from one row, pixel to the next.
    row: usize,
    pixel: usize,
}

/// One call's work on one part of the output pixels of one picture.
struct Part<'a, T> {
    geometry: &'a Geometry,
    input: Input<'a, T>,
    weights: &'a [T],
    /// Input channels of a group as packed.
    channels: usize,
    /// Offsets of the window's taps.
    taps: &'a [usize],
    out_width: usize,
    first: usize,
    count: usize,
}

impl<T> Part<'_, T> {
    /// Where the window of each output pixel begins.
    fn bases(&self) -> Vec<usize> {
        let [down, right] = self.geometry.window.stride;
        let (mut y, mut x) = (self.first / self.out_width, self.first % self.out_width);
        let mut next = || {
            let base = y * down * self.input.row + x * right * self.input.pixel;
            (y, x) = if x + 1 == self.out_width { (y + 1, 0) } else { (y, x + 1) };
            base
        };
        (0..self.count).map(|_| next()).collect()
    }

    /// Panics unless every read of this part, from windows at `bases`, is inside its input and weights.
    fn check(&self, bases: &[usize]) {
        let last_group = (self.geometry.groups - 1) * self.geometry.in_per_group();
        let furthest = |offsets: &[usize]| offsets.iter().max().copied().unwrap_or(0);
        let reach = furthest(bases) + furthest(self.taps) + last_group + self.channels;
        assert!(reach <= self.input.x.len(), "a window reaches outside its input");
        let blocks = self.geometry.groups * self.geometry.blocks();
        assert_eq!(self.weights.len(), blocks * self.geometry.block_len(self.channels));
    }
}

/// What differs between f32 and integer tiles.
trait Element: Copy + Send + Sync + Default {
    type Sum: Copy + Send;
    /// # Safety
    /// As for [`Tile::float`].
    unsafe fn tile<K: Tile, const P: usize>(
        x: &[Self],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[Self],
    ) -> [[Self::Sum; LANES]; P];
}

impl Element for f32 {
    type Sum = f32;
    #[inline(always)]
    unsafe fn tile<K: Tile, const P: usize>(
        x: &[f32],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[f32],
    ) -> [[f32; LANES]; P] {
        // SAFETY: the caller's promises are the same.
        unsafe { K::float(x, bases, taps, channels, w) }
    }
}

impl Element for i16 {
    type Sum = i32;
    #[inline(always)]
    unsafe fn tile<K: Tile, const P: usize>(
        x: &[i16],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[i16],
    ) -> [[i32; LANES]; P] {
        // SAFETY: the caller's promises are the same.
        unsafe { K::integer(x, bases, taps, channels, w) }
    }
}

/// All output channels of one part: weight blocks outside, so that a block stays in cache over the pixels.
#[inline(always)]
fn part_body<K: Tile, T: Element, S: Sink<T::Sum>>(part: &Part<'_, T>, sink: &mut S) {
    let all_bases = part.bases();
    part.check(&all_bases);
    let geometry = part.geometry;
    for group in 0..geometry.groups {
        for block in 0..geometry.blocks() {
            let at = (group * geometry.blocks() + block) * geometry.block_len(part.channels);
            let weights = &part.weights[at..at + geometry.block_len(part.channels)];
            let within = block * LANES;
            let lanes = LANES.min(geometry.out_per_group() - within);
            let channel = group * geometry.out_per_group() + within;
            let offset = group * geometry.in_per_group();
            let mut pixel = 0;
            while pixel < part.count {
                let left = part.count - pixel;
                macro_rules! tile {
                    ($p:literal) => {{
                        let bases: [usize; $p] = std::array::from_fn(|i| all_bases[pixel + i] + offset);
                        // SAFETY: `check` has found all reads of this part inside x and the weights, and K's
                        // instruction set is the one this function is compiled for (see `dispatch`).
                        let sums = unsafe { T::tile::<K, $p>(part.input.x, &bases, part.taps, part.channels, weights) };
                        for (i, sums) in sums.iter().enumerate() {
                            // The full tile apart, so that its length is known where it is compiled.
                            if lanes == LANES {
                                sink.put::<K>(pixel + i, channel, sums);
                            } else {
                                sink.put::<K>(pixel + i, channel, &sums[..lanes]);
                            }
                        }
                        pixel += $p;
                    }};
                }
                match left {
                    1 => tile!(1),
                    2 => tile!(2),
                    3 => tile!(3),
                    4 => tile!(4),
                    5 => tile!(5),
                    _ => tile!(6),
                }
            }
        }
    }
}

#[inline(always)]
fn float_to_float_body<K: Tile>(part: &Part<'_, f32>, sink: &mut FloatToFloat<'_>) {
    part_body::<K, f32, _>(part, sink);
}
#[inline(always)]
fn float_to_quantized_body<K: Tile>(part: &Part<'_, f32>, sink: &mut FloatToQuantized<'_>) {
    part_body::<K, f32, _>(part, sink);
}
#[inline(always)]
fn integer_to_float_body<K: Tile>(part: &Part<'_, i16>, sink: &mut IntegerToFloat<'_>) {
    part_body::<K, i16, _>(part, sink);
}
#[inline(always)]
fn integer_to_quantized_body<K: Tile>(part: &Part<'_, i16>, sink: &mut IntegerToQuantized<'_>) {
    part_body::<K, i16, _>(part, sink);
}
dispatch!(fn float_to_float(part: &Part<'_, f32>, sink: &mut FloatToFloat<'_>) = float_to_float_body);
dispatch!(fn float_to_quantized(part: &Part<'_, f32>, sink: &mut FloatToQuantized<'_>) = float_to_quantized_body);
dispatch!(fn integer_to_float(part: &Part<'_, i16>, sink: &mut IntegerToFloat<'_>) = integer_to_float_body);
dispatch!(fn integer_to_quantized(part: &Part<'_, i16>, sink: &mut IntegerToQuantized<'_>) = integer_to_quantized_body);

/// Copies one picture `[height, width, channels]` into the middle of one filled with `fill`, `pads` larger.
/// `slack` more elements follow, so that packed reads past the last channel stay inside.
#[inline(always)]
pub(super) fn pad<T: Copy, U: Copy>(
    x: &[T],
    [height, width, channels]: [usize; 3],
    pads: [usize; 4],
    fill: U,
    slack: usize,
    convert: impl Fn(T) -> U,
) -> Vec<U> {
    let [top, left, bottom, right] = pads;
    let row = (left + width + right) * channels;
    let mut padded = Vec::with_capacity((top + height + bottom) * row + slack);
    padded.resize(top * row, fill);
    for line in x.chunks_exact((width * channels).max(1)).take(height) {
        padded.resize(padded.len() + left * channels, fill);
        padded.extend(line.iter().map(|&v| convert(v)));
        padded.resize(padded.len() + right * channels, fill);
    }
    padded.resize(padded.len() + bottom * row + slack, fill);
    padded
}

/// Elements of input that one part should read, so that they stay in the L2 cache while all weights pass.
const PART_ELEMENTS: usize = 48 * 1024;

impl Kernels {
    /// Convolution of a batch of pictures in f32:
    /// `y = clip(Σ x·w + bias)`, each output one chain of fused multiply-adds over taps (row by row) and input
    /// channels, then the bias. Layout: `y[batch][height'][width'][out]`. `parallel` spreads the pixels over the
    /// current rayon pool; it changes no bit.
    ///
    /// # Panics
    /// When a slice has another length than the geometry says; the engine has checked shapes before.
    pub fn conv_float(
        self,
        packed: &PackedFloat,
        pictures: Pictures<'_, f32>,
        epilogue: FloatEpilogue,
        out: Output<'_>,
        parallel: bool,
    ) {
        let geometry = &packed.geometry;
        if geometry.is_depthwise() {
            return depthwise::float(self, packed, pictures, epilogue, out, parallel);
        }
        let pads = geometry.window.pads;
        let [_, height, width] = pictures.dims;
        let call = Call { geometry, dims: pictures.dims, channels: geometry.in_per_group(), parallel };
        call.run(
            pictures.x,
            &packed.weights,
            out,
            |picture| match pads {
                [0, 0, 0, 0] => Cow::Borrowed(picture),
                _ => Cow::Owned(pad(picture, [height, width, geometry.in_channels], pads, pictures.padding, 0, |v| v)),
            },
            |part, out| match (out, epilogue.grid) {
                (Output::Float(y), _) => float_to_float(self, part, &mut FloatToFloat(y, &packed.bias, epilogue)),
                (Output::Quantized(y), Some(grid)) => {
                    float_to_quantized(self, part, &mut FloatToQuantized(y, &packed.bias, epilogue, grid));
                }
                (Output::Quantized(_), None) => panic!("a quantized output needs a grid"),
            },
        );
    }

    /// Convolution of a batch of pictures in integers: u8 × s8 → s32, exact, then the epilogue. Layout as for
    /// [`Kernels::conv_float`].
    ///
    /// # Panics
    /// When a slice has another length than the geometry says; the engine has checked shapes before.
    pub fn conv_integer(
        self,
        packed: &PackedInteger,
        pictures: Pictures<'_, u8>,
        epilogue: &IntegerEpilogue,
        out: Output<'_>,
        parallel: bool,
    ) {
        let geometry = &packed.geometry;
        if geometry.is_depthwise() {
            return depthwise::integer(self, packed, pictures, epilogue, out, parallel);
        }
        // Products of 16-bit pairs need the input in s16; a pair that reaches past a group's last channel
        // meets a weight of zero.
        let channels = geometry.in_per_group().next_multiple_of(2);
        let fill = i16::from(pictures.padding);
        let [_, height, width] = pictures.dims;
        let call = Call { geometry, dims: pictures.dims, channels, parallel };
        call.run(
            pictures.x,
            &packed.tiled,
            out,
            |picture| {
                // A pointwise call sees all its pixels as one row.
                let pixels = picture.len() / geometry.in_channels;
                let dims = if geometry.is_pointwise() { [1, pixels] } else { [height, width] };
                let dims = [dims[0], dims[1], geometry.in_channels];
                Cow::Owned(pad(picture, dims, geometry.window.pads, fill, 1, i16::from))
            },
            |part, out| match out {
                Output::Float(y) => integer_to_float(self, part, &mut IntegerToFloat(y, epilogue)),
                Output::Quantized(y) => integer_to_quantized(self, part, &mut IntegerToQuantized(y, epilogue)),
            },
        );
    }
}

/// One convolution over a batch, cut into parts.
struct Call<'a> {
    geometry: &'a Geometry,
    dims: [usize; 3],
    channels: usize,
    parallel: bool,
}

impl Call<'_> {
    /// Runs `work` on every part. `prepare` turns a picture into what tiles read, or leaves it as it is.
    fn run<X: Copy + Sync, T: Element>(
        &self,
        x: &[X],
        weights: &[T],
        mut out: Output<'_>,
        prepare: impl for<'p> Fn(&'p [X]) -> Cow<'p, [T]>,
        work: impl Fn(&Part<'_, T>, Output<'_>) + Sync,
    ) {
        let geometry = self.geometry;
        let [mut batch, mut height, mut width] = self.dims;
        if geometry.is_pointwise() && geometry.window.stride == [1, 1] {
            // Pixels do not see each other: all pictures are one row.
            (batch, height, width) = (1, 1, batch * height * width);
        }
        let Some([out_height, out_width]) = geometry.window.output_size([height, width]) else { return };
        let pads = geometry.window.pads;
        let (picture, pixels) = (height * width * geometry.in_channels, out_height * out_width);
        let row = (width + pads[1] + pads[3]) * geometry.in_channels;
        let window = geometry.window;
        let taps: Vec<usize> = (0..geometry.taps())
            .map(|t| {
                let (y, x) = (t / window.kernel[1] * window.dilation[0], t % window.kernel[1] * window.dilation[1]);
                y * row + x * geometry.in_channels
            })
            .collect();
        let per_pixel = geometry.in_channels * window.stride[0] * window.stride[1];
        let mut part = (PART_ELEMENTS / per_pixel.max(1)).clamp(8 * PIXELS, 4096).next_multiple_of(PIXELS);
        if self.parallel {
            let share = pixels.div_ceil(rayon::current_num_threads());
            part = part.min(share.next_multiple_of(PIXELS)).max(PIXELS);
        }
        let per_part = part * geometry.out_channels;
        for n in 0..batch {
            let source = &x[n * picture..(n + 1) * picture];
            let prepared = prepare(source);
            let input = Input { x: &prepared, row, pixel: geometry.in_channels };
            let size = n * pixels * geometry.out_channels..(n + 1) * pixels * geometry.out_channels;
            let run = |index: usize, out: Output<'_>| {
                let first = index * part;
                let count = part.min(pixels - first);
                work(
                    &Part { geometry, input, weights, channels: self.channels, taps: &taps, out_width, first, count },
                    out,
                );
            };
            match (&mut out, self.parallel) {
                (Output::Float(y), false) => {
                    y[size].chunks_mut(per_part).enumerate().for_each(|(i, y)| run(i, Output::Float(y)));
                }
                (Output::Quantized(y), false) => {
                    y[size].chunks_mut(per_part).enumerate().for_each(|(i, y)| run(i, Output::Quantized(y)));
                }
                (Output::Float(y), true) => {
                    y[size].par_chunks_mut(per_part).enumerate().for_each(|(i, y)| run(i, Output::Float(y)));
                }
                (Output::Quantized(y), true) => {
                    y[size].par_chunks_mut(per_part).enumerate().for_each(|(i, y)| run(i, Output::Quantized(y)));
                }
            }
        }
    }
}
