//! Layers with weights, and what is folded into them.

use super::build::*;
use crate::graph::{Conv, Groups, Linear, Node, Op, Window};

fn conv(node: &Node) -> &Conv {
    match &node.op {
        Op::Conv(conv) => conv,
        other => panic!("{other:?}"),
    }
}

fn linear(node: &Node) -> &Linear {
    match &node.op {
        Op::Linear(linear) => linear,
        other => panic!("{other:?}"),
    }
}

#[test]
fn conv_keeps_its_window_groups_and_names() {
    let attributes = [
        int("group", 2),
        int_list("kernel_shape", &[3, 2]),
        int_list("strides", &[2, 1]),
        int_list("dilations", &[1, 2]),
        int_list("pads", &[1, 0, 1, 2]),
    ];
    let build = Build::new(13, &[4, 9, 8]).weight("a.weight", &[6, 2, 3, 2]).weight("b", &[6]);
    let (node, shape) = build.node("Conv", &["x", "a.weight", "b"], "y", &attributes).single();
    assert_eq!((node.name.as_str(), node.op_type.as_str(), shape), ("Conv_0", "Conv", vec![6, 5, 8]));
    let conv = conv(&node);
    assert_eq!((conv.weight_name.as_str(), conv.groups, &conv.weight.dims[..]), ("a.weight", 2, &[6, 2, 3, 2][..]));
    assert_eq!(conv.window, Window { kernel: [3, 2], stride: [2, 1], dilation: [1, 2], pads: [1, 0, 1, 2] });
    assert_eq!(conv.bias.as_ref().unwrap()[..2], [-3.0 / 16.0, -2.0 / 16.0]);
}

#[test]
fn auto_pad_becomes_pads() {
    let pads = |auto: &str, size: i64, stride: i64| {
        let attributes = [text("auto_pad", auto), int_list("strides", &[stride, stride])];
        let build = Build::new(13, &[1, size, size]).weight("w", &[1, 1, 3, 3]);
        let (node, shape) = build.node("Conv", &["x", "w"], "y", &attributes).single();
        (conv(&node).window.pads, shape[1])
    };
    assert_eq!(pads("SAME_UPPER", 8, 2), ([0, 0, 1, 1], 4));
    assert_eq!(pads("SAME_LOWER", 8, 2), ([1, 1, 0, 0], 4));
    assert_eq!(pads("SAME_UPPER", 7, 2), ([1, 1, 1, 1], 4));
    assert_eq!(pads("SAME_UPPER", 5, 5), ([0, 0, 0, 0], 1));
    assert_eq!(pads("VALID", 8, 2), ([0; 4], 3));
    assert_eq!(pads("NOTSET", 8, 1), ([0; 4], 6));
}

fn with_norm(build: Build, channels: i64) -> Build {
    let numbers = |from: f32| (0..channels).map(|i| from + 0.37 * i as f32).collect::<Vec<_>>();
    build
        .floats("gamma", &[channels], &numbers(0.9))
        .floats("beta", &[channels], &numbers(-0.3))
        .floats("mean", &[channels], &numbers(0.11))
        .floats("var", &[channels], &numbers(0.7))
}

/// Factor and summand of channel `i` of [`with_norm`].
fn norm(i: usize, epsilon: f32) -> (f64, f64) {
    let at = |from: f32| f64::from(from + 0.37 * i as f32);
    let factor = at(0.9) / (at(0.7) + f64::from(epsilon)).sqrt();
    (factor, at(-0.3) - at(0.11) * factor)
}

const NORM: [&str; 5] = ["c", "gamma", "beta", "mean", "var"];

#[test]
fn batch_normalization_goes_into_the_convolution() {
    let build = with_norm(Build::new(9, &[2, 4, 4]).weight("w", &[3, 2, 1, 1]).weight("b", &[3]), 3);
    let build = build.named("conv", "Conv", &["x", "w", "b"], "c", &[]);
    let (node, _) = build.named("norm", "BatchNormalization", &NORM, "y", &[float("epsilon", 0.125)]).single();
    assert_eq!((node.name.as_str(), node.op_type.as_str()), ("conv", "Conv"));
    let conv = conv(&node);
    for channel in 0..3 {
        let (factor, summand) = norm(channel, 0.125);
        for tap in 0..2 {
            let before = f64::from((channel * 2 + tap) as f32 - 3.0) / 16.0;
            assert_eq!(conv.weight.data[channel * 2 + tap], (before * factor) as f32);
        }
        let before = f64::from(channel as f32 - 3.0) / 16.0;
        assert_eq!(conv.bias.as_ref().unwrap()[channel], (before * factor + summand) as f32);
    }
}

#[test]
fn folding_one_reader_of_a_shared_weight_leaves_the_other() {
    let build = with_norm(Build::new(13, &[3, 4, 4]).weight("w", &[3, 3, 1, 1]), 3);
    let build = build.node("Conv", &["x", "w"], "c", &[]).node("BatchNormalization", &NORM, "n", &[]);
    let graph = build.node("Conv", &["n", "w"], "y", &[]).import();
    let (first, second) = (conv(&graph.nodes[0]), conv(&graph.nodes[1]));
    assert_eq!(second.weight.data[..2], [-3.0 / 16.0, -2.0 / 16.0]);
    assert_eq!(first.weight.data[0], (-3.0 / 16.0 * norm(0, 1e-5).0) as f32);
    assert_eq!(second.bias, None);
}

#[test]
fn batch_normalization_goes_into_a_linear_layer() {
    let build = with_norm(Build::new(13, &[2]).weight("w", &[3, 2]), 3);
    let build = build.node("Gemm", &["x", "w"], "c", &[int("transB", 1)]);
    let (node, _) = build.node("BatchNormalization", &NORM, "y", &[]).single();
    let (factor, summand) = norm(2, 1e-5);
    assert_eq!(linear(&node).weight.data[5], (2.0 / 16.0 * factor) as f32);
    assert_eq!(linear(&node).bias.as_ref().unwrap()[2], summand as f32);
}

#[test]
fn batch_normalization_stands_alone_where_its_input_is_read_elsewhere() {
    let base = with_norm(Build::new(13, &[3, 4, 4]).weight("w", &[3, 3, 1, 1]), 3);
    let base = base.node("Conv", &["x", "w"], "c", &[]);
    let read_twice = base.clone().node("BatchNormalization", &NORM, "n", &[]).node("Add", &["c", "n"], "y", &[]);
    let also_output = base.clone().output("c").node("BatchNormalization", &NORM, "y", &[]);
    let through_identity = base
        .node("Identity", &["c"], "i", &[])
        .node("BatchNormalization", &["i", "gamma", "beta", "mean", "var"], "n", &[])
        .node("Add", &["c", "n"], "y", &[]);
    for build in [read_twice, also_output, through_identity] {
        let graph = build.import();
        let alone = &graph.nodes[1];
        assert_eq!((alone.op_type.as_str(), graph.nodes[0].op_type.as_str()), ("BatchNormalization", "Conv"));
        let conv = conv(alone);
        assert_eq!((conv.groups, &conv.weight.dims[..], conv.weight_name.as_str()), (3, &[3, 1, 1, 1][..], "gamma"));
        assert_eq!(conv.weight.data[1], norm(1, 1e-5).0 as f32);
        assert_eq!(conv.bias.as_ref().unwrap()[1], norm(1, 1e-5).1 as f32);
    }
}

#[test]
fn batch_normalization_of_features_becomes_a_picture_of_one_pixel() {
    let build = with_norm(Build::new(13, &[3]), 3).node("Relu", &["x"], "c", &[]);
    let graph = build.named("bn", "BatchNormalization", &NORM, "y", &[]).import();
    assert_eq!(op_types(&graph), ["Relu", "BatchNormalization", "BatchNormalization", "BatchNormalization"]);
    assert!(matches!(graph.nodes[1].op, Op::Reshape) && matches!(graph.nodes[3].op, Op::Reshape));
    assert_eq!(graph.value(graph.nodes[2].output).shape, [3, 1, 1]);
    assert_eq!((shape(&graph), graph.nodes[2].name.as_str()), (vec![3], "bn"));
}

#[test]
fn a_constant_is_added_to_the_bias() {
    let dims: [&[i64]; 5] = [&[3, 1, 1], &[1, 3, 1, 1], &[1], &[], &[1, 1, 1, 1]];
    for dims in dims {
        let build = Build::new(13, &[2, 4, 4]).weight("w", &[3, 2, 1, 1]).weight("a", dims);
        let (node, _) = build.node("Conv", &["x", "w"], "c", &[]).node("Add", &["a", "c"], "y", &[]).single();
        let all = dims.iter().product::<i64>() == 3;
        let expected = if all { [-3.0, -2.0, -1.0] } else { [-3.0; 3] }.map(|b: f32| b / 16.0);
        assert_eq!(conv(&node).bias.as_ref().unwrap()[..], expected);
        assert_eq!(conv(&node).weight.data[0], -3.0 / 16.0);
    }
    let build = Build::new(13, &[2]).weight("w", &[2, 3]).weight("a", &[3]);
    let (node, _) = build.node("MatMul", &["x", "w"], "c", &[]).node("Add", &["c", "a"], "y", &[]).single();
    assert_eq!(linear(&node).bias.as_ref().unwrap()[..], [-3.0 / 16.0, -2.0 / 16.0, -1.0 / 16.0]);
}

#[test]
fn mat_mul_turns_its_weight() {
    let build = Build::new(13, &[2]).weight("w", &[2, 3]).node("MatMul", &["x", "w"], "y", &[]);
    let (node, shape) = build.single();
    assert_eq!((shape, &linear(&node).weight.dims[..]), (vec![3], &[3, 2][..]));
    assert_eq!(linear(&node).weight.data[..], [-3.0, 0.0, -2.0, 1.0, -1.0, 2.0].map(|w: f32| w / 16.0));
}

#[test]
fn gemm_applies_alpha_and_beta() {
    let gemm = |dims: &[i64], attributes: &[_]| {
        let build = Build::new(13, &[2]).weight("fc.weight", &[3, 2]).floats(
            "b",
            dims,
            &[4.0, 5.0, 6.0][..dims.iter().product::<i64>() as usize],
        );
        let attributes = [&[int("transB", 1)], attributes].concat();
        linear(&build.node("Gemm", &["x", "fc.weight", "b"], "y", &attributes).single().0).clone()
    };
    let scaled = gemm(&[3], &[float("alpha", 2.0), float("beta", 0.5)]);
    assert_eq!(scaled.weight.data[..2], [-6.0 / 16.0, -4.0 / 16.0]);
    assert_eq!(scaled.bias.unwrap()[..], [2.0, 2.5, 3.0]);
    assert_eq!(gemm(&[1, 3], &[]).bias.unwrap()[..], [4.0, 5.0, 6.0]);
    assert_eq!(gemm(&[], &[]).bias.unwrap()[..], [4.0; 3]);
    assert_eq!(gemm(&[1, 1], &[]).bias.unwrap()[..], [4.0; 3]);
    assert_eq!(gemm(&[3], &[]).weight_name, "fc.weight");
}

#[test]
fn a_weight_is_named_after_its_module() {
    let name = |stored: &str, read: &str| {
        let build = Build::new(13, &[2]).weight(stored, &[2, 2]).node("Identity", &[stored], read, &[]);
        linear(&build.node("MatMul", &["x", read], "y", &[]).single().0).weight_name.clone()
    };
    assert_eq!(name("a.weight", "b.weight"), "b.weight");
    assert_eq!(name("a.weight", "/Transpose_output_0"), "a.weight");
    assert_eq!(name("onnx::MatMul_1", "onnx::MatMul_2"), "onnx::MatMul_2");
}

#[test]
fn groups_have_module_paths() {
    let build = Build::new(13, &[2, 4, 4]).weight("onnx::Conv_538", &[2, 2, 1, 1]);
    let name = "/features/features.1/conv/conv.0/conv.0.0/Conv";
    let graph = build.named(name, "Conv", &["x", "onnx::Conv_538"], "y", &[]).import();
    assert_eq!(Groups::of(&graph).all()[0].id, "features.1.conv.0.0");
}
