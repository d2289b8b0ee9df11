//! Quantization: the qconfig in PyTorch's meaning, observers, and the one rounding rule.

mod affine;
mod file;
mod mapping;
mod observer;
mod qconfig;
mod schema;

pub use affine::{AddMultipliers, Affine, WeightScales, requantization_multiplier, round_half_even};
pub use file::{GroupParameters, Precision, QConfigFile, TensorParameters, WeightParameters};
pub use mapping::{MappingError, OrderEntry, QConfigMapping};
pub use observer::{Histogram, TensorStatistics};
pub use qconfig::{
    ActivationDtype, ActivationScheme, ActivationSpec, ObserverKind, Preset, QConfig, QConfigError, WeightDtype,
    WeightScheme, WeightSpec,
};
