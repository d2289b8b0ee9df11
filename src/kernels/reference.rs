//! Plain tiles for any CPU.

use super::{LANES, Tile};

/// Tiles in portable Rust.
pub(super) struct Reference;

impl Tile for Reference {
    #[inline(always)]
    unsafe fn float<const P: usize>(
        x: &[f32],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[f32],
    ) -> [[f32; LANES]; P] {
        let mut acc = [[0.0f32; LANES]; P];
        for (&tap, w) in taps.iter().zip(w.chunks_exact(channels * LANES)) {
            for (c, w) in w.chunks_exact(LANES).enumerate() {
                for (acc, base) in acc.iter_mut().zip(bases) {
                    let v = x[base + tap + c];
                    acc.iter_mut().zip(w).for_each(|(a, &w)| *a = v.mul_add(w, *a));
                }
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn integer<const P: usize>(
        x: &[i16],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[i16],
    ) -> [[i32; LANES]; P] {
        let mut acc = [[0i32; LANES]; P];
        for (&tap, w) in taps.iter().zip(w.chunks_exact(channels * LANES)) {
            for (pair, w) in w.chunks_exact(2 * LANES).enumerate() {
                for (acc, base) in acc.iter_mut().zip(bases) {
                    let at = base + tap + 2 * pair;
                    let (a, b) = (i32::from(x[at]), i32::from(x[at + 1]));
                    for (acc, w) in acc.iter_mut().zip(w.chunks_exact(2)) {
                        *acc += a * i32::from(w[0]) + b * i32::from(w[1]);
                    }
                }
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn steps(sums: &[i32; 8], constants: &[i32; 8], multipliers: &[f32; 8], low: f32, high: f32) -> [f32; 8] {
        std::array::from_fn(|i| steps(sums[i], constants[i], multipliers[i], low, high))
    }

    #[inline(always)]
    unsafe fn stored(steps: [f32; 8], zero_point: f32) -> [u8; 8] {
        steps.map(|x| stored(x, zero_point))
    }
}

/// `rne(clamp(f32(sum + constant) · multiplier, low, high))`; the bounds are integers, so that rounding last is the
/// same as clamping last.
#[inline(always)]
pub(super) fn steps(sum: i32, constant: i32, multiplier: f32, low: f32, high: f32) -> f32 {
    let x = sum.wrapping_add(constant) as f32 * multiplier;
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    x.round_ties_even()
}

/// The integer that is written for `steps` above the zero point.
#[inline(always)]
pub(super) fn stored(steps: f32, zero_point: f32) -> u8 {
    (steps + zero_point) as u8
}
