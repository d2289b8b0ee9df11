//! The samples of one source: names, labels, and where their pixels are.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::array::{PixelArray, to_label};
use super::error::DatasetError;
use super::label_map::LabelMap;
use super::list::check_inside;
use super::numbers::InputArrays;
use super::parquet::{self, Label};
use super::picture::{Picture, decode};
use super::spec::{NpyFiles, NpyInputs, NpzFile, Orientation, SafetensorsFile, SafetensorsInputs, Source};
use super::{file, idx, list, npy, npz, safetensors};

/// The samples of one source in its own order.
pub(super) struct Table {
    /// The file or folder that lists the samples, for messages.
    pub(super) origin: PathBuf,
    pub(super) rows: Vec<Row>,
    content: Content,
    /// One more than the largest label.
    pub(super) classes: u32,
}

/// One sample.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) label: u32,
}

enum Content {
    /// Encoded pictures. A row's name is its path below the folder.
    Files(PathBuf),
    /// Pixels of one array, one sample a row.
    Pixels(PixelArray),
    /// Numbers of one array an input, one sample a row.
    Arrays(InputArrays),
    /// Encoded pictures in Parquet files.
    Parquet(parquet::Pictures),
}

impl Table {
    /// Reads the list of samples and their labels; no picture is decoded.
    pub(super) fn read(
        source: &Source,
        base: &Path,
        root: Option<&Path>,
        label_map: Option<&LabelMap>,
    ) -> Result<Table, DatasetError> {
        let table = match source {
            Source::Csv(path) => {
                let path = base.join(path);
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                Table::new(path.clone(), list::read_csv(&path, label_map)?, Content::Files(folder))
            }
            Source::ImageFolder(path) => {
                let path = base.join(path);
                Table::new(path.clone(), list::read_folder(&path, root, label_map)?, Content::Files(path))
            }
            Source::Idx(files) => {
                let (origin, labels) = (base.join(&files.images), base.join(&files.labels));
                let arrays = (idx::read_images(&origin)?, idx::read_labels(&labels)?);
                from_array(origin, arrays, label_map)?
            }
            Source::Npz(npz) => {
                let origin = base.join(&npz.file);
                let arrays = npz::read(&NpzFile { file: origin.clone(), ..npz.clone() })?;
                from_array(origin, arrays, label_map)?
            }
            Source::Npy(files) => {
                let files = NpyFiles { images: base.join(&files.images), labels: base.join(&files.labels) };
                let arrays = npy::read(&files)?;
                from_array(files.images, arrays, label_map)?
            }
            Source::Safetensors(tensors) => {
                let origin = base.join(&tensors.file);
                let arrays = safetensors::read(&SafetensorsFile { file: origin.clone(), ..tensors.clone() })?;
                from_array(origin, arrays, label_map)?
            }
            Source::NpyInputs(files) => {
                let inputs = files.inputs.iter().map(|(name, path)| (name.clone(), base.join(path))).collect();
                let files = NpyInputs { inputs, labels: base.join(&files.labels) };
                from_inputs(files.labels.clone(), npy::read_inputs(&files)?, label_map)?
            }
            Source::SafetensorsInputs(tensors) => {
                let origin = base.join(&tensors.file);
                let tensors = SafetensorsInputs { file: origin.clone(), ..tensors.clone() };
                from_inputs(origin, safetensors::read_inputs(&tensors)?, label_map)?
            }
            Source::Parquet(spec) => {
                let origin = base.join(&spec.path);
                let files = parquet::files(&origin)?;
                files.iter().try_for_each(|file| check_inside(file, root))?;
                let (pictures, labels) = parquet::read(files, spec)?;
                from_parquet(origin, pictures, labels, label_map)?
            }
        };
        if table.rows.is_empty() {
            return Err(DatasetError::Malformed {
                path: table.origin,
                place: "samples".to_owned(),
                problem: "expected at least one, found none".to_owned(),
            });
        }
        Ok(table)
    }

    fn new(origin: PathBuf, rows: Vec<Row>, content: Content) -> Table {
        let classes = rows.iter().map(|row| row.label + 1).max().unwrap_or(0);
        Table { origin, rows, content, classes }
    }

    /// Where the sample is, for messages.
    pub(super) fn place(&self, row: usize) -> String {
        match &self.content {
            Content::Files(folder) => folder.join(&self.rows[row].name).display().to_string(),
            Content::Pixels(_) | Content::Arrays(_) => format!("sample {row} of {}", self.origin.display()),
            Content::Parquet(pictures) => pictures.place(row),
        }
    }

    /// Fails early where a listed file is not there, or not where it must be.
    pub(super) fn check_row(&self, row: usize, root: Option<&Path>) -> Result<(), DatasetError> {
        let Content::Files(folder) = &self.content else { return Ok(()) };
        let path = folder.join(&self.rows[row].name);
        match root {
            Some(_) => check_inside(&path, root),
            None => fs::metadata(&path).map(drop).map_err(|source| DatasetError::Read { path, source }),
        }
    }

    /// The files that these rows come from.
    pub(super) fn files(&self, rows: &[usize]) -> Vec<PathBuf> {
        let picture = |folder: &Path, row: &Row| folder.join(&row.name);
        match &self.content {
            Content::Files(folder) if *folder == self.origin => {
                self.rows.iter().map(|row| picture(folder, row)).collect()
            }
            Content::Files(folder) => {
                let rows = rows.iter().filter_map(|row| self.rows.get(*row));
                rows.map(|row| picture(folder, row)).chain([self.origin.clone()]).collect()
            }
            Content::Pixels(_) => vec![self.origin.clone()],
            Content::Arrays(arrays) => {
                arrays.iter().map(|(_, array)| array.path().to_owned()).chain([self.origin.clone()]).collect()
            }
            Content::Parquet(pictures) => pictures.files(),
        }
    }

    /// The sample's array, if it is of one.
    pub(super) fn array(&self) -> Option<&PixelArray> {
        match &self.content {
            Content::Files(_) | Content::Arrays(_) | Content::Parquet(_) => None,
            Content::Pixels(array) => Some(array),
        }
    }

    /// The arrays that samples are, where they are no pictures.
    pub(super) fn arrays(&self) -> Option<&InputArrays> {
        match &self.content {
            Content::Arrays(arrays) => Some(arrays),
            Content::Files(_) | Content::Pixels(_) | Content::Parquet(_) => None,
        }
    }

    /// The picture, decoded; an error for samples that are none.
    pub(super) fn picture(&self, row: usize, orientation: Orientation) -> Result<Picture, DatasetError> {
        match &self.content {
            Content::Files(folder) => {
                let path = folder.join(&self.rows[row].name);
                decode(&file::read(&path)?, &path.display(), orientation)
            }
            Content::Parquet(pictures) => decode(&pictures.bytes(row)?, &pictures.place(row), orientation),
            Content::Pixels(array) => Ok(Picture {
                pixels: array.sample(row)?.into_owned(),
                height: array.height,
                width: array.width,
                channels: array.channels,
            }),
            Content::Arrays(_) => {
                let problem = "expected a picture, found arrays".to_owned();
                Err(DatasetError::Picture { sample: self.place(row), problem })
            }
        }
    }

    /// SHA-256 of the sample: of the encoded file, of the pixels with their shape, or of the numbers of each input with
    /// their shape.
    pub(super) fn content_hash(&self, row: usize) -> Result<[u8; 32], DatasetError> {
        let mut hasher = Sha256::new();
        match &self.content {
            Content::Files(folder) => {
                hasher.update(b"file");
                hasher.update(file::read(&folder.join(&self.rows[row].name))?);
            }
            Content::Parquet(pictures) => {
                hasher.update(b"file");
                hasher.update(pictures.bytes(row)?);
            }
            Content::Pixels(array) => {
                hasher.update(b"pixels");
                for side in [array.height, array.width, array.channels] {
                    hasher.update((side as u64).to_le_bytes());
                }
                hasher.update(array.sample(row)?);
            }
            Content::Arrays(arrays) => {
                hasher.update(b"arrays");
                for (name, array) in arrays {
                    hasher.update((name.len() as u64).to_le_bytes());
                    hasher.update(name);
                    hasher.update((array.dims.len() as u64).to_le_bytes());
                    array.dims.iter().for_each(|&dim| hasher.update((dim as u64).to_le_bytes()));
                    array.sample(row)?.iter().for_each(|value| hasher.update(value.to_bits().to_le_bytes()));
                }
            }
        }
        Ok(hasher.finalize().into())
    }
}

fn from_array(
    origin: PathBuf,
    (pixels, labels): (PixelArray, Vec<u32>),
    label_map: Option<&LabelMap>,
) -> Result<Table, DatasetError> {
    let rows = numbered(&origin, labels, [("images".to_owned(), pixels.count)], label_map)?;
    Ok(Table::new(origin, rows, Content::Pixels(pixels)))
}

fn from_inputs(
    origin: PathBuf,
    (arrays, labels): (InputArrays, Vec<u32>),
    label_map: Option<&LabelMap>,
) -> Result<Table, DatasetError> {
    let counts = arrays.iter().map(|(name, array)| (format!("samples for input `{name}`"), array.count));
    let rows = numbered(&origin, labels, counts, label_map)?;
    Ok(Table::new(origin, rows, Content::Arrays(arrays)))
}

/// A row for each label, if there are as many of everything else.
fn numbered(
    origin: &Path,
    labels: Vec<u32>,
    counts: impl IntoIterator<Item = (String, usize)>,
    label_map: Option<&LabelMap>,
) -> Result<Vec<Row>, DatasetError> {
    let wrong = |place: String, problem: String| DatasetError::Malformed { path: origin.to_owned(), place, problem };
    if let Some((what, count)) = counts.into_iter().find(|&(_, count)| count != labels.len()) {
        return Err(wrong("samples".to_owned(), format!("found {count} {what} and {} labels", labels.len())));
    }
    let row = |(i, label): (usize, u32)| {
        let mapped = label_map.map(|map| map.label(&label.to_string())).transpose();
        let label = mapped.map_err(|problem| wrong(format!("label {i}"), problem))?.unwrap_or(label);
        Ok(Row { name: i.to_string(), label })
    };
    labels.into_iter().enumerate().map(row).collect()
}

/// Classes that have names are known to a label map by these.
fn from_parquet(
    origin: PathBuf,
    pictures: parquet::Pictures,
    labels: Vec<Label>,
    label_map: Option<&LabelMap>,
) -> Result<Table, DatasetError> {
    let rows = labels.into_iter().enumerate().map(|(row, label)| {
        let label = match (label, label_map) {
            (Label::Class { name, .. }, Some(map)) => map.label(&name),
            (Label::Text(name), Some(map)) => map.label(&name),
            (Label::Integer(label), Some(map)) => map.label(&label.to_string()),
            (Label::Integer(label) | Label::Class { label, .. }, None) => to_label(label.into()),
            (Label::Text(name), None) => Err(format!("expected data.label_map, for labels are texts such as `{name}`")),
        };
        let name = row.to_string();
        label.map(|label| Row { name, label }).map_err(|problem| DatasetError::Malformed {
            path: origin.clone(),
            place: pictures.place(row),
            problem,
        })
    });
    let rows = rows.collect::<Result<_, DatasetError>>()?;
    Ok(Table::new(origin, rows, Content::Parquet(pictures)))
}
