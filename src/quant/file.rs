//! A qconfig written whole: the mapping, and every scale and zero point that follows from it.

use serde::{Deserialize, Serialize};

use super::{ActivationDtype, Affine, QConfig, QConfigMapping, Rounding, WeightDtype, WeightScheme};

/// What `*.qconfig.yaml` holds: enough to run the network in this qconfig without calibrating it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QConfigFile {
    /// Name of the job that measured it.
    pub job: String,
    /// SHA-256 of the ONNX file and its external data, in hexadecimal.
    pub model_sha256: String,
    /// Number of the trial; 0 is fp32.
    pub trial: usize,
    /// The metric's value: a fraction, or dB.
    pub score: f64,
    /// Which groups get which qconfig; can be given as `qconfig:` of a job.
    pub mapping: QConfigMapping,
    /// Every group, in topological order.
    pub groups: Vec<GroupParameters>,
}

/// How one group runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupParameters {
    /// Stable id.
    pub id: String,
    /// In integers or not.
    pub precision: Precision,
    /// Grids of its inputs, in order; empty in fp32. `null` for the sum of a layer that an addition takes as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Option<TensorParameters>>,
    /// Grid of its output; none in fp32, and where an addition takes the sum as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<TensorParameters>,
    /// Scales of its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightParameters>,
}

/// How a group computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// In integers of eight bits.
    Int8,
    /// In 32-bit floating point.
    Fp32,
}

/// `x ≈ (q − zero_point) · scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorParameters {
    /// Step between neighbouring integers.
    pub scale: f32,
    /// The integer that means 0, in numbers of the dtype.
    pub zero_point: i32,
    /// Integer type.
    pub dtype: ActivationDtype,
    /// Smallest integer, in numbers of the dtype.
    pub quant_min: i32,
    /// Largest integer, in numbers of the dtype.
    pub quant_max: i32,
}

/// Scales of a weight; its zero points are 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightParameters {
    /// Integer type.
    pub dtype: WeightDtype,
    /// One scale for all, or one an output channel.
    pub qscheme: WeightScheme,
    /// As many as the scheme has.
    pub scales: Vec<f32>,
    /// One bias an output channel where it was corrected; none for the layer's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bias: Vec<f32>,
}

impl TensorParameters {
    /// A grid in the numbers of `dtype`: a grid stores integers of all types as u8.
    pub fn new(grid: &Affine, dtype: ActivationDtype) -> TensorParameters {
        let number = |stored: u8| i32::from(stored) - dtype.u8_offset();
        TensorParameters {
            scale: grid.scale,
            zero_point: number(grid.zero_point),
            dtype,
            quant_min: number(grid.quant_min),
            quant_max: number(grid.quant_max),
        }
    }

    /// The grid, on which numbers are rounded so; `None` when the numbers do not belong to the dtype, or are no grid.
    pub fn grid(&self, rounding: Rounding) -> Option<Affine> {
        let stored = |number: i32| u8::try_from(number.checked_add(self.dtype.u8_offset())?).ok();
        let (zero_point, quant_min, quant_max) =
            (stored(self.zero_point)?, stored(self.quant_min)?, stored(self.quant_max)?);
        let ordered = quant_min <= zero_point && zero_point <= quant_max && quant_min < quant_max;
        let grid = Affine { scale: self.scale, zero_point, quant_min, quant_max, rounding };
        (ordered && self.scale.is_normal() && self.scale > 0.0).then_some(grid)
    }
}

impl GroupParameters {
    /// A group that stays in fp32.
    pub fn fp32(id: &str) -> GroupParameters {
        GroupParameters { id: id.to_owned(), precision: Precision::Fp32, inputs: vec![], output: None, weight: None }
    }

    /// A group in integers. `scales` are those of its weight, one an output channel; none without a weight. `bias` is the
    /// corrected one.
    pub fn int8(
        id: &str,
        qconfig: &QConfig,
        inputs: &[Option<Affine>],
        output: Option<&Affine>,
        scales: Option<&[f32]>,
        bias: Option<&[f32]>,
    ) -> GroupParameters {
        let tensor = |grid: &Affine| TensorParameters::new(grid, qconfig.activation.dtype);
        // Per tensor, all channels have the same scale, except where a bias raised one: then all are written.
        let written = |scales: &[f32]| match (qconfig.weight.qscheme, scales) {
            (WeightScheme::PerTensorSymmetric, [first, rest @ ..]) if rest.iter().all(|s| s == first) => vec![*first],
            _ => scales.to_vec(),
        };
        GroupParameters {
            id: id.to_owned(),
            precision: Precision::Int8,
            inputs: inputs.iter().map(|grid| grid.as_ref().map(tensor)).collect(),
            output: output.map(tensor),
            weight: scales.map(|scales| WeightParameters {
                dtype: qconfig.weight.dtype,
                qscheme: qconfig.weight.qscheme,
                scales: written(scales),
                bias: bias.unwrap_or_default().to_vec(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::Preset;

    #[test]
    fn grids_are_written_in_numbers_of_their_type() {
        let spec = Preset::Tensorrt.qconfig().activation;
        let grid = Affine::from_range(-1.0, 3.0, &spec);
        let written = TensorParameters::new(&grid, spec.dtype);
        assert_eq!((written.zero_point, written.quant_min, written.quant_max), (0, -127, 127));
        assert_eq!(written.grid(grid.rounding), Some(grid));
        assert_eq!(TensorParameters { quant_max: 128, ..written }.grid(grid.rounding), None);
        assert_eq!(TensorParameters { scale: f32::NAN, ..written }.grid(grid.rounding), None);
    }

    #[test]
    fn a_tensor_with_one_scale_has_one_written() {
        let qconfig = Preset::Qnnpack.qconfig();
        let grid = Affine::from_range(0.0, 1.0, &qconfig.activation);
        let scales = |s: &[f32]| {
            GroupParameters::int8("a", &qconfig, &[Some(grid)], Some(&grid), Some(s), None).weight.unwrap().scales
        };
        assert_eq!(scales(&[0.5, 0.5]), [0.5]);
        assert_eq!(scales(&[0.5, 0.75]), [0.5, 0.75]);
    }
}
