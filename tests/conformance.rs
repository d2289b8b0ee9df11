//! Small models of others, through the importer and the engine: the ONNX project's node tests (`tests/conformance/run.py`
//! says where they come from and which of all pass), and networks of a block or two as exporters write them, with the
//! outputs of ONNX Runtime (`tests/exporters.py`).

use std::{io::Read, sync::Arc};

use base64::Engine as _;
use candle_core::{Device, Tensor};
use qtuned::{
    engine::{Engine, Inputs},
    graph::{Groups, Op},
    kernels::Kernels,
    onnx::{self, Model},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    case: String,
    model: String,
    input: Array,
    outputs: Vec<Array>,
}

#[derive(Deserialize)]
struct Array {
    #[serde(default)]
    name: String,
    dims: Vec<usize>,
    data: Vec<f32>,
}

fn cases(file: &str) -> Vec<Case> {
    let packed = std::fs::File::open(format!("{}/tests/conformance/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn run(model: &Model, input: &Array) -> Vec<(String, Tensor)> {
    let x = Tensor::from_vec(input.data.clone(), input.dims.clone(), &Device::Cpu).unwrap();
    let x = Inputs::from_file(model, vec![x]).unwrap();
    let graph = Arc::new(model.graph.clone());
    let groups = Arc::new(Groups::of(&graph));
    let outputs = Engine::new(graph.clone(), groups, Kernels::detect().unwrap()).fp32_plan().run(&x, false).unwrap();
    graph.outputs.iter().map(|&id| graph.value(id).name.clone()).zip(outputs).collect()
}

#[test]
fn outputs_are_those_of_the_onnx_project() {
    let cases = cases("cases.json.gz");
    assert!(cases.len() > 300, "{} cases", cases.len());
    compare(&cases, 1e-3);
}

#[test]
fn outputs_of_what_exporters_write_are_those_of_onnx_runtime() {
    let cases = cases("exporters.json.gz");
    assert!(cases.len() >= 8, "{} cases", cases.len());
    compare(&cases, 1e-4);
    // Attention is one operator, and normalizations are in layers.
    for Case { case, model, .. } in &cases {
        let bytes = base64::engine::general_purpose::STANDARD.decode(model).unwrap();
        let graph = onnx::import(&bytes, None).unwrap().graph;
        let count = |wanted: fn(&Op) -> bool| graph.nodes.iter().filter(|node| wanted(&node.op)).count();
        if case.ends_with("attention") {
            assert!(count(|op| matches!(op, Op::Attention { .. })) >= 1, "{case}");
            assert_eq!(count(|op| matches!(op, Op::MatMul | Op::Softmax { .. })), 0, "{case}");
        } else {
            assert!(graph.nodes.iter().all(|node| node.op_type != "BatchNormalization"), "{case}");
        }
    }
}

/// Imports and runs all cases, to within this share of each number.
fn compare(cases: &[Case], relative: f32) {
    let mut wrong = Vec::new();
    for Case { case, model, input, outputs } in cases {
        let bytes = base64::engine::general_purpose::STANDARD.decode(model).unwrap();
        let model = match onnx::import(&bytes, None) {
            Ok(model) => model,
            Err(error) => {
                wrong.push(format!("{case}: {error}"));
                continue;
            }
        };
        let got = run(&model, input);
        for expected in outputs {
            let Some((_, tensor)) = got.iter().find(|(name, _)| *name == expected.name) else {
                wrong.push(format!("{case}: no output {}", expected.name));
                continue;
            };
            let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 + relative * b.abs();
            if tensor.dims() != expected.dims || !values.iter().zip(&expected.data).all(near) {
                wrong.push(format!("{case}: {:?} {values:?}, expected {:?}", tensor.dims(), expected.data));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
