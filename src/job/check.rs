//! What a job's values must satisfy beyond their types.

use super::{JobSpec, MeasureSpec};
use crate::{
    dataset::{Preprocess, SplitSpec},
    evaluate::{Measures, Metric},
    onnx::SampleShapes,
    search::DropKind,
};

/// Longest name: a folder is called so.
const MAX_NAME: usize = 100;

/// A value that cannot be, and where it is.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    /// Path in the job.
    pub(super) path: &'static [&'static str],
    /// What was expected and what was found.
    pub(super) problem: String,
}

fn wrong(path: &'static [&'static str], problem: impl Into<String>) -> Result<(), Wrong> {
    Err(Wrong { path, problem: problem.into() })
}

fn within(path: &'static [&'static str], value: usize, least: usize, most: usize) -> Result<(), Wrong> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => wrong(path, format!("expected a whole number from {least} to {most}, found {value}")),
    }
}

/// The first value that cannot be.
pub(super) fn check(spec: &JobSpec) -> Result<(), Wrong> {
    name(&spec.name)?;
    if spec.model.onnx.as_os_str().is_empty() {
        wrong(&["model", "onnx"], "expected the path of an ONNX file, found an empty text")?;
    }
    if let Some(Err(problem)) = spec.model.shape.as_ref().map(SampleShapes::check) {
        wrong(&["model", "shape"], problem)?;
    }
    if spec.model.fixed.values().any(|number| !number.is_finite()) {
        wrong(&["model", "fixed"], "expected finite numbers")?;
    }
    if spec.output.as_ref().is_some_and(|output| output.as_os_str().is_empty()) {
        wrong(&["output"], "expected the path of a folder, found an empty text")?;
    }
    preprocess(&spec.data.preprocess)?;
    if let SplitSpec::Counts(counts) = &spec.data.split {
        const MOST: usize = 1_000_000_000;
        within(&["data", "split", "calibrate"], counts.calibrate, 1, MOST)?;
        within(&["data", "split", "search"], counts.search.unwrap_or(1), 1, MOST)?;
        within(&["data", "split", "certify"], counts.certify, 0, MOST)?;
    }
    budget(spec)?;
    within(&["sensitivity", "samples"], spec.sensitivity.samples, 1, 1_000_000)?;
    within(&["search", "max_trials"], spec.search.max_trials, 2, 1_000_000)?;
    let latency = &spec.measure.latency;
    within(&["measure", "latency", "batch"], latency.batch, 1, 4_096)?;
    within(&["measure", "latency", "threads"], latency.threads, 1, 1_024)?;
    within(&["measure", "latency", "warmup"], latency.warmup, 0, 100_000)?;
    within(&["measure", "latency", "runs"], latency.runs, 1, 100_000)?;
    programs(spec)
}

/// Longest name of a registered program.
const MAX_TARGET: usize = 64;

/// Whether a program may be registered under this name.
pub fn is_target_name(name: &str) -> bool {
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=MAX_TARGET).contains(&name.len()) && !name.starts_with(['-', '.']) && name.chars().all(usable)
}

/// Where in a job something is.
type At = &'static [&'static str];

fn programs(spec: &JobSpec) -> Result<(), Wrong> {
    let MeasureSpec { latency, metric, programs } = &spec.measure;
    command(&["measure", "latency", "command"], latency.command.as_deref())?;
    command(&["measure", "metric", "command"], metric.command.as_deref())?;
    target(&["measure", "latency", "target"], latency.target.as_deref(), latency.command.is_some())?;
    target(&["measure", "metric", "target"], metric.target.as_deref(), metric.command.is_some())?;
    if programs.folder.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
        wrong(&["measure", "programs", "folder"], "expected the path of a folder, found an empty text")?;
    }
    within(&["measure", "programs", "retries"], programs.retries, 0, 100)
}

fn command(at: At, arguments: Option<&[String]>) -> Result<(), Wrong> {
    const EXPECTED: &str = "expected a list: a program and its arguments, among them `{model}`";
    let Some(arguments) = arguments else { return Ok(()) };
    if !(1..=1_000).contains(&arguments.len()) || arguments[0].is_empty() {
        wrong(at, format!("{EXPECTED}; found no program"))?;
    }
    if arguments.iter().any(|argument| argument.contains('\0')) {
        wrong(at, format!("{EXPECTED}; found a NUL byte"))?;
    }
    if !arguments.iter().skip(1).any(|argument| argument.contains("{model}")) {
        wrong(at, format!("{EXPECTED}; without it the program cannot know which network to measure"))?;
    }
    Ok(())
}

fn target(at: At, name: Option<&str>, has_command: bool) -> Result<(), Wrong> {
    match name {
        Some(_) if has_command => wrong(at, "expected a command or a target, found both"),
        Some(name) if !is_target_name(name) => {
            wrong(at, format!("expected a name of at most {MAX_TARGET} letters, digits, `-`, `_` and `.`"))
        }
        _ => Ok(()),
    }
}

fn name(name: &str) -> Result<(), Wrong> {
    let path: &'static [&'static str] = &["name"];
    let usable = |c: char| c.is_alphanumeric() || "-_. +".contains(c);
    if name.trim().is_empty() {
        wrong(path, "expected a name, found an empty text")?;
    }
    if name.len() > MAX_NAME {
        wrong(path, format!("expected a name of at most {MAX_NAME} bytes, found {}", name.len()))?;
    }
    if name.starts_with(['.', '-']) || name.trim() != name || !name.chars().all(usable) {
        let problem = "expected letters, digits, `-`, `_`, `.`, `+` and inner spaces, not starting with `.` or `-`";
        wrong(path, format!("{problem}, because a folder is called so; found `{}`", name.escape_debug()))?;
    }
    Ok(())
}

fn preprocess(preprocess: &Preprocess) -> Result<(), Wrong> {
    if !preprocess.scale.is_finite() || preprocess.scale == 0.0 {
        wrong(&["data", "preprocess", "scale"], "expected a finite number other than 0")?;
    }
    let lists: [(&'static [&'static str], &[f64], bool); 2] = [
        (&["data", "preprocess", "mean"], &preprocess.mean, true),
        (&["data", "preprocess", "std"], &preprocess.std, false),
    ];
    for (path, values, zero) in lists {
        if values.is_empty() || values.len() > 4_096 {
            wrong(path, format!("expected one value, or one for each channel, found {}", values.len()))?;
        }
        if values.iter().any(|v| !v.is_finite() || (!zero && *v <= 0.0)) {
            wrong(path, if zero { "expected finite numbers" } else { "expected finite numbers above 0" })?;
        }
    }
    Ok(())
}

fn budget(spec: &JobSpec) -> Result<(), Wrong> {
    let budget = &spec.budget;
    let drop: &'static [&'static str] = &["budget", "max_drop"];
    let least: &'static [&'static str] = &["budget", "min_db"];
    match (budget.metric, budget.max_drop, budget.min_db) {
        (Metric::Sqnr, Some(_), _) => {
            wrong(drop, "the metric sqnr has no drop; its budget is min_db, the least SQNR in dB")
        }
        (Metric::Sqnr, None, None) => wrong(least, "the metric sqnr needs min_db, the least SQNR in dB"),
        (Metric::Sqnr, None, Some(db)) if !(-1000.0..=1000.0).contains(&db) => {
            wrong(least, format!("expected a number of dB from -1000 to 1000, found {db}"))
        }
        (Metric::Sqnr, None, Some(_)) => Ok(()),
        (_, _, Some(_)) => wrong(least, "min_db is for the metric sqnr; the budget of this metric is max_drop"),
        (Metric::Score, None, None) => wrong(drop, "expected the largest drop, in the unit of the score; found none"),
        (_, None, None) => wrong(drop, "expected the largest drop, a fraction: 0.01 is one point; found none"),
        (Metric::Score, Some(max), None) if budget.drop == DropKind::Absolute => match max.is_finite() && max >= 0.0 {
            true => Ok(()),
            false => wrong(drop, format!("expected a finite number from 0, in the unit of the score, found {max}")),
        },
        (_, Some(max), None) if !(0.0..1.0).contains(&max) => {
            wrong(drop, format!("expected a fraction from 0 to below 1 (0.01 is one point), found {max}"))
        }
        _ => Ok(()),
    }?;
    if budget.metric == Metric::Score && spec.measure.program(Measures::Metric).is_none() {
        let problem = "the metric score is a number that a program prints; measure.metric.command or target names it";
        wrong(&["budget", "metric"], problem)?;
    }
    if !(budget.confidence > 0.5 && budget.confidence < 1.0) {
        let problem = format!("expected a fraction above 0.5 and below 1, found {}", budget.confidence);
        wrong(&["budget", "confidence"], problem)?;
    }
    Ok(())
}
