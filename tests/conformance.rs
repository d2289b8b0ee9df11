//! The ONNX project's node tests that are small, through the importer and the engine: `tests/conformance/run.py` says
//! where they come from and which of all pass.

use std::{io::Read, sync::Arc};

use base64::Engine as _;
use candle_core::{Device, Tensor};
use qtuned::{
    engine::{Engine, Inputs},
    graph::Groups,
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

fn cases() -> Vec<Case> {
    let packed = std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/cases.json.gz")).unwrap();
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
    let cases = cases();
    assert!(cases.len() > 300, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for Case { case, model, input, outputs } in &cases {
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
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 + 1e-3 * b.abs();
            if tensor.dims() != expected.dims || !values.iter().zip(&expected.data).all(near) {
                wrong.push(format!("{case}: {:?} {values:?}, expected {:?}", tensor.dims(), expected.data));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
