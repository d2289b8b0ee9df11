//! What exporters compute around shapes and bounds is known while importing.

use super::build::*;
use crate::graph::Op;

#[test]
fn the_flatten_idiom_becomes_a_reshape() {
    let build = Build::new(13, &[8, 2, 2]).ints("zero", &[], &[0]).ints("minus", &[1], &[-1]).ints("axes", &[1], &[0]);
    let build = build.node("Shape", &["x"], "s", &[]).node("Gather", &["s", "zero"], "n", &[int("axis", 0)]);
    let build =
        build.node("Unsqueeze", &["n", "axes"], "u", &[]).node("Concat", &["u", "minus"], "t", &[int("axis", 0)]);
    let (node, shape) = build.node("Reshape", &["x", "t"], "y", &[]).single();
    assert_eq!((node.op, shape, node.name.as_str()), (Op::Reshape, vec![32], "Reshape_4"));
}

#[test]
fn arithmetic_on_dimensions() {
    // [batch, 8, 2, 2] -> [batch, 2, 8 / 2, 2 * 2 + 1 - 1]
    let one = |build: Build, name: &str, value| build.ints(name, &[1], &[value]);
    let build = one(one(one(Build::new(13, &[8, 2, 2]), "i1", 1), "i2", 2), "i4", 4);
    let build = build.node("Shape", &["x"], "s", &[]);
    let build = build.node("Slice", &["s", "i1", "i2"], "c", &[]).node("Div", &["c", "i2"], "half", &[]);
    let build = build.node("Cast", &["half"], "f", &[int("to", 1)]).node("Cast", &["f"], "half2", &[int("to", 7)]);
    let build = build.node("Gather", &["s", "i2"], "h", &[]).node("Mul", &["h", "h"], "hw", &[]);
    let build = build.node("Add", &["hw", "i1"], "p", &[]).node("Sub", &["p", "i1"], "q", &[]);
    let build = build.node("Shape", &["x"], "n", &[int("end", 1)]).node("Mul", &["i1", "n"], "batch", &[]);
    let build = build.node("Concat", &["batch", "i2", "half2", "q"], "t", &[int("axis", -1)]);
    assert_eq!(build.node("Reshape", &["x", "t"], "y", &[]).single().1, [2, 4, 4]);
}

#[test]
fn the_larger_of_two_that_depend_on_the_batch() {
    // [batch, 6] -> [max(batch, 1), min(batch, 1)·2, 3], as products with broadcasting ask for.
    let build = Build::new(13, &[6]).ints("one", &[1], &[1]).ints("two", &[1], &[2]).ints("three", &[1], &[3]);
    let build = build.node("Shape", &["x"], "n", &[int("end", 1)]).node("Max", &["n", "one"], "large", &[]);
    let build = build.node("Min", &["one", "n"], "small", &[]).node("Mul", &["small", "two"], "b", &[]);
    let build = build.node("Max", &["n", "large"], "a", &[]);
    let build = build.node("Concat", &["a", "b", "three"], "t", &[int("axis", 0)]);
    assert_eq!(build.node("Reshape", &["x", "t"], "y", &[]).single().1, [2, 3]);
}

#[test]
fn values_of_which_only_the_shape_is_read_are_dropped() {
    let build = Build::new(13, &[8, 2, 2]).ints("all", &[1], &[-1]).ints("i0", &[1], &[0]);
    let build = build.node("Relu", &["x"], "r", &[]).node("Shape", &["r"], "s", &[]);
    let build = build.node("Gather", &["s", "i0"], "n", &[]).node("Concat", &["n", "all"], "t", &[int("axis", 0)]);
    let graph = build.node("Reshape", &["x", "t"], "y", &[]).import();
    assert_eq!(op_types(&graph), ["Reshape"]);
}

#[test]
fn constants_of_every_kind() {
    let bounds = |lo, hi| {
        let build = Build::new(13, &[3]).node("Constant", &[], "lo", &[lo]).node("Constant", &[], "hi", &[hi]);
        build.node("Clip", &["x", "lo", "hi"], "y", &[]).single().0.op
    };
    let relu6 = Op::Clip { min: 0.0, max: 6.0 };
    assert_eq!(bounds(tensor("value", floats("", &[], &[0.0])), float("value_float", 6.0)), relu6);
    assert_eq!(bounds(float_list("value_floats", &[0.0]), float("value_float", 6.0)), relu6);
    let ints = |attribute| {
        let build = Build::new(12, &[4]).node("Constant", &[], "t", &[attribute]);
        build.node("Reshape", &["x", "t"], "y", &[]).single().1
    };
    assert_eq!(ints(int_list("value_ints", &[0, 2, 2])), [2, 2]);
    let build = Build::new(13, &[4]).node("Constant", &[], "two", &[int("value_int", 2)]);
    let build = build.ints("head", &[2], &[0, 2]).ints("axes", &[1], &[0]);
    let build = build.node("Unsqueeze", &["two", "axes"], "twos", &[]);
    let build = build.node("Concat", &["head", "twos"], "t", &[int("axis", 0)]);
    assert_eq!(build.node("Reshape", &["x", "t"], "y", &[]).single().1, [2, 2]);
}

#[test]
fn weights_are_turned_and_reshaped() {
    let build = Build::new(13, &[2]).weight("fc.weight", &[3, 2, 1]).ints("flat", &[2], &[0, -1]);
    let build = build.node("Reshape", &["fc.weight", "flat"], "w", &[]);
    let build = build.node("Transpose", &["w"], "t", &[int_list("perm", &[1, 0])]);
    let (node, _) = build.node("MatMul", &["x", "t"], "y", &[]).single();
    let Op::Linear(linear) = node.op else { panic!() };
    assert_eq!((&linear.weight.dims[..], linear.weight_name.as_str()), (&[3, 2][..], "fc.weight"));
    assert_eq!(linear.weight.data[..], [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0].map(|w: f32| w / 16.0));
}

#[test]
fn constants_that_cannot_be_folded_are_unsupported() {
    let build = Build::new(13, &[8]).node("Shape", &["x"], "s", &[]).ints("two", &[1], &[2]);
    let doubled = build.node("Mul", &["s", "two"], "t", &[]).node("Reshape", &["x", "t"], "y", &[]);
    assert_eq!(
        doubled.error(),
        "node `Reshape_2` (`Reshape`): [batch, 8] cannot become [2·batch, 16] with one batch in it"
    );
    let zero = Build::new(13, &[8]).ints("a", &[1], &[2]).ints("z", &[1], &[0]);
    let divided = zero.node("Div", &["a", "z"], "t", &[]).node("Reshape", &["x", "t"], "y", &[]);
    assert_eq!(divided.error(), "operator `Div` (node `Div_0`, domain `ai.onnx`, opset 13) is not supported");
}

#[test]
fn ranges_of_floats_are_known() {
    let range = |start: f32, limit: f32, delta: f32| {
        let number = |build: Build, name: &str, value| build.floats(name, &[], &[value]);
        let build = number(number(number(Build::new(13, &[3]), "start", start), "limit", limit), "delta", delta);
        build.node("Range", &["start", "limit", "delta"], "r", &[]).node("Mul", &["x", "r"], "y", &[])
    };
    let factors = |start, limit, delta| {
        let graph = range(start, limit, delta).import();
        let Op::Conv(conv) = &graph.nodes[1].op else { panic!("{:?}", graph.nodes) };
        conv.weight.data.to_vec()
    };
    assert_eq!(factors(0.5, 3.1, 1.0), [0.5, 1.5, 2.5]);
    // As many as there are before the limit, downwards too.
    assert_eq!(factors(2.0, -1.0, -1.0), [2.0, 1.0, 0.0]);
    for (limit, delta) in [(1.0, 0.0), (f32::NAN, 1.0), (f32::INFINITY, 1.0), (1e9, 1.0)] {
        assert!(range(0.0, limit, delta).error().contains("operator `Range`"), "{limit} {delta}");
    }
}
