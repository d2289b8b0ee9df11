//! What exporters write in many operators.

use super::build::*;
use crate::graph::{Function, Graph, Op};

/// The only operator.
fn only(graph: &Graph) -> &Op {
    assert_eq!(graph.nodes.len(), 1, "{:?}", graph.nodes);
    &graph.nodes[0].op
}

fn one(build: Build, name: &str, value: f32) -> Build {
    build.floats(name, &[], &[value])
}

#[test]
fn silu_is_a_product_with_its_own_sigmoid() {
    let build = Build::new(13, &[3, 4, 4]).node("Sigmoid", &["x"], "s", &[]);
    for operands in [["x", "s"], ["s", "x"]] {
        let graph = build.clone().node("Mul", &operands, "y", &[]).import();
        assert_eq!(only(&graph), &Op::Map(Function::Swish { alpha: 1.0 }));
    }
    let scaled = one(Build::new(13, &[3]), "a", 1.702).node("Mul", &["x", "a"], "ax", &[]);
    let scaled = scaled.node("Sigmoid", &["ax"], "s", &[]).node("Mul", &["x", "s"], "y", &[]).import();
    assert_eq!(only(&scaled), &Op::Map(Function::Swish { alpha: 1.702 }));
    // A gate that is read elsewhere stays, and the product no longer needs it.
    let shared = build.output("s").node("Mul", &["x", "s"], "y", &[]).import();
    assert_eq!(op_types(&shared), ["Sigmoid", "Mul"]);
}

#[test]
fn hard_swish_in_all_its_spellings() {
    let wanted = Op::Map(Function::HardSwish);
    let gate = [float("alpha", 1.0 / 6.0), float("beta", 0.5)];
    let by_gate = Build::new(13, &[3]).node("HardSigmoid", &["x"], "g", &gate).node("Mul", &["x", "g"], "y", &[]);
    assert_eq!(only(&by_gate.import()), &wanted);
    // HardSigmoid with ONNX's default of 0.2 is another function.
    let other = Build::new(13, &[3]).node("HardSigmoid", &["x"], "g", &[]).node("Mul", &["x", "g"], "y", &[]).import();
    assert_eq!(op_types(&other), ["HardSigmoid", "Mul"]);
    let relu6 = || {
        let build = one(one(one(one(Build::new(13, &[3]), "three", 3.0), "zero", 0.0), "six", 6.0), "sixth", 1.0 / 6.0);
        build.node("Add", &["x", "three"], "a", &[]).node("Clip", &["a", "zero", "six"], "c", &[])
    };
    let last = relu6().node("Mul", &["x", "c"], "m", &[]).node("Div", &["m", "six"], "y", &[]).import();
    let gate = relu6().node("Div", &["c", "six"], "d", &[]).node("Mul", &["d", "x"], "y", &[]).import();
    let factor = relu6().node("Mul", &["x", "sixth"], "d", &[]).node("Mul", &["d", "c"], "y", &[]).import();
    for graph in [last, gate, factor] {
        assert_eq!(only(&graph), &wanted);
    }
}

#[test]
fn gelu_by_erf_and_by_tanh() {
    let base = || one(one(one(Build::new(13, &[3, 4]), "root", 2f32.sqrt()), "one", 1.0), "half", 0.5);
    let erf = || base().node("Div", &["x", "root"], "d", &[]).node("Erf", &["d"], "e", &[]);
    let gate = || erf().node("Add", &["e", "one"], "g", &[]);
    let last = gate().node("Mul", &["x", "g"], "m", &[]).node("Mul", &["m", "half"], "y", &[]).import();
    let first = gate().node("Mul", &["x", "half"], "h", &[]).node("Mul", &["h", "g"], "y", &[]).import();
    for graph in [last, first] {
        assert_eq!(only(&graph), &Op::Map(Function::Gelu));
    }
    let cube = one(one(one(base(), "third", 3.0), "c", 0.044715), "s", (2.0 / std::f32::consts::PI).sqrt());
    let cube = cube.node("Pow", &["x", "third"], "p", &[]).node("Mul", &["p", "c"], "q", &[]);
    let cube = cube.node("Add", &["x", "q"], "r", &[]).node("Mul", &["r", "s"], "t", &[]);
    let cube = cube.node("Tanh", &["t"], "u", &[]).node("Add", &["u", "one"], "g", &[]);
    let graph = cube.node("Mul", &["x", "g"], "m", &[]).node("Mul", &["m", "half"], "y", &[]).import();
    assert_eq!(only(&graph), &Op::Map(Function::GeluTanh));
}

#[test]
fn layer_normalization_from_its_parts() {
    let base = one(one(Build::new(13, &[5, 4]), "two", 2.0), "eps", 1e-5).weight("g", &[4]).weight("b", &[4]);
    let axis = [int_list("axes", &[-1])];
    let base = base.node("ReduceMean", &["x"], "m", &axis).node("Sub", &["x", "m"], "d", &[]);
    let base = base.node("Pow", &["d", "two"], "p", &[]).node("ReduceMean", &["p"], "v", &axis);
    let base = base.node("Add", &["v", "eps"], "e", &[]).node("Sqrt", &["e"], "s", &[]);
    let base = base.node("Div", &["d", "s"], "n", &[]).node("Mul", &["n", "g"], "h", &[]);
    let graph = base.node("Add", &["h", "b"], "y", &[]).import();
    let Op::Normalize(normalize) = only(&graph) else { panic!() };
    assert_eq!((normalize.axis, normalize.epsilon, normalize.centered), (1, 1e-5, true));
    assert_eq!(normalize.scale.as_ref().unwrap()[..2], [-3.0 / 16.0, -2.0 / 16.0]);
    assert_eq!(normalize.shift.as_ref().unwrap()[3], 0.0);
}

#[test]
fn a_channel_shuffle_selects_channels() {
    let build = Build::new(13, &[6, 2, 2]).ints("split", &[5], &[0, 2, 3, 2, 2]).ints("join", &[4], &[0, 6, 2, 2]);
    let build = build.node("Reshape", &["x", "split"], "s", &[]);
    let build = build.node("Transpose", &["s"], "t", &[int_list("perm", &[0, 2, 1, 3, 4])]);
    let graph = build.node("Reshape", &["t", "join"], "y", &[]).import();
    assert_eq!(only(&graph), &Op::Select { axis: 0, indices: [0, 3, 1, 4, 2, 5].into() });
}

#[test]
fn reshapes_are_joined_and_rewrites_are_told() {
    let build = Build::new(13, &[6, 2, 2]).ints("a", &[2], &[0, 24]).ints("b", &[3], &[0, 4, 6]);
    let build = build.named("first", "Reshape", &["x", "a"], "r", &[]);
    let bytes = build.named("second", "Reshape", &["r", "b"], "y", &[]).output("y").bytes();
    let model = crate::onnx::import(&bytes, None).unwrap();
    assert_eq!(op_types(&model.graph), ["Reshape"]);
    let told: Vec<_> = model.rewrites.iter().map(|rewrite| (rewrite.kind, rewrite.node.as_str())).collect();
    assert_eq!(told, [("reshapes joined", "second")]);
}

#[test]
fn every_kind_of_rewrite_is_told_with_its_node() {
    let told = |build: Build| -> Vec<(&'static str, String)> {
        let model = crate::onnx::import(&build.output("y").bytes(), None).map_err(|error| chain(&error)).unwrap();
        model.rewrites.into_iter().map(|rewrite| (rewrite.kind, rewrite.node)).collect()
    };
    let gate = [float("alpha", 1.0 / 6.0), float("beta", 0.5)];
    let silu = Build::new(13, &[3]).node("Sigmoid", &["x"], "s", &[]).named("n", "Mul", &["x", "s"], "y", &[]);
    let hard = Build::new(13, &[3]).node("HardSigmoid", &["x"], "g", &gate).named("n", "Mul", &["x", "g"], "y", &[]);
    let numbers = one(one(one(Build::new(13, &[3, 4]), "root", 2f32.sqrt()), "one", 1.0), "half", 0.5);
    let gelu = numbers.node("Div", &["x", "root"], "d", &[]).node("Erf", &["d"], "e", &[]);
    let gelu = gelu.node("Add", &["e", "one"], "g", &[]).node("Mul", &["x", "half"], "h", &[]);
    let gelu = gelu.named("n", "Mul", &["h", "g"], "y", &[]);
    let axis = [int_list("axes", &[-1])];
    let layer = one(one(Build::new(13, &[5, 4]), "two", 2.0), "eps", 1e-5).node("ReduceMean", &["x"], "m", &axis);
    let layer = layer.node("Sub", &["x", "m"], "d", &[]).node("Pow", &["d", "two"], "p", &[]);
    let layer = layer.node("ReduceMean", &["p"], "v", &axis).node("Add", &["v", "eps"], "e", &[]);
    let layer = layer.node("Sqrt", &["e"], "s", &[]).named("n", "Div", &["d", "s"], "y", &[]);
    let shuffle = Build::new(13, &[6, 2, 2]).ints("split", &[5], &[0, 2, 3, 2, 2]).ints("join", &[4], &[0, 6, 2, 2]);
    let shuffle = shuffle.node("Reshape", &["x", "split"], "s", &[]);
    let shuffle = shuffle.node("Transpose", &["s"], "t", &[int_list("perm", &[0, 2, 1, 3, 4])]);
    let shuffle = shuffle.named("n", "Reshape", &["t", "join"], "y", &[]);
    let conv = Build::new(13, &[2, 3, 3]).weight("w", &[2, 2, 1, 1]).floats("g", &[2], &[1.0, 2.0]);
    let conv = conv.node("Conv", &["x", "w"], "c", &[]);
    let norm = conv.clone().named("n", "BatchNormalization", &["c", "g", "g", "g", "g"], "y", &[]);
    // Dropout and Identity stand between a layer and what is folded into it.
    let apart = conv.named("drop", "Dropout", &["c"], "d", &[]).named("same", "Identity", &["d"], "i", &[]);
    let apart = apart.named("n", "BatchNormalization", &["i", "g", "g", "g", "g"], "y", &[]);
    let sum = one(one(Build::new(13, &[3]), "a", 1.0), "b", 2.0).named("n", "Add", &["a", "b"], "c", &[]);
    let sum = sum.node("Add", &["x", "c"], "y", &[]);
    let n = |kind| (kind, "n".to_owned());
    for (build, wanted) in [
        (silu, n("silu")),
        (hard, n("hard swish")),
        (gelu, n("gelu")),
        (layer, n("layer normalization")),
        (shuffle, n("channel shuffle")),
        (norm, n("folded into the layer before it")),
        (apart.clone(), n("folded into the layer before it")),
        (apart.clone(), ("moves no element", "drop".to_owned())),
        (apart, ("moves no element", "same".to_owned())),
        (sum, n("constant")),
    ] {
        let found = told(build);
        assert!(found.contains(&wanted), "{wanted:?} in {found:?}");
    }
}

/// Two heads of attention over 5 places of 6 features each, whose scores are scaled in the middle, or before, and shifted
/// or not.
fn attention(middle: bool, shifted: bool) -> Build {
    let base = one(one(Build::new(18, &[5, 12]), "root", 0.6), "whole", 0.36).ints("heads", &[4], &[0, 5, 2, 6]);
    let projected = ["q", "k", "v"].iter().fold(base, |build, &to| {
        let names = ["w", "l", "r"].map(|name| format!("{to}{name}"));
        let [w, l, r] = names.each_ref().map(String::as_str);
        let perm: &[i64] = if to == "k" { &[0, 2, 3, 1] } else { &[0, 2, 1, 3] };
        let weight: Vec<f32> =
            (0..144).map(|i| ((i * 31 + w.len() + usize::from(to == "q")) % 23) as f32 / 40.0 - 0.3).collect();
        let build = build.floats(w, &[12, 12], &weight).node("MatMul", &["x", w], l, &[]);
        build.node("Reshape", &[l, "heads"], r, &[]).node("Transpose", &[r], to, &[int_list("perm", perm)])
    });
    let scores = match middle {
        true => projected.node("MatMul", &["q", "k"], "s", &[]).node("Mul", &["s", "whole"], "m", &[]),
        false => {
            let scaled = projected.node("Mul", &["q", "root"], "a", &[]).node("Mul", &["k", "root"], "b", &[]);
            scaled.node("MatMul", &["a", "b"], "m", &[])
        }
    };
    let scores = if shifted { scores.node("Add", &["m", "root"], "t", &[]) } else { scores };
    scores.node("Softmax", &[if shifted { "t" } else { "m" }], "p", &[int("axis", -1)]).named(
        "n",
        "MatMul",
        &["p", "v"],
        "y",
        &[],
    )
}

#[test]
fn attention_from_its_parts() {
    for middle in [true, false] {
        let graph = attention(middle, false).import();
        let scales = graph.nodes.iter().filter_map(|node| match node.op {
            Op::Attention { scale, .. } => Some(scale),
            _ => None,
        });
        // Numbers before queries and keys are in the weights that these come from.
        assert_eq!(scales.collect::<Vec<_>>(), [if middle { 0.36 } else { 1.0 }]);
        let apart = |graph: &Graph| {
            graph.nodes.iter().any(|node| matches!(node.op, Op::MatMul | Op::Softmax { .. } | Op::Map(_)))
        };
        assert!(!apart(&graph), "{:?}", op_types(&graph));
        // A number added to all scores changes nothing, and leaves the parts what they are.
        let parts = attention(middle, true).import();
        assert!(apart(&parts));
        let (whole, parts) = (computed(graph), computed(parts));
        assert!(whole.iter().zip(&parts).all(|(x, y)| (x - y).abs() < 1e-5) && whole.len() == 2 * 60);
    }
    // Scores with a mask are left as they are.
    let masked = Build::new(18, &[4, 5, 6]).weight("mask", &[1, 1, 5, 5]).ints("turn", &[4], &[0, 4, 6, 5]);
    let masked = masked.node("Transpose", &["x"], "k", &[int_list("perm", &[0, 1, 3, 2])]);
    let masked = masked.node("MatMul", &["x", "k"], "s", &[]).node("Add", &["s", "mask"], "m", &[]);
    let masked = masked.node("Softmax", &["m"], "p", &[int("axis", -1)]).node("MatMul", &["p", "x"], "y", &[]).import();
    assert!(masked.nodes.iter().any(|node| matches!(node.op, Op::Softmax { .. })));
}
