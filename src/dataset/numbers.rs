//! Arrays of numbers, one for each input of a network.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::array::Integers;
use super::error::{DatasetError, Fault};
use super::file;

/// How an array stores numbers. Booleans are integers of one byte, 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    Float32 { big_endian: bool },
    Float64 { big_endian: bool },
    Integers(Integers),
}

impl Numbers {
    pub(super) fn item_bytes(self) -> usize {
        match self {
            Numbers::Float32 { .. } => 4,
            Numbers::Float64 { .. } => 8,
            Numbers::Integers(integers) => integers.item_bytes,
        }
    }

    /// The numbers that these bytes are; what f32 cannot hold exactly is rounded.
    pub(super) fn values(self, bytes: &[u8]) -> Vec<f32> {
        let items = bytes.chunks_exact(self.item_bytes());
        match self {
            Numbers::Float32 { big_endian } => {
                items.map(|item| f32::from_bits(bits(item, big_endian) as u32)).collect()
            }
            Numbers::Float64 { big_endian } => {
                items.map(|item| f64::from_bits(bits(item, big_endian)) as f32).collect()
            }
            Numbers::Integers(integers) => items.map(|item| integers.value(item) as f32).collect(),
        }
    }
}

fn bits(item: &[u8], big_endian: bool) -> u64 {
    let integers = Integers { item_bytes: item.len(), signed: false, big_endian };
    integers.value(item) as u64
}

/// What one array of a file gives each sample: numbers of any shape. They stay in the file.
#[derive(Debug)]
pub(super) struct NumberArray {
    file: File,
    path: PathBuf,
    /// Of its items, in the file.
    start: u64,
    numbers: Numbers,
    pub(super) count: usize,
    /// Of one sample.
    pub(super) dims: Vec<usize>,
}

impl NumberArray {
    /// The file has as many bytes from `start` as `dims` say; the first of them are the samples.
    pub(super) fn in_file(
        file: File,
        path: &Path,
        start: u64,
        numbers: Numbers,
        dims: &[u64],
    ) -> Result<NumberArray, Fault> {
        // Held against a file before: their product fits.
        let all: Vec<usize> = dims.iter().map(|&dim| dim as usize).collect();
        let (Some((count, dims)), false) = (all.split_first(), all.len() < 2 || all.contains(&0)) else {
            let problem = format!("expected [N, ...] with a dimension besides N and no empty side, found {all:?}");
            return Err(Fault::new("shape", problem));
        };
        let array = NumberArray { file, path: path.to_owned(), start, numbers, count: *count, dims: dims.to_vec() };
        let bytes = array.sample_bytes() as u64;
        if bytes > file::MAX_FILE_BYTES {
            let problem = format!("expected at most {} bytes a sample, found {bytes}", file::MAX_FILE_BYTES);
            return Err(Fault::new("shape", problem));
        }
        Ok(array)
    }

    fn sample_bytes(&self) -> usize {
        self.dims.iter().product::<usize>() * self.numbers.item_bytes()
    }

    /// What a sample gives, in row-major order.
    pub(super) fn sample(&self, index: usize) -> Result<Vec<f32>, DatasetError> {
        let mut bytes = vec![0; self.sample_bytes()];
        let start = self.start + index as u64 * bytes.len() as u64;
        let read = self.file.read_exact_at(&mut bytes, start);
        read.map_err(|source| DatasetError::Read { path: self.path.clone(), source })?;
        Ok(self.numbers.values(&bytes))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The arrays of a source, by the names of the inputs that they go to.
pub(super) type InputArrays = Vec<(String, NumberArray)>;
