//! Samples in one array, and labels in another.

use std::borrow::Cow;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::error::{DatasetError, Fault};
use super::file;

/// u8 samples of one shape, `[N, H, W, C]`.
#[derive(Debug)]
pub(super) struct PixelArray {
    store: Store,
    pub(super) count: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

#[derive(Debug)]
enum Store {
    /// All of it.
    Memory(Vec<u8>),
    /// Each sample is read when it is asked for; what is asked for often, the system keeps.
    File { file: File, path: PathBuf, start: u64 },
}

impl PixelArray {
    /// `bytes` has as many bytes as `dims` say.
    pub(super) fn new(bytes: Vec<u8>, dims: &[u64]) -> Result<PixelArray, Fault> {
        let array = PixelArray::of(Store::Memory(Vec::new()), dims)?;
        debug_assert_eq!(bytes.len(), array.count * array.sample_bytes());
        Ok(PixelArray { store: Store::Memory(bytes), ..array })
    }

    /// The file has as many bytes from `start` as `dims` say.
    pub(super) fn in_file(file: File, path: &Path, start: u64, dims: &[u64]) -> Result<PixelArray, Fault> {
        let array = PixelArray::of(Store::File { file, path: path.to_owned(), start }, dims)?;
        let bytes = array.sample_bytes() as u64;
        if bytes > file::MAX_FILE_BYTES {
            let problem = format!("expected at most {} bytes a sample, found {bytes}", file::MAX_FILE_BYTES);
            return Err(Fault::new("shape", problem));
        }
        Ok(array)
    }

    fn of(store: Store, dims: &[u64]) -> Result<PixelArray, Fault> {
        // Held against a file before: their product fits.
        let dims: Vec<usize> = dims.iter().map(|&dim| dim as usize).collect();
        let (count, height, width, channels) = match *dims.as_slice() {
            [count, height, width] => (count, height, width, 1),
            [count, height, width, channels] => (count, height, width, channels),
            _ => {
                let problem = format!("expected [N, H, W] or [N, H, W, C], found {dims:?}");
                return Err(Fault::new("shape", problem));
            }
        };
        if dims.contains(&0) {
            return Err(Fault::new("shape", format!("expected no empty side, found {dims:?}")));
        }
        Ok(PixelArray { store, count, height, width, channels })
    }

    fn sample_bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    pub(super) fn sample(&self, index: usize) -> Result<Cow<'_, [u8]>, DatasetError> {
        let length = self.sample_bytes();
        match &self.store {
            Store::Memory(bytes) => Ok(Cow::Borrowed(&bytes[index * length..][..length])),
            Store::File { file, path, start } => {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, start + index as u64 * length as u64)
                    .map_err(|source| DatasetError::Read { path: path.clone(), source })?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

/// How an array stores integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Integers {
    /// From 1 to 8.
    pub(super) item_bytes: usize,
    pub(super) signed: bool,
    pub(super) big_endian: bool,
}

impl Integers {
    /// The labels that these bytes are.
    pub(super) fn labels(self, bytes: &[u8]) -> Result<Vec<u32>, Fault> {
        let label = |(i, item)| to_label(self.value(item)).map_err(|problem| Fault::new(format!("label {i}"), problem));
        bytes.chunks_exact(self.item_bytes).enumerate().map(label).collect()
    }

    /// The integer that an item is.
    pub(super) fn value(self, item: &[u8]) -> i128 {
        let mut wide = [0u8; 8];
        wide[..item.len()].copy_from_slice(item);
        if self.big_endian {
            wide[..item.len()].reverse();
        }
        let unsigned = u64::from_le_bytes(wide);
        if !self.signed {
            return i128::from(unsigned);
        }
        // The sign bit of the item, moved to that of 64 bits and back.
        let shift = 64 - 8 * item.len() as u32;
        i128::from((unsigned << shift) as i64 >> shift)
    }
}

/// A label, if the value can be one.
pub(super) fn to_label(value: i128) -> Result<u32, String> {
    match i32::try_from(value) {
        Ok(label) if (0..i32::MAX).contains(&label) => Ok(label as u32),
        _ => Err(format!("expected a label from 0 to {}, found {value}", i32::MAX - 1)),
    }
}
