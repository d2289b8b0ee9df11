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
    /// What it needs to know of the channels of one tile.
    type Channels: Copy;

    /// Of the `lanes` channels from `channel` on.
    unsafe fn channels(&self, channel: usize, lanes: usize) -> Self::Channels;

    /// Two vectors of results as f32 for an f32 output.
    unsafe fn floats(&self, channels: &Self::Channels, sums: [Self::Sum; 2]) -> [S::F; 2];

    /// Two vectors of results in 0..=255 for a quantized output.
    unsafe fn integers(&self, channels: &Self::Channels, sums: [Self::Sum; 2]) -> [S::I; 2];

    /// Writes results of one pixel, its first `lanes`, from element `at` on.
    #[inline(always)]
    unsafe fn write(&self, channels: &Self::Channels, sums: [Self::Sum; 2], target: Target, at: usize, lanes: usize) {
        let full = lanes == 2 * S::WIDTH;
        // SAFETY: the caller's promise: the target holds elements `at..at + lanes`, and nothing else uses them now.
        unsafe {
            match target {
                Target::Float(y) => {
                    let mut rest = [0.0; MAX_LANES];
                    let to = if full { y.add(at) } else { rest.as_mut_ptr() };
                    let [a, b] = self.floats(channels, sums);
                    S::store(to, a);
                    S::store(to.add(S::WIDTH), b);
                    if !full {
                        y.add(at).copy_from_nonoverlapping(rest.as_ptr(), lanes);
                    }
                }
                Target::Quantized(y) => {
                    let mut rest = [0; MAX_LANES];
                    let to = if full { y.add(at) } else { rest.as_mut_ptr() };
                    S::store_bytes(to, self.integers(channels, sums));
                    if !full {
                        y.add(at).copy_from_nonoverlapping(rest.as_ptr(), lanes);
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

impl<S: Simd> Epilogue<S> for FloatLayer<'_> {
    type Sum = S::F;
    type Channels = [S::F; 2];

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> [S::F; 2] {
        let bias = of_tile(&self.packed.bias, channel, lanes);
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe { [S::load(bias.as_ptr()), S::load(bias.as_ptr().add(S::WIDTH))] }
    }

    #[inline(always)]
    unsafe fn floats(&self, bias: &[S::F; 2], sums: [S::F; 2]) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            [
                self.epilogue.clip_vector::<S>(S::add(sums[0], bias[0])),
                self.epilogue.clip_vector::<S>(S::add(sums[1], bias[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn integers(&self, bias: &[S::F; 2], sums: [S::F; 2]) -> [S::I; 2] {
        // Checked where the call begins: a quantized output has a grid.
        let Some(grid) = &self.epilogue.grid else { unreachable!("a quantized output without a grid") };
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = Epilogue::<S>::floats(self, bias, sums);
            [quantize_vector::<S>(a, grid), quantize_vector::<S>(b, grid)]
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

    /// [`FloatEpilogue::clip`] of a vector.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn clip_vector<S: Simd>(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::min(S::max(x, S::splat(self.min)), S::splat(self.max)) }
    }
}

/// [`Affine::quantize`] of a vector.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn quantize_vector<S: Simd>(x: S::F, grid: &Affine) -> S::I {
    // SAFETY: the caller's promise.
    unsafe { clamp_vector::<S>(S::div(x, S::splat(grid.scale)), grid, grid.quant_min, grid.quant_max) }
}

/// [`Affine::dequantize`] of a vector of integers in 0..=255.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn dequantize_vector<S: Simd>(q: S::I, grid: &Affine) -> S::F {
    // SAFETY: the caller's promise.
    unsafe { S::mul(S::to_float(S::add_i(q, S::splat_i(-i32::from(grid.zero_point)))), S::splat(grid.scale)) }
}

/// `rne(clamp(x))` plus the zero point, in 0..=255, for `x` in steps of the grid.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn clamp_vector<S: Simd>(x: S::F, grid: &Affine, low: u8, high: u8) -> S::I {
    let zero_point = f32::from(grid.zero_point);
    let (low, high) = (f32::from(low) - zero_point, f32::from(high) - zero_point);
    // SAFETY: the caller's promise. The bounds are integers, so clamping before rounding is the same.
    unsafe {
        let x = S::min(S::max(x, S::splat(low)), S::splat(high));
        S::add_i(S::round(x), S::splat_i(i32::from(grid.zero_point)))
    }
}

/// The epilogue of a layer in integers.
pub(super) struct IntegerLayer<'a> {
    pub packed: &'a PackedInteger,
    pub epilogue: &'a IntegerEpilogue,
}

impl<S: Simd> Epilogue<S> for IntegerLayer<'_> {
    type Sum = S::I;
    type Channels = ([S::I; 2], [S::F; 2]);

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> Self::Channels {
        let mut constants = of_tile(&self.epilogue.constants, channel, lanes);
        if S::Activation::SHIFT != 0 {
            let sums = of_tile(&self.packed.sums, channel, lanes);
            constants.iter_mut().zip(sums).for_each(|(c, sum)| *c = c.wrapping_add(S::Activation::SHIFT * sum));
        }
        let multipliers = of_tile(&self.epilogue.multipliers, channel, lanes);
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe {
            let constants = [S::load_i(constants.as_ptr()), S::load_i(constants.as_ptr().add(S::WIDTH))];
            (constants, [S::load(multipliers.as_ptr()), S::load(multipliers.as_ptr().add(S::WIDTH))])
        }
    }

    #[inline(always)]
    unsafe fn floats(&self, channels: &Self::Channels, sums: [S::I; 2]) -> [S::F; 2] {
        let grid = &self.epilogue.grid;
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = Epilogue::<S>::integers(self, channels, sums);
            [dequantize_vector::<S>(a, grid), dequantize_vector::<S>(b, grid)]
        }
    }

    #[inline(always)]
    unsafe fn integers(&self, (constants, multipliers): &Self::Channels, sums: [S::I; 2]) -> [S::I; 2] {
        let &IntegerEpilogue { grid, low, high, .. } = self.epilogue;
        // SAFETY: the caller's promise.
        unsafe {
            let a = S::mul(S::to_float(S::add_i(sums[0], constants[0])), multipliers[0]);
            let b = S::mul(S::to_float(S::add_i(sums[1], constants[1])), multipliers[1]);
            [clamp_vector::<S>(a, &grid, low, high), clamp_vector::<S>(b, &grid, low, high)]
        }
    }
}
