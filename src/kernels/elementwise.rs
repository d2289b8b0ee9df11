//! Operators that see one element at a time.

use rayon::prelude::*;

use super::{
    FloatEpilogue, Kernels, Output, Simd, dispatch,
    epilogue::of_tile,
    grid::{Grid, bounds, whole},
    rescale::{Product, Sum},
    simd::MAX_BLOCK,
};
use crate::quant::Affine;
#[cfg(doc)]
use crate::quant::requantization_multiplier;

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

    /// As [`Kernels::add_float`], `clip(a · b)`.
    ///
    /// # Panics
    /// As for it.
    pub fn mul_float(self, a: &[f32], b: &[f32], epilogue: FloatEpilogue, out: Output<'_>, parallel: bool) {
        match (out, epilogue.grid) {
            (Output::Float(y), _) => in_parts(a, b, y, parallel, |a, b, y| mul_float(self, epilogue, a, b, y)),
            (Output::Quantized(y), Some(grid)) => {
                in_parts(a, b, y, parallel, |a, b, y| mul_float_quantized(self, epilogue, grid, a, b, y));
            }
            (Output::Quantized(_), None) => panic!("a quantized output needs a grid"),
        }
    }

    /// The sum of two quantized tensors on the grid `out`, between `low` and `high`; written as is, or
    /// dequantized. [`AddMultipliers`](crate::quant::AddMultipliers) says what is rounded where, on a grid with OpenVINO's
    /// rounding [`PairSum`](crate::quant::PairSum).
    pub fn add_integer(
        self,
        (a, a_grid): (&[u8], Affine),
        (b, b_grid): (&[u8], Affine),
        grid: Affine,
        (low, high): (u8, u8),
        out: Output<'_>,
        parallel: bool,
    ) {
        let bounds = bounds(&grid, low, high);
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

    /// As [`Kernels::add_integer`], the product: `y = clamp(rne((a − z_a)·(b − z_b)·m + z_y))` in f32, with `m` of
    /// [`requantization_multiplier`], as ONNX Runtime's `QLinearMul`.
    pub fn mul_integer(
        self,
        (a, a_grid): (&[u8], Affine),
        (b, b_grid): (&[u8], Affine),
        grid: Affine,
        (low, high): (u8, u8),
        out: Output<'_>,
        parallel: bool,
    ) {
        let bounds = bounds(&grid, low, high);
        let grids = [a_grid, b_grid, grid];
        match out {
            Output::Float(y) => {
                in_parts(a, b, y, parallel, |a, b, y| mul_integer_dequantized(self, grids, bounds, a, b, y));
            }
            Output::Quantized(y) => {
                in_parts(a, b, y, parallel, |a, b, y| mul_integer(self, grids, bounds, a, b, y));
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

/// What becomes of four vectors of elements. Not a closure: those are not compiled for the instruction set. Holds
/// its parameters as vectors: what was read from memory in between stores would be read again and again.
trait Elementwise<S: Simd> {
    type X: Copy + Default;
    type Y: Copy + Default;

    /// Reads four vectors at `a` and at `b`, and writes four at `y`.
    ///
    /// # Safety
    /// As for [`Simd`].
    unsafe fn apply(&self, a: *const Self::X, b: *const Self::X, y: *mut Self::Y);
}

/// Applies an operator to all elements; what is left at the end goes through a copy.
#[inline(always)]
fn apply_body<S: Simd, E: Elementwise<S>>(operator: &E, a: &[E::X], b: &[E::X], y: &mut [E::Y]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "elements of inputs and output");
    let lanes = 4 * S::WIDTH;
    let whole = y.len() / lanes * lanes;
    for at in (0..whole).step_by(lanes) {
        // SAFETY: S is what this is compiled for (see `dispatch`), and all three slices reach to `whole`.
        unsafe { operator.apply(a.as_ptr().add(at), b.as_ptr().add(at), y.as_mut_ptr().add(at)) };
    }
    let left = y.len() - whole;
    if left > 0 {
        let (a, b): ([_; MAX_BLOCK], [_; MAX_BLOCK]) = (of_tile(a, whole, left), of_tile(b, whole, left));
        let mut rest = [E::Y::default(); MAX_BLOCK];
        // SAFETY: as above; four vectors are at most MAX_BLOCK lanes.
        unsafe { operator.apply(a.as_ptr(), b.as_ptr(), rest.as_mut_ptr()) };
        y[whole..].copy_from_slice(&rest[..left]);
    }
}

/// Four vectors.
#[inline(always)]
unsafe fn load<S: Simd>(from: *const f32) -> [S::F; 4] {
    // SAFETY: the caller's promise, as for [`Simd`], here and below.
    unsafe {
        [S::load(from), S::load(from.add(S::WIDTH)), S::load(from.add(2 * S::WIDTH)), S::load(from.add(3 * S::WIDTH))]
    }
}

#[inline(always)]
unsafe fn store<S: Simd>(to: *mut f32, x: [S::F; 4]) {
    // SAFETY: as above.
    unsafe {
        for v in 0..4 {
            S::store(to.add(v * S::WIDTH), x[v]);
        }
    }
}

/// Four vectors of integers, dequantized.
#[inline(always)]
unsafe fn load_quantized<S: Simd>(from: *const u8, grid: &Grid<S>) -> [S::F; 4] {
    // SAFETY: as above.
    unsafe {
        [
            grid.dequantize(S::load_bytes(from)),
            grid.dequantize(S::load_bytes(from.add(S::WIDTH))),
            grid.dequantize(S::load_bytes(from.add(2 * S::WIDTH))),
            grid.dequantize(S::load_bytes(from.add(3 * S::WIDTH))),
        ]
    }
}

/// Four vectors of integers, widened.
#[inline(always)]
unsafe fn load_bytes<S: Simd>(from: *const u8) -> [S::I; 4] {
    // SAFETY: as above.
    unsafe {
        [
            S::load_bytes(from),
            S::load_bytes(from.add(S::WIDTH)),
            S::load_bytes(from.add(2 * S::WIDTH)),
            S::load_bytes(from.add(3 * S::WIDTH)),
        ]
    }
}

/// Four vectors, quantized.
#[inline(always)]
unsafe fn store_quantized<S: Simd>(to: *mut u8, x: [S::F; 4], grid: &Grid<S>) {
    // SAFETY: as above.
    unsafe { S::store_bytes(to, S::in_order(grid.quantize(x))) };
}

/// `clamp(rne(x / scale) + zero_point)`.
struct Quantize<S: Simd>(Grid<S>);

impl<S: Simd> Elementwise<S> for Quantize<S> {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { store_quantized(y, load::<S>(a), &self.0) };
    }
}

#[inline(always)]
fn quantize_body<S: Simd>(grid: Affine, x: &[f32], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for (see `dispatch`), here and in the bodies below.
    apply_body::<S, _>(&Quantize(unsafe { whole(&grid) }), x, x, y);
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
        unsafe { store::<S>(y, load_quantized(a, &self.0)) };
    }
}

#[inline(always)]
fn dequantize_body<S: Simd>(grid: Affine, x: &[u8], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&Dequantize(unsafe { whole(&grid) }), x, x, y);
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
    unsafe fn clip(&self, mut x: [S::F; 4]) -> [S::F; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            for v in 0..4 {
                x[v] = S::min(S::max(x[v], self.min), self.max);
            }
        }
        x
    }

    /// `clip(a + b)`, or `clip(a · b)`, of four vectors.
    #[inline(always)]
    unsafe fn pairs<const MUL: bool>(&self, a: *const f32, b: *const f32) -> [S::F; 4] {
        // SAFETY: the caller's promise.
        unsafe { self.clip(pairs::<S, MUL>(load::<S>(a), load::<S>(b))) }
    }
}

/// `a + b`, or `a · b`.
#[inline(always)]
unsafe fn pairs<S: Simd, const MUL: bool>(a: [S::F; 4], b: [S::F; 4]) -> [S::F; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        if MUL {
            [S::mul(a[0], b[0]), S::mul(a[1], b[1]), S::mul(a[2], b[2]), S::mul(a[3], b[3])]
        } else {
            [S::add(a[0], b[0]), S::add(a[1], b[1]), S::add(a[2], b[2]), S::add(a[3], b[3])]
        }
    }
}

impl<S: Simd> Elementwise<S> for Clip<S> {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, _: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { store::<S>(y, self.clip(load::<S>(a))) };
    }
}

#[inline(always)]
fn clip_body<S: Simd>(epilogue: FloatEpilogue, x: &[f32], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { Clip::new(&epilogue) }, x, x, y);
}
dispatch!(fn clip(epilogue: FloatEpilogue, x: &[f32], y: &mut [f32]) -> () = clip_body);

/// `clip(a + b)`, or `clip(a · b)`.
struct PairFloat<S: Simd, const MUL: bool>(Clip<S>);

impl<S: Simd, const MUL: bool> Elementwise<S> for PairFloat<S, MUL> {
    type X = f32;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { store::<S>(y, self.0.pairs::<MUL>(a, b)) };
    }
}

#[inline(always)]
fn add_float_body<S: Simd>(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&PairFloat::<S, false>(unsafe { Clip::new(&epilogue) }), a, b, y);
}
dispatch!(fn add_float(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) -> () = add_float_body);

#[inline(always)]
fn mul_float_body<S: Simd>(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&PairFloat::<S, true>(unsafe { Clip::new(&epilogue) }), a, b, y);
}
dispatch!(fn mul_float(epilogue: FloatEpilogue, a: &[f32], b: &[f32], y: &mut [f32]) -> () = mul_float_body);

/// As [`PairFloat`], quantized.
struct PairFloatQuantized<S: Simd, const MUL: bool>(Clip<S>, Grid<S>);

impl<S: Simd, const MUL: bool> Elementwise<S> for PairFloatQuantized<S, MUL> {
    type X = f32;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const f32, b: *const f32, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { store_quantized(y, self.0.pairs::<MUL>(a, b), &self.1) };
    }
}

#[inline(always)]
fn add_float_quantized_body<S: Simd>(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { PairFloatQuantized::<S, false>(Clip::new(&epilogue), whole(&grid)) }, a, b, y);
}
dispatch!(
    fn add_float_quantized(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) -> () =
        add_float_quantized_body
);

#[inline(always)]
fn mul_float_quantized_body<S: Simd>(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { PairFloatQuantized::<S, true>(Clip::new(&epilogue), whole(&grid)) }, a, b, y);
}
dispatch!(
    fn mul_float_quantized(epilogue: FloatEpilogue, grid: Affine, a: &[f32], b: &[f32], y: &mut [u8]) -> () =
        mul_float_quantized_body
);

/// A sum of integers, as it is, or a product.
struct PairInteger<S: Simd, const MUL: bool> {
    sum: Sum<S>,
    product: Product<S>,
    /// For who dequantizes what comes out.
    out: Grid<S>,
}

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd, const MUL: bool> PairInteger<S, MUL> {
    #[inline(always)]
    unsafe fn new(grids: [Affine; 3], [low, high]: [u8; 2]) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            PairInteger {
                sum: Sum::new(&grids, [low, high]),
                product: Product::new(&grids, [low, high]),
                out: Grid::new(&grids[2], low, high),
            }
        }
    }

    /// Four vectors.
    #[inline(always)]
    unsafe fn pair(&self, a: *const u8, b: *const u8, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe {
            let (a, b) = (load_bytes::<S>(a), load_bytes::<S>(b));
            let bytes = if MUL { self.product.narrow(a, b) } else { self.sum.narrow(a, b) };
            S::store_bytes(y, S::in_order(bytes));
        }
    }
}

impl<S: Simd, const MUL: bool> Elementwise<S> for PairInteger<S, MUL> {
    type X = u8;
    type Y = u8;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.pair(a, b, y) };
    }
}

#[inline(always)]
fn add_integer_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { PairInteger::<S, false>::new(grids, bounds) }, a, b, y);
}
dispatch!(
    fn add_integer(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) -> () = add_integer_body
);

#[inline(always)]
fn mul_integer_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&unsafe { PairInteger::<S, true>::new(grids, bounds) }, a, b, y);
}
dispatch!(
    fn mul_integer(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [u8]) -> () = mul_integer_body
);

/// As [`PairInteger`], dequantized.
struct PairIntegerDequantized<S: Simd, const MUL: bool>(PairInteger<S, MUL>);

impl<S: Simd, const MUL: bool> Elementwise<S> for PairIntegerDequantized<S, MUL> {
    type X = u8;
    type Y = f32;

    #[inline(always)]
    unsafe fn apply(&self, a: *const u8, b: *const u8, y: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut bytes = [0; MAX_BLOCK];
            self.0.pair(a, b, bytes.as_mut_ptr());
            store::<S>(y, load_quantized(bytes.as_ptr(), &self.0.out));
        }
    }
}

#[inline(always)]
fn add_integer_dequantized_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&PairIntegerDequantized::<S, false>(unsafe { PairInteger::new(grids, bounds) }), a, b, y);
}
dispatch!(
    fn add_integer_dequantized(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) -> () =
        add_integer_dequantized_body
);

#[inline(always)]
fn mul_integer_dequantized_body<S: Simd>(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) {
    // SAFETY: S is what this is compiled for.
    apply_body::<S, _>(&PairIntegerDequantized::<S, true>(unsafe { PairInteger::new(grids, bounds) }), a, b, y);
}
dispatch!(
    fn mul_integer_dequantized(grids: [Affine; 3], bounds: [u8; 2], a: &[u8], b: &[u8], y: &mut [f32]) -> () =
        mul_integer_dequantized_body
);
