//! Reading files whose sizes and headers are claims, not facts.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::error::{DatasetError, Fault};

/// Most bytes one array of pixels or labels may take in memory.
const MAX_ARRAY_BYTES: u64 = 4 << 30;

/// Most bytes one encoded picture or split file may have.
pub(super) const MAX_FILE_BYTES: u64 = 512 << 20;

/// Deflate makes at most 1032 bytes of one.
const MAX_INFLATION: u64 = 1032;

/// A regular file and its length. Devices and pipes have no length to hold a header against.
pub(super) fn open(path: &Path) -> Result<(File, u64), DatasetError> {
    let failed = |source| DatasetError::Read { path: path.to_owned(), source };
    // Asked before opening, for opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        let what = if metadata.is_dir() { "it is a folder" } else { "it is not a regular file" };
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, what)));
    }
    let file = File::open(path).map_err(failed)?;
    Ok((file, metadata.len()))
}

/// The whole of a small file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let (file, length) = open(path)?;
    if length > MAX_FILE_BYTES {
        return Err(DatasetError::Malformed {
            path: path.to_owned(),
            place: "file".to_owned(),
            problem: format!("expected at most {MAX_FILE_BYTES} bytes, found {length}"),
        });
    }
    let mut bytes = Vec::new();
    match file.take(MAX_FILE_BYTES).read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(source) => Err(DatasetError::Read { path: path.to_owned(), source }),
    }
}

/// How many bytes `compressed` deflated bytes can hold at most.
pub(super) fn inflated_limit(compressed: u64) -> u64 {
    compressed.saturating_mul(MAX_INFLATION)
}

/// An array's bytes: as many as its header claims, and no more after them. `limit` is what the
/// file can hold: a claim above it fails before anything is allocated.
pub(super) fn read_array(reader: &mut impl Read, dims: &[u64], item_bytes: u64, limit: u64) -> Result<Vec<u8>, Fault> {
    let shape = || format!("{dims:?} items of {item_bytes} bytes");
    let claimed = claimed(dims, item_bytes, limit)?;
    if claimed > MAX_ARRAY_BYTES {
        let problem = format!("expected at most {MAX_ARRAY_BYTES} bytes, found {}", shape());
        return Err(Fault::new("header", problem));
    }
    let mut bytes = Vec::new();
    // One byte more than claimed, to see whether the file ends there.
    reader.take(claimed + 1).read_to_end(&mut bytes)?;
    let found = bytes.len() as u64;
    if found < claimed {
        let problem = format!("header claims {claimed} bytes ({}), found {found}", shape());
        return Err(Fault::new("data", problem));
    }
    if found > claimed {
        let problem = format!("header claims {claimed} bytes ({}), found more", shape());
        return Err(Fault::new("data", problem));
    }
    Ok(bytes)
}

/// Fails where an array that takes all of the last `length` bytes of a file would be shorter or longer.
pub(super) fn check_claim(dims: &[u64], item_bytes: u64, length: u64) -> Result<(), Fault> {
    let claimed = claimed(dims, item_bytes, length)?;
    if claimed < length {
        let problem = format!("header claims {claimed} bytes ({dims:?} items of {item_bytes} bytes), found {length}");
        return Err(Fault::new("data", problem));
    }
    Ok(())
}

/// The bytes of an array, which are at most `limit`.
fn claimed(dims: &[u64], item_bytes: u64, limit: u64) -> Result<u64, Fault> {
    let claimed = dims.iter().try_fold(item_bytes, |bytes, &dim| bytes.checked_mul(dim));
    claimed.filter(|&bytes| bytes <= limit).ok_or_else(|| {
        let problem = format!("claims {dims:?} items of {item_bytes} bytes, the file holds at most {limit} bytes");
        Fault::new("header", problem)
    })
}
