//! What becomes of sums: bias, activation, requantization, and how they are written.

use super::{
    Activation, PackedFloat, PackedInteger, Simd,
    grid::{Grid, NO_GRID, bounds},
    openvino::OpenVino,
    rescale::Sum,
    simd::{MAX_BLOCK, MAX_LANES},
};
use crate::quant::{Affine, FakeQuantize};
#[cfg(doc)]
use crate::quant::{FusedSum, LayerSteps};

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
    /// One a channel: `f32(s_x·s_w / s_y)`, or `f32(s_x·s_w)` where nothing is rounded, or as [`LayerSteps`] has it.
    pub multipliers: Vec<f32>,
    /// One a channel where sums become what OpenVINO makes of them ([`LayerSteps`]); else empty.
    pub biases: Vec<f32>,
    /// What takes `v` to steps of the grid on one with OpenVINO's rounding; else not looked at.
    pub steps: FakeQuantize,
    /// What becomes of `v`.
    pub form: Form,
}

/// In which form the output of a convolution in integers is written, or added to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// `q = clamp(rne(v) + zero_point)`, written as is or dequantized. On a grid with OpenVINO's rounding
    /// `q = clamp(rne(fma(v, scale, offset)))` with [`IntegerEpilogue::steps`].
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
/// the addition and the division each rounded to f32; with OpenVINO's rounding as [`FusedSum`] says.
#[derive(Clone, Copy, Debug)]
pub struct IntegerResidual<'a> {
    /// With OpenVINO's rounding the grid to whose range `v` is clipped, else `None`.
    pub layer: Option<Affine>,
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
                    OpenVino::new(biases, self.epilogue.steps, self.residual)
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

/// With what is added to this place, in steps of the sum's grid, as in OpenVINO: [`FusedSum`].
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
