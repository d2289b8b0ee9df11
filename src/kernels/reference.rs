//! Plain Rust for any CPU, and the reading of [`Simd`] that the vector instruction sets are compared with.

use super::Simd;

const WIDTH: usize = 8;

/// Vectors as arrays.
#[derive(Clone, Copy)]
pub(super) struct Reference;

#[inline(always)]
fn each<A: Copy, B: Copy, C>(a: [A; WIDTH], b: [B; WIDTH], f: impl Fn(A, B) -> C) -> [C; WIDTH] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Reference {
    const WIDTH: usize = WIDTH;
    const PIXELS: usize = 4;
    const STEP: usize = 1;
    const TAPS: usize = 1;
    const INTERLEAVED: usize = 4;
    type F = [f32; WIDTH];
    type I = [i32; WIDTH];
    type Activation = u8;
    type Weight = i8;
    type TapWeights = [Self::I; 2];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; WIDTH]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::F {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::F>().read() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::F) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::F>().write(x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> Self::I {
        [x; WIDTH]
    }
    #[inline(always)]
    unsafe fn load_i(from: *const i32) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self::I>().read() }
    }
    #[inline(always)]
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I {
        each(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn to_float(x: Self::I) -> Self::F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    unsafe fn round(x: Self::F) -> Self::I {
        x.map(|x| x.round_ties_even() as i32)
    }
    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[u8; WIDTH]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: [Self::I; 2]) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[[u8; WIDTH]; 2]>().write(x.map(|x| x.map(|x| x as u8))) }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Self::I {
        // SAFETY: the caller's promise.
        [i32::from(unsafe { from.read() }); WIDTH]
    }
    #[inline(always)]
    unsafe fn weights(from: *const i8) -> Self::I {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<[i8; WIDTH]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn dot(sum: Self::I, x: Self::I, w: Self::I) -> Self::I {
        std::array::from_fn(|i| sum[i] + x[i] * w[i])
    }
    #[inline(always)]
    unsafe fn depthwise(sums: [Self::I; 2], taps: &[*const u8], at: usize, w: &Self::TapWeights) -> [Self::I; 2] {
        // SAFETY: the caller's promise: 2·WIDTH bytes at the tap. Nothing is asked of the CPU.
        unsafe {
            let x = taps[0].add(at);
            [Self::dot(sums[0], Self::load_bytes(x), w[0]), Self::dot(sums[1], Self::load_bytes(x.add(WIDTH)), w[1])]
        }
    }
    #[inline(always)]
    unsafe fn depthwise_weights(from: *const i8) -> Self::TapWeights {
        // SAFETY: the caller's promise: 2·WIDTH weights.
        unsafe { [Self::weights(from), Self::weights(from.add(WIDTH))] }
    }
    #[inline(always)]
    unsafe fn depthwise_in_order(sums: [Self::I; 2]) -> [Self::I; 2] {
        sums
    }
}
