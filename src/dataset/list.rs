//! Lists of picture files: a csv, and folders of classes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::array::to_label;
use super::error::DatasetError;
use super::file;
use super::label_map::LabelMap;
use super::table::Row;

/// Endings of the files that an image folder is searched for.
const PICTURE_ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

/// Whether a file's name ends as a picture's does.
pub(super) fn is_picture(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    PICTURE_ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// The rows of a csv with the columns `file` and `label`. Labels are integers, or classes of the label map.
pub(super) fn read_csv(path: &Path, label_map: Option<&LabelMap>) -> Result<Vec<Row>, DatasetError> {
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
        let integer = || label.parse().map_err(|_| format!("expected an integer, found `{label}`")).and_then(to_label);
        let label = label_map
            .map_or_else(integer, |map| map.label(label))
            .map_err(|problem| wrong(format!("line {line}, column label"), problem))?;
        // The same picture in two parts would let the search see what it is tested on.
        if let Some(first) = lines.insert(name.to_owned(), line) {
            let problem = format!("`{name}` is listed in line {first} already");
            return Err(wrong(format!("line {line}"), problem));
        }
        rows.push(Row { name: name.to_owned(), label });
    }
    Ok(rows)
}

/// Refuses what does not lie below `root` after following links, or is not there at all.
pub(super) fn check_inside(path: &Path, root: Option<&Path>) -> Result<(), DatasetError> {
    let inside = |root: &Path| path.canonicalize().is_ok_and(|whole| whole.starts_with(root));
    match root.is_none_or(inside) {
        true => Ok(()),
        false => Err(DatasetError::Outside { path: path.to_owned() }),
    }
}

/// The pictures of a folder that has one sub-folder for each class, as torchvision's `ImageFolder`. Labels are the places
/// of the classes in their sorted names, or what the label map says.
pub(super) fn read_folder(
    path: &Path,
    root: Option<&Path>,
    label_map: Option<&LabelMap>,
) -> Result<Vec<Row>, DatasetError> {
    let wrong = |path: PathBuf, problem: &str| DatasetError::Malformed {
        path,
        place: "image folder".to_owned(),
        problem: problem.to_owned(),
    };
    let mut rows = Vec::new();
    let mut place = 0;
    for class in sorted_names(path)? {
        let folder = path.join(&class);
        if !folder.is_dir() {
            continue;
        }
        check_inside(&folder, root)?;
        let mapped = label_map.map(|map| map.label(&class)).transpose();
        let label = mapped.map_err(|problem| wrong(folder.clone(), &problem))?.unwrap_or(place);
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
        place += 1;
    }
    if rows.is_empty() {
        return Err(wrong(path.to_owned(), "expected one sub-folder for each class, found none"));
    }
    Ok(rows)
}

/// Names in a folder, sorted by their bytes, without the hidden ones.
pub(super) fn sorted_names(folder: &Path) -> Result<Vec<String>, DatasetError> {
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
