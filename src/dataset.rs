//! Labelled samples: readers, preprocessing, splits.
//!
//! Samples are pictures, which are preprocessed, or an array for each input of a network, which are read as they are.
//!
//! [`Dataset::open`] reads the list of samples and splits it. Compressed arrays (IDX, npz) stay in memory whole as u8;
//! samples of others (npy, safetensors) and encoded pictures are read and decoded when they are loaded, by as many threads
//! as load. What preprocessing makes of pictures before scaling is kept as u8 up to a limit ([`DataSpec::cache_mib`]). So
//! memory is bounded by the list, compressed arrays, the cache, and one picture for each thread that loads.

mod array;
mod error;
mod file;
mod idx;
mod label_map;
mod list;
mod npy;
mod npz;
mod numbers;
mod parquet;
mod picture;
mod preprocess;
mod recognize;
mod resize;
mod safetensors;
mod spec;
mod split;
mod table;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

pub use error::DatasetError;
use label_map::LabelMap;
pub use npy::{Array, npy_header, read_numbers};
pub use npz::read_named_numbers;
use numbers::NumberArray;
use picture::Picture;
use preprocess::{Geometry, Normalizer};
pub use recognize::{Recognized, recognize};
pub use spec::{
    Channels, DataSpec, IdxFiles, Interpolation, NpyFiles, NpyInputs, NpzFile, Orientation, ParquetFiles, Preprocess,
    Resize, ResizeTo, SafetensorsFile, SafetensorsInputs, Size, Source, SplitCounts, SplitSpec,
};
pub use split::permutation;
use table::{Row, Table};

use crate::cancel::Cancel;

/// Heads the digest, so that a change of its form changes its value.
const DIGEST_DOMAIN: &[u8] = b"qtuned dataset 2\0";

/// What a sample is used for. No sample has two uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The observers see it.
    Calibrate,
    /// Trials are measured on it.
    Search,
    /// Only the final certificate sees it.
    Certify,
}

impl Part {
    /// The part's name in a job.
    pub fn name(self) -> &'static str {
        match self {
            Part::Calibrate => "calibrate",
            Part::Search => "search",
            Part::Certify => "certify",
        }
    }
}

/// What every sample of a data set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A picture, for a network of one input.
    Picture {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
        /// Values a pixel.
        channels: usize,
    },
    /// An array for each of these inputs, by name: its shape without the batch, as the model's file reads it.
    Arrays(Vec<(String, Vec<usize>)>),
}

/// What a network reads, and the label.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// One array `[height, width, channels]` of a picture; else one for each input, in the order of [`Form::Arrays`].
    pub inputs: Vec<Array>,
    /// The right class.
    pub label: u32,
    /// The csv's `file`, the path below the image folder, or the index in the array.
    pub name: String,
}

/// The split samples of a job. Shared between threads by reference.
pub struct Dataset {
    images: Table,
    calibration: Option<Table>,
    form: Form,
    /// How pictures become network inputs; `None` for arrays.
    preprocessing: Option<Preprocessing>,
    calibrate: Members,
    search: Members,
    certify: Members,
    cache_limit: usize,
    cached: AtomicUsize,
}

/// From decoded pictures to arrays `[height, width, channels]` of this shape.
struct Preprocessing {
    geometry: Geometry,
    normalizer: Normalizer,
    shape: [usize; 3],
}

impl Preprocessing {
    /// Learns the shape from one sample.
    fn new(spec: &Preprocess, images: &Table, row: usize) -> Result<Preprocessing, DatasetError> {
        let geometry = Geometry::new(spec);
        let Picture { height, width, channels, .. } = geometry
            .apply(images.picture(row, geometry.orientation)?)
            .map_err(|problem| DatasetError::Picture { sample: images.place(row), problem })?;
        let normalizer = Normalizer::new(spec, channels)?;
        Ok(Preprocessing { geometry, normalizer, shape: [height, width, channels] })
    }
}

/// The shapes of a table's arrays, by name; `None` for pictures.
fn shapes(table: &Table) -> Option<Vec<(String, Vec<usize>)>> {
    Some(table.arrays()?.iter().map(|(name, array)| (name.clone(), array.dims.clone())).collect())
}

/// The rows of a part, and their pixels once known.
struct Members {
    rows: Vec<usize>,
    pixels: Vec<OnceLock<Box<[u8]>>>,
}

impl Members {
    fn new(rows: Vec<usize>) -> Members {
        let pixels = rows.iter().map(|_| OnceLock::new()).collect();
        Members { rows, pixels }
    }
}

impl Dataset {
    /// Reads the lists of samples, splits them, and decodes one to learn the input's shape.
    /// Relative paths start at `base`, the folder of the job's file. With a `root`, pictures that are listed must lie
    /// below it, also after following links.
    pub fn open(spec: &DataSpec, base: &Path, root: Option<&Path>, cancel: &Cancel) -> Result<Dataset, DatasetError> {
        let label_map = spec.label_map.as_ref().map(|path| LabelMap::read(&base.join(path))).transpose()?;
        let read = |source| {
            cancel.check()?;
            Table::read(source, base, root, label_map.as_ref())
        };
        let images = read(&spec.images)?;
        let calibration = spec.calibration_images.as_ref().map(read).transpose()?;
        let split = split::split(&spec.split, base, &images, calibration.as_ref())?;

        let check = |table: &Table, row: usize| {
            cancel.check()?;
            table.check_row(row, root)
        };
        let calibrate_from = calibration.as_ref().unwrap_or(&images);
        split.calibrate.iter().try_for_each(|&row| check(calibrate_from, row))?;
        split.search.iter().chain(&split.certify).try_for_each(|&row| check(&images, row))?;

        let arrays = shapes(&images);
        if arrays.is_some() && spec.preprocess != Preprocess::default() {
            let problem = "expected none: the arrays of `inputs` hold what the network reads".to_owned();
            return Err(DatasetError::Key { key: "preprocess", problem });
        }
        if calibration.as_ref().is_some_and(|calibration| shapes(calibration) != arrays) {
            let problem =
                "expected samples as in data.images: pictures, or arrays of the same names and shapes".to_owned();
            return Err(DatasetError::Key { key: "calibration_images", problem });
        }
        let (form, preprocessing) = match arrays {
            Some(arrays) => (Form::Arrays(arrays), None),
            None => {
                let preprocessing = Preprocessing::new(&spec.preprocess, &images, split.search[0])?;
                let [height, width, channels] = preprocessing.shape;
                (Form::Picture { height, width, channels }, Some(preprocessing))
            }
        };
        Ok(Dataset {
            images,
            calibration,
            form,
            preprocessing,
            calibrate: Members::new(split.calibrate),
            search: Members::new(split.search),
            certify: Members::new(split.certify),
            cache_limit: (spec.cache_mib as usize) << 20,
            cached: AtomicUsize::new(0),
        })
    }

    /// What every sample is.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// One more than the largest label in the sources. A network may know more classes.
    pub fn classes(&self) -> u32 {
        let calibration = self.calibration.as_ref().map_or(0, |table| table.classes);
        self.images.classes.max(calibration)
    }

    /// How many samples a part has. Calibrate and search have at least one.
    pub fn len(&self, part: Part) -> usize {
        self.part(part).1.rows.len()
    }

    /// Names and labels of a part, in order, without loading a picture.
    pub fn labels(&self, part: Part) -> impl ExactSizeIterator<Item = (&str, u32)> {
        let (table, members) = self.part(part);
        members.rows.iter().map(|&row| (table.rows[row].name.as_str(), table.rows[row].label))
    }

    /// The files that are read: lists, arrays, and the pictures of all parts; of an image folder all pictures, for they
    /// are its list.
    pub fn files(&self) -> Vec<PathBuf> {
        let in_parts = |table: &Table, parts: &[&Members]| {
            let rows = parts.iter().flat_map(|part| &part.rows);
            table.files(&rows.copied().collect::<Vec<_>>())
        };
        match &self.calibration {
            None => in_parts(&self.images, &[&self.calibrate, &self.search, &self.certify]),
            Some(calibration) => {
                let mut files = in_parts(calibration, &[&self.calibrate]);
                files.extend(in_parts(&self.images, &[&self.search, &self.certify]));
                files
            }
        }
    }

    /// The `index`-th sample of a part, whose pixels are kept for the next time if there is room.
    pub fn load(&self, part: Part, index: usize) -> Result<Sample, DatasetError> {
        self.read(part, index, true)
    }

    /// As [`Dataset::load`], for samples that are not read again: nothing is kept.
    pub fn load_once(&self, part: Part, index: usize) -> Result<Sample, DatasetError> {
        self.read(part, index, false)
    }

    fn read(&self, part: Part, index: usize, keep: bool) -> Result<Sample, DatasetError> {
        let (table, members) = self.part(part);
        let Some(&row) = members.rows.get(index) else {
            let count = members.rows.len();
            return Err(DatasetError::NoSuchSample { part: part.name(), index, count });
        };
        let inputs = match (&self.preprocessing, table.arrays()) {
            (Some(preprocessing), _) => {
                let pixels = self.pixels(preprocessing, table, row, &members.pixels[index], keep)?;
                vec![Array { dims: preprocessing.shape.to_vec(), data: preprocessing.normalizer.apply(&pixels) }]
            }
            (None, arrays) => {
                let array =
                    |(_, array): &(_, NumberArray)| Ok(Array { dims: array.dims.clone(), data: array.sample(row)? });
                arrays.into_iter().flatten().map(array).collect::<Result<_, DatasetError>>()?
            }
        };
        let Row { name, label } = &table.rows[row];
        Ok(Sample { inputs, label: *label, name: name.clone() })
    }

    /// SHA-256 of what a part measures with: the preprocessing, then each sample's content and
    /// label in order. Content is the encoded file or the array's pixels; names and paths are not
    /// in it. Which pixels a decoder makes of a file is not in it either: that belongs to the
    /// version of the program.
    pub fn digest(&self, part: Part, cancel: &Cancel) -> Result<[u8; 32], DatasetError> {
        let (table, members) = self.part(part);
        let hash = |&row: &usize| {
            cancel.check()?;
            table.content_hash(row)
        };
        let hashes: Vec<_> = members.rows.par_iter().map(hash).collect();
        let mut hasher = Sha256::new();
        hasher.update(DIGEST_DOMAIN);
        if let Some(Preprocessing { geometry, normalizer, shape }) = &self.preprocessing {
            geometry.hash_into(&mut hasher, shape[2]);
            normalizer.hash_into(&mut hasher);
        }
        hasher.update((members.rows.len() as u64).to_le_bytes());
        for (&row, hash) in members.rows.iter().zip(hashes) {
            hasher.update(hash?);
            hasher.update(table.rows[row].label.to_le_bytes());
        }
        Ok(hasher.finalize().into())
    }

    fn part(&self, part: Part) -> (&Table, &Members) {
        match part {
            Part::Calibrate => (self.calibration.as_ref().unwrap_or(&self.images), &self.calibrate),
            Part::Search => (&self.images, &self.search),
            Part::Certify => (&self.images, &self.certify),
        }
    }

    /// The sample's u8 input: borrowed from the array where it is there as needed, or from the
    /// cache, or made now and kept if there is room. Samples are read in turn, epoch after epoch,
    /// so what is kept stays: to evict the oldest would miss every time.
    fn pixels<'a>(
        &'a self,
        preprocessing: &Preprocessing,
        table: &'a Table,
        row: usize,
        kept: &'a OnceLock<Box<[u8]>>,
        keep: bool,
    ) -> Result<Cow<'a, [u8]>, DatasetError> {
        if let Some(pixels) = kept.get() {
            return Ok(Cow::Borrowed(pixels));
        }
        let Preprocessing { geometry, shape, .. } = preprocessing;
        let check = |found: [usize; 3]| {
            if found == *shape {
                return Ok(());
            }
            let problem =
                format!("expected height, width and channels {shape:?} as the first sample has, found {found:?}");
            Err(DatasetError::Picture { sample: table.place(row), problem })
        };
        if let Some(array) = table.array().filter(|array| geometry.keeps(array.channels)) {
            check([array.height, array.width, array.channels])?;
            return array.sample(row);
        }
        let picture = geometry
            .apply(table.picture(row, geometry.orientation)?)
            .map_err(|problem| DatasetError::Picture { sample: table.place(row), problem })?;
        check([picture.height, picture.width, picture.channels])?;
        let pixels = picture.pixels;
        if !keep {
            return Ok(Cow::Owned(pixels));
        }
        // Room is taken first and given back where another thread was faster.
        let bytes = pixels.len();
        let before = self.cached.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.checked_add(bytes).is_some_and(|after| after <= self.cache_limit);
        if fits && kept.set(pixels.clone().into_boxed_slice()).is_ok() {
            return Ok(Cow::Owned(pixels));
        }
        self.cached.fetch_sub(bytes, Ordering::Relaxed);
        Ok(Cow::Owned(pixels))
    }
}

#[cfg(test)]
mod tests;
