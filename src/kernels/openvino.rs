//! What OpenVINO makes of the sums of a layer in integers: [`FakeQuantize`] and [`FusedSum`] as vectors.

use super::{
    Simd,
    epilogue::{Form, IntegerResidual},
    grid::NO_GRID,
};
use crate::quant::{FakeQuantize, FusedSum};

/// What becomes of the products of `N` vectors of channels as in OpenVINO. Its methods ask of their caller what those of
/// [`Simd`] do.
#[derive(Clone, Copy)]
pub(super) struct OpenVino<S: Simd, const N: usize> {
    biases: [S::F; N],
    /// [`FakeQuantize`] of what is rounded. Where it is not yet, nothing: 1 and 0.
    scale: S::F,
    offset: S::F,
    /// [`FusedSum`] of what is added.
    minus_shift: S::F,
    reciprocal: S::F,
    sum_scale: S::F,
    sum_offset: S::F,
    rounds_product: bool,
}

impl<S: Simd, const N: usize> OpenVino<S, N> {
    /// Of a layer with these biases.
    #[inline(always)]
    pub(super) unsafe fn new(biases: [S::F; N], form: Form, residual: Option<&IntegerResidual<'_>>) -> OpenVino<S, N> {
        let FakeQuantize { scale, offset } = match form {
            Form::Rounded { grid, .. } => FakeQuantize::of_layer(&grid, 1.0),
            Form::Float { .. } => FakeQuantize { scale: 1.0, offset: 0.0 },
        };
        // Of what is not added nothing is asked.
        let (x_grid, grid) = residual.map_or((NO_GRID, NO_GRID), |r| (r.x_grid, r.grid));
        let FusedSum { shift, reciprocal, quantize, rounds_product } = FusedSum::new(&x_grid, &grid);
        // SAFETY: the caller's promise.
        unsafe {
            OpenVino {
                biases,
                scale: S::splat(scale),
                offset: S::splat(offset),
                minus_shift: S::splat(-shift),
                reciprocal: S::splat(reciprocal),
                sum_scale: S::splat(quantize.scale),
                sum_offset: S::splat(quantize.offset),
                rounds_product,
            }
        }
    }

    /// Products of the `N`th vector with their bias; in steps of the grid where there is one.
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
            let shifted = S::mul(S::add(v, self.minus_shift), self.reciprocal);
            let sum = S::add(shifted, S::to_float(q));
            match self.rounds_product {
                true => S::add(S::mul(sum, self.sum_scale), self.sum_offset),
                false => S::fma(sum, self.sum_scale, self.sum_offset),
            }
        }
    }
}
