//! GELU, as exporters write it.

use super::{Change, Drafts, near};
use crate::graph::{Function, Op, ValueId};

/// Factor and factors of a value that is a product of two others, each with a number in front.
struct Product {
    scale: f64,
    factors: Vec<ValueId>,
}

/// A value as a product: numbers in front of it and of its factors are drawn together, products below it opened.
fn product(drafts: &Drafts<'_>, at: usize) -> Option<Product> {
    let mut scale = 1.0;
    let mut factors = Vec::new();
    let mut open = vec![drafts.all[at].output];
    let mut opened = 0;
    while let Some(value) = open.pop() {
        let (number, inner) = drafts.scaled(value);
        scale *= number;
        match drafts.written(inner) {
            Some((Op::Mul, inputs)) if opened < 4 => {
                opened += 1;
                open.extend(inputs);
            }
            _ => factors.push(inner),
        }
    }
    (opened > 0).then_some(Product { scale, factors })
}

/// The function, where the product is `x/2 · (1 + gate)`.
fn with_gate(
    drafts: &Drafts<'_>,
    at: usize,
    function: Function,
    is_gate: impl Fn(ValueId, ValueId) -> bool,
) -> Option<Change> {
    let Product { scale, factors } = product(drafts, at)?;
    let &[a, b] = &factors[..] else { return None };
    [(a, b), (b, a)].into_iter().find_map(|(x, sum)| {
        // 1 + gate, or 1/2 + gate/2.
        let (factor, shift, gate) = drafts.affine(sum)?;
        let half = near(scale * factor, 0.5) && near(scale * shift, 0.5);
        (half && is_gate(gate, x)).then(|| Change { kind: "gelu", op: Op::Map(function), inputs: vec![x] })
    })
}

/// `x/2 · (1 + erf(x/√2))`.
pub(super) fn by_erf(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    with_gate(drafts, at, Function::Gelu, |gate, x| {
        let Some((Op::Map(Function::Erf), &[inner])) = drafts.written(gate) else { return false };
        let (scale, inner) = drafts.scaled(inner);
        inner == x && near(scale, std::f64::consts::FRAC_1_SQRT_2)
    })
}

/// `x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn by_tanh(drafts: &Drafts<'_>, at: usize) -> Option<Change> {
    let cube = |value: ValueId, x: ValueId| {
        let (scale, inner) = drafts.scaled(value);
        let is_cube = match drafts.written(inner) {
            Some((&Op::Map(Function::Power { exponent: 3.0 }), &[base])) => base == x,
            Some((Op::Mul, &[a, b])) => {
                let square = |value| {
                    matches!(drafts.written(value), Some((Op::Mul, &[a, b])) if a == x && b == x)
                        || matches!(drafts.written(value), Some((&Op::Map(Function::Power { exponent: 2.0 }), &[base])) if base == x)
                };
                (a == x && square(b)) || (b == x && square(a))
            }
            _ => false,
        };
        is_cube && near(scale, 0.044715)
    };
    with_gate(drafts, at, Function::GeluTanh, |gate, x| {
        let Some((Op::Map(Function::Tanh), &[inner])) = drafts.written(gate) else { return false };
        let (scale, inner) = drafts.scaled(inner);
        let Some((Op::Add, &[a, b])) = drafts.written(inner) else { return false };
        let sum = (a == x && cube(b, x)) || (b == x && cube(a, x));
        sum && near(scale, (2.0 / std::f64::consts::PI).sqrt())
    })
}
