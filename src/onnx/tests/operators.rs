//! Operators without weights.

use super::build::*;
use crate::graph::{Op, Window};

const RELU6: Op = Op::Clip { min: 0.0, max: 6.0 };

#[test]
fn relu_and_clip_are_clips() {
    let (relu, shape) = Build::new(7, &[5]).node("Relu", &["x"], "y", &[]).single();
    assert_eq!((relu.op, shape), (Op::Clip { min: 0.0, max: f32::INFINITY }, vec![5]));
    let old = Build::new(10, &[5]).node("Clip", &["x"], "y", &[float("min", 0.0), float("max", 6.0)]);
    assert_eq!(old.single().0.op, RELU6);
    let base = || Build::new(11, &[5]).floats("lo", &[], &[0.0]).floats("hi", &[1], &[6.0]);
    assert_eq!(base().node("Clip", &["x", "lo", "hi"], "y", &[]).single().0.op, RELU6);
    let above = base().node("Clip", &["x", "", "hi"], "y", &[]).single().0.op;
    assert_eq!(above, Op::Clip { min: f32::NEG_INFINITY, max: 6.0 });
    let below = base().node("Clip", &["x", "lo"], "y", &[]).single().0.op;
    assert_eq!(below, Op::Clip { min: 0.0, max: f32::INFINITY });
    let nothing = base().node("Clip", &["x"], "c", &[]).node("Relu", &["c"], "y", &[]).import();
    assert_eq!(op_types(&nothing), ["Relu"]);
}

#[test]
fn sums_keep_both_operands() {
    let build = Build::new(13, &[2, 2, 2]).node("Relu", &["x"], "r", &[]);
    let graph = build.node("Add", &["r", "x"], "y", &[]).import();
    assert_eq!(
        (graph.nodes[1].op.clone(), &graph.nodes[1].inputs),
        (Op::Add, &vec![graph.nodes[0].output, graph.inputs[0]])
    );
    let twice = Build::new(13, &[2]).node("Add", &["x", "x"], "y", &[]).single().0;
    assert_eq!(twice.inputs.len(), 2);
}

fn pool(op: &str, size: i64, attributes: &[crate::onnx::proto::AttributeProto]) -> (Op, Vec<usize>) {
    let (node, shape) = Build::new(13, &[3, size, size]).node(op, &["x"], "y", attributes).single();
    (node.op, shape)
}

#[test]
fn pools_have_explicit_padding() {
    let kernel = [int_list("kernel_shape", &[3, 3]), int_list("strides", &[2, 2])];
    let window = |pads| Window { kernel: [3, 3], stride: [2, 2], dilation: [1, 1], pads };
    assert_eq!(pool("MaxPool", 8, &kernel), (Op::MaxPool(window([0; 4])), vec![3, 3, 3]));
    let ceil = [&kernel[..], &[int("ceil_mode", 1)]].concat();
    assert_eq!(pool("MaxPool", 8, &ceil), (Op::MaxPool(window([0, 0, 1, 1])), vec![3, 4, 4]));
    assert_eq!(pool("MaxPool", 9, &ceil), (Op::MaxPool(window([0; 4])), vec![3, 4, 4]));
    // With a step longer than the window, the one more window would lie behind the input: there is none.
    let sparse = [int_list("kernel_shape", &[1, 1]), int_list("strides", &[3, 3]), int("ceil_mode", 1)];
    assert_eq!(pool("MaxPool", 3, &sparse).1, [3, 1, 1]);
    let counted = [&kernel[..], &[int("count_include_pad", 1), int_list("pads", &[1, 1, 1, 1])]].concat();
    let average = Op::AveragePool { window: window([1; 4]), count_include_pad: true };
    assert_eq!(pool("AveragePool", 8, &counted), (average, vec![3, 4, 4]));
    let same = [&kernel[..], &[text("auto_pad", "SAME_UPPER")]].concat();
    assert_eq!(pool("MaxPool", 8, &same), (Op::MaxPool(window([0, 0, 1, 1])), vec![3, 4, 4]));
}

#[test]
fn a_pool_of_single_pixels_is_nothing() {
    for op in ["MaxPool", "AveragePool"] {
        let build = Build::new(13, &[3, 7, 7]).node(op, &["x"], "p", &[int_list("kernel_shape", &[1, 1])]);
        assert_eq!(op_types(&build.node("Relu", &["p"], "y", &[]).import()), ["Relu"]);
    }
}

#[test]
fn means_over_the_picture_are_global_pools() {
    let global = Build::new(13, &[3, 5, 5]).node("GlobalAveragePool", &["x"], "y", &[]).single();
    assert_eq!((global.0.op, global.1), (Op::GlobalAveragePool, vec![3, 1, 1]));
    let kept = Build::new(13, &[3, 5, 5]).node("ReduceMean", &["x"], "y", &[int_list("axes", &[-1, 2])]).single();
    assert_eq!((kept.0.op, kept.1), (Op::GlobalAveragePool, vec![3, 1, 1]));
    let build = Build::new(18, &[3, 5, 5]).ints("axes", &[2], &[2, 3]);
    let graph = build.named("m", "ReduceMean", &["x", "axes"], "y", &[int("keepdims", 0)]).import();
    assert_eq!(op_types(&graph), ["ReduceMean", "Reshape"]);
    assert!(matches!(graph.nodes[1].op, Op::Reshape));
    assert_eq!((shape(&graph), graph.nodes[0].name.as_str()), (vec![3], "m"));
    assert_eq!(graph.value(graph.outputs[0]).name, "y");
}

#[test]
fn reshapes_keep_the_batch() {
    let flat = |build: Build| build.single().1;
    assert_eq!(flat(Build::new(13, &[3, 2, 2]).node("Flatten", &["x"], "y", &[])), [12]);
    assert_eq!(flat(Build::new(13, &[3, 2, 2]).node("Flatten", &["x"], "y", &[int("axis", -3)])), [12]);
    assert_eq!(flat(Build::new(13, &[1, 2, 2]).node("Flatten", &["x"], "y", &[int("axis", 2)])), [4]);
    let to = |target: &[i64]| Build::new(13, &[3, 2, 2]).ints("t", &[target.len() as i64], target);
    assert_eq!(flat(to(&[0, -1]).node("Reshape", &["x", "t"], "y", &[])), [12]);
    assert_eq!(flat(to(&[-1, 12]).node("Reshape", &["x", "t"], "y", &[])), [12]);
    assert_eq!(flat(to(&[4, 0, -1]).batch(4).node("Reshape", &["x", "t"], "y", &[])), [3, 4]);
    let squeeze = |opset, build: Build| match opset {
        ..13 => build.node("Squeeze", &["x"], "y", &[int_list("axes", &[2, -1])]),
        _ => build.ints("a", &[2], &[2, -1]).node("Squeeze", &["x", "a"], "y", &[]),
    };
    assert_eq!(flat(squeeze(11, Build::new(11, &[3, 1, 1]))), [3]);
    assert_eq!(flat(squeeze(13, Build::new(13, &[3, 1, 1]))), [3]);
    assert_eq!(flat(Build::new(13, &[3, 1, 1]).node("Squeeze", &["x"], "y", &[])), [3]);
    let unsqueeze = Build::new(13, &[3]).ints("a", &[2], &[3, 2]).node("Unsqueeze", &["x", "a"], "y", &[]);
    assert_eq!(flat(unsqueeze), [3, 1, 1]);
    let same = Build::new(13, &[3]).node("Flatten", &["x"], "f", &[]).node("Relu", &["f"], "y", &[]);
    assert_eq!(op_types(&same.import()), ["Relu"]);
}

#[test]
fn softmax_has_one_axis() {
    let axis = |opset, shape: &[i64], attributes: &[_]| match Build::new(opset, shape)
        .node("Softmax", &["x"], "y", attributes)
        .single()
        .0
        .op
    {
        Op::Softmax { axis, .. } => axis,
        other => panic!("{other:?}"),
    };
    assert_eq!(axis(13, &[3, 4, 4], &[]), 2);
    assert_eq!(axis(13, &[3, 4, 4], &[int("axis", 1)]), 0);
    assert_eq!(axis(11, &[10], &[]), 0);
    assert_eq!(axis(11, &[3, 1, 1], &[]), 0);
    assert_eq!(axis(11, &[1, 1, 3], &[]), 2);
}

#[test]
fn identities_are_gone_and_the_output_keeps_its_name() {
    let build = Build::new(13, &[3]).ints("off", &[], &[0]).node("Identity", &["x"], "i", &[]);
    let build = build.node("Dropout", &["i", "", "off"], "d", &[]).node("Relu", &["d"], "r", &[]);
    let graph = build.node("Cast", &["r"], "c", &[int("to", 1)]).node("Identity", &["c"], "y", &[]).import();
    assert_eq!(op_types(&graph), ["Relu"]);
    assert_eq!(graph.values.iter().map(|value| value.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn dead_nodes_and_values_are_dropped() {
    let build = Build::new(13, &[3]).weight("unread", &[4]).node("NoSuchOperator", &["x"], "dead", &[]);
    let graph = build.node("Relu", &["x"], "y", &[]).import();
    assert_eq!((graph.nodes.len(), graph.values.len()), (1, 2));
    assert_eq!(graph.nodes[0].name, "Relu_1");
}

#[test]
fn made_up_names_are_unique() {
    let build = Build::new(13, &[3]).node("Relu", &["x"], "a", &[]).named("Relu_0", "Relu", &["a"], "b", &[]);
    let graph = build.named("Relu_0", "Relu", &["b"], "y", &[]).import();
    assert_eq!(
        graph.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(),
        ["Relu_0#3", "Relu_0", "Relu_0#2"]
    );
}
