//! Quantization: the qconfig in PyTorch's meaning, observers, and the one rounding rule.

mod affine;
mod file;
mod histogram;
mod mapping;
mod observer;
mod qconfig;
mod repair;
mod rounding;
mod schema;

pub use affine::{AddMultipliers, Affine, WeightScales, requantization_multiplier, round_half_even};
pub use file::{GroupParameters, Precision, QConfigFile, TensorParameters, WeightParameters};
pub use histogram::Histogram;
pub use mapping::{MappingError, OrderEntry, QConfigMapping};
pub use observer::TensorStatistics;
pub use qconfig::{
    ActivationDtype, ActivationScheme, ActivationSpec, ObserverKind, Percentile, Preset, QConfig, QConfigError,
    Residual, WeightDtype, WeightScheme, WeightSpec,
};
pub use repair::Repair;
pub use rounding::{FakeQuantize, FusedSum, LayerSteps, PairSum, Rounding};
