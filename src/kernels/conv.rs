//! Convolution and linear layers: direct, without im2col, over register tiles of pixels × channels.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    Activation, FloatEpilogue, IntegerEpilogue, Kernels, Output, PackedFloat, PackedInteger, Simd, Weight, depthwise,
    dispatch,
    epilogue::{Epilogue, FloatLayer, IntegerLayer, Target},
    packing::Geometry,
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
    /// channels, then the bias. Layout: `y[batch][height'][width'][out]`. `parallel` spreads the work over the
    /// current rayon pool; it changes no bit.
    ///
    /// # Panics
    /// When a slice has another length than the geometry says, or the weights were packed for other kernels; the
    /// engine has checked shapes before.
    pub fn conv_float(
        self,
        packed: &PackedFloat,
        pictures: Pictures<'_, f32>,
        epilogue: FloatEpilogue,
        out: Output<'_>,
        parallel: bool,
    ) {
        assert_eq!(self, packed.kernels, "weights are packed for other kernels");
        assert!(epilogue.grid.is_some() || matches!(out, Output::Float(_)), "a quantized output needs a grid");
        let layer = FloatLayer { packed, epilogue };
        if packed.geometry.is_depthwise() {
            return depthwise::float(self, layer, pictures, out, parallel);
        }
        let bytes = size_of_val(packed.weights.as_slice());
        let dense = FloatConv { layer, shape: Shape::new(&packed.geometry, pictures), x: pictures };
        dense.shape.run(self, bytes, out, parallel, |part, target| float_part(self, &dense, part, target));
    }

    /// Convolution of a batch of pictures in integers: u8 × s8 → s32, exact, then the epilogue. Layout as for
    /// [`Kernels::conv_float`].
    ///
    /// # Panics
    /// As for [`Kernels::conv_float`].
    pub fn conv_integer(
        self,
        packed: &PackedInteger,
        pictures: Pictures<'_, u8>,
        epilogue: &IntegerEpilogue,
        out: Output<'_>,
        parallel: bool,
    ) {
        assert_eq!(self, packed.kernels, "weights are packed for other kernels");
        let layer = IntegerLayer { packed, epilogue };
        if packed.geometry.is_depthwise() {
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

/// Parts a thread gets at least, where there are as many.
const SHARES: usize = 3;

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
        let row_bytes = window.stride[0] * input_row + output_row;
        let mut part_rows = (PART_BYTES / row_bytes.max(1)).clamp(1, rows);
        if width == 1 {
            // Whole tiles.
            part_rows = part_rows.next_multiple_of(pixels).max(8 * pixels).min(rows);
        }
        let blocks = self.geometry.groups * self.geometry.blocks(lanes);
        let mut part_blocks = blocks;
        if parallel {
            let threads = rayon::current_num_threads();
            // More parts than threads: whoever is done first takes another.
            let shares = SHARES * threads;
            if weight_bytes > self.input[0] * input_row && blocks >= threads {
                // Each thread reads its own weights, rather than all of them.
                part_blocks = blocks.div_ceil(shares.min(blocks));
            } else {
                let share = (self.batch * rows).div_ceil(shares).min(rows);
                let shares = share.div_ceil(part_rows);
                part_rows = share.div_ceil(shares);
                if width == 1 {
                    part_rows = part_rows.next_multiple_of(pixels);
                }
            }
        }
        let (row_parts, block_parts) = (rows.div_ceil(part_rows), blocks.div_ceil(part_blocks));
        let part = |index: usize| {
            let (picture, row, block) =
                (index / block_parts / row_parts, index / block_parts % row_parts, index % block_parts);
            Part {
                picture,
                rows: row * part_rows..((row + 1) * part_rows).min(rows),
                blocks: block * part_blocks..((block + 1) * part_blocks).min(blocks),
            }
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

    /// What a part sees, where it can be read in place.
    #[inline(always)]
    pub(super) fn in_place<'x, T>(&self, x: &'x [T], part: &Part, slack: usize) -> Option<&'x [T]> {
        let per_picture = self.input[0] * self.row();
        let rows = self.padded_rows(&part.rows);
        let start = part.picture * per_picture + rows.start * self.row();
        let pads = self.geometry.window.pads;
        (pads == [0; 4]).then(|| x.get(start..start + rows.len() * self.row() + slack)).flatten()
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

    fn layer(&self) -> &Self::Layer;
    fn shape(&self) -> &Shape<'_>;

    /// What a part sees, and so many more elements that no product reaches beyond.
    fn input(&self, part: &Part, slack: usize) -> Cow<'_, [Self::X]>;

    /// A block, counted over all groups, of runs that begin at these offsets from a pixel.
    fn block<'b>(&'b self, runs: &'b [usize], block: usize) -> Self::Block<'b>;

    /// The weights of a block.
    fn weights(block: &Self::Block<'_>) -> Range<*const u8>;

    /// `start + Σ x[pixel][run][element]·w[run][element]`; meanwhile prefetches.
    unsafe fn tile<const P: usize>(
        block: &Self::Block<'_>,
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
    /// The `tile`th of `tiles` shares of these weights, over `products` products.
    fn new(weights: &Range<*const u8>, [tile, tiles]: [usize; 2], products: usize) -> Ahead {
        let share = (weights.end as usize - weights.start as usize).div_ceil(tiles);
        Ahead { at: weights.start.wrapping_add(tile * share), step: share.div_ceil(products.max(1)) }
    }

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

/// A block that walks through its runs from the first product to the last.
struct Runs<'a, W> {
    runs: &'a [usize],
    /// Products of a run.
    steps: usize,
    weights: &'a [W],
}

impl<'a, W> Runs<'a, W> {
    /// The `block`th of equal blocks with `step` elements a product.
    #[inline(always)]
    fn new(geometry: &Geometry, packed: &'a [W], runs: &'a [usize], block: usize, [lanes, step]: [usize; 2]) -> Self {
        let steps = geometry.runs()[1].div_ceil(step);
        let len = runs.len() * steps * lanes * step;
        Runs { runs, steps, weights: &packed[block * len..(block + 1) * len] }
    }
}

type Sum<S, D> = <<D as Dense<S>>::Layer as Epilogue<S>>::Sum;

struct FloatConv<'a> {
    layer: FloatLayer<'a>,
    shape: Shape<'a>,
    x: Pictures<'a, f32>,
}

struct IntegerConv<'a> {
    layer: IntegerLayer<'a>,
    shape: Shape<'a>,
    x: Pictures<'a, u8>,
}

impl<'a, S: Simd> Dense<S> for FloatConv<'a> {
    type Layer = FloatLayer<'a>;
    type X = f32;
    type Block<'b>
        = Runs<'b, f32>
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
    fn block<'b>(&'b self, runs: &'b [usize], block: usize) -> Runs<'b, f32> {
        let packed = self.layer.packed;
        Runs::new(&packed.geometry, packed.weights.as_slice(), runs, block, [2 * S::WIDTH, 1])
    }

    #[inline(always)]
    fn weights(block: &Runs<'_, f32>) -> Range<*const u8> {
        bytes(block.weights)
    }

    #[inline(always)]
    fn input(&self, part: &Part, slack: usize) -> Cow<'_, [f32]> {
        match self.shape.in_place(self.x.x, part, slack) {
            Some(x) => Cow::Borrowed(x),
            None => Cow::Owned(self.shape.copy(self.x.x, part, self.x.padding, slack, |v| v)),
        }
    }

    #[inline(always)]
    unsafe fn tile<const P: usize>(
        &Runs { runs, steps, weights }: &Runs<'_, f32>,
        mut ahead: Ahead,
        start: [S::F; 2],
        pixels: [*const f32; P],
    ) -> [[S::F; 2]; P] {
        // SAFETY: the caller's promise: `steps` elements at each run of each pixel, and as many times two vectors of
        // weights a run.
        unsafe {
            let mut sums = [start; P];
            let mut w = weights.as_ptr();
            for &run in runs {
                let mut x = pixels;
                for p in 0..P {
                    x[p] = x[p].add(run);
                }
                for step in 0..steps {
                    ahead.next::<S>();
                    let weights = [S::load(w), S::load(w.add(S::WIDTH))];
                    for p in 0..P {
                        let v = S::splat(*x[p].add(step));
                        sums[p] = [S::fma(v, weights[0], sums[p][0]), S::fma(v, weights[1], sums[p][1])];
                    }
                    w = w.add(2 * S::WIDTH);
                }
            }
            settle(&sums)
        }
    }
}

impl<'a, S: Simd> Dense<S> for IntegerConv<'a> {
    type Layer = IntegerLayer<'a>;
    type X = S::Activation;
    type Block<'b>
        = Runs<'b, S::Weight>
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
    fn block<'b>(&'b self, runs: &'b [usize], block: usize) -> Runs<'b, S::Weight> {
        let packed = self.layer.packed;
        let weights = S::Weight::unpacked(&packed.weights).expect("weights are packed for these kernels");
        Runs::new(&packed.geometry, weights, runs, block, [2 * S::WIDTH, S::STEP])
    }

    #[inline(always)]
    fn weights(block: &Runs<'_, S::Weight>) -> Range<*const u8> {
        bytes(block.weights)
    }

    #[inline(always)]
    fn input(&self, part: &Part, slack: usize) -> Cow<'_, [S::Activation]> {
        match S::Activation::stored(self.x.x).and_then(|x| self.shape.in_place(x, part, slack)) {
            Some(x) => Cow::Borrowed(x),
            None => Cow::Owned(self.shape.copy(self.x.x, part, self.x.padding, slack, S::Activation::of)),
        }
    }

    #[inline(always)]
    unsafe fn tile<const P: usize>(
        &Runs { runs, steps, weights }: &Runs<'_, S::Weight>,
        mut ahead: Ahead,
        start: [S::I; 2],
        pixels: [*const S::Activation; P],
    ) -> [[S::I; 2]; P] {
        // SAFETY: as for f32, with STEP elements a step.
        unsafe {
            let mut sums = [start; P];
            let mut w = weights.as_ptr();
            for &run in runs {
                let mut x = pixels;
                for p in 0..P {
                    x[p] = x[p].add(run);
                }
                for step in 0..steps {
                    ahead.next::<S>();
                    let weights = [S::weights(w), S::weights(w.add(S::WIDTH * S::STEP))];
                    for p in 0..P {
                        let v = S::broadcast(x[p].add(step * S::STEP));
                        sums[p] = [S::dot(sums[p][0], v, weights[0]), S::dot(sums[p][1], v, weights[1])];
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
pub(super) fn settle<T: Copy, const P: usize>(sums: &[[T; 2]; P]) -> [[T; 2]; P] {
    let mut copy = [sums[0]; P];
    for p in 0..P {
        copy[p] = [sums[p][0], sums[p][1]];
    }
    copy
}

/// One part: weight blocks outside, so that a block stays in cache over the pixels.
#[inline(always)]
pub(super) fn part_body<S: Simd, D: Dense<S>>(dense: &D, part: &Part, target: Target) {
    let shape = dense.shape();
    let geometry = shape.geometry;
    let (window, lanes) = (geometry.window, 2 * S::WIDTH);
    let [runs, run] = geometry.runs();
    let steps = run.div_ceil(D::STEP);
    let input = dense.input(part, steps * D::STEP - run);
    let (row, channels) = (shape.row(), geometry.in_channels);

    let across = if runs == window.kernel[0] { 1 } else { window.kernel[1] };
    let offset = |r: usize| r / across * window.dilation[0] * row + r % across * window.dilation[1] * channels;
    let runs: Vec<usize> = (0..runs).map(offset).collect();
    let width = shape.output[1];
    let pixels: Vec<usize> = (0..part.rows.len())
        .flat_map(|y| (0..width).map(move |x| y * window.stride[0] * row + x * window.stride[1] * channels))
        .collect();

    let per_group = geometry.blocks(lanes);
    let last_group = (geometry.groups - 1) * geometry.in_per_group();
    let furthest = |offsets: &[usize]| offsets.iter().max().copied().unwrap_or(0);
    let reach = furthest(&pixels) + furthest(&runs) + last_group + steps * D::STEP;
    assert!(reach <= input.len(), "a window reaches outside its input");

    let first = part.picture * shape.output_len() + part.rows.start * width * geometry.out_channels;
    let mut of_tiles = dense.block(&runs, part.blocks.start);
    for block in part.blocks.clone() {
        let (group, within) = (block / per_group, block % per_group * lanes);
        let channel = group * geometry.out_per_group() + within;
        let lanes = lanes.min(geometry.out_per_group() - within);
        let following = (block + 1 < part.blocks.end).then(|| dense.block(&runs, block + 1));
        let next = D::weights(following.as_ref().unwrap_or(&of_tiles));
        let x = input[group * geometry.in_per_group()..].as_ptr();
        // SAFETY: S is the instruction set that this is compiled for (see `dispatch`).
        let of_block = unsafe { dense.layer().channels(channel, lanes) };
        // SAFETY: as above.
        let start = unsafe { D::Layer::start(&of_block) };
        let tiles = pixels.len().div_ceil(D::PIXELS);
        let mut done = 0;
        for tile in 0..tiles {
            // Tiles of nearly one size: a tile of few pixels waits for its own sums.
            let count = pixels.len() * (tile + 1) / tiles - done;
            let ahead = Ahead::new(&next, [tile, tiles], runs.len() * steps);
            macro_rules! sums {
                ($p:literal) => {{
                    // SAFETY: all reads were found to be inside the input above, and the parts of a
                    // call write rows and channels of their own, inside the output.
                    unsafe {
                        let offsets = pixels.as_ptr().add(done);
                        let mut at = [x; $p];
                        for p in 0..$p {
                            at[p] = x.add(*offsets.add(p));
                        }
                        let sums = D::tile::<$p>(&of_tiles, ahead, start, at);
                        let at = first + done * geometry.out_channels + channel;
                        D::Layer::write(&of_block, &sums, target, at, geometry.out_channels, lanes);
                    }
                }};
            }
            match count {
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
                _ => unreachable!("a tile of {count} pixels"),
            }
            done += count;
        }
        if let Some(following) = following {
            of_tiles = following;
        }
    }
}

#[inline(always)]
fn float_part_body<S: Simd>(conv: &FloatConv<'_>, part: &Part, target: Target) {
    part_body::<S, _>(conv, part, target);
}
dispatch!(fn float_part(conv: &FloatConv<'_>, part: &Part, target: Target) -> () = float_part_body);

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
