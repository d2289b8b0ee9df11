//! `qtuned trials` and `qtuned front`.

use anyhow::Result;
use clap::Args;

use super::{Global, JobArg, format, heading, print, print_json, source::source};
use crate::store::TrialSummary;

/// Show the trials of a job, in order
///
/// Score and drop are those of the search split. The drop and the speed-up are against fp32; each trial's latency was
/// taken in turn with fp32's. On the front is what no other trial beats in score and median latency.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned trials\n  qtuned trials mobilenet-v2\n  qtuned trials 3 --json")]
pub(super) struct TrialsArgs {
    #[command(flatten)]
    job: JobArg,
}

/// Show the trials of a job that no other beats in score and latency, the fastest first
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  qtuned front\n  qtuned front mobilenet-v2 --json")]
pub(super) struct FrontArgs {
    #[command(flatten)]
    job: JobArg,
}

pub(super) fn run(global: &Global, args: &TrialsArgs) -> Result<()> {
    show(global, &args.job, |trials| trials)
}

pub(super) fn run_front(global: &Global, args: &FrontArgs) -> Result<()> {
    show(global, &args.job, TrialSummary::front)
}

fn show(global: &Global, job: &JobArg, choose: impl FnOnce(Vec<TrialSummary>) -> Vec<TrialSummary>) -> Result<()> {
    let source = source(global)?;
    let job = source.job(job.name())?.job;
    let trials = source.trials(job.id)?;
    let trials = choose(trials);
    if global.json {
        return print_json(&trials);
    }
    match trials.is_empty() {
        true => print(&format!("{}no trials yet\n", heading(&job))),
        false => print(&format!("{}{}", heading(&job), table(&trials))),
    }
}

/// The table of trials.
pub(super) fn table(trials: &[TrialSummary]) -> String {
    let mark = |flag: bool, mark: &str| if flag { mark.to_owned() } else { String::new() };
    // A column of its own only where there is something to say.
    let repaired = trials.iter().any(|trial| !trial.repairs.is_empty());
    let row = |trial: &TrialSummary| {
        let drop = |drop| format::drop(trial.metric, drop);
        let mut row = vec![
            trial.number.to_string(),
            if trial.int8_groups == 0 { "all".to_owned() } else { trial.fp32_groups.len().to_string() },
            format::score(trial.metric, trial.score),
            // A trial that was stopped lost this at least.
            match trial.complete {
                true => format::or_none(trial.score_drop, drop),
                false => format::or_none(trial.drop_low, |low| format!("≥ {}", drop(low))),
            },
            format::or_none(trial.median_ns, format::milliseconds),
            format::or_none(trial.q1_ns.zip(trial.q3_ns), |(q1, q3)| format!("{:.3}..{:.3}", q1 / 1e6, q3 / 1e6)),
            format::or_none(trial.speed_up, |speed_up| format!("{speed_up:.2}×")),
            format::bytes(trial.weight_bytes),
            mark(trial.on_front, "front"),
            mark(trial.chosen, "chosen"),
        ];
        if repaired {
            row.insert(2, trial.repairs.len().to_string());
        }
        row
    };
    let mut headings =
        vec![">trial", ">fp32 groups", ">score", ">drop", ">median", ">q1..q3 ms", ">speed-up", ">size", "", ""];
    if repaired {
        headings.insert(2, ">repairs");
    }
    format::table(&headings, trials.iter().map(row))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_and_their_drops_are_plain_numbers() {
        let trial = |number: usize, score: f64, chosen: bool| -> TrialSummary {
            let fp32: &[&str] = if number == 1 { &[] } else { &["a"] };
            serde_json::from_value(json!({
                "number": number, "key": "", "metric": "score", "score": score, "correct": null, "total": 100,
                "complete": true, "score_drop": 0.7634 - score, "drop_low": null, "drop_high": null, "q1_ns": 1.5e6,
                "median_ns": 2e6, "q3_ns": 2.5e6, "fp32_median_ns": 4e6, "speed_up": 2.0, "weight_bytes": 42_000,
                "activation_bytes": 0, "int8_groups": number.min(1), "fp32_groups": fp32, "on_front": chosen,
                "chosen": chosen, "fingerprint": null,
            }))
            .unwrap()
        };
        insta::assert_snapshot!(table(&[trial(0, 0.7634, false), trial(1, 0.71, false), trial(2, 0.76005, true)]));
    }
}
