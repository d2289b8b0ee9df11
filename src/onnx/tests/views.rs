//! Tensors whose axes lie elsewhere than in the file.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::build::*;
use crate::{
    engine::Engine,
    graph::{Graph, Groups, Op},
    kernels::Kernels,
    onnx::{import, proto::*},
};

const TO_LAST: [i64; 4] = [0, 2, 3, 1];
const TO_FIRST: [i64; 4] = [0, 3, 1, 2];

fn run(graph: &Graph, x: Vec<f32>, batch: usize) -> Vec<f32> {
    let graph = Arc::new(graph.clone());
    let dims: Vec<usize> = std::iter::once(batch).chain(graph.value(graph.inputs[0]).shape.iter().copied()).collect();
    let engine = Engine::new(graph.clone(), Arc::new(Groups::of(&graph)), Kernels::detect().unwrap());
    let x = Tensor::from_vec(x, dims, &Device::Cpu).unwrap();
    let outputs = engine.fp32_plan().run(&x.into(), false).unwrap();
    outputs[0].flatten_all().unwrap().to_vec1().unwrap()
}

fn numbers(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect()
}

#[test]
fn the_transposes_of_tf2onnx_meet_their_inverses() {
    let build = Build::new(13, &[9, 8, 3]).weight("w", &[4, 3, 3, 3]).weight("b", &[4]).weight("pw", &[4, 5]);
    let build = build.node("Transpose", &["x"], "t0", &[int_list("perm", &TO_FIRST)]);
    let build = build.node("Conv", &["t0", "w"], "c", &[text("auto_pad", "SAME_UPPER")]);
    let build = build.node("Transpose", &["c"], "t1", &[int_list("perm", &TO_LAST)]);
    let build = build.node("Add", &["t1", "b"], "a", &[]).node("Relu", &["a"], "r", &[]);
    let build = build.node("MatMul", &["r", "pw"], "m", &[]);
    let build = build.node("ReduceMean", &["m"], "y", &[int_list("axes", &[1, 2]), int("keepdims", 0)]);
    let model = import(&build.output("y").bytes(), None).unwrap();
    assert!(model.inputs[0].channels_last);
    assert_eq!(model.graph.value(model.graph.inputs[0]).shape, [3, 9, 8]);
    // The bias is in the convolution, and the product is one that sees a pixel.
    assert_eq!(op_types(&model.graph), ["Conv", "Relu", "MatMul", "ReduceMean", "Reshape"]);
    assert!(matches!(model.graph.nodes[2].op, Op::Conv(_)) && model.graph.nodes[3].op == Op::GlobalAveragePool);
    assert_eq!(shape(&model.graph), [5]);
}

#[test]
fn a_value_in_another_order_is_transposed_where_it_must_be() {
    let build = Build::new(13, &[2, 3, 4]).node("Transpose", &["x"], "t", &[int_list("perm", &[0, 2, 3, 1])]);
    let graph = build.node("Relu", &["t"], "y", &[]).import();
    assert_eq!(op_types(&graph), ["Relu", "Transpose"]);
    let x = numbers(2 * 24);
    let got = run(&graph, x.clone(), 2);
    for (n, h, w, c) in
        (0..2).flat_map(|n| (0..3).flat_map(move |h| (0..4).flat_map(move |w| (0..2).map(move |c| (n, h, w, c)))))
    {
        assert_eq!(got[((n * 3 + h) * 4 + w) * 2 + c], x[((n * 2 + c) * 3 + h) * 4 + w].max(0.0));
    }
}

#[test]
fn a_length_is_a_picture_of_one_row() {
    let build = Build::new(13, &[2, 7]).weight("w", &[3, 2, 3]).weight("b", &[3]);
    let attributes = [int_list("pads", &[1, 1]), int_list("strides", &[2])];
    let build = build.node("Conv", &["x", "w", "b"], "c", &attributes);
    let graph = build.node("MaxPool", &["c"], "y", &[int_list("kernel_shape", &[2])]).import();
    assert_eq!(shape(&graph), [3, 3]);
    let x = numbers(14);
    let weight = |o: usize, i: usize, k: usize| ((o * 2 + i) * 3 + k) as f32 / 16.0 - 3.0 / 16.0;
    let conv = |o: usize, at: usize| {
        let mut sum = (o as f32 - 3.0) / 16.0;
        for (i, k) in (0..2).flat_map(|i| (0..3).map(move |k| (i, k))) {
            if let Some(from) = (at * 2 + k).checked_sub(1).filter(|&from| from < 7) {
                sum += weight(o, i, k) * x[i * 7 + from];
            }
        }
        sum
    };
    let got = run(&graph, x.clone(), 1);
    for (o, at) in (0..3).flat_map(|o| (0..3).map(move |at| (o, at))) {
        assert!((got[o * 3 + at] - conv(o, at).max(conv(o, at + 1))).abs() < 1e-5);
    }
}

/// Self-attention of `[N, 3, 4]` in two heads, with the batch second, as PyTorch exports it.
fn attention(batch: Option<i64>) -> Graph {
    let build = Build::new(13, &[3, 4]).weight("w", &[4, 12]).weight("o", &[4, 4]);
    let build = if let Some(batch) = batch { build.batch(batch) } else { build };
    let build = build.ints("i0", &[], &[0]).ints("i1", &[], &[1]).ints("i2", &[], &[2]).ints("axis", &[1], &[0]);
    let build = build.ints("three", &[1], &[3]).ints("two", &[1], &[2]).ints("four", &[1], &[4]);
    let build = build.ints("heads", &[], &[2]).ints("third", &[1], &[3]).floats("scale", &[], &[0.5]);
    let build = build.node("Transpose", &["x"], "s", &[int_list("perm", &[1, 0, 2])]);
    let build = build.node("Shape", &["s"], "shape", &[]).node("Gather", &["shape", "i1"], "n", &[]);
    let build = build.node("Mul", &["n", "heads"], "nh", &[]).node("Unsqueeze", &["n", "axis"], "n1", &[]);
    let build = build.node("Unsqueeze", &["nh", "axis"], "nh1", &[]);
    let build = build.node("MatMul", &["s", "w"], "qkv", &[]);
    let build = build.node("Concat", &["three", "n1", "three", "four"], "t0", &[int("axis", 0)]);
    let build = build.node("Reshape", &["qkv", "t0"], "r", &[]).node("Unsqueeze", &["r", "axis"], "u", &[]);
    let build = build.node("Transpose", &["u"], "v", &[int_list("perm", &[3, 1, 2, 0, 4])]);
    let mut build = build.node("Squeeze", &["v", "third"], "parts", &[]);
    build = build.node("Concat", &["three", "nh1", "two"], "t1", &[int("axis", 0)]);
    build = build.node("Concat", &["n1", "two", "three", "two"], "t2", &[int("axis", 0)]);
    for (part, index) in [("q", "i0"), ("k", "i1"), ("v", "i2")] {
        let name = |suffix: &str| format!("{part}{suffix}");
        build = build.node("Gather", &["parts", index], &name("0"), &[int("axis", 0)]);
        build = build.node("Reshape", &[&name("0"), "t1"], &name("1"), &[]);
        build = build.node("Transpose", &[&name("1")], &name("2"), &[int_list("perm", &[1, 0, 2])]);
        build = build.node("Reshape", &[&name("2"), "t2"], &name("3"), &[]);
    }
    build = build.node("Transpose", &["k3"], "kt", &[int_list("perm", &[0, 1, 3, 2])]);
    build = build.node("MatMul", &["q3", "kt"], "qk", &[]).node("Mul", &["qk", "scale"], "scores", &[]);
    build = build.node("Softmax", &["scores"], "p", &[int("axis", -1)]).node("MatMul", &["p", "v3"], "a", &[]);
    build = build.node("Transpose", &["a"], "b", &[int_list("perm", &[2, 0, 1, 3])]);
    build = build.ints("rows", &[2], &[-1, 4]).node("Reshape", &["b", "rows"], "c", &[]);
    build = build.node("Gemm", &["c", "o"], "g", &[]);
    build = build.node("Concat", &["three", "n1", "four"], "t3", &[int("axis", 0)]);
    build = build.node("Reshape", &["g", "t3"], "d", &[]);
    build.node("Transpose", &["d"], "y", &[int_list("perm", &[1, 0, 2])]).import()
}

#[test]
fn the_batch_may_stand_elsewhere_and_be_any() {
    let open = attention(None);
    let x = numbers(3 * 12);
    let all = run(&open, x.clone(), 3);
    // Each sample alone gives the same, also in a file made for one.
    for graph in [&open, &attention(Some(1))] {
        for sample in 0..3 {
            let alone = run(graph, x[sample * 12..(sample + 1) * 12].to_vec(), 1);
            assert_eq!(alone, all[sample * 12..(sample + 1) * 12]);
        }
    }
    // By hand, for the first sample.
    let weight = |row: usize, column: usize| (row * 12 + column) as f32 / 16.0 - 3.0 / 16.0;
    let qkv = |t: usize, column: usize| (0..4).map(|i| x[t * 4 + i] * weight(i, column)).sum::<f32>();
    let mut mixed = [[0.0f32; 4]; 3];
    for (head, t) in (0..2).flat_map(|head| (0..3).map(move |t| (head, t))) {
        let score = |s: usize| 0.5 * (0..2).map(|d| qkv(t, head * 2 + d) * qkv(s, 4 + head * 2 + d)).sum::<f32>();
        let largest = (0..3).map(score).fold(f32::MIN, f32::max);
        let total: f32 = (0..3).map(|s| (score(s) - largest).exp()).sum();
        for d in 0..2 {
            mixed[t][head * 2 + d] =
                (0..3).map(|s| (score(s) - largest).exp() / total * qkv(s, 8 + head * 2 + d)).sum();
        }
    }
    for (t, o) in (0..3).flat_map(|t| (0..4).map(move |o| (t, o))) {
        let wanted: f32 = (0..4).map(|i| mixed[t][i] * ((i * 4 + o) as f32 / 16.0 - 3.0 / 16.0)).sum();
        assert!((all[t * 4 + o] - wanted).abs() < 1e-4 * wanted.abs().max(1.0), "{} {wanted}", all[t * 4 + o]);
    }
}

/// `x·xᵀ` of each of two heads of `[N, 2, 3, 4]`, the heads joined to the batch, as tf2onnx writes Einsum. The second
/// operand has them joined, or not.
fn joined_heads(both: bool) -> Build {
    let build = Build::new(15, &[2, 3, 4]).ints("lead", &[2], &[0, 1]).ints("open", &[1], &[-1]);
    let build = build.ints("four", &[1], &[4]).ints("last", &[1], &[4]).ints("sizes", &[3], &[3, 3, 1]);
    let build = build.node("Shape", &["x"], "s", &[]).node("Gather", &["s", "lead"], "nh", &[]);
    let build = build.node("ReduceProd", &["nh"], "joined", &[int("keepdims", 1)]);
    let build = build.node("Concat", &["joined", "open", "four"], "t", &[int("axis", 0)]);
    let build = build.node("Relu", &["x"], "r", &[]).node("Reshape", &["r", "t"], "a", &[]);
    let build = build.node("Transpose", &["a"], "b", &[int_list("perm", &[0, 2, 1])]);
    let build = build.ints("flat", &[3], &[0, 4, 6]).node("Reshape", &["r", "flat"], "alone", &[]);
    let build = build.node("MatMul", &["a", if both { "b" } else { "alone" }], "m", &[]);
    let build = build.node("Concat", &["nh", "sizes"], "back", &[int("axis", 0)]);
    build.node("Reshape", &["m", "back"], "p", &[]).node("Squeeze", &["p", "last"], "y", &[])
}

#[test]
fn heads_may_be_joined_to_the_batch() {
    let graph = joined_heads(true).import();
    assert_eq!(shape(&graph), [2, 3, 3]);
    let x = numbers(3 * 24);
    let got = run(&graph, x.clone(), 3);
    let x = |matrix: usize, row: usize, i: usize| x[(matrix * 3 + row) * 4 + i].max(0.0);
    for (matrix, row, column) in (0..6).flat_map(|m| (0..9).map(move |at| (m, at / 3, at % 3))) {
        let wanted: f32 = (0..4).map(|i| x(matrix, row, i) * x(matrix, column, i)).sum();
        assert_eq!(got[(matrix * 3 + row) * 3 + column], wanted);
    }
    assert!(joined_heads(false).error().contains("is no product"));
}

#[test]
fn several_outputs_and_parts() {
    let mut build = Build::new(13, &[6, 2, 2]).ints("sizes", &[2], &[2, 4]);
    build = build.node("Split", &["x", "sizes"], "a", &[int("axis", 1)]);
    build.graph().node[0].output.push("b".to_owned());
    let build = build.node("Relu", &["b"], "c", &[]).node("Concat", &["c", "a"], "y", &[int("axis", 1)]);
    let graph = import(&build.output("y").output("c").bytes(), None).unwrap().graph;
    assert_eq!(graph.outputs.iter().map(|&id| graph.value(id).shape[0]).collect::<Vec<_>>(), [6, 4]);
    let x = numbers(24);
    let got = run(&graph, x.clone(), 1);
    let wanted: Vec<f32> = x[8..].iter().map(|x| x.max(0.0)).chain(x[..8].iter().copied()).collect();
    assert_eq!(got, wanted);
}

#[test]
fn integer_inputs_divide_as_integers() {
    let mut build = Build::new(13, &[3]).ints("two", &[], &[2]).node("Div", &["x", "two"], "h", &[]);
    let tensor = build.graph().input[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    tensor.elem_type = data_type::INT32;
    let whole = build.clone().node("Cast", &["h"], "y", &[int("to", 1)]).import();
    assert_eq!(run(&whole, vec![3.0, 4.0, -5.0], 1), [1.0, 2.0, -2.0]);
    let floats = Build::new(13, &[3]).floats("two", &[], &[2.0]).node("Div", &["x", "two"], "y", &[]).import();
    assert_eq!(run(&floats, vec![3.0, 4.0, -5.0], 1), [1.5, 2.0, -2.5]);
    // A shape that went through a Cast, as PyTorch exports, and a comparison leave floats what they are.
    let shaped = Build::new(13, &[3]).floats("two", &[], &[2.0]).floats("one", &[], &[1.0]);
    let shaped = shaped.node("Shape", &["x"], "s", &[]).node("Cast", &["s"], "i", &[int("to", 7)]);
    let shaped = shaped.node("Reshape", &["x", "i"], "r", &[]).node("Div", &["r", "two"], "y", &[]).import();
    assert_eq!(run(&shaped, vec![3.0, 4.0, -5.0], 1), [1.5, 2.0, -2.5]);
    let chosen = Build::new(13, &[3]).floats("two", &[], &[2.0]).node("Cast", &["x"], "i", &[int("to", 7)]);
    let chosen = chosen.ints("three", &[], &[3]).node("Greater", &["i", "three"], "c", &[]);
    let chosen = chosen.node("Where", &["c", "x", "two"], "w", &[]).node("Div", &["w", "two"], "y", &[]).import();
    assert_eq!(run(&chosen, vec![3.0, 5.0, -5.0], 1), [1.0, 2.5, 1.0]);
}

#[test]
fn constants_of_every_shape_are_added() {
    for (dims, per) in
        [(vec![4i64, 1, 1], 1usize), (vec![5], 2), (vec![3, 1], 3), (vec![4, 3, 5], 4), (vec![1, 4, 3, 5], 4)]
    {
        let build = Build::new(13, &[4, 3, 5]).weight("w", &dims).node("Add", &["x", "w"], "y", &[]);
        let x = numbers(2 * 60);
        let got = run(&build.import(), x.clone(), 2);
        for (at, (got, x)) in got.iter().zip(&x).enumerate() {
            let (c, h, w) = (at / 15 % 4, at / 5 % 3, at % 5);
            let index = match per {
                1 => c,
                2 => w,
                3 => h,
                _ => at % 60,
            };
            assert_eq!(*got, x + (index as f32 - 3.0) / 16.0, "{dims:?} at {at}");
        }
    }
}

#[test]
fn slices_to_the_end_leave_the_batch_alone() {
    for end in [i64::MAX, i64::from(i32::MAX), 1_000_000_000] {
        let build = Build::new(13, &[4, 5]).ints("from", &[3], &[0, 1, 0]).ints("to", &[3], &[end, end, end]);
        assert_eq!(shape(&build.node("Slice", &["x", "from", "to"], "y", &[]).import()), [3, 5], "{end}");
    }
}
