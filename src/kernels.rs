//! fp32 and int8 kernels on channels-last (NHWC) slices, chosen for the CPU at run time. The only module
//! with `unsafe` code.
//!
//! Every kernel gives the same bits for any batch size and any number of threads: one output element is
//! always one chain of operations in a fixed order. Bits may differ between kernel names in fp32; integer
//! results never do.

#![allow(unsafe_code)]
// Closures are not inlined into `#[target_feature]` functions; loops over indices keep register tiles in registers.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod conv;
mod depthwise;
mod elementwise;
mod epilogue;
mod grid;
mod map;
#[cfg(target_arch = "aarch64")]
mod neon;
mod openvino;
mod packing;
#[cfg(target_arch = "x86_64")]
mod paired;
mod peak;
mod pool;
mod reference;
mod rescale;
mod simd;
#[cfg(test)]
mod tests;
mod windows;

pub use conv::Pictures;
pub use epilogue::{FloatEpilogue, FloatResidual, Form, IntegerEpilogue, IntegerResidual, Output};
pub use packing::{Geometry, PackedFloat, PackedInteger};
pub use peak::Peak;
pub use pool::PoolWindow;
use simd::{Activation, Simd, Weight};

/// Raised when any kernel's results may change, so that trials of different numerics never mix.
pub const NUMERICS_VERSION: u32 = 6;

/// A set of kernels that this CPU can run: a value of this type exists only where it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
    #[cfg(target_arch = "aarch64")]
    Neon,
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
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if has_avx512 && is_x86_feature_detected!("avx512vnni") {
                all.push(Kernels(Isa::Avx512Vnni));
            }
            if is_x86_feature_detected!("avxvnni") {
                all.push(Kernels(Isa::AvxVnni));
            }
            all.push(Kernels(Isa::Avx2));
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            if std::arch::is_aarch64_feature_detected!("i8mm") {
                all.push(Kernels(Isa::NeonI8mm));
            }
            all.push(Kernels(Isa::Neon));
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

    /// Name of these kernels: `avx512vnni`, `avxvnni`, `avx2`, `neon-i8mm`, `neon` or `reference`.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonI8mm => "neon-i8mm",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Reference => "reference",
        }
    }
}

/// Defines a function `$name` that runs `$body` compiled for the instruction set of a [`Kernels`].
///
/// The body is an `#[inline(always)]` generic over [`Simd`]; inlining it into a function with the target
/// features is what lets the compiler use them.
macro_rules! dispatch {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) -> $result:ty = $body:ident) => {
        $(#[$doc])*
        fn $name(kernels: super::Kernels, $($arg: $type),*) -> $result {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $type),*) -> $result {
                $body::<super::avx2::Avx2>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avxvnni")]
            fn avxvnni($($arg: $type),*) -> $result {
                $body::<super::avx2::AvxVnni>($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn avx512vnni($($arg: $type),*) -> $result {
                $body::<super::avx512::Avx512Vnni>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod")]
            fn neon($($arg: $type),*) -> $result {
                $body::<super::neon::Neon>($($arg),*)
            }
            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon,dotprod,i8mm")]
            fn neon_i8mm($($arg: $type),*) -> $result {
                $body::<super::neon::NeonI8mm>($($arg),*)
            }
            match kernels.0 {
                // SAFETY: a `Kernels` with this instruction set is made only where the CPU has it, here and below.
                #[cfg(target_arch = "x86_64")]
                super::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                super::Isa::AvxVnni => unsafe { avxvnni($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                super::Isa::Avx512Vnni => unsafe { avx512vnni($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                super::Isa::Neon => unsafe { neon($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "aarch64")]
                super::Isa::NeonI8mm => unsafe { neon_i8mm($($arg),*) },
                super::Isa::Reference => $body::<super::reference::Reference>($($arg),*),
            }
        }
    };
}
use dispatch;
