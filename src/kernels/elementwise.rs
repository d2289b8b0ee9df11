//! Operators that see one element at a time.

use rayon::prelude::*;

use super::{
    FloatEpilogue, Kernels, Output, Simd, dispatch,
    epilogue::{Grid, MAX_LANES, of_tile},
};
use crate::quant::Affine;

/// Elements of one part, where an operator runs on several threads.
const PART: usize = 16 * 1024;

/// Runs `work` on parts of the inputs and the output, or on the whole.
fn in_parts<X: Sync, Y: Send>(
    a: &[X],
    b: &[X],
    y: &mut [Y],
    parallel: bool,
    work: impl Fn(&[X], &[X], &mut [Y]) + Sync,
) {
    assert!(a.len() == y.len() && b.len() == y.len(), "elements of inputs and output");
    if parallel && y.len() > PART {
        let inputs = a.par_chunks(PART).zip(b.par_chunks(PART));
        y.par_chunks_mut(PART).zip(inputs).for_each(|(y, (a, b))| work(a, b, y));
    } else {
        work(a, b, y);
    }
}

impl Kernels {
    /// `clamp(rne(x / scale) + zero_point)` of every element. `parallel` as for [`Kernels::conv_float`], here and below.
    pub fn quantize(self, x: &[f32], grid: Affine, y: &mut [u8], parallel: bool) {
        in_parts(x, x, y, parallel, |x, _, y| quantize(self, grid, x, y));
    }

    /// `(x − zero_point) · scale` of every element.
    pub fn dequantize(self, x: &[u8], grid: Affine, y: &mut [f32], parallel: bool) {
        in_parts(x, x, y, parallel, |x, _, y| dequantize(self, grid, x, y));
    }

    /// `clip(a + b)` of every element, quantized when the output is.
    ///
    /// # Panics
    /// When the output is quantized and the epilogue has no grid.
    pub fn add_float(self, a: &[f32], b: &[f32], epilogue: FloatEpilogue, out: Output<'_>, parallel: bool) {
        match (out, epilogue.grid) {
            (Output::Float(y), _) => in_parts(a, b, y, parallel, |a, b, y| add_float(self, epilogue, a, b, y)),
            (Output::Quantized(y), Some(grid)) => {
                in_parts(a, b, y, parallel, |a, b, y| add_float_quantized(self, epilogue, grid, a, b, y));
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
        parallel: bool,
    ) {
        // What quantizing and then clipping leaves is one range.
        let bounds = [grid.quant_min.max(low).min(high), grid.quant_max.max(low).min(high)];
        let grids = [a_grid, b_grid, grid];
        match out {
            Output::Float(y) => {
                in_parts(a, b, y, parallel, |a, b, y| add_integer_dequantized(self, grids, bounds, a, b, y));
            }
            Output::Quantized(y) => {
                in_parts(a, b, y, parallel, |a, b, y| add_integer(self, grids, bounds, a, b, y));
            }
        }
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_float(self, x: &[f32], epilogue: FloatEpilogue, y: &mut [f32], parallel: bool) {
        in_parts(x, x, y, parallel, |x, _, y| clip(self, epilogue, x, y));
    }

    /// `min(max(x, low), high)` of every element.
    pub fn clip_integer(self, x: &[u8], (low, high): (u8, u8), y: &mut [u8]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x.clamp(low, high.max(low)));
    }
}

/// What becomes of two vectors of elements. Not a closure: those are not compiled for the instruction set. Holds
/// its parameters as vectors: what was read from memory in between stores would be read again and again.
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

/// A grid with its own bounds.
#[inline(always)]
fn whole<S: Simd>(grid: Affine) -> Grid<S> {
    // SAFETY: S is what this is compiled for, here and in the bodies below (see `dispatch`).
    unsafe { Grid::new(&grid, grid.quant_min, grid.quant_max) }
}

/// `clamp(rne(x / scale) + zero_point)`.
struct Quantize<S: Simd>(Grid<S>);

impl<S: Simd> Elementwise<S> for Quantize<S> {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bytes(y, [self.0.quantize(S::load(a)), self.0.quantize(S::load(a.add(S::WIDTH)))]) };
    }
}

#[inline(always)]
fn quantize_body<S: Simd>(grid: Affine, x: &[f32], y: &mut [u8]) {
    apply_body::<S, _>(&Quantize(whole(grid)), x, x, y);
}
dispatch!(fn quantize(grid: Affine, x: &[f32], y: &mut [u8]) -> () = quantize_body);

/// `(x − zero_point) · scale`.
struct Dequantize<S: Simd>(Grid<S>);

impl<S: Simd> Elementwise<S> for Dequantize<S> {
    type X = u8;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, _: *const u8, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store(y, self.0.dequantize(S::load_bytes(a)));
            S::store(y.add(S::WIDTH), self.0.dequantize(S::load_bytes(a.add(S::WIDTH))));
        }
    }
}

#[inline(always)]
fn dequantize_body<S: Simd>(grid: Affine, x: &[u8], y: &mut [f32]) {
    apply_body::<S, _>(&Dequantize(whole(grid)), x, x, y);
}
dispatch!(fn dequantize(grid: Affine, x: &[u8], y: &mut [f32]) -> () = dequantize_body);

/// `min(max(x, min), max)`.
struct Clip<S: Simd> {
    min: S::F,
    max: S::F,
}

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd> Clip<S> {
    #[inline(always)]
    unsafe fn new(epilogue: &FloatEpilogue) -> Clip<S> {
        // SAFETY: the caller's promise.
        unsafe { Clip { min: S::splat(epilogue.min), max: S::splat(epilogue.max) } }
    }

    #[inline(always)]
    unsafe fn clip(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::min(S::max(x, self.min), self.max) }
    }

    /// `clip(a + b)` of two vectors.
    #[inline(always)]
    unsafe fn sums(&self, a: *const f32, b: *const f32) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let first = S::add(S::load(a), S::load(b));
            let second = S::add(S::load(a.add(S::WIDTH)), S::load(b.add(S::WIDTH)));
            [self.clip(first), self.clip(second)]
        }
    }
}

impl<S: Simd> Elementwise<S> for Clip<S> {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            S::store(y, self.clip(S::load(a)));
            S::store(y.add(S::WIDTH), self.clip(S::load(a.add(S::WIDTH))));
        }
    }
}

#[inline(always)]
fn clip_body<S: Simd>(epilogue: FloatEpilogue, x: &[f32], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { Clip::new(&epilogue) }, x, x, y);
}
dispatch!(fn clip(epilogue: FloatEpilogue, x: &[f32], y: &mut [f32]) -> () = clip_body);

/// `clip(a + b)`.
struct AddFloat<S: Simd>(Clip<S>);

impl<S: Simd> Elementwise<S> for AddFloat<S> {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = self.0.sums(a, b);
            S::store(y, first);
            S::store(y.add(S::WIDTH), second);
        }
    }
}

#[inline(always)]
fn add_float_body<S: Simd>(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&AddFloat(unsafe { Clip::new(&epilogue) }), a, b, y);
}
dispatch!(fn add_float(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) -> () = add_float_body);

/// `clip(a + b)`, quantized.
struct AddFloatQuantized<S: Simd>(Clip<S>, Grid<S>);

impl<S: Simd> Elementwise<S> for AddFloatQuantized<S> {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let [first, second] = self.0.sums(a, b);
            S::store_bytes(y, [self.1.quantize(first), self.1.quantize(second)]);
        }
    }
}

#[inline(always)]
fn add_float_quantized_body<S: Simd>(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&AddFloatQuantized(unsafe { Clip::new(&epilogue) }, whole(grid)), a, b, y);
}
dispatch!(
    fn add_float_quantized(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) -> () =
        add_float_quantized_body
);

/// A sum of integers, as it is: `y = clamp(rne(((a − z_a)·s_a + (b − z_b)·s_b) / s_y) + z_y)` in f32.
struct AddInteger<S: Simd> {
    a: Grid<S>,
    b: Grid<S>,
    out: Grid<S>,
}

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd> AddInteger<S> {
    #[inline(always)]
    unsafe fn new([a, b, out]: [Affine; 3], [low, high]: [u8; 2]) -> AddInteger<S> {
        // SAFETY: the caller's promise.
        AddInteger { a: whole(a), b: whole(b), out: unsafe { Grid::new(&out, low, high) } }
    }

    /// Of one vector, in 0..=255.
    #[inline(always)]
    unsafe fn sum(&self, a: *const u8, b: *const u8) -> S::I {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (self.a.dequantize(S::load_bytes(a)), self.b.dequantize(S::load_bytes(b)));
            self.out.quantize(S::add(a, b))
        }
    }
}

impl<S: Simd> Elementwise<S> for AddInteger<S> {
    type X = u8;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { S::store_bytes(y, [self.sum(a, b), self.sum(a.add(S::WIDTH), b.add(S::WIDTH))]) };
    }
}

#[inline(always)]
fn add_integer_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { AddInteger::new(grids, bounds) }, a, b, y);
}
dispatch!(
    fn add_integer(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) -> () = add_integer_body
);

/// A sum of integers, dequantized.
struct AddIntegerDequantized<S: Simd>(AddInteger<S>);

impl<S: Simd> Elementwise<S> for AddIntegerDequantized<S> {
    type X = u8;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let second = self.0.sum(a.add(S::WIDTH), b.add(S::WIDTH));
            S::store(y, self.0.out.dequantize(self.0.sum(a, b)));
            S::store(y.add(S::WIDTH), self.0.out.dequantize(second));
        }
    }
}

#[inline(always)]
fn add_integer_dequantized_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&AddIntegerDequantized(unsafe { AddInteger::new(grids, bounds) }), a, b, y);
}
dispatch!(
    fn add_integer_dequantized(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) -> () =
        add_integer_dequantized_body
);
