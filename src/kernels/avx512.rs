//! AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::{
    Simd,
    simd::{BEYOND, CLOSE},
};

/// CPUs with AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

/// A mask of the first `count` of at most 64.
#[inline(always)]
fn first(count: usize) -> u64 {
    if count >= 64 { !0 } else { (1 << count) - 1 }
}

impl Simd for Avx512Vnni {
    const WIDTH: usize = 16;
    const PIXELS: usize = 12;
    const STEP: usize = 4;
    const ROWS: usize = 4;
    const QUAD: usize = 4;
    type F = __m512;
    type I = __m512i;
    type Activation = u8;
    type Weight = i8;
    type Bytes = __m512i;
    type Bounds = [__m512i; 3];

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: the caller's promise, here and in all below.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_i(from: *const i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn add_i(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_float(x: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512i {
        // SAFETY: as above. Rust runs with MXCSR at its default, which rounds to nearest, ties to even.
        unsafe { _mm512_cvtps_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn bounds(zero_point: u8, low: u8, high: u8) -> [__m512i; 3] {
        // SAFETY: as above.
        unsafe { [_mm512_set1_epi16(i16::from(zero_point)), _mm512_set1_epi8(low as i8), _mm512_set1_epi8(high as i8)] }
    }
    #[inline(always)]
    unsafe fn narrow([a, b, c, d]: [__m512; 4], &[zero_point, low, high]: &[__m512i; 3]) -> __m512i {
        // SAFETY: as above. A number that is too large, or none, is rounded to the smallest integer; the former is kept
        // from it by a bound that is beyond all grids. What saturates in 16 bits is outside of every grid too.
        unsafe {
            let bound = _mm512_set1_ps(BEYOND);
            let a = _mm512_cvtps_epi32(_mm512_min_ps(bound, a));
            let b = _mm512_cvtps_epi32(_mm512_min_ps(bound, b));
            let c = _mm512_cvtps_epi32(_mm512_min_ps(bound, c));
            let d = _mm512_cvtps_epi32(_mm512_min_ps(bound, d));
            let ab = _mm512_adds_epi16(_mm512_packs_epi32(a, b), zero_point);
            let cd = _mm512_adds_epi16(_mm512_packs_epi32(c, d), zero_point);
            _mm512_min_epu8(_mm512_max_epu8(_mm512_packus_epi16(ab, cd), low), high)
        }
    }
    #[inline(always)]
    unsafe fn in_order(bytes: __m512i) -> __m512i {
        // SAFETY: as above. Narrowing works within quarters: each has a quarter of all four vectors.
        unsafe {
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_epi32(order, bytes)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, bytes: __m512i) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(to.cast(), bytes) }
    }
    #[inline(always)]
    unsafe fn store_halves([first, second]: [*mut u8; 2], bytes: __m512i) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_si256(first.cast(), _mm512_castsi512_si256(bytes));
            _mm256_storeu_si256(second.cast(), _mm512_extracti64x4_epi64::<1>(bytes));
        }
    }
    // Masks rather than copies, whose calls would have all sums in memory.
    #[inline(always)]
    unsafe fn store_some_bytes(to: *mut u8, bytes: __m512i, count: usize) {
        // SAFETY: as above; `count` is at most 64.
        unsafe { _mm512_mask_storeu_epi8(to.cast(), first(count), bytes) }
    }
    #[inline(always)]
    unsafe fn store_some_of_halves([low, high]: [*mut u8; 2], bytes: __m512i, count: usize) {
        let mask = first(count) as u32;
        // SAFETY: as above.
        unsafe {
            _mm256_mask_storeu_epi8(low.cast(), mask, _mm512_castsi512_si256(bytes));
            _mm256_mask_storeu_epi8(high.cast(), mask, _mm512_extracti64x4_epi64::<1>(bytes));
        }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, [a, b]: [__m512; 2], count: usize) {
        let mask = first(count);
        // SAFETY: as above.
        unsafe {
            _mm512_mask_storeu_ps(to, mask as u16, a);
            _mm512_mask_storeu_ps(to.wrapping_add(16), (mask >> 16) as u16, b);
        }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> [__m512; 2] {
        let mask = first(count);
        // SAFETY: as above.
        unsafe {
            [
                _mm512_maskz_loadu_ps(mask as u16, from),
                _mm512_maskz_loadu_ps((mask >> 16) as u16, from.wrapping_add(16)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn load_some_bytes(from: *const u8, count: usize) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let bytes = _mm256_maskz_loadu_epi8(first(count) as u32, from.cast());
            [
                _mm512_cvtepu8_epi32(_mm256_castsi256_si128(bytes)),
                _mm512_cvtepu8_epi32(_mm256_extracti128_si256::<1>(bytes)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn round_alike(x: [__m512; 4]) -> bool {
        // SAFETY: as above.
        unsafe {
            // The larger magnitude of two.
            const LARGER: i32 = 0b10_11;
            let a = _mm512_range_ps::<LARGER>(_mm512_reduce_ps::<0>(x[0]), _mm512_reduce_ps::<0>(x[1]));
            let b = _mm512_range_ps::<LARGER>(_mm512_reduce_ps::<0>(x[2]), _mm512_reduce_ps::<0>(x[3]));
            let rest = _mm512_range_ps::<LARGER>(a, b);
            _mm512_cmp_ps_mask::<_CMP_LT_OQ>(rest, _mm512_set1_ps(0.5 - CLOSE)) == !0
        }
    }
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        // SAFETY: as above; a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
    }
    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn weights(from: *const i8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(sum, x, w) }
    }
    #[inline(always)]
    unsafe fn column(rows: &[*const u8], at: usize) -> [__m512i; 4] {
        // SAFETY: the caller's promise: four rows of 64 bytes.
        unsafe {
            let a = _mm512_loadu_si512((*rows.get_unchecked(0)).add(at).cast());
            let b = _mm512_loadu_si512((*rows.get_unchecked(1)).add(at).cast());
            let c = _mm512_loadu_si512((*rows.get_unchecked(2)).add(at).cast());
            let d = _mm512_loadu_si512((*rows.get_unchecked(3)).add(at).cast());
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            [
                _mm512_unpacklo_epi16(ab, cd),
                _mm512_unpackhi_epi16(ab, cd),
                _mm512_unpacklo_epi16(ab_high, cd_high),
                _mm512_unpackhi_epi16(ab_high, cd_high),
            ]
        }
    }
}
