//! Kernel calls as candle custom ops.

use std::sync::Arc;

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};

use super::{
    QuantizedWeight,
    workspace::{logical, stored},
};
use crate::{
    graph::{SampleShape, Window},
    kernels::{
        FloatEpilogue, FloatResidual, IntegerEpilogue, IntegerResidual, Kernels, Output, PackedFloat, Pictures,
        PoolWindow,
    },
    quant::Affine,
};

/// What one step computes.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// `sum` is the epilogue of an addition that is done on the way out.
    ConvFloat {
        packed: Arc<PackedFloat>,
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
    AddFloat(FloatEpilogue),
    AddInteger {
        a: Affine,
        b: Affine,
        grid: Affine,
        low: u8,
        high: u8,
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
    Reshape(SampleShape),
    Softmax {
        axis: usize,
    },
}

/// An addition in integers that a convolution does.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntegerSum {
    /// The grid of what is added.
    pub addend: Affine,
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
            Kind::AddFloat(_) => "add f32",
            Kind::AddInteger { .. } => "add u8",
            Kind::AverageFloat { .. } => "average pool f32",
            Kind::AverageInteger { .. } => "average pool u8",
            Kind::MaxPool(_) => "max pool",
            Kind::ClipFloat(_) => "clip f32",
            Kind::ClipInteger { .. } => "clip u8",
            Kind::Quantize(_) => "quantize",
            Kind::Dequantize(_) => "dequantize",
            Kind::Reshape(_) => "reshape",
            Kind::Softmax { .. } => "softmax",
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
            (Kind::Reshape(shape), _) => {
                let dims: Vec<usize> = std::iter::once(first.dim(0)?).chain(shape.iter().copied()).collect();
                // A copy, since the buffer below it is written again.
                stored(&logical(first)?.force_contiguous()?.reshape(dims)?)
            }
            (Kind::Softmax { axis }, _) => stored(&candle_nn::ops::softmax(&logical(first)?.contiguous()?, axis + 1)?),
            (_, Some(to)) => {
                let dims = match *first.dims() {
                    [n, h, w, c] => [n, h, w, c],
                    // Rows of features: each is a pixel.
                    _ => {
                        let features = first.dims().last().copied().unwrap_or(1);
                        [first.elem_count() / features.max(1), 1, 1, features]
                    }
                };
                let call = Call { kind: self, kernels, dims, parallel };
                match inputs {
                    [x] => to.inplace_op2(x, &call)?,
                    [a, b] => to.inplace_op3(a, b, &call)?,
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
    /// Batch, height, width and channels of the first input.
    dims: [usize; 4],
    parallel: bool,
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
            (Kind::ConvFloat { packed, epilogue, sum: None }, [Data::Float(x)], out) => {
                let pictures = Pictures { x, dims: [n, h, w], padding: 0.0 };
                kernels.conv_float(packed, pictures, *epilogue, None, out, self.parallel);
            }
            (Kind::ConvFloat { packed, epilogue, sum: Some(sum) }, [Data::Float(x), Data::Float(addend)], out) => {
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
                let IntegerSum { addend: x_grid, grid, low, high } = *sum;
                let residual = IntegerResidual { x: addend, x_grid, grid, low, high };
                kernels.conv_integer(&weight.packed, pictures, epilogue, Some(residual), out, self.parallel);
            }
            (Kind::AddFloat(epilogue), [Data::Float(a), Data::Float(b)], out) => {
                kernels.add_float(a, b, *epilogue, out, self.parallel);
            }
            (Kind::AddInteger { a, b, grid, low, high }, [Data::Quantized(x), Data::Quantized(y)], out) => {
                kernels.add_integer((x, *a), (y, *b), *grid, (*low, *high), out, self.parallel);
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
                let finish = |sum: i32, taps: usize| {
                    // The mean in steps of the output: s_x / (s_y · taps), rounded once to f32.
                    let multiplier = f64::from(input.scale) / (f64::from(grid.scale) * divisor(taps) as f64);
                    let multiplier = multiplier as f32;
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

impl AverageWindow {
    /// The window over pictures of these dimensions, and what a sum over so many taps is divided by.
    fn over(&self, dims: [usize; 4]) -> (PoolWindow, impl Fn(usize) -> usize + use<>) {
        let whole = Window { kernel: [dims[1], dims[2]], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };
        let window = self.window.unwrap_or(whole);
        let area = self.count_include_pad.then_some(window.kernel[0] * window.kernel[1]);
        (PoolWindow { window, dims }, move |taps: usize| area.unwrap_or(taps).max(1))
    }
}
