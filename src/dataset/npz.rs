//! Archives of numpy: uint8 pixels and integer labels.

use std::{io::BufReader, path::Path};

use npyz::npz::NpzArchive;

use super::array::PixelArray;
use super::error::{DatasetError, Fault};
use super::spec::NpzFile;
use super::{file, npy, npy::Array};

/// Pixels and labels; `npz.file` is already resolved.
pub(super) fn read(npz: &NpzFile) -> Result<(PixelArray, Vec<u32>), DatasetError> {
    let (opened, length) = file::open(&npz.file)?;
    let arrays = || -> Result<_, Fault> {
        let mut archive = NpzArchive::new(BufReader::new(opened))?;
        let images = read_npy(&mut archive, &npz.images, length)
            .and_then(npy::pixels)
            .map_err(|fault| in_array(fault, &npz.images))?;
        let labels = read_npy(&mut archive, &npz.labels, length)
            .and_then(|npy| npy::labels(&npy))
            .map_err(|fault| in_array(fault, &npz.labels))?;
        Ok((images, labels))
    };
    arrays().map_err(|fault| fault.in_file(&npz.file))
}

/// Reads the named arrays of a `.npz` file: floats, integers or booleans; what f32 cannot hold exactly is rounded.
///
/// # Errors
/// A file that cannot be read, or lacks one of the arrays.
pub fn read_named_numbers(path: &Path, names: &[&str]) -> Result<Vec<Array>, DatasetError> {
    let (opened, length) = file::open(path)?;
    let mut archive = NpzArchive::new(BufReader::new(opened)).map_err(|error| Fault::from(error).in_file(path))?;
    let mut array = |name: &&str| {
        let array = read_npy(&mut archive, name, length).and_then(|npy| npy::numbers(&npy));
        array.map_err(|fault| in_array(fault, name).in_file(path))
    };
    names.iter().map(&mut array).collect()
}

/// Names of the arrays in an archive, sorted.
pub(super) fn array_names(path: &Path) -> Result<Vec<String>, DatasetError> {
    let (opened, _) = file::open(path)?;
    let archive = NpzArchive::new(BufReader::new(opened)).map_err(|error| Fault::from(error).in_file(path))?;
    let mut names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

fn in_array(fault: Fault, array: &str) -> Fault {
    match fault {
        Fault::Malformed { place, problem } => Fault::new(format!("array `{array}`, {place}"), problem),
        // A damaged entry shows as an input error: name the array there too.
        Fault::Io(source) => Fault::Io(std::io::Error::new(source.kind(), format!("array `{array}`: {source}"))),
    }
}

fn read_npy(
    archive: &mut NpzArchive<BufReader<std::fs::File>>,
    name: &str,
    file_length: u64,
) -> Result<npy::Npy, Fault> {
    if !archive.array_names().any(|present| present == name) {
        let mut present: Vec<_> = archive.array_names().collect();
        present.sort_unstable();
        let problem = format!("no such array, the file holds: {}", present.join(", "));
        return Err(Fault::new("name", problem));
    }
    let mut entry =
        archive.zip_archive().by_name(&npyz::npz::file_name_from_array_name(name)).map_err(std::io::Error::from)?;
    let limit = file::inflated_limit(entry.compressed_size().min(file_length));
    npy::parse(&mut entry, limit)
}

#[cfg(test)]
mod tests;
