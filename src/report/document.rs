//! The files that are made of a report.

use std::io;

use super::{JobReport, ReportError, html::html, svg};
use crate::{output, quant::Precision, sensitivity::RankBy, store::GroupRow};

/// A file made of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// One page with everything, which opens without a network.
    Html,
    /// What the page is drawn from.
    Json,
    /// The table of trials.
    TrialsCsv,
    /// The table of groups.
    GroupsCsv,
    /// Accuracy against latency.
    TrialsSvg,
    /// SQNR by layer.
    GroupsSvg,
}

impl Document {
    /// All of them.
    pub const ALL: [Document; 6] = [
        Document::Html,
        Document::Json,
        Document::TrialsCsv,
        Document::GroupsCsv,
        Document::TrialsSvg,
        Document::GroupsSvg,
    ];

    /// Its usual file name.
    pub fn file_name(self) -> &'static str {
        match self {
            Document::Html => "report.html",
            Document::Json => "report.json",
            Document::TrialsCsv => "trials.csv",
            Document::GroupsCsv => "groups.csv",
            Document::TrialsSvg => "trials.svg",
            Document::GroupsSvg => "groups.svg",
        }
    }

    /// The one with this file name.
    pub fn by_file_name(name: &str) -> Option<Document> {
        Document::ALL.into_iter().find(|document| document.file_name() == name)
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Document::Html => "text/html; charset=utf-8",
            Document::Json => "application/json",
            Document::TrialsCsv | Document::GroupsCsv => "text/csv; charset=utf-8",
            Document::TrialsSvg | Document::GroupsSvg => "image/svg+xml",
        }
    }

    /// Makes it.
    ///
    /// # Errors
    /// Whatever keeps it from being formatted or drawn.
    pub fn of(self, report: &JobReport) -> Result<Vec<u8>, ReportError> {
        Ok(match self {
            Document::Html => html(report)?.into_bytes(),
            Document::Json => format!("{}\n", serde_json::to_string_pretty(report)?).into_bytes(),
            Document::TrialsCsv => output::trials_csv(report.trials.iter().map(|trial| &trial.summary))?,
            Document::GroupsCsv => groups_csv(&report.groups)?,
            Document::TrialsSvg => svg::trials(report)?.into_bytes(),
            Document::GroupsSvg => svg::groups(report)?.into_bytes(),
        })
    }
}

/// The table of groups, in the order given.
///
/// # Errors
/// A row that cannot be written.
pub fn groups_csv(groups: &[GroupRow]) -> Result<Vec<u8>, csv::Error> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "position",
        "id",
        "object_type",
        "macs",
        "parameters",
        "weight_db",
        "local_db",
        "accumulated_db",
        "output_db",
        "range_min",
        "range_max",
        "chosen",
    ])?;
    for (position, group) in groups.iter().enumerate() {
        let decibel = |kind| group.decibel(kind).map(|db| db.to_string()).unwrap_or_default();
        let range = |end: usize| group.range.and_then(|r| r.get(end).copied()).map(|v| v.to_string());
        let chosen = match group.chosen {
            None => "",
            Some(Precision::Int8) => "int8",
            Some(Precision::Fp32) => "fp32",
        };
        table.write_record([
            position.to_string(),
            group.id.clone(),
            group.object_type.clone(),
            group.macs.to_string(),
            group.parameters.to_string(),
            decibel(RankBy::Weight),
            decibel(RankBy::Local),
            decibel(RankBy::Accumulated),
            decibel(RankBy::Output),
            range(0).unwrap_or_default(),
            range(1).unwrap_or_default(),
            chosen.to_owned(),
        ])?;
    }
    table.into_inner().map_err(|error| io::Error::other(error.to_string()).into())
}
