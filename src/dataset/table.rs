//! The samples of one source: names, labels, and where their pixels are.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::{DatasetError, Fault};
use super::picture::{Picture, decode};
use super::spec::{NpzFile, Source};
use super::{file, idx, npz};

/// Endings of the files that an image folder is searched for.
const PICTURE_ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// Whether a file's name ends as a picture's does.
pub(super) fn is_picture(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    PICTURE_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

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
    /// Pixels in memory, one sample a row.
    Pixels(PixelArray),
}

impl Table {
    /// Reads the list of samples, and arrays whole; no picture is decoded.
    pub(super) fn read(source: &Source, base: &Path, root: Option<&Path>) -> Result<Table, DatasetError> {
        let table = match source {
            Source::Csv(path) => read_csv(&base.join(path))?,
            Source::ImageFolder(path) => read_folder(&base.join(path), root)?,
            Source::Idx(files) => {
                let origin = base.join(&files.images);
                let labels = base.join(&files.labels);
                from_array(origin, idx::read_images(&base.join(&files.images))?, idx::read_labels(&labels)?)?
            }
            Source::Npz(npz) => {
                let origin = base.join(&npz.file);
                let (pixels, labels) = npz::read(&NpzFile { file: origin.clone(), ..npz.clone() })?;
                from_array(origin, pixels, labels)?
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
            Content::Pixels(_) => format!("sample {row} of {}", self.origin.display()),
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
        }
    }

    /// The sample's array, if its pixels are in memory.
    pub(super) fn array(&self) -> Option<&PixelArray> {
        match &self.content {
            Content::Files(_) => None,
            Content::Pixels(array) => Some(array),
        }
    }

    pub(super) fn picture(&self, row: usize) -> Result<Picture, DatasetError> {
        match &self.content {
            Content::Files(folder) => {
                let path = folder.join(&self.rows[row].name);
                decode(&file::read(&path)?, &path)
            }
            Content::Pixels(array) => Ok(Picture {
                pixels: array.sample(row).to_vec(),
                height: array.height,
                width: array.width,
                channels: array.channels,
            }),
        }
    }

    /// SHA-256 of the sample: of the encoded file, or of the pixels with their shape.
    pub(super) fn content_hash(&self, row: usize) -> Result<[u8; 32], DatasetError> {
        let mut hasher = Sha256::new();
        match &self.content {
            Content::Files(folder) => {
                hasher.update(b"file");
                hasher.update(file::read(&folder.join(&self.rows[row].name))?);
            }
            Content::Pixels(array) => {
                hasher.update(b"pixels");
                for side in [array.height, array.width, array.channels] {
                    hasher.update((side as u64).to_le_bytes());
                }
                hasher.update(array.sample(row));
            }
        }
        Ok(hasher.finalize().into())
    }
}

/// u8 samples of one shape, `[N, H, W, C]`.
#[derive(Debug)]
pub(super) struct PixelArray {
    bytes: Vec<u8>,
    pub(super) count: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

impl PixelArray {
    /// `bytes` has as many bytes as `dims` say.
    pub(super) fn new(bytes: Vec<u8>, dims: &[u64]) -> Result<PixelArray, Fault> {
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
        debug_assert_eq!(bytes.len(), dims.iter().product::<usize>());
        Ok(PixelArray { bytes, count, height, width, channels })
    }

    pub(super) fn sample(&self, index: usize) -> &[u8] {
        let length = self.height * self.width * self.channels;
        &self.bytes[index * length..][..length]
    }
}

/// A label, if the value can be one.
pub(super) fn to_label(value: i128) -> Result<u32, String> {
    match i32::try_from(value) {
        Ok(label) if (0..i32::MAX).contains(&label) => Ok(label as u32),
        _ => Err(format!("expected a label from 0 to {}, found {value}", i32::MAX - 1)),
    }
}

fn from_array(origin: PathBuf, pixels: PixelArray, labels: Vec<u32>) -> Result<Table, DatasetError> {
    if pixels.count != labels.len() {
        return Err(DatasetError::Malformed {
            path: origin,
            place: "samples".to_owned(),
            problem: format!("found {} images and {} labels", pixels.count, labels.len()),
        });
    }
    let rows = labels.into_iter().enumerate().map(|(i, label)| Row { name: i.to_string(), label }).collect();
    Ok(Table::new(origin, rows, Content::Pixels(pixels)))
}

fn read_csv(path: &Path) -> Result<Table, DatasetError> {
    let failed = |source| DatasetError::Csv { path: path.to_owned(), source };
    let wrong = |place: String, problem: String| DatasetError::Malformed { path: path.to_owned(), place, problem };
    let (opened, _) = file::open(path)?;
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(opened);
    let header = reader.headers().map_err(failed)?;
    let column = |name: &str| {
        header.iter().position(|title| title == name).ok_or_else(|| {
            let found: Vec<_> = header.iter().collect();
            let problem = format!("expected a column `{name}`, found `{}`", found.join(","));
            wrong("line 1".to_owned(), problem)
        })
    };
    let (file_column, label_column) = (column("file")?, column("label")?);
    let mut rows = Vec::new();
    let mut lines: HashMap<String, u64> = HashMap::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let line = record.position().map_or(0, csv::Position::line);
        let (name, label) = (&record[file_column], &record[label_column]);
        if name.is_empty() {
            let problem = "expected a path, found nothing".to_owned();
            return Err(wrong(format!("line {line}, column file"), problem));
        }
        let label = label
            .parse::<i128>()
            .map_err(|_| format!("expected an integer, found `{label}`"))
            .and_then(to_label)
            .map_err(|problem| wrong(format!("line {line}, column label"), problem))?;
        // The same picture in two parts would let the search see what it is tested on.
        if let Some(first) = lines.insert(name.to_owned(), line) {
            let problem = format!("`{name}` is listed in line {first} already");
            return Err(wrong(format!("line {line}"), problem));
        }
        rows.push(Row { name: name.to_owned(), label });
    }
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(Table::new(path.to_owned(), rows, Content::Files(folder)))
}

/// Refuses what does not lie below `root` after following links, or is not there at all.
fn check_inside(path: &Path, root: Option<&Path>) -> Result<(), DatasetError> {
    let inside = |root: &Path| path.canonicalize().is_ok_and(|whole| whole.starts_with(root));
    match root.is_none_or(inside) {
        true => Ok(()),
        false => Err(DatasetError::Outside { path: path.to_owned() }),
    }
}

fn read_folder(path: &Path, root: Option<&Path>) -> Result<Table, DatasetError> {
    let wrong = |path: PathBuf, problem: &str| DatasetError::Malformed {
        path,
        place: "image folder".to_owned(),
        problem: problem.to_owned(),
    };
    let mut rows = Vec::new();
    let mut label = 0;
    for class in sorted_names(path)? {
        let folder = path.join(&class);
        if !folder.is_dir() {
            continue;
        }
        check_inside(&folder, root)?;
        let before = rows.len();
        for picture in sorted_names(&folder)? {
            let file = folder.join(&picture);
            if file.is_dir() {
                return Err(wrong(file, "expected pictures right below a class, found a folder"));
            }
            if is_picture(&file) {
                rows.push(Row { name: format!("{class}/{picture}"), label });
            }
        }
        if rows.len() == before {
            return Err(wrong(folder, "expected jpg, jpeg, png, webp or bmp files, found none"));
        }
        label += 1;
    }
    if rows.is_empty() {
        return Err(wrong(path.to_owned(), "expected one sub-folder for each class, found none"));
    }
    Ok(Table::new(path.to_owned(), rows, Content::Files(path.to_owned())))
}

/// Names in a folder, sorted by their bytes, without the hidden ones.
fn sorted_names(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let failed = |source| DatasetError::Read { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.into_string().map_err(|name| DatasetError::Malformed {
            path: folder.join(name),
            place: "file name".to_owned(),
            problem: "expected UTF-8".to_owned(),
        })?;
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
