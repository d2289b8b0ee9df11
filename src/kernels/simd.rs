//! What kernels need of an instruction set.

use super::packing::{Integers, Lines, Plain};

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
    /// Taps of one product of [`Simd::depthwise`].
    const TAPS: usize;
    /// Bytes that [`Simd::depthwise`] interleaves at a time: its order of channels follows from it.
    const INTERLEAVED: usize;

    /// [`Simd::WIDTH`] numbers.
    type F: Copy;
    /// [`Simd::WIDTH`] integers.
    type I: Copy;
    /// How an integer convolution reads activations.
    type Activation: Activation;
    /// How an integer convolution reads weights.
    type Weight: Weight;
    /// The weights of one product of [`Simd::depthwise`].
    type TapWeights: Copy;

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
    /// Writes two vectors of integers in 0..=255 as bytes.
    unsafe fn store_bytes(to: *mut u8, x: [Self::I; 2]);

    /// Asks for the cache line at an address, which need not be one: nothing is read.
    unsafe fn prefetch(at: *const u8);

    /// [`Simd::STEP`] activations, the same in every lane.
    unsafe fn broadcast(from: *const Self::Activation) -> Self::I;
    /// [`Simd::STEP`] weights for each lane.
    unsafe fn weights(from: *const Self::Weight) -> Self::I;
    /// `sum + Σ x·w` of each lane, exact.
    unsafe fn dot(sum: Self::I, x: Self::I, w: Self::I) -> Self::I;

    /// `sums + Σ x[tap][channel] · w[tap][channel]` for the channels of two vectors, in an order of its own. `taps` are
    /// [`Simd::TAPS`] pointers, each to as many bytes as channels from `at` on; `w` are [`Simd::depthwise_weights`].
    /// Activations count as [`Activation::of`] says.
    unsafe fn depthwise(sums: [Self::I; 2], taps: &[*const u8], at: usize, w: &Self::TapWeights) -> [Self::I; 2];
    /// The weights of [`Simd::TAPS`] taps, which are in the order of
    /// [`depthwise_place`](super::packing::depthwise_place).
    unsafe fn depthwise_weights(from: *const Self::Weight) -> Self::TapWeights;
    /// The sums of [`Simd::depthwise`] in the order of channels.
    unsafe fn depthwise_in_order(sums: [Self::I; 2]) -> [Self::I; 2];
}

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
