//! Weights in the order that kernels read them.

#[cfg(target_arch = "x86_64")]
use super::{Isa, paired::Paired};
use super::{Kernels, Simd, dispatch, simd::Weight};
use crate::graph::Window;

/// What a convolution connects; a linear layer is one with a 1×1 window over one pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Groups; both channel counts are multiples of it.
    pub groups: usize,
    /// Where the window moves.
    pub window: Window,
}

/// f32 weights and biases, packed for one set of kernels.
#[derive(Clone, Debug)]
pub struct PackedFloat {
    pub(super) kernels: Kernels,
    pub(super) geometry: Geometry,
    pub(super) weights: Lines<f32>,
    pub(super) bias: Vec<f32>,
}

/// s8 weights, packed for one set of kernels, and their sums.
#[derive(Clone, Debug)]
pub struct PackedInteger {
    pub(super) kernels: Kernels,
    pub(super) geometry: Geometry,
    pub(super) weights: Integers,
    /// `Σ w` of each output channel: what a zero point is multiplied with.
    pub(super) sums: Vec<i32>,
    /// `Σ w` of each tap, `[tap][out]`, where there is padding that windows can leave out.
    pub(super) tap_sums: Vec<i32>,
}

/// Packed integers as an instruction set multiplies them.
#[derive(Clone, Debug)]
pub(super) enum Integers {
    Bytes(Lines<i8>),
    Words(Lines<i16>),
    /// For AVX2, where that gains.
    #[cfg(target_arch = "x86_64")]
    Paired(Paired),
}

/// Elements that begin at a cache line, so that no vector of them lies across two.
#[derive(Clone, Debug)]
pub(super) struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    elements: std::marker::PhantomData<T>,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Types of which every pattern of bits is a value.
pub(super) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for i8 {}
impl Plain for i16 {}

impl<T: Plain> Lines<T> {
    /// So many zeros.
    fn zeros(len: usize) -> Lines<T> {
        let lines = vec![Line([0; 64]); (len * size_of::<T>()).div_ceil(64)];
        Lines { lines, len, elements: std::marker::PhantomData }
    }

    /// A copy of these.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of(elements: &[T]) -> Lines<T> {
        let mut lines = Lines::zeros(elements.len());
        lines.as_mut_slice().copy_from_slice(elements);
        lines
    }

    pub(super) fn as_slice(&self) -> &[T] {
        // SAFETY: the lines are at least `len` elements long, aligned to more than T, initialized, and any bits are a T.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Geometry {
    /// Input channels of one group.
    pub fn in_per_group(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of one group.
    pub fn out_per_group(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Whether each channel is its own group.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Whether each output pixel reads the one input pixel at its place.
    pub fn is_pointwise(&self) -> bool {
        let window = self.window;
        window.kernel == [1, 1] && window.stride == [1, 1] && window.pads == [0; 4]
    }

    pub(super) fn taps(&self) -> usize {
        self.window.kernel[0] * self.window.kernel[1]
    }

    /// How a dense kernel walks through the window: so many runs of adjacent elements, each so long. Without groups
    /// or horizontal dilation the taps of a row are adjacent, and the row is one run.
    pub(super) fn runs(&self) -> [usize; 2] {
        let [rows, columns] = self.window.kernel;
        if self.groups == 1 && (self.window.dilation[1] == 1 || columns == 1) {
            [rows, columns * self.in_channels]
        } else {
            [rows * columns, self.in_per_group()]
        }
    }

    /// Blocks of `lanes` output channels in one group.
    pub(super) fn blocks(&self, lanes: usize) -> usize {
        self.out_per_group().div_ceil(lanes)
    }

    /// The first channel of each block of `lanes` channels of a depthwise convolution. The last block is full too:
    /// it begins earlier, and repeats channels of the one before, unless there are fewer channels than lanes.
    pub(super) fn depthwise_blocks(&self, lanes: usize) -> impl Iterator<Item = usize> + use<> {
        let last = self.out_channels.saturating_sub(lanes);
        (0..self.out_channels.div_ceil(lanes)).map(move |block| (block * lanes).min(last))
    }

    /// `weight[o][i][tap]` (row-major) as `[group][block][run][element / step][lane][step]`, zero where a block or a
    /// step is not full.
    pub(super) fn dense<T: Copy, U: Plain>(
        &self,
        weight: &[T],
        [lanes, step]: [usize; 2],
        convert: impl Fn(T) -> U,
    ) -> Lines<U> {
        let [runs, run] = self.runs();
        let (taps, per_group) = (self.taps(), self.in_per_group());
        let taps_per_run = taps / runs;
        let block_len = runs * run.next_multiple_of(step) * lanes;
        let mut packed = Lines::zeros(self.groups * self.blocks(lanes) * block_len);
        let out = packed.as_mut_slice();
        for o in 0..self.out_channels {
            let (group, within) = (o / self.out_per_group(), o % self.out_per_group());
            let (block, lane) = (group * self.blocks(lanes) + within / lanes, within % lanes);
            for i in 0..per_group {
                for tap in 0..taps {
                    let element = tap % taps_per_run * per_group + i;
                    let steps = tap / taps_per_run * run.div_ceil(step) + element / step;
                    let at = (steps * lanes + lane) * step + element % step;
                    out[block * block_len + at] = convert(weight[(o * per_group + i) * taps + tap]);
                }
            }
        }
        packed
    }

    /// `weight[o][tap]` of a depthwise convolution as `[block][tap][lane]`.
    fn by_tap(&self, weight: &[f32], lanes: usize) -> Lines<f32> {
        let taps = self.taps();
        let mut packed = Lines::zeros(self.out_channels.div_ceil(lanes) * taps * lanes);
        let blocks = packed.as_mut_slice().chunks_exact_mut(taps * lanes);
        for (out, first) in blocks.zip(self.depthwise_blocks(lanes)) {
            for channel in first..(first + lanes).min(self.out_channels) {
                for tap in 0..taps {
                    out[tap * lanes + channel - first] = weight[channel * taps + tap];
                }
            }
        }
        packed
    }

    /// `weight[o][tap]` of a depthwise convolution for products of [`Simd::column`]: as
    /// `[block][rows / ROWS][column][vector][lane][ROWS]`, lanes in the order of [`Simd::depthwise_channel`].
    fn by_column<S: Simd>(&self, weight: &[i8]) -> Lines<S::Weight>
    where
        S::Weight: Plain,
    {
        let ([rows, across], lanes) = (self.window.kernel, 4 * S::WIDTH);
        let block_len = rows.next_multiple_of(S::ROWS) * across * lanes;
        let mut packed = Lines::zeros(self.out_channels.div_ceil(lanes) * block_len);
        let blocks = packed.as_mut_slice().chunks_exact_mut(block_len);
        for (out, first) in blocks.zip(self.depthwise_blocks(lanes)) {
            for lane in 0..lanes {
                // Fewer channels than lanes are repeated: several windows may fill a block.
                let channel = S::depthwise_channel(lane / S::WIDTH, lane % S::WIDTH) % self.out_channels + first;
                for tap in 0..rows * across {
                    let (row, column) = (tap / across, tap % across);
                    let product = row / S::ROWS * across + column;
                    let at = (product * lanes + lane) * S::ROWS + row % S::ROWS;
                    out[at] = S::Weight::of(weight[channel * rows * across + tap]);
                }
            }
        }
        packed
    }
}

#[inline(always)]
fn pack_float_body<S: Simd>(geometry: Geometry, weight: &[f32]) -> Lines<f32> {
    let lanes = 2 * S::WIDTH;
    if geometry.is_depthwise() { geometry.by_tap(weight, lanes) } else { geometry.dense(weight, [lanes, 1], |w| w) }
}
dispatch!(fn pack_float(geometry: Geometry, weight: &[f32]) -> Lines<f32> = pack_float_body);

#[inline(always)]
fn pack_integer_body<S: Simd>(geometry: Geometry, weight: &[i8]) -> Integers {
    S::Weight::packed(if geometry.is_depthwise() {
        geometry.by_column::<S>(weight)
    } else {
        geometry.dense(weight, [2 * S::WIDTH, S::STEP], S::Weight::of)
    })
}
dispatch!(fn pack_integer(geometry: Geometry, weight: &[i8]) -> Integers = pack_integer_body);

/// As these kernels multiply them fastest.
fn pack(kernels: Kernels, geometry: Geometry, weight: &[i8]) -> Integers {
    #[cfg(target_arch = "x86_64")]
    if kernels.0 == Isa::Avx2
        && !geometry.is_depthwise()
        && let Some(paired) = Paired::new(&geometry, weight)
    {
        return Integers::Paired(paired);
    }
    pack_integer(kernels, geometry, weight)
}

impl PackedFloat {
    /// Packs `weight[out][in / groups][height][width]` (row-major) and one bias a channel, 0 when absent.
    ///
    /// # Panics
    /// When the weight has another length than the geometry says.
    pub fn new(kernels: Kernels, geometry: Geometry, weight: &[f32], bias: Option<&[f32]>) -> PackedFloat {
        assert_eq!(weight.len(), geometry.out_channels * geometry.in_per_group() * geometry.taps());
        let bias = bias.map_or_else(|| vec![0.0; geometry.out_channels], <[f32]>::to_vec);
        PackedFloat { kernels, geometry, weights: pack_float(kernels, geometry, weight), bias }
    }

    /// What it connects.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl PackedInteger {
    /// Packs `weight[out][in / groups][height][width]` (row-major).
    ///
    /// # Panics
    /// When the weight has another length than the geometry says.
    pub fn new(kernels: Kernels, geometry: Geometry, weight: &[i8]) -> PackedInteger {
        let per_channel = geometry.in_per_group() * geometry.taps();
        assert_eq!(weight.len(), geometry.out_channels * per_channel);
        let sums = weight.chunks(per_channel).map(|w| w.iter().map(|&w| i32::from(w)).sum()).collect();
        let mut tap_sums = Vec::new();
        if geometry.window.pads != [0; 4] && !geometry.is_depthwise() {
            let (taps, out) = (geometry.taps(), geometry.out_channels);
            tap_sums.resize(taps * out, 0);
            for (at, &w) in weight.iter().enumerate() {
                tap_sums[at % taps * out + at / per_channel] += i32::from(w);
            }
        }
        PackedInteger { kernels, geometry, weights: pack(kernels, geometry, weight), sums, tap_sums }
    }

    /// What it connects.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// `Σ w` of each output channel.
    pub fn sums(&self) -> &[i32] {
        &self.sums
    }
}
