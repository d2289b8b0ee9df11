//! `qtuned inspect`.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Result;
use clap::Args;

use super::{Global, format, print, print_json, reading::ReadingArgs};
use crate::{
    graph::{Group, Groups},
    onnx::Model,
    pipeline::{macs, model_facts, parameters},
};

/// Show the groups of an ONNX model: what can be switched between int8 and fp32
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned inspect model.onnx\n  qtuned inspect model.onnx --json\n  \
                        qtuned inspect model.onnx --rewrites")]
pub(super) struct InspectArgs {
    /// The model
    #[arg(value_name = "MODEL.onnx")]
    model: PathBuf,

    /// Show what was done to the file's nodes on the way, in place of the groups
    #[arg(long)]
    rewrites: bool,

    #[command(flatten)]
    reading: ReadingArgs,
}

pub(super) fn run(global: &Global, args: &InspectArgs) -> Result<()> {
    let model = args.reading.reading()?.load(&args.model)?;
    let groups = Groups::of(&model.graph);
    if args.rewrites {
        return rewrites(global, &model);
    }
    if global.json {
        return print_json(&model_facts(&model, &groups));
    }
    let graph = &model.graph;
    let row = |group: &Group| {
        vec![
            group.id.clone(),
            group.object_type.clone(),
            group.activation.map(|node| graph.node(node).op_type.clone()).unwrap_or_default(),
            group.inputs.iter().map(|value| shape(&graph.value(*value).shape)).collect::<Vec<_>>().join(", "),
            shape(&graph.value(group.output).shape),
            format::count(group.macs),
            format::count(group.parameters),
        ]
    };
    let headings = ["group", "type", "with", "input", "output", ">MACs", ">parameters"];
    let table = format::table(&headings, groups.all().iter().map(row));
    print(&format!("{table}{}", totals(&model, &groups)))
}

/// What became of nodes, kind by kind.
fn rewrites(global: &Global, model: &Model) -> Result<()> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for rewrite in &model.rewrites {
        kinds.entry(rewrite.kind).or_default().push(&rewrite.node);
    }
    if global.json {
        return print_json(&kinds);
    }
    let row = |(kind, nodes): (&&str, &Vec<&str>)| {
        let first = nodes.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        let more = if nodes.len() > 3 { ", …" } else { "" };
        vec![(*kind).to_owned(), nodes.len().to_string(), format!("{first}{more}")]
    };
    print(&format::table(&["rewrite", ">nodes", "such as"], kinds.iter().map(row)))
}

/// What the model is, in a few lines.
pub(super) fn totals(model: &Model, groups: &Groups) -> String {
    let graph = &model.graph;
    let in_groups = groups.all().iter().map(|group| group.macs).sum();
    let producer = if model.producer.is_empty() { "an unnamed tool" } else { &model.producer };
    let inputs: Vec<String> = graph.inputs.iter().map(|value| shape(&graph.value(*value).shape)).collect();
    let outputs: Vec<String> = graph.outputs.iter().map(|value| shape(&graph.value(*value).shape)).collect();
    format!(
        "{} and {}; {} MACs, {} in groups; {} parameters\n\
         {} {}, output {}; opset {} by {producer}, {}\n",
        format::plural(groups.len(), "group"),
        format::plural(graph.nodes.len(), "node"),
        format::count(macs(graph)),
        format::count(in_groups),
        format::count(parameters(graph)),
        if inputs.len() == 1 { "input" } else { "inputs" },
        inputs.join(", "),
        outputs.join(", "),
        model.opset,
        format::bytes(model.bytes),
    )
}

/// A sample's shape: `3×224×224`.
pub(super) fn shape(shape: &[usize]) -> String {
    match shape.is_empty() {
        true => "scalar".to_owned(),
        false => shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×"),
    }
}
