//! Kernel calls as candle custom ops.

use std::sync::Arc;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use super::{QuantizedWeight, tensors};
use crate::{
    graph::{Function, Op, SampleShape, Window},
    kernels::{
        FloatEpilogue, FloatResidual, IntegerEpilogue, IntegerResidual, Kernels, Output, PackedFloat, Pictures,
        PoolWindow,
    },
    quant::{Affine, FakeQuantize, FusedSum},
};

/// What one step computes.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `sum` is the epilogue of an addition that is done on the way out; `by_channel` is
    /// [`Kernels::conv_float_by_channel`].
    ConvFloat {
        packed: Arc<PackedFloat>,
        by_channel: bool,
        epilogue: FloatEpilogue,
        sum: Option<FloatEpilogue>,
    },
    /// Likewise.
    ConvInteger {
        weight: Arc<QuantizedWeight>,
        zero_point: u8,
        epilogue: Arc<IntegerEpilogue>,
        sum: Option<IntegerSum>,
    },
    /// `per_channel` is the operand that has one number a channel.
    PairFloat {
        pair: Pair,
        per_channel: Option<usize>,
        epilogue: FloatEpilogue,
    },
    /// Likewise.
    PairInteger {
        pair: Pair,
        per_channel: Option<usize>,
        a: Affine,
        b: Affine,
        grid: Affine,
        low: u8,
        high: u8,
    },
    /// The sum of a layer in f32, and integers. `layer` is the grid of the sum where OpenVINO clips it to that.
    AddSum {
        layer: Option<Affine>,
        addend: Affine,
        grid: Affine,
        low: u8,
        high: u8,
    },
    MapFloat {
        function: Function,
        epilogue: FloatEpilogue,
    },
    /// A function of 256 arguments.
    MapInteger(Arc<Table>),
    /// Values one after the other along an axis of the storage order.
    ConcatFloat {
        axis: usize,
        epilogue: FloatEpilogue,
    },
    /// A table for each value that is on another grid, or clipped.
    ConcatInteger {
        axis: usize,
        tables: Vec<Option<Arc<Table>>>,
        grid: Affine,
    },
    AverageFloat {
        window: AverageWindow,
        epilogue: FloatEpilogue,
    },
    AverageInteger {
        window: AverageWindow,
        input: Affine,
        grid: Affine,
        low: u8,
        high: u8,
    },
    MaxPool(Window),
    ClipFloat(FloatEpilogue),
    ClipInteger {
        low: u8,
        high: u8,
    },
    Quantize(Affine),
    Dequantize(Affine),
    /// What candle does, in a tensor of its own.
    Tensor {
        op: Arc<Op>,
        shape: SampleShape,
    },
}

/// A function of two elements that has kernels of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    Add,
    Mul,
}

/// What becomes of each integer, and the number that this stands for.
#[derive(Debug)]
pub(super) struct Table {
    quantized: [u8; 256],
    float: [f32; 256],
}

impl Table {
    /// `f` from one grid to another, clipped to `low..=high`.
    pub(super) fn new(from: Affine, to: Affine, [low, high]: [u8; 2], f: impl Fn(f32) -> f32) -> Table {
        let quantized: [u8; 256] =
            std::array::from_fn(|q| to.quantize(f(from.dequantize(q as u8))).clamp(low, high.max(low)));
        Table { quantized, float: quantized.map(|q| to.dequantize(q)) }
    }
}

/// An addition in integers that a convolution does.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntegerSum {
    /// The grid to whose range OpenVINO clips what the convolution gives.
    pub layer: Option<Affine>,
    /// The grid of what is added.
    pub addend: Affine,
    /// Whether that is the first of the two.
    pub addend_first: bool,
    pub grid: Affine,
    pub low: u8,
    pub high: u8,
}

/// The window of an average.
#[derive(Clone, Copy, Debug)]
pub(super) struct AverageWindow {
    /// `None` for the whole picture.
    pub window: Option<Window>,
    pub count_include_pad: bool,
}

impl Kind {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Kind::ConvFloat { sum: None, .. } => "conv f32",
            Kind::ConvFloat { .. } => "conv and add f32",
            Kind::ConvInteger { sum: None, .. } => "conv u8s8",
            Kind::ConvInteger { .. } => "conv and add u8s8",
            Kind::PairFloat { pair: Pair::Add, .. } => "add f32",
            Kind::PairFloat { pair: Pair::Mul, .. } => "mul f32",
            Kind::PairInteger { pair: Pair::Add, .. } => "add u8",
            Kind::PairInteger { pair: Pair::Mul, .. } => "mul u8",
            Kind::AddSum { .. } => "add f32 and u8",
            Kind::MapFloat { .. } => "map f32",
            Kind::MapInteger(_) => "map u8",
            Kind::ConcatFloat { .. } => "concat f32",
            Kind::ConcatInteger { .. } => "concat u8",
            Kind::AverageFloat { .. } => "average pool f32",
            Kind::AverageInteger { .. } => "average pool u8",
            Kind::MaxPool(_) => "max pool",
            Kind::ClipFloat(_) => "clip f32",
            Kind::ClipInteger { .. } => "clip u8",
            Kind::Quantize(_) => "quantize",
            Kind::Dequantize(_) => "dequantize",
            Kind::Tensor { op, .. } => op.name(),
        }
    }

    /// Runs on tensors in storage order; gives `to`, written, or a tensor of its own.
    pub(super) fn run(
        &self,
        kernels: Kernels,
        inputs: &[Tensor],
        to: Option<&Tensor>,
        parallel: bool,
    ) -> Result<Tensor> {
        let first = &inputs[0];
        match (self, to) {
            (Kind::Tensor { op, shape }, _) => tensors::compute(kernels, op, inputs, shape),
            (_, Some(to)) => {
                let dims = match *first.dims() {
                    [n, h, w, c] => [n, h, w, c],
                    // Rows of features: each is a pixel.
                    _ => {
                        let features = first.dims().last().copied().unwrap_or(1);
                        [first.elem_count() / features.max(1), 1, 1, features]
                    }
                };
                let batch = first.dim(0)?;
                let call = |part| Call { kind: self, kernels, dims, batch, parallel, part };
                match (self, inputs) {
                    (&Kind::ConcatFloat { axis, .. } | &Kind::ConcatInteger { axis, .. }, _) => {
                        // One call a value, each of which writes its share of every row.
                        let inner: usize = to.dims()[axis + 1..].iter().product();
                        let mut start = 0;
                        for (index, x) in inputs.iter().enumerate() {
                            let len = x.dim(axis)? * inner;
                            to.inplace_op2(x, &call(Part { index, start, len, row: to.dim(axis)? * inner }))?;
                            start += len;
                        }
                    }
                    (_, [x]) => to.inplace_op2(x, &call(Part::default()))?,
                    (_, [a, b]) => to.inplace_op3(a, b, &call(Part::default()))?,
                    _ => bail!("{} reads {} tensors", self.name(), inputs.len()),
                }
                Ok(to.clone())
            }
            (_, None) => bail!("{} has nowhere to write", self.name()),
        }
    }
}

/// One step on one set of inputs.
struct Call<'a> {
    kind: &'a Kind,
    kernels: Kernels,
    /// Batch, height, width and channels of the first input; of rows of features, how many there are.
    dims: [usize; 4],
    /// Samples.
    batch: usize,
    parallel: bool,
    part: Part,
}

/// What one value of several writes.
#[derive(Clone, Copy, Default)]
struct Part {
    /// Which value.
    index: usize,
    /// Where its share of a row starts.
    start: usize,
    /// How long that is.
    len: usize,
    /// How long the rows are.
    row: usize,
}

impl Part {
    /// Applies `work` to this value's share of all rows.
    fn each<X, Y>(&self, x: &[X], y: &mut [Y], mut work: impl FnMut(&[X], &mut [Y])) {
        let rows = y.chunks_exact_mut(self.row.max(1)).map(|row| &mut row[self.start..self.start + self.len]);
        x.chunks_exact(self.len.max(1)).zip(rows).for_each(|(x, y)| work(x, y));
    }
}

/// Contiguous elements of an input.
enum Data<'a> {
    Float(&'a [f32]),
    Quantized(&'a [u8]),
}

fn input<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<Data<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel got a strided tensor") };
    match storage {
        CpuStorage::F32(x) => Ok(Data::Float(&x[start..end])),
        CpuStorage::U8(x) => Ok(Data::Quantized(&x[start..end])),
        _ => bail!("a kernel got a tensor that is neither f32 nor u8"),
    }
}

fn output<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<Output<'a>> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel got a strided tensor") };
    match storage {
        CpuStorage::F32(y) => Ok(Output::Float(&mut y[start..end])),
        CpuStorage::U8(y) => Ok(Output::Quantized(&mut y[start..end])),
        _ => bail!("a kernel got a tensor that is neither f32 nor u8"),
    }
}

impl InplaceOp2 for Call<'_> {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn cpu_fwd(&self, to: &mut CpuStorage, l: &Layout, s: &CpuStorage, ls: &Layout) -> Result<()> {
        self.compute(&[input(s, ls)?], output(to, l)?)
    }
}

impl InplaceOp3 for Call<'_> {
    fn name(&self) -> &'static str {
        self.kind.name()
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        l: &Layout,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<()> {
        self.compute(&[input(a, la)?, input(b, lb)?], output(to, l)?)
    }
}

impl Call<'_> {
    fn compute(&self, inputs: &[Data<'_>], out: Output<'_>) -> Result<()> {
        let (kernels, [n, h, w, c]) = (self.kernels, self.dims);
        match (self.kind, inputs, out) {
            (Kind::ConvFloat { packed, by_channel, epilogue, sum: None }, [Data::Float(x)], out) => {
                let pictures = Pictures { x, dims: [n, h, w], padding: 0.0 };
                match by_channel {
                    true => kernels.conv_float_by_channel(packed, pictures, *epilogue, out, self.parallel),
                    false => kernels.conv_float(packed, pictures, *epilogue, None, out, self.parallel),
                }
            }
            (Kind::ConvFloat { packed, epilogue, sum: Some(sum), .. }, [Data::Float(x), Data::Float(addend)], out) => {
                let pictures = Pictures { x, dims: [n, h, w], padding: 0.0 };
                let residual = FloatResidual { x: addend, min: sum.min, max: sum.max };
                let epilogue = FloatEpilogue { grid: sum.grid, ..*epilogue };
                kernels.conv_float(packed, pictures, epilogue, Some(residual), out, self.parallel);
            }
            (Kind::ConvInteger { weight, zero_point, epilogue, sum: None }, [Data::Quantized(x)], out) => {
                let pictures = Pictures { x, dims: [n, h, w], padding: *zero_point };
                kernels.conv_integer(&weight.packed, pictures, epilogue, None, out, self.parallel);
            }
            (
                Kind::ConvInteger { weight, zero_point, epilogue, sum: Some(sum) },
                [Data::Quantized(x), Data::Quantized(addend)],
                out,
            ) => {
                let pictures = Pictures { x, dims: [n, h, w], padding: *zero_point };
                let IntegerSum { layer, addend: x_grid, addend_first: first, grid, low, high } = *sum;
                let residual = IntegerResidual { layer, x: addend, first, x_grid, grid, low, high };
                kernels.conv_integer(&weight.packed, pictures, epilogue, Some(residual), out, self.parallel);
            }
            (&Kind::PairFloat { pair, per_channel, epilogue }, [Data::Float(a), Data::Float(b)], out) => {
                let kernel = match pair {
                    Pair::Add => Kernels::add_float,
                    Pair::Mul => Kernels::mul_float,
                };
                let run =
                    |a: &[f32], b: &[f32], out: Output<'_>, parallel| kernel(kernels, a, b, epilogue, out, parallel);
                match per_channel {
                    None => run(a, b, out, self.parallel),
                    Some(0) => per_channel_pair(b, a, out, self.batch, |b, a, out| run(a, b, out, false)),
                    Some(_) => per_channel_pair(a, b, out, self.batch, |a, b, out| run(a, b, out, false)),
                }
            }
            (
                &Kind::PairInteger { pair, per_channel, a, b, grid, low, high },
                [Data::Quantized(x), Data::Quantized(y)],
                out,
            ) => {
                let kernel = match pair {
                    Pair::Add => Kernels::add_integer,
                    Pair::Mul => Kernels::mul_integer,
                };
                let run = |x: &[u8], y: &[u8], out: Output<'_>, parallel| {
                    kernel(kernels, (x, a), (y, b), grid, (low, high), out, parallel);
                };
                match per_channel {
                    None => run(x, y, out, self.parallel),
                    Some(0) => per_channel_pair(y, x, out, self.batch, |y, x, out| run(x, y, out, false)),
                    Some(_) => per_channel_pair(x, y, out, self.batch, |x, y, out| run(x, y, out, false)),
                }
            }
            (&Kind::AddSum { layer, addend, grid, low, high }, [Data::Float(sum), Data::Quantized(x)], out) => {
                // Where every value is shown; else the convolution does it.
                let mut clipped = vec![0; x.len()];
                if let Some(layer) = layer {
                    let fused = FusedSum::new(&layer, &addend, &grid);
                    let add = |(y, (&v, &q)): (&mut u8, (&f32, &u8))| {
                        *y = grid.integer(fused.steps(v, q)).clamp(low, high.max(low))
                    };
                    clipped.iter_mut().zip(sum.iter().zip(*x)).for_each(add);
                } else {
                    let mut dequantized = vec![0.0; x.len()];
                    kernels.dequantize(x, addend, &mut dequantized, self.parallel);
                    let whole = FloatEpilogue { min: f32::NEG_INFINITY, max: f32::INFINITY, grid: Some(grid) };
                    let mut quantized = vec![0; x.len()];
                    let written = Output::Quantized(&mut quantized);
                    kernels.add_float(sum, &dequantized, whole, written, self.parallel);
                    kernels.clip_integer(&quantized, (low, high), &mut clipped);
                }
                match out {
                    Output::Float(y) => kernels.dequantize(&clipped, grid, y, self.parallel),
                    Output::Quantized(y) => y.copy_from_slice(&clipped),
                }
            }
            (&Kind::MapFloat { function, epilogue }, [Data::Float(x)], out) => {
                kernels.map(x, function, epilogue, out, self.parallel);
            }
            (Kind::MapInteger(table), [Data::Quantized(x)], Output::Quantized(y)) => {
                kernels.look_up(x, &table.quantized, y, self.parallel);
            }
            (Kind::MapInteger(table), [Data::Quantized(x)], Output::Float(y)) => {
                kernels.look_up(x, &table.float, y, self.parallel);
            }
            (Kind::ConcatFloat { epilogue, .. }, [Data::Float(x)], Output::Float(y)) => {
                self.part.each(x, y, |x, y| kernels.clip_float(x, *epilogue, y, false));
            }
            (Kind::ConcatInteger { tables, grid, .. }, [Data::Quantized(x)], out) => {
                match (out, tables.get(self.part.index).and_then(Option::as_ref)) {
                    (Output::Quantized(y), None) => self.part.each(x, y, |x, y| y.copy_from_slice(x)),
                    (Output::Quantized(y), Some(table)) => {
                        self.part.each(x, y, |x, y| kernels.look_up(x, &table.quantized, y, false));
                    }
                    (Output::Float(y), None) => self.part.each(x, y, |x, y| kernels.dequantize(x, *grid, y, false)),
                    (Output::Float(y), Some(table)) => {
                        self.part.each(x, y, |x, y| kernels.look_up(x, &table.float, y, false));
                    }
                }
            }
            (Kind::AverageFloat { window, epilogue }, [Data::Float(x)], out) => {
                let (pool, divisor) = window.over([n, h, w, c]);
                let mean = |sum: f32, taps: usize| epilogue.clip(sum / divisor(taps) as f32);
                match (out, epilogue.grid) {
                    (Output::Float(y), _) => kernels.average_pool_float(x, pool, y, self.parallel, mean),
                    (Output::Quantized(y), Some(grid)) => {
                        kernels.average_pool_float(x, pool, y, self.parallel, |s, t| grid.quantize(mean(s, t)));
                    }
                    (Output::Quantized(_), None) => bail!("a quantized output needs a grid"),
                }
            }
            (Kind::AverageInteger { window, input, grid, low, high }, [Data::Quantized(x)], out) => {
                let (pool, divisor) = window.over([n, h, w, c]);
                let quantize = grid.rounding.is_openvino().then(|| FakeQuantize::of_average(grid, input.scale));
                let finish = |sum: i32, taps: usize| {
                    if let Some(quantize) = quantize {
                        // The mean of the integers themselves, less the zero point.
                        let (count, zero_point) = (divisor(taps), i32::from(input.zero_point));
                        let mean = (sum + zero_point * count as i32) as f32 / count as f32 - zero_point as f32;
                        return grid.integer(quantize.steps(mean)).clamp(*low, (*high).max(*low));
                    }
                    // The mean in steps of the output: s_x / (s_y · taps), rounded to f32 after the product and after the
                    // division, as in ONNX Runtime's QLinearGlobalAveragePool.
                    let multiplier = input.scale / (grid.scale * divisor(taps) as f32);
                    grid.requantize(sum, multiplier).clamp(*low, (*high).max(*low))
                };
                let x = (*x, input.zero_point);
                match out {
                    Output::Float(y) => {
                        kernels.average_pool_integer(x, pool, y, self.parallel, |s, t| grid.dequantize(finish(s, t)));
                    }
                    Output::Quantized(y) => kernels.average_pool_integer(x, pool, y, self.parallel, finish),
                }
            }
            (Kind::MaxPool(window), [Data::Float(x)], Output::Float(y)) => {
                kernels.max_pool_float(x, PoolWindow { window: *window, dims: self.dims }, y, self.parallel);
            }
            (Kind::MaxPool(window), [Data::Quantized(x)], Output::Quantized(y)) => {
                kernels.max_pool_integer(x, PoolWindow { window: *window, dims: self.dims }, y, self.parallel);
            }
            (Kind::ClipFloat(epilogue), [Data::Float(x)], Output::Float(y)) => {
                kernels.clip_float(x, *epilogue, y, self.parallel)
            }
            (Kind::ClipInteger { low, high }, [Data::Quantized(x)], Output::Quantized(y)) => {
                kernels.clip_integer(x, (*low, *high), y);
            }
            (Kind::Quantize(grid), [Data::Float(x)], Output::Quantized(y)) => {
                kernels.quantize(x, *grid, y, self.parallel)
            }
            (Kind::Dequantize(grid), [Data::Quantized(x)], Output::Float(y)) => {
                kernels.dequantize(x, *grid, y, self.parallel)
            }
            (kind, ..) => bail!("{} got tensors of another type", kind.name()),
        }
        Ok(())
    }
}

/// Applies `work` to all of `x` with `channels`, one number a channel of each sample, beside it: repeated over so many
/// pixels that calls are few.
fn per_channel_pair<T: Copy>(
    x: &[T],
    channels: &[T],
    out: Output<'_>,
    batch: usize,
    work: impl Fn(&[T], &[T], Output<'_>),
) {
    const AT_ONCE: usize = 2048;
    let (sample, row) = (x.len() / batch.max(1), channels.len() / batch.max(1));
    let at_once = AT_ONCE.div_ceil(row.max(1)) * row.max(1);
    let mut out = out;
    for (index, (x, channels)) in x.chunks(sample.max(1)).zip(channels.chunks(row.max(1))).enumerate() {
        let repeated: Vec<T> = channels.iter().copied().cycle().take(at_once.min(x.len())).collect();
        for (part, x) in x.chunks(at_once).enumerate() {
            let start = index * sample + part * at_once;
            let beside = &repeated[..x.len()];
            match &mut out {
                Output::Float(y) => work(x, beside, Output::Float(&mut y[start..start + x.len()])),
                Output::Quantized(y) => work(x, beside, Output::Quantized(&mut y[start..start + x.len()])),
            }
        }
    }
}

impl AverageWindow {
    /// The window over pictures of these dimensions, and what a sum over so many taps is divided by.
    fn over(&self, dims: [usize; 4]) -> (PoolWindow, impl Fn(usize) -> usize + use<>) {
        let whole = Window { kernel: [dims[1], dims[2]], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
        let window = self.window.unwrap_or(whole);
        let area = self.count_include_pad.then_some(window.kernel[0] * window.kernel[1]);
        (PoolWindow { window, dims }, move |taps: usize| area.unwrap_or(taps).max(1))
    }
}
