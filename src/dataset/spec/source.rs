//! Where the samples of a job are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One place that holds samples and their labels: pictures, or arrays of what a network reads. In YAML a mapping with
/// exactly one of the keys `csv`, `image_folder`, `parquet`, `idx`, `npy`, `npz` and `safetensors`. Paths are relative to
/// the job's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SourceFields", into = "SourceFields")]
pub enum Source {
    /// `csv: FILE` with a header that names the columns `file` and `label`. Files are relative to
    /// the csv; labels are integers from 0, or classes of the label map.
    Csv(PathBuf),
    /// `idx: {images: FILE, labels: FILE}`: the format of MNIST, optionally gzipped.
    Idx(IdxFiles),
    /// `npz: {file: FILE, images: x, labels: y}`: arrays that numpy saved.
    Npz(NpzFile),
    /// `npy: {images: FILE, labels: FILE}`: arrays that numpy saved, each in a file of its own. The pictures stay there.
    Npy(NpyFiles),
    /// `npy: {inputs: {NAME: FILE, ...}, labels: FILE}`: an array for each input of the network.
    NpyInputs(NpyInputs),
    /// `safetensors: {file: FILE, images: images, labels: labels}`: two tensors. The pictures stay in the file.
    Safetensors(SafetensorsFile),
    /// `safetensors: {file: FILE, inputs: {NAME: TENSOR, ...}, labels: labels}`: a tensor for each input of the network.
    SafetensorsInputs(SafetensorsInputs),
    /// `parquet: {path: FILE or DIR, images: image, labels: label}`: columns of encoded pictures and of labels, as Hugging
    /// Face's `datasets` writes them.
    Parquet(ParquetFiles),
    /// `image_folder: DIR`: one sub-folder a class; the sorted names give the labels, or the label map does.
    ImageFolder(PathBuf),
}

/// The two files of an IDX data set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdxFiles {
    /// u8 pixels, `[N, H, W]` or `[N, H, W, C]`.
    pub images: PathBuf,
    /// Integer labels, `[N]`.
    pub labels: PathBuf,
}

/// A numpy archive and the names of its two arrays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NpzFile {
    /// The archive.
    pub file: PathBuf,
    /// Name of the uint8 array `[N, H, W]` or `[N, H, W, C]`.
    #[serde(default = "default_images_array")]
    pub images: String,
    /// Name of the integer array `[N]` or `[N, 1]`.
    #[serde(default = "default_labels_array")]
    pub labels: String,
}

/// Two files of numpy: pictures and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyFiles {
    /// A uint8 array `[N, H, W]` or `[N, H, W, C]`.
    pub images: PathBuf,
    /// An integer array `[N]` or `[N, 1]`.
    pub labels: PathBuf,
}

/// Files of numpy: what the network reads, and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NpyInputs {
    /// By the name of the input, an array of numbers `[N, ...]`, as the model's file reads them.
    pub inputs: BTreeMap<String, PathBuf>,
    /// An integer array `[N]` or `[N, 1]`.
    pub labels: PathBuf,
}

/// A safetensors file and the names of its two tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsFile {
    /// The file.
    pub file: PathBuf,
    /// Name of the U8 tensor `[N, H, W]` or `[N, H, W, C]`.
    pub images: String,
    /// Name of the integer tensor `[N]` or `[N, 1]`.
    pub labels: String,
}

/// A safetensors file and the names of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafetensorsInputs {
    /// The file.
    pub file: PathBuf,
    /// By the name of the input, the name of a tensor of numbers `[N, ...]`, as the model's file reads them.
    pub inputs: BTreeMap<String, String>,
    /// Name of the integer tensor `[N]` or `[N, 1]`.
    pub labels: String,
}

/// Parquet files and the names of their two columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetFiles {
    /// A file, or a folder: then all files in it that end in `.parquet`, sorted by name.
    pub path: PathBuf,
    /// Name of the column of encoded pictures: bytes, or a struct with the field `bytes`.
    #[serde(default = "default_image_column")]
    pub images: String,
    /// Name of the column of labels: integers, or texts that the label map knows.
    #[serde(default = "default_label_column")]
    pub labels: String,
}

fn default_images_tensor() -> String {
    "images".to_owned()
}

fn default_labels_tensor() -> String {
    "labels".to_owned()
}

fn default_image_column() -> String {
    "image".to_owned()
}

fn default_label_column() -> String {
    "label".to_owned()
}

fn default_images_array() -> String {
    "x".to_owned()
}

fn default_labels_array() -> String {
    "y".to_owned()
}

/// Files of numpy.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NpyFields {
    /// Pictures: a uint8 array `[N, H, W]` or `[N, H, W, C]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<PathBuf>,
    /// In place of pictures, an array of numbers `[N, ...]` for each input of the network, by its name, as the model's file
    /// reads them: floats, integers or booleans, without preprocessing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1))]
    inputs: Option<BTreeMap<String, PathBuf>>,
    /// An integer array `[N]` or `[N, 1]`.
    labels: PathBuf,
}

/// Tensors of one file.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SafetensorsFields {
    /// The file.
    file: PathBuf,
    /// Name of the U8 tensor `[N, H, W]` or `[N, H, W, C]`; `images` when there are no `inputs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<String>,
    /// In place of pictures, the name of a tensor of numbers `[N, ...]` for each input of the network, by its name, as the
    /// model's file reads them: floats, integers or booleans, without preprocessing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1))]
    inputs: Option<BTreeMap<String, String>>,
    /// Name of the integer tensor `[N]` or `[N, 1]`.
    #[serde(default = "default_labels_tensor")]
    labels: String,
}

impl TryFrom<NpyFields> for Source {
    type Error = String;

    fn try_from(NpyFields { images, inputs, labels }: NpyFields) -> Result<Source, String> {
        match (images, inputs) {
            (Some(images), None) => Ok(Source::Npy(NpyFiles { images, labels })),
            (None, Some(inputs)) if !inputs.is_empty() => Ok(Source::NpyInputs(NpyInputs { inputs, labels })),
            _ => Err("npy: expected either `images`, or `inputs` with an array for each input".to_owned()),
        }
    }
}

impl TryFrom<SafetensorsFields> for Source {
    type Error = String;

    fn try_from(SafetensorsFields { file, images, inputs, labels }: SafetensorsFields) -> Result<Source, String> {
        match (images, inputs) {
            (images, None) => {
                let images = images.unwrap_or_else(default_images_tensor);
                Ok(Source::Safetensors(SafetensorsFile { file, images, labels }))
            }
            (None, Some(inputs)) if !inputs.is_empty() => {
                Ok(Source::SafetensorsInputs(SafetensorsInputs { file, inputs, labels }))
            }
            _ => Err("safetensors: expected either `images`, or `inputs` with a tensor for each input".to_owned()),
        }
    }
}

/// [`Source`] as YAML writes it.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceFields {
    /// A file with a header that names the columns `file` and `label`. Files are relative to it; labels are integers from 0,
    /// or classes of the label map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    csv: Option<PathBuf>,
    /// The format of MNIST, optionally gzipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idx: Option<IdxFiles>,
    /// Arrays that numpy saved in an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    npz: Option<NpzFile>,
    /// Arrays that numpy saved, each in a file of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    npy: Option<NpyFields>,
    /// Tensors of one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    safetensors: Option<SafetensorsFields>,
    /// Encoded pictures and labels as Hugging Face's `datasets` writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parquet: Option<ParquetFiles>,
    /// A folder with one sub-folder a class; their sorted names give the labels, or the label map does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image_folder: Option<PathBuf>,
}

/// Their keys.
const SOURCES: &str = "csv, idx, npz, npy, safetensors, parquet and image_folder";

impl TryFrom<SourceFields> for Source {
    type Error = String;

    fn try_from(fields: SourceFields) -> Result<Source, String> {
        let SourceFields { csv, idx, npz, npy, safetensors, parquet, image_folder } = fields;
        let present = [
            ("csv", csv.map(Source::Csv)),
            ("idx", idx.map(Source::Idx)),
            ("npz", npz.map(Source::Npz)),
            ("npy", npy.map(Source::try_from).transpose()?),
            ("safetensors", safetensors.map(Source::try_from).transpose()?),
            ("parquet", parquet.map(Source::Parquet)),
            ("image_folder", image_folder.map(Source::ImageFolder)),
        ];
        let (names, mut sources): (Vec<_>, Vec<_>) =
            present.into_iter().filter_map(|(name, source)| Some((name, source?))).unzip();
        match (sources.pop(), sources.is_empty()) {
            (Some(source), true) => Ok(source),
            (Some(_), false) => Err(format!("expected exactly one of {SOURCES}, found {}", names.join(" and "))),
            (None, _) => Err(format!("expected one of {SOURCES}")),
        }
    }
}

impl From<Source> for SourceFields {
    fn from(source: Source) -> SourceFields {
        let mut fields = SourceFields::default();
        match source {
            Source::Csv(file) => fields.csv = Some(file),
            Source::Idx(files) => fields.idx = Some(files),
            Source::Npz(file) => fields.npz = Some(file),
            Source::Npy(NpyFiles { images, labels }) => {
                fields.npy = Some(NpyFields { images: Some(images), inputs: None, labels });
            }
            Source::NpyInputs(NpyInputs { inputs, labels }) => {
                fields.npy = Some(NpyFields { images: None, inputs: Some(inputs), labels });
            }
            Source::Safetensors(SafetensorsFile { file, images, labels }) => {
                fields.safetensors = Some(SafetensorsFields { file, images: Some(images), inputs: None, labels });
            }
            Source::SafetensorsInputs(SafetensorsInputs { file, inputs, labels }) => {
                fields.safetensors = Some(SafetensorsFields { file, images: None, inputs: Some(inputs), labels });
            }
            Source::Parquet(files) => fields.parquet = Some(files),
            Source::ImageFolder(folder) => fields.image_folder = Some(folder),
        }
        fields
    }
}
