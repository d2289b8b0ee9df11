//! What kernels need of an instruction set.

use super::packing::{Integers, Lines, Plain};

/// Lanes of two vectors of the widest instruction set.
pub(super) const MAX_LANES: usize = 32;

/// Lanes of four.
pub(super) const MAX_BLOCK: usize = 2 * MAX_LANES;

/// A vector instruction set with lanes of 32 bits, and the product of integers that convolutions are made of.
///
/// Kernels are written once over this trait. Its methods are inlined into functions compiled for the instruction
/// set (see [`dispatch`](super::dispatch)), which is what lets them use it.
///
/// # Safety
/// Of every method: the CPU has the instruction set, and what a pointer is said to lead to is there.
pub(super) trait Simd: Copy + Send + Sync + 'static {
    /// Lanes of one vector. A register tile has two vectors of output channels.
    const WIDTH: usize;
    /// Output pixels of a register tile, at most [`MAX_PIXELS`].
    const PIXELS: usize;
    /// Input channels of one integer product.
    const STEP: usize;
    /// Rows that [`Simd::column`] interleaves: those of one product of a depthwise convolution.
    const ROWS: usize;
    /// Lanes that stay together where bytes are interleaved or narrowed: [`Simd::depthwise_channel`] follows from it.
    const QUAD: usize;

    /// [`Simd::WIDTH`] numbers.
    type F: Copy;
    /// [`Simd::WIDTH`] integers.
    type I: Copy;
    /// How an integer convolution reads activations.
    type Activation: Activation;
    /// How an integer convolution reads weights.
    type Weight: Weight;
    /// Four times [`Simd::WIDTH`] bytes.
    type Bytes: Copy;
    /// What [`Simd::narrow`] adds, and where it clamps.
    type Bounds: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, x: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: `b` where `a` is NaN.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;

    unsafe fn splat_i(x: i32) -> Self::I;
    unsafe fn load_i(from: *const i32) -> Self::I;
    /// The sum, wrapping.
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_float(x: Self::I) -> Self::F;
    /// Rounds numbers of magnitude below 2³¹ to the nearest integer, ties to even.
    unsafe fn round(x: Self::F) -> Self::I;
    /// Widens [`Simd::WIDTH`] bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    /// Bounds for [`Simd::narrow`].
    unsafe fn bounds(zero_point: u8, low: u8, high: u8) -> Self::Bounds;
    /// `clamp(rne(x) + zero_point, low, high)` of four vectors, in an order of its own; NaN becomes `low`.
    unsafe fn narrow(x: [Self::F; 4], bounds: &Self::Bounds) -> Self::Bytes;
    /// What [`Simd::narrow`] gave, one vector after the other.
    unsafe fn in_order(bytes: Self::Bytes) -> Self::Bytes;
    unsafe fn store_bytes(to: *mut u8, bytes: Self::Bytes);
    /// Writes one half to each place.
    unsafe fn store_halves(to: [*mut u8; 2], bytes: Self::Bytes);
    /// Writes the first `count` bytes.
    #[inline(always)]
    unsafe fn store_some_bytes(to: *mut u8, bytes: Self::Bytes, count: usize) {
        let mut all = [0; MAX_BLOCK];
        // SAFETY: the caller's promise; four vectors are at most MAX_BLOCK lanes.
        unsafe {
            Self::store_bytes(all.as_mut_ptr(), bytes);
            to.copy_from_nonoverlapping(all.as_ptr(), count);
        }
    }
    /// Writes the first `count` bytes of each half.
    #[inline(always)]
    unsafe fn store_some_of_halves(to: [*mut u8; 2], bytes: Self::Bytes, count: usize) {
        let mut all = [0; MAX_BLOCK];
        // SAFETY: as above.
        unsafe {
            Self::store_bytes(all.as_mut_ptr(), bytes);
            to[0].copy_from_nonoverlapping(all.as_ptr(), count);
            to[1].copy_from_nonoverlapping(all.as_ptr().add(2 * Self::WIDTH), count);
        }
    }
    /// Writes the first `count` of two vectors.
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, x: [Self::F; 2], count: usize) {
        let mut all = [0.0; MAX_LANES];
        // SAFETY: as above; two vectors are at most MAX_LANES.
        unsafe {
            Self::store(all.as_mut_ptr(), x[0]);
            Self::store(all.as_mut_ptr().add(Self::WIDTH), x[1]);
            to.copy_from_nonoverlapping(all.as_ptr(), count);
        }
    }
    /// Two vectors, of which the first `count` lanes are read.
    #[inline(always)]
    unsafe fn load_some(from: *const f32, count: usize) -> [Self::F; 2] {
        let mut all = [0.0; MAX_LANES];
        // SAFETY: as above.
        unsafe {
            all.as_mut_ptr().copy_from_nonoverlapping(from, count);
            [Self::load(all.as_ptr()), Self::load(all.as_ptr().add(Self::WIDTH))]
        }
    }
    /// Two vectors of widened bytes, of which the first `count` are read.
    #[inline(always)]
    unsafe fn load_some_bytes(from: *const u8, count: usize) -> [Self::I; 2] {
        let mut all = [0; MAX_LANES];
        // SAFETY: as above.
        unsafe {
            all.as_mut_ptr().copy_from_nonoverlapping(from, count);
            [Self::load_bytes(all.as_ptr()), Self::load_bytes(all.as_ptr().add(Self::WIDTH))]
        }
    }
    /// Whether `x` is so far from the middle between two integers that another number within `2⁻¹³` of it rounds to
    /// the same one, in all lanes of all vectors. Not where all are NaN; a single one, or what is infinite, does not
    /// matter.
    unsafe fn round_alike(x: [Self::F; 4]) -> bool;

    /// Asks for the cache line at an address, which need not be one: nothing is read.
    unsafe fn prefetch(at: *const u8);

    /// [`Simd::STEP`] activations, the same in every lane.
    unsafe fn broadcast(from: *const Self::Activation) -> Self::I;
    /// [`Simd::STEP`] weights for each lane.
    unsafe fn weights(from: *const Self::Weight) -> Self::I;
    /// `sum + Σ x·w` of each lane, exact.
    unsafe fn dot(sum: Self::I, x: Self::I, w: Self::I) -> Self::I;

    /// [`Simd::ROWS`] rows of bytes, from `at` on, interleaved by channel: four vectors for [`Simd::dot`], whose lanes are
    /// channels in the order of [`Simd::depthwise_channel`]. Activations count as [`Activation::of`] says. After
    /// [`Simd::narrow`], the channels are in order.
    unsafe fn column(rows: &[*const u8], at: usize) -> [Self::I; 4];

    /// Which of `4·WIDTH` channels is in this lane of this vector of a depthwise convolution.
    fn depthwise_channel(vector: usize, lane: usize) -> usize {
        lane / Self::QUAD * 4 * Self::QUAD + vector * Self::QUAD + lane % Self::QUAD
    }
}

/// A number of steps that is outside of every grid, and small enough for an integer.
#[cfg(target_arch = "x86_64")]
pub(super) const BEYOND: f32 = (1 << 24) as f32;

/// How close to the middle between two integers a number must be to round otherwise than one that is within `2⁻¹³` of it.
pub(super) const CLOSE: f32 = 1.0 / (1 << 12) as f32;

/// How kernels read an activation.
pub(super) trait Activation: Copy + Send + Sync + 'static {
    /// What is taken off when it is converted.
    const SHIFT: i32 = 0;
    fn of(x: u8) -> Self;
    /// The activations themselves, where they are read as they are stored.
    fn stored(_: &[u8]) -> Option<&[Self]> {
        None
    }
}

/// How kernels read a weight.
pub(super) trait Weight: Plain + Send + Sync + 'static {
    fn of(w: i8) -> Self;
    fn packed(weights: Lines<Self>) -> Integers;
    /// The weights, when they were packed so.
    fn unpacked(weights: &Integers) -> Option<&[Self]>;
}

impl Activation for u8 {
    #[inline(always)]
    fn of(x: u8) -> u8 {
        x
    }
    fn stored(x: &[u8]) -> Option<&[u8]> {
        Some(x)
    }
}

impl Activation for i16 {
    #[inline(always)]
    fn of(x: u8) -> i16 {
        i16::from(x)
    }
}

impl Activation for i8 {
    const SHIFT: i32 = 128;
    #[inline(always)]
    fn of(x: u8) -> i8 {
        (x ^ 128) as i8
    }
}

impl Weight for i8 {
    #[inline(always)]
    fn of(w: i8) -> i8 {
        w
    }
    fn packed(weights: Lines<i8>) -> Integers {
        Integers::Bytes(weights)
    }
    fn unpacked(weights: &Integers) -> Option<&[i8]> {
        match weights {
            Integers::Bytes(weights) => Some(weights.as_slice()),
            _ => None,
        }
    }
}

impl Weight for i16 {
    #[inline(always)]
    fn of(w: i8) -> i16 {
        i16::from(w)
    }
    fn packed(weights: Lines<i16>) -> Integers {
        Integers::Words(weights)
    }
    fn unpacked(weights: &Integers) -> Option<&[i16]> {
        match weights {
            Integers::Words(weights) => Some(weights.as_slice()),
            _ => None,
        }
    }
}
