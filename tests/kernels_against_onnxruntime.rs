//! Kernels against ONNX Runtime's operators: `data/onnxruntime_kernels.py` says how the numbers were made.

use qtuned::{
    graph::Window,
    kernels::{Form, Geometry, IntegerEpilogue, Kernels, Output, PackedInteger, Pictures},
    quant::{Affine, FakeQuantize, Rounding, requantization_multiplier},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Document {
    convolutions: Vec<Convolution>,
    quantizations: Vec<Quantization>,
    additions: Vec<Pairs>,
    products: Vec<Pairs>,
}

#[derive(Deserialize)]
struct Convolution {
    name: String,
    x_shape: [usize; 4],
    y_shape: [usize; 4],
    w_shape: [usize; 4],
    groups: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
    x: Vec<u8>,
    x_zero_point: u8,
    integer: ConvInteger,
    quantized: QLinearConv,
}

#[derive(Deserialize)]
struct ConvInteger {
    w: Vec<i8>,
    y: Vec<i32>,
}

#[derive(Deserialize)]
struct QLinearConv {
    w: Vec<i8>,
    bias: Vec<i32>,
    x_scale: f32,
    w_scales: Vec<f32>,
    y_scale: f32,
    y_zero_point: u8,
    y: Vec<u8>,
}

#[derive(Deserialize)]
struct Quantization {
    scale: f32,
    zero_point: u8,
    x: Vec<f32>,
    y: Vec<u8>,
    back: Vec<f32>,
}

#[derive(Deserialize)]
struct Pairs {
    a: Vec<u8>,
    b: Vec<u8>,
    scales: [f32; 3],
    zero_points: [u8; 3],
    y: Vec<u8>,
}

fn document() -> Document {
    serde_json::from_str(include_str!("data/onnxruntime_kernels.json")).unwrap()
}

fn grid(scale: f32, zero_point: u8) -> Affine {
    Affine { scale, zero_point, quant_min: 0, quant_max: 255, rounding: Rounding::default() }
}

/// NCHW to NHWC.
fn channels_last<T: Copy>(x: &[T], [batch, channels, height, width]: [usize; 4]) -> Vec<T> {
    let pixels = height * width;
    let at = |n: usize, p: usize, c: usize| x[(n * channels + c) * pixels + p];
    (0..batch).flat_map(|n| (0..pixels).flat_map(move |p| (0..channels).map(move |c| at(n, p, c)))).collect()
}

impl Convolution {
    fn pack(&self, kernels: Kernels, w: &[i8]) -> PackedInteger {
        let window = Window { kernel: self.kernel, stride: self.stride, dilation: self.dilation, pads: self.pads };
        let (in_channels, out_channels) = (self.x_shape[1], self.w_shape[0]);
        PackedInteger::new(kernels, Geometry { in_channels, out_channels, groups: self.groups, window }, w)
    }

    /// `bias − zero_point·Σw`, one a channel.
    fn constants(&self, packed: &PackedInteger, bias: &[i32]) -> Vec<i32> {
        bias.iter().zip(packed.sums()).map(|(b, s)| b - i32::from(self.x_zero_point) * s).collect()
    }

    fn run(&self, kernels: Kernels, packed: &PackedInteger, epilogue: &IntegerEpilogue) -> Vec<u8> {
        let x = channels_last(&self.x, self.x_shape);
        let mut y = vec![0; self.y_shape.iter().product()];
        let [batch, _, height, width] = self.x_shape;
        let out = Output::Quantized(&mut y);
        let pictures = Pictures { x: &x, dims: [batch, height, width], padding: self.x_zero_point };
        kernels.conv_integer(packed, pictures, epilogue, None, out, false);
        y
    }
}

/// Sums are not written as s32: taking off those due at one pixel must leave exactly zero there.
#[test]
fn sums_of_conv_integer_are_exact() {
    for case in document().convolutions {
        let due = channels_last(&case.integer.y, case.y_shape);
        for kernels in Kernels::available() {
            let packed = case.pack(kernels, &case.integer.w);
            for (pixel, due) in due.chunks(case.y_shape[1]).enumerate() {
                let minus: Vec<i32> = due.iter().map(|sum| -sum).collect();
                let epilogue = IntegerEpilogue {
                    constants: case.constants(&packed, &minus),
                    multipliers: vec![1.0; due.len()],
                    biases: Vec::new(),
                    steps: FakeQuantize::IDENTITY,
                    form: Form::Rounded { grid: grid(1.0, 128), low: 0, high: 255 },
                };
                let y = case.run(kernels, &packed, &epilogue);
                let y = &y[pixel * due.len()..][..due.len()];
                assert!(y.iter().all(|&q| q == 128), "{}, {}, pixel {pixel}", kernels.name(), case.name);
            }
        }
    }
}

/// The rounding rule is the same, but ONNX Runtime forms the multiplier in f32: ties may fall apart by one step.
#[test]
fn qlinear_conv_differs_by_one_step_at_most_and_rarely() {
    let (mut differing, mut total, mut saturated) = (0, 0, 0);
    for case in document().convolutions {
        let quantized = &case.quantized;
        let multiplier = |&w: &f32| requantization_multiplier(quantized.x_scale, w, quantized.y_scale);
        let due = channels_last(&quantized.y, case.y_shape);
        saturated += due.iter().filter(|&&q| q == 0 || q == 255).count();
        total += due.len();
        for kernels in Kernels::available() {
            let packed = case.pack(kernels, &quantized.w);
            let epilogue = IntegerEpilogue {
                constants: case.constants(&packed, &quantized.bias),
                multipliers: quantized.w_scales.iter().map(multiplier).collect(),
                biases: Vec::new(),
                steps: FakeQuantize::IDENTITY,
                form: Form::Rounded { grid: grid(quantized.y_scale, quantized.y_zero_point), low: 0, high: 255 },
            };
            let y = case.run(kernels, &packed, &epilogue);
            assert!(y.iter().zip(&due).all(|(a, b)| a.abs_diff(*b) <= 1), "{}, {}", kernels.name(), case.name);
            if kernels == Kernels::REFERENCE {
                differing += y.iter().zip(&due).filter(|(a, b)| a != b).count();
            }
        }
    }
    println!("QLinearConv: {differing} of {total} elements differ by one step; {saturated} are saturated");
    assert!(differing * 200 <= total, "{differing} of {total} differ");
    assert!(saturated * 3 < total, "the case should not live on saturation: {saturated} of {total}");
}

#[test]
fn quantize_and_dequantize_are_the_same() {
    for case in document().quantizations {
        let grid = grid(case.scale, case.zero_point);
        for kernels in Kernels::available() {
            let mut y = vec![0; case.x.len()];
            kernels.quantize(&case.x, grid, &mut y, false);
            assert_eq!(y, case.y, "{}, scale {}", kernels.name(), case.scale);
            let mut back = vec![f32::NAN; y.len()];
            kernels.dequantize(&y, grid, &mut back, false);
            assert_eq!(back, case.back, "{}, scale {}", kernels.name(), case.scale);
        }
    }
}

/// The same integers, with every tie and every last bit of the ratios of scales.
#[test]
fn qlinear_add_and_mul_are_the_same() {
    let document = document();
    for (what, pairs) in [("sum", document.additions), ("product", document.products)] {
        for case in pairs {
            let [a, b, out] = [0, 1, 2].map(|i| grid(case.scales[i], case.zero_points[i]));
            for kernels in Kernels::available() {
                let mut y = vec![0; case.y.len()];
                let kernel = if what == "sum" { Kernels::add_integer } else { Kernels::mul_integer };
                kernel(kernels, (&case.a, a), (&case.b, b), out, (0, 255), Output::Quantized(&mut y), false);
                assert_eq!(y, case.y, "{}, {what} on {:?}, {:?}", kernels.name(), case.scales, case.zero_points);
            }
        }
    }
}
