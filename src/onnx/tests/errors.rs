//! What users read.

use super::build::*;
use crate::onnx::{OnnxError, import, load, proto::*};

#[test]
fn unsupported_operators_are_listed_together() {
    let mut build = Build::new(13, &[4]).named("n1", "GRU", &["x"], "a", &[]).named("n2", "GRU", &["a"], "b", &[]);
    build = build.named("n3", "Foo", &["b"], "c", &[]).named("n4", "Relu", &["c"], "d", &[]);
    build = build.named("n5", "NonZero", &["d"], "y", &[]);
    build.graph().node[2].domain = "com.example".to_owned();
    assert_eq!(
        build.error(),
        "operator `GRU` (node `n1`, domain `ai.onnx`, opset 13) is not supported, and 2 more kinds: `Foo`, `NonZero`"
    );
    let mut foreign = Build::new(13, &[4]).node("Relu", &["x"], "y", &[]);
    foreign.graph().node[0].domain = "com.example".to_owned();
    foreign.model.opset_import.push(OperatorSetIdProto { domain: "com.example".to_owned(), version: 3 });
    assert_eq!(foreign.error(), "operator `Relu` (node `Relu_0`, domain `com.example`, opset 3) is not supported");
    // The shape of the sum is wrong too, but that is the lesser problem.
    let both = Build::new(13, &[4]).weight("w", &[4, 2]).node("MatMul", &["x", "w"], "m", &[]);
    let both = both.node("Add", &["x", "m"], "s", &[]).node("NonZero", &["s"], "y", &[]);
    assert_eq!(both.error(), "operator `NonZero` (node `NonZero_2`, domain `ai.onnx`, opset 13) is not supported");
    // Known on constants alone.
    let range = Build::new(13, &[4]).node("Range", &["x", "x", "x"], "y", &[]);
    assert_eq!(range.error(), "operator `Range` (node `Range_0`, domain `ai.onnx`, opset 13) is not supported");
}

#[test]
fn operator_sets() {
    let relu = |opset| Build::new(opset, &[4]).node("Relu", &["x"], "y", &[]);
    assert_eq!(relu(6).error(), "operator set 6 is not supported; supported are 7 to 28");
    assert_eq!(relu(29).error(), "operator set 29 is not supported; supported are 7 to 28");
    for opset in 7..=28 {
        relu(opset).import();
    }
    let mut none = relu(13);
    none.model.opset_import.clear();
    assert_eq!(none.error(), "the file names no ONNX operator set");
}

#[test]
fn graphs_without_a_clear_way_in_or_out() {
    let relu = || Build::new(13, &[4]).node("Relu", &["x"], "y", &[]);
    let mut empty = relu();
    empty.model.graph = None;
    assert_eq!(error(&empty.bytes()), "the file has no graph");
    assert_eq!(error(&relu().bytes()), "the graph has no output");
    assert_eq!(error(&relu().output("x").bytes()), "output `x` of the graph is its input");
    assert_eq!(Build::new(13, &[4]).node("Identity", &["x"], "y", &[]).error(), "output `y` of the graph is its input");
    assert_eq!(error(&relu().weight("w", &[1]).output("w").bytes()), "output `w` of the graph is constant");
    assert_eq!(error(&relu().output("z").bytes()), "output `z` of the graph is written by no node");
    let mut two = relu();
    two.graph().input.push(tensor_value("z", data_type::FLOAT, vec![]));
    assert_eq!(two.clone().error(), "input `z` has no dimensions, and so no batch; model.fixed gives it a number");
    // An initializer that is listed as an input too is a constant.
    two.weight("z", &[1]).import();
    let mut none = relu();
    none.graph().input.clear();
    assert_eq!(none.error(), "the graph has no input for samples; it has no inputs");
}

#[test]
fn inputs() {
    let typed = |elem_type, values: Vec<Option<dimension_proto::Value>>| {
        let mut build = Build::new(13, &[4]).node("Relu", &["x"], "y", &[]);
        build.graph().input[0] = tensor_value(
            "x",
            elem_type,
            values.into_iter().map(|value| DimensionProto { value, ..Default::default() }).collect(),
        );
        build.error()
    };
    let number = |n| Some(dimension_proto::Value::DimValue(n));
    let symbol = Some(dimension_proto::Value::DimParam("H".to_owned()));
    let rule = "all but the leading batch must be positive numbers: model.shape says the shape of a sample";
    let float = data_type::FLOAT;
    assert_eq!(typed(float, vec![None, symbol]), format!("input `x` has dimension 1 `H`; {rule}"));
    assert_eq!(typed(float, vec![None, number(3), None]), format!("input `x` has dimension 2 unknown; {rule}"));
    assert_eq!(typed(float, vec![None, number(0)]), format!("input `x` has dimension 1 0; {rule}"));
    assert_eq!(typed(float, vec![None, number(-1)]), format!("input `x` has dimension 1 -1; {rule}"));
    assert_eq!(typed(float, vec![None, number(1 << 40)]), "input `x` is too large");
    assert_eq!(typed(float, vec![None]), "input `x` has 1 dimensions; the batch and 1 to 7 more are supported");
    assert_eq!(typed(float, vec![]), "input `x` has no dimensions, and so no batch; model.fixed gives it a number");
    let text = typed(8, vec![None, number(3)]);
    assert_eq!(text, "input `x` has elements of type 8; only numbers are supported");
    let mut untyped = Build::new(13, &[4]).node("Relu", &["x"], "y", &[]);
    untyped.graph().input[0].r#type = None;
    assert_eq!(untyped.error(), "input `x` is not a tensor");
}

/// The reason, of a node named `n`.
fn reason(build: Build, op: &str, inputs: &[&str], attributes: &[AttributeProto]) -> String {
    let error = build.named("n", op, inputs, "y", attributes).error();
    error.strip_prefix(&format!("node `n` (`{op}`): ")).unwrap_or(&error).to_owned()
}

#[test]
fn layers_that_do_not_fit() {
    let base = |dims: &[i64]| Build::new(13, &[4, 5, 5]).weight("w", dims);
    let conv = |dims: &[i64], attributes: &[_]| reason(base(dims), "Conv", &["x", "w"], attributes);
    assert_eq!(conv(&[2, 4, 3], &[]), "its weight has the shape [2, 4, 3]; 4 dimensions are expected");
    assert_eq!(conv(&[2, 3, 1, 1], &[]), "a weight of shape [2, 3, 1, 1] in 1 groups does not fit 4 channels");
    assert_eq!(
        conv(&[3, 2, 1, 1], &[int("group", 2)]),
        "a weight of shape [3, 2, 1, 1] in 2 groups does not fit 4 channels"
    );
    assert_eq!(
        conv(&[2, 4, 1, 1], &[int("group", -1)]),
        "a weight of shape [2, 4, 1, 1] in 0 groups does not fit 4 channels"
    );
    assert_eq!(conv(&[2, 4, 6, 6], &[]), "its window is too large for its input");
    assert_eq!(
        conv(&[2, 4, 1, 1], &[int_list("kernel_shape", &[3, 3])]),
        "kernel_shape is not that of its weight, [1, 1]"
    );
    assert_eq!(
        conv(&[2, 4, 1, 1], &[int_list("strides", &[0, 1])]),
        "attribute `strides` has 0, which is not within 1..=65536"
    );
    assert_eq!(
        conv(&[2, 4, 1, 1], &[int_list("pads", &[0, 0, -1, 0])]),
        "attribute `pads` has -1, which is not within 0..=65536"
    );
    assert_eq!(conv(&[2, 4, 1, 1], &[int_list("strides", &[1])]), "attribute `strides` has 1 numbers, not 2");
    assert_eq!(conv(&[2, 4, 1, 1], &[int("strides", 1)]), "attribute `strides` has type 2, where 7 is expected");
    assert_eq!(conv(&[2, 4, 1, 1], &[text("auto_pad", "MAYBE")]), "auto_pad `MAYBE` is not known");
    assert_eq!(conv(&[2, 4, 0, 1], &[]), "input 1 (`w`) has no elements");
    let huge = [int_list("pads", &[65536, 65536, 65536, 65536])];
    assert_eq!(conv(&[2, 4, 1, 1], &huge), "its output of shape [2, 131077, 131077] is too large");
    let bias = base(&[2, 4, 1, 1]).weight("b", &[3]);
    assert_eq!(reason(bias, "Conv", &["x", "w", "b"], &[]), "a bias of shape [3] does not fit 2 output channels");
    assert_eq!(reason(base(&[2]), "Conv", &["x"], &[]), "input 1 is missing");
    assert_eq!(reason(base(&[2]), "Conv", &["x", "x"], &[]), "input 1 is computed, where only a constant is supported");
    assert_eq!(reason(base(&[2]), "Conv", &["x", "z"], &[]), "it reads `z`, which nothing provides");
    assert_eq!(reason(base(&[4, 2]), "MatMul", &["x", "w"], &[]), "a weight for 4 features does not fit 5");
    let wide = reason(base(&[5, 2]), "Gemm", &["x", "w"], &[]);
    assert_eq!(wide, "input 0 is [batch, 4, 5, 5]; only [batch, features] is supported");
    let flat = || Build::new(13, &[4]).weight("w", &[3, 2]);
    assert_eq!(reason(flat(), "MatMul", &["x", "w"], &[]), "a weight for 3 features does not fit 4");
    assert_eq!(reason(flat(), "MatMul", &["w", "x"], &[]), "a constant differs from sample to sample");
    assert_eq!(reason(flat(), "Gemm", &["x", "w"], &[int("transA", 1)]), "transA is not supported");
    let bias = Build::new(13, &[4]).weight("w", &[4, 3]).weight("b", &[2]);
    assert_eq!(reason(bias, "Gemm", &["x", "w", "b"], &[]), "input 2 of shape [2] is not one number an output");
}

#[test]
fn numbers_that_are_not_finite() {
    let base = || Build::new(13, &[2]).floats("w", &[2, 1], &[1.0, f32::NAN]);
    assert_eq!(reason(base(), "MatMul", &["x", "w"], &[]), "tensor `w`: element 1 is not finite");
    let norm = || {
        Build::new(13, &[2]).floats("g", &[2], &[1e38, 1.0]).floats("z", &[2], &[0.0; 2]).floats(
            "v",
            &[2],
            &[1.0, -1.0],
        )
    };
    assert_eq!(
        reason(norm(), "BatchNormalization", &["x", "g", "z", "z", "v"], &[]),
        "the variance of channel 1 with epsilon is not above 0"
    );
    let infinite = norm().weight("w", &[2, 2]).node("MatMul", &["x", "w"], "m", &[]);
    assert_eq!(
        reason(infinite, "BatchNormalization", &["m", "g", "z", "z", "z"], &[float("epsilon", 1e-30)]),
        "folded into the weights before it, it makes them infinite"
    );
    let clip = Build::new(13, &[2]).floats("lo", &[], &[f32::NAN]);
    assert_eq!(reason(clip, "Clip", &["x", "lo"], &[]), "a bound is NaN");
}

#[test]
fn forms_that_are_not_supported() {
    let picture = || Build::new(13, &[4, 5, 5]).weight("w", &[5, 5]).weight("c", &[4, 1, 1]).ints("i", &[1], &[1]);
    assert_eq!(reason(picture(), "MaxPool", &["x"], &[]), "attribute `kernel_shape` is missing");
    let blind = [int_list("kernel_shape", &[2, 2]), int_list("pads", &[2, 2, 2, 2])];
    assert_eq!(reason(picture(), "MaxPool", &["x"], &blind), "some of its windows see nothing but padding");
    let joined = "its input does not have the batch as its first dimension, or has it joined with another";
    assert_eq!(
        picture().node("Flatten", &["x"], "y", &[int("axis", 0)]).error(),
        format!("output `y` of the graph cannot be given: {joined}")
    );
    let window = [int_list("kernel_shape", &[1, 1]), int_list("strides", &[2, 2])];
    let turned = picture().node("Transpose", &["x"], "t", &[int_list("perm", &[1, 0, 2, 3])]);
    assert_eq!(reason(turned, "MaxPool", &["t"], &window), joined);
    assert_eq!(
        reason(picture(), "Flatten", &["x"], &[int("axis", i64::MIN)]),
        "axis -9223372036854775808 is outside its 4 dimensions"
    );
    assert_eq!(
        reason(picture(), "Reshape", &["x", "i"], &[]),
        "[batch, 4, 5, 5] cannot become [1] with one batch in it"
    );
    assert_eq!(
        reason(picture(), "ReduceMean", &["x"], &[int_list("axes", &[0])]),
        "it reduces the batch, which is not supported"
    );
    let slice = picture().ints("zero", &[1], &[0]);
    assert_eq!(reason(slice, "Slice", &["x", "zero", "i", "zero"], &[]), "it takes a part of the batch");
    assert_eq!(reason(picture(), "Squeeze", &["x", "i"], &[]), "it drops a dimension that is not 1");
    assert_eq!(
        reason(picture().batch(1), "Squeeze", &["x"], &[]),
        "it has no axes, and the batch is 1 in the file: it would be dropped too"
    );
    assert_eq!(
        reason(picture(), "Softmax", &["x"], &[int("axis", 0)]),
        "its axis is the batch, which is not supported"
    );
    assert_eq!(reason(picture(), "Dropout", &["x", "", "i"], &[]), "it is in training mode");
    let mut mask = Build::new(13, &[4]).node("Dropout", &["x"], "d", &[]);
    mask.graph().node[0].output.push("mask".to_owned());
    assert_eq!(
        reason(mask, "Relu", &["mask"], &[]),
        "it reads `mask`; outputs of an operator other than the first are not supported"
    );
}

#[test]
fn files_are_named() {
    let missing = load("no/such/model.onnx".as_ref()).unwrap_err();
    assert!(matches!(missing, OnnxError::Read { .. }));
    assert_eq!(missing.to_string(), "failed to read `no/such/model.onnx`");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.onnx");
    std::fs::write(&path, b"\xff\xff").unwrap();
    let bad = load(&path).unwrap_err();
    let text = chain(&bad);
    let expected = format!("failed to import `{}`: not an ONNX model, or a truncated one: ", path.display());
    assert!(text.starts_with(&expected), "{text}");
}

#[test]
fn models_are_described() {
    let mut build = Build::new(13, &[4]).node("Relu", &["x"], "y", &[]).output("y");
    build.model.producer_name = "tool".to_owned();
    build.model.producer_version = "1.2".to_owned();
    let bytes = build.bytes();
    let model = import(&bytes, None).unwrap();
    assert_eq!((model.producer.as_str(), model.opset, model.ir_version), ("tool 1.2", 13, 8));
    assert_eq!(model.bytes, bytes.len() as u64);
    use sha2::Digest;
    assert_eq!(model.digest[..], sha2::Sha256::digest(&bytes)[..]);
    assert_eq!(model.graph.name, "test");
}
