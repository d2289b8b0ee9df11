//! Programs of the user's that measure an exported network: what they are given, and what they must say.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Score;
use crate::cancel::{Cancel, Cancelled};

/// Longest latency that counts as one, in ms: a day.
const MAX_MS: f64 = 86_400_000.0;

/// A program, and how it is run.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// Which.
    pub call: Call,
    /// How long one run may take.
    pub timeout: Duration,
    /// How often it is run again when it fails.
    pub retries: usize,
    /// Where it is run; where this process is when absent.
    pub folder: Option<PathBuf>,
}

/// Which program is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The program and its arguments, no shell between. `{model}` and `{data}` in an argument stand for [`Files`].
    Command(Vec<String>),
    /// A program that whoever runs jobs has registered under this name. Its arguments are [`Measures::name`], the model,
    /// and for a metric the data.
    Target(String),
}

/// What a program measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measures {
    /// The latency of a network: [`latency_ns`].
    Latency,
    /// The metric of a network: [`outcomes`], [`decibel`] or [`number`].
    Metric,
}

/// What a program is given.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The network in ONNX.
    pub model: &'a Path,
    /// A folder with `inputs.npy`, the samples as the network reads them, and `labels.npy`. Only for a metric.
    pub data: Option<&'a Path>,
}

/// Runs programs. Implemented by the shell; the core starts no process.
pub trait Programs: Send + Sync {
    /// Runs a program once and gives what it wrote to its standard output.
    ///
    /// # Errors
    /// One that cannot be started, does not end in time or not well; or that it was asked to stop.
    fn run(
        &self,
        program: &Program,
        measures: Measures,
        files: Files<'_>,
        cancel: &Cancel,
    ) -> Result<String, ProgramError>;
}

/// Why a program did not measure.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// No such program is registered.
    #[error("no program is registered as `{name}`; {}", match known.is_empty() {
        true => "`qtuned serve --allow-target NAME=PROGRAM` registers one".to_owned(),
        false => format!("registered are: {}", known.join(", ")),
    })]
    Unknown {
        /// The name.
        name: String,
        /// The names that are.
        known: Vec<String>,
    },
    /// It could not be started, or not be heard.
    #[error("`{program}` could not be run")]
    Run {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It took too long and was ended.
    #[error("`{program}` did not end within {} s{}", timeout.as_secs_f64(), Said(said))]
    TimedOut {
        /// The program.
        program: String,
        /// The limit.
        timeout: Duration,
        /// The last lines of its standard error.
        said: String,
    },
    /// It ended with a failure.
    #[error("`{program}` failed ({status}){}", Said(said))]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// The last lines of its standard error.
        said: String,
    },
    /// It said something else than what was asked.
    #[error("`{program}` did not say what it measured: {problem}")]
    Output {
        /// The program.
        program: String,
        /// What was expected, and what was found.
        problem: String,
    },
    /// The work was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

/// What a program said before it failed, in one line.
struct Said<'a>(&'a str);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim() {
            "" => Ok(()),
            said => write!(f, ": {}", said.lines().map(str::trim).collect::<Vec<_>>().join(" | ")),
        }
    }
}

impl Measures {
    /// Its name, which a registered program gets first.
    pub fn name(self) -> &'static str {
        match self {
            Measures::Latency => "latency",
            Measures::Metric => "metric",
        }
    }
}

impl Call {
    /// What tells it from others: of a command a hash of all its arguments, behind the name of the program.
    pub fn identity(&self) -> String {
        match self {
            Call::Target(name) => format!("target {name}"),
            Call::Command(arguments) => {
                let mut hasher = Sha256::new();
                for argument in arguments {
                    hasher.update((argument.len() as u64).to_le_bytes());
                    hasher.update(argument);
                }
                let digest: String = hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
                format!("command {} {digest}", self.name())
            }
        }
    }

    /// What people call it.
    pub fn name(&self) -> String {
        match self {
            Call::Target(name) => name.clone(),
            Call::Command(arguments) => {
                let program = arguments.first().map(String::as_str).unwrap_or_default();
                Path::new(program).file_name().map_or(program.into(), |name| name.to_string_lossy()).into_owned()
            }
        }
    }
}

impl Program {
    /// Runs it until it says something that `read` understands, as often as it may be run.
    ///
    /// # Errors
    /// That of the last run.
    pub fn measure<T>(
        &self,
        programs: &dyn Programs,
        measures: Measures,
        files: Files<'_>,
        cancel: &Cancel,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ProgramError> {
        let once = || {
            let said = programs.run(self, measures, files, cancel)?;
            read(&said).map_err(|problem| ProgramError::Output { program: self.call.name(), problem })
        };
        let mut left = self.retries;
        loop {
            match once() {
                Err(ProgramError::Cancelled(cancelled)) => return Err(cancelled.into()),
                Err(error) if left > 0 && !matches!(error, ProgramError::Unknown { .. }) => {
                    tracing::warn!("{error}; it is run again");
                    left -= 1;
                }
                measured => return measured,
            }
        }
    }
}

/// Latencies in ns, one or several, of what a program wrote: a number of ms, or an object whose `latency_ms` is one or a
/// list of such. Where it wrote more, its last line counts.
///
/// # Errors
/// What was expected and what was found.
pub fn latency_ns(said: &str) -> Result<Vec<u64>, String> {
    const EXPECTED: &str = "expected a number of ms, or {\"latency_ms\": a number or a list of numbers}";
    let value = parse(said).ok_or_else(|| format!("{EXPECTED}, found {}", shown(said)))?;
    let found = match &value {
        Value::Object(fields) => fields.get("latency_ms"),
        other => Some(other),
    };
    let numbers: Vec<Option<f64>> = match found {
        Some(Value::Array(several)) if value.is_object() => several.iter().map(Value::as_f64).collect(),
        one => vec![one.and_then(Value::as_f64)],
    };
    let ns = |ms: Option<f64>| ms.filter(|ms| *ms > 0.0 && *ms <= MAX_MS).map(|ms| (ms * 1e6).round() as u64);
    let all: Option<Vec<u64>> = numbers.into_iter().map(ns).collect();
    all.filter(|all| !all.is_empty())
        .ok_or_else(|| format!("{EXPECTED}, above 0 and below a day, found {}", shown(said)))
}

/// Which of `samples` samples were right, of what a program wrote: an object whose `correct` has one entry for each, in
/// the order of the data: `true`, `false`, 1 or 0. A share alone would not tell on which samples it differs from fp32, and
/// without that nothing follows for others than these samples. A `score` beside it must be the share.
///
/// # Errors
/// What was expected and what was found.
pub fn outcomes(said: &str, samples: usize) -> Result<Vec<bool>, String> {
    let expected = || format!("expected {{\"correct\": [..]}} with true or false for each of {samples} samples");
    let value = parse(said).ok_or_else(|| format!("{}, found {}", expected(), shown(said)))?;
    let Some(entries) = value.get("correct").and_then(Value::as_array) else {
        let hint = if score(said).is_some() { "; `metric: score` is for a program that prints one number" } else { "" };
        return Err(format!("{}, found {}{hint}", expected(), shown(said)));
    };
    if entries.len() != samples {
        return Err(format!("{}, found {}", expected(), entries.len()));
    }
    let outcome = |entry: &Value| {
        entry.as_bool().or(match entry.as_f64() {
            Some(0.0) => Some(false),
            Some(1.0) => Some(true),
            _ => None,
        })
    };
    let read = |(at, entry): (usize, &Value)| {
        outcome(entry).ok_or_else(|| format!("{}, found {} at {at}", expected(), shown(&entry.to_string())))
    };
    let correct: Vec<bool> = entries.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    let right = correct.iter().filter(|right| **right).count() as u64;
    let share = Score::Count { correct: right, total: samples as u64 }.value();
    match value.get("score") {
        None => Ok(correct),
        Some(score) if score.as_f64().is_some_and(|score| (score - share).abs() * samples as f64 <= 0.5) => Ok(correct),
        Some(score) => Err(format!("its score is {}, and {right} of {samples} are correct", shown(&score.to_string()))),
    }
}

/// A finite number of what a program wrote: a number, or an object whose `score` is one.
///
/// # Errors
/// What was expected and what was found.
pub fn number(said: &str) -> Result<f64, String> {
    // JSON has finite numbers alone.
    score(said).ok_or_else(|| format!("expected a finite number, or {{\"score\": a number}}, found {}", shown(said)))
}

/// A ratio in dB of what a program wrote: a number, `inf`, or an object whose `score` is a number.
///
/// # Errors
/// What was expected and what was found.
pub fn decibel(said: &str) -> Result<f64, String> {
    let infinite = || last_line(said).parse::<f64>().ok().filter(|db| *db == f64::INFINITY);
    score(said)
        .or_else(infinite)
        .ok_or_else(|| format!("expected a number of dB, or {{\"score\": a number of dB}}, found {}", shown(said)))
}

/// A number, or the `score` of an object.
fn score(said: &str) -> Option<f64> {
    parse(said).and_then(|value| value.get("score").unwrap_or(&value).as_f64())
}

/// All of it, or else its last line, as JSON.
fn parse(said: &str) -> Option<Value> {
    serde_json::from_str(said).or_else(|_| serde_json::from_str(last_line(said))).ok()
}

fn last_line(said: &str) -> &str {
    said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default()
}

/// The beginning of a text, as one may show it.
fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let line = last_line(text);
    match line.chars().nth(MOST) {
        _ if line.is_empty() => "nothing".to_owned(),
        None => format!("`{}`", line.escape_debug()),
        Some(_) => format!("`{}…`", line.chars().take(MOST).collect::<String>().escape_debug()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_numbers_of_ms() {
        assert_eq!(latency_ns("1.5\n"), Ok(vec![1_500_000]));
        assert_eq!(latency_ns("warming up\n\n 2 \n"), Ok(vec![2_000_000]));
        assert_eq!(latency_ns("{\"latency_ms\": 0.25, \"device\": \"x\"}"), Ok(vec![250_000]));
        assert_eq!(latency_ns("[log]\n{\"latency_ms\": [1, 2.5]}"), Ok(vec![1_000_000, 2_500_000]));
        for wrong in
            ["", "fast", "-1", "0", "1e300", "NaN", "[1]", "{}", "{\"latency_ms\": []}", "{\"latency_ms\": [1, null]}"]
        {
            let problem = latency_ns(wrong).unwrap_err();
            assert!(problem.starts_with("expected a number of ms"), "{wrong}: {problem}");
        }
        assert!(latency_ns("").unwrap_err().ends_with("found nothing"));
        assert!(latency_ns(&"x".repeat(500)).unwrap_err().len() < 250);
    }

    #[test]
    fn outcomes_are_one_for_each_sample() {
        assert_eq!(outcomes("{\"correct\": [true, 0, 1]}", 3), Ok(vec![true, false, true]));
        assert!(outcomes("{\"correct\": [1, 0], \"score\": 0.5}", 2).is_ok());
        for (wrong, says) in [
            ("0.93", "found `0.93`; `metric: score` is for a program that prints one number"),
            ("{\"score\": 0.9}", "with true or false for each of 2 samples, found `{"),
            ("{\"score\": 0.9}", "`; `metric: score` is for"),
            ("nothing", "found `nothing`"),
            ("{\"correct\": [1]}", "found 1"),
            ("{\"correct\": [1, 2]}", "found `2` at 1"),
            ("{\"correct\": [1, 0], \"score\": 0.9}", "its score is `0.9`, and 1 of 2 are correct"),
        ] {
            let problem = outcomes(wrong, 2).unwrap_err();
            assert!(problem.contains(says), "{wrong}: {problem}");
        }
    }

    #[test]
    fn ratios_are_numbers_of_db() {
        assert_eq!(decibel("31.5"), Ok(31.5));
        assert_eq!(decibel("note\ninf"), Ok(f64::INFINITY));
        assert_eq!(decibel("{\"score\": 12}"), Ok(12.0));
        assert!(decibel("nan").is_err() && decibel("{\"correct\": [1]}").is_err());
    }

    #[test]
    fn scores_are_finite_numbers() {
        assert_eq!(number("0.7634"), Ok(0.7634));
        assert_eq!(number("evaluating\n-3\n"), Ok(-3.0));
        assert_eq!(number("{\"score\": 27.5, \"signature\": \"x\"}"), Ok(27.5));
        for wrong in
            ["", "nan", "NaN", "inf", "1e999", "mAP: 0.7", "[0.7]", "{\"correct\": [true]}", "{\"score\": null}"]
        {
            let problem = number(wrong).unwrap_err();
            assert!(problem.starts_with("expected a finite number, or {\"score\": a number}, found "), "{problem}");
        }
    }

    #[test]
    fn commands_are_told_apart_by_every_argument() {
        let command = |arguments: &[&str]| Call::Command(arguments.iter().map(|a| (*a).to_owned()).collect());
        let one = command(&["/usr/bin/python3", "a b", "{model}"]);
        assert!(one.identity().starts_with("command python3 "));
        assert_ne!(one.identity(), command(&["/usr/bin/python3", "a", "b {model}"]).identity());
        assert_ne!(command(&["phone"]).identity(), Call::Target("phone".to_owned()).identity());
    }
}
