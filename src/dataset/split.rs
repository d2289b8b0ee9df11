//! Which samples calibrate, search and certify.

use std::collections::HashMap;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Deserialize;

use super::error::DatasetError;
use super::file;
use super::spec::{SplitCounts, SplitSpec};
use super::table::Table;

/// Rows of each part, in the order they are used. `calibrate` holds rows of the calibration
/// source where a job has one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) calibrate: Vec<usize>,
    pub(super) search: Vec<usize>,
    pub(super) certify: Vec<usize>,
}

/// Splits `images`, and `calibration` where calibration samples come from elsewhere.
pub(super) fn split(
    spec: &SplitSpec,
    base: &Path,
    images: &Table,
    calibration: Option<&Table>,
) -> Result<Split, DatasetError> {
    match spec {
        SplitSpec::Counts(counts) => by_counts(counts, images.rows.len(), calibration.map(|table| table.rows.len())),
        SplitSpec::File(path) => by_file(&base.join(path), images, calibration),
    }
}

fn by_counts(counts: &SplitCounts, images: usize, calibration: Option<usize>) -> Result<Split, DatasetError> {
    // What calibrate takes of `images`.
    let taken = if calibration.is_some() { 0 } else { counts.calibrate };
    let rest = images.saturating_sub(taken).saturating_sub(counts.certify);
    let search = counts.search.unwrap_or(rest);
    let sum = |parts: &[usize]| parts.iter().map(|&part| part as u128).sum::<u128>();
    let fits = |wanted: u128, available: usize| {
        if wanted > available as u128 {
            return Err(DatasetError::TooFewSamples { wanted, available });
        }
        Ok(())
    };
    fits(sum(&[taken, search, counts.certify]), images)?;
    if search == 0 {
        let problem = format!("calibrate and certify take all {images} samples, none is left");
        return Err(DatasetError::Key { key: "split.search", problem });
    }
    let order = permutation(images, counts.seed);
    let calibrate = match calibration {
        None => order[..taken].to_vec(),
        Some(available) => {
            fits(counts.calibrate as u128, available)?;
            permutation(available, counts.seed)[..counts.calibrate].to_vec()
        }
    };
    let (searched, after) = order[taken..].split_at(search);
    Ok(Split { calibrate, search: searched.to_vec(), certify: after[..counts.certify].to_vec() })
}

/// A seeded permutation: the ChaCha8 key stream and Fisher-Yates from the end. Written out here, so
/// that no release of a library changes which samples a recorded job was measured on.
pub fn permutation(count: usize, seed: u64) -> Vec<usize> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(key);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // The high word of a product: uniform but for 2^-64 times `last`.
        let chosen = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// A split file. Other keys, such as the seed that made it, are let be.
#[derive(Deserialize)]
struct SplitFile {
    calibration: Vec<Reference>,
    #[serde(alias = "search")]
    validation: Vec<Reference>,
    #[serde(default)]
    certify: Vec<Reference>,
}

/// A sample, by index or by name.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a sample's name or its index from 0")]
enum Reference {
    Index(u64),
    Name(String),
}

fn by_file(path: &Path, images: &Table, calibration: Option<&Table>) -> Result<Split, DatasetError> {
    let listed: SplitFile = serde_json::from_slice(&file::read(path)?)
        .map_err(|source| DatasetError::SplitFile { path: path.to_owned(), source })?;
    let mut images = Resolver::new(path, images);
    let (calibrate, mut images) = match calibration {
        None => (images.resolve("calibration", &listed.calibration)?, images),
        Some(table) => (Resolver::new(path, table).resolve("calibration", &listed.calibration)?, images),
    };
    let search = images.resolve("validation", &listed.validation)?;
    let certify = images.resolve("certify", &listed.certify)?;
    for (part, rows) in [("calibration", &calibrate), ("validation", &search)] {
        if rows.is_empty() {
            return Err(DatasetError::Malformed {
                path: path.to_owned(),
                place: part.to_owned(),
                problem: "expected at least one sample, found none".to_owned(),
            });
        }
    }
    Ok(Split { calibrate, search, certify })
}

/// Turns references into rows of one table, each row once.
struct Resolver<'a> {
    path: &'a Path,
    table: &'a Table,
    by_name: HashMap<&'a str, usize>,
    /// Where each row was first referred to.
    seen: HashMap<usize, String>,
}

impl<'a> Resolver<'a> {
    fn new(path: &'a Path, table: &'a Table) -> Resolver<'a> {
        let by_name = table.rows.iter().enumerate().map(|(i, row)| (row.name.as_str(), i)).collect();
        Resolver { path, table, by_name, seen: HashMap::new() }
    }

    fn resolve(&mut self, part: &str, references: &[Reference]) -> Result<Vec<usize>, DatasetError> {
        let mut rows = Vec::with_capacity(references.len());
        for (i, reference) in references.iter().enumerate() {
            let place = format!("{part}[{i}]");
            let wrong =
                |problem: String| DatasetError::Malformed { path: self.path.to_owned(), place: place.clone(), problem };
            let origin = self.table.origin.display();
            let row = match reference {
                Reference::Index(index) => {
                    usize::try_from(*index).ok().filter(|&row| row < self.table.rows.len()).ok_or_else(|| {
                        let count = self.table.rows.len();
                        wrong(format!("no sample {index}, {origin} has {count}"))
                    })?
                }
                Reference::Name(name) => {
                    *self.by_name.get(name.as_str()).ok_or_else(|| wrong(format!("no sample `{name}` in {origin}")))?
                }
            };
            if let Some(first) = self.seen.get(&row) {
                let name = &self.table.rows[row].name;
                return Err(wrong(format!("`{name}` is in {first} already")));
            }
            self.seen.insert(row, place);
            rows.push(row);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests;
