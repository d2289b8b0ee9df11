//! Bytes from anywhere: an error or a graph, soon, and never a panic.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::build::*;
use crate::{
    graph::{Graph, Groups, Op},
    onnx::{import, proto::*},
};

/// A model that goes through most of the importer.
fn valid() -> Build {
    let build =
        Build::new(13, &[2, 6, 6]).weight("a.weight", &[4, 2, 3, 3]).weight("n", &[4]).floats("v", &[4], &[1.0; 4]);
    let build = build.ints("zero", &[], &[0]).ints("rest", &[1], &[-1]).ints("front", &[1], &[0]);
    let build = build.weight("b.weight", &[4, 5]).weight("b.bias", &[5]).floats("six", &[], &[6.0]);
    build
        .node("Conv", &["x", "a.weight"], "c", &[int_list("pads", &[1, 1, 1, 1]), text("auto_pad", "NOTSET")])
        .node("BatchNormalization", &["c", "n", "n", "n", "v"], "bn", &[float("epsilon", 1e-3)])
        .node("Clip", &["bn", "", "six"], "r", &[])
        .node(
            "MaxPool",
            &["r"],
            "p",
            &[int_list("kernel_shape", &[3, 3]), int_list("strides", &[2, 2]), int("ceil_mode", 1)],
        )
        .node("Add", &["p", "p"], "s", &[])
        .node("ReduceMean", &["s"], "m", &[int_list("axes", &[2, 3])])
        .node("Shape", &["m"], "shape", &[])
        .node("Gather", &["shape", "zero"], "batch", &[])
        .node("Unsqueeze", &["batch", "front"], "batches", &[])
        .node("Concat", &["batches", "rest"], "target", &[int("axis", 0)])
        .node("Reshape", &["m", "target"], "f", &[])
        .node("Gemm", &["f", "b.weight", "b.bias"], "g", &[float("alpha", 0.5)])
        .node("Softmax", &["g"], "y", &[])
        .output("y")
}

/// A model of operators that the first has not, in as few nodes.
fn varied() -> Build {
    let build = Build::new(17, &[4, 6, 6]).weight("w", &[4, 2, 3, 3]).weight("n", &[4]).ints("ax", &[1], &[1]);
    let build = build.ints("s", &[1], &[1]).ints("e", &[1], &[-1]).ints("two", &[1], &[2]).weight("m", &[8, 3]);
    let build = build.ints("pads", &[8], &[0, 0, 1, 1, 0, 0, 0, 1]).ints("flat", &[3], &[0, 8, -1]);
    let build = build.floats("scales", &[4], &[1.0, 1.0, 2.0, 0.5]).ints("parts", &[2], &[1, 3]);
    build
        .node("ConvTranspose", &["x", "w"], "c", &[int("group", 2), int_list("strides", &[2, 2])])
        .node("HardSwish", &["c"], "h", &[])
        .node("Pad", &["h", "pads"], "p", &[text("mode", "reflect")])
        .node("Resize", &["p", "", "scales"], "r", &[text("mode", "linear")])
        .node("Slice", &["r", "s", "e", "ax", "s"], "sl", &[])
        .node("ReduceMax", &["r"], "rm", &[int_list("axes", &[2, 3])])
        .node("Mul", &["r", "rm"], "g", &[])
        .node("LRN", &["g"], "l", &[int("size", 3)])
        .node("Concat", &["l", "sl", "x2"], "cc", &[int("axis", 1)])
        .node("Reshape", &["cc", "flat"], "f", &[])
        .node("Transpose", &["f"], "t", &[int_list("perm", &[0, 2, 1])])
        .node("LayerNormalization", &["t", "n8", "n8"], "ln", &[])
        .node("MatMul", &["ln", "m"], "mm", &[])
        .node("Split", &["mm", "parts2"], "sp", &[int("axis", 2)])
        .node("Gather", &["sp", "two"], "y", &[int("axis", 1)])
        .ints("parts2", &[2], &[1, 2])
        .weight("n8", &[8])
        .node("Identity", &["sl2"], "x2", &[])
        .node("Gather", &["l", "gi"], "sl2", &[int("axis", 1)])
        .ints("gi", &[2], &[0, -1])
        .output("y")
}

/// What the rest of qtuned relies on.
fn check(graph: &Graph) {
    let mut written = vec![false; graph.values.len()];
    graph.inputs.iter().for_each(|input| written[input.0] = true);
    for node in &graph.nodes {
        assert!(!node.inputs.is_empty() && node.inputs.iter().all(|id| written[id.0]));
        assert!(!std::mem::replace(&mut written[node.output.0], true));
        let data = match &node.op {
            Op::Conv(conv) => Some((&conv.weight, &conv.bias)),
            Op::Linear(linear) => Some((&linear.weight, &linear.bias)),
            _ => None,
        };
        if let Some((weight, bias)) = data {
            assert_eq!(weight.dims.iter().product::<usize>(), weight.data.len());
            assert!(bias.as_ref().is_none_or(|bias| bias.len() == weight.dims[0]));
            assert!(graph.value(node.output).shape.contains(&weight.dims[0]));
        }
        let shape = |at: usize| &graph.value(node.inputs[at]).shape;
        match &node.op {
            Op::Transpose { order } => assert_eq!(order.len(), shape(0).len()),
            Op::Select { axis, indices } => assert!(indices.iter().all(|&at| at < shape(0)[*axis])),
            Op::Resample { axis, taps } => {
                assert!(taps.iter().flatten().all(|&(at, _)| at < shape(0)[*axis]));
            }
            Op::Concat { axis } => assert!((0..node.inputs.len()).all(|at| shape(at).len() > *axis)),
            Op::MatMul => assert_eq!(shape(0).last(), shape(1).iter().rev().nth(1)),
            _ => {}
        }
    }
    assert!(written.iter().all(|&written| written));
    assert!(graph.values.iter().all(|value| !value.shape.is_empty() && !value.shape.contains(&0)));
    Groups::of(graph);
}

fn survive(bytes: &[u8]) {
    let start = Instant::now();
    if let Ok(model) = import(bytes, None) {
        check(&model.graph);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn the_model_itself_is_valid() {
    let graph = import(&valid().bytes(), None).unwrap().graph;
    check(&graph);
    assert_eq!(op_types(&graph), ["Conv", "Clip", "MaxPool", "Add", "ReduceMean", "Reshape", "Gemm", "Softmax"]);
}

#[test]
fn the_varied_model_is_valid_and_runs() {
    let graph = import(&varied().bytes(), None).map_err(|error| chain(&error)).unwrap().graph;
    check(&graph);
    assert_eq!(shape(&graph), [1, 1]);
}

#[test]
fn every_truncation_is_survived() {
    for bytes in [valid().bytes(), varied().bytes()] {
        for len in 0..bytes.len() {
            survive(&bytes[..len]);
        }
    }
}

#[test]
fn every_single_byte_can_be_wrong() {
    for bytes in [valid().bytes(), varied().bytes()] {
        for at in 0..bytes.len() {
            for value in [0, 0x7f, 0xff, bytes[at] ^ 1, bytes[at].wrapping_add(1)] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                survive(&bytes);
            }
        }
    }
}

#[test]
fn claims_are_not_believed() {
    let claim = |dims: &[i64]| {
        let mut build = Build::new(13, &[4]).node("MatMul", &["x", "w"], "y", &[]);
        build.graph().initializer.push(TensorProto { dims: dims.to_vec(), ..floats("w", &[], &[1.0]) });
        build.error()
    };
    assert_eq!(claim(&[1 << 30]), "tensor `w`: its dimensions need 4294967296 bytes, its data has 4");
    assert_eq!(claim(&[1 << 31, 1 << 31]), "tensor `w`: its dimensions are too large");
    assert_eq!(claim(&[-4, -1]), "tensor `w`: dimension -4 is negative");
}

#[test]
fn one_tensor_cannot_be_copied_without_end() {
    // 1 MiB of weights, read by 2,000 nodes that each need a copy of their own.
    let mut build = Build::new(13, &[512]).weight("w", &[512, 512]);
    let mut from = "x".to_owned();
    for i in 0..2000 {
        let to = if i == 1999 { "y".to_owned() } else { format!("v{i}") };
        build = build.node("MatMul", &[&from, "w"], &to, &[]);
        from = to;
    }
    let error = build.error();
    assert!(error.ends_with("the model's constants are read and copied too often for its size"), "{error}");
}

#[test]
fn concatenation_cannot_double_without_end() {
    let mut build = Build::new(13, &[4]).ints("c0", &[2], &[0, 0]);
    for i in 0..60 {
        let from = format!("c{i}");
        build = build.node("Concat", &[&from, &from], &format!("c{}", i + 1), &[int("axis", 0)]);
    }
    let error = build.node("Reshape", &["x", "c60"], "y", &[]).error();
    assert_eq!(error, "operator `Concat` (node `Concat_11`, domain `ai.onnx`, opset 13) is not supported");
}

#[test]
fn names_that_are_all_alike_cost_no_more() {
    let mut build = Build::new(13, &[4]);
    let mut from = "x".to_owned();
    for i in 0..20_000 {
        let to = if i == 19_999 { "y".to_owned() } else { format!("v{i}") };
        build = build.named("same", "Relu", &[&from], &to, &[]);
        from = to;
    }
    let start = Instant::now();
    assert_eq!(build.import().nodes.len(), 20_000);
    assert!(start.elapsed() < Duration::from_secs(20));
}

proptest! {
    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        survive(&bytes);
    }

    #[test]
    fn random_changes(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), cut in any::<Option<prop::sample::Index>>()) {
        let mut bytes = valid().bytes();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survive(&bytes);
    }

    /// Well-formed messages with other numbers in them reach further than other bytes do.
    #[test]
    fn random_numbers(
        which in any::<bool>(),
        node in any::<prop::sample::Index>(),
        numbers in proptest::collection::vec(prop_oneof![-3i64..8, any::<i64>()], 0..6),
        dims in proptest::collection::vec(prop_oneof![-1i64..8, any::<i64>()], 0..5),
        tensor in any::<prop::sample::Index>(),
        float in any::<f32>(),
    ) {
        let mut build = if which { valid() } else { varied() };
        let graph = build.graph();
        let node = node.index(graph.node.len());
        for attribute in &mut graph.node[node].attribute {
            attribute.i = numbers.first().copied().unwrap_or(0);
            attribute.ints = numbers.clone();
            attribute.f = float;
        }
        let tensor = tensor.index(graph.initializer.len());
        if graph.initializer[tensor].data_type == data_type::INT64 {
            graph.initializer[tensor].int64_data = numbers;
        }
        graph.initializer[tensor].dims = dims;
        survive(&build.bytes());
    }

    /// Nodes that read and write other things than they should.
    #[test]
    fn random_wiring(swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5)) {
        let mut build = valid();
        let graph = build.graph();
        let mut names: Vec<String> = graph.node.iter().flat_map(|node| [&node.input[..], &node.output[..]].concat()).collect();
        names.push("x".to_owned());
        for (node, input, name) in swaps {
            let node = &mut graph.node[node.index(13)];
            let input = input.index(node.input.len());
            node.input[input].clone_from(&names[name.index(names.len())]);
        }
        survive(&build.bytes());
    }
}
