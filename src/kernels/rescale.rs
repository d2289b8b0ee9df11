//! Sums and products of integers of two grids, on a third.

use super::Simd;
use crate::quant::{AddMultipliers, Affine, PairSum, requantization_multiplier};

/// [`AddMultipliers`] as vectors, with the bounds of what is written. Its methods ask of their caller what those of
/// [`Simd`] do.
#[derive(Clone, Copy)]
pub(super) struct Sum<S: Simd> {
    a: S::F,
    b: S::F,
    offset: S::F,
    bounds: S::Bounds,
    /// [`PairSum`] where OpenVINO rounds: of the first, and of both.
    openvino: Option<[[S::F; 2]; 2]>,
}

impl<S: Simd> Sum<S> {
    /// Of integers on the grids `a` and `b`, on the grid `out`.
    #[inline(always)]
    pub(super) unsafe fn new([a, b, out]: &[Affine; 3], [low, high]: [u8; 2]) -> Sum<S> {
        let openvino = out.rounding.is_openvino().then(|| PairSum::new(a, b, out));
        let AddMultipliers { a, b, offset } = AddMultipliers::new(a, b, out);
        // SAFETY: the caller's promise. The offset has the zero point in it.
        unsafe {
            Sum {
                a: S::splat(a),
                b: S::splat(b),
                offset: S::splat(offset),
                bounds: S::bounds(0, low, high),
                openvino: openvino.map(|PairSum { a, sum }| [a, sum].map(|f| [S::splat(f.scale), S::splat(f.offset)])),
            }
        }
    }

    /// Integers of both grids, as numbers; the sum is in steps of the output's grid, and not rounded.
    #[inline(always)]
    pub(super) unsafe fn steps(&self, a: S::F, b: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::fma(a, self.a, S::fma(b, self.b, self.offset)) }
    }

    /// Rounds four vectors of [`Sum::steps`], in the order of [`Simd::narrow`].
    #[inline(always)]
    pub(super) unsafe fn round(&self, steps: [S::F; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { S::narrow(steps, &self.bounds) }
    }

    /// Sums of four vectors, in the order of [`Simd::narrow`].
    #[inline(always)]
    pub(super) unsafe fn narrow(&self, a: [S::I; 4], b: [S::I; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some([first, both]) = self.openvino {
                let steps = |a: S::I, b: S::I| {
                    let sum = S::add(S::fma(S::to_float(a), first[0], first[1]), S::to_float(b));
                    S::fma(sum, both[0], both[1])
                };
                return self.round([steps(a[0], b[0]), steps(a[1], b[1]), steps(a[2], b[2]), steps(a[3], b[3])]);
            }
            self.round([
                self.steps(S::to_float(a[0]), S::to_float(b[0])),
                self.steps(S::to_float(a[1]), S::to_float(b[1])),
                self.steps(S::to_float(a[2]), S::to_float(b[2])),
                self.steps(S::to_float(a[3]), S::to_float(b[3])),
            ])
        }
    }
}

/// `clamp(rne((a − z_a)·(b − z_b)·m + z_y))` with `m` of [`requantization_multiplier`]. Its methods ask of their caller
/// what those of [`Simd`] do.
#[derive(Clone, Copy)]
pub(super) struct Product<S: Simd> {
    minus_a: S::I,
    minus_b: S::I,
    multiplier: S::F,
    zero_point: S::F,
    bounds: S::Bounds,
}

impl<S: Simd> Product<S> {
    /// Of integers on the grids `a` and `b`, on the grid `out`.
    #[inline(always)]
    pub(super) unsafe fn new([a, b, out]: &[Affine; 3], [low, high]: [u8; 2]) -> Product<S> {
        // SAFETY: the caller's promise.
        unsafe {
            Product {
                minus_a: S::splat_i(-i32::from(a.zero_point)),
                minus_b: S::splat_i(-i32::from(b.zero_point)),
                multiplier: S::splat(requantization_multiplier(a.scale, b.scale, out.scale)),
                zero_point: S::splat(f32::from(out.zero_point)),
                bounds: S::bounds(0, low, high),
            }
        }
    }

    /// Products of four vectors, in the order of [`Simd::narrow`].
    #[inline(always)]
    pub(super) unsafe fn narrow(&self, a: [S::I; 4], b: [S::I; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe {
            S::narrow(
                [self.steps(a[0], b[0]), self.steps(a[1], b[1]), self.steps(a[2], b[2]), self.steps(a[3], b[3])],
                &self.bounds,
            )
        }
    }

    #[inline(always)]
    unsafe fn steps(&self, a: S::I, b: S::I) -> S::F {
        // SAFETY: the caller's promise. The product of two numbers below 2⁸ is exact.
        unsafe {
            let (a, b) = (S::to_float(S::add_i(a, self.minus_a)), S::to_float(S::add_i(b, self.minus_b)));
            S::add(S::mul(S::mul(a, b), self.multiplier), self.zero_point)
        }
    }
}
