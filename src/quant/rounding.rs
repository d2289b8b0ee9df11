//! Whose arithmetic puts numbers on a grid.
//!
//! Engines agree on what quantization is, and not on the last bit: where a sum lies between two integers, the order in which
//! scales are multiplied decides. One element in a million that is rounded to the other side in a first layer is as much
//! as all of int8's noise some layers on, so that two engines give other answers on one picture in twenty (MobileNetV2).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Affine, QConfig};

/// As which engine a network rounds, to the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// ONNX Runtime: integers are divided, or multiplied by one factor that was, and the zero point is added to the rounded
    /// number.
    #[default]
    OnnxRuntime,
    /// OpenVINO on CPUs with VNNI, of a file that leaves the batch open, in convolutions, linear layers, additions, averages, and
    /// where a tensor in fp32 is quantized. A last bit may differ in an addition behind a convolution without a bias, of a layer
    /// in fp32 and one in int8, or of two tensors that no layer writes, and in an average of integers whose zero point is not 0.
    /// Other operators round as for ONNX Runtime.
    OpenVino,
    /// The same where all shapes are fixed, in the file or by `reshape`: OpenVINO compiles elementwise operators then, which
    /// quantize tensors in fp32 in another order.
    #[serde(rename = "openvino_static")]
    OpenVinoStatic,
}

impl Rounding {
    /// All, in the order of their documentation.
    pub const ALL: [Rounding; 3] = [Rounding::OnnxRuntime, Rounding::OpenVino, Rounding::OpenVinoStatic];

    /// That of a network: all its qconfigs have one ([`QConfigMapping::resolve`](super::QConfigMapping::resolve) sees to it).
    pub fn of(qconfigs: &[Option<QConfig>]) -> Rounding {
        qconfigs.iter().flatten().next().map_or(Rounding::default(), |qconfig| qconfig.activation.rounding)
    }

    /// The name in qconfigs.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::OnnxRuntime => "onnxruntime",
            Rounding::OpenVino => "openvino",
            Rounding::OpenVinoStatic => "openvino_static",
        }
    }

    /// Whether it is one of OpenVINO's.
    #[inline(always)]
    pub fn is_openvino(self) -> bool {
        self != Rounding::OnnxRuntime
    }

    /// Whether it is left out where a qconfig is written.
    pub(super) fn is_default(&self) -> bool {
        !self.is_openvino()
    }
}

/// What turns a number into steps of a grid whose integers are 0..=255, as OpenVINO's operator of this name does: with
/// `l = (0 − z)·s` and `h = (255 − z)·s`,
///
/// `q = clamp(rne(x·scale + offset))`, `scale = 255 / (h − l)`, `offset = −l·255 / (h − l)`,
///
/// every operation rounded to f32 but the last two, which are one. In exact numbers that is `x / s + z`. (The CPU
/// plugin's `nodes/fake_quantize.cpp`.) With a `unit`, `x` counts in multiples of that, and `l` and `h` are divided by it, as
/// OpenVINO's low precision transformations do when they take the scale of what is read into the operator behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FakeQuantize {
    /// Steps in a unit.
    pub scale: f32,
    /// The zero point.
    pub offset: f32,
}

impl FakeQuantize {
    /// Of what is in steps already.
    pub const IDENTITY: FakeQuantize = FakeQuantize { scale: 1.0, offset: 0.0 };

    /// Of an average.
    pub fn of_average(grid: &Affine, unit: f32) -> FakeQuantize {
        let [low, high] = range(grid, unit);
        FakeQuantize { scale: 255.0 / (high - low), offset: -low * 255.0 / (high - low) }
    }

    /// As part of a convolution or linear layer: oneDNN is given the reciprocal of the scale where there is no zero point, and
    /// divides 1 by it again.
    pub fn of_layer(grid: &Affine, unit: f32) -> FakeQuantize {
        let FakeQuantize { scale, offset } = FakeQuantize::of_average(grid, unit);
        match grid.zero_point {
            0 => FakeQuantize { scale: 1.0 / (1.0 / scale), offset: 0.0 },
            _ => FakeQuantize { scale, offset },
        }
    }

    /// Of a tensor in fp32. Where it is compiled, the offset is `−l·scale`.
    #[inline(always)]
    pub fn of_tensor(grid: &Affine) -> FakeQuantize {
        let quantize = FakeQuantize::of_average(grid, 1.0);
        match grid.rounding {
            Rounding::OpenVinoStatic => FakeQuantize { offset: -range(grid, 1.0)[0] * quantize.scale, ..quantize },
            _ => quantize,
        }
    }

    /// The scale from integers back, where a layer without a zero point writes for somebody in fp32: `(h − l) / 255`, of which
    /// oneDNN is given the reciprocal, too. With a zero point, and where others read the integers, they are dequantized apart
    /// from it, as ONNX has it.
    #[inline(always)]
    pub fn back(grid: &Affine) -> f32 {
        if grid.zero_point == 0 { 1.0 / (1.0 / (255.0 * grid.scale / 255.0)) } else { grid.scale }
    }

    /// `fma(x, scale, offset)`, rounded once.
    #[inline(always)]
    pub fn steps(&self, x: f32) -> f32 {
        x.mul_add(self.scale, self.offset)
    }

    /// `x·scale + offset`, the product and the sum each rounded to f32: of a tensor in fp32 where that is compiled.
    #[inline(always)]
    pub fn steps_of_product(&self, x: f32) -> f32 {
        x * self.scale + self.offset
    }
}

/// What takes the sums of a layer in integers to steps of a grid, or where they are not rounded yet to units of the tensor:
/// `fma(f32(sum)·multiplier + bias, steps.scale, steps.offset)`, product and sum rounded to f32, one multiplier and bias a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSteps {
    /// One a channel.
    pub multipliers: Vec<f32>,
    /// One a channel.
    pub biases: Vec<f32>,
    /// The same for all.
    pub steps: FakeQuantize,
}

impl LayerSteps {
    /// To units of the tensor. `units` are `f32(s_x·s_w)`, and `biases` empty for a layer without.
    pub fn unrounded(units: Vec<f32>, mut biases: Vec<f32>) -> LayerSteps {
        biases.resize(units.len(), 0.0);
        LayerSteps { multipliers: units, biases, steps: FakeQuantize::IDENTITY }
    }

    /// Of a convolution: [`FakeQuantize::of_layer`] behind the units of the tensor. Without biases the units are taken into
    /// the operator behind, whose zero point is then that of the first channel for all.
    pub fn of_convolution(units: Vec<f32>, biases: Vec<f32>, grid: &Affine) -> LayerSteps {
        let Some(&first) = units.first().filter(|_| biases.is_empty()) else {
            return LayerSteps { steps: FakeQuantize::of_layer(grid, 1.0), ..LayerSteps::unrounded(units, biases) };
        };
        let steps = FakeQuantize::of_average(grid, first);
        if units.iter().all(|&unit| unit == first) {
            return LayerSteps { steps, ..LayerSteps::unrounded(vec![1.0; units.len()], biases) };
        }
        let multipliers: Vec<f32> = units.iter().map(|&unit| FakeQuantize::of_average(grid, unit).scale).collect();
        let biases = vec![steps.offset; units.len()];
        LayerSteps { multipliers, biases, steps: FakeQuantize::IDENTITY }
    }

    /// Of a linear layer: with biases, and no activation that matters behind them, oneDNN multiplies once, by both scales.
    pub fn of_linear(units: Vec<f32>, biases: Vec<f32>, grid: &Affine, is_activated: bool) -> LayerSteps {
        if biases.is_empty() || is_activated {
            return LayerSteps::of_convolution(units, biases, grid);
        }
        let FakeQuantize { scale, offset } = FakeQuantize::of_average(grid, 1.0);
        LayerSteps {
            multipliers: units.into_iter().map(|unit| unit * scale).collect(),
            biases: biases.into_iter().map(|bias| bias * scale + offset).collect(),
            steps: FakeQuantize::IDENTITY,
        }
    }
}

/// `l` and `h` of [`FakeQuantize`].
fn range(grid: &Affine, unit: f32) -> [f32; 2] {
    [0.0, 255.0].map(|q: f32| (q - f32::from(grid.zero_point)) * grid.scale / unit)
}

/// The sum of integers on two grids, in steps of a third: `fma(fma(q_a, a.scale, a.offset) + q_b, sum.scale, sum.offset)`. With `s`
/// and `z` of the grids, every operation rounded to f32,
///
/// `shift = z_a + z_b·s_b / s_a`, `l = −shift·(s_a / s_b)`, `h = (255 − shift)·(s_a / s_b)`,
///
/// `a.scale = (h − l) / 255`, `a.offset = l`: `a` goes to steps of `b` less its zero point. (The formula before
/// `AddTransformation::transform` in OpenVINO's low precision transformations.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairSum {
    /// Of the first.
    pub a: FakeQuantize,
    /// Of both: [`FakeQuantize::of_average`] in units of `s_b`.
    pub sum: FakeQuantize,
}

impl PairSum {
    /// Of integers on `a` and `b`, on the grid `out`.
    pub fn new(a: &Affine, b: &Affine, out: &Affine) -> PairSum {
        let shift = f32::from(a.zero_point) + f32::from(b.zero_point) * b.scale / a.scale;
        let [low, high] = [0.0, 255.0].map(|q| (q - shift) * (a.scale / b.scale));
        let a = FakeQuantize { scale: (high - low) / 255.0, offset: low };
        PairSum { a, sum: FakeQuantize::of_average(out, b.scale) }
    }
}

/// What becomes of the sum `v` of a layer, in units of the tensor, and the integer `q` that is added to it. OpenVINO does
/// not round `v` to the grid that stands between the layer and the addition, but only clips it to that grid's range:
///
/// `clamp(rne(fma(min(max(fma(v, layer.scale, layer.offset), low), high) + q, sum.scale, sum.offset)))`.
///
/// With [`FakeQuantize`] `f` of the layer's grid, `a` of [`PairSum`], and every operation rounded to f32,
///
/// `layer.scale = f.scale·a.scale`, `layer.offset = f.offset·a.scale + a.offset`, `low = a.offset`, `high = 255·a.scale + a.offset`.
///
/// In exact numbers the first two are `1 / s_q` and `−z_q`; an offset below a hundred-thousandth of `high − low` is 0.
/// (`updateOptimizedFormula` of the CPU plugin for a FakeQuantize that is not rounded, since an addition and another one follow
/// in the same convolution.)
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedSum {
    /// Of the layer's sum.
    pub layer: FakeQuantize,
    /// Bounds of that.
    pub low: f32,
    /// Likewise.
    pub high: f32,
    /// Of both together: [`FakeQuantize::of_layer`] in units of `s_q`.
    pub sum: FakeQuantize,
}

impl FusedSum {
    /// Of a layer's sum that is on the grid `layer` in the file, and integers on `addend`, on the grid `out`.
    pub fn new(layer: &Affine, addend: &Affine, out: &Affine) -> FusedSum {
        let own = FakeQuantize::of_average(layer, 1.0);
        let a = PairSum::new(layer, addend, out).a;
        // On the grid the range that is clipped to is 0 to 255.
        let [low, high] =
            range(layer, 1.0).map(|x| (x * own.scale + own.offset).round_ties_even() * a.scale + a.offset);
        let offset = own.offset * a.scale + a.offset;
        let offset = if offset.abs() < (high - low) * 0.00001 { 0.0 } else { offset };
        let layer = FakeQuantize { scale: own.scale * a.scale, offset };
        FusedSum { layer, low, high, sum: FakeQuantize::of_layer(out, addend.scale) }
    }

    /// The sum in steps of the output's grid.
    #[inline(always)]
    pub fn steps(&self, v: f32, q: u8) -> f32 {
        self.sum.steps(self.layer.steps(v).max(self.low).min(self.high) + f32::from(q))
    }
}
