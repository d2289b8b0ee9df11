//! The command line: one file a command.

mod act;
mod against;
mod analyze;
mod bench;
mod data;
mod db;
mod deployment;
mod export;
mod format;
mod groups;
mod init;
mod input;
mod inspect;
mod jobs;
mod logs;
mod merge;
mod predict;
mod progress;
mod query;
mod reading;
mod replay;
mod report;
mod run;
mod schema;
mod serve;
mod show;
mod signals;
mod source;
mod submit;
mod trials;
mod validate;
mod verify;
mod watch;

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    job::{self, JobError},
    pipeline::{Opened, PipelineError},
    quant::Preset,
    runner::{self, EXIT_FAILED, Exit, JobLines},
    store::JobRow,
};

/// The exit code of a wrong command line or job.
const EXIT_USAGE: u8 = 2;

const AFTER_HELP: &str = "\
Examples:
  qtuned init model.onnx data/                     write a job, with comments and a guessed preprocessing
  qtuned validate job.yaml                         check a job and say what it will do
  qtuned run job.yaml                              search; the same command again continues after a stop
  qtuned run job.yaml --set budget.max_drop=0.02   change a value of the job for this run
  qtuned serve                                     run the jobs of a queue
  qtuned submit job.yaml --watch                   put a job in the queue and follow it
  qtuned trials                                    the trials of the latest job
  qtuned front mobilenet-v2 --json                 the front of a job by its name, as JSON
  qtuned query 'SELECT number, score, speed_up FROM trial_summary WHERE on_front'

Exit codes:
  0   done; for run: a quantized qconfig is within the budget
  1   failed, or the job was cancelled
  2   wrong usage, or a job that is not valid
  3   no quantized qconfig is within the budget; fp32 is chosen
  75  interrupted; the same command continues";

/// Finds the int8 qconfig of a trained network that keeps an accuracy budget.
///
/// A job (YAML) names an ONNX model, labelled samples, a starting qconfig and a budget. qtuned runs the network in
/// fp32 and in real int8, measures how much each layer loses, takes the worst layer back to fp32, measures accuracy
/// and latency again, and goes on until the budget is kept. Every trial is a row in an SQLite database.
#[derive(Parser, Debug)]
#[command(version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct Global {
    /// The database that jobs and trials are recorded in
    #[arg(long, global = true, value_name = "FILE", env = "QTUNED_DB", default_value = "qtuned.db")]
    db: PathBuf,

    /// Ask a server in place of a database, such as http://127.0.0.1:7878. QTUNED_TOKEN is the token that it wants
    #[arg(long, global = true, value_name = "URL", env = "QTUNED_SERVER")]
    server: Option<String>,

    /// Print results as JSON
    #[arg(long, global = true)]
    json: bool,

    /// Say more on stderr; twice for everything. QTUNED_LOG takes filters such as `qtuned=debug`
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Subcommand, Debug)]
enum Command {
    Run(run::RunArgs),
    Validate(validate::ValidateArgs),
    Init(init::InitArgs),
    Schema(schema::SchemaArgs),
    Data(data::DataArgs),
    Inspect(inspect::InspectArgs),
    Analyze(analyze::AnalyzeArgs),
    Bench(bench::BenchArgs),
    Predict(predict::PredictArgs),
    Serve(serve::ServeArgs),
    Submit(submit::SubmitArgs),
    Jobs(jobs::JobsArgs),
    Show(show::ShowArgs),
    Watch(watch::WatchArgs),
    Cancel(act::CancelArgs),
    Retry(act::RetryArgs),
    Rm(act::RemoveArgs),
    Logs(logs::LogsArgs),
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Trials(trials::TrialsArgs),
    Groups(groups::GroupsArgs),
    Front(trials::FrontArgs),
    Query(query::QueryArgs),
    Report(report::ReportArgs),
    Db(db::DbArgs),
    Merge(merge::MergeArgs),
    Replay(replay::ReplayArgs),
}

/// A job that a command looks at.
#[derive(Args, Debug)]
struct JobArg {
    /// Id or name of a job; the latest when none is given
    job: Option<String>,
}

impl JobArg {
    fn name(&self) -> Option<&str> {
        self.job.as_deref()
    }
}

/// A job file, and values set over it.
#[derive(Args, Debug)]
struct JobFile {
    /// The job, a YAML file
    #[arg(value_name = "JOB.yaml")]
    path: PathBuf,

    /// Set a value of the job, such as `budget.max_drop=0.02`; the value is YAML. May be given more than once
    #[arg(long = "set", value_name = "PATH=VALUE")]
    set: Vec<String>,

    /// Start from this qconfig in place of the job's: a `*.qconfig.yaml` of a run, or a mapping
    #[arg(long, value_name = "FILE.yaml")]
    qconfig: Option<PathBuf>,
}

impl JobFile {
    /// Reads and checks the job.
    fn load(&self) -> Result<job::Job> {
        let mut job = job::load(&self.path, &self.set)?;
        if let Some(path) = &self.qconfig {
            job.spec.qconfig = deployment::Qconfig::read(path)?.mapping();
        }
        Ok(job)
    }
}

/// Whether a budget may be finer than the samples can tell.
#[derive(Args, Debug)]
struct Strictness {
    /// Refuse a budget that is finer than the samples can tell, in place of a warning
    #[arg(long)]
    strict: bool,
}

impl Strictness {
    /// What the samples can tell, in a sentence; an error when that is not enough and must be.
    fn check(&self, opened: &Opened) -> Result<Option<String>> {
        if self.strict {
            opened.check_resolution()?;
        }
        Ok(opened.resolution().map(|resolution| {
            let warning = if resolution.is_too_coarse() { "warning: " } else { "" };
            format!("{warning}{resolution}")
        }))
    }
}

/// A preset by its name.
fn preset(name: &str) -> Result<Preset, serde_yaml::Error> {
    serde_yaml::from_str(name)
}

/// Carries out a command.
///
/// # Errors
/// Whatever keeps it from being carried out; [`exit`] turns it into a message and an exit code.
pub fn run(cli: Cli) -> Result<Exit> {
    let global = &cli.global;
    let lines = start_log(global.verbose, matches!(cli.command, Command::Serve(_)));
    match &cli.command {
        Command::Run(args) => return run::run(global, args, lines),
        Command::Submit(args) => return submit::run(global, args),
        Command::Watch(args) => return watch::run(global, args),
        Command::Replay(args) => return replay::run(global, args),
        Command::Serve(args) => serve::run(global, args, lines),
        Command::Show(args) => show::run(global, args),
        Command::Cancel(args) => act::run_cancel(global, args),
        Command::Retry(args) => act::run_retry(global, args),
        Command::Rm(args) => act::run_remove(global, args),
        Command::Logs(args) => logs::run(global, args),
        Command::Export(args) => export::run(global, args),
        Command::Verify(args) => verify::run(global, args),
        Command::Validate(args) => validate::run(global, args),
        Command::Init(args) => init::run(global, args),
        Command::Schema(args) => schema::run(args),
        Command::Data(args) => data::run(global, args),
        Command::Inspect(args) => inspect::run(global, args),
        Command::Analyze(args) => analyze::run(global, args),
        Command::Bench(args) => bench::run(global, args),
        Command::Predict(args) => predict::run(global, args),
        Command::Jobs(args) => jobs::run(global, args),
        Command::Trials(args) => trials::run(global, args),
        Command::Groups(args) => groups::run(global, args),
        Command::Front(args) => trials::run_front(global, args),
        Command::Query(args) => query::run(global, args),
        Command::Report(args) => report::run(global, args),
        Command::Db(args) => db::run(global, args),
        Command::Merge(args) => merge::run(global, args),
    }
    .map(|()| Exit::Success)
}

/// The exit code of a command's result; an error is told on stderr, in one line.
pub fn exit(result: Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => ExitCode::from(exit.code()),
        // Whoever read the output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr there is nobody to tell.
            let _ = writeln!(io::stderr(), "error: {}", crate::runner::one_line(error.as_ref()));
            ExitCode::from(if is_invalid_job(&error) { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}

/// Whether the job says something that cannot be, rather than that it could not be done.
fn is_invalid_job(error: &anyhow::Error) -> bool {
    use PipelineError::{Form, Mapping, NothingToQuantize, Unresolvable};
    let misfit = |error: &PipelineError| matches!(error, Mapping(_) | NothingToQuantize | Form(_) | Unresolvable(_));
    error.is::<JobError>() || error.downcast_ref().is_some_and(misfit)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(broken))
}

/// Logs to stderr, for people on a terminal and as JSON elsewhere. What is logged while a job runs is also passed on.
fn start_log(verbose: u8, serves: bool) -> JobLines {
    let level = match verbose {
        0 if !serves => "warn",
        0 | 1 => "qtuned=info,warn",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("QTUNED_LOG").unwrap_or_else(|_| level.into());
    let (job_log, lines) = runner::job_log();
    let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match io::stderr().is_terminal() {
        true => layer.with_ansi(colours).with_filter(filter).boxed(),
        false => layer.json().with_filter(filter).boxed(),
    };
    let ours = Targets::new().with_target("qtuned", LevelFilter::INFO);
    // An error means that a log was started before, which only tests do.
    let _ = tracing_subscriber::registry().with(layer).with(job_log.with_filter(ours)).try_init();
    lines
}

/// The CPUs that this process may use.
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Writes to stdout whole, so that a closed pipe is an error and no panic.
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

fn print_json<T: Serialize>(value: &T) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A job's heading above a table.
fn heading(job: &JobRow) -> String {
    format!("job {}: {} ({})\n", job.id, job.name, job.state)
}
