//! Depthwise convolution: memory work, over vectors of channels. Windows are read in place: a tap outside the picture
//! reads a row of padding instead.

use std::{borrow::Cow, ops::Range};

use rayon::prelude::*;

use super::{
    Activation, Form, IntegerEpilogue, Kernels, Output, Pictures, Simd, Weight,
    conv::{SHARES, settle},
    dispatch,
    epilogue::{Epilogue, FloatChannels, FloatLayer, IntegerLayer, Target},
    grid::Grid,
    openvino::OpenVino,
    packing::Geometry,
    simd::MAX_BLOCK,
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
    let parts = if parallel { (SHARES * rayon::current_num_threads()).min(height) } else { 1 };
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
    /// Where each tap of the first window is: for each [`Depthwise::ROWS`] rows of the kernel, column by column.
    taps: &'a [*const X],
    /// Taps of a row.
    across: usize,
    /// Windows from one to the next, in columns of the picture; 0 where taps are not adjacent.
    stride: usize,
    /// Elements from one window to the next.
    step: usize,
    windows: usize,
    /// The first output element.
    at: usize,
    /// Windows that fill one block, as if they were one of as many more channels; `stride`, `step` and `windows` are
    /// those of such.
    joined: usize,
}

/// A depthwise convolution for one instruction set. Its methods ask of their caller what those of [`Simd`] do.
trait Depthwise<S: Simd> {
    type X: Copy;
    type W: Copy;
    /// What is known of a block of channels.
    type Channels: Copy;
    /// The sums of one window.
    type Sums: Copy;
    /// Channels of a block.
    const LANES: usize;
    /// Rows of the kernel that one product takes; those that are too many have weights of 0.
    const ROWS: usize;
    /// Whether a block that is larger than the channels holds them repeatedly, where they fill it.
    const REPEATS: bool;

    fn geometry(&self) -> &Geometry;
    fn packed(&self) -> &[Self::W];

    unsafe fn channels(&self, channel: usize, lanes: usize) -> Self::Channels;

    /// The sums of `P` windows: the first `at` elements behind the taps.
    unsafe fn sums<const P: usize>(
        channels: &Self::Channels,
        line: &Line<'_, Self::X>,
        at: usize,
        w: *const Self::W,
    ) -> [Self::Sums; P];

    /// Writes the outputs of `P` windows, the first `lanes` channels of each, from element `at` on.
    unsafe fn write<const P: usize>(
        channels: &Self::Channels,
        sums: &[Self::Sums; P],
        target: Target,
        at: usize,
        stride: usize,
        lanes: usize,
    );
}

impl<S: Simd> Depthwise<S> for FloatLayer<'_> {
    type X = f32;
    type W = f32;
    type Channels = FloatChannels<S>;
    type Sums = [S::F; 2];
    const LANES: usize = 2 * S::WIDTH;
    const ROWS: usize = 1;
    const REPEATS: bool = false;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        &self.packed.geometry
    }

    #[inline(always)]
    fn packed(&self) -> &[f32] {
        self.packed.weights.as_slice()
    }

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> FloatChannels<S> {
        // SAFETY: the caller's promise.
        unsafe { Epilogue::<S>::channels(self, channel, lanes) }
    }

    #[inline(always)]
    unsafe fn sums<const P: usize>(
        channels: &FloatChannels<S>,
        line: &Line<'_, f32>,
        at: usize,
        mut w: *const f32,
    ) -> [[S::F; 2]; P] {
        // SAFETY: the caller's promise: two vectors at each tap of each window, and two of weights a tap.
        unsafe {
            let mut sums = [<Self as Epilogue<S>>::start(channels); P];
            for &tap in line.taps {
                let weights = [S::load(w), S::load(w.add(S::WIDTH))];
                for p in 0..P {
                    let x = tap.add(at + p * line.step);
                    sums[p][0] = S::fma(S::load(x), weights[0], sums[p][0]);
                    sums[p][1] = S::fma(S::load(x.add(S::WIDTH)), weights[1], sums[p][1]);
                }
                w = w.add(2 * S::WIDTH);
            }
            sums
        }
    }

    #[inline(always)]
    unsafe fn write<const P: usize>(
        channels: &FloatChannels<S>,
        sums: &[[S::F; 2]; P],
        target: Target,
        at: usize,
        stride: usize,
        lanes: usize,
    ) {
        let mut places = [at; P];
        for p in 0..P {
            places[p] += p * stride;
        }
        // SAFETY: the caller's promise.
        unsafe { <Self as Epilogue<S>>::write::<P>(channels, sums, target, places, lanes) }
    }
}

/// What is known of a block of channels in integers, in the order of [`Simd::depthwise_channel`].
#[derive(Clone, Copy)]
struct IntegerBlock<S: Simd> {
    constants: [S::I; 4],
    multipliers: [S::F; 4],
    openvino: Option<OpenVino<S, 4>>,
    grid: Grid<S>,
}

/// Values of a block in the order of [`Simd::depthwise_channel`]; where there are fewer channels than lanes, they are
/// repeated.
#[inline(always)]
fn in_block_order<S: Simd, T: Copy + Default>(value: impl Fn(usize) -> T, lanes: usize) -> [T; MAX_BLOCK] {
    let mut block = [T::default(); MAX_BLOCK];
    for (i, out) in block[..4 * S::WIDTH].iter_mut().enumerate() {
        *out = value(S::depthwise_channel(i / S::WIDTH, i % S::WIDTH) % lanes);
    }
    block
}

impl<S: Simd> Depthwise<S> for IntegerLayer<'_> {
    type X = u8;
    type W = S::Weight;
    type Channels = IntegerBlock<S>;
    type Sums = [S::I; 4];
    const LANES: usize = 4 * S::WIDTH;
    const ROWS: usize = S::ROWS;
    const REPEATS: bool = true;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        &self.packed.geometry
    }

    #[inline(always)]
    fn packed(&self) -> &[S::Weight] {
        S::Weight::unpacked(&self.packed.weights).expect("weights are packed for these kernels")
    }

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> IntegerBlock<S> {
        let IntegerEpilogue { constants, multipliers, biases, steps, form } = self.epilogue;
        let &Form::Rounded { grid, low, high } = form else { unreachable!("checked where the call begins") };
        let (constants, sums) = (&constants[channel..], &self.packed.sums[channel..]);
        let constants =
            in_block_order::<S, _>(|c| constants[c].wrapping_add(S::Activation::SHIFT.wrapping_mul(sums[c])), lanes);
        let multipliers = in_block_order::<S, _>(|c| multipliers[channel + c], lanes);
        let biases = (!biases.is_empty()).then(|| in_block_order::<S, _>(|c| biases[channel + c], lanes));
        let (c, m) = (constants.as_ptr(), multipliers.as_ptr());
        // SAFETY: a block's lanes are at most MAX_BLOCK.
        unsafe {
            IntegerBlock {
                constants: [
                    S::load_i(c),
                    S::load_i(c.add(S::WIDTH)),
                    S::load_i(c.add(2 * S::WIDTH)),
                    S::load_i(c.add(3 * S::WIDTH)),
                ],
                multipliers: [
                    S::load(m),
                    S::load(m.add(S::WIDTH)),
                    S::load(m.add(2 * S::WIDTH)),
                    S::load(m.add(3 * S::WIDTH)),
                ],
                openvino: biases.map(|b| {
                    let b = b.as_ptr();
                    let biases = [
                        S::load(b),
                        S::load(b.add(S::WIDTH)),
                        S::load(b.add(2 * S::WIDTH)),
                        S::load(b.add(3 * S::WIDTH)),
                    ];
                    OpenVino::new(biases, *steps, None)
                }),
                grid: Grid::new(&grid, low, high),
            }
        }
    }

    #[inline(always)]
    unsafe fn sums<const P: usize>(
        channels: &IntegerBlock<S>,
        line: &Line<'_, u8>,
        at: usize,
        w: *const S::Weight,
    ) -> [[S::I; 4]; P] {
        // SAFETY: the caller's promise.
        unsafe {
            match (line.across, line.stride) {
                (3, 1) if P > 1 => strip::<S, P, 3, 1>(channels, line, at, w),
                (3, 2) if P > 1 => strip::<S, P, 3, 2>(channels, line, at, w),
                (5, 1) if P > 1 => strip::<S, P, 5, 1>(channels, line, at, w),
                (5, 2) if P > 1 => strip::<S, P, 5, 2>(channels, line, at, w),
                _ => {
                    let mut sums = [channels.constants; P];
                    for p in 0..P {
                        let at = at + p * line.step;
                        let mut w = w;
                        for rows in line.taps.chunks_exact(S::ROWS) {
                            sums[p] = products::<S>(sums[p], S::column(rows, at), w);
                            w = w.add(4 * S::WIDTH * S::ROWS);
                        }
                    }
                    sums
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn write<const P: usize>(
        channels: &IntegerBlock<S>,
        sums: &[[S::I; 4]; P],
        target: Target,
        at: usize,
        stride: usize,
        lanes: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match target {
                Target::Quantized(y) if lanes == 4 * S::WIDTH => {
                    for p in 0..P {
                        S::store_bytes(y.add(at + p * stride), narrow(channels, sums[p]));
                    }
                }
                Target::Quantized(y) => {
                    for p in 0..P {
                        S::store_some_bytes(y.add(at + p * stride), narrow(channels, sums[p]), lanes);
                    }
                }
                Target::Float(y) => {
                    for p in 0..P {
                        let mut bytes = [0; MAX_BLOCK];
                        S::store_bytes(bytes.as_mut_ptr(), narrow(channels, sums[p]));
                        for half in 0..2 {
                            let first = half * 2 * S::WIDTH;
                            let q = bytes.as_ptr().add(first);
                            let x = [
                                channels.grid.written(S::load_bytes(q)),
                                channels.grid.written(S::load_bytes(q.add(S::WIDTH))),
                            ];
                            let count = lanes.saturating_sub(first).min(2 * S::WIDTH);
                            S::store_some(y.add(at + p * stride + first.min(lanes)), x, count);
                        }
                    }
                }
            }
        }
    }
}

/// Sums as bytes, channels in order: that of narrowing undoes that of the block.
#[inline(always)]
unsafe fn narrow<S: Simd>(block: &IntegerBlock<S>, [a, b, c, d]: [S::I; 4]) -> S::Bytes {
    let m = &block.multipliers;
    // SAFETY: the caller's promise.
    unsafe {
        let mut steps = [
            S::mul(S::to_float(a), m[0]),
            S::mul(S::to_float(b), m[1]),
            S::mul(S::to_float(c), m[2]),
            S::mul(S::to_float(d), m[3]),
        ];
        if let Some(openvino) = &block.openvino {
            for v in 0..4 {
                steps[v] = openvino.steps(steps[v], v);
            }
        }
        block.grid.narrow(steps)
    }
}

/// Sums and the products of one column.
#[inline(always)]
unsafe fn products<S: Simd>([a, b, c, d]: [S::I; 4], x: [S::I; 4], w: *const S::Weight) -> [S::I; 4] {
    let vector = S::WIDTH * S::ROWS;
    // SAFETY: the caller's promise: four vectors of weights.
    unsafe {
        [
            S::dot(a, x[0], S::weights(w)),
            S::dot(b, x[1], S::weights(w.add(vector))),
            S::dot(c, x[2], S::weights(w.add(2 * vector))),
            S::dot(d, x[3], S::weights(w.add(3 * vector))),
        ]
    }
}

/// The sums of adjacent windows, which share the columns that they see: each is interleaved once.
#[inline(always)]
unsafe fn strip<S: Simd, const P: usize, const ACROSS: usize, const STRIDE: usize>(
    channels: &IntegerBlock<S>,
    line: &Line<'_, u8>,
    at: usize,
    mut w: *const S::Weight,
) -> [[S::I; 4]; P] {
    let column = line.step / STRIDE;
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [channels.constants; P];
        for rows in line.taps.chunks_exact(ACROSS * S::ROWS) {
            // Written out: a loop is not unrolled, and would have all sums in memory.
            macro_rules! columns {
                ($($c:literal)*) => {$(
                    if $c < (P - 1) * STRIDE + ACROSS {
                        let x = S::column(rows, at + $c * column);
                        for p in 0..P {
                            if p * STRIDE <= $c && $c < p * STRIDE + ACROSS {
                                sums[p] = products::<S>(sums[p], x, w.add(($c - p * STRIDE) * 4 * S::WIDTH * S::ROWS));
                            }
                        }
                    }
                )*};
            }
            const { assert!((P - 1) * STRIDE + ACROSS <= 11) };
            columns!(0 1 2 3 4 5 6 7 8 9 10);
            w = w.add(ACROSS * 4 * S::WIDTH * S::ROWS);
        }
        settle(&sums)
    }
}

/// The most that [`Depthwise::ROWS`] is.
const MAX_ROWS: usize = 4;

/// Windows whose sums are formed together.
const WINDOWS: usize = 4;

/// The outputs of a line of windows.
///
/// # Safety
/// As for [`Simd`]: each tap of each window leads to as many elements as there are channels, and as there are lanes;
/// the outputs are inside the target, and nothing else uses them now.
#[inline(always)]
unsafe fn line_body<S: Simd, D: Depthwise<S>>(
    layer: &D,
    blocks: &[(usize, D::Channels)],
    line: &Line<'_, D::X>,
    target: Target,
) {
    let (channels, packed) = (layer.geometry().in_channels, layer.packed());
    let channels = channels * line.joined;
    let lanes = D::LANES.min(channels);
    let block_len = line.taps.len() * D::LANES;
    assert_eq!(packed.len(), blocks.len() * block_len, "packed weights");
    for (block, &(channel, of_block)) in blocks.iter().enumerate() {
        // SAFETY: the caller's promise; the weights are as many as are read.
        unsafe {
            let weights = packed.as_ptr().add(block * block_len);
            let to = line.at + channel;
            let mut window = 0;
            while window + WINDOWS <= line.windows {
                let sums = D::sums::<WINDOWS>(&of_block, line, window * line.step + channel, weights);
                D::write(&of_block, &sums, target, to + window * channels, channels, lanes);
                window += WINDOWS;
            }
            while window < line.windows {
                let sums = D::sums::<1>(&of_block, line, window * line.step + channel, weights);
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
    let (channels, window) = (geometry.in_channels, geometry.window);
    let [_, height, width] = pictures.dims;
    let row_len = width * channels;
    let picture = &pictures.x[rows.picture * height * row_len..];
    // A tile reads all of its lanes. Behind the last rows of all pictures there may be fewer elements.
    let beyond = D::LANES.saturating_sub(channels);
    let tail = height - (1 + beyond.div_ceil(row_len)).min(height);
    let mut last_rows = Cow::Borrowed(&picture[tail * row_len..]);
    if last_rows.len() < (height - tail) * row_len + beyond {
        last_rows.to_mut().resize((height - tail) * row_len + beyond, pictures.padding);
    }
    let inner = inner(&window, 1, width, rows.width);
    let [down, right] = window.dilation;
    let step = window.stride[1] * channels;
    let reach = |windows: usize| (windows - 1) * step + channels + beyond;
    let outside = if window.pads == [0; 4] {
        Vec::new()
    } else {
        // As far as windows reach from their first tap.
        vec![pictures.padding; reach(inner.len().max(1)) + (window.kernel[1] - 1) * right * channels]
    };
    let mut blocks = Vec::with_capacity(channels.div_ceil(D::LANES));
    for channel in geometry.depthwise_blocks(D::LANES) {
        // SAFETY: S is the instruction set that this is compiled for (see `dispatch`).
        blocks.push((channel, unsafe { layer.channels(channel, D::LANES.min(channels)) }));
    }
    let groups = window.kernel[0].div_ceil(D::ROWS);
    let mut taps = Vec::with_capacity(groups * window.kernel[1] * D::ROWS);
    let joined = D::LANES / channels;
    let joins = D::REPEATS && joined > 1 && D::LANES == joined * channels && window.stride[1] == 1 && right == 1;
    let whole = if joins { inner.len() / joined * joined } else { inner.len() };
    let first = inner.start..inner.start + whole;
    for y in rows.rows.clone() {
        let edges = (0..inner.start).chain(first.end..rows.width).map(|x| x..x + 1);
        for columns in std::iter::once(first.clone()).chain(edges).filter(|columns| !columns.is_empty()) {
            let reach = reach(columns.len());
            taps.clear();
            for group in 0..groups {
                // Where products want more rows than there are, the weights are 0 and any element does.
                let mut of_rows = [None; MAX_ROWS];
                for (r, row) in of_rows[..D::ROWS].iter_mut().enumerate() {
                    let down = (group * D::ROWS + r).min(window.kernel[0] - 1) * down;
                    let at = (y * window.stride[0] + down).checked_sub(window.pads[0]);
                    *row = at.filter(|&row| row < height).map(|row| match row.checked_sub(tail) {
                        Some(row) => &last_rows[row * row_len..],
                        None => &picture[row * row_len..],
                    });
                }
                for across in 0..window.kernel[1] {
                    let column = (columns.start * window.stride[1] + across * right).checked_sub(window.pads[1]);
                    let column = column.filter(|&column| column < width);
                    for row in &of_rows[..D::ROWS] {
                        let from = match (row, column) {
                            (Some(row), Some(column)) => &row[column * channels..],
                            _ => &outside,
                        };
                        assert!(reach <= from.len(), "a window reaches outside its input");
                        taps.push(from.as_ptr());
                    }
                }
            }
            let at = ((rows.picture * rows.height + y) * rows.width + columns.start) * channels;
            let joined = if joins && columns == first { joined } else { 1 };
            let stride = if right == 1 { joined * window.stride[1] } else { 0 };
            let (step, windows) = (joined * step, columns.len() / joined);
            let line = Line { taps: &taps, across: window.kernel[1], stride, step, windows, at, joined };
            // SAFETY: S is the instruction set that this is compiled for (see `dispatch`); the taps were found to
            // reach far enough, and so does the first of each row, up to the last; and parts of a call write rows of
            // their own, inside the output.
            unsafe { line_body::<S, _>(layer, &blocks, &line, target) };
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
