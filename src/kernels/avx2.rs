//! AVX2 and FMA tiles: 6 pixels × 16 channels in 12 registers.

use std::arch::x86_64::*;

use super::{LANES, Tile};

/// Tiles for CPUs with AVX2 and FMA.
pub(super) struct Avx2;

impl Tile for Avx2 {
    #[inline(always)]
    unsafe fn float<const P: usize>(
        x: &[f32],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[f32],
    ) -> [[f32; LANES]; P] {
        // SAFETY: the caller's promises are the same.
        unsafe { float(x, bases, taps, channels, w) }
    }

    #[inline(always)]
    unsafe fn integer<const P: usize>(
        x: &[i16],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[i16],
    ) -> [[i32; LANES]; P] {
        // SAFETY: the caller's promises are the same.
        unsafe { integer(x, bases, taps, channels, w) }
    }
}

/// # Safety
/// As for [`Tile::float`].
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn float<const P: usize>(
    x: &[f32],
    bases: &[usize; P],
    taps: &[usize],
    channels: usize,
    w: &[f32],
) -> [[f32; LANES]; P] {
    let mut acc = [[_mm256_setzero_ps(); 2]; P];
    let mut w = w.as_ptr();
    for &tap in taps {
        // SAFETY: base + tap + channels <= x.len() for every pixel.
        let rows: [*const f32; P] = std::array::from_fn(|p| unsafe { x.as_ptr().add(bases[p] + tap) });
        for c in 0..channels {
            // SAFETY: w holds LANES elements for each tap and channel, and both are counted by these loops.
            let (w0, w1) = unsafe { (_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))) };
            for p in 0..P {
                // SAFETY: c < channels, so this is inside x as above.
                let v = unsafe { _mm256_broadcast_ss(&*rows[p].add(c)) };
                acc[p][0] = _mm256_fmadd_ps(v, w0, acc[p][0]);
                acc[p][1] = _mm256_fmadd_ps(v, w1, acc[p][1]);
            }
            // SAFETY: at most one past the end of w, after the last channel of the last tap.
            w = unsafe { w.add(LANES) };
        }
    }
    let mut sums = [[0.0; LANES]; P];
    for (row, a) in sums.iter_mut().zip(&acc) {
        // SAFETY: row has 16 elements.
        unsafe {
            _mm256_storeu_ps(row.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(row.as_mut_ptr().add(8), a[1]);
        }
    }
    sums
}

/// # Safety
/// As for [`Tile::integer`].
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn integer<const P: usize>(
    x: &[i16],
    bases: &[usize; P],
    taps: &[usize],
    channels: usize,
    w: &[i16],
) -> [[i32; LANES]; P] {
    let mut acc = [[_mm256_setzero_si256(); 2]; P];
    let mut w = w.as_ptr();
    for &tap in taps {
        // SAFETY: base + tap + channels <= x.len() for every pixel.
        let rows: [*const i16; P] = std::array::from_fn(|p| unsafe { x.as_ptr().add(bases[p] + tap) });
        for pair in 0..channels / 2 {
            // SAFETY: w holds 2·LANES elements for each tap and pair, and both are counted by these loops.
            let (w0, w1) = unsafe { (_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(16).cast())) };
            for p in 0..P {
                // SAFETY: 2·pair + 1 < channels, so both elements are inside x as above.
                let v = _mm256_set1_epi32(unsafe { rows[p].add(2 * pair).cast::<i32>().read_unaligned() });
                // 16 × 16 bit products summed in pairs as s32: |2 · 255 · 128| is far from overflow.
                acc[p][0] = _mm256_add_epi32(acc[p][0], _mm256_madd_epi16(v, w0));
                acc[p][1] = _mm256_add_epi32(acc[p][1], _mm256_madd_epi16(v, w1));
            }
            // SAFETY: at most one past the end of w, after the last pair of the last tap.
            w = unsafe { w.add(2 * LANES) };
        }
    }
    let mut sums = [[0; LANES]; P];
    for (row, a) in sums.iter_mut().zip(&acc) {
        // SAFETY: row has 16 elements.
        unsafe {
            _mm256_storeu_si256(row.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(row.as_mut_ptr().add(8).cast(), a[1]);
        }
    }
    sums
}
