//! Operators that see one element at a time.

use super::{
    FloatEpilogue, Kernels, Output, Simd, dispatch,
    epilogue::{MAX_LANES, clamp_vector, dequantize_vector, of_tile, quantize_vector},
};
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
        quantize(self, &Quantize(grid), x, y);
    }

    /// `(x − zero_point) · scale` of every element.
    pub fn dequantize(self, x: &[u8], grid: Affine, y: &mut [f32]) {
        dequantize(self, &Dequantize(grid), x, y);
    }

    /// `clip(a + b)` of every element, quantized when the output is.
    ///
    /// # Panics
    /// When the output is quantized and the epilogue has no grid.
    pub fn add_float(self, a: &[f32], b: &[f32], epilogue: FloatEpilogue, out: Output<'_>) {
        match (out, epilogue.grid) {
            (Output::Float(y), _) => add_float(self, &AddFloat(epilogue), a, b, y),
            (Output::Quantized(y), Some(grid)) => {
                add_float_quantized(self, &AddFloatQuantized(epilogue, grid), a, b, y)
            }
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
            Output::Float(y) => add_integer_dequantized(self, &AddIntegerDequantized(grids), a, b, y),
            Output::Quantized(y) => add_integer(self, &AddInteger(grids), a, b, y),
        }
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_float(self, x: &[f32], epilogue: FloatEpilogue, y: &mut [f32]) {
        clip(self, &Clip(epilogue), x, y);
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_integer(self, x: &[u8], (low, high): (u8, u8), y: &mut [u8]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.clamp(low, high.max(low)));
    }
}

/// What becomes of two vectors of elements. Not a closure: those are not compiled for the instruction set.
trait Elementwise<S: Simd> {
    type X: Copy + Default;
    type Y: Copy + Default;

    /// Reads two vectors at `a` and `b`, and writes two at `y`.
    ///
    /// # Safety
    /// As for [`Simd`].
    unsafe fn apply(&self, a: *const Self::X, b: *const Self::X, y: *mut Self::Y);
}

/// Applies an operator to all elements; what is left at the end goes through a copy.
#[inline(always)]
fn apply_body<S: Simd, E: Elementwise<S>>(operator: &E, a: &[E::X], b: &[E::X], y: &mut [E::Y]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "elements of inputs and output");
    let lanes = 2 * S::WIDTH;
    let whole = y.len() / lanes * lanes;
    for at in (0..whole).step_by(lanes) {
        // SAFETY: S is what this is compiled for (see `dispatch`), and all three slices reach to `whole`.
        unsafe { operator.apply(a.as_ptr().add(at), b.as_ptr().add(at), y.as_mut_ptr().add(at)) };
    }
    let left = y.len() - whole;
    if left > 0 {
        let (a, b) = (of_tile(a, whole, left), of_tile(b, whole, left));
        let mut rest = [E::Y::default(); MAX_LANES];
        // SAFETY: as above; a tile's lanes are at most MAX_LANES.
        unsafe { operator.apply(a.as_ptr(), b.as_ptr(), rest.as_mut_ptr()) };
        y[whole..].copy_from_slice(&rest[..left]);
    }
}

/// `clamp(rne(x / scale) + zero_point)`.
struct Quantize(Affine);

impl<S: Simd> Elementwise<S> for Quantize {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store_bytes(
                y,
                [quantize_vector::<S>(S::load(a), &self.0), quantize_vector::<S>(S::load(a.add(S::WIDTH)), &self.0)],
            );
        }
    }
}

#[inline(always)]
fn quantize_body<S: Simd>(operator: &Quantize, x: &[f32], y: &mut [u8]) {
    apply_body::<S, _>(operator, x, x, y);
}
dispatch!(fn quantize(operator: &Quantize, x: &[f32], y: &mut [u8]) -> () = quantize_body);

/// `(x − zero_point) · scale`.
struct Dequantize(Affine);

impl<S: Simd> Elementwise<S> for Dequantize {
    type X = u8;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, _: *const u8, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store(y, dequantize_vector::<S>(S::load_bytes(a), &self.0));
            S::store(y.add(S::WIDTH), dequantize_vector::<S>(S::load_bytes(a.add(S::WIDTH)), &self.0));
        }
    }
}

#[inline(always)]
fn dequantize_body<S: Simd>(operator: &Dequantize, x: &[u8], y: &mut [f32]) {
    apply_body::<S, _>(operator, x, x, y);
}
dispatch!(fn dequantize(operator: &Dequantize, x: &[u8], y: &mut [f32]) -> () = dequantize_body);

/// `min(max(x, min), max)`.
struct Clip(FloatEpilogue);

impl<S: Simd> Elementwise<S> for Clip {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store(y, self.0.clip_vector::<S>(S::load(a)));
            S::store(y.add(S::WIDTH), self.0.clip_vector::<S>(S::load(a.add(S::WIDTH))));
        }
    }
}

#[inline(always)]
fn clip_body<S: Simd>(operator: &Clip, x: &[f32], y: &mut [f32]) {
    apply_body::<S, _>(operator, x, x, y);
}
dispatch!(fn clip(operator: &Clip, x: &[f32], y: &mut [f32]) -> () = clip_body);

/// `clip(a + b)`.
struct AddFloat(FloatEpilogue);

impl<S: Simd> Elementwise<S> for AddFloat {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = sums::<S>(a, b, &self.0);
            S::store(y, first);
            S::store(y.add(S::WIDTH), second);
        }
    }
}

#[inline(always)]
fn add_float_body<S: Simd>(operator: &AddFloat, a: &[f32], b: &[f32], y: &mut [f32]) {
    apply_body::<S, _>(operator, a, b, y);
}
dispatch!(fn add_float(operator: &AddFloat, a: &[f32], b: &[f32], y: &mut [f32]) -> () = add_float_body);

/// `clip(a + b)`, quantized.
struct AddFloatQuantized(FloatEpilogue, Affine);

impl<S: Simd> Elementwise<S> for AddFloatQuantized {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = sums::<S>(a, b, &self.0);
            S::store_bytes(y, [quantize_vector::<S>(first, &self.1), quantize_vector::<S>(second, &self.1)]);
        }
    }
}

#[inline(always)]
fn add_float_quantized_body<S: Simd>(operator: &AddFloatQuantized, a: &[f32], b: &[f32], y: &mut [u8]) {
    apply_body::<S, _>(operator, a, b, y);
}
dispatch!(fn add_float_quantized(operator: &AddFloatQuantized, a: &[f32], b: &[f32], y: &mut [u8]) -> () = add_float_quantized_body);

/// `clip(a + b)` of two vectors.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn sums<S: Simd>(a: *const f32, b: *const f32, epilogue: &FloatEpilogue) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let first = S::add(S::load(a), S::load(b));
        let second = S::add(S::load(a.add(S::WIDTH)), S::load(b.add(S::WIDTH)));
        [epilogue.clip_vector::<S>(first), epilogue.clip_vector::<S>(second)]
    }
}

/// A sum of integers, as it is.
struct AddInteger(AddGrids);

impl<S: Simd> Elementwise<S> for AddInteger {
    type X = u8;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store_bytes(y, [self.0.sum::<S>(a, b), self.0.sum::<S>(a.add(S::WIDTH), b.add(S::WIDTH))]);
        }
    }
}

#[inline(always)]
fn add_integer_body<S: Simd>(operator: &AddInteger, a: &[u8], b: &[u8], y: &mut [u8]) {
    apply_body::<S, _>(operator, a, b, y);
}
dispatch!(fn add_integer(operator: &AddInteger, a: &[u8], b: &[u8], y: &mut [u8]) -> () = add_integer_body);

/// A sum of integers, dequantized.
struct AddIntegerDequantized(AddGrids);

impl<S: Simd> Elementwise<S> for AddIntegerDequantized {
    type X = u8;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store(y, dequantize_vector::<S>(self.0.sum::<S>(a, b), &self.0.out));
            let second = self.0.sum::<S>(a.add(S::WIDTH), b.add(S::WIDTH));
            S::store(y.add(S::WIDTH), dequantize_vector::<S>(second, &self.0.out));
        }
    }
}

#[inline(always)]
fn add_integer_dequantized_body<S: Simd>(operator: &AddIntegerDequantized, a: &[u8], b: &[u8], y: &mut [f32]) {
    apply_body::<S, _>(operator, a, b, y);
}
dispatch!(fn add_integer_dequantized(operator: &AddIntegerDequantized, a: &[u8], b: &[u8], y: &mut [f32]) -> () = add_integer_dequantized_body);

impl AddGrids {
    /// The sum of a vector, in 0..=255.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, a: *const u8, b: *const u8) -> S::I {
        // What quantizing and then clipping leaves is one range.
        let low = self.out.quant_min.max(self.low).min(self.high);
        let high = self.out.quant_max.max(self.low).min(self.high);
        // SAFETY: the caller's promise.
        unsafe {
            let a = dequantize_vector::<S>(S::load_bytes(a), &self.a);
            let b = dequantize_vector::<S>(S::load_bytes(b), &self.b);
            clamp_vector::<S>(S::div(S::add(a, b), S::splat(self.out.scale)), &self.out, low, high)
        }
    }
}
