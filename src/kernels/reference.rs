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
    const ROWS: usize = 1;
    const QUAD: usize = WIDTH;
    type F = [f32; WIDTH];
    type I = [i32; WIDTH];
    type Activation = u8;
    type Weight = i8;
    type Bytes = [[u8; WIDTH]; 4];
    type Bounds = [u8; 3];

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
    unsafe fn bounds(zero_point: u8, low: u8, high: u8) -> [u8; 3] {
        [zero_point, low, high]
    }
    #[inline(always)]
    unsafe fn narrow(x: [Self::F; 4], &[zero_point, low, high]: &[u8; 3]) -> Self::Bytes {
        let (low, high) = (i32::from(low), i32::from(high));
        let narrow = |x: f32| {
            // A cast saturates, but takes NaN for 0.
            let q = if x.is_nan() { i32::MIN } else { x.round_ties_even() as i32 };
            q.saturating_add(i32::from(zero_point)).max(low).min(high) as u8
        };
        x.map(|x| x.map(narrow))
    }
    #[inline(always)]
    unsafe fn in_order(bytes: Self::Bytes) -> Self::Bytes {
        bytes
    }
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, bytes: Self::Bytes) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self::Bytes>().write(bytes) }
    }
    #[inline(always)]
    unsafe fn store_halves([first, second]: [*mut u8; 2], [a, b, c, d]: Self::Bytes) {
        // SAFETY: the caller's promise.
        unsafe {
            first.cast::<[[u8; WIDTH]; 2]>().write([a, b]);
            second.cast::<[[u8; WIDTH]; 2]>().write([c, d]);
        }
    }
    #[inline(always)]
    unsafe fn round_alike(_: [Self::F; 4]) -> bool {
        // Always the long way: this is what others are compared with.
        false
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
    unsafe fn column(rows: &[*const u8], at: usize) -> [Self::I; 4] {
        // SAFETY: the caller's promise: 4·WIDTH bytes. Nothing is asked of the CPU.
        std::array::from_fn(|vector| unsafe { Self::load_bytes(rows[0].add(at + vector * WIDTH)) })
    }
}
