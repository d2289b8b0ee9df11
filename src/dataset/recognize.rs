//! What a file or folder holds, from names alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    error::DatasetError,
    list::is_picture,
    npz,
    spec::{IdxFiles, NpzFile, ParquetFiles, Source},
};

/// A data set that was recognized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognized {
    /// The labelled samples.
    pub images: Source,
    /// Samples that are set aside for calibration, where there are some.
    pub calibration: Option<Source>,
}

/// Names of pixels and labels in archives of numpy, the likeliest first.
const ARRAYS: [(&str, &str); 6] = [
    ("x", "y"),
    ("images", "labels"),
    ("x_test", "y_test"),
    ("test_images", "test_labels"),
    ("data", "labels"),
    ("X", "Y"),
];

/// Columns of pictures and labels in most data sets of Hugging Face.
const COLUMNS: [&str; 2] = ["image", "label"];

/// Starts of names of samples that are for training, so for calibration here.
const TRAINING: [&str; 2] = ["calibrat", "train"];

/// Starts of names of samples that are for testing, the likeliest first.
const TESTING: [&str; 4] = ["t10k", "test", "val", "eval"];

/// Recognizes the data set at a path.
///
/// # Errors
/// A path that cannot be read, or that holds nothing that is known.
pub fn recognize(path: &Path) -> Result<Recognized, DatasetError> {
    let metadata = fs::metadata(path).map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    match metadata.is_dir() {
        true => folder(path),
        false => match source_of_file(path)? {
            Some(images) => Ok(Recognized { images, calibration: None }),
            None => Err(unknown(path, "another file".to_owned())),
        },
    }
}

fn unknown(path: &Path, found: String) -> DatasetError {
    let problem = format!(
        "expected a .csv file, an .npz or .parquet file, IDX files of images and labels, or a folder with one of these or with one \
         sub-folder of pictures a class; found {found}"
    );
    DatasetError::Malformed { path: path.to_owned(), place: "data set".to_owned(), problem }
}

fn source_of_file(path: &Path) -> Result<Option<Source>, DatasetError> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    Ok(match ending.as_str() {
        "csv" => Some(Source::Csv(path.to_owned())),
        "npz" => Some(Source::Npz(archive(path)?)),
        "parquet" => {
            let [images, labels] = COLUMNS.map(str::to_owned);
            Some(Source::Parquet(ParquetFiles { path: path.to_owned(), images, labels }))
        }
        _ => labels_of(path).map(|labels| Source::Idx(IdxFiles { images: path.to_owned(), labels })),
    })
}

/// The labels beside a file of IDX images.
fn labels_of(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    if !name.contains("images") || !name.contains("idx3") {
        return None;
    }
    let labels = images.with_file_name(name.replace("images", "labels").replace("idx3", "idx1"));
    labels.is_file().then_some(labels)
}

fn archive(path: &Path) -> Result<NpzFile, DatasetError> {
    let names = npz::array_names(path)?;
    let has = |name: &str| names.iter().any(|present| present == name);
    match ARRAYS.iter().find(|(images, labels)| has(images) && has(labels)) {
        Some((images, labels)) => {
            Ok(NpzFile { file: path.to_owned(), images: (*images).to_owned(), labels: (*labels).to_owned() })
        }
        None => Err(unknown(path, format!("the arrays {}", names.join(", ")))),
    }
}

fn folder(path: &Path) -> Result<Recognized, DatasetError> {
    let entries = list(path)?;
    let mut sources = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_file()) {
        sources.extend(source_of_file(entry)?.map(|source| (entry.as_path(), source)));
    }
    if sources.is_empty() {
        let mut parts = Vec::new();
        for entry in entries.iter().filter(|entry| entry.is_dir() && role(entry).is_some()) {
            if has_classes(entry)? {
                parts.push((entry.as_path(), Source::ImageFolder(entry.clone())));
            }
        }
        sources = parts;
    }
    if sources.is_empty() && has_classes(path)? {
        return Ok(Recognized { images: Source::ImageFolder(path.to_owned()), calibration: None });
    }
    choose(sources).ok_or_else(|| unknown(path, format!("a folder of {} other entries", entries.len())))
}

/// The samples to test with, and those to calibrate with.
fn choose(mut sources: Vec<(&Path, Source)>) -> Option<Recognized> {
    sources.sort_by_key(|(path, _)| (role(path).unwrap_or(Role::Test(TESTING.len())), path.to_path_buf()));
    let trains = |(path, _): &(&Path, Source)| role(path) == Some(Role::Train);
    let calibration = sources.iter().position(trains).filter(|_| sources.len() > 1).map(|at| sources.remove(at).1);
    let images = sources.into_iter().next()?.1;
    Some(Recognized { images, calibration })
}

/// What samples are for, by their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// The lower, the likelier.
    Test(usize),
    Train,
}

fn role(path: &Path) -> Option<Role> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    if TRAINING.iter().any(|start| name.starts_with(start)) {
        return Some(Role::Train);
    }
    TESTING.iter().position(|start| name.starts_with(start)).map(Role::Test)
}

/// Whether a sub-folder holds pictures.
fn has_classes(path: &Path) -> Result<bool, DatasetError> {
    for entry in list(path)?.iter().filter(|entry| entry.is_dir()) {
        if list(entry)?.iter().any(|file| is_picture(file)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The entries of a folder, sorted.
fn list(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let read = || fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut entries = read().map_err(|source| DatasetError::Read { path: path.to_owned(), source })?;
    entries.sort();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }

    fn recognized(names: &[&str]) -> Result<Recognized, String> {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), names);
        let base = folder.path().display().to_string();
        let found = recognize(folder.path()).map_err(|error| error.to_string().replace(&base, "D"))?;
        let cut = |path: &Path| path.strip_prefix(folder.path()).unwrap().to_owned();
        let cut = |source| match source {
            Source::Csv(path) => Source::Csv(cut(&path)),
            Source::ImageFolder(path) => Source::ImageFolder(cut(&path)),
            Source::Idx(idx) => Source::Idx(IdxFiles { images: cut(&idx.images), labels: cut(&idx.labels) }),
            other => other,
        };
        Ok(Recognized { images: cut(found.images), calibration: found.calibration.map(cut) })
    }

    fn idx(images: &str, labels: &str) -> Source {
        Source::Idx(IdxFiles { images: images.into(), labels: labels.into() })
    }

    #[test]
    fn layouts_are_recognized_by_names() {
        let mnist = [
            "train-images-idx3-ubyte.gz",
            "train-labels-idx1-ubyte.gz",
            "t10k-images-idx3-ubyte.gz",
            "t10k-labels-idx1-ubyte.gz",
            "README.md",
        ];
        let found = recognized(&mnist).unwrap();
        assert_eq!(found.images, idx(mnist[2], mnist[3]));
        assert_eq!(found.calibration, Some(idx(mnist[0], mnist[1])));
        let found = recognized(&["train/a/1.png", "train/b/2.jpg", "val/a/3.png", "val/b/4.png"]).unwrap();
        assert_eq!(found.images, Source::ImageFolder("val".into()));
        assert_eq!(found.calibration, Some(Source::ImageFolder("train".into())));
        let found = recognized(&["cat/1.png", "dog/2.PNG"]).unwrap();
        assert_eq!((found.images, found.calibration), (Source::ImageFolder("".into()), None));
        let found = recognized(&["images/1.png", "labels.csv"]).unwrap();
        assert_eq!((found.images, found.calibration), (Source::Csv("labels.csv".into()), None));
        // With training samples alone, these are what there is.
        let found = recognized(&["train.csv"]).unwrap();
        assert_eq!((found.images, found.calibration), (Source::Csv("train.csv".into()), None));
    }

    #[test]
    fn what_is_not_recognized_is_said() {
        let error = recognized(&["a.txt", "b/c.txt"]).unwrap_err();
        assert!(
            error.starts_with("D: data set: expected a .csv file") && error.ends_with("2 other entries"),
            "{error}"
        );
        assert!(recognized(&["t10k-images-idx3-ubyte"]).is_err(), "without labels");
    }
}
