//! Convolution and linear layers: direct, without im2col, over register tiles of pixels × channels.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    Activation, FloatEpilogue, FloatResidual, Form, IntegerEpilogue, IntegerResidual, Kernels, Output, PackedFloat,
    PackedInteger, Simd, Weight, depthwise, dispatch,
    epilogue::{Epilogue, FloatChannels, FloatLayer, IntegerChannels, IntegerLayer, Target},
    packing::Geometry,
    windows::{self, Area, Class, Run},
};
#[cfg(target_arch = "x86_64")]
use super::{packing::Integers, paired, paired::PairedConv};

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

impl Kernels {
    /// Convolution of a batch of pictures in f32:
    /// `y = clip(Σ x·w + bias)`, each output one chain of fused multiply-adds over taps (row by row) and input
    /// channels, then the bias. Layout: `y[batch][height'][width'][out]`. A residual is added to that before it is
    /// written. `parallel` spreads the work over the current rayon pool; it changes no bit.
    ///
    /// # Panics
    /// When a slice has another length than the geometry says, or the weights were packed for other kernels; the
    /// engine has checked shapes before.
    pub fn conv_float(
        self,
        packed: &PackedFloat,
        pictures: Pictures<'_, f32>,
        epilogue: FloatEpilogue,
        residual: Option<FloatResidual<'_>>,
        out: Output<'_>,
        parallel: bool,
    ) {
        let layer = self.float_layer(packed, epilogue, residual.as_ref(), &out);
        if packed.geometry.is_depthwise() {
            return depthwise::float(self, layer, pictures, out, parallel);
        }
        let bytes = size_of_val(packed.weights.as_slice());
        let dense = FloatConv::<false> { layer, shape: Shape::new(&packed.geometry, pictures), x: pictures };
        dense.shape.run(self, bytes, out, parallel, |part, target| float_part(self, &dense, part, target));
    }

    /// As [`Kernels::conv_float`], with a chain for each input channel, and the chains added in their order: as MLAS, and so
    /// ONNX Runtime, does on x86-64 where channels are fewer than the lanes of a vector. For convolutions without groups.
    ///
    /// # Panics
    /// As for [`Kernels::conv_float`], and where there are groups.
    pub fn conv_float_by_channel(
        self,
        packed: &PackedFloat,
        pictures: Pictures<'_, f32>,
        epilogue: FloatEpilogue,
        out: Output<'_>,
        parallel: bool,
    ) {
        assert_eq!(packed.geometry.groups, 1, "chains are of one group");
        let layer = self.float_layer(packed, epilogue, None, &out);
        let bytes = size_of_val(packed.weights.as_slice());
        let dense = FloatConv::<true> { layer, shape: Shape::new(&packed.geometry, pictures), x: pictures };
        dense.shape.run(self, bytes, out, parallel, |part, target| by_channel_part(self, &dense, part, target));
    }

    fn float_layer<'a>(
        self,
        packed: &'a PackedFloat,
        epilogue: FloatEpilogue,
        residual: Option<&'a FloatResidual<'a>>,
        out: &Output<'_>,
    ) -> FloatLayer<'a> {
        assert_eq!(self, packed.kernels, "weights are packed for other kernels");
        assert!(epilogue.grid.is_some() || matches!(out, Output::Float(_)), "a quantized output needs a grid");
        assert!(residual.is_none_or(|r| r.x.len() == out.len()), "elements of the residual");
        FloatLayer { packed, epilogue, residual }
    }

    /// Convolution of a batch of pictures in integers: u8 × s8 → s32, exact, then the epilogue. Layout as for
    /// [`Kernels::conv_float`].
    ///
    /// # Panics
    /// As for [`Kernels::conv_float`], for a depthwise convolution with a residual or of [`Form::Float`], for bytes
    /// that are to be written of sums that are not rounded, and where grids are not those of the epilogue's rounding:
    /// OpenVINO's has biases, and adds to nothing that is rounded.
    pub fn conv_integer(
        self,
        packed: &PackedInteger,
        pictures: Pictures<'_, u8>,
        epilogue: &IntegerEpilogue,
        residual: Option<IntegerResidual<'_>>,
        out: Output<'_>,
        parallel: bool,
    ) {
        assert_eq!(self, packed.kernels, "weights are packed for other kernels");
        assert!(residual.is_none_or(|r| r.x.len() == out.len()), "elements of the residual");
        let rounded = matches!(epilogue.form, Form::Rounded { .. });
        assert!(
            rounded || residual.is_some() || matches!(out, Output::Float(_)),
            "what is not rounded is not written as bytes"
        );
        let own = match epilogue.form {
            Form::Rounded { grid, .. } => Some(grid),
            Form::Float { .. } => None,
        };
        let openvino = !epilogue.biases.is_empty();
        let grids = own.into_iter().chain(residual.map(|r| r.grid));
        assert!(grids.map(|grid| grid.rounding.is_openvino()).all(|grid| grid == openvino), "rounding of grids");
        assert!(
            residual.is_none_or(|r| r.layer.is_some() == openvino),
            "OpenVINO clips to a layer's grid what it adds to"
        );
        assert!(!(openvino && rounded && residual.is_some()), "as OpenVINO, nothing is added to what is rounded");
        let layer = IntegerLayer { packed, epilogue, residual: residual.as_ref() };
        if packed.geometry.is_depthwise() {
            assert!(residual.is_none() && rounded, "a depthwise convolution in integers adds nothing");
            return depthwise::integer(self, layer, pictures, out, parallel);
        }
        let bytes = packed.geometry.out_channels * packed.geometry.in_per_group() * packed.geometry.taps();
        let shape = Shape::new(&packed.geometry, pictures);
        #[cfg(target_arch = "x86_64")]
        if let Integers::Paired(weights) = &packed.weights {
            let dense = PairedConv { layer, weights, shape, x: pictures };
            // SAFETY: weights are packed so for AVX2 alone, and the kernels are those that they are packed for.
            let work = |part: &Part, target| unsafe { paired::part(&dense, part, target) };
            return shape.run(self, bytes, out, parallel, work);
        }
        let dense = IntegerConv { layer, shape, x: pictures };
        dense.shape.run(self, bytes, out, parallel, |part, target| integer_part(self, &dense, part, target));
    }
}

/// Bytes that one part should read and write, so that they stay in the L2 cache while the weights pass over them.
const PART_BYTES: usize = 128 * 1024;

/// The same where there are more weights than input, so that they pass as seldom as can be.
const LARGE_PART_BYTES: usize = 640 * 1024;

/// Parts a thread gets at least, where there are as many.
pub(super) const SHARES: usize = 3;

/// A dense convolution over a batch. Where pixels do not see each other, all of them are one column.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    geometry: &'a Geometry,
    batch: usize,
    /// Height and width of a picture, and of an output.
    input: [usize; 2],
    output: [usize; 2],
    element: usize,
}

/// A part of the work: output rows of a picture, and blocks of output channels counted over all groups.
pub(super) struct Part {
    picture: usize,
    rows: Range<usize>,
    blocks: Range<usize>,
}

impl<'a> Shape<'a> {
    fn new<T>(geometry: &'a Geometry, pictures: Pictures<'_, T>) -> Shape<'a> {
        let [mut batch, mut height, mut width] = pictures.dims;
        assert_eq!(pictures.x.len(), batch * height * width * geometry.in_channels, "elements of the pictures");
        if geometry.is_pointwise() {
            (batch, height, width) = (1, batch * height * width, 1);
        }
        let output = geometry.window.output_size([height, width]).unwrap_or([0, 0]);
        Shape { geometry, batch, input: [height, width], output, element: size_of::<T>() }
    }

    /// Elements of one output.
    fn output_len(&self) -> usize {
        self.output[0] * self.output[1] * self.geometry.out_channels
    }

    /// Runs `work` on parts that together make the whole output.
    fn run(
        &self,
        kernels: Kernels,
        weight_bytes: usize,
        mut out: Output<'_>,
        parallel: bool,
        work: impl Fn(&Part, Target) + Sync,
    ) {
        assert_eq!(out.len(), self.batch * self.output_len(), "elements of the output");
        let ([rows, width], [lanes, pixels]) = (self.output, tile(kernels));
        if out.len() == 0 {
            return;
        }
        let window = self.geometry.window;
        let input_row = self.input[1] * self.geometry.in_channels * self.element;
        let output_row = width * self.geometry.out_channels * out.element();
        // What windows step over is not read.
        let [down, right] = [0, 1].map(|axis| window.stride[axis].min(window.kernel[axis]));
        let row_bytes = down * input_row * right / window.stride[1] + output_row;
        let is_large = weight_bytes > self.input[0] * input_row;
        let part_bytes = if is_large { LARGE_PART_BYTES } else { PART_BYTES };
        // Where a row is one pixel, whole tiles.
        let unit = if width == 1 { pixels } else { 1 };
        let units = rows.div_ceil(unit);
        let least = if width == 1 { 8 } else { 1 };
        let mut row_parts = units.div_ceil((part_bytes / row_bytes.max(1) / unit).max(least));
        let blocks = self.geometry.groups * self.geometry.blocks(lanes);
        let mut block_parts = 1;
        if parallel {
            let threads = rayon::current_num_threads();
            // More parts than threads, since not all threads are equally fast, and as many for each.
            let shares = SHARES * threads;
            if is_large && blocks >= threads {
                // Each thread reads its own weights, rather than all of them.
                block_parts = blocks.min(shares) / threads * threads;
            } else {
                row_parts = row_parts.max(shares.div_ceil(self.batch)).next_multiple_of(threads).min(units);
            }
        }
        let part = |index: usize| {
            let (picture, row, block) =
                (index / block_parts / row_parts, index / block_parts % row_parts, index % block_parts);
            // Nearly equal parts.
            let row_of = |row: usize| (units * row / row_parts * unit).min(rows);
            let block_of = |block: usize| blocks * block / block_parts;
            Part { picture, rows: row_of(row)..row_of(row + 1), blocks: block_of(block)..block_of(block + 1) }
        };
        let target = out.target();
        let parts = self.batch * row_parts * block_parts;
        if parallel && parts > 1 {
            (0..parts).into_par_iter().with_max_len(1).for_each(|index| work(&part(index), target));
        } else {
            (0..parts).for_each(|index| work(&part(index), target));
        }
    }

    /// Elements from one row of what tiles read to the next.
    fn row(&self) -> usize {
        let pads = self.geometry.window.pads;
        (pads[1] + self.input[1] + pads[3]) * self.geometry.in_channels
    }

    /// Input rows that these output rows see, in rows of the padded picture.
    fn padded_rows(&self, rows: &Range<usize>) -> Range<usize> {
        let window = self.geometry.window;
        let reach = window.dilation[0] * (window.kernel[0] - 1) + 1;
        rows.start * window.stride[0]..(rows.end - 1) * window.stride[0] + reach
    }

    /// The rows of a picture that a part sees, padded, converted, and followed by `slack` more elements.
    #[inline(always)]
    pub(super) fn copy<T: Copy, U: Copy>(
        &self,
        x: &[T],
        part: &Part,
        padding: T,
        slack: usize,
        convert: impl Fn(T) -> U,
    ) -> Vec<U> {
        let channels = self.geometry.in_channels;
        let [top, left, _, right] = self.geometry.window.pads;
        let [height, width] = self.input;
        let picture = &x[part.picture * height * width * channels..][..height * width * channels];
        let rows = self.padded_rows(&part.rows);
        let mut copy = Vec::with_capacity(rows.len() * self.row() + slack);
        let fill = convert(padding);
        let first = top.clamp(rows.start, rows.end);
        let end = (top + height).clamp(first, rows.end);
        copy.resize((first - rows.start) * self.row(), fill);
        let start = first.saturating_sub(top).min(height);
        let lines = &picture[start * width * channels..][..(end - first) * width * channels];
        if left + right == 0 {
            copy.extend(lines.iter().map(|&v| convert(v)));
        } else {
            for line in lines.chunks_exact((width * channels).max(1)) {
                copy.resize(copy.len() + left * channels, fill);
                copy.extend(line.iter().map(|&v| convert(v)));
                copy.resize(copy.len() + right * channels, fill);
            }
        }
        copy.resize(rows.len() * self.row() + slack, fill);
        copy
    }

    /// What tiles read, and which pixels of a part read what of it.
    #[inline(always)]
    fn input<'x, S: Simd, D: Dense<S>>(&self, dense: &'x D, part: &Part) -> (Cow<'x, [D::X]>, Vec<Class>) {
        let Geometry { in_channels, window, .. } = *self.geometry;
        let [height, width] = self.input;
        let [top, left, bottom, right] = window.pads;
        let [runs, run] = self.geometry.runs();
        let area = |input: [usize; 2], pads, first_input| Area {
            rows: part.rows.clone(),
            width: self.output[1],
            input,
            pads,
            first_input,
            first_output: part.picture * self.output_len()
                + part.rows.start * self.output[1] * self.geometry.out_channels,
        };
        // Runs are cut between taps, which must be between products.
        let is_cut_evenly = runs == self.geometry.taps() || in_channels.is_multiple_of(D::STEP);
        if let Some(x) = dense.stored().filter(|_| window.pads == [0; 4] || is_cut_evenly) {
            let first = part.picture * height * width * in_channels;
            let classes = windows::classes(self.geometry, &area([height, width], [top, left], first as isize), D::STEP);
            if self.is_inside(&classes, D::STEP, x.len()) {
                return (Cow::Borrowed(x), classes);
            }
        }
        let copy = dense.copy(part, run.next_multiple_of(D::STEP) - run);
        let before = part.rows.start * window.stride[0] * self.row();
        let padded = [top + height + bottom, left + width + right];
        let classes = windows::classes(self.geometry, &area(padded, [0, 0], -(before as isize)), D::STEP);
        assert!(self.is_inside(&classes, D::STEP, copy.len()), "a window reaches outside its input");
        (Cow::Owned(copy), classes)
    }

    /// Whether all that tiles read, the elements that fill up the last product of a run included, is in `0..len`.
    fn is_inside(&self, classes: &[Class], step: usize, len: usize) -> bool {
        let last_group = (self.geometry.groups - 1) * self.geometry.in_per_group();
        classes.iter().all(|class| {
            let [first, last] = class.ends();
            class.runs.iter().all(|run| {
                let end = last + run.at + (run.products * step + last_group) as isize;
                first + run.at >= 0 && end <= len as isize
            })
        })
    }
}

/// A convolution for the tiles of one instruction set. Its methods ask of their caller what those of [`Simd`] do.
pub(super) trait Dense<S: Simd> {
    type Layer: Epilogue<S>;
    /// How tiles read an element.
    type X: Copy;
    /// What the tiles of one block of output channels read.
    type Block<'b>
    where
        Self: 'b;
    /// Elements of one product.
    const STEP: usize;
    /// Output pixels of a tile.
    const PIXELS: usize = S::PIXELS;
    /// Whether tiles can have one vector of output channels, where there are no more.
    const NARROWS: bool = true;

    fn layer(&self) -> &Self::Layer;
    fn shape(&self) -> &Shape<'_>;

    /// All pictures, where tiles can read them as they are stored: windows leave out what they see of the padding.
    fn stored(&self) -> Option<&[Self::X]>;

    /// What a part sees, with its padding, and so many more elements that no product reaches beyond.
    fn copy(&self, part: &Part, slack: usize) -> Vec<Self::X>;

    /// A block, counted over all groups. Where nothing can be left out, all windows have these runs.
    fn block<'b>(&'b self, runs: &[Run], block: usize) -> Self::Block<'b>;

    /// The weights of a block.
    fn weights(block: &Self::Block<'_>) -> Range<*const u8>;

    /// What the sums of these channels begin with where taps are left out.
    unsafe fn start(
        &self,
        channels: &<Self::Layer as Epilogue<S>>::Channels,
        outside: &[usize],
        channel: usize,
        lanes: usize,
    ) -> [Sum<S, Self>; 2];

    /// `start + Σ x[pixel][run][element]·w[run][element]` of the first `V` vectors; meanwhile prefetches.
    unsafe fn tile<const P: usize, const V: usize>(
        block: &Self::Block<'_>,
        runs: &[Run],
        ahead: Ahead,
        start: [Sum<S, Self>; 2],
        pixels: [*const Self::X; P],
    ) -> [[Sum<S, Self>; 2]; P];
}

/// Weights that are prefetched while others are multiplied: those of the next block, a share in each tile.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    at: *const u8,
    /// Bytes from one prefetch to the next.
    step: usize,
}

impl Ahead {
    /// Prefetches what is next.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn next<S: Simd>(&mut self) {
        // SAFETY: the caller's promise.
        unsafe { S::prefetch(self.at) };
        self.at = self.at.wrapping_add(self.step);
    }
}

/// The `block`th of equal blocks of `lanes` channels with `step` elements a product.
#[inline(always)]
fn equal_block<'a, W>(geometry: &Geometry, packed: &'a [W], block: usize, [lanes, step]: [usize; 2]) -> &'a [W] {
    let [runs, run] = geometry.runs();
    let len = runs * run.next_multiple_of(step) * lanes;
    &packed[block * len..(block + 1) * len]
}

type Sum<S, D> = <<D as Dense<S>>::Layer as Epilogue<S>>::Sum;

/// A convolution in f32, with one chain of products or one for each input channel.
struct FloatConv<'a, const BY_CHANNEL: bool> {
    layer: FloatLayer<'a>,
    shape: Shape<'a>,
    x: Pictures<'a, f32>,
}

struct IntegerConv<'a> {
    layer: IntegerLayer<'a>,
    shape: Shape<'a>,
    x: Pictures<'a, u8>,
}

impl<'a, S: Simd, const BY_CHANNEL: bool> Dense<S> for FloatConv<'a, BY_CHANNEL> {
    type Layer = FloatLayer<'a>;
    type X = f32;
    /// With the number of chains, between which its products take turns.
    type Block<'b>
        = (&'b [f32], usize)
    where
        Self: 'b;
    const STEP: usize = 1;

    #[inline(always)]
    fn layer(&self) -> &Self::Layer {
        &self.layer
    }

    #[inline(always)]
    fn shape(&self) -> &Shape<'_> {
        &self.shape
    }

    #[inline(always)]
    fn stored(&self) -> Option<&[f32]> {
        Some(self.x.x)
    }

    #[inline(always)]
    fn copy(&self, part: &Part, slack: usize) -> Vec<f32> {
        self.shape.copy(self.x.x, part, self.x.padding, slack, |v| v)
    }

    #[inline(always)]
    fn block<'b>(&'b self, _: &[Run], block: usize) -> (&'b [f32], usize) {
        let packed = self.layer.packed;
        let chains = if BY_CHANNEL { packed.geometry.in_channels } else { 1 };
        (equal_block(&packed.geometry, packed.weights.as_slice(), block, [2 * S::WIDTH, 1]), chains)
    }

    #[inline(always)]
    fn weights((block, _): &(&[f32], usize)) -> Range<*const u8> {
        bytes(block)
    }

    #[inline(always)]
    unsafe fn start(&self, channels: &FloatChannels<S>, _: &[usize], _: usize, _: usize) -> [S::F; 2] {
        // SAFETY: the caller's promise. What is left out is 0.
        unsafe { <FloatLayer<'_> as Epilogue<S>>::start(channels) }
    }

    #[inline(always)]
    unsafe fn tile<const P: usize, const V: usize>(
        &(block, chains): &(&[f32], usize),
        runs: &[Run],
        mut ahead: Ahead,
        start: [S::F; 2],
        pixels: [*const f32; P],
    ) -> [[S::F; 2]; P] {
        // Known where this is compiled, if there is but one.
        let chains = if BY_CHANNEL { chains } else { 1 };
        // SAFETY: the caller's promise: `products` elements at each run of each pixel, and as many times two vectors of
        // weights. Runs are of whole taps, and these of as many elements as there are chains.
        unsafe {
            let mut totals = [start; P];
            for chain in 0..chains {
                let mut sums = [start; P];
                for run in runs {
                    let mut w = block.as_ptr().add((run.product + chain) * 2 * S::WIDTH);
                    let mut x = pixels;
                    for p in 0..P {
                        x[p] = x[p].wrapping_offset(run.at + chain as isize);
                    }
                    for product in 0..run.products / chains {
                        ahead.next::<S>();
                        let first = S::load(w);
                        let second = if V == 2 { S::load(w.add(S::WIDTH)) } else { first };
                        for p in 0..P {
                            let v = S::splat(*x[p].add(product * chains));
                            sums[p][0] = S::fma(v, first, sums[p][0]);
                            if V == 2 {
                                sums[p][1] = S::fma(v, second, sums[p][1]);
                            }
                        }
                        w = w.wrapping_add(chains * 2 * S::WIDTH);
                    }
                }
                if !BY_CHANNEL {
                    return settle(&sums);
                }
                let sums = settle(&sums);
                for p in 0..P {
                    for v in 0..V {
                        totals[p][v] = S::add(totals[p][v], sums[p][v]);
                    }
                }
            }
            settle(&totals)
        }
    }
}

impl<'a, S: Simd> Dense<S> for IntegerConv<'a> {
    type Layer = IntegerLayer<'a>;
    type X = S::Activation;
    type Block<'b>
        = &'b [S::Weight]
    where
        Self: 'b;
    const STEP: usize = S::STEP;

    #[inline(always)]
    fn layer(&self) -> &Self::Layer {
        &self.layer
    }

    #[inline(always)]
    fn shape(&self) -> &Shape<'_> {
        &self.shape
    }

    #[inline(always)]
    fn stored(&self) -> Option<&[S::Activation]> {
        S::Activation::stored(self.x.x)
    }

    #[inline(always)]
    fn copy(&self, part: &Part, slack: usize) -> Vec<S::Activation> {
        self.shape.copy(self.x.x, part, self.x.padding, slack, S::Activation::of)
    }

    #[inline(always)]
    fn block<'b>(&'b self, _: &[Run], block: usize) -> &'b [S::Weight] {
        let packed = self.layer.packed;
        let weights = S::Weight::unpacked(&packed.weights).expect("weights are packed for these kernels");
        equal_block(&packed.geometry, weights, block, [2 * S::WIDTH, S::STEP])
    }

    #[inline(always)]
    fn weights(block: &&[S::Weight]) -> Range<*const u8> {
        bytes(block)
    }

    #[inline(always)]
    unsafe fn start(
        &self,
        channels: &IntegerChannels<S>,
        outside: &[usize],
        channel: usize,
        lanes: usize,
    ) -> [S::I; 2] {
        // SAFETY: the caller's promise.
        unsafe { self.layer.start_without(channels, outside, self.x.padding, channel, lanes) }
    }

    #[inline(always)]
    unsafe fn tile<const P: usize, const V: usize>(
        block: &&[S::Weight],
        runs: &[Run],
        mut ahead: Ahead,
        start: [S::I; 2],
        pixels: [*const S::Activation; P],
    ) -> [[S::I; 2]; P] {
        // SAFETY: as for f32, with STEP elements a product.
        unsafe {
            let mut sums = [start; P];
            for run in runs {
                let mut w = block.as_ptr().add(run.product * 2 * S::WIDTH * S::STEP);
                let mut x = pixels;
                for p in 0..P {
                    x[p] = x[p].wrapping_offset(run.at);
                }
                for product in 0..run.products {
                    ahead.next::<S>();
                    let first = S::weights(w);
                    let second = if V == 2 { S::weights(w.add(S::WIDTH * S::STEP)) } else { first };
                    for p in 0..P {
                        let v = S::broadcast(x[p].add(product * S::STEP));
                        sums[p][0] = S::dot(sums[p][0], v, first);
                        if V == 2 {
                            sums[p][1] = S::dot(sums[p][1], v, second);
                        }
                    }
                    w = w.add(2 * S::WIDTH * S::STEP);
                }
            }
            settle(&sums)
        }
    }
}

/// Where elements lie.
pub(super) fn bytes<T>(elements: &[T]) -> Range<*const u8> {
    let Range { start, end } = elements.as_ptr_range();
    start.cast()..end.cast()
}

/// A copy of a tile's sums. What follows reads them one by one; were it the same array, it would be kept in memory
/// all along, rather than in registers.
#[inline(always)]
pub(super) fn settle<T: Copy, const N: usize, const P: usize>(sums: &[[T; N]; P]) -> [[T; N]; P] {
    let mut copy = [sums[0]; P];
    for p in 0..P {
        for v in 0..N {
            copy[p][v] = sums[p][v];
        }
    }
    copy
}

/// Output pixels of a tile, at most. Where pixels are whole pages apart, those of a tile share one set of the L1 cache,
/// and there should be no more of them than a set holds.
fn pixels_at_once<S: Simd, D: Dense<S>>(class: &Class) -> usize {
    const PAGE: usize = 4096;
    const WAYS: usize = 8;
    if (class.pitch() * size_of::<D::X>()).is_multiple_of(PAGE) { D::PIXELS.min(WAYS) } else { D::PIXELS }
}

/// One part: weight blocks outside, so that a block stays in cache over the pixels.
#[inline(always)]
pub(super) fn part_body<S: Simd, D: Dense<S>>(dense: &D, part: &Part, target: Target) {
    let geometry = dense.shape().geometry;
    let lanes = 2 * S::WIDTH;
    let (input, classes) = dense.shape().input::<S, D>(dense, part);
    let all_runs = classes.first().map_or(&[][..], |class| &class.runs);
    let per_group = geometry.blocks(lanes);
    let tiles: usize = classes.iter().map(|class| class.len().div_ceil(pixels_at_once::<S, D>(class))).sum();
    let mut of_tiles = dense.block(all_runs, part.blocks.start);
    for block in part.blocks.clone() {
        let (group, within) = (block / per_group, block % per_group * lanes);
        let channel = group * geometry.out_per_group() + within;
        let lanes = lanes.min(geometry.out_per_group() - within);
        let following = (block + 1 < part.blocks.end).then(|| dense.block(all_runs, block + 1));
        let next = D::weights(following.as_ref().unwrap_or(&of_tiles));
        let share = (next.end as usize - next.start as usize).div_ceil(tiles);
        let mut ahead = next.start;
        let x = input[group * geometry.in_per_group()..].as_ptr();
        // SAFETY: S is the instruction set that this is compiled for (see `dispatch`).
        let of_block = unsafe { dense.layer().channels(channel, lanes) };
        for class in &classes {
            let (runs, outside) = (&class.runs[..], &class.outside[..]);
            // SAFETY: as above.
            let start = unsafe { dense.start(&of_block, outside, channel, lanes) };
            let products: usize = runs.iter().map(|run| run.products).sum();
            let step = share.div_ceil(products.max(1));
            // Tiles of nearly one size: a tile of few pixels waits for its own sums.
            let tiles = class.len().div_ceil(pixels_at_once::<S, D>(class));
            let (count, larger) = (class.len() / tiles, class.len() % tiles);
            let mut walk = class.walk();
            for tile in 0..tiles {
                let of_tile = Ahead { at: ahead, step };
                ahead = ahead.wrapping_add(share);
                macro_rules! sums {
                    ($p:literal) => {{
                        // SAFETY: all reads were found to be inside the input, and the parts
                        // of a call write rows and channels of their own, inside the output.
                        unsafe {
                            let (mut from, mut to) = ([x; $p], [channel; $p]);
                            for p in 0..$p {
                                let pixel = walk.next();
                                from[p] = x.wrapping_offset(pixel.input);
                                to[p] += pixel.output;
                            }
                            D::Layer::prepare(&of_block, target, &to);
                            let sums = if D::NARROWS && lanes <= S::WIDTH {
                                D::tile::<$p, 1>(&of_tiles, runs, of_tile, start, from)
                            } else {
                                D::tile::<$p, 2>(&of_tiles, runs, of_tile, start, from)
                            };
                            D::Layer::write(&of_block, &sums, target, to, lanes);
                        }
                    }};
                }
                match count + usize::from(tile < larger) {
                    1 => sums!(1),
                    2 => sums!(2),
                    3 => sums!(3),
                    4 => sums!(4),
                    5 if D::PIXELS >= 5 => sums!(5),
                    6 if D::PIXELS >= 6 => sums!(6),
                    7 if D::PIXELS >= 7 => sums!(7),
                    8 if D::PIXELS >= 8 => sums!(8),
                    9 if D::PIXELS >= 9 => sums!(9),
                    10 if D::PIXELS >= 10 => sums!(10),
                    11 if D::PIXELS >= 11 => sums!(11),
                    12 if D::PIXELS >= 12 => sums!(12),
                    count => unreachable!("a tile of {count} pixels"),
                }
            }
        }
        if let Some(following) = following {
            of_tiles = following;
        }
    }
}

#[inline(always)]
fn float_part_body<S: Simd>(conv: &FloatConv<'_, false>, part: &Part, target: Target) {
    part_body::<S, _>(conv, part, target);
}
dispatch!(fn float_part(conv: &FloatConv<'_, false>, part: &Part, target: Target) -> () = float_part_body);

#[inline(always)]
fn by_channel_part_body<S: Simd>(conv: &FloatConv<'_, true>, part: &Part, target: Target) {
    part_body::<S, _>(conv, part, target);
}
dispatch!(fn by_channel_part(conv: &FloatConv<'_, true>, part: &Part, target: Target) -> () = by_channel_part_body);

#[inline(always)]
fn integer_part_body<S: Simd>(conv: &IntegerConv<'_>, part: &Part, target: Target) {
    part_body::<S, _>(conv, part, target);
}
dispatch!(fn integer_part(conv: &IntegerConv<'_>, part: &Part, target: Target) -> () = integer_part_body);

#[inline(always)]
fn tile_body<S: Simd>() -> [usize; 2] {
    [2 * S::WIDTH, S::PIXELS]
}
dispatch!(
    /// Output channels and pixels of a register tile.
    fn tile() -> [usize; 2] = tile_body
);
