//! What a run shows while it goes on, on stderr; the sensitivities on stdout.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{format, groups};
use crate::{
    evaluate::{Latency, Metric},
    pipeline::{GroupFacts, Progress, Stage, TrialFacts},
    search::Trial,
    sensitivity::RankBy,
};

/// Groups in the table of sensitivities.
const WORST: usize = 15;

const COUNTED: &str = "{msg} [{bar:24}] {pos}/{len} {per_sec}, {eta} left";
const UNCOUNTED: &str = "{spinner} {msg} {elapsed}";

/// A bar on a terminal, lines elsewhere.
pub(super) struct Terminal {
    bar: ProgressBar,
    /// Whether stderr is a terminal.
    live: bool,
    metric: Metric,
    rank_by: RankBy,
    /// Whether stdout is kept for JSON.
    json: bool,
    /// How long the search is likely to go on, in seconds.
    left: Mutex<Option<f64>>,
}

impl Terminal {
    pub(super) fn new(metric: Metric, rank_by: RankBy, json: bool) -> Terminal {
        let live = io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        Terminal { bar, live, metric, rank_by, json, left: Mutex::default() }
    }

    /// A line above the bar.
    pub(super) fn line(&self, text: &str) {
        // Without a stderr there is nobody to tell.
        self.bar.suspend(|| drop(writeln!(io::stderr(), "{text}")));
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn describe(stage: &Stage) -> String {
    match stage {
        Stage::Import => "reading model and data".to_owned(),
        Stage::Calibrate => "calibrating".to_owned(),
        Stage::Sensitivity => "measuring sensitivities".to_owned(),
        Stage::Evaluate { trial: 0, .. } => "trial 0 (fp32): evaluating".to_owned(),
        Stage::Evaluate { trial, group: None } => format!("trial {trial}: evaluating"),
        Stage::Evaluate { trial, group: Some(group) } => format!("trial {trial} ({group} in fp32): evaluating"),
        Stage::Times => "taking the times of groups".to_owned(),
        Stage::Replay => "measuring the trial again".to_owned(),
        Stage::Rank { groups } => format!("ranking again, {} in fp32", format::plural(*groups, "group")),
        Stage::Compare { trials } => format!("taking the latencies of {} in turn", format::plural(*trials, "trial")),
        Stage::Screen { groups } => {
            format!("looking which answers one group more would change, {} in fp32", format::plural(*groups, "group"))
        }
        Stage::Certify { trial: 0 } => "certifying: fp32".to_owned(),
        Stage::Certify { trial } => format!("certifying: trial {trial}"),
        Stage::Latency { trial } => format!("trial {trial}: taking latencies"),
    }
}

impl Progress for Terminal {
    fn stage(&self, stage: Stage, total: Option<u64>) {
        let mut message = describe(&stage);
        let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Stage::Evaluate { .. }, Some(seconds)) = (&stage, left) {
            message.push_str(&format::left(seconds.round() as u64));
        }
        if !self.live {
            return self.line(&message);
        }
        let template = if total.is_some() { COUNTED } else { UNCOUNTED };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.reset();
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_prefix(message.clone());
        self.bar.set_message(message);
    }

    fn advance(&self, done: u64, correct: Option<u64>) {
        self.bar.set_position(done);
        if let Some(correct) = correct.filter(|_| self.live && done > 0) {
            let share = format::score(Metric::Top1, correct as f64 / done as f64);
            self.bar.set_message(format!("{} {share}", self.bar.prefix()));
        }
    }

    fn sensitivities(&self, all: &[GroupFacts]) {
        if self.json {
            return;
        }
        let table = groups::table(&groups::ranked(all, self.rank_by), WORST);
        // A reader of stdout that has gone is no reason to stop the search.
        self.bar.suspend(|| drop(super::print(&table)));
    }

    fn trial(&self, number: usize, trial: &Trial, facts: &TrialFacts) {
        let latency = trial.latency.as_ref();
        let median = format::or_none(latency.and_then(Latency::candidate), |q| format::milliseconds(q.median));
        let speed_up = format::or_none(latency.and_then(Latency::speed_up), |s| format!("{s:.2}×"));
        let fp32 = format::in_fp32(trial.int8_groups, facts.fp32_names.len(), &trial.repairs);
        let score = format::score(self.metric, trial.evaluation.score.value());
        self.line(&match (latency, facts.drop) {
            (None, Some(drop)) if drop.low < drop.high => {
                let (seen, low) = (trial.evaluation.score.total(), format::drop(self.metric, drop.low));
                format!("trial {number}: {fp32}, surely outside after {seen} samples: drop at least {low}")
            }
            _ => format!("trial {number}: {fp32}, score {score}, median {median}, speed-up {speed_up}"),
        });
    }

    fn left(&self, seconds: Option<f64>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
    }
}
