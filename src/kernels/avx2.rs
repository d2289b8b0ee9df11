//! AVX2 and FMA, with products of 16 bits: those of 8 saturate.

use std::arch::x86_64::*;

use super::Simd;

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
        type TapWeights = [__m256i; 2];

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
        unsafe fn store_bytes(to: *mut u8, [a, b]: [__m256i; 2]) {
            // SAFETY: as above.
            unsafe {
                // Both packs work within halves; the permutation puts the quarters in order.
                let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a, b));
                let (low, high) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storeu_si128(to.cast(), _mm_packus_epi16(low, high));
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
        unsafe fn depthwise_weights(from: *const Self::Weight) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe { [Self::weights(from), Self::weights(from.add(8 * Self::STEP))] }
        }
        #[inline(always)]
        unsafe fn depthwise_in_order([low, high]: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: as above. Words interleave within halves.
            unsafe { [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)] }
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
    const TAPS: usize = 2;
    const INTERLEAVED: usize = 8;
    type Activation = i16;
    type Weight = i16;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's promise. Products of pairs are summed in 32 bits: |2 · 255 · 128| is far from overflow.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(x, w)) }
    }

    #[inline(always)]
    unsafe fn depthwise(sums: [__m256i; 2], taps: &[*const u8], at: usize, w: &[__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller's promise: 16 bytes a tap.
        unsafe {
            let a = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[0].add(at).cast()));
            let b = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[1].add(at).cast()));
            let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            [Self::dot(sums[0], low, w[0]), Self::dot(sums[1], high, w[1])]
        }
    }
}

impl Simd for AvxVnni {
    vectors_of_256_bits!();
    const STEP: usize = 4;
    const TAPS: usize = 4;
    const INTERLEAVED: usize = 8;
    type Activation = u8;
    type Weight = i8;

    #[inline(always)]
    unsafe fn dot(sum: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sum, x, w) }
    }

    #[inline(always)]
    unsafe fn depthwise(sums: [__m256i; 2], taps: &[*const u8], at: usize, w: &[__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the caller's promise: 16 bytes a tap.
        unsafe {
            // Each byte in 16 bits, so that two of them interleave like the 16-bit words of AVX2.
            let a = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[0].add(at).cast()));
            let b = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[1].add(at).cast()));
            let c = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[2].add(at).cast()));
            let d = _mm256_cvtepu8_epi16(_mm_loadu_si128(taps[3].add(at).cast()));
            let ab = _mm256_or_si256(a, _mm256_slli_epi16::<8>(b));
            let cd = _mm256_or_si256(c, _mm256_slli_epi16::<8>(d));
            let (low, high) = (_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd));
            [Self::dot(sums[0], low, w[0]), Self::dot(sums[1], high, w[1])]
        }
    }
}
