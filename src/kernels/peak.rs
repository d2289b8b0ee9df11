//! How fast this CPU could be, by loops that stay in registers.

use std::{hint::black_box, time::Instant};

use super::{Kernels, Simd, dispatch};

/// Multiply-adds a second of one core that reads and writes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Of f32.
    pub float: f64,
    /// Of u8 × s8 → s32.
    pub integer: f64,
}

const ROUNDS: usize = 100_000;
const RUNS: usize = 15;

impl Kernels {
    /// The most multiply-adds a second that one core does with these kernels' instructions: the best of some runs.
    pub fn peak(self) -> Peak {
        let best = |run: fn(Kernels) -> usize| {
            let rate = |_| {
                let start = Instant::now();
                let products = run(self);
                products as f64 / start.elapsed().as_secs_f64()
            };
            (0..RUNS).map(rate).fold(0.0, f64::max)
        };
        let integer = best(integer_peak);
        #[cfg(target_arch = "x86_64")]
        let integer = match self.0 {
            // SAFETY: the kernels are made only where the CPU has AVX2.
            super::Isa::Avx2 => integer.max(best(|_| unsafe { super::paired::products(ROUNDS) })),
            _ => integer,
        };
        Peak { float: best(float_peak), integer }
    }
}

/// `X` vectors times two: as many sums as hide the latency of a product, each of another pair.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn float_products<S: Simd, const X: usize>() -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut x = [S::splat(0.5); X];
        for (i, x) in x.iter_mut().enumerate() {
            *x = S::splat(black_box(i as f32));
        }
        let w = [S::splat(black_box(0.25)), S::splat(black_box(0.75))];
        let mut sums = [[S::splat(0.0); 2]; X];
        for _ in 0..ROUNDS {
            for i in 0..X {
                sums[i] = [S::fma(x[i], w[0], sums[i][0]), S::fma(x[i], w[1], sums[i][1])];
            }
        }
        let mut out = [0.0; super::simd::MAX_LANES];
        for i in 0..X {
            S::store(out.as_mut_ptr(), S::add(sums[i][0], sums[i][1]));
            black_box(&out);
        }
    }
    ROUNDS * 2 * X * S::WIDTH
}

/// As [`float_products`]. The factors change from round to round, or their products would be taken out of the loop.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn integer_products<S: Simd, const X: usize>() -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let mut x = [S::splat_i(0); X];
        for (i, x) in x.iter_mut().enumerate() {
            *x = S::splat_i(black_box(i as i32));
        }
        let mut w = [S::splat_i(black_box(0x0101_0201)), S::splat_i(black_box(0x0102_0101))];
        let mut sums = [[S::splat_i(0); 2]; X];
        for _ in 0..ROUNDS {
            for i in 0..X {
                sums[i] = [S::dot(sums[i][0], x[i], w[0]), S::dot(sums[i][1], x[i], w[1])];
            }
            w = [S::add_i(w[0], w[0]), S::add_i(w[1], w[1])];
        }
        let mut out = [0.0; super::simd::MAX_LANES];
        for i in 0..X {
            S::store(out.as_mut_ptr(), S::to_float(S::add_i(sums[i][0], sums[i][1])));
            black_box(&out);
        }
    }
    ROUNDS * 2 * X * S::WIDTH * S::STEP
}

#[inline(always)]
fn float_peak_body<S: Simd>() -> usize {
    // SAFETY: S is what this is compiled for (see `dispatch`).
    unsafe { if S::PIXELS > 6 { float_products::<S, 8>() } else { float_products::<S, 4>() } }
}
dispatch!(fn float_peak() -> usize = float_peak_body);

#[inline(always)]
fn integer_peak_body<S: Simd>() -> usize {
    // SAFETY: as above.
    unsafe { if S::PIXELS > 6 { integer_products::<S, 8>() } else { integer_products::<S, 4>() } }
}
dispatch!(fn integer_peak() -> usize = integer_peak_body);
