//! Every kernel against one naive oracle that is written from the definitions alone: loops over the raw
//! weights and the NHWC input, and explicit bounds instead of padding.

use proptest::prelude::*;

use super::*;
use crate::{
    graph::Window,
    quant::{Affine, FakeQuantize, Rounding},
};

/// Instruction sets that this crate has or may come to have kernels for; `reference` runs everywhere.
const INSTRUCTION_SETS: [&str; 6] = ["avx512vnni", "avxvnni", "avx2", "neon-i8mm", "neon", "reference"];

/// Reproducible numbers (splitmix64), so that a failing case is named by its seed.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn integer(&mut self, low: i64, high: i64) -> i64 {
        low + (self.bits() % (high - low + 1) as u64) as i64
    }

    fn float(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.bits() >> 40) as f32 / (1u64 << 24) as f32)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.bits() as usize % from.len()]
    }

    fn floats(&mut self, len: usize, low: f32, high: f32) -> Vec<f32> {
        (0..len).map(|_| self.float(low, high)).collect()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.integer(0, 255) as u8).collect()
    }

    fn grid(&mut self) -> Affine {
        let (quant_min, quant_max) = self.pick(&[(0, 255), (0, 127), (1, 255), (20, 200)]);
        let zero_point = self.integer(quant_min, quant_max) as u8;
        let scale = self.float(0.5, 1.0) * self.pick(&[1e-4, 0.01, 0.25, 1.0, 3.0]);
        let rounding = self.pick(&[Rounding::OnnxRuntime, Rounding::OpenVino, Rounding::OpenVinoStatic]);
        Affine { scale, zero_point, quant_min: quant_min as u8, quant_max: quant_max as u8, rounding }
    }
}

/// One convolution with made-up data.
#[derive(Clone, Debug)]
struct Case {
    geometry: Geometry,
    dims: [usize; 3],
    seed: u64,
    /// Inputs 0 and 255, weights -128, -127 and 127 only.
    extreme: bool,
    parallel: bool,
}

fn window() -> impl Strategy<Value = Window> {
    let one = Just(Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] });
    let any = (
        prop::array::uniform2(1usize..=5),
        prop::array::uniform2(1usize..=3),
        prop::array::uniform2(1usize..=2),
        prop::array::uniform4(0usize..=3),
    )
        .prop_map(|(kernel, stride, dilation, pads)| Window { kernel, stride, dilation, pads });
    let strided = prop::array::uniform2(1usize..=3).prop_map(|stride| Window {
        kernel: [1, 1],
        stride,
        dilation: [1, 1],
        pads: [0; 4],
    });
    prop_oneof![2 => one, 1 => strided, 6 => any]
}

/// Groups, input and output channels.
fn channels() -> impl Strategy<Value = [usize; 3]> {
    prop_oneof![
        3 => (1usize..=40, 1usize..=40).prop_map(|(i, o)| [1, i, o]),
        2 => (2usize..=5, 1usize..=8, 1usize..=20).prop_map(|(g, i, o)| [g, g * i, g * o]),
        2 => (2usize..=40).prop_map(|c| [c, c, c]),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let dims = (1usize..=3, 1usize..=13, 1usize..=13).prop_map(|(b, h, w)| [b, h, w]);
    (window(), channels(), dims, any::<u64>(), prop::bool::weighted(0.2), any::<bool>())
        .prop_map(|(window, [groups, in_channels, out_channels], dims, seed, extreme, parallel)| {
            let geometry = Geometry { in_channels, out_channels, groups, window };
            Case { geometry, dims, seed, extreme, parallel }
        })
        .prop_filter("the window must fit", |case| case.out_size().is_some())
}

/// Linear layers: a 1×1 window over `pixels` pixels, with long reductions.
fn linear() -> impl Strategy<Value = Case> {
    let features = (1usize..=3000, 1usize..=70);
    (features, 1usize..=20, any::<u64>(), prop::bool::weighted(0.3), any::<bool>()).prop_map(
        |((in_channels, out_channels), pixels, seed, extreme, parallel)| {
            let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
            let geometry = Geometry { in_channels, out_channels, groups: 1, window };
            Case { geometry, dims: [pixels, 1, 1], seed, extreme, parallel }
        },
    )
}

impl Case {
    fn out_size(&self) -> Option<[usize; 2]> {
        let window = self.geometry.window;
        let axis = |i: usize| {
            let reach = window.dilation[i] * (window.kernel[i] - 1) + 1;
            let size = self.dims[i + 1] + window.pads[i] + window.pads[i + 2];
            (size >= reach).then(|| (size - reach) / window.stride[i] + 1)
        };
        Some([axis(0)?, axis(1)?])
    }

    fn picture_len(&self) -> usize {
        self.dims[1] * self.dims[2] * self.geometry.in_channels
    }

    fn out_len(&self) -> usize {
        self.dims[0] * self.out_size().unwrap().iter().product::<usize>() * self.geometry.out_channels
    }

    fn weight_len(&self) -> usize {
        let Geometry { in_channels, out_channels, groups, window } = self.geometry;
        out_channels * (in_channels / groups) * window.kernel[0] * window.kernel[1]
    }

    /// The definition of convolution: `x[batch][height][width][in]`, `w[out][in / groups][height][width]`; each
    /// output is a chain of `add` over taps (row by row), then channels; what is outside the picture is left out.
    fn convolve<X: Copy, W: Copy, S: Copy>(&self, x: &[X], w: &[W], zero: S, add: impl Fn(S, X, W) -> S) -> Vec<S> {
        let Geometry { in_channels, out_channels, groups, window } = self.geometry;
        let [batch, height, width] = self.dims;
        let [out_height, out_width] = self.out_size().unwrap();
        let (in_per_group, out_per_group) = (in_channels / groups, out_channels / groups);
        let mut y = Vec::new();
        for n in 0..batch {
            for oy in 0..out_height {
                for ox in 0..out_width {
                    for o in 0..out_channels {
                        let mut sum = zero;
                        for ky in 0..window.kernel[0] {
                            for kx in 0..window.kernel[1] {
                                let iy = (oy * window.stride[0] + ky * window.dilation[0]) as isize
                                    - window.pads[0] as isize;
                                let ix = (ox * window.stride[1] + kx * window.dilation[1]) as isize
                                    - window.pads[1] as isize;
                                if iy < 0 || ix < 0 || iy >= height as isize || ix >= width as isize {
                                    continue;
                                }
                                for c in 0..in_per_group {
                                    let channel = o / out_per_group * in_per_group + c;
                                    let pixel = (n * height + iy as usize) * width + ix as usize;
                                    let weight = ((o * in_per_group + c) * window.kernel[0] + ky) * window.kernel[1];
                                    sum = add(sum, x[pixel * in_channels + channel], w[weight + kx]);
                                }
                            }
                        }
                        y.push(sum);
                    }
                }
            }
        }
        y
    }
}

/// A convolution in integers: its data, epilogue, and exact sums of `(x − zero_point)·w + bias`.
struct IntegerCase {
    case: Case,
    x: Vec<u8>,
    zero_point: u8,
    /// One for each of the kernels that run here.
    packed: Vec<PackedInteger>,
    bias: Vec<i32>,
    epilogue: IntegerEpilogue,
    /// What its form is made of.
    grid: Affine,
    low: u8,
    high: u8,
    sums: Vec<i64>,
}

impl IntegerCase {
    fn new(case: Case) -> IntegerCase {
        let mut random = Random(case.seed);
        let out_channels = case.geometry.out_channels;
        let (x, w): (Vec<u8>, Vec<i8>) = if case.extreme {
            (
                (0..case.dims[0] * case.picture_len()).map(|_| random.pick(&[0, 255, 255])).collect(),
                (0..case.weight_len()).map(|_| random.pick(&[-128, -127, 127, 127])).collect(),
            )
        } else {
            // Like trained weights, most of the time: many small ones and a few large ones.
            let like_trained = random.pick(&[true, true, false]);
            let x = random.bytes(case.dims[0] * case.picture_len());
            let w = (0..case.weight_len()).map(|_| match random.integer(-128, 127) {
                w if like_trained => (w * w * w / (128 * 128)) as i8,
                w => w as i8,
            });
            (x, w.collect())
        };
        let any = random.integer(0, 255) as u8;
        let zero_point = random.pick(&[0, 1, 127, 128, 254, 255, any, any]);
        let bias: Vec<i32> = (0..out_channels).map(|_| random.integer(-30_000, 30_000) as i32).collect();
        let products =
            case.convolve(&x, &w, 0i64, |sum, x, w| sum + (i64::from(x) - i64::from(zero_point)) * i64::from(w));
        let sums: Vec<i64> = products.iter().enumerate().map(|(i, s)| s + i64::from(bias[i % out_channels])).collect();
        let packed: Vec<PackedInteger> =
            Kernels::available().into_iter().map(|kernels| PackedInteger::new(kernels, case.geometry, &w)).collect();
        let per_channel = w.len() / out_channels;
        for (o, row) in w.chunks(per_channel).enumerate() {
            assert_eq!(i64::from(packed[0].sums()[o]), row.iter().map(|&w| i64::from(w)).sum::<i64>());
        }
        let largest = sums.iter().map(|s| s.abs()).max().unwrap().max(1) as f32;
        // Some outputs saturate, some use a part of the range only, some are mostly ties.
        let multipliers: Vec<f32> = (0..out_channels)
            .map(|_| {
                let spread = random.pick(&[40.0, 128.0, 500.0]) * random.float(0.5, 1.0) / largest;
                random.pick(&[spread, spread, 0.5, 0.0625])
            })
            .collect();
        let grid = Affine { rounding: Rounding::OnnxRuntime, ..random.grid() };
        let (low, high) =
            random.pick(&[(grid.quant_min, grid.quant_max), (grid.zero_point, grid.quant_max), (40, 120)]);
        let epilogue = IntegerEpilogue {
            constants: constants(&packed[0], &bias, zero_point),
            multipliers,
            biases: Vec::new(),
            steps: FakeQuantize::IDENTITY,
            form: Form::Rounded { grid, low, high },
        };
        IntegerCase { case, x, zero_point, packed, bias, epilogue, grid, low, high, sums }
    }

    /// `clamp(rne(f32(sum)·m) + zero_point)`, by way of f64 and i64.
    fn expected(&self) -> Vec<u8> {
        let expect = |scaled: f32| {
            let q = round_half_even(f64::from(scaled)) + i64::from(self.grid.zero_point);
            q.clamp(i64::from(self.low), i64::from(self.high)) as u8
        };
        self.scaled(&self.epilogue.multipliers).into_iter().map(expect).collect()
    }

    /// `f32(sum)·m`.
    fn scaled(&self, multipliers: &[f32]) -> Vec<f32> {
        let scale = |(i, &sum): (usize, &i64)| {
            // A product of two f32 is exact in f64; rounding it once to f32 is the f32 product.
            (f64::from(sum as f32) * f64::from(multipliers[i % multipliers.len()])) as f32
        };
        self.sums.iter().enumerate().map(scale).collect()
    }

    /// The same layer as OpenVINO has it, with these factors: biases in f32, in units of the tensor; and
    /// `f32(f32(sum without bias)·m) + bias`.
    fn as_openvino(&self, form: Form, multipliers: &[f32]) -> (IntegerEpilogue, Vec<f32>) {
        let channels = multipliers.len();
        let biases: Vec<f32> = self.bias.iter().zip(multipliers).map(|(&b, m)| b as f32 * m).collect();
        let constants = constants(&self.packed[0], &vec![0; channels], self.zero_point);
        let sums = self.sums.iter().enumerate().map(|(i, sum)| {
            let channel = i % channels;
            (sum - i64::from(self.bias[channel])) as f32 * multipliers[channel] + biases[channel]
        });
        let sums = sums.collect();
        let steps = match form {
            Form::Rounded { grid, .. } => FakeQuantize::of_layer(&grid, 1.0),
            Form::Float { .. } => FakeQuantize::IDENTITY,
        };
        (IntegerEpilogue { constants, multipliers: multipliers.to_vec(), biases, steps, form }, sums)
    }

    fn run(&self, kernels: Kernels, epilogue: &IntegerEpilogue, out: Output<'_>, parallel: bool) {
        let pictures = Pictures { x: &self.x, dims: self.case.dims, padding: self.zero_point };
        kernels.conv_integer(&self.packed[index(kernels)], pictures, epilogue, None, out, parallel);
    }

    fn quantized(&self, kernels: Kernels, epilogue: &IntegerEpilogue, parallel: bool) -> Vec<u8> {
        let mut y = vec![77; self.case.out_len()];
        self.run(kernels, epilogue, Output::Quantized(&mut y), parallel);
        y
    }

    fn dequantized(&self, kernels: Kernels, epilogue: &IntegerEpilogue, parallel: bool) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.case.out_len()];
        self.run(kernels, epilogue, Output::Float(&mut y), parallel);
        y
    }

    /// Output of the batch's pictures, each run alone.
    fn one_by_one(&self, kernels: Kernels) -> Vec<u8> {
        let [batch, height, width] = self.case.dims;
        let each = self.case.out_len() / batch;
        let mut y = vec![77; self.case.out_len()];
        for (x, y) in self.x.chunks(self.case.picture_len()).zip(y.chunks_mut(each)) {
            let pictures = Pictures { x, dims: [1, height, width], padding: self.zero_point };
            kernels.conv_integer(
                &self.packed[index(kernels)],
                pictures,
                &self.epilogue,
                None,
                Output::Quantized(y),
                false,
            );
        }
        y
    }
}

/// Place of these kernels among those that run here.
fn index(kernels: Kernels) -> usize {
    Kernels::available().iter().position(|&k| k == kernels).unwrap()
}

/// `bias − zero_point·Σw`, one a channel.
fn constants(packed: &PackedInteger, bias: &[i32], zero_point: u8) -> Vec<i32> {
    bias.iter().zip(packed.sums()).map(|(b, s)| b - i32::from(zero_point) * s).collect()
}

/// Round half to even, from the definition.
fn round_half_even(x: f64) -> i64 {
    let below = x.floor();
    let up = x - below > 0.5 || (x - below == 0.5 && below.rem_euclid(2.0) == 1.0);
    below as i64 + i64::from(up)
}

/// `l·255`-th steps of a grid as OpenVINO has them, over numbers in multiples of `unit`: factor and offset.
fn openvino(grid: &Affine, unit: f32) -> [f32; 2] {
    let [low, high] = [0.0f32, 255.0].map(|q| (q - f32::from(grid.zero_point)) * grid.scale / unit);
    let factor = 255.0 / (high - low);
    [factor, if grid.rounding == Rounding::OpenVinoStatic { -low * factor } else { -low * 255.0 / (high - low) }]
}

/// The same behind a layer, and what it makes of `x`.
fn behind_layer(x: f32, grid: &Affine, unit: f32, low: u8, high: u8) -> u8 {
    let grid = &Affine { rounding: Rounding::OpenVino, ..*grid };
    let [factor, offset] = match openvino(grid, unit) {
        [factor, _] if grid.zero_point == 0 => [1.0 / (1.0 / factor), 0.0],
        both => both,
    };
    let steps = x.mul_add(factor, offset);
    round_half_even(f64::from(steps).clamp(-1e6, 1e6)).clamp(i64::from(low), i64::from(high)) as u8
}

/// And back to f32 in the same operator.
fn back_behind_layer(q: u8, grid: &Affine) -> f32 {
    if grid.zero_point == 0 { f32::from(q) * (1.0 / (1.0 / (255.0 * grid.scale / 255.0))) } else { dequantize(q, grid) }
}

/// What OpenVINO makes of the sum `v` of a layer whose grid is `layer` before it adds integers on `addend`: clipped, in steps of
/// these, less their zero point.
fn clipped_to_layer(v: f32, layer: &Affine, addend: &Affine) -> f32 {
    let [factor, offset] = openvino(&Affine { rounding: Rounding::OpenVino, ..*layer }, 1.0);
    let shift = f32::from(layer.zero_point) + f32::from(addend.zero_point) * addend.scale / layer.scale;
    let ratio = layer.scale / addend.scale;
    let [least, most] = [(0.0 - shift) * ratio, (255.0 - shift) * ratio];
    let step = (most - least) / 255.0;
    // What is on the grid ends at the integers 0 and 255.
    let [low, high] = [0.0 * step + least, 255.0 * step + least];
    let offset = offset * step + least;
    let steps = v.mul_add(factor * step, if offset.abs() < (high - low) * 0.00001 { 0.0 } else { offset });
    if steps < low {
        low
    } else if steps > high {
        high
    } else {
        steps
    }
}

/// `clamp(rne(x / scale) + zero_point)`, by way of f64 and i64; or what OpenVINO has in its place.
fn quantize(x: f32, grid: &Affine) -> u8 {
    if grid.rounding != Rounding::OnnxRuntime {
        let [factor, offset] = openvino(grid, 1.0);
        let steps = match grid.rounding {
            Rounding::OpenVinoStatic => x * factor + offset,
            _ => x.mul_add(factor, offset),
        };
        let steps = round_half_even(f64::from(steps).clamp(-1e6, 1e6));
        return steps.clamp(i64::from(grid.quant_min), i64::from(grid.quant_max)) as u8;
    }
    // A quotient of two f32 in f64, rounded to f32, is the f32 quotient.
    let steps = f64::from((f64::from(x) / f64::from(grid.scale)) as f32);
    let steps = round_half_even(steps.clamp(-1e6, 1e6));
    (steps + i64::from(grid.zero_point)).clamp(i64::from(grid.quant_min), i64::from(grid.quant_max)) as u8
}

/// `(q − zero_point)·scale`.
fn dequantize(q: u8, grid: &Affine) -> f32 {
    (f64::from(i32::from(q) - i32::from(grid.zero_point)) * f64::from(grid.scale)) as f32
}

/// A number of steps with the zero point in it, as an integer of the grid.
fn from_steps(steps: f32, grid: &Affine) -> u8 {
    let steps = if steps.is_nan() { i64::MIN } else { round_half_even(f64::from(steps).clamp(-1e6, 1e6)) };
    steps.clamp(i64::from(grid.quant_min), i64::from(grid.quant_max)) as u8
}

/// The sum of two integers as [`AddMultipliers`](crate::quant::AddMultipliers) has it, or OpenVINO.
fn sum((a, a_grid): (u8, &Affine), (b, b_grid): (u8, &Affine), grid: &Affine) -> u8 {
    if grid.rounding != Rounding::OnnxRuntime {
        let shift = f32::from(a_grid.zero_point) + f32::from(b_grid.zero_point) * b_grid.scale / a_grid.scale;
        let ratio = a_grid.scale / b_grid.scale;
        let [least, most] = [(0.0 - shift) * ratio, (255.0 - shift) * ratio];
        let both = f32::from(a).mul_add((most - least) / 255.0, least) + f32::from(b);
        let [factor, offset] = openvino(&Affine { rounding: Rounding::OpenVino, ..*grid }, b_grid.scale);
        return from_steps(both.mul_add(factor, offset), grid);
    }
    let (m_a, m_b) = (a_grid.scale / grid.scale, b_grid.scale / grid.scale);
    let zero_points = m_a.mul_add(f32::from(a_grid.zero_point), m_b * f32::from(b_grid.zero_point));
    let steps = f32::from(b).mul_add(m_b, f32::from(grid.zero_point) - zero_points);
    from_steps(f32::from(a).mul_add(m_a, steps), grid)
}

/// The product of two integers, `rne((a − z_a)·(b − z_b)·m + z_y)`.
fn product((a, a_grid): (u8, &Affine), (b, b_grid): (u8, &Affine), grid: &Affine) -> u8 {
    let own = |q: u8, grid: &Affine| i32::from(q) - i32::from(grid.zero_point);
    let steps = (own(a, a_grid) * own(b, b_grid)) as f32 * (a_grid.scale * b_grid.scale / grid.scale);
    from_steps(steps + f32::from(grid.zero_point), grid)
}

/// Of zeros of both signs the bound's is taken, as [`FloatEpilogue::clip`] and every instruction set has it.
fn clip(x: f32, epilogue: &FloatEpilogue) -> f32 {
    if x <= epilogue.min {
        epilogue.min
    } else if x >= epilogue.max {
        epilogue.max
    } else {
        x
    }
}

fn float_epilogue(random: &mut Random) -> FloatEpilogue {
    let (min, max) = random.pick(&[(f32::NEG_INFINITY, f32::INFINITY), (0.0, f32::INFINITY), (0.0, 6.0), (-0.5, 0.75)]);
    FloatEpilogue { min, max, grid: Some(random.grid()) }
}

/// Whether chains for each input channel are tried.
fn by_channel_too(case: &Case) -> bool {
    case.geometry.groups == 1 && case.geometry.in_channels <= 16
}

/// A convolution in f32, and the bits that are due.
struct FloatCase {
    case: Case,
    x: Vec<f32>,
    /// One for each of the kernels that run here.
    packed: Vec<PackedFloat>,
    epilogue: FloatEpilogue,
    expected: Vec<f32>,
    /// With a chain for each input channel.
    by_channel: Vec<f32>,
}

impl FloatCase {
    fn new(case: Case) -> FloatCase {
        let mut random = Random(case.seed);
        let out_channels = case.geometry.out_channels;
        let x = random.floats(case.dims[0] * case.picture_len(), -2.0, 3.0);
        let w = random.floats(case.weight_len(), -1.0, 1.0);
        let bias = random.pick(&[true, true, false]).then(|| random.floats(out_channels, -4.0, 4.0));
        let epilogue = float_epilogue(&mut random);
        let sums = case.convolve(&x, &w, 0.0f32, |sum, x, w| x.mul_add(w, sum));
        let bias_of = |i: usize| bias.as_ref().map_or(0.0, |b| b[i % out_channels]);
        let finished = |sums: &[f32]| sums.iter().enumerate().map(|(i, s)| clip(s + bias_of(i), &epilogue)).collect();
        let expected = finished(&sums);
        // What other channels add to a chain is 0.
        let mut totals = vec![0.0; sums.len()];
        for channel in 0..if by_channel_too(&case) { case.geometry.in_channels } else { 0 } {
            let only = |(at, &x): (usize, &f32)| if at % case.geometry.in_channels == channel { x } else { 0.0 };
            let only: Vec<f32> = x.iter().enumerate().map(only).collect();
            let chains = case.convolve(&only, &w, 0.0f32, |sum, x, w| x.mul_add(w, sum));
            totals.iter_mut().zip(chains).for_each(|(total, chain)| *total += chain);
        }
        let by_channel = finished(&totals);
        let pack = |kernels| PackedFloat::new(kernels, case.geometry, &w, bias.as_deref());
        let packed = Kernels::available().into_iter().map(pack).collect();
        FloatCase { case, x, packed, epilogue, expected, by_channel }
    }

    fn float(&self, kernels: Kernels, parallel: bool) -> Vec<u32> {
        let mut y = vec![f32::NAN; self.case.out_len()];
        let out = Output::Float(&mut y);
        let pictures = Pictures { x: &self.x, dims: self.case.dims, padding: 0.0 };
        kernels.conv_float(&self.packed[index(kernels)], pictures, self.epilogue, None, out, parallel);
        bits(&y)
    }

    fn quantized(&self, kernels: Kernels, parallel: bool) -> Vec<u8> {
        let mut y = vec![77; self.case.out_len()];
        let out = Output::Quantized(&mut y);
        let pictures = Pictures { x: &self.x, dims: self.case.dims, padding: 0.0 };
        kernels.conv_float(&self.packed[index(kernels)], pictures, self.epilogue, None, out, parallel);
        y
    }

    /// Output of the batch's pictures, each run alone.
    fn one_by_one(&self, kernels: Kernels) -> Vec<u32> {
        let [batch, height, width] = self.case.dims;
        let each = self.case.out_len() / batch;
        let mut y = vec![f32::NAN; self.case.out_len()];
        for (x, y) in self.x.chunks(self.case.picture_len()).zip(y.chunks_mut(each)) {
            let pictures = Pictures { x, dims: [1, height, width], padding: 0.0 };
            kernels.conv_float(&self.packed[index(kernels)], pictures, self.epilogue, None, Output::Float(y), false);
        }
        bits(&y)
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Where two outputs differ first, and in how many places.
fn difference<T: Copy + PartialEq>(got: &[T], expected: &[T]) -> Option<(usize, T, T, usize)> {
    assert_eq!(got.len(), expected.len());
    let differs = |i: &usize| got[*i] != expected[*i];
    let first = (0..got.len()).find(differs)?;
    Some((first, got[first], expected[first], (0..got.len()).filter(differs).count()))
}

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn check_integer(case: Case) -> Result<(), TestCaseError> {
    let parallel = case.parallel;
    let test = IntegerCase::new(case);
    let expected = test.expected();
    let expected_float: Vec<f32> = expected.iter().map(|&q| dequantize(q, &test.grid)).collect();
    // Rounding to 8 bits hides small errors: for one pixel at a time, shift its exact sums to near zero.
    let out_channels = test.case.geometry.out_channels;
    let pixel = test.case.seed as usize % (test.sums.len() / out_channels);
    let near: Vec<i32> = (0..out_channels).map(|o| 100 - (o as i32 % 200)).collect();
    let exact = &test.sums[pixel * out_channels..][..out_channels];
    let bias: Vec<i32> =
        (0..out_channels).map(|o| (i64::from(test.bias[o]) - exact[o] + i64::from(near[o])) as i32).collect();
    let shifted = IntegerEpilogue {
        constants: constants(&test.packed[0], &bias, test.zero_point),
        multipliers: vec![1.0; out_channels],
        biases: Vec::new(),
        steps: FakeQuantize::IDENTITY,
        form: Form::Rounded {
            grid: Affine { scale: 1.0, zero_point: 128, quant_min: 0, quant_max: 255, rounding: Rounding::default() },
            low: 0,
            high: 255,
        },
    };
    let near: Vec<u8> = near.iter().map(|n| (n + 128) as u8).collect();
    let rounding = if test.case.seed.is_multiple_of(2) { Rounding::OpenVino } else { Rounding::OpenVinoStatic };
    let grid = Affine { rounding, ..test.grid };
    let units: Vec<f32> = test.epilogue.multipliers.iter().map(|m| m * grid.scale).collect();
    let form = Form::Rounded { grid, low: test.low, high: test.high };
    let (as_openvino, sums) = test.as_openvino(form, &units);
    let rounded: Vec<u8> = sums.iter().map(|&v| behind_layer(v, &grid, 1.0, test.low, test.high)).collect();
    let rounded_float: Vec<f32> = rounded.iter().map(|&q| back_behind_layer(q, &grid)).collect();
    for kernels in Kernels::available() {
        let name = kernels.name();
        let got = test.quantized(kernels, &as_openvino, parallel);
        prop_assert_eq!(difference(&got, &rounded), None, "{} u8 as OpenVINO", name);
        let got = test.dequantized(kernels, &as_openvino, parallel);
        prop_assert_eq!(difference(&bits(&got), &bits(&rounded_float)), None, "{} f32 as OpenVINO", name);
        let got = test.quantized(kernels, &test.epilogue, parallel);
        prop_assert_eq!(difference(&got, &expected), None, "{} u8", name);
        let got = test.dequantized(kernels, &test.epilogue, parallel);
        prop_assert_eq!(difference(&bits(&got), &bits(&expected_float)), None, "{} f32", name);
        let got = test.quantized(kernels, &shifted, parallel);
        let got = &got[pixel * out_channels..][..out_channels];
        prop_assert_eq!(difference(got, &near), None, "{} sums of pixel {}", name, pixel);
    }
    Ok(())
}

fn check_float(case: Case) -> Result<(), TestCaseError> {
    let parallel = case.parallel;
    let test = FloatCase::new(case);
    let grid = test.epilogue.grid.unwrap();
    let quantized: Vec<u8> = test.expected.iter().map(|&x| quantize(x, &grid)).collect();
    for kernels in Kernels::available() {
        let name = kernels.name();
        let got = test.float(kernels, parallel);
        prop_assert_eq!(difference(&got, &bits(&test.expected)), None, "{} f32", name);
        let got = test.quantized(kernels, parallel);
        prop_assert_eq!(difference(&got, &quantized), None, "{} u8", name);
        if by_channel_too(&test.case) {
            let mut y = vec![f32::NAN; test.case.out_len()];
            let (packed, out) = (&test.packed[index(kernels)], Output::Float(&mut y));
            let pictures = Pictures { x: &test.x, dims: test.case.dims, padding: 0.0 };
            kernels.conv_float_by_channel(packed, pictures, test.epilogue, out, parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&test.by_channel)), None, "{} by channel", name);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integer_convolution_is_the_definition(case in case()) {
        check_integer(case)?;
    }

    #[test]
    fn float_convolution_is_the_definition(case in case()) {
        check_float(case)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integer_linear_layers_are_the_definition(case in linear()) {
        check_integer(case)?;
    }

    #[test]
    fn float_linear_layers_are_the_definition(case in linear()) {
        check_float(case)?;
    }

    #[test]
    fn batch_and_threads_change_no_bit(case in prop_oneof![3 => case(), 1 => linear()]) {
        let (integer, float) = (IntegerCase::new(case.clone()), FloatCase::new(case));
        for kernels in Kernels::available() {
            let alone = (integer.quantized(kernels, &integer.epilogue, false), float.float(kernels, false));
            prop_assert_eq!(difference(&integer.one_by_one(kernels), &alone.0), None, "{} int8, one by one", kernels.name());
            prop_assert_eq!(difference(&float.one_by_one(kernels), &alone.1), None, "{} fp32, one by one", kernels.name());
            for threads in [1, 2, 4] {
                let (i, f) = in_pool(threads, || {
                    (integer.quantized(kernels, &integer.epilogue, true), float.float(kernels, true))
                });
                prop_assert_eq!(difference(&i, &alone.0), None, "{} int8, {} threads", kernels.name(), threads);
                prop_assert_eq!(difference(&f, &alone.1), None, "{} fp32, {} threads", kernels.name(), threads);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// What a convolution adds on the way out is the addition that would come behind it.
    #[test]
    fn residuals_are_additions(case in prop_oneof![3 => case(), 1 => linear()], seed in any::<u64>()) {
        let mut random = Random(seed);
        let len = case.out_len();
        let parallel = case.parallel;
        let is_depthwise = case.geometry.is_depthwise();
        let (float, integer) = (FloatCase::new(case.clone()), IntegerCase::new(case));
        let (x, q) = (random.floats(len, -4.0, 4.0), random.bytes(len));
        let (float_sum, x_grid) = (float_epilogue(&mut random), random.grid());
        let float_grid = float_sum.grid.unwrap();
        let grid = Affine { rounding: Rounding::OnnxRuntime, ..float_grid };
        let (low, high) = random.pick(&[(grid.quant_min, grid.quant_max), (grid.zero_point, grid.quant_max), (30, 90)]);

        let floats: Vec<f32> = float.expected.iter().zip(&x).map(|(a, b)| clip(a + b, &float_sum)).collect();
        let quantized: Vec<u8> = floats.iter().map(|&x| quantize(x, &float_grid)).collect();
        let first = seed % 2 == 0;
        let own_grid = &integer.grid;
        let sums = integer.expected().into_iter().zip(&q).map(|(own, &x)| match first {
            true => sum((x, &x_grid), (own, own_grid), &grid),
            false => sum((own, own_grid), (x, &x_grid), &grid),
        });
        let integers: Vec<u8> = sums.map(|q| q.max(low).min(high)).collect();
        let dequantized: Vec<f32> = integers.iter().map(|&q| dequantize(q, &grid)).collect();

        // The same without rounding in between: the sum of two f32, one of them dequantized, rounded once.
        let spread = 200.0 * grid.scale / integer.sums.iter().map(|s| s.abs()).max().unwrap().max(1) as f32;
        let multipliers: Vec<f32> = integer.epilogue.multipliers.iter().map(|_| spread * random.float(0.2, 1.0)).collect();
        let [min, max] = random.pick(&[[f32::NEG_INFINITY, f32::INFINITY], [0.0, f32::INFINITY], [0.0, 60.0 * grid.scale]]);
        let scaled = integer.scaled(&multipliers).into_iter();
        let unrounded: Vec<f32> = scaled.map(|v| if v > min { v } else { min }).map(|v| if v < max { v } else { max }).collect();
        let once: Vec<u8> = (unrounded.iter().zip(&q))
            .map(|(own, &x)| quantize(own + dequantize(x, &x_grid), &grid).max(low).min(high))
            .collect();
        let once_dequantized: Vec<f32> = once.iter().map(|&q| dequantize(q, &grid)).collect();
        let own = IntegerEpilogue { multipliers, form: Form::Float { min, max }, ..integer.epilogue.clone() };

        // And as OpenVINO does it: biases in f32, clipped to a grid and not rounded, the addend in its own steps.
        let out = Affine { rounding: random.pick(&[Rounding::OpenVino, Rounding::OpenVinoStatic]), ..grid };
        let layer = Affine { rounding: out.rounding, quant_min: 0, quant_max: 255, ..random.grid() };
        let (as_openvino, sums) = integer.as_openvino(Form::Float { min, max }, &own.multipliers);
        let fused: Vec<u8> = (sums.iter().zip(&q))
            .map(|(&v, &x)| {
                let v = if v > min { v } else { min };
                let v = if v < max { v } else { max };
                let [low, high] = [low.max(grid.quant_min).min(high), high.min(grid.quant_max).max(low)];
                behind_layer(clipped_to_layer(v, &layer, &x_grid) + f32::from(x), &out, x_grid.scale, low, high)
            })
            .collect();
        let fused_dequantized: Vec<f32> = fused.iter().map(|&q| back_behind_layer(q, &grid)).collect();
        for kernels in Kernels::available() {
            let name = kernels.name();
            let pictures = Pictures { x: &float.x, dims: float.case.dims, padding: 0.0 };
            let epilogue = FloatEpilogue { grid: float_sum.grid, ..float.epilogue };
            let residual = Some(FloatResidual { x: &x, min: float_sum.min, max: float_sum.max });
            let packed = &float.packed[index(kernels)];
            let mut y = vec![f32::NAN; len];
            kernels.conv_float(packed, pictures, epilogue, residual, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&floats)), None, "{} f32", name);
            let mut y = vec![77; len];
            kernels.conv_float(packed, pictures, epilogue, residual, Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &quantized), None, "{} f32 to u8", name);
            if is_depthwise {
                continue;
            }
            let pictures = Pictures { x: &integer.x, dims: integer.case.dims, padding: integer.zero_point };
            let residual = Some(IntegerResidual { layer: None, x: &q, first, x_grid, grid, low, high });
            let packed = &integer.packed[index(kernels)];
            let mut y = vec![77; len];
            kernels.conv_integer(packed, pictures, &integer.epilogue, residual, Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &integers), None, "{} u8", name);
            let mut y = vec![f32::NAN; len];
            kernels.conv_integer(packed, pictures, &integer.epilogue, residual, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&dequantized)), None, "{} u8 to f32", name);

            let mut y = vec![f32::NAN; len];
            kernels.conv_integer(packed, pictures, &own, None, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&unrounded)), None, "{} not rounded", name);
            let mut y = vec![77; len];
            kernels.conv_integer(packed, pictures, &own, residual, Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &once), None, "{} rounded once", name);
            let mut y = vec![f32::NAN; len];
            kernels.conv_integer(packed, pictures, &own, residual, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&once_dequantized)), None, "{} rounded once to f32", name);

            let residual = Some(IntegerResidual { layer: Some(layer), x: &q, first, x_grid, grid: out, low, high });
            let mut y = vec![77; len];
            kernels.conv_integer(packed, pictures, &as_openvino, residual, Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &fused), None, "{} as OpenVINO", name);
            let mut y = vec![f32::NAN; len];
            kernels.conv_integer(packed, pictures, &as_openvino, residual, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&fused_dequantized)), None, "{} as OpenVINO, to f32", name);
        }
    }
}

#[test]
fn every_tail_of_channels_is_the_definition() {
    let window = Window { kernel: [2, 3], stride: [1, 2], dilation: [1, 1], pads: [1, 0, 0, 1] };
    for count in 1..=34 {
        for [groups, in_channels, out_channels] in
            [[1, count, 17], [1, 3, count], [2, 2 * count, 6], [count, count, count]]
        {
            let geometry = Geometry { in_channels, out_channels, groups, window };
            let case = Case { geometry, dims: [1, 3, 5], seed: count as u64, extreme: count % 2 == 0, parallel: false };
            check_integer(case.clone()).unwrap();
            check_float(case).unwrap();
        }
    }
}

/// Parts of a picture: more pixels than one part holds, with and without threads.
#[test]
fn pictures_of_several_parts_are_the_definition() {
    let three = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads: [1; 4] };
    let one = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
    let strided = Window { kernel: [1, 1], stride: [2, 3], dilation: [1, 1], pads: [0; 4] };
    for (window, groups, in_channels, out_channels, dims) in [
        (one, 1, 3, 5, [2, 67, 71]),
        (one, 1, 300, 20, [1, 25, 31]),
        (three, 1, 128, 18, [2, 23, 19]),
        (strided, 1, 40, 17, [1, 101, 97]),
        (three, 24, 24, 24, [2, 40, 41]),
    ] {
        for parallel in [false, true] {
            let geometry = Geometry { in_channels, out_channels, groups, window };
            let case = Case { geometry, dims, seed: 7, extreme: false, parallel };
            check_integer(case.clone()).unwrap();
            check_float(case).unwrap();
        }
    }
}

/// The longest reduction that may run in integers, with every product at its largest: the sums reach 2³⁰.
#[test]
fn the_longest_reduction_does_not_overflow() {
    let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
    let in_channels = ((1 << 30) - 1) / (255 * 127);
    let geometry = Geometry { in_channels, out_channels: 3, groups: 1, window };
    let w: Vec<i8> = (0..3).flat_map(|o| vec![[127, -127, -128][o]; in_channels]).collect();
    let sums = [127, -127, -128].map(|w| w * 255 * in_channels as i32);
    for shift in [-1, 0, 1] {
        let epilogue = IntegerEpilogue {
            constants: sums.iter().map(|s| shift - s).collect(),
            multipliers: vec![1.0; 3],
            biases: Vec::new(),
            steps: FakeQuantize::IDENTITY,
            form: Form::Rounded {
                grid: Affine {
                    scale: 1.0,
                    zero_point: 10,
                    quant_min: 0,
                    quant_max: 255,
                    rounding: Rounding::default(),
                },
                low: 0,
                high: 255,
            },
        };
        for kernels in Kernels::available() {
            let mut y = [0; 3];
            let x = vec![255; in_channels];
            let packed = PackedInteger::new(kernels, geometry, &w);
            let pictures = Pictures { x: &x, dims: [1, 1, 1], padding: 0 };
            kernels.conv_integer(&packed, pictures, &epilogue, None, Output::Quantized(&mut y), false);
            assert_eq!(y, [(10 + shift) as u8; 3], "{}", kernels.name());
        }
    }
}

fn pool() -> impl Strategy<Value = PoolWindow> {
    (window(), prop::array::uniform3(1usize..=13), 1usize..=40)
        .prop_map(|(window, [n, h, w], c)| PoolWindow { window, dims: [n.min(3), h, w, c] })
        .prop_filter("the window must fit", |pool| pool.window.output_size([pool.dims[1], pool.dims[2]]).is_some())
}

/// Elements under each window, for every output element.
fn under<X: Copy>(pool: &PoolWindow, x: &[X]) -> Vec<Vec<X>> {
    let [batch, height, width, channels] = pool.dims;
    let geometry = Geometry { in_channels: channels, out_channels: channels, groups: channels, window: pool.window };
    let case = Case { geometry, dims: [batch, height, width], seed: 0, extreme: false, parallel: false };
    let elements: Vec<usize> = (0..x.len()).collect();
    // A depthwise convolution over element numbers visits what a pool does; each sum is a list.
    let lists = std::cell::RefCell::new(Vec::new());
    let weights = vec![(); case.weight_len()];
    let ids = case.convolve(&elements, &weights, usize::MAX, |list, element, ()| {
        let mut lists = lists.borrow_mut();
        let list = if list == usize::MAX { lists.len() } else { list };
        if list == lists.len() {
            lists.push(Vec::new());
        }
        lists[list].push(x[element]);
        list
    });
    let lists = lists.into_inner();
    ids.iter().map(|&id| lists.get(id).cloned().unwrap_or_default()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pools_are_the_definition(pool in pool(), seed in any::<u64>(), zero_point in any::<u8>(), parallel in any::<bool>()) {
        let mut random = Random(seed);
        let len = pool.dims.iter().product();
        let (x, q) = (random.floats(len, -3.0, 3.0), random.bytes(len));
        let (under_x, under_q) = (under(&pool, &x), under(&pool, &q));
        for kernels in Kernels::available() {
            let mut y = vec![f32::NAN; under_x.len()];
            kernels.max_pool_float(&x, pool, &mut y, parallel);
            let expected: Vec<f32> =
                under_x.iter().map(|w| w.iter().copied().reduce(f32::max).unwrap_or(f32::NEG_INFINITY)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} max f32", kernels.name());

            let mut y = vec![77; under_q.len()];
            kernels.max_pool_integer(&q, pool, &mut y, parallel);
            let expected: Vec<u8> = under_q.iter().map(|w| w.iter().copied().max().unwrap_or(0)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} max u8", kernels.name());

            let mut y = vec![(0, 0); under_x.len()];
            kernels.average_pool_float(&x, pool, &mut y, parallel, |sum, count| (sum.to_bits(), count));
            let expected: Vec<(u32, usize)> =
                under_x.iter().map(|w| (w.iter().fold(0.0f32, |s, x| s + x).to_bits(), w.len())).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} average f32", kernels.name());

            let mut y = vec![(0, 0); under_q.len()];
            kernels.average_pool_integer((&q, zero_point), pool, &mut y, parallel, |sum, count| (sum, count));
            let sum = |w: &[u8]| w.iter().map(|&q| i32::from(q) - i32::from(zero_point)).sum::<i32>();
            let expected: Vec<(i32, usize)> = under_q.iter().map(|w| (sum(w), w.len())).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} average u8", kernels.name());
        }
    }

    #[test]
    fn elementwise_operators_are_the_definition(
        len in prop_oneof![9 => 0usize..=130, 1 => 16_000usize..=40_000],
        seed in any::<u64>(),
        parallel in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let epilogue = float_epilogue(&mut random);
        let (grid, a_grid, b_grid) = (epilogue.grid.unwrap(), random.grid(), random.grid());
        let (low, high) = random.pick(&[(grid.quant_min, grid.quant_max), (grid.zero_point, grid.quant_max), (30, 90)]);
        let (mut a, b) = (random.floats(len, -9.0, 9.0), random.floats(len, -9.0, 9.0));
        // Products are then zeros of both signs, and so is what a bound of 0 clips.
        a.iter_mut().step_by(5).for_each(|a| *a *= 0.0);
        let (qa, qb) = (random.bytes(len), random.bytes(len));
        // Halves of steps, where rounding shows, and values far outside the grid.
        let mut x: Vec<f32> = (0..len).map(|_| random.integer(-600, 600) as f32 * 0.5 * grid.scale).collect();
        x.iter_mut().step_by(7).for_each(|x| *x *= 1e30);
        for kernels in Kernels::available() {
            let name = kernels.name();
            let mut y = vec![77; len];
            kernels.quantize(&x, grid, &mut y, parallel);
            let expected: Vec<u8> = x.iter().map(|&x| quantize(x, &grid)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} quantize", name);

            let mut y = vec![f32::NAN; len];
            kernels.dequantize(&qa, grid, &mut y, parallel);
            let expected: Vec<f32> = qa.iter().map(|&q| dequantize(q, &grid)).collect();
            prop_assert_eq!(difference(&bits(&y), &bits(&expected)), None, "{} dequantize", name);

            let sums: Vec<f32> = a.iter().zip(&b).map(|(a, b)| clip(a + b, &epilogue)).collect();
            let mut y = vec![f32::NAN; len];
            kernels.add_float(&a, &b, epilogue, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&sums)), None, "{} add f32", name);
            let mut y = vec![77; len];
            kernels.add_float(&a, &b, epilogue, Output::Quantized(&mut y), parallel);
            let expected: Vec<u8> = sums.iter().map(|&x| quantize(x, &grid)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} add f32 to u8", name);

            let of = |(&a, &b): (&u8, &u8)| sum((a, &a_grid), (b, &b_grid), &grid);
            let expected: Vec<u8> = qa.iter().zip(&qb).map(of).map(|q| q.max(low).min(high)).collect();
            let mut y = vec![77; len];
            kernels.add_integer((&qa, a_grid), (&qb, b_grid), grid, (low, high), Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &expected), None, "{} add u8", name);
            let mut y = vec![f32::NAN; len];
            kernels.add_integer((&qa, a_grid), (&qb, b_grid), grid, (low, high), Output::Float(&mut y), parallel);
            let expected: Vec<f32> = expected.iter().map(|&q| dequantize(q, &grid)).collect();
            prop_assert_eq!(difference(&bits(&y), &bits(&expected)), None, "{} add u8 to f32", name);

            let products: Vec<f32> = a.iter().zip(&b).map(|(a, b)| clip(a * b, &epilogue)).collect();
            let mut y = vec![f32::NAN; len];
            kernels.mul_float(&a, &b, epilogue, Output::Float(&mut y), parallel);
            prop_assert_eq!(difference(&bits(&y), &bits(&products)), None, "{} mul f32", name);
            let mut y = vec![77; len];
            kernels.mul_float(&a, &b, epilogue, Output::Quantized(&mut y), parallel);
            let expected: Vec<u8> = products.iter().map(|&x| quantize(x, &grid)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} mul f32 to u8", name);
            let of = |(&a, &b): (&u8, &u8)| product((a, &a_grid), (b, &b_grid), &grid);
            let expected: Vec<u8> = qa.iter().zip(&qb).map(of).map(|q| q.max(low).min(high)).collect();
            let mut y = vec![77; len];
            kernels.mul_integer((&qa, a_grid), (&qb, b_grid), grid, (low, high), Output::Quantized(&mut y), parallel);
            prop_assert_eq!(difference(&y, &expected), None, "{} mul u8", name);
            let mut y = vec![f32::NAN; len];
            kernels.mul_integer((&qa, a_grid), (&qb, b_grid), grid, (low, high), Output::Float(&mut y), parallel);
            let expected: Vec<f32> = expected.iter().map(|&q| dequantize(q, &grid)).collect();
            prop_assert_eq!(difference(&bits(&y), &bits(&expected)), None, "{} mul u8 to f32", name);

            let mut y = vec![f32::NAN; len];
            kernels.clip_float(&a, epilogue, &mut y, parallel);
            let expected: Vec<f32> = a.iter().map(|&x| clip(x, &epilogue)).collect();
            prop_assert_eq!(difference(&bits(&y), &bits(&expected)), None, "{} clip f32", name);
            let mut y = vec![77; len];
            kernels.clip_integer(&qa, (low, high), &mut y);
            let expected: Vec<u8> = qa.iter().map(|&q| q.max(low).min(high)).collect();
            prop_assert_eq!(difference(&y, &expected), None, "{} clip u8", name);
        }
    }
}

#[test]
fn what_is_no_number_becomes_the_smallest_integer() {
    let grid = Affine { scale: 0.5, zero_point: 9, quant_min: 3, quant_max: 250, rounding: Rounding::default() };
    let x: Vec<f32> = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0].repeat(9);
    for kernels in Kernels::available() {
        let mut y = vec![0; x.len()];
        kernels.quantize(&x, grid, &mut y, false);
        assert_eq!(y, [3, 250, 3, 9, 9].repeat(9), "{}", kernels.name());
    }
}

/// Every sum and product of two integers, on scales of many sizes and with many ties.
#[test]
fn sums_and_products_of_integers_are_the_definition() {
    let mut random = Random(11);
    let all: Vec<u8> = (0..=255).collect();
    let (a, b): (Vec<u8>, Vec<u8>) = all.iter().flat_map(|&a| all.iter().map(move |&b| (a, b))).unzip();
    for round in 0..60 {
        let mut grids = [random.grid(), random.grid(), random.grid()];
        // Scales that are small multiples of another make many ties.
        let unit = if round % 5 == 0 { 1e-20 } else { random.float(1e-4, 1e3) };
        grids
            .iter_mut()
            .for_each(|grid| grid.scale = unit * random.pick(&[0.5, 1.0, 2.0, 3.0, 0.999_999_9, 1.234_567]));
        let [x, y, out] = grids;
        let pairs = || a.iter().zip(&b);
        let sums: Vec<u8> = pairs().map(|(&a, &b)| sum((a, &x), (b, &y), &out)).collect();
        let products: Vec<u8> = pairs().map(|(&a, &b)| product((a, &x), (b, &y), &out)).collect();
        // In exact numbers it is what ONNX says: half a step, and what rounding in between adds to it.
        let exact = |q: u8, grid: &Affine| f64::from(dequantize(q, grid));
        for ((&a, &b), &q) in pairs().zip(&sums).filter(|(_, q)| (out.quant_min + 1..out.quant_max).contains(q)) {
            let error = (exact(a, &x) + exact(b, &y) - exact(q, &out)) / f64::from(out.scale);
            assert!(error.abs() < 0.501, "{a} and {b} on {grids:?} give {q}");
        }
        for kernels in Kernels::available() {
            let (mut got, bounds) = (vec![0; a.len()], (out.quant_min, out.quant_max));
            kernels.add_integer((&a, x), (&b, y), out, bounds, Output::Quantized(&mut got), false);
            assert_eq!(difference(&got, &sums), None, "{}, sums on {grids:?}", kernels.name());
            if unit > 1e-19 {
                kernels.mul_integer((&a, x), (&b, y), out, bounds, Output::Quantized(&mut got), false);
                assert_eq!(difference(&got, &products), None, "{}, products on {grids:?}", kernels.name());
            }
        }
    }
}

#[test]
fn the_fastest_instruction_set_of_this_cpu_is_tested() {
    let tested: Vec<&str> = Kernels::available().into_iter().map(Kernels::name).collect();
    let untested: Vec<&str> = INSTRUCTION_SETS.into_iter().filter(|name| !tested.contains(name)).collect();
    println!("kernels tested: {}; NOT tested here: {}", tested.join(", "), untested.join(", "));
    assert!(tested.iter().all(|name| INSTRUCTION_SETS.contains(name)), "list the new kernel in INSTRUCTION_SETS");
    assert_eq!(tested.last(), Some(&"reference"));
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        assert!(tested.contains(&"avx2"), "this CPU has AVX2 and its kernels were not tested");
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("dotprod") {
        assert!(tested.contains(&"neon"), "this CPU has `sdot` and its kernels were not tested");
    }
}

#[test]
fn kernels_are_found_by_name() {
    for kernels in Kernels::available() {
        assert_eq!(Kernels::by_name(kernels.name()), Ok(kernels));
    }
    let names: Vec<&str> = Kernels::available().into_iter().map(Kernels::name).collect();
    assert_eq!(
        Kernels::by_name("sse9").unwrap_err().to_string(),
        format!("kernel `sse9` cannot run here; this CPU has: {}", names.join(", "))
    );
}
