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
    /// OpenVINO on CPUs with VNNI, of a file that leaves the batch open, in convolutions, linear layers, additions that take
    /// the sum of one (`residual: fused`), averages, and where a tensor in fp32 is quantized; an average of integers whose zero
    /// point is not 0 may differ in the last bit. Other operators round as for ONNX Runtime.
    OpenVino,
    /// The same where all shapes are fixed, in the file or by `reshape`: OpenVINO compiles elementwise operators then, which
    /// round products.
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
/// every operation rounded to f32 unless its method says otherwise. In exact numbers that is `x / s + z`. (The CPU
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
    pub fn of_tensor(grid: &Affine, unit: f32) -> FakeQuantize {
        let quantize = FakeQuantize::of_average(grid, unit);
        match grid.rounding {
            Rounding::OpenVinoStatic => FakeQuantize { offset: -range(grid, unit)[0] * quantize.scale, ..quantize },
            _ => quantize,
        }
    }

    /// `x·scale + offset`, the product and the sum each rounded to f32: of a tensor in fp32.
    #[inline(always)]
    pub fn steps(&self, x: f32) -> f32 {
        x * self.scale + self.offset
    }

    /// `fma(x, scale, offset)`, rounded once: of a layer or an average.
    #[inline(always)]
    pub fn steps_at_once(&self, x: f32) -> f32 {
        x.mul_add(self.scale, self.offset)
    }
}

/// `l` and `h` of [`FakeQuantize`].
fn range(grid: &Affine, unit: f32) -> [f32; 2] {
    [0.0, 255.0].map(|q: f32| (q - f32::from(grid.zero_point)) * grid.scale / unit)
}

/// What becomes of the sum `v` of a layer, in units of the tensor, and the integer `q` on the grid `addend` with scale `s` and
/// zero point `z` that is added to it: `clamp(rne(((v − z·s)·(1/s) + q)·scale + offset))`, every operation rounded to f32
/// (`AddTransformation` in OpenVINO's low precision transformations). Where shapes are open, the addition is part of the
/// layer: scale and offset are [`FakeQuantize::of_layer`] in units of `s`, and the last product is not rounded. Else they are
/// [`FakeQuantize::of_tensor`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FusedSum {
    /// `z·s`.
    pub shift: f32,
    /// `1/s`.
    pub reciprocal: f32,
    /// Of the sum.
    pub quantize: FakeQuantize,
    /// Whether the product with its scale is rounded before its offset is added.
    pub rounds_product: bool,
}

impl FusedSum {
    /// Of a layer's sum and integers on `addend`, on the grid `out`.
    pub fn new(addend: &Affine, out: &Affine) -> FusedSum {
        let rounds_product = out.rounding == Rounding::OpenVinoStatic;
        let quantize = if rounds_product { FakeQuantize::of_tensor } else { FakeQuantize::of_layer };
        FusedSum {
            shift: f32::from(addend.zero_point) * addend.scale,
            reciprocal: 1.0 / addend.scale,
            quantize: quantize(out, addend.scale),
            rounds_product,
        }
    }

    /// The sum in steps of the output's grid.
    #[inline(always)]
    pub fn steps(&self, v: f32, q: u8) -> f32 {
        let sum = (v - self.shift) * self.reciprocal + f32::from(q);
        if self.rounds_product { self.quantize.steps(sum) } else { self.quantize.steps_at_once(sum) }
    }
}
