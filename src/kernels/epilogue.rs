//! What becomes of sums: bias, activation, requantization, and how they are written.

use super::{
    Activation, PackedFloat, PackedInteger, Simd,
    rescale::Sum,
    simd::{MAX_BLOCK, MAX_LANES},
};
use crate::quant::{Affine, FakeQuantize, FusedSum, Rounding};

/// Where a kernel writes.
#[derive(Debug)]
pub enum Output<'a> {
    /// f32 elements.
    Float(&'a mut [f32]),
    /// Quantized elements.
    Quantized(&'a mut [u8]),
}

/// What happens to an f32 sum: bias is added, the result clipped, and quantized when the output is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatEpilogue {
    /// Lower bound.
    pub min: f32,
    /// Upper bound.
    pub max: f32,
    /// The grid of a quantized output.
    pub grid: Option<Affine>,
}

/// What happens to an s32 sum: `v = f32(sum + constant) · multiplier`, or `v = f32(sum + constant) · multiplier + bias`, each
/// operation rounded to f32, and then what [`Form`] says.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerEpilogue {
    /// One a channel: bias in steps of `s_x·s_w`, less the input's zero point times the sum of weights. Without the bias
    /// where that is among [`IntegerEpilogue::biases`].
    pub constants: Vec<i32>,
    /// One a channel: `f32(s_x·s_w / s_y)`, or `f32(s_x·s_w)` where nothing is rounded, or as OpenVINO does.
    pub multipliers: Vec<f32>,
    /// One a channel, in units of the tensor, where sums become what OpenVINO makes of them; else empty.
    pub biases: Vec<f32>,
    /// What becomes of `v`.
    pub form: Form,
}

/// In which form the output of a convolution in integers is written, or added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// `q = clamp(rne(v) + zero_point)`, written as is or dequantized. On a grid with OpenVINO's rounding
    /// `q = clamp(rne(fma(v, scale, offset)))` with [`FakeQuantize::of_layer`].
    Rounded {
        /// The grid of the output.
        grid: Affine,
        /// Smallest integer written; above `quant_min` where an activation clips.
        low: u8,
        /// Largest integer written.
        high: u8,
    },
    /// `min(max(v, min), max)` in f32, in units of the tensor.
    Float {
        /// Lower bound.
        min: f32,
        /// Upper bound.
        max: f32,
    },
}

/// What is added to the outputs of a convolution in f32 before they are written: `clip(y + x)`.
#[derive(Clone, Copy, Debug)]
pub struct FloatResidual<'a> {
    /// As many elements as the output has, in its layout.
    pub x: &'a [f32],
    /// Lower bound of the sum.
    pub min: f32,
    /// Upper bound of the sum.
    pub max: f32,
}

/// What is added to the outputs of a convolution in integers before they are written. Those of [`Form::Rounded`] are on
/// their own grid by then, so that the sum is that of [`Kernels::add_integer`](super::Kernels::add_integer), bit for bit.
/// With those of [`Form::Float`] it is rounded once: `clamp(rne((v + (x − x_zero_point)·x_scale) / scale) + zero_point)`,
/// the addition and the division each rounded to f32; on a grid with OpenVINO's rounding as [`FusedSum`] says.
#[derive(Clone, Copy, Debug)]
pub struct IntegerResidual<'a> {
    /// Whether `x` is the first of the two that are added: a sum in f32 is rounded in their order.
    pub first: bool,
    /// As many elements as the output has, in its layout.
    pub x: &'a [u8],
    /// Their grid.
    pub x_grid: Affine,
    /// The grid of the sum.
    pub grid: Affine,
    /// Smallest integer written.
    pub low: u8,
    /// Largest integer written.
    pub high: u8,
}

/// An output that several threads write, each its own elements.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Float(*mut f32),
    Quantized(*mut u8),
}

// SAFETY: tasks of one call write disjoint elements (see `conv` and `depthwise`), while the call holds the one
// mutable borrow of the output.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Output<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Output::Float(y) => y.len(),
            Output::Quantized(y) => y.len(),
        }
    }

    /// Bytes of an element.
    pub(super) fn element(&self) -> usize {
        match self {
            Output::Float(_) => 4,
            Output::Quantized(_) => 1,
        }
    }

    /// Where to write. Whoever uses it keeps to the length and writes each element once at a time.
    pub(super) fn target(&mut self) -> Target {
        match self {
            Output::Float(y) => Target::Float(y.as_mut_ptr()),
            Output::Quantized(y) => Target::Quantized(y.as_mut_ptr()),
        }
    }
}

/// Where one pixel of a tile is written, and as many elements of it as count.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub at: usize,
    pub lanes: usize,
}

/// An epilogue for the sums of one instruction set. Its methods ask of their caller what those of [`Simd`] do.
pub(super) trait Epilogue<S: Simd> {
    type Sum: Copy;
    /// All that it needs to know of the channels of one tile, as vectors: what was read from memory in between
    /// stores would be read again and again.
    type Channels: Copy;

    /// Of the `lanes` channels from `channel` on.
    unsafe fn channels(&self, channel: usize, lanes: usize) -> Self::Channels;

    /// What sums begin with.
    unsafe fn start(channels: &Self::Channels) -> [Self::Sum; 2];

    /// Whether something is added to the outputs.
    fn adds(channels: &Self::Channels) -> bool;

    /// Asks for what is added to the element at `at`.
    unsafe fn prefetch(channels: &Self::Channels, at: usize);

    /// Asks for all that [`Epilogue::write`] will touch.
    #[inline(always)]
    unsafe fn prepare<const P: usize>(channels: &Self::Channels, target: Target, at: &[usize; P]) {
        // SAFETY: the caller's promise.
        unsafe {
            if Self::adds(channels) {
                for p in 0..P {
                    Self::prefetch(channels, at[p]);
                }
            }
            // Floats often come from afar; bytes of a layer are mostly near enough.
            if let Target::Float(y) = target {
                for p in 0..P {
                    S::prefetch(y.wrapping_add(at[p]).cast());
                    S::prefetch(y.wrapping_add(at[p] + S::WIDTH).cast());
                }
            }
        }
    }

    /// Two vectors of results as f32 for an f32 output. With `ADDS`, what is added to this place is.
    unsafe fn floats<const ADDS: bool>(channels: &Self::Channels, sums: [Self::Sum; 2], place: Place) -> [S::F; 2];

    /// Two vectors of results for each of two pixels, for a quantized output.
    unsafe fn bytes<const ADDS: bool>(
        channels: &Self::Channels,
        sums: [[Self::Sum; 2]; 2],
        places: [Place; 2],
    ) -> S::Bytes;

    /// Writes results of `P` pixels, the first `lanes` channels of each from element `at` on.
    #[inline(always)]
    unsafe fn write<const P: usize>(
        channels: &Self::Channels,
        sums: &[[Self::Sum; 2]; P],
        target: Target,
        at: [usize; P],
        lanes: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            match (Self::adds(channels), lanes == 2 * S::WIDTH) {
                (false, true) => Self::write_pixels::<P, false, true>(channels, sums, target, at, lanes),
                (false, false) => Self::write_pixels::<P, false, false>(channels, sums, target, at, lanes),
                (true, true) => Self::write_pixels::<P, true, true>(channels, sums, target, at, lanes),
                (true, false) => Self::write_pixels::<P, true, false>(channels, sums, target, at, lanes),
            }
        }
    }

    /// As [`Epilogue::write`]; `FULL` says that all lanes are written.
    #[inline(always)]
    unsafe fn write_pixels<const P: usize, const ADDS: bool, const FULL: bool>(
        channels: &Self::Channels,
        sums: &[[Self::Sum; 2]; P],
        target: Target,
        at: [usize; P],
        lanes: usize,
    ) {
        // SAFETY: the caller's promise: the target holds `lanes` elements at each pixel, and nothing else uses them
        // now.
        unsafe {
            match target {
                Target::Float(y) => {
                    for p in 0..P {
                        let place = Place { at: at[p], lanes };
                        let [a, b] = Self::floats::<ADDS>(channels, sums[p], place);
                        if FULL {
                            S::store(y.add(place.at), a);
                            S::store(y.add(place.at + S::WIDTH), b);
                        } else {
                            S::store_some(y.add(place.at), [a, b], lanes);
                        }
                    }
                }
                Target::Quantized(y) => {
                    for pair in 0..P.div_ceil(2) {
                        // The last of an odd number is written twice.
                        let (p, q) = (2 * pair, (2 * pair + 1).min(P - 1));
                        let places = [Place { at: at[p], lanes }, Place { at: at[q], lanes }];
                        let bytes = Self::bytes::<ADDS>(channels, [sums[p], sums[q]], places);
                        let to = [y.add(places[0].at), y.add(places[1].at)];
                        if FULL {
                            S::store_halves(to, bytes);
                        } else {
                            S::store_some_of_halves(to, bytes, lanes);
                        }
                    }
                }
            }
        }
    }
}

/// Elements of a tile's channels, followed by zeros where there are fewer than lanes.
#[inline(always)]
pub(super) fn of_tile<T: Copy + Default, const N: usize>(values: &[T], channel: usize, lanes: usize) -> [T; N] {
    let mut tile = [T::default(); N];
    tile[..lanes].copy_from_slice(&values[channel..channel + lanes]);
    tile
}

/// The bias and epilogue of a layer in f32.
pub(super) struct FloatLayer<'a> {
    pub packed: &'a PackedFloat,
    pub epilogue: FloatEpilogue,
    pub residual: Option<&'a FloatResidual<'a>>,
}

/// What [`FloatLayer`] knows of a tile.
#[derive(Clone, Copy)]
pub(super) struct FloatChannels<S: Simd> {
    bias: [S::F; 2],
    min: S::F,
    max: S::F,
    grid: Grid<S>,
    /// Null where nothing is added.
    residual: *const f32,
    sum_min: S::F,
    sum_max: S::F,
}

impl<S: Simd> Epilogue<S> for FloatLayer<'_> {
    type Sum = S::F;
    type Channels = FloatChannels<S>;

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> FloatChannels<S> {
        let bias: [f32; MAX_LANES] = of_tile(&self.packed.bias, channel, lanes);
        let FloatEpilogue { min, max, grid } = self.epilogue;
        // Checked where the call begins: a quantized output has a grid. Another output does not look at it.
        let grid = grid.unwrap_or(NO_GRID);
        let residual = self.residual.map_or(std::ptr::null(), |r| r.x.as_ptr());
        let (sum_min, sum_max) = self.residual.map_or((min, max), |r| (r.min, r.max));
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe {
            FloatChannels {
                bias: [S::load(bias.as_ptr()), S::load(bias.as_ptr().add(S::WIDTH))],
                min: S::splat(min),
                max: S::splat(max),
                grid: Grid::new(&grid, grid.quant_min, grid.quant_max),
                residual,
                sum_min: S::splat(sum_min),
                sum_max: S::splat(sum_max),
            }
        }
    }

    #[inline(always)]
    unsafe fn start(_: &FloatChannels<S>) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::splat(0.0); 2] }
    }

    #[inline(always)]
    fn adds(channels: &FloatChannels<S>) -> bool {
        !channels.residual.is_null()
    }

    #[inline(always)]
    unsafe fn prefetch(channels: &FloatChannels<S>, at: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            S::prefetch(channels.residual.wrapping_add(at).cast());
            S::prefetch(channels.residual.wrapping_add(at + S::WIDTH).cast());
        }
    }

    #[inline(always)]
    unsafe fn floats<const ADDS: bool>(channels: &FloatChannels<S>, sums: [S::F; 2], place: Place) -> [S::F; 2] {
        let &FloatChannels { bias, min, max, residual, sum_min, sum_max, .. } = channels;
        // SAFETY: the caller's promise.
        unsafe {
            let a = S::min(S::max(S::add(sums[0], bias[0]), min), max);
            let b = S::min(S::max(S::add(sums[1], bias[1]), min), max);
            if !ADDS {
                return [a, b];
            }
            let x = residual.add(place.at);
            let x = match place.lanes == 2 * S::WIDTH {
                true => [S::load(x), S::load(x.add(S::WIDTH))],
                false => S::load_some(x, place.lanes),
            };
            let (a, b) = (S::add(a, x[0]), S::add(b, x[1]));
            [S::min(S::max(a, sum_min), sum_max), S::min(S::max(b, sum_min), sum_max)]
        }
    }

    #[inline(always)]
    unsafe fn bytes<const ADDS: bool>(
        channels: &FloatChannels<S>,
        sums: [[S::F; 2]; 2],
        places: [Place; 2],
    ) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = <Self as Epilogue<S>>::floats::<ADDS>(channels, sums[0], places[0]);
            let [c, d] = <Self as Epilogue<S>>::floats::<ADDS>(channels, sums[1], places[1]);
            S::in_order(channels.grid.quantize([a, b, c, d]))
        }
    }
}

impl FloatEpilogue {
    /// `min(max(x, min), max)`; a NaN becomes `min`.
    #[inline(always)]
    pub fn clip(&self, x: f32) -> f32 {
        let x = if x > self.min { x } else { self.min };
        if x < self.max { x } else { self.max }
    }
}

/// For what has no grid, and looks at none.
const NO_GRID: Affine =
    Affine { scale: 1.0, zero_point: 0, quant_min: 0, quant_max: 255, rounding: Rounding::OnnxRuntime };

/// A grid as vectors, with the bounds of what is written.
#[derive(Clone, Copy)]
pub(super) struct Grid<S: Simd> {
    scale: S::F,
    /// `1 / scale`, or NaN where that is not a normal number.
    reciprocal: S::F,
    /// Bounds, in steps.
    low: S::F,
    high: S::F,
    minus_zero_point: S::I,
    /// What is added to a rounded number of steps, so that it counts from the zero point.
    from_zero_point: S::I,
    /// Whether the zero point is a part of what is rounded, as OpenVINO has it: `low`, `high` and `bounds` count from 0 then.
    openvino: bool,
    /// OpenVINO's, where it is; else not looked at.
    factor: S::F,
    offset: S::F,
    /// What [`Grid::integer`] adds, and takes off again.
    shift: S::F,
    shift_back: S::F,
    bounds: S::Bounds,
}

/// 1.5·2²³: with a number below 2²² added to it an f32 has no place for fractions, and rounds to even.
const NO_FRACTIONS: f32 = 12_582_912.0;

/// Its methods ask of their caller what those of [`Simd`] do.
impl<S: Simd> Grid<S> {
    #[inline(always)]
    pub(super) unsafe fn new(grid: &Affine, low: u8, high: u8) -> Grid<S> {
        let zero_point = i32::from(grid.zero_point);
        let reciprocal = Some(grid.scale.recip()).filter(|r| r.is_normal()).unwrap_or(f32::NAN);
        let openvino = grid.rounding.is_openvino();
        let FakeQuantize { scale: factor, offset } = FakeQuantize::of_tensor(grid, 1.0);
        // What is added to rounded steps, and what they have in them.
        let (added, within) = if openvino { (0, zero_point) } else { (zero_point, 0) };
        // SAFETY: the caller's promise.
        unsafe {
            Grid {
                scale: S::splat(grid.scale),
                reciprocal: S::splat(reciprocal),
                low: S::splat((i32::from(low) - added) as f32),
                high: S::splat((i32::from(high) - added) as f32),
                minus_zero_point: S::splat_i(-zero_point),
                from_zero_point: S::splat_i(-within),
                openvino,
                factor: S::splat(factor),
                offset: S::splat(offset),
                shift: S::splat(NO_FRACTIONS),
                // An integer, and so small that it is exact.
                shift_back: S::splat(zero_point as f32 - NO_FRACTIONS),
                bounds: S::bounds(added as u8, low, high),
            }
        }
    }

    /// [`Affine::quantize`] of four vectors, in the order of [`Simd::narrow`].
    ///
    /// Divides only where it matters: `x · (1 / scale)` is within 2⁻¹³ of the quotient wherever that is on a grid, and
    /// mostly so far from the middle between two integers that both round to the same.
    #[inline(always)]
    pub(super) unsafe fn quantize(&self, [a, b, c, d]: [S::F; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe {
            if self.openvino {
                let (f, o) = (self.factor, self.offset);
                return self.narrow([
                    S::add(S::mul(a, f), o),
                    S::add(S::mul(b, f), o),
                    S::add(S::mul(c, f), o),
                    S::add(S::mul(d, f), o),
                ]);
            }
            let r = self.reciprocal;
            let mut steps = [S::mul(a, r), S::mul(b, r), S::mul(c, r), S::mul(d, r)];
            if !S::round_alike(steps) {
                let s = self.scale;
                steps = [S::div(a, s), S::div(b, s), S::div(c, s), S::div(d, s)];
            }
            self.narrow(steps)
        }
    }

    /// [`Affine::dequantize`] of a vector of integers in 0..=255.
    #[inline(always)]
    pub(super) unsafe fn dequantize(&self, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::mul(S::to_float(S::add_i(q, self.minus_zero_point)), self.scale) }
    }

    /// `clamp(rne(x) + zero_point)` for `x` in steps of the grid, in the order of [`Simd::narrow`]; with OpenVINO's rounding the
    /// zero point is a part of `x`, here and in [`Grid::round`].
    #[inline(always)]
    pub(super) unsafe fn narrow(&self, x: [S::F; 4]) -> S::Bytes {
        // SAFETY: the caller's promise.
        unsafe { S::narrow(x, &self.bounds) }
    }

    /// `clamp(rne(x) + zero_point)` as a number, for `x` in steps of the grid, and ONNX Runtime's rounding.
    #[inline(always)]
    unsafe fn integer(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::add(S::add(S::min(S::max(x, self.low), self.high), self.shift), self.shift_back) }
    }

    /// `rne(clamp(x))·scale` for `x` in steps of the grid: narrowed and dequantized.
    #[inline(always)]
    pub(super) unsafe fn round(&self, x: S::F) -> S::F {
        // SAFETY: the caller's promise. The bounds are integers, so clamping before rounding is the same.
        unsafe {
            let steps = S::add_i(S::round(S::min(S::max(x, self.low), self.high)), self.from_zero_point);
            S::mul(S::to_float(steps), self.scale)
        }
    }
}

/// What becomes of the products of `N` vectors of channels as in OpenVINO. Its methods ask of their caller what those of
/// [`Simd`] do.
#[derive(Clone, Copy)]
pub(super) struct OpenVino<S: Simd, const N: usize> {
    biases: [S::F; N],
    /// [`FakeQuantize`] of what is rounded. Where it is not yet, nothing: 1 and 0.
    scale: S::F,
    offset: S::F,
    /// [`FusedSum`] of what is added.
    minus_shift: S::F,
    reciprocal: S::F,
    sum_scale: S::F,
    sum_offset: S::F,
    rounds_product: bool,
}

impl<S: Simd, const N: usize> OpenVino<S, N> {
    /// Of a layer with these biases.
    #[inline(always)]
    pub(super) unsafe fn new(biases: [S::F; N], form: Form, residual: Option<&IntegerResidual<'_>>) -> OpenVino<S, N> {
        let FakeQuantize { scale, offset } = match form {
            Form::Rounded { grid, .. } => FakeQuantize::of_layer(&grid, 1.0),
            Form::Float { .. } => FakeQuantize { scale: 1.0, offset: 0.0 },
        };
        // Of what is not added nothing is asked.
        let (x_grid, grid) = residual.map_or((NO_GRID, NO_GRID), |r| (r.x_grid, r.grid));
        let FusedSum { shift, reciprocal, quantize, rounds_product } = FusedSum::new(&x_grid, &grid);
        // SAFETY: the caller's promise.
        unsafe {
            OpenVino {
                biases,
                scale: S::splat(scale),
                offset: S::splat(offset),
                minus_shift: S::splat(-shift),
                reciprocal: S::splat(reciprocal),
                sum_scale: S::splat(quantize.scale),
                sum_offset: S::splat(quantize.offset),
                rounds_product,
            }
        }
    }

    /// Products of the `N`th vector with their bias; in steps of the grid where there is one.
    #[inline(always)]
    pub(super) unsafe fn steps(&self, products: S::F, vector: usize) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::fma(S::add(products, self.biases[vector]), self.scale, self.offset) }
    }

    /// [`FusedSum::steps`].
    #[inline(always)]
    unsafe fn sum(&self, v: S::F, q: S::I) -> S::F {
        // SAFETY: the caller's promise.
        unsafe {
            let shifted = S::mul(S::add(v, self.minus_shift), self.reciprocal);
            let sum = S::add(shifted, S::to_float(q));
            match self.rounds_product {
                true => S::add(S::mul(sum, self.sum_scale), self.sum_offset),
                false => S::fma(sum, self.sum_scale, self.sum_offset),
            }
        }
    }
}

/// The epilogue of a layer in integers.
pub(super) struct IntegerLayer<'a> {
    pub packed: &'a PackedInteger,
    pub epilogue: &'a IntegerEpilogue,
    pub residual: Option<&'a IntegerResidual<'a>>,
}

/// What [`IntegerLayer`] knows of a tile.
#[derive(Clone, Copy)]
pub(super) struct IntegerChannels<S: Simd> {
    constants: [S::I; 2],
    multipliers: [S::F; 2],
    /// What OpenVINO does with products, where it does.
    openvino: Option<OpenVino<S, 2>>,
    /// Of what is rounded before an addition; where nothing is, of what is added.
    grid: Grid<S>,
    /// Whether outputs are rounded before anything is added.
    rounded: bool,
    /// Bounds of those that are not.
    clip: [S::F; 2],
    /// Null where nothing is added.
    residual: *const u8,
    residual_first: bool,
    sum: Sum<S>,
    sum_grid: Grid<S>,
}

impl IntegerLayer<'_> {
    /// Constants of a tile's channels, for activations as `S` reads them.
    #[inline(always)]
    pub(super) fn constants<S: Simd>(&self, channel: usize, lanes: usize) -> [i32; MAX_LANES] {
        let mut constants: [i32; MAX_LANES] = of_tile(&self.epilogue.constants, channel, lanes);
        if S::Activation::SHIFT != 0 {
            let sums: [i32; MAX_LANES] = of_tile(&self.packed.sums, channel, lanes);
            constants.iter_mut().zip(sums).for_each(|(c, sum)| *c = c.wrapping_add(S::Activation::SHIFT * sum));
        }
        constants
    }
}

impl IntegerLayer<'_> {
    /// What sums of a tile begin with where these taps are left out, which see `padding`, and activations are read as
    /// they are stored.
    ///
    /// # Safety
    /// As for [`Simd`].
    #[inline(always)]
    pub(super) unsafe fn start_without<S: Simd>(
        &self,
        channels: &IntegerChannels<S>,
        outside: &[usize],
        padding: u8,
        channel: usize,
        lanes: usize,
    ) -> [S::I; 2] {
        if outside.is_empty() || padding == 0 {
            return channels.constants;
        }
        let mut left_out = [0i32; MAX_LANES];
        for &tap in outside {
            let sums = &self.packed.tap_sums[tap * self.packed.geometry.out_channels + channel..][..lanes];
            for (sum, of_tap) in left_out.iter_mut().zip(sums) {
                *sum += i32::from(padding) * of_tap;
            }
        }
        // SAFETY: the caller's promise; a tile's lanes are at most MAX_LANES.
        unsafe {
            let [first, second] = channels.constants;
            [
                S::add_i(first, S::load_i(left_out.as_ptr())),
                S::add_i(second, S::load_i(left_out.as_ptr().add(S::WIDTH))),
            ]
        }
    }
}

impl<S: Simd> Epilogue<S> for IntegerLayer<'_> {
    type Sum = S::I;
    type Channels = IntegerChannels<S>;

    #[inline(always)]
    unsafe fn channels(&self, channel: usize, lanes: usize) -> IntegerChannels<S> {
        let constants = self.constants::<S>(channel, lanes);
        let multipliers: [f32; MAX_LANES] = of_tile(&self.epilogue.multipliers, channel, lanes);
        let biases = (!self.epilogue.biases.is_empty())
            .then(|| -> [f32; MAX_LANES] { of_tile(&self.epilogue.biases, channel, lanes) });
        // What is not rounded has no grid, but what is added to it has.
        let unused = NO_GRID;
        let (rounded, grid, [low, high], [min, max]) = match self.epilogue.form {
            Form::Rounded { grid, low, high } => (true, grid, [low, high], [0.0; 2]),
            Form::Float { min, max } => (false, self.residual.map_or(unused, |r| r.x_grid), [0, 255], [min, max]),
        };
        // SAFETY: a tile's lanes are at most MAX_LANES.
        unsafe {
            // What is not added has no grid; none is looked at.
            let (residual, residual_first, grids, bounds) = match self.residual {
                Some(r) if r.first => (r.x.as_ptr(), true, [r.x_grid, grid, r.grid], bounds(&r.grid, r.low, r.high)),
                Some(r) => (r.x.as_ptr(), false, [grid, r.x_grid, r.grid], bounds(&r.grid, r.low, r.high)),
                None => (std::ptr::null(), false, [grid; 3], [low, high]),
            };
            IntegerChannels {
                constants: [S::load_i(constants.as_ptr()), S::load_i(constants.as_ptr().add(S::WIDTH))],
                multipliers: [S::load(multipliers.as_ptr()), S::load(multipliers.as_ptr().add(S::WIDTH))],
                openvino: biases.map(|b| {
                    let biases = [S::load(b.as_ptr()), S::load(b.as_ptr().add(S::WIDTH))];
                    OpenVino::new(biases, self.epilogue.form, self.residual)
                }),
                grid: Grid::new(&grid, low, high),
                rounded,
                clip: [S::splat(min), S::splat(max)],
                residual,
                residual_first,
                sum: Sum::new(&grids, bounds),
                sum_grid: Grid::new(&grids[2], bounds[0], bounds[1]),
            }
        }
    }

    #[inline(always)]
    unsafe fn start(channels: &IntegerChannels<S>) -> [S::I; 2] {
        channels.constants
    }

    #[inline(always)]
    fn adds(channels: &IntegerChannels<S>) -> bool {
        !channels.residual.is_null()
    }

    #[inline(always)]
    unsafe fn prefetch(channels: &IntegerChannels<S>, at: usize) {
        // SAFETY: the caller's promise.
        unsafe { S::prefetch(channels.residual.wrapping_add(at)) };
    }

    #[inline(always)]
    unsafe fn floats<const ADDS: bool>(channels: &IntegerChannels<S>, sums: [S::I; 2], place: Place) -> [S::F; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b] = steps(channels, sums);
            let grid = &channels.sum_grid;
            let bounds = channels.clip;
            let rounded = match (channels.rounded, ADDS) {
                (true, false) => return [channels.grid.round(a), channels.grid.round(b)],
                (false, false) => return clip::<S>([a, b], bounds),
                (true, true) => {
                    let [a, b] = plus_residual(channels, [a, b], place);
                    channels.sum.round([a, b, a, b])
                }
                (false, true) => {
                    if let Some(openvino) = &channels.openvino {
                        let [a, b] = plus_fused(channels, openvino, clip::<S>([a, b], bounds), place);
                        return [grid.round(a), grid.round(b)];
                    }
                    let [a, b] = plus_dequantized(channels, clip::<S>([a, b], bounds), place);
                    grid.quantize([a, b, a, b])
                }
            };
            // As bytes and back: this is rare.
            let mut bytes = [0; MAX_BLOCK];
            S::store_bytes(bytes.as_mut_ptr(), S::in_order(rounded));
            let q = bytes.as_ptr();
            [grid.dequantize(S::load_bytes(q)), grid.dequantize(S::load_bytes(q.add(S::WIDTH)))]
        }
    }

    #[inline(always)]
    unsafe fn bytes<const ADDS: bool>(
        channels: &IntegerChannels<S>,
        sums: [[S::I; 2]; 2],
        places: [Place; 2],
    ) -> S::Bytes {
        let grid = &channels.grid;
        // SAFETY: the caller's promise.
        unsafe {
            let ([a, b], [c, d]) = (steps(channels, sums[0]), steps(channels, sums[1]));
            if !ADDS {
                // Checked where the call begins: what is not rounded is not written as bytes.
                return S::in_order(grid.narrow([a, b, c, d]));
            }
            if !channels.rounded {
                let bounds = channels.clip;
                if let Some(openvino) = &channels.openvino {
                    let [a, b] = plus_fused(channels, openvino, clip::<S>([a, b], bounds), places[0]);
                    let [c, d] = plus_fused(channels, openvino, clip::<S>([c, d], bounds), places[1]);
                    return S::in_order(channels.sum_grid.narrow([a, b, c, d]));
                }
                let [a, b] = plus_dequantized(channels, clip::<S>([a, b], bounds), places[0]);
                let [c, d] = plus_dequantized(channels, clip::<S>([c, d], bounds), places[1]);
                return S::in_order(channels.sum_grid.quantize([a, b, c, d]));
            }
            let [a, b] = plus_residual(channels, [a, b], places[0]);
            let [c, d] = plus_residual(channels, [c, d], places[1]);
            S::in_order(channels.sum.round([a, b, c, d]))
        }
    }
}

/// Sums in steps of the output's grid; where they are not rounded, in units of the tensor.
#[inline(always)]
unsafe fn steps<S: Simd>(channels: &IntegerChannels<S>, sums: [S::I; 2]) -> [S::F; 2] {
    let multipliers = &channels.multipliers;
    // SAFETY: the caller's promise.
    unsafe {
        let products = [S::mul(S::to_float(sums[0]), multipliers[0]), S::mul(S::to_float(sums[1]), multipliers[1])];
        match &channels.openvino {
            None => products,
            Some(openvino) => [openvino.steps(products[0], 0), openvino.steps(products[1], 1)],
        }
    }
}

/// With what is added to this place, in steps of the sum's grid.
#[inline(always)]
unsafe fn plus_residual<S: Simd>(channels: &IntegerChannels<S>, [a, b]: [S::F; 2], place: Place) -> [S::F; 2] {
    let IntegerChannels { grid, sum, .. } = channels;
    // SAFETY: the caller's promise.
    unsafe {
        let x = residual(channels, place);
        let (a, b) = (grid.integer(a), grid.integer(b));
        let [x, y] = [S::to_float(x[0]), S::to_float(x[1])];
        match channels.residual_first {
            true => [sum.steps(x, a), sum.steps(y, b)],
            false => [sum.steps(a, x), sum.steps(b, y)],
        }
    }
}

/// With what is added to this place dequantized, both in units of the tensor.
#[inline(always)]
unsafe fn plus_dequantized<S: Simd>(channels: &IntegerChannels<S>, [a, b]: [S::F; 2], place: Place) -> [S::F; 2] {
    // SAFETY: the caller's promise. The grid is that of what is added.
    unsafe {
        let [x, y] = residual(channels, place);
        [S::add(a, channels.grid.dequantize(x)), S::add(b, channels.grid.dequantize(y))]
    }
}

/// With what is added to this place, in steps of the sum's grid, as in OpenVINO.
#[inline(always)]
unsafe fn plus_fused<S: Simd>(
    channels: &IntegerChannels<S>,
    openvino: &OpenVino<S, 2>,
    [a, b]: [S::F; 2],
    place: Place,
) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let [x, y] = residual(channels, place);
        [openvino.sum(a, x), openvino.sum(b, y)]
    }
}

/// What is added to this place.
#[inline(always)]
unsafe fn residual<S: Simd>(channels: &IntegerChannels<S>, place: Place) -> [S::I; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let x = channels.residual.add(place.at);
        match place.lanes == 2 * S::WIDTH {
            true => [S::load_bytes(x), S::load_bytes(x.add(S::WIDTH))],
            false => S::load_some_bytes(x, place.lanes),
        }
    }
}

/// `min(max(x, min), max)` of two vectors.
#[inline(always)]
unsafe fn clip<S: Simd>([a, b]: [S::F; 2], [min, max]: [S::F; 2]) -> [S::F; 2] {
    // SAFETY: the caller's promise.
    unsafe { [S::min(S::max(a, min), max), S::min(S::max(b, min), max)] }
}

/// What quantizing and then clipping to `low..=high` leaves, which is one range.
pub(super) fn bounds(grid: &Affine, low: u8, high: u8) -> [u8; 2] {
    [grid.quant_min.max(low).min(high), grid.quant_max.max(low).min(high)]
}

/// A grid with its own bounds.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn whole<S: Simd>(grid: &Affine) -> Grid<S> {
    // SAFETY: the caller's promise.
    unsafe { Grid::new(grid, grid.quant_min, grid.quant_max) }
}
