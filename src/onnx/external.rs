//! Tensor data kept in other files, which must lie in the model's folder.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{
    array::Known,
    error::TensorError,
    proto::{StringStringEntryProto, TensorProto},
};

/// Reads external data, and keeps account of what was read.
pub(super) struct External<'a> {
    folder: Option<&'a Path>,
    files: HashMap<PathBuf, Opened>,
    /// Continues over every region read, in order.
    pub(super) hasher: Sha256,
    /// Bytes read.
    pub(super) bytes: u64,
}

struct Opened {
    file: File,
    len: u64,
    /// Bytes of the file that no tensor has claimed yet.
    unclaimed: u64,
    /// Tensors read, by offset, length in bytes, and element type.
    regions: HashMap<(u64, u64, i32), Known>,
}

/// Where the data of a tensor is.
pub(crate) struct Region {
    /// The file, which lies in the model's folder.
    pub(crate) path: PathBuf,
    /// First byte.
    pub(crate) offset: u64,
    /// Number of bytes, which the file has.
    pub(crate) length: u64,
}

impl Region {
    /// The bytes.
    pub(super) fn read(&self) -> Result<Vec<u8>, TensorError> {
        let mut data = vec![0; usize::try_from(self.length).map_err(|_| TensorError::TooLarge)?];
        File::open(&self.path)
            .and_then(|mut file| file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_exact(&mut data)))
            .map_err(|source| TensorError::ExternalRead { path: self.path.clone(), source })?;
        Ok(data)
    }
}

/// Where the data of a tensor is that is kept in a file in `folder`.
pub(crate) fn region(folder: &Path, tensor: &TensorProto) -> Result<Region, TensorError> {
    let Place { location, offset, length } = Place::parse(&tensor.external_data)?;
    let path = resolve(folder, location)?;
    let failed = |source| TensorError::ExternalRead { path: path.clone(), source };
    let found = open(&path).map_err(failed)?.len;
    let short = |end| TensorError::ExternalShort { file: location.to_owned(), offset, end, found };
    let length = length.unwrap_or(found.saturating_sub(offset));
    let end = offset.checked_add(length).ok_or_else(|| short(u64::MAX))?;
    if end > found {
        return Err(short(end));
    }
    Ok(Region { path, offset, length })
}

/// What a tensor says about where its data is.
struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl<'a> External<'a> {
    /// Reads from `folder` only; `hasher` has taken in the model's own bytes.
    pub(super) fn new(folder: Option<&'a Path>, hasher: Sha256) -> External<'a> {
        External { folder, files: HashMap::new(), hasher, bytes: 0 }
    }

    /// The elements of a tensor whose data must be `expected` bytes, by `decode` from those bytes.
    ///
    /// Nothing is allocated before the file's true length has been compared. Regions are shared, and
    /// distinct ones cannot add up to more than the file: a small model cannot ask for the same bytes
    /// over and over until memory is gone.
    pub(super) fn read(
        &mut self,
        tensor: &TensorProto,
        expected: u64,
        decode: impl FnOnce(&[u8]) -> Known,
    ) -> Result<Known, TensorError> {
        let place = Place::parse(&tensor.external_data)?;
        if let Some(found) = place.length.filter(|&length| length != expected) {
            return Err(TensorError::Length { expected, found, unit: "bytes" });
        }
        let name = || place.location.to_owned();
        let path = resolve(self.folder.ok_or(TensorError::NoFolder)?, place.location)?;
        let failed = |source| TensorError::ExternalRead { path: path.clone(), source };
        if !self.files.contains_key(&path) {
            let opened = open(&path).map_err(failed)?;
            self.files.insert(path.clone(), opened);
        }
        let Some(opened) = self.files.get_mut(&path) else { return Err(TensorError::Outside(name())) };
        let end = place.offset.checked_add(expected);
        let short = |end| TensorError::ExternalShort { file: name(), offset: place.offset, end, found: opened.len };
        let end = end.ok_or(short(u64::MAX))?;
        if end > opened.len {
            return Err(short(end));
        }
        let region = (place.offset, expected, tensor.data_type);
        if let Some(known) = opened.regions.get(&region) {
            return Ok(known.clone());
        }
        opened.unclaimed =
            opened.unclaimed.checked_sub(expected).ok_or_else(|| TensorError::Overlap(place.location.to_owned()))?;
        let mut data = vec![0; usize::try_from(expected).map_err(|_| TensorError::TooLarge)?];
        let read = opened.file.seek(SeekFrom::Start(place.offset)).and_then(|_| opened.file.read_exact(&mut data));
        read.map_err(failed)?;
        self.hasher.update(&data);
        self.bytes += expected;
        let known = decode(&data);
        opened.regions.insert(region, known.clone());
        Ok(known)
    }
}

/// The file at `location`, which must lie in the folder also after following symbolic links.
fn resolve(folder: &Path, location: &str) -> Result<PathBuf, TensorError> {
    let outside = || TensorError::Outside(location.to_owned());
    let relative = Path::new(location);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let real =
        |path: &Path| path.canonicalize().map_err(|source| TensorError::ExternalRead { path: path.to_owned(), source });
    let path = real(&folder.join(relative))?;
    if path.starts_with(real(folder)?) { Ok(path) } else { Err(outside()) }
}

impl<'a> Place<'a> {
    fn parse(entries: &'a [StringStringEntryProto]) -> Result<Place<'a>, TensorError> {
        let find = |key: &str| entries.iter().find(|entry| entry.key == key).map(|entry| entry.value.as_str());
        let number = |key: &str| {
            let parse = |value: &str| {
                value.parse().map_err(|_| TensorError::ExternalKey(format!("`{key}` is `{value}`, not a number")))
            };
            find(key).map(parse).transpose()
        };
        let location = find("location").filter(|location| !location.is_empty());
        Ok(Place {
            location: location.ok_or_else(|| TensorError::ExternalKey("`location` is missing".to_owned()))?,
            offset: number("offset")?.unwrap_or(0),
            length: number("length")?,
        })
    }
}

/// Opens a regular file; opening anything else, such as a pipe, could wait for ever.
fn open(path: &Path) -> std::io::Result<Opened> {
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::other("not a regular file"));
    }
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok(Opened { file, len, unclaimed: len, regions: HashMap::new() })
}
