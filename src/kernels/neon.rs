//! AArch64: NEON with the integer products of `dotprod` and `i8mm`.
//!
//! Two things that the standard library does not offer in stable form are written as assembly: the products, and the
//! prefetch.

use std::arch::{aarch64::*, asm};

use super::{Simd, simd::CLOSE};

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
        const ROWS: usize = 4;
        const QUAD: usize = 4;
        type F = float32x4_t;
        type I = int32x4_t;
        type Weight = i8;
        type Bytes = uint8x16_t;
        type Bounds = (int16x8_t, uint8x16_t, uint8x16_t);

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
        unsafe fn bounds(zero_point: u8, low: u8, high: u8) -> (int16x8_t, uint8x16_t, uint8x16_t) {
            // SAFETY: as above.
            unsafe { (vdupq_n_s16(i16::from(zero_point)), vdupq_n_u8(low), vdupq_n_u8(high)) }
        }
        #[inline(always)]
        unsafe fn narrow(
            [a, b, c, d]: [float32x4_t; 4],
            &(zero_point, low, high): &(int16x8_t, uint8x16_t, uint8x16_t),
        ) -> uint8x16_t {
            // SAFETY: as above. All narrowing saturates, and what saturates in 16 bits is outside of every grid.
            unsafe {
                let ab = vcombine_s16(vqmovn_s32(steps(a)), vqmovn_s32(steps(b)));
                let cd = vcombine_s16(vqmovn_s32(steps(c)), vqmovn_s32(steps(d)));
                let (ab, cd) = (vqaddq_s16(ab, zero_point), vqaddq_s16(cd, zero_point));
                vminq_u8(vmaxq_u8(vcombine_u8(vqmovun_s16(ab), vqmovun_s16(cd)), low), high)
            }
        }
        #[inline(always)]
        unsafe fn in_order(bytes: uint8x16_t) -> uint8x16_t {
            bytes
        }
        #[inline(always)]
        unsafe fn store_bytes(to: *mut u8, bytes: uint8x16_t) {
            // SAFETY: as above.
            unsafe { vst1q_u8(to, bytes) }
        }
        #[inline(always)]
        unsafe fn store_halves([first, second]: [*mut u8; 2], bytes: uint8x16_t) {
            // SAFETY: as above.
            unsafe {
                vst1_u8(first, vget_low_u8(bytes));
                vst1_u8(second, vget_high_u8(bytes));
            }
        }
        #[inline(always)]
        unsafe fn round_alike(x: [float32x4_t; 4]) -> bool {
            // SAFETY: as above.
            unsafe {
                let limit = vdupq_n_f32(0.5 - CLOSE);
                let mut all = vdupq_n_u32(!0);
                for x in x {
                    let rest = vsubq_f32(x, vrndnq_f32(x));
                    all = vandq_u32(all, vcltq_f32(vabsq_f32(rest), limit));
                }
                vminvq_u32(all) != 0
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
    };
}

/// `rne(x)`, and the smallest integer for NaN, which rounds to 0 by itself.
///
/// # Safety
/// The CPU has NEON.
#[inline(always)]
unsafe fn steps(x: float32x4_t) -> int32x4_t {
    // SAFETY: the caller's promise. A number is equal to itself.
    unsafe { vbslq_s32(vceqq_f32(x, x), vcvtnq_s32_f32(x), vdupq_n_s32(i32::MIN)) }
}

/// 16 channels of 4 rows, with the rows of a channel side by side.
///
/// # Safety
/// The CPU has NEON, and each row leads to 16 bytes from `at` on.
#[inline(always)]
unsafe fn interleaved(rows: &[*const u8], at: usize) -> [uint8x16_t; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let (a, b) = (vld1q_u8(rows[0].add(at)), vld1q_u8(rows[1].add(at)));
        let (c, d) = (vld1q_u8(rows[2].add(at)), vld1q_u8(rows[3].add(at)));
        let (ab, cd) = (vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip1q_u8(c, d)));
        let (ab_high, cd_high) = (vreinterpretq_u16_u8(vzip2q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(c, d)));
        [
            vreinterpretq_u8_u16(vzip1q_u16(ab, cd)),
            vreinterpretq_u8_u16(vzip2q_u16(ab, cd)),
            vreinterpretq_u8_u16(vzip1q_u16(ab_high, cd_high)),
            vreinterpretq_u8_u16(vzip2q_u16(ab_high, cd_high)),
        ]
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
    unsafe fn column(rows: &[*const u8], at: usize) -> [int32x4_t; 4] {
        // SAFETY: the caller's promise: four rows of 16 bytes.
        unsafe {
            let [a, b, c, d] = interleaved(rows, at);
            // As `Activation::of` of s8 says.
            let shift = vdupq_n_u8(128);
            [
                vreinterpretq_s32_u8(veorq_u8(a, shift)),
                vreinterpretq_s32_u8(veorq_u8(b, shift)),
                vreinterpretq_s32_u8(veorq_u8(c, shift)),
                vreinterpretq_s32_u8(veorq_u8(d, shift)),
            ]
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
    unsafe fn column(rows: &[*const u8], at: usize) -> [int32x4_t; 4] {
        // SAFETY: the caller's promise: four rows of 16 bytes.
        unsafe {
            let [a, b, c, d] = interleaved(rows, at);
            [vreinterpretq_s32_u8(a), vreinterpretq_s32_u8(b), vreinterpretq_s32_u8(c), vreinterpretq_s32_u8(d)]
        }
    }
}
