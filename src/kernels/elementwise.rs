//! Operators that see one element at a time.

use super::{FloatEpilogue, Kernels, Output, Tile, dispatch};
use crate::quant::Affine;

/// Parameters of an addition in integers: `y = clamp(rne(((a − z_a)·s_a + (b − z_b)·s_b) / s_y) + z_y)`, what
/// QuantizeLinear and DequantizeLinear around an ONNX `Add` compute, in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AddGrids {
    pub a: Affine,
    pub b: Affine,
    pub out: Affine,
    pub low: u8,
    pub high: u8,
}

impl Kernels {
    /// `clamp(rne(x / scale) + zero_point)` of every element.
    pub fn quantize(self, x: &[f32], grid: Affine, y: &mut [u8]) {
        quantize(self, x, &grid, y);
    }

    /// `(x − zero_point) · scale` of every element.
    pub fn dequantize(self, x: &[u8], grid: Affine, y: &mut [f32]) {
        dequantize(self, x, &grid, y);
    }

    /// `clip(a + b)` of every element, quantized when the output is.
    ///
    /// # Panics
    /// When the output is quantized and the epilogue has no grid.
    pub fn add_float(self, a: &[f32], b: &[f32], epilogue: FloatEpilogue, out: Output<'_>) {
        match (out, epilogue.grid) {
            (Output::Float(y), _) => add_float(self, a, b, &epilogue, y),
            (Output::Quantized(y), Some(grid)) => add_float_quantized(self, a, b, &epilogue, &grid, y),
            (Output::Quantized(_), None) => panic!("a quantized output needs a grid"),
        }
    }

    /// The sum of two quantized tensors on the grid `out`, between `low` and `high`; written as is, or
    /// dequantized. The arithmetic is that of QuantizeLinear and DequantizeLinear around an ONNX `Add`:
    /// `y = clamp(rne(((a − z_a)·s_a + (b − z_b)·s_b) / s_y) + z_y)` in f32.
    pub fn add_integer(
        self,
        (a, a_grid): (&[u8], Affine),
        (b, b_grid): (&[u8], Affine),
        grid: Affine,
        (low, high): (u8, u8),
        out: Output<'_>,
    ) {
        let grids = AddGrids { a: a_grid, b: b_grid, out: grid, low, high };
        match out {
            Output::Float(y) => add_integer_dequantized(self, a, b, &grids, y),
            Output::Quantized(y) => add_integer(self, a, b, &grids, y),
        }
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_float(self, x: &[f32], epilogue: FloatEpilogue, y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = epilogue.clip(x));
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_integer(self, x: &[u8], (low, high): (u8, u8), y: &mut [u8]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.clamp(low, high.max(low)));
    }
}

#[inline(always)]
fn quantize_body<K: Tile>(x: &[f32], grid: &Affine, y: &mut [u8]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = grid.quantize(x));
}
dispatch!(fn quantize(x: &[f32], grid: &Affine, y: &mut [u8]) = quantize_body);

#[inline(always)]
fn dequantize_body<K: Tile>(x: &[u8], grid: &Affine, y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = grid.dequantize(x));
}
dispatch!(fn dequantize(x: &[u8], grid: &Affine, y: &mut [f32]) = dequantize_body);

#[inline(always)]
fn add_float_body<K: Tile>(a: &[f32], b: &[f32], epilogue: &FloatEpilogue, y: &mut [f32]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = epilogue.clip(a + b));
}
dispatch!(fn add_float(a: &[f32], b: &[f32], epilogue: &FloatEpilogue, y: &mut [f32]) = add_float_body);

#[inline(always)]
fn add_float_quantized_body<K: Tile>(a: &[f32], b: &[f32], epilogue: &FloatEpilogue, grid: &Affine, y: &mut [u8]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, a), b)| *y = grid.quantize(epilogue.clip(a + b)));
}
dispatch!(fn add_float_quantized(a: &[f32], b: &[f32], epilogue: &FloatEpilogue, grid: &Affine, y: &mut [u8]) = add_float_quantized_body);

impl AddGrids {
    #[inline(always)]
    fn add(&self, a: u8, b: u8) -> u8 {
        let sum = self.a.dequantize(a) + self.b.dequantize(b);
        self.out.quantize(sum).max(self.low).min(self.high)
    }
}

#[inline(always)]
fn add_integer_body<K: Tile>(a: &[u8], b: &[u8], grids: &AddGrids, y: &mut [u8]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = grids.add(a, b));
}
dispatch!(fn add_integer(a: &[u8], b: &[u8], grids: &AddGrids, y: &mut [u8]) = add_integer_body);

#[inline(always)]
fn add_integer_dequantized_body<K: Tile>(a: &[u8], b: &[u8], grids: &AddGrids, y: &mut [f32]) {
    y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = grids.out.dequantize(grids.add(a, b)));
}
dispatch!(fn add_integer_dequantized(a: &[u8], b: &[u8], grids: &AddGrids, y: &mut [f32]) = add_integer_dequantized_body);
