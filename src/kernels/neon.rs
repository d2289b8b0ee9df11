//! AArch64: NEON with the integer products of `dotprod` and `i8mm`.
//!
//! Two things that the standard library does not offer in stable form are written as assembly: the products, and the
//! prefetch.

use std::arch::{aarch64::*, asm};

use super::Simd;

/// CPUs with NEON and `sdot`, which multiplies s8 alone: activations are shifted to it.
#[derive(Clone, Copy)]
pub(super) struct Neon;

/// CPUs with NEON and `usdot`, which takes activations as they are stored.
#[derive(Clone, Copy)]
pub(super) struct NeonI8mm;

/// What does not depend on the integer product.
macro_rules! vectors_of_128_bits {
    () => {
        const WIDTH: usize = 4;
        // 24 sums, and the two vectors of weights, in 32 registers.
        const PIXELS: usize = 12;
        const STEP: usize = 4;
        const TAPS: usize = 4;
        const INTERLEAVED: usize = 8;
        type F = float32x4_t;
        type I = int32x4_t;
        type Weight = i8;
        type TapWeights = [int32x4_t; 2];

        #[inline(always)]
        unsafe fn splat(x: f32) -> float32x4_t {
            // SAFETY: the caller's promise, here and in all below.
            unsafe { vdupq_n_f32(x) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, x: float32x4_t) {
            // SAFETY: as above.
            unsafe { vst1q_f32(to, x) }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vmulq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vdivq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: as above. `fmax` and `fmaxnm` decide otherwise on NaN, or on zeros of both signs.
            unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
        }
        #[inline(always)]
        unsafe fn splat_i(x: i32) -> int32x4_t {
            // SAFETY: as above.
            unsafe { vdupq_n_s32(x) }
        }
        #[inline(always)]
        unsafe fn load_i(from: *const i32) -> int32x4_t {
            // SAFETY: as above.
            unsafe { vld1q_s32(from) }
        }
        #[inline(always)]
        unsafe fn add_i(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            // SAFETY: as above.
            unsafe { vaddq_s32(a, b) }
        }
        #[inline(always)]
        unsafe fn to_float(x: int32x4_t) -> float32x4_t {
            // SAFETY: as above.
            unsafe { vcvtq_f32_s32(x) }
        }
        #[inline(always)]
        unsafe fn round(x: float32x4_t) -> int32x4_t {
            // SAFETY: as above.
            unsafe { vcvtnq_s32_f32(x) }
        }
        #[inline(always)]
        unsafe fn load_bytes(from: *const u8) -> int32x4_t {
            // SAFETY: as above: 4 bytes, which need not be aligned.
            unsafe {
                let bytes = vreinterpret_u8_u32(vdup_n_u32(from.cast::<u32>().read_unaligned()));
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes))))
            }
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, [a, b]: [int32x4_t; 2]) {
            // SAFETY: as above. The low halves of the integers are all that there is, and of those the low bytes.
            unsafe {
                let words = vuzp1q_u16(vreinterpretq_u16_s32(a), vreinterpretq_u16_s32(b));
                vst1_u8(to, vmovn_u16(words));
            }
        }
        #[inline(always)]
        unsafe fn prefetch(at: *const u8) {
            // SAFETY: as above; a prefetch of any address is harmless.
            unsafe { asm!("prfm pldl2keep, [{}]", in(reg) at, options(nomem, nostack, preserves_flags)) };
        }
        #[inline(always)]
        unsafe fn broadcast(from: *const Self::Activation) -> int32x4_t {
            // SAFETY: as above: 4 bytes, which need not be aligned.
            unsafe { vdupq_n_s32(from.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn weights(from: *const i8) -> int32x4_t {
            // SAFETY: as above.
            unsafe { vreinterpretq_s32_s8(vld1q_s8(from)) }
        }
        #[inline(always)]
        unsafe fn depthwise_weights(from: *const i8) -> [int32x4_t; 2] {
            // SAFETY: as above.
            unsafe { [Self::weights(from), Self::weights(from.add(16))] }
        }
        #[inline(always)]
        unsafe fn depthwise_in_order(sums: [int32x4_t; 2]) -> [int32x4_t; 2] {
            // One interleaving fills both vectors.
            sums
        }
    };
}

/// 8 channels of 4 taps, with the taps of a channel side by side.
///
/// # Safety
/// The CPU has NEON, and each tap leads to 8 bytes from `at` on.
#[inline(always)]
unsafe fn interleaved(taps: &[*const u8], at: usize) -> [uint8x16_t; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        // Loads of half a vector leave zeros above, which are not looked at.
        let above = vdup_n_u8(0);
        let a = vcombine_u8(vld1_u8(taps[0].add(at)), above);
        let b = vcombine_u8(vld1_u8(taps[1].add(at)), above);
        let c = vcombine_u8(vld1_u8(taps[2].add(at)), above);
        let d = vcombine_u8(vld1_u8(taps[3].add(at)), above);
        let ab = vreinterpretq_u16_u8(vzip1q_u8(a, b));
        let cd = vreinterpretq_u16_u8(vzip1q_u8(c, d));
        [vreinterpretq_u8_u16(vzip1q_u16(ab, cd)), vreinterpretq_u8_u16(vzip2q_u16(ab, cd))]
    }
}

impl Simd for Neon {
    vectors_of_128_bits!();
    type Activation = i8;

    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, x: int32x4_t, w: int32x4_t) -> int32x4_t {
        // SAFETY: the caller's promise. `vdotq_s32` is not stable.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {x:v}.16b, {w:v}.16b",
                sum = inout(vreg) sum, x = in(vreg) x, w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn depthwise(sums: [int32x4_t; 2], taps: &[*const u8], at: usize, w: &[int32x4_t; 2]) -> [int32x4_t; 2] {
        // SAFETY: the caller's promise: 8 bytes a tap.
        unsafe {
            let [low, high] = interleaved(taps, at);
            // As `Activation::of` of s8 says.
            let shift = vdupq_n_u8(128);
            let low = vreinterpretq_s32_u8(veorq_u8(low, shift));
            let high = vreinterpretq_s32_u8(veorq_u8(high, shift));
            [Self::dot(sums[0], low, w[0]), Self::dot(sums[1], high, w[1])]
        }
    }
}

impl Simd for NeonI8mm {
    vectors_of_128_bits!();
    type Activation = u8;

    #[inline(always)]
    unsafe fn dot(mut sum: int32x4_t, x: int32x4_t, w: int32x4_t) -> int32x4_t {
        // SAFETY: the caller's promise. `vusdotq_s32` is not stable.
        unsafe {
            asm!(
                "usdot {sum:v}.4s, {x:v}.16b, {w:v}.16b",
                sum = inout(vreg) sum, x = in(vreg) x, w = in(vreg) w,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline(always)]
    unsafe fn depthwise(sums: [int32x4_t; 2], taps: &[*const u8], at: usize, w: &[int32x4_t; 2]) -> [int32x4_t; 2] {
        // SAFETY: the caller's promise: 8 bytes a tap.
        unsafe {
            let [low, high] = interleaved(taps, at);
            let (low, high) = (vreinterpretq_s32_u8(low), vreinterpretq_s32_u8(high));
            [Self::dot(sums[0], low, w[0]), Self::dot(sums[1], high, w[1])]
        }
    }
}
