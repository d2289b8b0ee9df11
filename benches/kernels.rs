//! Layers of MobileNetV2 and ResNet-50, on one thread, for every kernel of this CPU.
//!
//! Throughput of convolutions is in multiply-accumulates: `Gelem/s` reads as GMAC/s. `cargo bench --bench kernels -- avx2` picks one
//! kernel; the reference kernel is slow and needs minutes.

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use qtuned::{
    graph::Window,
    kernels::{
        FloatEpilogue, Form, Geometry, IntegerEpilogue, IntegerResidual, Kernels, Output, PackedFloat, PackedInteger,
        Pictures, PoolWindow,
    },
    quant::{Affine, FakeQuantize, Rounding},
};

/// Name, side of the input, channels read and written, groups, kernel, stride.
const LAYERS: [(&str, usize, usize, usize, usize, usize, usize); 6] = [
    ("mobilenet_v2 pointwise 14x14 96-576", 14, 96, 576, 1, 1, 1),
    ("mobilenet_v2 pointwise 56x56 24-144", 56, 24, 144, 1, 1, 1),
    ("mobilenet_v2 depthwise 28x28 192", 28, 192, 192, 192, 3, 1),
    ("mobilenet_v2 depthwise 56x56 144 stride 2", 56, 144, 144, 144, 3, 2),
    ("resnet50 3x3 14x14 256-256", 14, 256, 256, 1, 3, 1),
    ("resnet50 linear 2048-1000", 1, 2048, 1000, 1, 1, 1),
];

fn layers(criterion: &mut Criterion) {
    for (name, side, in_channels, out_channels, groups, kernel, stride) in LAYERS {
        let pad = kernel / 2;
        let window = Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1, 1], pads: [pad; 4] };
        let geometry = Geometry { in_channels, out_channels, groups, window };
        let [height, width] = window.output_size([side, side]).unwrap();
        let per_output = in_channels / groups * kernel * kernel;
        let outputs = height * width * out_channels;
        let dims = [1, side, side];

        // Numbers that look like activations and weights; their values do not change the speed.
        let q: Vec<u8> = (0..side * side * in_channels).map(|i| (i * 37 % 256) as u8).collect();
        let qw: Vec<i8> = (0..out_channels * per_output).map(|i| (i * 29 % 255) as i8).collect();
        let x: Vec<f32> = q.iter().map(|&q| f32::from(q) / 64.0).collect();
        let w: Vec<f32> = qw.iter().map(|&w| f32::from(w) / 64.0).collect();
        let grid = Affine { scale: 0.02, zero_point: 3, quant_min: 0, quant_max: 255, rounding: Rounding::default() };
        let clip = FloatEpilogue { min: 0.0, max: 6.0, grid: None };
        let requantize = IntegerEpilogue {
            constants: vec![17; out_channels],
            multipliers: vec![0.001; out_channels],
            biases: Vec::new(),
            steps: FakeQuantize::IDENTITY,
            form: Form::Rounded { grid, low: 3, high: 255 },
        };
        let (mut y, mut qy) = (vec![0.0f32; outputs], vec![0u8; outputs]);

        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements((outputs * per_output) as u64));
        group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        for kernels in Kernels::available() {
            let float = PackedFloat::new(kernels, geometry, &w, Some(&vec![0.5; out_channels]));
            let integer = PackedInteger::new(kernels, geometry, &qw);
            group.bench_function(format!("{} fp32", kernels.name()), |bencher| {
                bencher.iter(|| {
                    let pictures = Pictures { x: black_box(&x), dims, padding: 0.0 };
                    kernels.conv_float(&float, pictures, clip, None, Output::Float(black_box(&mut y)), false);
                });
            });
            group.bench_function(format!("{} int8", kernels.name()), |bencher| {
                bencher.iter(|| {
                    let out = Output::Quantized(black_box(&mut qy));
                    let pictures = Pictures { x: black_box(&q), dims, padding: 128 };
                    kernels.conv_integer(&integer, pictures, &requantize, None, out, false);
                });
            });
        }
        group.finish();
    }
}

/// A convolution and the addition behind it: apart, and in one kernel that rounds in between or only once.
fn residuals(criterion: &mut Criterion) {
    let (side, in_channels, out_channels) = (14, 384, 64);
    let window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
    let geometry = Geometry { in_channels, out_channels, groups: 1, window };
    let outputs = side * side * out_channels;
    let q: Vec<u8> = (0..side * side * in_channels).map(|i| (i * 37 % 256) as u8).collect();
    let qw: Vec<i8> = (0..out_channels * in_channels).map(|i| (i * 29 % 255) as i8).collect();
    let addend: Vec<u8> = (0..outputs).map(|i| (i * 41 % 256) as u8).collect();
    let grid = Affine { scale: 0.02, zero_point: 128, quant_min: 0, quant_max: 255, rounding: Rounding::default() };
    let epilogue = |form, multiplier| IntegerEpilogue {
        constants: vec![17; out_channels],
        multipliers: vec![multiplier; out_channels],
        biases: Vec::new(),
        steps: FakeQuantize::IDENTITY,
        form,
    };
    let rounded = epilogue(Form::Rounded { grid, low: 0, high: 255 }, 0.001);
    let float = epilogue(Form::Float { min: f32::NEG_INFINITY, max: f32::INFINITY }, 0.001 * grid.scale);
    let residual = IntegerResidual { layer: None, x: &addend, first: false, x_grid: grid, grid, low: 0, high: 255 };
    let (mut between, mut y) = (vec![0u8; outputs], vec![0u8; outputs]);

    let mut group = criterion.benchmark_group("residual mobilenet_v2 14x14 384-64");
    group.throughput(Throughput::Elements((outputs * in_channels) as u64));
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for kernels in Kernels::available() {
        let packed = PackedInteger::new(kernels, geometry, &qw);
        let pictures = Pictures { x: &q, dims: [1, side, side], padding: 128 };
        let name = kernels.name();
        group.bench_function(format!("{name} alone"), |bencher| {
            bencher.iter(|| {
                let out = Output::Quantized(black_box(&mut y));
                kernels.conv_integer(&packed, black_box(pictures), &rounded, None, out, false);
            });
        });
        group.bench_function(format!("{name} apart"), |bencher| {
            bencher.iter(|| {
                let out = Output::Quantized(&mut between);
                kernels.conv_integer(&packed, black_box(pictures), &rounded, None, out, false);
                let out = Output::Quantized(black_box(&mut y));
                kernels.add_integer((&between, grid), (&addend, grid), grid, (0, 255), out, false);
            });
        });
        for (kind, epilogue) in [("rounded", &rounded), ("fused", &float)] {
            group.bench_function(format!("{name} {kind}"), |bencher| {
                bencher.iter(|| {
                    let out = Output::Quantized(black_box(&mut y));
                    kernels.conv_integer(&packed, black_box(pictures), epilogue, Some(residual), out, false);
                });
            });
        }
    }
    group.finish();
}

/// Operators over single elements; throughput in elements.
fn elementwise(criterion: &mut Criterion) {
    const LEN: usize = 28 * 28 * 192;
    let q: Vec<u8> = (0..LEN).map(|i| (i * 37 % 256) as u8).collect();
    let x: Vec<f32> = q.iter().map(|&q| f32::from(q) / 64.0 - 1.0).collect();
    let grid = Affine { scale: 0.02, zero_point: 3, quant_min: 0, quant_max: 255, rounding: Rounding::default() };
    let (mut y, mut qy) = (vec![0.0f32; LEN], vec![0u8; LEN]);
    let mut group = criterion.benchmark_group("elementwise 28x28 192");
    group.throughput(Throughput::Elements(LEN as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for kernels in Kernels::available() {
        group.bench_function(format!("{} quantize", kernels.name()), |bencher| {
            bencher.iter(|| kernels.quantize(black_box(&x), grid, black_box(&mut qy), false));
        });
        group.bench_function(format!("{} dequantize", kernels.name()), |bencher| {
            bencher.iter(|| kernels.dequantize(black_box(&q), grid, black_box(&mut y), false));
        });
        group.bench_function(format!("{} add int8", kernels.name()), |bencher| {
            bencher.iter(|| {
                let out = Output::Quantized(black_box(&mut qy));
                kernels.add_integer((black_box(&q), grid), (black_box(&q), grid), grid, (0, 255), out, false);
            });
        });
        let clip = FloatEpilogue { min: 0.0, max: f32::INFINITY, grid: None };
        group.bench_function(format!("{} add fp32", kernels.name()), |bencher| {
            bencher.iter(|| {
                kernels.add_float(black_box(&x), black_box(&x), clip, Output::Float(black_box(&mut y)), false);
            });
        });
    }
    group.finish();
}

/// ResNet-50's pools; throughput in elements read.
fn pools(criterion: &mut Criterion) {
    let square =
        |kernel, stride, pad| Window { kernel: [kernel; 2], stride: [stride; 2], dilation: [1, 1], pads: [pad; 4] };
    let max = PoolWindow { window: square(3, 2, 1), dims: [1, 112, 112, 64] };
    let average = PoolWindow { window: square(7, 1, 0), dims: [1, 7, 7, 2048] };
    let q: Vec<u8> = (0..112 * 112 * 64).map(|i| (i * 37 % 256) as u8).collect();
    let x: Vec<f32> = q.iter().map(|&q| f32::from(q) / 64.0 - 1.0).collect();
    let (mut y, mut qy) = (vec![0.0f32; 56 * 56 * 64], vec![0u8; 56 * 56 * 64]);
    let (read, written) = (7 * 7 * 2048, 2048);

    let mut group = criterion.benchmark_group("max pool 3x3 112x112 64 stride 2");
    group.throughput(Throughput::Elements(x.len() as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for kernels in Kernels::available() {
        group.bench_function(format!("{} fp32", kernels.name()), |bencher| {
            bencher.iter(|| kernels.max_pool_float(black_box(&x), max, black_box(&mut y), false));
        });
        group.bench_function(format!("{} int8", kernels.name()), |bencher| {
            bencher.iter(|| kernels.max_pool_integer(black_box(&q), max, black_box(&mut qy), false));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("average pool 7x7 2048");
    group.throughput(Throughput::Elements(read as u64));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for kernels in Kernels::available() {
        group.bench_function(format!("{} fp32", kernels.name()), |bencher| {
            let y = &mut y[..written];
            bencher.iter(|| {
                let divide = |sum: f32, taps: usize| sum / taps as f32;
                kernels.average_pool_float(black_box(&x[..read]), average, black_box(&mut *y), false, divide);
            });
        });
        group.bench_function(format!("{} int8", kernels.name()), |bencher| {
            let qy = &mut qy[..written];
            bencher.iter(|| {
                let divide = |sum: i32, taps: usize| (sum / taps as i32) as u8;
                kernels.average_pool_integer((black_box(&q[..read]), 0), average, black_box(&mut *qy), false, divide);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, layers, residuals, elementwise, pools);
criterion_main!(benches);
