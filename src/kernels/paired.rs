//! Dense integer convolution for AVX2 by `vpmaddubsw`, exact.
//!
//! `vpmaddubsw` adds two products u8 × s8 in 16 bits and saturates: 255·(w₀ + w₁) overflows where the weights of one
//! sign sum to more than 128. What is known when weights are packed is enough to keep clear of that. Where two weights
//! sum to more, the rest becomes a product of its own. Where two products together stay within 128, they are added in
//! 16 bits and widened once, which spares a quarter of the multiplications; integers may be summed in any order, so
//! that products are matched to make such pairs. Layers where that does not gain are left to 16-bit products.

use std::{arch::x86_64::*, collections::VecDeque, hint::black_box, ops::Range};

use super::{
    Pictures,
    avx2::Avx2,
    conv::{Ahead, Dense, Part, Shape, bytes, part_body, settle},
    epilogue::{IntegerChannels, IntegerLayer, Target},
    packing::{Geometry, Lines},
    windows::Run,
};

/// Output channels of a block, and input channels of a product.
const LANES: usize = 16;
const STEP: usize = 4;
/// Weights of a product.
const PRODUCT: usize = LANES * STEP;
/// The most that weights of one sign under one 16-bit lane may sum to: 255 · 128 < 2¹⁵.
const LIMIT: i16 = 128;
/// Multiplications of a product alone, and of two that are widened together, per vector.
const SINGLE: usize = 2;
const PAIR: usize = 3;
/// Partners that are tried for a product.
const TRIED: usize = 16;

/// s8 weights in the order that they are multiplied.
#[derive(Clone, Debug)]
pub(super) struct Paired {
    weights: Lines<i8>,
    /// Where each product reads: its run, and its step in the run.
    places: Vec<(u32, u32)>,
    blocks: Vec<Block>,
}

/// The products of one block of output channels: pairs, and then singles.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: usize,
    pairs: usize,
    singles: usize,
}

/// One product while it is packed.
struct Product {
    place: (u32, u32),
    weights: [i8; PRODUCT],
    /// For each 16-bit lane, the sum of positive weights and that of negative ones, without its sign.
    loads: [i16; PRODUCT],
}

impl Product {
    fn new(place: (u32, u32), weights: [i8; PRODUCT]) -> Product {
        let mut loads = [0; PRODUCT];
        for (lane, pair) in weights.chunks_exact(2).enumerate() {
            for &w in pair {
                loads[2 * lane] += i16::from(w).max(0);
                loads[2 * lane + 1] += (-i16::from(w)).max(0);
            }
        }
        Product { place, weights, loads }
    }

    fn largest(&self) -> i16 {
        self.loads.iter().copied().max().unwrap_or(0)
    }

    fn fits(&self, other: &Product) -> bool {
        // Without an early end, so that it is a few vector instructions.
        self.loads.iter().zip(&other.loads).fold(true, |fits, (a, b)| fits & (a + b <= LIMIT))
    }

    /// Two products with this sum, each within the limit.
    fn split(self) -> [Product; 2] {
        let (mut main, mut rest) = (self.weights, [0; PRODUCT]);
        for (main, rest) in main.chunks_exact_mut(2).zip(rest.chunks_exact_mut(2)) {
            let sum = i16::from(main[0]) + i16::from(main[1]);
            let excess = sum - sum.clamp(-LIMIT, LIMIT);
            // Both weights are of one sign, and the excess is smaller than either.
            rest[1] = excess as i8;
            main[1] = (i16::from(main[1]) - excess) as i8;
        }
        [Product::new(self.place, main), Product::new(self.place, rest)]
    }
}

impl Paired {
    /// Packs `weight[out][in / groups][height][width]`; `None` where 16-bit products are faster.
    pub(super) fn new(geometry: &Geometry, weight: &[i8]) -> Option<Paired> {
        let [runs, run] = geometry.runs();
        let steps = run.div_ceil(STEP);
        let plain = geometry.dense(weight, [LANES, STEP], |w| w);
        let mut packed: Vec<i8> = Vec::with_capacity(weight.len() * 2);
        let (mut places, mut blocks) = (Vec::new(), Vec::new());
        let mut cost = 0;
        for block in plain.as_slice().chunks_exact(runs * steps * PRODUCT) {
            let (mut light, mut singles) = (Vec::new(), Vec::new());
            for (index, weights) in block.as_chunks().0.iter().enumerate() {
                let place = ((index / steps) as u32, (index % steps) as u32);
                let product = Product::new(place, *weights);
                if product.largest() > LIMIT { light.extend(product.split()) } else { light.push(product) }
            }
            let first = places.len();
            let mut add = |product: &Product| {
                places.push(product.place);
                packed.extend(product.weights);
            };
            // The heaviest first, each with one of the lightest.
            light.sort_by_key(Product::largest);
            let mut light = VecDeque::from(light);
            let mut pairs = 0;
            while let Some(heavy) = light.pop_back() {
                match light.iter().take(TRIED).position(|other| heavy.fits(other)).and_then(|at| light.remove(at)) {
                    Some(other) => {
                        add(&heavy);
                        add(&other);
                        pairs += 1;
                    }
                    None => singles.push(heavy),
                }
            }
            singles.iter().for_each(add);
            cost += PAIR * pairs + SINGLE * singles.len();
            blocks.push(Block { first, pairs, singles: singles.len() });
        }
        // 16-bit products take as many multiplications as singles, and a fifth more time: they are twice as many
        // additions.
        let gains = 5 * cost < 6 * SINGLE * (plain.as_slice().len() / PRODUCT);
        gains.then(|| Paired { weights: Lines::of(&packed), places, blocks })
    }
}

/// A convolution by such weights.
pub(super) struct PairedConv<'a> {
    pub layer: IntegerLayer<'a>,
    pub weights: &'a Paired,
    pub shape: Shape<'a>,
    pub x: Pictures<'a, u8>,
}

/// What tiles of a block read.
pub(super) struct Products<'a> {
    /// Of each product, from a pixel's first element.
    offsets: Vec<usize>,
    weights: &'a [i8],
    pairs: usize,
}

impl<'a> Dense<Avx2> for PairedConv<'a> {
    type Layer = IntegerLayer<'a>;
    type X = u8;
    type Block<'b>
        = Products<'b>
    where
        Self: 'b;
    const STEP: usize = STEP;
    // A pair keeps four vectors of weights in registers.
    const PIXELS: usize = 5;
    // Products of both vectors share their weights' order.
    const NARROWS: bool = false;

    #[inline(always)]
    fn layer(&self) -> &IntegerLayer<'a> {
        &self.layer
    }

    #[inline(always)]
    fn shape(&self) -> &Shape<'_> {
        &self.shape
    }

    #[inline(always)]
    fn stored(&self) -> Option<&[u8]> {
        // Products are in an order of their own, in which those of a tap cannot be left out.
        (self.layer.packed.geometry.window.pads == [0; 4]).then_some(self.x.x)
    }

    #[inline(always)]
    fn copy(&self, part: &Part, slack: usize) -> Vec<u8> {
        self.shape.copy(self.x.x, part, self.x.padding, slack, |v| v)
    }

    #[inline(always)]
    fn block<'b>(&'b self, runs: &[Run], block: usize) -> Products<'b> {
        let Block { first, pairs, singles } = self.weights.blocks[block];
        let products = first..first + 2 * pairs + singles;
        let offset = |&(run, step): &(u32, u32)| runs[run as usize].at as usize + step as usize * STEP;
        let weights = &self.weights.weights.as_slice()[products.start * PRODUCT..products.end * PRODUCT];
        Products { offsets: self.weights.places[products].iter().map(offset).collect(), weights, pairs }
    }

    #[inline(always)]
    fn weights(block: &Products<'_>) -> Range<*const u8> {
        bytes(block.weights)
    }

    #[inline(always)]
    unsafe fn start(
        &self,
        channels: &IntegerChannels<Avx2>,
        outside: &[usize],
        channel: usize,
        lanes: usize,
    ) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { self.layer.start_without(channels, outside, self.x.padding, channel, lanes) }
    }

    #[inline(always)]
    unsafe fn tile<const P: usize, const V: usize>(
        block: &Products<'_>,
        _: &[Run],
        // Weights of one byte come in time by themselves, and the loop has no room for more.
        _: Ahead,
        start: [__m256i; 2],
        pixels: [*const u8; P],
    ) -> [[__m256i; 2]; P] {
        // SAFETY: the caller's promise: each run of each pixel has STEP elements at every step; there are PRODUCT
        // weights for every offset, and the first `2 * pairs` are of pairs.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let vector = |w: *const i8, index: usize| _mm256_loadu_si256(w.cast::<__m256i>().add(index));
            let mut sums = [start; P];
            let (mut w, mut offset) = (block.weights.as_ptr(), block.offsets.as_ptr());
            for _ in 0..block.pairs {
                let (first, second) = (*offset, *offset.add(1));
                let weights = [vector(w, 0), vector(w, 1), vector(w, 2), vector(w, 3)];
                for p in 0..P {
                    let a = _mm256_set1_epi32(pixels[p].add(first).cast::<i32>().read_unaligned());
                    let b = _mm256_set1_epi32(pixels[p].add(second).cast::<i32>().read_unaligned());
                    let low =
                        _mm256_add_epi16(_mm256_maddubs_epi16(a, weights[0]), _mm256_maddubs_epi16(b, weights[2]));
                    let high =
                        _mm256_add_epi16(_mm256_maddubs_epi16(a, weights[1]), _mm256_maddubs_epi16(b, weights[3]));
                    sums[p] = [
                        _mm256_add_epi32(sums[p][0], _mm256_madd_epi16(low, ones)),
                        _mm256_add_epi32(sums[p][1], _mm256_madd_epi16(high, ones)),
                    ];
                }
                (w, offset) = (w.add(2 * PRODUCT), offset.add(2));
            }
            for _ in 2 * block.pairs..block.offsets.len() {
                let weights = [vector(w, 0), vector(w, 1)];
                for p in 0..P {
                    let x = _mm256_set1_epi32(pixels[p].add(*offset).cast::<i32>().read_unaligned());
                    let (low, high) = (_mm256_maddubs_epi16(x, weights[0]), _mm256_maddubs_epi16(x, weights[1]));
                    sums[p] = [
                        _mm256_add_epi32(sums[p][0], _mm256_madd_epi16(low, ones)),
                        _mm256_add_epi32(sums[p][1], _mm256_madd_epi16(high, ones)),
                    ];
                }
                (w, offset) = (w.add(PRODUCT), offset.add(1));
            }
            settle(&sums)
        }
    }
}

/// Multiply-adds of `rounds` rounds of pairs that stay in registers.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn products(rounds: usize) -> usize {
    const X: usize = 4;
    let ones = _mm256_set1_epi16(1);
    let mut x = [_mm256_setzero_si256(); X];
    for (i, x) in x.iter_mut().enumerate() {
        *x = _mm256_set1_epi8(black_box(i as i8));
    }
    // They change from round to round, or their products would be taken out of the loop.
    let mut w = [1, 2, 3, 4].map(|w| _mm256_set1_epi8(black_box(w)));
    let mut sums = [[_mm256_setzero_si256(); 2]; X];
    for _ in 0..rounds {
        for i in 0..X {
            let low = _mm256_add_epi16(_mm256_maddubs_epi16(x[i], w[0]), _mm256_maddubs_epi16(x[i], w[1]));
            let high = _mm256_add_epi16(_mm256_maddubs_epi16(x[i], w[2]), _mm256_maddubs_epi16(x[i], w[3]));
            sums[i] = [
                _mm256_add_epi32(sums[i][0], _mm256_madd_epi16(low, ones)),
                _mm256_add_epi32(sums[i][1], _mm256_madd_epi16(high, ones)),
            ];
        }
        w = [w[1], w[2], w[3], w[0]];
        w[0] = _mm256_add_epi8(w[0], w[1]);
    }
    black_box(sums);
    rounds * X * 2 * 2 * 32
}

/// One part.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn part(conv: &PairedConv<'_>, part: &Part, target: Target) {
    part_body::<Avx2, _>(conv, part, target);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::graph::Window;

    const POINTWISE: Window = Window { kernel: [1, 1], stride: [1, 1], dilation: [1, 1], pads: [0; 4] };

    fn geometry(in_channels: usize, out_channels: usize) -> Geometry {
        Geometry { in_channels, out_channels, groups: 1, window: POINTWISE }
    }

    proptest! {
        #[test]
        fn products_keep_their_sum_and_their_limit(weights: [[i8; 32]; 2]) {
            let weights = std::array::from_fn(|i| weights[i / 32][i % 32]);
            let parts = Product::new((0, 0), weights).split();
            for (i, w) in weights.into_iter().enumerate() {
                prop_assert_eq!(i16::from(parts[0].weights[i]) + i16::from(parts[1].weights[i]), i16::from(w));
            }
            prop_assert!(parts.iter().all(|part| part.largest() <= LIMIT));
        }

        #[test]
        fn each_weight_is_packed_once(weights in prop::collection::vec(-40i8..40, 24 * 100), large in 0usize..2400) {
            let mut weights = weights;
            weights[large] = -128;
            let packed = Paired::new(&geometry(100, 24), &weights).unwrap();
            let mut sums = vec![0i32; weights.len()];
            for (block, &Block { first, pairs, singles }) in packed.blocks.iter().enumerate() {
                for product in first..first + 2 * pairs + singles {
                    let step = packed.places[product].1 as usize;
                    for (i, &w) in packed.weights.as_slice()[product * PRODUCT..][..PRODUCT].iter().enumerate() {
                        let (out, input) = (block * LANES + i / STEP, step * STEP + i % STEP);
                        match sums.get_mut(out * 100 + input) {
                            Some(sum) if out < 24 => *sum += i32::from(w),
                            _ => prop_assert_eq!(w, 0),
                        }
                    }
                }
                let of = |product: usize| {
                    let weights = packed.weights.as_slice()[product * PRODUCT..][..PRODUCT].try_into().unwrap();
                    Product::new((0, 0), weights)
                };
                for pair in 0..pairs {
                    prop_assert!(of(first + 2 * pair).fits(&of(first + 2 * pair + 1)));
                }
            }
            let expected: Vec<i32> = weights.iter().map(|&w| i32::from(w)).collect();
            prop_assert_eq!(sums, expected);
        }
    }

    #[test]
    fn layers_that_do_not_gain_are_left_alone() {
        assert!(Paired::new(&geometry(64, 16), &[127; 64 * 16]).is_none());
        let small = Paired::new(&geometry(64, 16), &[20; 64 * 16]).unwrap();
        assert_eq!((small.blocks[0].pairs, small.blocks[0].singles), (8, 0));
    }
}
