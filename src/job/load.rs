//! A job's file, and values set over it, to a checked [`Job`].

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use super::{Job, JobSpec, check, walk};

/// Largest job file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// What is wrong with a job.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The file cannot be read.
    #[error("{}: failed to read the job", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that cannot be.
    #[error("{place}: {problem}")]
    Invalid {
        /// File, line and column, and path in the job, as far as they are known.
        place: Place,
        /// What was expected and what was found.
        problem: String,
    },
    /// A value to set is not written as `path=value`.
    #[error("--set {given}: expected path=value, such as budget.max_drop=0.02")]
    Set {
        /// As given.
        given: String,
    },
}

/// Where in a job something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The job file, or `--set` for a value that was set over it.
    pub file: String,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
    /// Path of the value, such as `budget.max_drop`.
    pub path: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        Ok(())
    }
}

/// Reads and checks a job's file, after setting `overrides` (`path=value`, the value in YAML) over it.
///
/// # Errors
/// [`JobError`] names the file, the place in it and what was expected.
pub fn load(path: &Path, overrides: &[String]) -> Result<Job, JobError> {
    let read = |source| JobError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    File::open(path).map_err(read)?.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(read)?;
    let spec = parse_named(&path.display().to_string(), &text, overrides)?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Job { spec, folder, root: None })
}

/// Reads and checks the text of a job.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, overrides: &[String]) -> Result<JobSpec, JobError> {
    parse_named("job", text, overrides)
}

fn parse_named(file: &str, text: &str, overrides: &[String]) -> Result<JobSpec, JobError> {
    let at = |place: Option<(usize, usize)>, path: &str, problem: String| {
        let place = Place { file: file.to_owned(), at: place, path: path.to_owned() };
        JobError::Invalid { place, problem }
    };
    if text.len() as u64 > MAX_BYTES {
        return Err(at(None, "", format!("a job has at most {MAX_BYTES} bytes")));
    }
    let syntax = |error: serde_yaml::Error| {
        let place = error.location().map(|l| (l.line(), l.column()));
        at(place, "", plain(&error))
    };
    walk::check_size(text).map_err(syntax)?;
    let mut yaml: Value = serde_yaml::from_str(text).map_err(syntax)?;
    if yaml.is_null() {
        yaml = Value::Mapping(Mapping::new());
    }
    if !yaml.is_mapping() {
        return Err(at(Some((1, 1)), "", "expected a mapping with the keys name, model, data and budget".to_owned()));
    }
    let mut set_paths = Vec::new();
    for given in overrides {
        set_paths.push(set(&mut yaml, given)?);
    }
    // Where a path is: set on the command line, or in the file.
    let place = |path: &[String]| {
        let text_path = path.join(".");
        let set = set_paths.iter().zip(overrides).rev().find(|(set, _)| path.starts_with(set) || set.starts_with(path));
        match set {
            Some((_, given)) => Place { file: format!("--set {given}"), at: None, path: text_path },
            None => Place { file: file.to_owned(), at: walk::locate(text, path), path: text_path },
        }
    };
    let spec: JobSpec = read(yaml).map_err(|(path, problem)| JobError::Invalid { place: place(&path), problem })?;
    check::check(&spec).map_err(|wrong| {
        let path: Vec<String> = wrong.path.iter().map(|step| (*step).to_owned()).collect();
        JobError::Invalid { place: place(&path), problem: wrong.problem }
    })?;
    Ok(spec)
}

/// Sets `path=value` in a document, making the mappings on the way; gives the path.
fn set(yaml: &mut Value, given: &str) -> Result<Vec<String>, JobError> {
    let wrong = || JobError::Set { given: given.to_owned() };
    let (path, text) = given.split_once('=').ok_or_else(wrong)?;
    let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
    if text.len() as u64 > MAX_BYTES || steps.len() > 32 || steps.iter().any(String::is_empty) {
        return Err(wrong());
    }
    let invalid = |error: serde_yaml::Error| {
        let place = Place { file: format!("--set {given}"), at: None, path: String::new() };
        JobError::Invalid { place, problem: plain(&error) }
    };
    walk::check_size(text).map_err(invalid)?;
    let value: Value = serde_yaml::from_str(text).map_err(invalid)?;
    let mut at = yaml;
    for step in &steps {
        if let Value::Sequence(items) = at {
            let index = step.parse::<usize>().ok().filter(|index| *index < items.len()).ok_or_else(wrong)?;
            at = &mut items[index];
            continue;
        }
        // A shorthand on the way (null, or one number for a mapping) gives way to the mapping that is asked for.
        if !at.is_mapping() {
            *at = Value::Mapping(Mapping::new());
        }
        let Value::Mapping(entries) = at else { return Err(wrong()) };
        at = entries.entry(Value::String(step.clone())).or_insert(Value::Null);
    }
    *at = value;
    Ok(steps)
}

/// Reads a document; what is wrong comes with its path.
fn read<T: DeserializeOwned>(yaml: Value) -> Result<T, (Vec<String>, String)> {
    serde_path_to_error::deserialize(yaml).map_err(|error| {
        let step = |segment: &Segment| match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } => key.clone(),
            Segment::Enum { variant } => variant.clone(),
            Segment::Unknown => "?".to_owned(),
        };
        let path = error.path().iter().map(step).collect();
        (path, plain(error.inner()))
    })
}

/// A message of the YAML reader in the words of this program.
fn plain(error: &serde_yaml::Error) -> String {
    let mut message = error.to_string();
    // The place is told in front of the message.
    if let Some(end) = message.find(" at line ") {
        message.truncate(end);
    }
    for (theirs, ours) in [
        ("expected usize", "expected a whole number of at least 0"),
        ("expected u64", "expected a whole number of at least 0"),
        ("expected u32", "expected a whole number of at least 0"),
        ("expected i32", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a string", "expected a text"),
        ("expected path string", "expected a path"),
        ("invalid type: string", "found the text"),
        ("invalid type: integer", "found the number"),
        ("invalid type: floating point", "found the number"),
        ("invalid type: boolean", "found the boolean"),
        ("invalid type: unit value", "found nothing"),
        ("invalid type: sequence", "found a list"),
        ("invalid type: map", "found a mapping"),
        ("invalid value: integer", "found the number"),
    ] {
        message = message.replace(theirs, ours);
    }
    for (theirs, of) in [("expected struct ", "a mapping"), ("expected internally tagged enum ", "a mapping")] {
        if let Some(start) = message.find(theirs) {
            message.truncate(start);
            message.push_str(&format!("expected {of}"));
        }
    }
    match suggestion(&message) {
        Some(nearest) => format!("{message}; did you mean `{nearest}`?"),
        None => message,
    }
}

/// The nearest of the expected names in "unknown field `x`, expected one of `a`, `b`".
fn suggestion(message: &str) -> Option<String> {
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|start| message.split_once(start))?.1;
    let (given, expected) = unknown.split_once('`')?;
    let names = expected.split('`').skip(1).step_by(2);
    let near = names.map(|name| (strsim::damerau_levenshtein(given, name), name)).min_by_key(|(d, _)| *d)?;
    (near.0 <= near.1.len().max(3) / 2).then(|| near.1.to_owned())
}

#[cfg(test)]
mod tests;
