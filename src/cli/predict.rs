//! `qtuned predict`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use clap::Args;
use serde_json::json;

use super::{Global, deployment::Qconfig, format, input, inspect, print, print_json, reading::ReadingArgs};
use crate::{
    cancel::Cancel,
    engine::{Inputs, Plan},
    kernels::Kernels,
    onnx::Model,
    ptq,
    quant::{Preset, QConfigMapping},
    search::Key,
};

/// Largest outputs that are shown of each sample.
const SHOWN: usize = 5;

/// Run a model on an array and show what it computes
///
/// The array is what the model reads, preprocessed: [batch, ...] in a .npy file; for several inputs a .npz file has one
/// for each, by its name. Without a qconfig the model runs in fp32. A qconfig without grids is calibrated on that very
/// array.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  qtuned predict model.onnx pictures.npy\n  qtuned predict model.onnx pictures.npy --json\n  \
                  qtuned predict model.onnx pictures.npy --preset onednn\n  \
                  qtuned predict model.onnx pictures.npy --qconfig qtuned-out/mobilenet-v2/best.qconfig.yaml"
)]
pub(super) struct PredictArgs {
    /// The model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,

    /// What it reads
    #[arg(value_name = "INPUT.npy")]
    input: PathBuf,

    /// The qconfig to run: a `*.qconfig.yaml` of a run, or a mapping as in `qconfig:` of a job
    #[arg(long, value_name = "FILE.yaml")]
    qconfig: Option<PathBuf>,

    /// Run every group in int8 as this preset says
    #[arg(long, value_name = "NAME", conflicts_with = "qconfig", value_parser = super::preset)]
    preset: Option<Preset>,

    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(global: &Global, args: &PredictArgs) -> Result<()> {
    let model = args.reading.reading()?.load(&args.model)?;
    let x = input::read(&args.input, &model)?;
    let plan = plan(&model, args, &x)?;
    let outputs = plan.run(&x, true)?;
    let graph = &model.graph;
    let names = graph.outputs.iter().map(|&output| graph.value(output).name.as_str());
    if global.json {
        let output = |(name, tensor): (&str, &Tensor)| -> Result<serde_json::Value> {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            Ok(json!({ "name": name, "shape": tensor.dims(), "values": values }))
        };
        let outputs = names.zip(&outputs).map(output).collect::<Result<Vec<_>>>()?;
        return print_json(&json!({ "outputs": outputs }));
    }
    let mut text = String::new();
    for (name, tensor) in names.zip(&outputs) {
        text += &format!("{name}, {}\n", inspect::shape(tensor.dims()));
        let rows = tensor.flatten_from(1)?.to_vec2::<f32>()?;
        text += &format::table(&["sample", "largest"], rows.iter().enumerate().map(|(at, row)| largest(at, row)));
    }
    print(&text)
}

fn plan(model: &Model, args: &PredictArgs, x: &Inputs) -> Result<Plan> {
    let prepared = ptq::prepare(model.graph.clone(), Kernels::detect()?);
    let (mapping, place) = match (&args.qconfig, args.preset) {
        (None, None) => return Ok(prepared.engine().fp32_plan()),
        (None, Some(preset)) => (QConfigMapping::preset(preset), Path::new("preset")),
        (Some(path), _) => match Qconfig::read(path)? {
            Qconfig::File(file) => {
                if file.model_sha256 != Key(model.digest).to_string() {
                    bail!("{}: this qconfig was measured on another model", path.display());
                }
                let restored = ptq::restore(prepared.engine(), &file).with_context(|| path.display().to_string())?;
                return Ok(restored.plan);
            }
            Qconfig::Mapping(mapping) => (mapping, path.as_path()),
        },
    };
    let qconfigs = mapping.resolve(prepared.engine().groups()).with_context(|| place.display().to_string())?;
    let load = |sample: usize| Ok(x.sample(sample)?);
    let calibrated = prepared.calibrate(x.batch(), &load, &Cancel::default(), &|_| ())?;
    Ok(calibrated.convert(&qconfigs).plan)
}

/// A row of a table: the places of a sample's largest outputs, and these.
fn largest(sample: usize, outputs: &[f32]) -> Vec<String> {
    let mut order: Vec<usize> = (0..outputs.len()).collect();
    order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]).then(a.cmp(&b)));
    let shown = order.iter().take(SHOWN).map(|&at| format!("{at}: {}", outputs[at])).collect::<Vec<_>>();
    vec![sample.to_string(), shown.join(", ")]
}
