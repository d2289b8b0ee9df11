//! A grid as vectors: how numbers are put on it, and taken off again.

use super::Simd;
use crate::quant::{Affine, FakeQuantize, Rounding};

/// For what has no grid, and looks at none.
pub(super) const NO_GRID: Affine =
    Affine { scale: 1.0, zero_point: 0, quant_min: 0, quant_max: 255, rounding: Rounding::OnnxRuntime };

/// A grid as vectors, with the bounds of what is written.
#[derive(Clone, Copy)]
pub(super) struct Grid<S: Simd> {
    scale: S::F,
    /// `1 / scale`, or NaN where that is not a normal number.
    reciprocal: S::F,
    /// Bounds, in steps.
    low: S::F,
    high: S::F,
    minus_zero_point: S::I,
    /// What is added to a rounded number of steps, so that it counts from the zero point.
    from_zero_point: S::I,
    /// Whether the zero point is a part of what is rounded, as OpenVINO has it: `low`, `high` and `bounds` count from 0 then.
    openvino: bool,
    /// Whether OpenVINO rounds the product in it.
    rounds_product: bool,
    /// OpenVINO's, where it is; else not looked at.
    factor: S::F,
    offset: S::F,
    /// What a layer multiplies integers with for who reads them in fp32: the scale, or [`FakeQuantize::back`].
    back: S::F,
    /// What [`Grid::integer`] adds, and takes off again.
    shift: S::F,
    shift_back: S::F,
    bounds: S::Bounds,
}

/// 1.5·2²³: with a number below 2²² added to it an f32 has no place for fractions, and rounds to even.
const NO_FRACTIONS: f32 = 12_582_912.0;

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd> Grid<S> {
    #[inline(always)]
    pub(super) unsafe fn new(grid: &Affine, low: u8, high: u8) -> Grid<S> {
        let zero_point = i32::from(grid.zero_point);
        let reciprocal = Some(grid.scale.recip()).filter(|r| r.is_normal()).unwrap_or(f32::NAN);
        let openvino = grid.rounding.is_openvino();
        let (FakeQuantize { scale: factor, offset }, back) = match openvino {
            true => (FakeQuantize::of_tensor(grid), FakeQuantize::back(grid)),
            // The first is not looked at.
            false => (FakeQuantize::IDENTITY, grid.scale),
        };
        // What is added to rounded steps, and what they have in them.
        let (added, within) = if openvino { (0, zero_point) } else { (zero_point, 0) };
        // SAFETY: the caller's promise.
        unsafe {
            Grid {
                scale: S::splat(grid.scale),
                reciprocal: S::splat(reciprocal),
                low: S::splat((i32::from(low) - added) as f32),
                high: S::splat((i32::from(high) - added) as f32),
                minus_zero_point: S::splat_i(-zero_point),
                from_zero_point: S::splat_i(-within),
                openvino,
                rounds_product: grid.rounding == Rounding::OpenVinoStatic,
                factor: S::splat(factor),
                offset: S::splat(offset),
                back: S::splat(back),
                shift: S::splat(NO_FRACTIONS),
                // An integer, and so small that it is exact.
                shift_back: S::splat(zero_point as f32 - NO_FRACTIONS),
                bounds: S::bounds(added as u8, low, high),
            }
        }
    }

    /// [`Affine::quantize`] of four vectors, in the order of [`Simd::narrow`].
    ///
    /// Divides only where it matters: `x · (1 / scale)` is within 2⁻¹³ of the quotient wherever that is on a grid, and
    /// mostly so far from the middle between two integers that both round to the same.
    #[inline(always)]
    pub(super) unsafe fn quantize(&self, [a, b, c, d]: [S::F; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe {
            if self.openvino {
                return self.narrow([self.steps(a), self.steps(b), self.steps(c), self.steps(d)]);
            }
            let r = self.reciprocal;
            let mut steps = [S::mul(a, r), S::mul(b, r), S::mul(c, r), S::mul(d, r)];
            if !S::round_alike(steps) {
                let s = self.scale;
                steps = [S::div(a, s), S::div(b, s), S::div(c, s), S::div(d, s)];
            }
            self.narrow(steps)
        }
    }

    /// A tensor in steps with the zero point in them, as OpenVINO has it.
    #[inline(always)]
    unsafe fn steps(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            match self.rounds_product {
                true => S::add(S::mul(x, self.factor), self.offset),
                false => S::fma(x, self.factor, self.offset),
            }
        }
    }

    /// [`Affine::dequantize`] of a vector of integers in 0..=255.
    #[inline(always)]
    pub(super) unsafe fn dequantize(&self, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::to_float(S::add_i(q, self.minus_zero_point)), self.scale) }
    }

    /// As [`Grid::dequantize`], of what a layer writes.
    #[inline(always)]
    pub(super) unsafe fn written(&self, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::to_float(S::add_i(q, self.minus_zero_point)), self.back) }
    }

    /// `clamp(rne(x) + zero_point)` for `x` in steps of the grid, in the order of [`Simd::narrow`]; with OpenVINO's rounding the
    /// zero point is a part of `x`, here and in [`Grid::round`].
    #[inline(always)]
    pub(super) unsafe fn narrow(&self, x: [S::F; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { S::narrow(x, &self.bounds) }
    }

    /// `clamp(rne(x) + zero_point)` as a number, for `x` in steps of the grid, and ONNX Runtime's rounding.
    #[inline(always)]
    pub(super) unsafe fn integer(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::add(S::add(S::min(S::max(x, self.low), self.high), self.shift), self.shift_back) }
    }

    /// `rne(clamp(x))·scale` for `x` in steps of the grid: narrowed and dequantized; with OpenVINO's rounding the scale is that of
    /// [`FakeQuantize::back`].
    #[inline(always)]
    pub(super) unsafe fn round(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise. The bounds are integers, so clamping before rounding is the same.
        unsafe {
            let steps = S::add_i(S::round(S::min(S::max(x, self.low), self.high)), self.from_zero_point);
            S::mul(S::to_float(steps), self.back)
        }
    }
}

/// What quantizing and then clipping to `low..=high` leaves, which is one range.
pub(super) fn bounds(grid: &Affine, low: u8, high: u8) -> [u8; 2] {
    [grid.quant_min.max(low).min(high), grid.quant_max.max(low).min(high)]
}

/// A grid with its own bounds.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn whole<S: Simd>(grid: &Affine) -> Grid<S> {
    // SAFETY: the caller's promise.
    unsafe { Grid::new(grid, grid.quant_min, grid.quant_max) }
}
