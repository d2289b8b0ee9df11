//! AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::Simd;

/// CPUs with AVX-512 F, BW, VL and VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni;

impl Simd for Avx512Vnni {
    const WIDTH: usize = 16;
    const PIXELS: usize = 12;
    const STEP: usize = 4;
    const TAPS: usize = 4;
    const INTERLEAVED: usize = 8;
    type F = __m512;
    type I = __m512i;
    type Activation = u8;
    type Weight = i8;
    type TapWeights = [__m512i; 2];

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
    unsafe fn store_bytes(to: *mut u8, [a, b]: [__m512i; 2]) {
        // SAFETY: as above.
        unsafe {
            _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(a));
            _mm_storeu_si128(to.add(16).cast(), _mm512_cvtepi32_epi8(b));
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
    unsafe fn depthwise(sums: [__m512i; 2], taps: &[*const u8], at: usize, w: &[__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: the caller's promise: 32 bytes a tap.
        unsafe {
            // Each byte in 16 bits, so that two of them interleave as words do.
            let a = _mm512_cvtepu8_epi16(_mm256_loadu_si256(taps[0].add(at).cast()));
            let b = _mm512_cvtepu8_epi16(_mm256_loadu_si256(taps[1].add(at).cast()));
            let c = _mm512_cvtepu8_epi16(_mm256_loadu_si256(taps[2].add(at).cast()));
            let d = _mm512_cvtepu8_epi16(_mm256_loadu_si256(taps[3].add(at).cast()));
            let ab = _mm512_or_si512(a, _mm512_slli_epi16::<8>(b));
            let cd = _mm512_or_si512(c, _mm512_slli_epi16::<8>(d));
            let (low, high) = (_mm512_unpacklo_epi16(ab, cd), _mm512_unpackhi_epi16(ab, cd));
            [Self::dot(sums[0], low, w[0]), Self::dot(sums[1], high, w[1])]
        }
    }
    #[inline(always)]
    unsafe fn depthwise_weights(from: *const i8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [Self::weights(from), Self::weights(from.add(64))] }
    }
    #[inline(always)]
    unsafe fn depthwise_in_order([low, high]: [__m512i; 2]) -> [__m512i; 2] {
        // SAFETY: as above. Words interleave within quarters.
        unsafe {
            let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            [_mm512_permutex2var_epi64(low, first, high), _mm512_permutex2var_epi64(low, second, high)]
        }
    }
}
