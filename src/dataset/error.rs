//! What can be wrong with a job's data.

use std::io;
use std::path::{Path, PathBuf};

use crate::cancel::Cancelled;

/// What is wrong with a job's data, where, and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A picture's bytes are no picture that can be decoded.
    #[error("failed to decode the picture {sample}")]
    Decode {
        /// The picture's path, or its row and its file.
        sample: String,
        /// Why.
        source: image::ImageError,
    },
    /// A csv file is not well-formed.
    #[error("failed to read the csv file {}", path.display())]
    Csv {
        /// The csv file.
        path: PathBuf,
        /// Why, with its line.
        source: csv::Error,
    },
    /// A split file is not well-formed.
    #[error("failed to read the split file {}", path.display())]
    SplitFile {
        /// The split file.
        path: PathBuf,
        /// Why, with its line.
        source: serde_json::Error,
    },
    /// A file was read but holds something else than expected.
    #[error("{}: {place}: {problem}", path.display())]
    Malformed {
        /// The file or folder.
        path: PathBuf,
        /// Where in it: a line, byte, array, entry.
        place: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A picture does not fit the preprocessing or the other samples.
    #[error("{sample}: {problem}")]
    Picture {
        /// The picture's path, or its index and its file.
        sample: String,
        /// What was expected and what was found.
        problem: String,
    },
    /// A key of the job's `data:` section has a value that cannot be.
    #[error("data.{key}: {problem}")]
    Key {
        /// Path of the key below `data:`.
        key: &'static str,
        /// What was expected and what was found.
        problem: String,
    },
    /// The split asks for more samples than there are.
    #[error("split asks for {wanted} samples, there are {available}")]
    TooFewSamples {
        /// Sum of the counts.
        wanted: u128,
        /// Samples in the source.
        available: usize,
    },
    /// A file that the job may not read; whether it is there is not told.
    #[error("expected a file below the folder that this job may read, found `{}`", path.display())]
    Outside {
        /// The file.
        path: PathBuf,
    },
    /// Reading was asked to stop.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// A part has no sample with this index.
    #[error("sample {index} of {part} was asked for, there are {count}")]
    NoSuchSample {
        /// Name of the part.
        part: &'static str,
        /// The index asked for.
        index: usize,
        /// Samples in the part.
        count: usize,
    },
}

/// A fault inside a file, found by a parser that does not know the file's name.
#[derive(Debug)]
pub(super) enum Fault {
    Io(io::Error),
    Malformed { place: String, problem: String },
}

impl Fault {
    pub(super) fn new(place: impl Into<String>, problem: impl Into<String>) -> Fault {
        Fault::Malformed { place: place.into(), problem: problem.into() }
    }

    pub(super) fn in_file(self, path: &Path) -> DatasetError {
        let path = path.to_owned();
        match self {
            Fault::Io(source) => DatasetError::Read { path, source },
            Fault::Malformed { place, problem } => DatasetError::Malformed { path, place, problem },
        }
    }
}

impl From<io::Error> for Fault {
    fn from(source: io::Error) -> Fault {
        Fault::Io(source)
    }
}
