//! Parquet files of encoded pictures and labels, as Hugging Face's `datasets` writes them.
//!
//! A column of structs `{bytes, path}` (the feature `Image`) or of plain bytes holds the pictures; one of integers or
//! texts the labels. Where the file's metadata says that the integers are a `ClassLabel`, they have names. Labels are read
//! at once; of the pictures no more than the page that holds one, when it is asked for.

mod claims;
mod values;

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use serde_json::Value;

use super::error::{DatasetError, Fault};
use super::file;
use super::spec::ParquetFiles;
use values::Values;

/// Most rows of all files together.
const MAX_ROWS: usize = 20_000_000;
/// What is read ahead for the header of a page.
const READ_AHEAD: usize = 4096;

/// The pictures of all files, by row.
pub(super) struct Pictures {
    /// With the first row of each.
    shards: Vec<(usize, Shard)>,
}

struct Shard {
    path: PathBuf,
    reader: SerializedFileReader<At>,
    /// The first row of each row group, counted in this file.
    groups: Vec<usize>,
    column: usize,
}

/// A label as it is stored.
pub(super) enum Label {
    Integer(i64),
    /// An integer that the file has a name for.
    Class {
        label: i64,
        name: Arc<str>,
    },
    Text(String),
}

/// The files of a source: the one, or all that end in `.parquet` in a folder, sorted.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let names = super::list::sorted_names(path)?;
    let files: Vec<PathBuf> =
        names.iter().filter(|name| name.ends_with(".parquet")).map(|name| path.join(name)).collect();
    match files.is_empty() {
        true => Err(DatasetError::Malformed {
            path: path.to_owned(),
            place: "folder".to_owned(),
            problem: "expected files that end in .parquet, found none".to_owned(),
        }),
        false => Ok(files),
    }
}

/// Opens the files and reads all labels.
pub(super) fn read(files: Vec<PathBuf>, spec: &ParquetFiles) -> Result<(Pictures, Vec<Label>), DatasetError> {
    let (mut shards, mut labels) = (Vec::new(), Vec::new());
    for path in files {
        let (file, length) = file::open(&path)?;
        let first = labels.len();
        let open = || -> Result<_, Fault> {
            let at = At { file: Arc::new(file), length };
            claims::check_schema(&at)?;
            let reader = SerializedFileReader::new(at.clone())?;
            let column = pictures_column(reader.metadata(), &spec.images)?;
            let label_column = labels_column(reader.metadata(), &spec.labels)?;
            for group in reader.metadata().row_groups() {
                [column, label_column].iter().try_for_each(|&column| claims::check_pages(&at, group.column(column)))?;
            }
            let groups = read_labels(&reader, &spec.labels, label_column, &mut labels)?;
            Ok((reader, column, groups))
        };
        let (reader, column, groups) = guarded(open).map_err(|fault| fault.in_file(&path))?;
        shards.push((first, Shard { path, reader, groups, column }));
    }
    Ok((Pictures { shards }, labels))
}

/// The library asserts here and there what a damaged file need not keep. What [`claims`] does not see of that ends here:
/// nothing that was begun is used again.
fn guarded<T>(read: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let damaged = |_| Err(Fault::new("parquet", "the file is damaged"));
    panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(damaged)
}

impl Pictures {
    /// Where a row is, for messages.
    pub(super) fn place(&self, row: usize) -> String {
        let (row, shard) = self.shard(row);
        format!("row {row} of {}", shard.path.display())
    }

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.shards.iter().map(|(_, shard)| shard.path.clone()).collect()
    }

    /// A row's encoded picture.
    pub(super) fn bytes(&self, row: usize) -> Result<Vec<u8>, DatasetError> {
        let (row, shard) = self.shard(row);
        guarded(|| shard.bytes(row)).map_err(|fault| {
            let in_row = match fault {
                Fault::Malformed { problem, .. } => Fault::new(format!("row {row}"), problem),
                fault => fault,
            };
            in_row.in_file(&shard.path)
        })
    }

    /// The file that a row is in, and the row counted there.
    fn shard(&self, row: usize) -> (usize, &Shard) {
        let place = self.shards.partition_point(|(first, _)| *first <= row) - 1;
        let (first, shard) = &self.shards[place];
        (row - first, shard)
    }
}

impl Shard {
    fn bytes(&self, row: usize) -> Result<Vec<u8>, Fault> {
        let group = self.groups.partition_point(|first| *first <= row) - 1;
        let mut column = column_values(&self.reader, group, self.column)?;
        column.skip(row - self.groups[group])?;
        let value = column.next()?.ok_or_else(|| Fault::new("row", "expected a picture, the column ends"))?;
        match value {
            None => {
                Err(Fault::new("row", "expected a picture's bytes, found null: only pictures in the file are read"))
            }
            Some(bytes) if bytes.len() as u64 > file::MAX_FILE_BYTES => {
                let problem = format!("expected at most {} bytes, found {}", file::MAX_FILE_BYTES, bytes.len());
                Err(Fault::new("row", problem))
            }
            Some(bytes) => Ok(bytes.to_vec()),
        }
    }
}

/// The column of bytes that is called `name`, or is `bytes` in a struct of that name.
fn pictures_column(metadata: &ParquetMetaData, name: &str) -> Result<usize, Fault> {
    let columns = metadata.file_metadata().schema_descr().columns();
    let paths = [vec![name.to_owned(), "bytes".to_owned()], vec![name.to_owned()]];
    let is = |column: &parquet::schema::types::ColumnDescPtr| {
        column.physical_type() == Type::BYTE_ARRAY
            && column.max_rep_level() == 0
            && paths.iter().any(|path| column.path().parts() == path)
    };
    columns.iter().position(is).ok_or_else(|| {
        let found: Vec<_> =
            columns.iter().map(|column| format!("{} ({})", column.path().string(), column.physical_type())).collect();
        let problem =
            format!("expected bytes in it, or in its field `bytes`; the file's columns: {}", found.join(", "));
        Fault::new(format!("column `{name}`"), problem)
    })
}

/// The column of labels.
fn labels_column(metadata: &ParquetMetaData, name: &str) -> Result<usize, Fault> {
    let columns = metadata.file_metadata().schema_descr().columns();
    columns.iter().position(|column| column.path().parts() == [name] && column.max_rep_level() == 0).ok_or_else(|| {
        let found: Vec<_> = columns.iter().map(|column| column.path().string()).collect();
        Fault::new(format!("column `{name}`"), format!("no such column, the file's columns: {}", found.join(", ")))
    })
}

/// Appends the labels of a file, and gives the first row of each of its row groups.
fn read_labels(
    reader: &SerializedFileReader<At>,
    name: &str,
    index: usize,
    labels: &mut Vec<Label>,
) -> Result<Vec<usize>, Fault> {
    let start = labels.len();
    let metadata = reader.metadata();
    let columns = metadata.file_metadata().schema_descr().columns();
    let names = class_names(metadata, name);
    let class = |label: i64| {
        let name = usize::try_from(label).ok().and_then(|label| names.as_ref()?.get(label));
        name.map_or(Label::Integer(label), |name| Label::Class { label, name: name.clone() })
    };
    let of = columns[index].physical_type();
    let mut groups = Vec::new();
    for group in 0..metadata.num_row_groups() {
        groups.push(labels.len() - start);
        let before = labels.len();
        let mut column = column_values(reader, group, index)?;
        while let Some(value) = column.next()? {
            let row = labels.len() - start;
            let wrong = |problem: &str| Fault::new(format!("row {row}, column `{name}`"), problem);
            let value = value.ok_or_else(|| wrong("expected a label, found null"))?;
            if labels.len() == MAX_ROWS {
                return Err(Fault::new("rows", format!("expected at most {MAX_ROWS}")));
            }
            labels.push(match (of, &value[..]) {
                (Type::INT32, &[a, b, c, d]) => class(i32::from_le_bytes([a, b, c, d]).into()),
                (Type::INT64, &[a, b, c, d, e, f, g, h]) => class(i64::from_le_bytes([a, b, c, d, e, f, g, h])),
                (_, text) => match std::str::from_utf8(text) {
                    Ok(text) => Label::Text(text.to_owned()),
                    Err(_) => return Err(wrong("expected text in UTF-8")),
                },
            });
        }
        let (rows, found) = (metadata.row_group(group).num_rows(), labels.len() - before);
        if rows != found as i64 {
            let problem = format!("expected {rows} labels in row group {group}, found {found}");
            return Err(Fault::new(format!("column `{name}`"), problem));
        }
    }
    Ok(groups)
}

/// The values of a column in a row group.
fn column_values(reader: &SerializedFileReader<At>, group: usize, index: usize) -> Result<Values, Fault> {
    let column = reader.metadata().file_metadata().schema_descr().column(index);
    let pages = reader.get_row_group(group)?.get_column_page_reader(index)?;
    let level = u16::try_from(column.max_def_level()).unwrap_or(0);
    Values::new(pages, column.physical_type(), level).ok_or_else(|| {
        let problem = format!("expected bytes, text or integers, found {}", column.physical_type());
        Fault::new(format!("column `{}`", column.path().string()), problem)
    })
}

/// What Hugging Face's metadata calls the classes of a `ClassLabel`.
fn class_names(metadata: &ParquetMetaData, column: &str) -> Option<Vec<Arc<str>>> {
    let pairs = metadata.file_metadata().key_value_metadata()?;
    let json = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref()?;
    let json: Value = serde_json::from_str(json).ok()?;
    let names = json.get("info")?.get("features")?.get(column)?.get("names")?.as_array()?;
    names.iter().map(|name| name.as_str().map(Arc::from)).collect()
}

impl From<ParquetError> for Fault {
    fn from(error: ParquetError) -> Fault {
        Fault::new("parquet", error.to_string())
    }
}

/// A file that is read at places, by several threads at once.
#[derive(Clone)]
struct At {
    file: Arc<File>,
    length: u64,
}

impl Length for At {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for At {
    type T = BufReader<Tail>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::with_capacity(READ_AHEAD, Tail { file: self.file.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // Nothing is allocated for what the file does not have.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF(format!("expected {length} bytes from byte {start}, the file ends")));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

/// A file from a place on.
struct Tail {
    file: Arc<File>,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
