//! `qtuned validate`.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::{Global, JobFile, Strictness, format, inspect, print, print_json};
use crate::{
    cancel::Cancel,
    dataset::Part,
    pipeline,
    search::{Budget, DropKind, StrategyKind},
};

/// Check a job, its model and its data, and say what it will do
///
/// Nothing is measured and nothing is written.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  qtuned validate job.yaml\n  qtuned validate job.yaml --set qconfig.preset=qnnpack"
)]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    job: JobFile,

    #[command(flatten)]
    strictness: Strictness,
}

pub(super) fn run(global: &Global, args: &ValidateArgs) -> Result<()> {
    let job = args.job.load()?;
    let opened = pipeline::open(&job, &Cancel::default())?;
    let resolution = args.strictness.check(&opened)?;
    let (spec, model, groups) = (&job.spec, opened.model(), opened.groups());
    let samples = |part| opened.dataset().len(part);
    let (calibrate, search, certify) = (samples(Part::Calibrate), samples(Part::Search), samples(Part::Certify));
    let quantized = opened.qconfigs().iter().flatten().count();
    // Greedy: fp32, everything in int8, then one group more in fp32 each time; everything in fp32 is the first again.
    let chain = (spec.search.strategy == StrategyKind::Greedy && !spec.search.refine).then_some(quantized + 1);
    let trials = spec.search.max_trials.min(chain.unwrap_or(usize::MAX));
    if global.json {
        return print_json(&json!({
            "name": spec.name,
            "job": spec,
            "model": pipeline::model_facts(model, groups),
            "quantized_groups": quantized,
            "samples": {"calibrate": calibrate, "search": search, "certify": certify},
            "trials_at_most": trials,
            "output": job.output(),
        }));
    }
    let budget = match spec.budget.budget() {
        Budget::Drop { max_drop, kind } => {
            let most = match (kind, spec.budget.metric.counts()) {
                (DropKind::Absolute, true) => format!("{} % of all samples", max_drop * 100.0),
                (DropKind::Relative, true) => format!("{} % of the samples that fp32 gets right", max_drop * 100.0),
                (DropKind::Absolute, false) => format!("{max_drop}"),
                (DropKind::Relative, false) => format!("{} % of fp32's", max_drop * 100.0),
            };
            format!("{} may drop by {most}", name(&spec.budget.metric))
        }
        Budget::MinDb(least) => format!("the output's SQNR must be at least {least} dB"),
    };
    let latency = &spec.measure.latency;
    print(&format!(
        "job {} is valid\n{}\
         qconfig: {} of {} quantized, preset {}\n\
         samples: {calibrate} calibrate, {search} search, {certify} certify\n\
         budget: {budget}\n\
         {}\
         search: {} at most; latency of {} each, batch {}, {}\n\
         output: {}\n",
        spec.name,
        inspect::totals(model, groups),
        quantized,
        format::plural(groups.len(), "group"),
        spec.qconfig.preset.name(),
        resolution.map(|text| format!("{text}\n")).unwrap_or_default(),
        format::plural(trials, "trial"),
        format::plural(latency.runs, "run"),
        latency.batch,
        format::plural(latency.threads, "thread"),
        job.output().display(),
    ))
}

/// A metric as jobs name it.
fn name(metric: &crate::evaluate::Metric) -> String {
    serde_json::to_string(metric).unwrap_or_default().trim_matches('"').to_owned()
}
