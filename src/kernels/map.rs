//! Functions of one element: computed in f32, looked up where the argument is one of 256.

use rayon::prelude::*;

use super::{FloatEpilogue, Kernels, Output, Simd, dispatch};
use crate::graph::Function;

/// Elements of one part, where several threads work.
const PART: usize = 16 * 1024;

/// Elements that are computed before they are quantized.
const BLOCK: usize = 1024;

impl Kernels {
    /// `clip(f(x))` of every element, quantized when the output is. `parallel` as for [`Kernels::conv_float`].
    ///
    /// # Panics
    /// When the output is quantized and the epilogue has no grid, or is of another length.
    pub fn map(self, x: &[f32], function: Function, epilogue: FloatEpilogue, out: Output<'_>, parallel: bool) {
        let FloatEpilogue { min, max, grid } = epilogue;
        match (out, grid) {
            (Output::Float(y), _) => in_parts(x, y, parallel, |x, y| map(self, function, [min, max], x, y)),
            (Output::Quantized(y), Some(grid)) => in_parts(x, y, parallel, |x, y| {
                let mut block = [0.0; BLOCK];
                for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
                    map(self, function, [min, max], x, &mut block[..x.len()]);
                    self.quantize(&block[..x.len()], grid, y, false);
                }
            }),
            (Output::Quantized(_), None) => panic!("a quantized output needs a grid"),
        }
    }

    /// `table[x]` of every element.
    ///
    /// # Panics
    /// When the output is of another length.
    pub fn look_up<Y: Copy + Send + Sync>(self, x: &[u8], table: &[Y; 256], y: &mut [Y], parallel: bool) {
        in_parts(x, y, parallel, |x, y| y.iter_mut().zip(x).for_each(|(y, &x)| *y = table[usize::from(x)]));
    }
}

fn in_parts<X: Sync, Y: Send>(x: &[X], y: &mut [Y], parallel: bool, work: impl Fn(&[X], &mut [Y]) + Sync) {
    assert_eq!(x.len(), y.len(), "elements of input and output");
    if parallel && y.len() > PART {
        y.par_chunks_mut(PART).zip(x.par_chunks(PART)).for_each(|(y, x)| work(x, y));
    } else {
        work(x, y);
    }
}

/// A loop for each function that large tensors go through, so that it is chosen outside the loop: then it is vector
/// code of the instruction set that the body is compiled for.
macro_rules! loops {
    ($function:expr, $bounds:ident, $x:ident, $y:ident: $($pattern:pat => $known:expr,)*) => {
        match $function {
            $($pattern => {
                let known = $known;
                for i in 0..$x.len().min($y.len()) {
                    $y[i] = known.apply($x[i]).max($bounds[0]).min($bounds[1]);
                }
            })*
        }
    };
}

#[inline(always)]
fn map_body<S: Simd>(function: Function, bounds: [f32; 2], x: &[f32], y: &mut [f32]) {
    loops! { function, bounds, x, y:
        Function::Affine { scale, shift } => Function::Affine { scale, shift },
        Function::Sigmoid => Function::Sigmoid,
        Function::HardSigmoid { alpha, beta } => Function::HardSigmoid { alpha, beta },
        Function::HardSwish => Function::HardSwish,
        Function::Swish { alpha } => Function::Swish { alpha },
        Function::Gelu => Function::Gelu,
        Function::GeluTanh => Function::GeluTanh,
        Function::Erf => Function::Erf,
        Function::Tanh => Function::Tanh,
        Function::LeakyRelu { alpha } => Function::LeakyRelu { alpha },
        Function::Sqrt => Function::Sqrt,
        Function::Reciprocal => Function::Reciprocal,
        Function::Power { exponent: 2.0 } => Function::Power { exponent: 2.0 },
        other => other,
    }
}
dispatch!(fn map(function: Function, bounds: [f32; 2], x: &[f32], y: &mut [f32]) -> () = map_body);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Affine, Rounding};

    const FUNCTIONS: [Function; 12] = [
        Function::Affine { scale: 0.7, shift: -0.1 },
        Function::Sigmoid,
        Function::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Function::HardSwish,
        Function::Swish { alpha: 1.0 },
        Function::Gelu,
        Function::GeluTanh,
        Function::Erf,
        Function::Tanh,
        Function::LeakyRelu { alpha: 0.1 },
        Function::Power { exponent: 2.0 },
        Function::Mish,
    ];

    #[test]
    fn instruction_sets_and_threads_give_the_function_s_own_bits() {
        let x: Vec<f32> = (0..40_001).map(|i| (i as f32 - 20_000.0) * 5e-4).collect();
        let grid = Affine { scale: 0.03, zero_point: 20, quant_min: 0, quant_max: 255, rounding: Rounding::default() };
        let epilogue = FloatEpilogue { min: -0.5, max: 3.0, grid: Some(grid) };
        for function in FUNCTIONS {
            let wanted: Vec<f32> = x.iter().map(|&x| function.apply(x).clamp(-0.5, 3.0)).collect();
            for kernels in Kernels::available() {
                for parallel in [false, true] {
                    let (mut y, mut q) = (vec![0.0; x.len()], vec![0; x.len()]);
                    kernels.map(&x, function, epilogue, Output::Float(&mut y), parallel);
                    kernels.map(&x, function, epilogue, Output::Quantized(&mut q), parallel);
                    let same = y.iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{function:?} on {}", kernels.name());
                    assert!(
                        q.iter().zip(&wanted).all(|(&q, &y)| q == grid.quantize(y)),
                        "{function:?} on {}",
                        kernels.name()
                    );
                }
            }
        }
    }

    #[test]
    fn tables_are_looked_up() {
        let table: [u8; 256] = std::array::from_fn(|i| 255 - i as u8);
        let x: Vec<u8> = (0..50_000).map(|i| (i * 7) as u8).collect();
        for parallel in [false, true] {
            let mut y = vec![0; x.len()];
            Kernels::REFERENCE.look_up(&x, &table, &mut y, parallel);
            assert!(x.iter().zip(&y).all(|(x, y)| *y == 255 - x));
        }
    }
}
