//! Functions of one element.

/// `√(1/2)`.
const HALF_ROOT: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// A function that is applied to every element of a value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// `scale·x + shift`.
    Affine {
        /// Factor.
        scale: f32,
        /// Summand.
        shift: f32,
    },
    /// `1 / (1 + exp(−x))`.
    Sigmoid,
    /// `min(max(alpha·x + beta, 0), 1)`.
    HardSigmoid {
        /// Factor.
        alpha: f32,
        /// Summand.
        beta: f32,
    },
    /// `x · min(max(x/6 + 1/2, 0), 1)`.
    HardSwish,
    /// `x · sigmoid(alpha·x)`; with `alpha` 1 also called SiLU.
    Swish {
        /// Factor.
        alpha: f32,
    },
    /// `x/2 · (1 + erf(x/√2))`.
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    GeluTanh,
    /// `x · tanh(softplus(x))`.
    Mish,
    /// The Gauss error function.
    Erf,
    /// Hyperbolic tangent.
    Tanh,
    /// `x` above 0, else `alpha·x`.
    LeakyRelu {
        /// Slope below 0.
        alpha: f32,
    },
    /// `gamma·x` above 0, else `gamma·alpha·(exp(x/divisor) − 1)`: ONNX `Elu`, `Selu` and `Celu`.
    Elu {
        /// Factor below 0.
        alpha: f32,
        /// Factor everywhere.
        gamma: f32,
        /// Divisor of the exponent.
        divisor: f32,
    },
    /// `ln(1 + exp(x))`.
    Softplus,
    /// `x / (1 + |x|)`.
    Softsign,
    /// `x` above `alpha`, else 0.
    Threshold {
        /// The bound.
        alpha: f32,
    },
    /// `x^exponent`.
    Power {
        /// The exponent.
        exponent: f32,
    },
    /// `√x`.
    Sqrt,
    /// `1/x`.
    Reciprocal,
    /// `exp(x)`.
    Exp,
    /// Natural logarithm.
    Log,
    /// `|x|`.
    Abs,
    /// −1, 0 or 1.
    Sign,
    /// Largest integer not above.
    Floor,
    /// Smallest integer not below.
    Ceil,
    /// Nearest integer, ties to even.
    Round,
    /// The integer towards 0.
    Truncate,
    /// 1 where `x` is 0, else 0: the negation of a truth value.
    Not,
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
}

impl Function {
    /// A name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Function::Affine { .. } => "scale",
            Function::Sigmoid => "sigmoid",
            Function::HardSigmoid { .. } => "hard sigmoid",
            Function::HardSwish => "hard swish",
            Function::Swish { alpha: 1.0 } => "silu",
            Function::Swish { .. } => "swish",
            Function::Gelu | Function::GeluTanh => "gelu",
            Function::Mish => "mish",
            Function::Erf => "erf",
            Function::Tanh => "tanh",
            Function::LeakyRelu { .. } => "leaky relu",
            Function::Elu { .. } => "elu",
            Function::Softplus => "softplus",
            Function::Softsign => "softsign",
            Function::Threshold { .. } => "threshold",
            Function::Power { .. } => "power",
            Function::Sqrt => "square root",
            Function::Reciprocal => "reciprocal",
            Function::Exp => "exp",
            Function::Log => "log",
            Function::Abs => "abs",
            Function::Sign => "sign",
            Function::Floor => "floor",
            Function::Ceil => "ceil",
            Function::Round => "round",
            Function::Truncate => "truncate",
            Function::Not => "not",
            Function::Sin => "sin",
            Function::Cos => "cos",
        }
    }

    /// Whether networks use it as an activation: small errors of its argument are small errors of its value. Those
    /// can run in integers; what computes means, norms and masks stays in f32.
    pub fn is_activation(&self) -> bool {
        matches!(
            self,
            Function::Sigmoid
                | Function::HardSigmoid { .. }
                | Function::HardSwish
                | Function::Swish { .. }
                | Function::Gelu
                | Function::GeluTanh
                | Function::Mish
                | Function::Tanh
                | Function::LeakyRelu { .. }
                | Function::Elu { .. }
                | Function::Softplus
                | Function::Softsign
        )
    }

    /// The value at `x`. Branches and calls are kept out of what networks use most, so that loops over it become
    /// vector code.
    #[inline(always)]
    pub fn apply(&self, x: f32) -> f32 {
        match *self {
            Function::Affine { scale, shift } => x * scale + shift,
            Function::Sigmoid => sigmoid(x),
            Function::HardSigmoid { alpha, beta } => (x * alpha + beta).clamp(0.0, 1.0),
            Function::HardSwish => x * (x * (1.0 / 6.0) + 0.5).clamp(0.0, 1.0),
            Function::Swish { alpha } => x * sigmoid(alpha * x),
            Function::Gelu => 0.5 * x * (1.0 + erf(x * HALF_ROOT)),
            // tanh(u) = 2·sigmoid(2u) − 1, so that 1 + tanh(u) loses nothing.
            Function::GeluTanh => x * sigmoid(1.595_769 * (x + 0.044_715 * x * x * x)),
            Function::Mish => x * tanh(softplus(x)),
            Function::Erf => erf(x),
            Function::Tanh => tanh(x),
            Function::LeakyRelu { alpha } => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            Function::Elu { alpha, gamma, divisor } => gamma * if x < 0.0 { alpha * (x / divisor).exp_m1() } else { x },
            Function::Softplus => softplus(x),
            Function::Softsign => x / (1.0 + x.abs()),
            Function::Threshold { alpha } => {
                if x > alpha {
                    x
                } else {
                    0.0
                }
            }
            Function::Power { exponent: 2.0 } => x * x,
            Function::Power { exponent } => x.powf(exponent),
            Function::Sqrt => x.sqrt(),
            Function::Reciprocal => 1.0 / x,
            Function::Exp => x.exp(),
            Function::Log => x.ln(),
            Function::Abs => x.abs(),
            Function::Sign if x > 0.0 => 1.0,
            Function::Sign if x < 0.0 => -1.0,
            Function::Sign => x,
            Function::Floor => x.floor(),
            Function::Ceil => x.ceil(),
            Function::Round => x.round_ties_even(),
            Function::Truncate => x.trunc(),
            Function::Not => f32::from(x == 0.0),
            Function::Sin => x.sin(),
            Function::Cos => x.cos(),
        }
    }
}

/// `exp(x)` within 2 units in the last place, for arguments whose result is a normal number; others saturate.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // exp(x) = 2ⁿ·exp(r) with |r| at most ln 2 / 2; ln 2 is in two parts, the first of few bits.
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32.mul_add(r, 1.398_199_9e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 1.666_666_5e-1);
    let p = p.mul_add(r, 0.5);
    let p = (p * r).mul_add(r, r + 1.0);
    // n + 127 is an exponent: 2²³ more is an integer in the low bits of the sum, and becomes one by a shift.
    p * f32::from_bits((n + (127.0 + 8_388_608.0)).to_bits() << 23)
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Within 2 units in the last place (after N. Juffa's `erff`): a polynomial near 0, one minus the exponential of a
/// polynomial elsewhere.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let t = x.abs().min(4.0);
    let s = t * t;
    let far = (-1.728_534_7e-5_f32).mul_add(t, 3.831_97e-4);
    let u = (-3.883_964e-3_f32).mul_add(t, 2.425_462_2e-2);
    let far = far.mul_add(s, u);
    let far = far.mul_add(t, -1.067_778_8e-1);
    let far = far.mul_add(t, -6.348_467e-1);
    let far = far.mul_add(t, -1.287_175e-1);
    let far = far.mul_add(t, -t);
    let far = 1.0 - exp(far);
    let near = (-5.967_617e-4_f32).mul_add(s, 4.991_194e-3);
    let near = near.mul_add(s, -2.676_813_5e-2);
    let near = near.mul_add(s, 1.128_199_2e-1);
    let near = near.mul_add(s, -3.761_253_4e-1);
    let near = near.mul_add(s, 1.283_791_7e-1);
    let near = near.mul_add(t, t);
    let magnitude = if t > 0.927_734_4 { far } else { near };
    // NaN stays NaN: the clamp above has lost it.
    let magnitude = if x.is_nan() { x } else { magnitude };
    magnitude.copysign(x)
}

/// `1 − 2/(exp(2x) + 1)`, and a polynomial near 0, where that would cancel.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let t = x.abs();
    let far = 1.0 - 2.0 / (exp(2.0 * t) + 1.0);
    let s = t * t;
    let near = (-5.704_988_7e-3_f32).mul_add(s, 2.063_909e-2);
    let near = near.mul_add(s, -5.373_971e-2);
    let near = near.mul_add(s, 1.333_144_2e-1);
    let near = near.mul_add(s, -3.333_328e-1);
    let near = (near * s).mul_add(t, t);
    (if t > 0.625 { far } else { near }).copysign(x)
}

#[inline(always)]
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use statrs::function::erf::erf as exact_erf;

    use super::*;

    /// Largest difference from `exact`, relative to it or to `floor`, over the arguments of interest.
    fn worst(function: Function, floor: f64, exact: impl Fn(f64) -> f64) -> f64 {
        let arguments = (-200_000..=200_000).map(|i| i as f32 * 1e-4).chain([0.0, -0.0, 1e-7, 1e-20, 80.0, -80.0]);
        arguments.fold(0.0, |worst, x| {
            let (got, wanted) = (f64::from(function.apply(x)), exact(f64::from(x)));
            worst.max((got - wanted).abs() / wanted.abs().max(floor))
        })
    }

    #[test]
    fn functions_are_those_of_their_definitions() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        assert!(worst(Function::Sigmoid, 1e-30, sigmoid) < 5e-7);
        assert!(worst(Function::Swish { alpha: 1.0 }, 1e-30, |x| x * sigmoid(x)) < 6e-7);
        assert!(worst(Function::Swish { alpha: 1.702 }, 1e-20, |x| x * sigmoid(f64::from(1.702_f32) * x)) < 3e-6);
        assert!(worst(Function::Tanh, 1e-30, f64::tanh) < 4e-7);
        assert!(worst(Function::Erf, 1e-30, exact_erf) < 4e-7);
        // Far below 0 the sum 1 + erf cancels, in ONNX Runtime as here: compared with what is lost, it is small.
        let gelu = |x: f64| 0.5 * x * (1.0 + exact_erf(x / 2f64.sqrt()));
        assert!(worst(Function::Gelu, 1.0, gelu) < 4e-7);
        let gelu_tanh =
            |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh());
        assert!(worst(Function::GeluTanh, 1.0, gelu_tanh) < 1e-6);
        assert!(worst(Function::HardSwish, 1.0, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)) < 2e-7);
        assert!(worst(Function::Softplus, 1e-30, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()) < 3e-7);
        assert!(worst(Function::Mish, 1e-6, |x| x * (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh()) < 1e-6);
        let selu = Function::Elu { alpha: 1.5, gamma: 2.0, divisor: 1.0 };
        assert!(worst(selu, 1e-30, |x| if x < 0.0 { 3.0 * x.exp_m1() } else { 2.0 * x }) < 3e-7);
    }

    #[test]
    fn extremes_are_no_surprise() {
        for (function, low, high) in [
            (Function::Sigmoid, 0.0, 1.0),
            (Function::Tanh, -1.0, 1.0),
            (Function::Erf, -1.0, 1.0),
            (Function::HardSigmoid { alpha: 0.2, beta: 0.5 }, 0.0, 1.0),
            (Function::Sign, -1.0, 1.0),
        ] {
            assert!((function.apply(f32::NEG_INFINITY) - low).abs() < 1e-30, "{function:?}");
            assert_eq!(function.apply(f32::INFINITY), high, "{function:?}");
            assert_eq!(function.apply(0.0), if low < 0.0 { 0.0 } else { 0.5 }, "{function:?}");
        }
        assert!(Function::Erf.apply(f32::NAN).is_nan());
        assert_eq!(Function::Gelu.apply(-20.0), 0.0);
        assert_eq!(Function::Swish { alpha: 1.0 }.apply(100.0), 100.0);
        assert_eq!(Function::Round.apply(2.5), 2.0);
        assert_eq!(Function::Not.apply(1.0), 0.0);
    }
}
