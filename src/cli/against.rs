//! `qtuned analyze MODEL.int8.onnx --against MODEL.onnx`.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Global, available_threads, deployment::read_model, format, groups::Rank, input, inspect, print, print_json,
    reading::ReadingArgs,
};
use crate::{
    cancel::Cancel,
    engine::Engine,
    evaluate::Gate,
    export,
    graph::Groups,
    kernels::Kernels,
    onnx::Model,
    ptq,
    search::Key,
    sensitivity::{GroupLoss, Losses, against},
    store::JsonNumber,
};

/// What is compared, and on what.
pub(super) struct Comparison<'a> {
    /// The file that is quantized.
    pub(super) quantized: &'a Path,
    /// The file in fp32 that it was made of.
    pub(super) original: &'a Path,
    /// What both read.
    pub(super) input: Option<&'a Path>,
    pub(super) reading: &'a ReadingArgs,
    pub(super) rank_by: Rank,
    /// Samples at most.
    pub(super) samples: usize,
    pub(super) threads: Option<u16>,
}

/// What was measured.
#[derive(Serialize)]
struct Compared {
    model: String,
    against: String,
    samples: usize,
    /// Of the network's outputs.
    output_db: JsonNumber,
    /// The worst first.
    groups: Vec<Row>,
    /// Ids of groups that only the quantized network has.
    unmatched: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    /// Its id in fp32.
    original: String,
    object_type: String,
    precision: &'static str,
    weight_db: Option<JsonNumber>,
    local_db: JsonNumber,
    accumulated_db: JsonNumber,
}

/// Measures what quantization did to each layer, and shows it.
pub(super) fn run(global: &Global, comparison: &Comparison<'_>) -> Result<()> {
    let Comparison { quantized, original, rank_by, .. } = *comparison;
    let Some(input) = comparison.input else {
        bail!("--against needs what the models read, INPUT.npy: grids that are given say nothing of made-up numbers");
    };
    let reading = comparison.reading.reading()?;
    let (bytes, model) = read_model(quantized, &reading)?;
    let (_, fp32) = read_model(original, &reading)?;
    let read = |model: &Model| (0..model.inputs.len()).map(|index| model.file_shape(index)).collect::<Vec<_>>();
    let layouts = |model: &Model| model.inputs.iter().map(|input| input.channels_last).collect::<Vec<_>>();
    if (read(&model), layouts(&model)) != (read(&fp32), layouts(&fp32)) {
        let shapes = |model| read(model).iter().map(|shape| inspect::shape(shape)).collect::<Vec<_>>().join(" and ");
        let (read, other) = (shapes(&model), shapes(&fp32));
        bail!("{} reads {read}, and {} reads {other}: these are two networks", quantized.display(), original.display());
    }
    let x = input::read(input, &model)?;
    let samples = comparison.samples.min(x.batch());
    let kernels = Kernels::detect()?;
    let groups = Arc::new(Groups::of(&model.graph));
    let found = export::imported(&bytes, &model, &groups, &Key(model.digest).to_string())?;
    let Some(qconfig) = found else {
        bail!("{} is not quantized: expected QuantizeLinear and DequantizeLinear in it", quantized.display());
    };
    let engine = Engine::new(Arc::new(model.graph), groups, kernels);
    let restored = ptq::restore(&engine, &qconfig).with_context(|| quantized.display().to_string())?;
    let original_groups = Arc::new(Groups::of(&fp32.graph));
    let fp32 = Engine::new(Arc::new(fp32.graph), original_groups, kernels);
    let load = |sample: usize| Ok(x.sample(sample)?);
    let cancel = Cancel::default();
    let threads = comparison.threads.map_or_else(available_threads, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    let losses = {
        let _gate = Gate::compute(&cancel)?;
        pool.install(|| against(&engine, &restored.quantization, &fp32, samples, &load, &cancel))?
    };
    let Losses { mut groups, unmatched, output } = losses;
    if groups.is_empty() {
        bail!("{} has no layer of {}: neither names nor shapes agree", quantized.display(), original.display());
    }
    let value = |loss: &GroupLoss| match rank_by {
        Rank::Weight => loss.weight.unwrap_or(f64::INFINITY),
        Rank::Local => loss.local,
        Rank::Accumulated | Rank::Output => loss.accumulated,
    };
    groups.sort_by(|a, b| value(a).total_cmp(&value(b)));
    let row = |loss: &GroupLoss| {
        let group = engine.groups().get(loss.group);
        Row {
            id: group.id.clone(),
            original: fp32.groups().get(loss.original).id.clone(),
            object_type: group.object_type.clone(),
            precision: if loss.is_int8 { "int8" } else { "fp32" },
            weight_db: loss.weight.map(JsonNumber::from),
            local_db: loss.local.into(),
            accumulated_db: loss.accumulated.into(),
        }
    };
    let compared = Compared {
        model: quantized.display().to_string(),
        against: original.display().to_string(),
        samples,
        output_db: output.into(),
        groups: groups.iter().map(row).collect(),
        unmatched: unmatched.iter().map(|id| engine.groups().get(*id).id.clone()).collect(),
    };
    match global.json {
        true => print_json(&compared),
        false => print(&table(&compared, &groups, output)),
    }
}

fn table(compared: &Compared, losses: &[GroupLoss], output: f64) -> String {
    let row = |(row, loss): (&Row, &GroupLoss)| {
        vec![
            row.original.clone(),
            row.object_type.clone(),
            row.precision.to_owned(),
            format::or_none(loss.weight, format::decibel),
            format::decibel(loss.local),
            format::decibel(loss.accumulated),
        ]
    };
    let headings = ["group", "type", "in", ">weight", ">local", ">accumulated"];
    let mut text = format::table(&headings, compared.groups.iter().zip(losses).map(row));
    text += &format!(
        "{} against {}, SQNR on {}; of the output {}\n",
        compared.model,
        compared.against,
        format::plural(compared.samples, "sample"),
        format::decibel(output),
    );
    if !compared.unmatched.is_empty() {
        text += &format!("not found there: {}\n", compared.unmatched.join(", "));
    }
    text
}
