//! `qtuned analyze`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use super::{
    Global, JobFile,
    against::{self, Comparison},
    available_threads,
    deployment::Qconfig,
    format,
    groups::{self, Rank},
    input, print, print_json,
    progress::Terminal,
    reading::ReadingArgs,
};
use crate::{
    cancel::Cancel,
    engine::Inputs,
    evaluate::Metric,
    graph::Groups,
    pipeline::{self, GroupFacts, Subject},
    quant::{Preset, QConfigMapping},
    report,
    sensitivity::RankBy,
    store::GroupRow,
};

/// Samples that SQNRs are measured on unless told otherwise, as in jobs.
const SAMPLES: usize = 64;

/// Made-up samples, where there are no others.
const MADE_UP: usize = 8;

/// Measure how much each group loses in int8, the worst first, without a search
///
/// Of a job: its starting qconfig, on its calibrate split. Of a model: on an array of what it reads, preprocessed,
/// [batch, ...] in a .npy file, or in a .npz file one for each input by its name; without one on made-up numbers, which
/// tell something of the weights alone.
///
/// The four signal-to-noise ratios are those of `qtuned groups`. Nothing is recorded.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned analyze job.yaml
  qtuned analyze job.yaml --rank-by local --set qconfig.preset=qnnpack
  qtuned analyze model.onnx pictures.npy --preset tensorrt --csv > groups.csv
  qtuned analyze model.int8.onnx pictures.npy --against model.onnx
  qtuned analyze model.onnx")]
pub(super) struct AnalyzeArgs {
    /// A job, or a model (its name ends in .onnx)
    #[arg(value_name = "JOB.yaml | MODEL.onnx")]
    what: PathBuf,

    /// What the model reads
    #[arg(value_name = "INPUT.npy")]
    input: Option<PathBuf>,

    /// Set a value of the job, such as `qconfig.preset=qnnpack`. May be given more than once
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,

    /// The qconfig to analyze: a mapping as in `qconfig:` of a job, or the mapping of a run's `*.qconfig.yaml`
    #[arg(long, value_name = "FILE.yaml", conflicts_with = "preset")]
    qconfig: Option<PathBuf>,

    /// Every group of the model in int8 as this preset says; `onednn` when not given
    #[arg(long, value_name = "NAME", value_parser = super::preset)]
    preset: Option<Preset>,

    /// The network in fp32 that MODEL.onnx was made of, which somebody has quantized already: what that cost each layer,
    /// with the grids and weights of the file
    #[arg(long, value_name = "FP32.onnx", conflicts_with_all = ["preset", "qconfig", "set", "csv"])]
    against: Option<PathBuf>,

    /// Which ratio orders the groups; the job's, or `output`, when not given
    #[arg(long, value_enum, value_name = "RATIO")]
    rank_by: Option<Rank>,

    /// Samples that ratios are measured on, at most; the job's, or 64, when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    samples: Option<u32>,

    /// Print the groups as CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Threads; all CPUs when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    #[command(flatten)]
    reading: ReadingArgs,
}

/// What was measured.
#[derive(Serialize)]
struct Analyzed {
    /// The file of the model.
    model: PathBuf,
    preset: &'static str,
    /// Samples that the observers saw.
    calibrated: usize,
    /// Samples that the ratios are of.
    samples: usize,
    /// Whether they are made up.
    made_up: bool,
    rank_by: RankBy,
    /// The worst first.
    groups: Vec<GroupRow>,
}

pub(super) fn run(global: &Global, args: &AnalyzeArgs) -> Result<()> {
    if let Some(original) = &args.against {
        let rank_by = args.rank_by.unwrap_or(Rank::Accumulated);
        if matches!(rank_by, Rank::Output) {
            bail!("--against measures no `output` of single groups; expected weight, local or accumulated");
        }
        return against::run(
            global,
            &Comparison {
                quantized: &args.what,
                original,
                input: args.input.as_deref(),
                reading: &args.reading,
                rank_by,
                samples: args.samples.map_or(SAMPLES, |samples| samples as usize),
                threads: args.threads,
            },
        );
    }
    let is_model = args.what.extension().is_some_and(|end| end == "onnx");
    let (analyzed, facts) = if is_model { of_model(global, args)? } else { of_job(global, args)? };
    if args.csv {
        return print(&String::from_utf8(report::groups_csv(&analyzed.groups)?)?);
    }
    if global.json {
        return print_json(&analyzed);
    }
    let made_up =
        if analyzed.made_up { "; these are made up, so ratios tell something of the weights alone" } else { "" };
    print(&format!(
        "{}{} of {}, preset {}: SQNR on {}, calibrated on {}{made_up}\n",
        groups::table(&groups::ranked(&facts, analyzed.rank_by), usize::MAX),
        format::plural(facts.len(), "group"),
        analyzed.model.display(),
        analyzed.preset,
        format::plural(analyzed.samples, "sample"),
        analyzed.calibrated,
    ))
}

fn of_job(global: &Global, args: &AnalyzeArgs) -> Result<(Analyzed, Vec<GroupFacts>)> {
    if let Some(input) = &args.input {
        bail!("{} is for a model, whose name ends in .onnx; a job has its own samples", input.display());
    }
    if args.preset.is_some() {
        bail!("--preset is for a model; for a job it is --set qconfig.preset=NAME");
    }
    if let Some(flag) = args.reading.given() {
        bail!(
            "{flag} is for a model; for a job it is --set {}=...",
            flag.trim_start_matches('-').replacen('-', ".", 1)
        );
    }
    let file = JobFile { path: args.what.clone(), set: args.set.clone(), qconfig: args.qconfig.clone() };
    let mut job = file.load()?;
    let sensitivity = &mut job.spec.sensitivity;
    sensitivity.rank_by = args.rank_by.map_or(sensitivity.rank_by, RankBy::from);
    sensitivity.samples = args.samples.map_or(sensitivity.samples, |samples| samples as usize);
    let (rank_by, most) = (sensitivity.rank_by, sensitivity.samples);
    let cancel = Cancel::default();
    let opened = pipeline::open(&job, &cancel)?;
    let terminal = Terminal::new(job.spec.budget.metric, rank_by, global.json);
    let facts = pipeline::analyze_job(&opened, threads(args), &terminal, &cancel)?;
    terminal.finish();
    let calibrated = opened.dataset().len(crate::dataset::Part::Calibrate);
    let analyzed = Analyzed {
        model: job.resolve(&job.spec.model.onnx),
        preset: job.spec.qconfig.preset.name(),
        calibrated,
        samples: most.min(calibrated),
        made_up: false,
        rank_by,
        groups: rows(&facts, rank_by),
    };
    Ok((analyzed, facts))
}

fn of_model(global: &Global, args: &AnalyzeArgs) -> Result<(Analyzed, Vec<GroupFacts>)> {
    if let Some(given) = args.set.first() {
        bail!("--set {given}: this sets a value of a job, and {} is a model", args.what.display());
    }
    let model = args.reading.reading()?.load(&args.what)?;
    let mapping = mapping(args.qconfig.as_deref(), args.preset)?;
    let groups = Groups::of(&model.graph);
    let place = || args.qconfig.as_ref().map_or_else(|| "qconfig".to_owned(), |path| path.display().to_string());
    let qconfigs = mapping.resolve(&groups).with_context(place)?;
    if qconfigs.iter().all(Option::is_none) {
        bail!("{}: the model has no group that this qconfig quantizes", args.what.display());
    }
    let x = args.input.as_deref().map(|path| input::read(path, &model)).transpose()?;
    let calibrated = x.as_ref().map_or(MADE_UP, Inputs::batch);
    let samples = args.samples.map_or(SAMPLES, |samples| samples as usize).min(calibrated);
    let rank_by = args.rank_by.map_or(RankBy::default(), RankBy::from);
    let terminal = Terminal::new(Metric::Sqnr, rank_by, global.json);
    let load = |sample: usize| match &x {
        Some(x) => Ok(x.sample(sample)?),
        None => Ok(input::noise(&model.graph, 1, sample as u64)?),
    };
    let subject =
        Subject { graph: &model.graph, qconfigs: &qconfigs, rank_by, load: &load, calibrate: calibrated, samples };
    let facts = pipeline::analyze(&subject, threads(args), &terminal, &Cancel::default())?;
    terminal.finish();
    let analyzed = Analyzed {
        model: args.what.clone(),
        preset: mapping.preset.name(),
        calibrated,
        samples,
        made_up: x.is_none(),
        rank_by,
        groups: rows(&facts, rank_by),
    };
    Ok((analyzed, facts))
}

fn mapping(qconfig: Option<&Path>, preset: Option<Preset>) -> Result<QConfigMapping> {
    match qconfig {
        Some(path) => Ok(Qconfig::read(path)?.mapping()),
        None => Ok(QConfigMapping::preset(preset.unwrap_or_default())),
    }
}

fn threads(args: &AnalyzeArgs) -> usize {
    args.threads.map_or_else(available_threads, usize::from)
}

fn rows(facts: &[GroupFacts], rank_by: RankBy) -> Vec<GroupRow> {
    groups::ranked(facts, rank_by).into_iter().map(|group| GroupRow::new(group, None)).collect()
}
