//! AVX2 and FMA, with products of 16 bits: those of 8 saturate.

use std::arch::x86_64::*;

use super::{
    Simd,
    simd::{BEYOND, CLOSE},
};

/// CPUs with AVX2 and FMA.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// CPUs with AVX2, FMA and AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni;

/// What does not depend on the integer product.
macro_rules! vectors_of_256_bits {
    () => {
        const WIDTH: usize = 8;
        const PIXELS: usize = 6;
        type F = __m256;
        type I = __m256i;
        type Bytes = __m256i;
        type Bounds = [__m256i; 3];
        const QUAD: usize = 4;

        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: the caller's promise, here and in all below.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, x: __m256) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(to, x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn splat_i(x: i32) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_i(from: *const i32) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn add_i(a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn to_float(x: __m256i) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_cvtepi32_ps(x) }
        }
        #[inline(always)]
        unsafe fn round(x: __m256) -> __m256i {
            // SAFETY: as above. Rust runs with MXCSR at its default, which rounds to nearest, ties to even.
            unsafe { _mm256_cvtps_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
        }
        #[inline(always)]
        unsafe fn bounds(zero_point: u8, low: u8, high: u8) -> [__m256i; 3] {
            // SAFETY: as above.
            unsafe {
                [_mm256_set1_epi16(i16::from(zero_point)), _mm256_set1_epi8(low as i8), _mm256_set1_epi8(high as i8)]
            }
        }
        #[inline(always)]
        unsafe fn narrow([a, b, c, d]: [__m256; 4], &[zero_point, low, high]: &[__m256i; 3]) -> __m256i {
            // SAFETY: as above. A number that is too large, or none, is rounded to the smallest integer; the former is
            // kept from it by a bound that is beyond all grids. What saturates in 16 bits is outside of every grid too.
            unsafe {
                let bound = _mm256_set1_ps(BEYOND);
                let a = _mm256_cvtps_epi32(_mm256_min_ps(bound, a));
                let b = _mm256_cvtps_epi32(_mm256_min_ps(bound, b));
                let c = _mm256_cvtps_epi32(_mm256_min_ps(bound, c));
                let d = _mm256_cvtps_epi32(_mm256_min_ps(bound, d));
                let ab = _mm256_adds_epi16(_mm256_packs_epi32(a, b), zero_point);
                let cd = _mm256_adds_epi16(_mm256_packs_epi32(c, d), zero_point);
                _mm256_min_epu8(_mm256_max_epu8(_mm256_packus_epi16(ab, cd), low), high)
            }
        }
        #[inline(always)]
        unsafe fn in_order(bytes: __m256i) -> __m256i {
            // SAFETY: as above. Narrowing works within halves: each has a half of all four vectors.
            unsafe { _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)) }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, bytes: __m256i) {
            // SAFETY: as above.
            unsafe { _mm256_storeu_si256(to.cast(), bytes) }
        }
        #[inline(always)]
        unsafe fn store_halves([first, second]: [*mut u8; 2], bytes: __m256i) {
            // SAFETY: as above.
            unsafe {
                _mm_storeu_si128(first.cast(), _mm256_castsi256_si128(bytes));
                _mm_storeu_si128(second.cast(), _mm256_extracti128_si256::<1>(bytes));
            }
        }
        #[inline(always)]
        unsafe fn round_alike(x: [__m256; 4]) -> bool {
            // SAFETY: as above.
            unsafe {
                let (limit, sign) = (_mm256_set1_ps(0.5 - CLOSE), _mm256_set1_ps(-0.0));
                let mut all = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
                for x in x {
                    let rest =
                        _mm256_sub_ps(x, _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x));
                    all = _mm256_and_ps(all, _mm256_cmp_ps::<_CMP_LT_OQ>(_mm256_andnot_ps(sign, rest), limit));
                }
                _mm256_movemask_ps(all) == 0xff
            }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const u8) {
            // SAFETY: as above; a prefetch of any address is harmless.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
        }
        #[inline(always)]
        unsafe fn weights(from: *const Self::Weight) -> __m256i {
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn broadcast(from: *const Self::Activation) -> __m256i {
            // SAFETY: as above: both kinds of activations come in steps of 32 bits.
            unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
        }
    };
}

impl Simd for Avx2 {
    vectors_of_256_bits!();
    const STEP: usize = 2;
    const ROWS: usize = 2;
    type Activation = i16;
    type Weight = i16;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's promise. Products of pairs are summed in 32 bits: |2 · 255 · 128| is far from overflow.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)) }
    }

    #[inline(always)]
    unsafe fn column(rows: &[*const u8], at: usize) -> [__m256i; 4] {
        // SAFETY: the caller's promise: two rows of 32 bytes.
        unsafe {
            let a = _mm256_loadu_si256((*rows.get_unchecked(0)).add(at).cast());
            let b = _mm256_loadu_si256((*rows.get_unchecked(1)).add(at).cast());
            let zero = _mm256_setzero_si256();
            let (low, high) = (_mm256_unpacklo_epi8(a, zero), _mm256_unpackhi_epi8(a, zero));
            let (b_low, b_high) = (_mm256_unpacklo_epi8(b, zero), _mm256_unpackhi_epi8(b, zero));
            [
                _mm256_unpacklo_epi16(low, b_low),
                _mm256_unpackhi_epi16(low, b_low),
                _mm256_unpacklo_epi16(high, b_high),
                _mm256_unpackhi_epi16(high, b_high),
            ]
        }
    }
}

impl Simd for AvxVnni {
    vectors_of_256_bits!();
    const STEP: usize = 4;
    const ROWS: usize = 4;
    type Activation = u8;
    type Weight = i8;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sum, x, w) }
    }

    #[inline(always)]
    unsafe fn column(rows: &[*const u8], at: usize) -> [__m256i; 4] {
        // SAFETY: the caller's promise: four rows of 32 bytes.
        unsafe {
            let a = _mm256_loadu_si256((*rows.get_unchecked(0)).add(at).cast());
            let b = _mm256_loadu_si256((*rows.get_unchecked(1)).add(at).cast());
            let c = _mm256_loadu_si256((*rows.get_unchecked(2)).add(at).cast());
            let d = _mm256_loadu_si256((*rows.get_unchecked(3)).add(at).cast());
            let (ab, cd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            [
                _mm256_unpacklo_epi16(ab, cd),
                _mm256_unpackhi_epi16(ab, cd),
                _mm256_unpacklo_epi16(ab_high, cd_high),
                _mm256_unpackhi_epi16(ab_high, cd_high),
            ]
        }
    }
}
