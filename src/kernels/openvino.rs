//! What OpenVINO makes of the sums of a layer in integers: [`FakeQuantize`] and [`FusedSum`] as vectors.

use super::{Simd, epilogue::IntegerResidual, grid::NO_GRID};
use crate::quant::{FakeQuantize, FusedSum};

/// What becomes of the products of `N` vectors of channels as in OpenVINO. Its methods ask of their caller what those of
/// [`Simd`] do.
#[derive(Clone, Copy)]
pub(super) struct OpenVino<S: Simd, const N: usize> {
    biases: [S::F; N],
    /// To steps, where they are not yet.
    scale: S::F,
    offset: S::F,
    /// [`FusedSum`] of what is added.
    layer_scale: S::F,
    layer_offset: S::F,
    low: S::F,
    high: S::F,
    sum_scale: S::F,
    sum_offset: S::F,
}

impl<S: Simd, const N: usize> OpenVino<S, N> {
    /// Of a layer with these biases.
    #[inline(always)]
    pub(super) unsafe fn new(
        biases: [S::F; N],
        FakeQuantize { scale, offset }: FakeQuantize,
        residual: Option<&IntegerResidual<'_>>,
    ) -> OpenVino<S, N> {
        // Of what is not added nothing is asked.
        let grids = residual.and_then(|r| Some([r.layer?, r.x_grid, r.grid])).unwrap_or([NO_GRID; 3]);
        let FusedSum { layer, low, high, sum } = FusedSum::new(&grids[0], &grids[1], &grids[2]);
        // SAFETY: the caller's promise.
        unsafe {
            OpenVino {
                biases,
                scale: S::splat(scale),
                offset: S::splat(offset),
                layer_scale: S::splat(layer.scale),
                layer_offset: S::splat(layer.offset),
                low: S::splat(low),
                high: S::splat(high),
                sum_scale: S::splat(sum.scale),
                sum_offset: S::splat(sum.offset),
            }
        }
    }

    /// Products of the `N`th vector with their bias, in steps of the grid where there is one.
    #[inline(always)]
    pub(super) unsafe fn steps(&self, products: S::F, vector: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::fma(S::add(products, self.biases[vector]), self.scale, self.offset) }
    }

    /// [`FusedSum::steps`].
    #[inline(always)]
    pub(super) unsafe fn sum(&self, v: S::F, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            let own = S::fma(v, self.layer_scale, self.layer_offset);
            let sum = S::add(S::min(S::max(own, self.low), self.high), S::to_float(q));
            S::fma(sum, self.sum_scale, self.sum_offset)
        }
    }
}
