//! `qtuned export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;

use super::{
    Global,
    deployment::{Deployment, DeploymentArgs},
    format, print, print_json,
};
use crate::{
    export::{self, Target, Tool},
    output,
    quant::{Precision, Rounding},
};

/// Write the qconfig of a trial, or the quantized network, for the engine that will run it
///
/// Of a job, the chosen trial. The ONNX file is the original with QuantizeLinear and DequantizeLinear around what the
/// qconfig quantizes, and weights in s8; every node and value that is left keeps its name. The lists are for tools that
/// quantize by themselves; their names are checked against the model, and python/qtuned_lists.py reads them.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned export -o best.qconfig.yaml
  qtuned export mobilenet-v2 --trial 4 > trial-4.qconfig.yaml
  qtuned export mobilenet-v2 --format onnx -o mobilenet-v2.int8.onnx
  qtuned export model.onnx best.qconfig.yaml --format onnx --target openvino
  qtuned export model.int8.onnx > model.qconfig.yaml
  qtuned export qtuned-out/mobilenet-v2 --format torch -o qconfig_mapping.json")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    deployment: DeploymentArgs,

    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Qconfig, value_name = "FORMAT")]
    format: Format,

    /// The engine whose rules an ONNX file follows: onnxruntime unless the qconfig rounds as OpenVINO does
    #[arg(long, value_enum, value_name = "ENGINE")]
    target: Option<Engine>,

    /// The file to write; standard output when not given, and for ONNX MODEL.int8.onnx
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// The mapping, and every scale and zero point
    Qconfig,
    /// An ONNX file with QuantizeLinear and DequantizeLinear
    Onnx,
    /// PyTorch's QConfigMapping
    Torch,
    /// NNCF's IgnoredScope
    Nncf,
    /// nodes_to_exclude and TensorQuantOverrides of ONNX Runtime's quantize_static
    Onnxruntime,
    /// Neural Compressor's op_name_dict
    NeuralCompressor,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Engine {
    /// Also what other engines accept
    Onnxruntime,
    /// Without what keeps ONNX Runtime's optimizer from quantizing more
    Openvino,
    /// s8 with zero point 0, as the preset `tensorrt` has; biases in fp32
    Tensorrt,
}

pub(super) fn run(global: &Global, args: &ExportArgs) -> Result<()> {
    let named = args.deployment.find(global)?;
    let tool = match args.format {
        Format::Qconfig => return write(args, &named.qconfig),
        Format::Onnx => return onnx(global, args, &named.read()?),
        Format::Torch => Tool::Torch,
        Format::Nncf => Tool::Nncf,
        Format::Onnxruntime => Tool::OnnxRuntime,
        Format::NeuralCompressor => Tool::NeuralCompressor,
    };
    let deployment = named.read()?;
    let (_, restored) = deployment.restore()?;
    let list = export::list(&deployment.source(), &deployment.qconfig, &restored, tool)?;
    write(args, &format!("{}\n", serde_json::to_string_pretty(&list)?))
}

fn write(args: &ExportArgs, text: &str) -> Result<()> {
    match &args.output {
        Some(path) => Ok(output::write(path, text.as_bytes())?),
        None => print(text),
    }
}

fn onnx(global: &Global, args: &ExportArgs, deployment: &Deployment) -> Result<()> {
    let named_after = || Path::new(deployment.path.file_stem().unwrap_or_default()).with_extension("int8.onnx");
    let path = args.output.clone().unwrap_or_else(named_after);
    let name = path.file_name().context("the file to write has no name")?;
    let data_name = format!("{}.data", name.to_string_lossy());
    let (_, restored) = deployment.restore()?;
    let target = match args.target {
        None => Target::of(&restored),
        Some(Engine::Onnxruntime) => Target::OnnxRuntime,
        Some(Engine::Openvino) => Target::OpenVino,
        Some(Engine::Tensorrt) => Target::TensorRt,
    };
    let exported = export::qdq(&deployment.source(), &deployment.qconfig, &restored, target, &data_name)?;
    let mut written = vec![path.clone()];
    let mut bytes = exported.model.len() as u64;
    if let Some(data) = &exported.data {
        let beside = path.with_file_name(&data_name);
        output::write(&beside, data)?;
        bytes += data.len() as u64;
        written.push(beside);
    }
    output::write(&path, &exported.model)?;
    if exported.fixed_shapes && Rounding::of(&restored.qconfigs) == Rounding::OpenVino {
        tracing::warn!(
            "the sizes of this model's inputs are fixed, where OpenVINO quantizes them as `rounding: openvino_static` does"
        );
    }
    let groups = &deployment.qconfig.groups;
    let int8 = groups.iter().filter(|group| group.precision == Precision::Int8).count();
    if global.json {
        return print_json(&json!({
            "files": written,
            "bytes": bytes,
            "original_bytes": deployment.model.bytes,
            "int8_groups": int8,
            "groups": groups.len(),
        }));
    }
    print(&format!(
        "{}: {int8} of {} in int8, {} of {}\n",
        path.display(),
        format::plural(groups.len(), "group"),
        format::bytes(bytes),
        format::bytes(deployment.model.bytes),
    ))
}
