//! What becomes of sums: bias, activation, requantization, and how they are written.

use super::{Activation, PackedFloat, PackedInteger, Simd};
use crate::quant::Affine;

/// Where a kernel writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32 elements.
    Float(&'a mut [f32]),
    /// Quantized elements.
    Quantized(&'a mut [u8]),
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

/// An output that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Float(*mut f32),
    Quantized(*mut u8),
}

// SAFETY: tasks of one call write disjoint elements (see `conv` and `depthwise`), while the call holds the one
// mutable borrow of the output.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Output<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Output::Float(y) => y.len(),
            Output::Quantized(y) => y.len(),
        }
    }

    /// Bytes of an element.
    pub(super) fn element(&self) -> usize {
        match self {
            Output::Float(_) => 4,
            Output::Quantized(_) => 1,
        }
    }

    /// Where to write. Whoever uses it keeps to the length and writes each element once at a time.
    pub(super) fn target(&mut self) -> Target {
        match self {
            Output::Float(y) => Target::Float(y.as_mut_ptr()),
            Output::Quantized(y) => Target::Quantized(y.as_mut_ptr()),
        }
    }
}

/// Lanes of the widest register tile.
pub(super) const MAX_LANES: usize = 32;

/// An epilogue for the sums of one instruction set. Its methods ask of their caller what those of [`Simd`] do.
pub(super) trait Epilogue<S: Simd> {
    type Sum: Copy;
    /// All that it needs to know of the channels of one tile, as vectors: what was read from memory in between
    /// stores would be read again and again.
    type Channels: Copy;

    /// Of the `lanes` channels from `channel` on.
    unsafe fn channels(&self, channel: usize, lanes: usize) -> Self::Channels;

    /// What sums begin with.
    unsafe fn start(channels: &Self::Channels) -> [Self::Sum; 2];

    /// Two vectors of results as f32 for an f32 output.
    unsafe fn floats(channels: &Self::Channels, sums: [Self::Sum; 2]) -> [S::F; 2];

    /// Two vectors of results in 0..=255 for a quantized output.
    unsafe fn integers(channels: &Self::Channels, sums: [Self::Sum; 2]) -> [S::I; 2];

    /// Writes results of `P` pixels, the first `lanes` channels of each, from element `at` on, `stride` elements from
    /// one pixel to the next.
    #[inline(always)]
    unsafe fn write<const P: usize>(
        channels: &Self::Channels,
        sums: &[[Self::Sum; 2]; P],
        target: Target,
        at: usize,
        stride: usize,
        lanes: usize,
    ) {
        let full = lanes == 2 * S::WIDTH;
        // SAFETY: the caller's promise: the target holds `lanes` elements at each pixel, and nothing else uses them
        // now. What is not full goes through an array of all lanes.
        unsafe {
            match target {
                Target::Float(y) if full => {
                    for p in 0..P {
                        let [a, b] = Self::floats(channels, sums[p]);
                        S::store(y.add(at + p * stride), a);
                        S::store(y.add(at + p * stride + S::WIDTH), b);
                    }
                }
                Target::Float(y) => {
                    for p in 0..P {
                        let mut all = [0.0; MAX_LANES];
                        let [a, b] = Self::floats(channels, sums[p]);
                        S::store(all.as_mut_ptr(), a);
                        S::store(all.as_mut_ptr().add(S::WIDTH), b);
                        y.add(at + p * stride).copy_from_nonoverlapping(all.as_ptr(), lanes);
                    }
                }
                Target::Quantized(y) if full => {
                    for p in 0..P {
                        S::store_bytes(y.add(at + p * stride), Self::integers(channels, sums[p]));
                    }
                }
                Target::Quantized(y) => {
                    for p in 0..P {
                        let mut all = [0; MAX_LANES];
                        S::store_bytes(all.as_mut_ptr(), Self::integers(channels, sums[p]));
                        y.add(at + p * stride).copy_from_nonoverlapping(all.as_ptr(), lanes);
                    }
                }
            }
        }
    }
}

/// Elements of a tile's channels, followed by zeros where there are fewer than lanes.
#[inline(always)]
pub(super) fn of_tile<T: Copy + Default>(values: &[T], channel: usize, lanes: usize) -> [T; MAX_LANES] {
    let mut tile = [T::default(); MAX_LANES];
    tile[..lanes].copy_from_slice(&values[channel..channel + lanes]);
    tile
}

/// The bias and epilogue of a layer in f32.
pub(super) struct FloatLayer<'a> {
    pub packed: &'a PackedFloat,
    pub epilogue: FloatEpilogue,
}

/// What [`FloatLayer`] knows of a tile.
#[derive(Clone, Copy)]
pub(super) struct FloatChannels<S: Simd> {
    bias: [S::F; 2],
    min: S::F,
    max: S::F,
    grid: Grid<S>,
}

impl<S: Simd> Epilogue<S> for FloatLayer<'_> {
    type Sum = S::F;
    type Channels = FloatChannels<S>;

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> FloatChannels<S> {
        let bias = of_tile(&self.packed.bias, channel, lanes);
        let FloatEpilogue { min, max, grid } = self.epilogue;
        // Checked where the call begins: a quantized output has a grid. Another output does not look at it.
        let grid = grid.unwrap_or(Affine { scale: 1.0, zero_point: 0, quant_min: 0, quant_max: 255 });
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe {
            FloatChannels {
                bias: [S::load(bias.as_ptr()), S::load(bias.as_ptr().add(S::WIDTH))],
                min: S::splat(min),
                max: S::splat(max),
                grid: Grid::new(&grid, grid.quant_min, grid.quant_max),
            }
        }
    }

    #[inline(always)]
    unsafe fn start(_: &FloatChannels<S>) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::splat(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn floats(channels: &FloatChannels<S>, sums: [S::F; 2]) -> [S::F; 2] {
        let &FloatChannels { bias, min, max, .. } = channels;
        // SAFETY: the caller's promise.
        unsafe {
            [S::min(S::max(S::add(sums[0], bias[0]), min), max), S::min(S::max(S::add(sums[1], bias[1]), min), max)]
        }
    }

    #[inline(always)]
    unsafe fn integers(channels: &FloatChannels<S>, sums: [S::F; 2]) -> [S::I; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = <Self as Epilogue<S>>::floats(channels, sums);
            [channels.grid.quantize(a), channels.grid.quantize(b)]
        }
    }
}

impl FloatEpilogue {
    /// `min(max(x, min), max)`; a NaN becomes `min`.
    #[inline(always)]
    pub fn clip(&self, x: f32) -> f32 {
        let x = if x > self.min { x } else { self.min };
        if x < self.max { x } else { self.max }
    }
}

/// A grid as vectors, with the bounds of what is written.
#[derive(Clone, Copy)]
pub(super) struct Grid<S: Simd> {
    scale: S::F,
    /// Bounds in steps from the zero point.
    low: S::F,
    high: S::F,
    zero_point: S::I,
    minus_zero_point: S::I,
}

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd> Grid<S> {
    #[inline(always)]
    pub(super) unsafe fn new(grid: &Affine, low: u8, high: u8) -> Grid<S> {
        let zero_point = i32::from(grid.zero_point);
        // SAFETY: the caller's promise.
        unsafe {
            Grid {
                scale: S::splat(grid.scale),
                low: S::splat((i32::from(low) - zero_point) as f32),
                high: S::splat((i32::from(high) - zero_point) as f32),
                zero_point: S::splat_i(zero_point),
                minus_zero_point: S::splat_i(-zero_point),
            }
        }
    }

    /// [`Affine::quantize`] of a vector.
    #[inline(always)]
    pub(super) unsafe fn quantize(&self, x: S::F) -> S::I {
        // SAFETY: the caller's promise.
        unsafe { self.clamp(S::div(x, self.scale)) }
    }

    /// [`Affine::dequantize`] of a vector of integers in 0..=255.
    #[inline(always)]
    pub(super) unsafe fn dequantize(&self, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::to_float(S::add_i(q, self.minus_zero_point)), self.scale) }
    }

    /// `rne(clamp(x))` plus the zero point, in 0..=255, for `x` in steps of the grid.
    #[inline(always)]
    pub(super) unsafe fn clamp(&self, x: S::F) -> S::I {
        // SAFETY: the caller's promise. The bounds are integers, so clamping before rounding is the same.
        unsafe { S::add_i(S::round(S::min(S::max(x, self.low), self.high)), self.zero_point) }
    }
}

/// The epilogue of a layer in integers.
pub(super) struct IntegerLayer<'a> {
    pub packed: &'a PackedInteger,
    pub epilogue: &'a IntegerEpilogue,
}

/// What [`IntegerLayer`] knows of a tile.
#[derive(Clone, Copy)]
pub(super) struct IntegerChannels<S: Simd> {
    constants: [S::I; 2],
    multipliers: [S::F; 2],
    grid: Grid<S>,
}

impl<S: Simd> Epilogue<S> for IntegerLayer<'_> {
    type Sum = S::I;
    type Channels = IntegerChannels<S>;

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> IntegerChannels<S> {
        let mut constants = of_tile(&self.epilogue.constants, channel, lanes);
        if S::Activation::SHIFT != 0 {
            let sums = of_tile(&self.packed.sums, channel, lanes);
            constants.iter_mut().zip(sums).for_each(|(c, sum)| *c = c.wrapping_add(S::Activation::SHIFT * sum));
        }
        let multipliers = of_tile(&self.epilogue.multipliers, channel, lanes);
        let &IntegerEpilogue { grid, low, high, .. } = self.epilogue;
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe {
            IntegerChannels {
                constants: [S::load_i(constants.as_ptr()), S::load_i(constants.as_ptr().add(S::WIDTH))],
                multipliers: [S::load(multipliers.as_ptr()), S::load(multipliers.as_ptr().add(S::WIDTH))],
                grid: Grid::new(&grid, low, high),
            }
        }
    }

    #[inline(always)]
    unsafe fn start(channels: &IntegerChannels<S>) -> [S::I; 2] {
        channels.constants
    }

    #[inline(always)]
    unsafe fn floats(channels: &IntegerChannels<S>, sums: [S::I; 2]) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = <Self as Epilogue<S>>::integers(channels, sums);
            [channels.grid.dequantize(a), channels.grid.dequantize(b)]
        }
    }

    #[inline(always)]
    unsafe fn integers(channels: &IntegerChannels<S>, sums: [S::I; 2]) -> [S::I; 2] {
        let &IntegerChannels { multipliers, grid, .. } = channels;
        // SAFETY: the caller's promise.
        unsafe {
            [
                grid.clamp(S::mul(S::to_float(sums[0]), multipliers[0])),
                grid.clamp(S::mul(S::to_float(sums[1]), multipliers[1])),
            ]
        }
    }
}
