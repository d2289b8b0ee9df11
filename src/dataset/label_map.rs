//! Which label a class has, by its name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::array::to_label;
use super::error::DatasetError;
use super::file;

/// Labels by the names of classes. Three forms of file are known by what is in them:
///
/// - a JSON object from names to labels: `{"cat": 0, "dog": 1}`, or the other way round from labels to names or to lists
///   that start with them, as Keras' and torchvision's `imagenet_class_index.json`: `{"0": ["n01440764", "tench"]}`;
/// - a JSON array of names: the place is the label;
/// - text, one name a line: the number of the line, from 0, is the label.
#[derive(Debug)]
pub(super) struct LabelMap {
    path: PathBuf,
    labels: HashMap<String, u32>,
}

impl LabelMap {
    pub(super) fn read(path: &Path) -> Result<LabelMap, DatasetError> {
        let wrong =
            |(place, problem): (String, String)| DatasetError::Malformed { path: path.to_owned(), place, problem };
        let bytes = file::read(path)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| wrong((format!("byte {}", error.valid_up_to()), "expected UTF-8".to_owned())))?;
        let labels = if text.trim_start().starts_with(['{', '[']) {
            let json = serde_json::from_str(text)
                .map_err(|error| wrong((format!("line {}", error.line()), format!("expected JSON: {error}"))))?;
            from_json(&json)
        } else {
            let lines = text.trim_end().lines().enumerate();
            unique(lines.map(|(i, name)| (format!("line {}", i + 1), name.trim(), Ok(i as i128))))
        };
        Ok(LabelMap { path: path.to_owned(), labels: labels.map_err(wrong)? })
    }

    /// The label of a class.
    pub(super) fn label(&self, class: &str) -> Result<u32, String> {
        let label = self.labels.get(class).copied();
        label.ok_or_else(|| format!("no class `{class}` in the label map {}", self.path.display()))
    }
}

/// A place, and what is wrong there.
type Problem = (String, String);

fn from_json(json: &Value) -> Result<HashMap<String, u32>, Problem> {
    let integer = |text: &str| text.parse::<i128>().map_err(|_| format!("expected an integer, found `{text}`"));
    match json {
        Value::Array(names) => unique(names.iter().enumerate().map(|(i, name)| {
            let place = format!("item {i}");
            (place, name.as_str().unwrap_or_default(), Ok(i as i128))
        })),
        Value::Object(entries) => unique(entries.iter().map(|(key, value)| {
            let place = format!("key `{key}`");
            match (value, value.get(0).unwrap_or(value)) {
                (Value::Number(label), _) => (place, key.as_str(), integer(&label.to_string())),
                (_, Value::String(name)) => (place, name.as_str(), integer(key)),
                _ => {
                    (place, key.as_str(), Err("expected a label, a name, or a list that starts with a name".to_owned()))
                }
            }
        })),
        _ => Err(("line 1".to_owned(), "expected an object or an array".to_owned())),
    }
}

fn unique<'a>(
    entries: impl Iterator<Item = (String, &'a str, Result<i128, String>)>,
) -> Result<HashMap<String, u32>, Problem> {
    let mut labels = HashMap::new();
    for (place, name, label) in entries {
        if name.is_empty() {
            return Err((place, "expected a name, found none".to_owned()));
        }
        match label.and_then(to_label) {
            Err(problem) => return Err((place, problem)),
            Ok(label) => {
                if labels.insert(name.to_owned(), label).is_some() {
                    return Err((place, format!("`{name}` is named twice")));
                }
            }
        }
    }
    match labels.is_empty() {
        true => Err(("file".to_owned(), "expected at least one class, found none".to_owned())),
        false => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<LabelMap, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels");
        std::fs::write(&path, bytes).unwrap();
        let short = |error: DatasetError| error.to_string().replace(&path.display().to_string(), "labels");
        LabelMap::read(&path).map(|map| LabelMap { path: "labels".into(), ..map }).map_err(short)
    }

    #[test]
    fn all_forms_give_labels() {
        for form in [
            r#"{"cat": 0, "dog": 1}"#,
            r#"{"1": ["dog", "a dog"], "0": ["cat", "a cat"]}"#,
            r#"{"1": "dog", "0": "cat"}"#,
            r#" ["cat", "dog"] "#,
            "cat\r\ndog\n\n",
        ] {
            let map = read(form.as_bytes()).unwrap();
            assert_eq!((map.label("cat"), map.label("dog")), (Ok(0), Ok(1)), "{form}");
            assert_eq!(map.label("cow"), Err("no class `cow` in the label map labels".to_owned()));
        }
    }

    #[test]
    fn faults_say_where_and_what() {
        let forms: [&[u8]; 10] = [
            b"",
            b"{}",
            b"[\"a\", 1]",
            b"{\"a\": -1}",
            b"{\"a\": 0.5}",
            b"{\"a\": \"b\"}",
            b"{\"a\": null}",
            b"[\n1,",
            b"cat\n\ndog",
            b"cat\ncat\xff",
        ];
        let errors = forms.map(|form| read(form).unwrap_err());
        insta::assert_snapshot!(errors.join("\n"), @r#"
        labels: file: expected at least one class, found none
        labels: file: expected at least one class, found none
        labels: item 1: expected a name, found none
        labels: key `a`: expected a label from 0 to 2147483646, found -1
        labels: key `a`: expected an integer, found `0.5`
        labels: key `a`: expected an integer, found `a`
        labels: key `a`: expected a label, a name, or a list that starts with a name
        labels: line 2: expected JSON: EOF while parsing a value at line 2 column 2
        labels: line 2: expected a name, found none
        labels: byte 7: expected UTF-8
        "#);
    }
}
