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

    #[inline(always)]
    unsafe fn steps(sums: &[i32; 8], constants: &[i32; 8], multipliers: &[f32; 8], low: f32, high: f32) -> [f32; 8] {
        // SAFETY: the caller's promises are the same.
        unsafe { steps(sums, constants, multipliers, low, high) }
    }

    #[inline(always)]
    unsafe fn stored(steps: [f32; 8], zero_point: f32) -> [u8; 8] {
        // SAFETY: the caller's promises are the same.
        unsafe { stored(&steps, zero_point) }
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

#[target_feature(enable = "avx2,fma")]
#[inline]
fn steps(sums: &[i32; 8], constants: &[i32; 8], multipliers: &[f32; 8], low: f32, high: f32) -> [f32; 8] {
    let mut steps = [0.0; 8];
    // SAFETY: all these arrays have eight elements of 32 bits.
    unsafe {
        let sum =
            _mm256_add_epi32(_mm256_loadu_si256(sums.as_ptr().cast()), _mm256_loadu_si256(constants.as_ptr().cast()));
        let x = _mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(multipliers.as_ptr()));
        // Where x is NaN these give their second operand, as the reference does.
        let x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(low)), _mm256_set1_ps(high));
        let x = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
        _mm256_storeu_ps(steps.as_mut_ptr(), x);
    }
    steps
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn stored(steps: &[f32; 8], zero_point: f32) -> [u8; 8] {
    let mut stored = [0; 8];
    // The low byte of each 32 bits, to the front of each half.
    let bytes = _mm256_set1_epi64x(0x8080_8080_0c08_0400_u64 as i64);
    // SAFETY: `steps` has eight elements of 32 bits, and 64 bits are written to `stored`.
    unsafe {
        let x = _mm256_add_ps(_mm256_loadu_ps(steps.as_ptr()), _mm256_set1_ps(zero_point));
        let x = _mm256_shuffle_epi8(_mm256_cvttps_epi32(x), bytes);
        let x = _mm_unpacklo_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        _mm_storel_epi64(stored.as_mut_ptr().cast(), x);
    }
    stored
}
