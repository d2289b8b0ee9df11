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
}
