//! Scale and shift of channels in layers that they are apart from, against the same network with none folded.

use super::build::*;
use crate::onnx::import;

/// That node `norm` is folded as `kind` says, and that this changes no output by more than rounding. `layer` is the
/// value between a layer and what is folded into it: given as an output, it keeps that apart.
fn folds(build: Build, layer: &str, kind: &'static str) {
    let told = |build: &Build| {
        let model = import(&build.bytes(), None).map_err(|error| chain(&error)).unwrap();
        let told = model.rewrites.iter().any(|rewrite| rewrite.kind == kind && rewrite.node == "norm");
        (model.graph, told)
    };
    let (folded, is_folded) = told(&build.clone().output("y"));
    let (apart, is_apart) = told(&build.output("y").output(layer));
    assert!(is_folded && !is_apart, "{:?}", op_types(&folded));
    assert!(folded.nodes.len() < apart.nodes.len());
    let (folded, apart) = (computed(folded), computed(apart));
    let largest = apart.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (x, y) in folded.iter().zip(&apart) {
        assert!((x - y).abs() <= 1e-5 * largest, "{x} is not {y}");
    }
}

/// That node `norm` stays.
fn stays(build: Build) {
    let model = import(&build.output("y").bytes(), None).map_err(|error| chain(&error)).unwrap();
    let folded = model.rewrites.iter().find(|rewrite| rewrite.node == "norm" && rewrite.kind.starts_with("folded"));
    assert_eq!(folded, None, "{:?}", op_types(&model.graph));
}

const EARLIER: &str = "folded into an earlier layer";
const BEHIND: &str = "folded into the layer behind it";

/// Parameters of a normalization with factors above 0.
fn with_norm(build: Build, channels: i64) -> Build {
    let numbers = |from: f32| (0..channels).map(|i| from + 0.37 * i as f32).collect::<Vec<_>>();
    build
        .floats("g", &[channels], &numbers(0.9))
        .floats("b", &[channels], &numbers(-0.3))
        .floats("m", &[channels], &numbers(0.11))
        .floats("v", &[channels], &numbers(0.7))
}

fn norm(build: Build, input: &str, output: &str) -> Build {
    build.named("norm", "BatchNormalization", &[input, "g", "b", "m", "v"], output, &[])
}

/// A convolution of three channels to four, that writes `c`.
fn conv() -> Build {
    with_norm(Build::new(13, &[3, 5, 6]).weight("w", &[4, 3, 2, 2]).node("Conv", &["x", "w"], "c", &[]), 4)
}

#[test]
fn past_a_max_pool_where_the_largest_stays_the_largest() {
    let pool = [int_list("kernel_shape", &[2, 2]), int_list("pads", &[1, 1, 0, 0])];
    let build = conv().node("MaxPool", &["c"], "p", &pool);
    folds(norm(build.clone(), "p", "y"), "c", EARLIER);
    let build = build.floats("n", &[4], &[1.0, -1.0, 1.0, 1.0]);
    stays(build.named("norm", "BatchNormalization", &["p", "n", "b", "m", "v"], "y", &[]));
}

#[test]
fn past_moves_that_leave_channels_channels() {
    // Rows and columns exchanged, then joined.
    let build =
        conv().node("Transpose", &["c"], "t", &[int_list("perm", &[0, 1, 3, 2])]).ints("shape", &[3], &[0, 4, -1]);
    folds(norm(build.node("Reshape", &["t", "shape"], "r", &[]), "r", "y"), "c", EARLIER);
    // Channels and rows exchanged: what is normalized are rows.
    stays(norm(conv().node("Transpose", &["c"], "t", &[int_list("perm", &[0, 2, 1, 3])]), "t", "y"));
}

#[test]
fn past_a_reshape_that_gives_each_channel_one_factor() {
    let whole = conv().ints("shape", &[3], &[0, 4, -1]).node("Reshape", &["c", "shape"], "r", &[]);
    folds(norm(whole, "r", "y"), "c", EARLIER);
    let features =
        with_norm(Build::new(13, &[3, 1, 1]).weight("w", &[4, 3, 1, 1]).node("Conv", &["x", "w"], "c", &[]), 4);
    folds(norm(features.node("Flatten", &["c"], "f", &[]), "f", "y"), "c", EARLIER);
    // One factor a pixel.
    let pixels = Build::new(13, &[3, 2, 1]).weight("w", &[2, 3, 1, 1]).node("Conv", &["x", "w"], "c", &[]);
    stays(norm(with_norm(pixels, 4).node("Flatten", &["c"], "f", &[]), "f", "y"));
}

#[test]
fn past_a_selection_of_pixels() {
    let build = conv().ints("s", &[1], &[1]).ints("e", &[1], &[4]).ints("a", &[1], &[2]);
    folds(norm(build.node("Slice", &["c", "s", "e", "a"], "t", &[]), "t", "y"), "c", EARLIER);
}

#[test]
fn past_a_border_that_stays_what_it_is() {
    let pads = conv().ints("pads", &[8], &[0, 0, 1, 1, 0, 0, 0, 2]).node("Pad", &["c", "pads"], "p", &[]);
    folds(pads.clone().weight("f", &[4, 1, 1]).named("norm", "Mul", &["p", "f"], "y", &[]), "c", EARLIER);
    stays(norm(pads, "p", "y"));
}

#[test]
fn a_number_for_all_goes_past_any_move() {
    let build = conv().node("Transpose", &["c"], "t", &[int_list("perm", &[0, 2, 1, 3])]).floats("f", &[], &[0.25]);
    let build = build.ints("shape", &[2], &[0, -1]).node("Reshape", &["t", "shape"], "r", &[]);
    folds(build.named("norm", "Mul", &["r", "f"], "y", &[]), "c", EARLIER);
}

#[test]
fn a_product_takes_no_shift_from_afar() {
    // Its file has no place for it.
    let build = with_norm(Build::new(13, &[2, 3]).weight("w", &[3, 4]), 8).node("MatMul", &["x", "w"], "c", &[]);
    stays(norm(build.node("Flatten", &["c"], "f", &[]), "f", "y"));
}

#[test]
fn ahead_of_a_convolution_that_sees_no_padding() {
    let build = || with_norm(Build::new(13, &[4, 5, 6]), 4);
    let ahead = norm(build(), "x", "n").weight("w", &[6, 2, 2, 2]).weight("wb", &[6]);
    let ahead = ahead.node("Conv", &["n", "w", "wb"], "y", &[int("group", 2)]);
    folds(ahead, "n", BEHIND);
    let pads = [int_list("pads", &[1, 1, 1, 1])];
    stays(norm(build(), "x", "n").weight("w", &[3, 4, 3, 3]).node("Conv", &["n", "w"], "y", &pads));
    // A factor alone keeps padding 0.
    let scaled = build().weight("f", &[4, 1, 1]).named("norm", "Mul", &["x", "f"], "n", &[]);
    folds(scaled.weight("w", &[3, 4, 3, 3]).node("Conv", &["n", "w"], "y", &pads), "n", BEHIND);
}

#[test]
fn ahead_of_a_linear_layer() {
    let build = norm(with_norm(Build::new(13, &[4]), 4), "x", "n").weight("w", &[3, 4]).weight("wb", &[3]);
    folds(build.node("Gemm", &["n", "w", "wb"], "y", &[int("transB", 1)]), "n", BEHIND);
}

#[test]
fn a_weight_in_integers_keeps_its_grid() {
    let build = with_norm(Build::new(13, &[3, 5, 6]), 4).floats("s", &[], &[0.125]);
    let mut build = build.node("DequantizeLinear", &["q", "s"], "w", &[]);
    let bytes = (0..12).map(|i| i as u8).collect();
    build.graph().initializer.push(crate::onnx::proto::TensorProto {
        name: "q".to_owned(),
        dims: vec![4, 3, 1, 1],
        data_type: crate::onnx::proto::data_type::INT8,
        raw_data: bytes,
        ..Default::default()
    });
    stays(norm(build.node("Conv", &["x", "w"], "c", &[]), "c", "y"));
}
