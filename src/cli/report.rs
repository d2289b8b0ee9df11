//! `qtuned report`.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;

use super::{Global, JobArg, print, print_json, source::source};
use crate::{output, report::Document};

/// Write a job's results as pictures and tables
///
/// HTML is one file that opens without a network: accuracy against latency with the front, the budget and the choice,
/// SQNR by layer, the trials, and what two qconfigs differ in. SVG and CSV are two files each, one of the trials and
/// one of the groups, named after the output: report.trials.svg and report.groups.svg.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned report
  qtuned report mobilenet-v2 -o mobilenet-v2.html
  qtuned report 3 --format svg -o docs/front.svg")]
pub(super) struct ReportArgs {
    #[command(flatten)]
    job: JobArg,

    /// The file to write; report.FORMAT when not given
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Html, value_name = "FORMAT")]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// One page with everything.
    Html,
    /// Two pictures.
    Svg,
    /// Two tables.
    Csv,
    /// What the page is drawn from.
    Json,
}

pub(super) fn run(global: &Global, args: &ReportArgs) -> Result<()> {
    let source = source(global)?;
    let job = source.job(args.job.name())?.job.id;
    let (extension, documents) = match args.format {
        Format::Html => ("html", &[Document::Html][..]),
        Format::Json => ("json", &[Document::Json][..]),
        Format::Svg => ("svg", &[Document::TrialsSvg, Document::GroupsSvg][..]),
        Format::Csv => ("csv", &[Document::TrialsCsv, Document::GroupsCsv][..]),
    };
    let file = args.output.clone().unwrap_or_else(|| Path::new("report").with_extension(extension));
    let mut written = Vec::new();
    for document in documents {
        let path = match documents {
            [_] => file.clone(),
            _ => part_of(&file, Path::new(document.file_name()).file_stem().unwrap_or_default()),
        };
        output::write(&path, &source.document(job, *document)?)?;
        written.push(path);
    }
    match global.json {
        true => print_json(&written),
        false => print(&written.iter().map(|path| format!("{}\n", path.display())).collect::<String>()),
    }
}

/// `folder/name.part.extension` of `folder/name.extension`.
fn part_of(file: &Path, part: &OsStr) -> PathBuf {
    let mut name = OsString::from(file.file_stem().unwrap_or_default());
    name.push(".");
    name.push(part);
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}
