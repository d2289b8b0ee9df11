//! How far what a job found can be trusted.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    confidence::spearman,
    pipeline::{Certificate, Finalist},
    sensitivity::RankBy,
    store::{GroupRow, TrialSummary},
};

/// A trial that was named before the certify split was opened, and how it did there.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct FinalistReport {
    /// Its number.
    pub trial: usize,
    /// Samples of the certify split; this and the next are `null` for a finalist that was not needed, since an earlier
    /// one holds.
    pub total: Option<u64>,
    /// Samples that fp32 gets right and it wrong.
    pub lost: Option<u64>,
    /// Samples that it gets right and fp32 wrong.
    pub won: Option<u64>,
    /// Its drop on the certify split, a fraction of all samples, or of the metric score what it is below fp32's.
    pub drop: Option<f64>,
    /// Upper bound on its drop in the population, as the budget counts drops; `null` also where fp32 may never be right.
    pub bound: Option<f64>,
    /// Whether the bound is within the budget.
    pub holds: Option<bool>,
    /// Score of fp32 on the certify split, for the metric score, of which no bound follows.
    pub fp32_score: Option<f64>,
    /// Its own score there.
    pub score: Option<f64>,
}

/// How well the ranking of the groups predicted what they win.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RankingReport {
    /// Spearman's rank correlation between how much a group loses by the ranking and how much the score rose when it went
    /// back to fp32: 1 is perfect, 0 is chance.
    pub correlation: f64,
    /// Pairs of trials that differ in one group.
    pub pairs: usize,
}

impl FinalistReport {
    /// The finalists of a certificate, in the order of the choice.
    pub fn all(certificate: &Certificate) -> Vec<FinalistReport> {
        certificate.finalists.iter().map(FinalistReport::new).collect()
    }

    fn new(finalist: &Finalist) -> FinalistReport {
        let Finalist { certified, observed, .. } = finalist;
        FinalistReport {
            trial: finalist.trial,
            total: certified.map(|c| c.pairs.total),
            lost: certified.map(|c| c.pairs.lost),
            won: certified.map(|c| c.pairs.won),
            drop: certified.map(|c| c.pairs.drop()).or(observed.map(|observed| observed.drop())),
            bound: certified.and_then(|c| c.bound),
            holds: certified.map(|c| c.holds),
            fp32_score: observed.map(|observed| observed.fp32),
            score: observed.map(|observed| observed.score),
        }
    }
}

impl RankingReport {
    /// From all pairs of trials of which one has one group more in fp32; `None` when they are too few.
    pub fn of(groups: &[GroupRow], trials: &[TrialSummary], rank_by: RankBy) -> Option<RankingReport> {
        let mut pairs = Vec::new();
        for less in trials {
            for more in trials.iter().filter(|more| more.fp32_groups.len() == less.fp32_groups.len() + 1) {
                let mut new = more.fp32_groups.iter().filter(|id| !less.fp32_groups.contains(id));
                let (Some(id), None) = (new.next(), new.next()) else { continue };
                let lost = groups.iter().find(|group| group.id == *id).and_then(|group| group.decibel(rank_by));
                if let (Some(db), Some(before), Some(after)) = (lost, less.score_drop, more.score_drop) {
                    pairs.push((-db, before - after));
                }
            }
        }
        spearman(&pairs).map(|correlation| RankingReport { correlation, pairs: pairs.len() })
    }
}
