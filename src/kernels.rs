//! fp32 and int8 kernels on channels-last (NHWC) slices, chosen for the CPU at run time. The only module
//! with `unsafe` code.
//!
//! Every kernel gives the same bits for any batch size and any number of threads: one output element is
//! always one chain of operations in a fixed order. Bits may differ between kernel names in fp32; integer
//! results never do.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
mod conv;
mod depthwise;
mod elementwise;
mod packing;
mod pool;
mod reference;
#[cfg(test)]
mod tests;

pub use conv::{FloatEpilogue, IntegerEpilogue, Output, Pictures};
pub use packing::{Geometry, PackedFloat, PackedInteger};
pub use pool::PoolWindow;

/// Raised when any kernel's results may change, so that trials of different numerics never mix.
pub const NUMERICS_VERSION: u32 = 1;

/// A set of kernels that this CPU can run: a value of this type exists only where it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Reference,
}

/// A kernel name that is unknown, or that this CPU cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{name}` cannot run here; this CPU has: {}", available.join(", "))]
pub struct KernelError {
    name: String,
    available: Vec<&'static str>,
}

impl Kernels {
    /// The plain kernels, for any CPU.
    pub const REFERENCE: Kernels = Kernels(Isa::Reference);

    /// All kernels that this CPU can run, fastest first.
    pub fn available() -> Vec<Kernels> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            all.push(Kernels(Isa::Avx2));
        }
        all.push(Kernels::REFERENCE);
        all
    }

    /// The kernels that `QTUNED_KERNEL` names, else the fastest that this CPU can run.
    ///
    /// # Errors
    /// A name that is unknown or cannot run here.
    pub fn detect() -> Result<Kernels, KernelError> {
        match std::env::var("QTUNED_KERNEL") {
            Ok(name) => Kernels::by_name(&name),
            Err(_) => Ok(Kernels::available()[0]),
        }
    }

    /// The kernels of that name.
    ///
    /// # Errors
    /// A name that is unknown or cannot run here.
    pub fn by_name(name: &str) -> Result<Kernels, KernelError> {
        let all = Kernels::available();
        all.iter()
            .copied()
            .find(|k| k.name() == name)
            .ok_or_else(|| KernelError { name: name.to_owned(), available: all.iter().map(|k| k.name()).collect() })
    }

    /// Name of these kernels: `avx2` or `reference`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            Isa::Reference => "reference",
        }
    }
}

/// Defines a function `$name` that runs `$body` compiled for the instruction set of a [`Kernels`].
///
/// The body is an `#[inline(always)]` generic over [`Tile`]; inlining it into a function with the target
/// feature is what lets the compiler use the wider vectors.
macro_rules! dispatch {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        fn $name(kernels: super::Kernels, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) {
                $body::<super::avx2::Avx2>($($arg),*)
            }
            match kernels.0 {
                // SAFETY: a `Kernels` with this instruction set is made only where the CPU has it.
                #[cfg(target_arch = "x86_64")]
                super::Isa::Avx2 => unsafe { avx2($($arg),*) },
                super::Isa::Reference => $body::<super::reference::Reference>($($arg),*),
            }
        }
    };
}
use dispatch;

/// Output channels of one register tile.
const LANES: usize = 16;
/// Output pixels of one register tile.
const PIXELS: usize = 6;

/// The inner loops that differ by instruction set: sums of products for up to [`PIXELS`] output pixels and
/// [`LANES`] output channels.
trait Tile {
    /// `acc[p][o] = Σ x[base[p] + tap + c] · w[tap][c][o]`, each product fused into the sum in order of tap and
    /// channel (one rounding).
    ///
    /// # Safety
    /// The CPU has the instruction set; for every `p` and tap `base[p] + tap + channels <= x.len()`;
    /// `w.len() >= taps.len() · channels · LANES`.
    unsafe fn float<const P: usize>(
        x: &[f32],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[f32],
    ) -> [[f32; LANES]; P];

    /// The same in integers, exact; channels in pairs: `w[tap][pair][o][2]`, `channels` even.
    ///
    /// # Safety
    /// As for [`Tile::float`].
    unsafe fn integer<const P: usize>(
        x: &[i16],
        bases: &[usize; P],
        taps: &[usize],
        channels: usize,
        w: &[i16],
    ) -> [[i32; LANES]; P];

    /// What an integer epilogue does to eight sums: `rne(clamp(f32(sum + constant) · multiplier, low, high))`, by
    /// [`reference::steps`] one at a time.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn steps(sums: &[i32; 8], constants: &[i32; 8], multipliers: &[f32; 8], low: f32, high: f32) -> [f32; 8];

    /// Eight integers given as f32, from `0 − zero_point` to `255 − zero_point`, plus `zero_point`.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    unsafe fn stored(steps: [f32; 8], zero_point: f32) -> [u8; 8];
}
