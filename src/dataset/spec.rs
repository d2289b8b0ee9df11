//! The `data:` section of a job.

mod source;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use source::{IdxFiles, NpyFiles, NpyInputs, NpzFile, ParquetFiles, SafetensorsFile, SafetensorsInputs, Source};

/// Longest side a job may ask for.
const MAX_SIDE: u32 = 16_384;

/// The labelled samples of a job, how they become network inputs, and which of them do what.
///
/// ```yaml
/// images: {csv: data/labels.csv}
/// preprocess: {resize: {short_side: 256}, center_crop: 224, scale: 0.00392156862745098}
/// split: {calibrate: 128, search: 572, certify: 300, seed: 0}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Where the samples are.
    pub images: Source,
    /// Where the calibration samples are, when they are not taken from `images`. Then
    /// `split.calibrate` counts in this source, and `search` and `certify` share all of `images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration_images: Option<Source>,
    /// Labels by the names of classes: of the sub-folders of an image folder, of a csv's or Parquet file's labels; labels
    /// that are integers are named by their digits. A JSON object from names to labels, a JSON array of names, or a text
    /// file with one name a line. The path is relative to the job's file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_map: Option<PathBuf>,
    /// From decoded pixels to network input; not of arrays, which hold what the network reads.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// MiB of preprocessed pictures that are kept in memory, so that they are decoded once; 0 decodes at every use.
    #[serde(default = "default_cache_mib")]
    pub cache_mib: u32,
    /// Which samples calibrate, search and certify.
    pub split: SplitSpec,
}

/// From decoded pixels to network input: orientation, channels, resize, crop, then
/// `(pixel * scale - mean) / std` in f32, in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// Which way up pictures are that say in their EXIF data how the camera was held.
    #[serde(default)]
    pub orientation: Orientation,
    /// Resize first. Without it pictures keep their size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// Keep the centre: `224`, or `[height, width]`. The upper left corner is at half the margin,
    /// rounded down. A smaller picture is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub center_crop: Option<Size>,
    /// Channels and their order. Without it the samples keep the channels they have: 1 for gray,
    /// 3 (red, green, blue) for colour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Multiplies each pixel (0 to 255).
    #[serde(default = "default_scale")]
    pub scale: f64,
    /// Subtracted after scaling: one value, or one for each channel in the order of `channels`.
    #[serde(default = "default_mean")]
    #[schemars(length(min = 1, max = 4_096))]
    pub mean: Vec<f64>,
    /// Divides at the end: one value, or one for each channel in the order of `channels`.
    #[serde(default = "default_std")]
    #[schemars(length(min = 1, max = 4_096), extend("items" = serde_json::json!({"type": "number", "exclusiveMinimum": 0})))]
    pub std: Vec<f64>,
}

impl DataSpec {
    /// What a job means that names no more than this.
    pub fn new(images: Source, split: SplitSpec) -> DataSpec {
        DataSpec {
            images,
            calibration_images: None,
            label_map: None,
            preprocess: Preprocess::default(),
            cache_mib: default_cache_mib(),
            split,
        }
    }
}

fn default_cache_mib() -> u32 {
    1024
}

impl Default for Preprocess {
    fn default() -> Preprocess {
        Preprocess {
            orientation: Orientation::default(),
            resize: None,
            center_crop: None,
            channels: None,
            scale: default_scale(),
            mean: default_mean(),
            std: default_std(),
        }
    }
}

fn default_scale() -> f64 {
    1.0
}

fn default_mean() -> Vec<f64> {
    vec![0.0]
}

fn default_std() -> Vec<f64> {
    vec![1.0]
}

/// Which way up pictures are that say in their EXIF data how the camera was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// Turned as EXIF says: Pillow's `ImageOps.exif_transpose`, and what OpenCV and Hugging Face's `datasets` do.
    #[default]
    Upright,
    /// As their pixels are stored: what torchvision's `ImageFolder`, Keras and TensorFlow read.
    Stored,
}

/// How to resize. In YAML `{short_side: 256}` or `{size: [height, width]}`, with an optional
/// `interpolation`. On photographs a value differs from Pillow's by at most 2, except with
/// `nearest`, where one pixel in a hundred may be its neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "ResizeFields", into = "ResizeFields")]
pub struct Resize {
    /// The size to reach.
    pub to: ResizeTo,
    /// The filter.
    pub interpolation: Interpolation,
}

/// The size that a resize reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeTo {
    /// The shorter side gets this length. The longer gets `length * long / short`, rounded down.
    ShortSide(u32),
    /// Exactly this size; the aspect ratio may change.
    Size(Size),
}

/// [`Resize`] as YAML writes it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResizeFields {
    /// The shorter side gets this length. The longer gets `length * long / short`, rounded down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_SIDE))]
    short_side: Option<u32>,
    /// Exactly this size; the aspect ratio may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<Size>,
    /// The filter.
    #[serde(default)]
    interpolation: Interpolation,
}

impl TryFrom<ResizeFields> for Resize {
    type Error = String;

    fn try_from(fields: ResizeFields) -> Result<Resize, String> {
        let to = match (fields.short_side, fields.size) {
            (Some(side), None) => ResizeTo::ShortSide(checked_side(side)?),
            (None, Some(size)) => ResizeTo::Size(size),
            (Some(_), Some(_)) => {
                return Err("expected one of short_side and size, found both".to_owned());
            }
            (None, None) => return Err("expected one of short_side and size".to_owned()),
        };
        Ok(Resize { to, interpolation: fields.interpolation })
    }
}

impl From<Resize> for ResizeFields {
    fn from(resize: Resize) -> ResizeFields {
        let (short_side, size) = match resize.to {
            ResizeTo::ShortSide(side) => (Some(side), None),
            ResizeTo::Size(size) => (None, Some(size)),
        };
        ResizeFields { short_side, size, interpolation: resize.interpolation }
    }
}

/// The filter of a resize. All but `nearest` antialias when they shrink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The pixel under the centre.
    Nearest,
    /// A triangle over 2 pixels.
    #[default]
    Bilinear,
    /// Keys' cubic over 4 pixels, a = -0.5.
    Bicubic,
    /// A windowed sinc over 6 pixels.
    Lanczos,
}

/// A height and a width. In YAML one number for a square, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SizeFields", into = "SizeFields")]
pub struct Size {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
}

/// [`Size`] as YAML writes it.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number or [height, width]")]
enum SizeFields {
    /// A side.
    Square(#[schemars(range(min = 1, max = MAX_SIDE))] u32),
    /// A height and a width.
    HeightWidth(#[schemars(inner(range(min = 1, max = MAX_SIDE)))] [u32; 2]),
}

impl TryFrom<SizeFields> for Size {
    type Error = String;

    fn try_from(fields: SizeFields) -> Result<Size, String> {
        let [height, width] = match fields {
            SizeFields::Square(side) => [side, side],
            SizeFields::HeightWidth(sides) => sides,
        };
        Ok(Size { height: checked_side(height)?, width: checked_side(width)? })
    }
}

impl From<Size> for SizeFields {
    fn from(size: Size) -> SizeFields {
        if size.height == size.width {
            SizeFields::Square(size.height)
        } else {
            SizeFields::HeightWidth([size.height, size.width])
        }
    }
}

fn checked_side(side: u32) -> Result<u32, String> {
    if (1..=MAX_SIDE).contains(&side) {
        Ok(side)
    } else {
        Err(format!("expected a side from 1 to {MAX_SIDE}, found {side}"))
    }
}

/// Which channels a network reads, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
    /// Luma only (ITU-R 601, as Pillow's mode L).
    Gray,
}

impl Channels {
    /// How many they are.
    pub fn count(self) -> usize {
        match self {
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Gray => 1,
        }
    }
}

/// Which samples calibrate, search and certify. In YAML
/// `{calibrate: n, search: n, certify: n, seed: s}` or `{file: split.json}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SplitFields", into = "SplitFields")]
pub enum SplitSpec {
    /// By counts, after a seeded permutation.
    Counts(SplitCounts),
    /// By names or indices, listed in a JSON file under `calibration`, `validation` (or `search`)
    /// and, if wanted, `certify`. The path is relative to the job's file.
    File(PathBuf),
}

/// How many samples each part gets from the permutation. Calibrate takes the first, search
/// the next, certify those after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitCounts {
    /// Samples that the observers see.
    pub calibrate: usize,
    /// Samples that trials are measured on. Without a number: all that the others leave.
    pub search: Option<usize>,
    /// Samples that only the final certificate sees. 0 without a number.
    pub certify: usize,
    /// Seed of the permutation. 0 without a number.
    pub seed: u64,
}

/// [`SplitSpec`] as YAML writes it.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SplitFields {
    /// A JSON file that lists names or indices under `calibration`, `validation` (or `search`) and, if wanted, `certify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Samples that the observers see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    calibrate: Option<usize>,
    /// Samples that trials are measured on. Without a number: all that the others leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    search: Option<usize>,
    /// Samples that only the final certificate sees. 0 without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certify: Option<usize>,
    /// Seed of the permutation. 0 without a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

impl TryFrom<SplitFields> for SplitSpec {
    type Error = String;

    fn try_from(fields: SplitFields) -> Result<SplitSpec, String> {
        let counts =
            fields.calibrate.is_some() || fields.search.is_some() || fields.certify.is_some() || fields.seed.is_some();
        match (fields.file, counts) {
            (Some(file), false) => Ok(SplitSpec::File(file)),
            (Some(_), true) => {
                Err("expected either file, or calibrate, search, certify and seed, found both".to_owned())
            }
            (None, _) => {
                let at_least_one = |name: &str, count: usize| match count {
                    0 => Err(format!("expected {name} of at least 1, found 0")),
                    count => Ok(count),
                };
                let Some(calibrate) = fields.calibrate else {
                    return Err("expected calibrate (a count) or file".to_owned());
                };
                Ok(SplitSpec::Counts(SplitCounts {
                    calibrate: at_least_one("calibrate", calibrate)?,
                    search: fields.search.map(|n| at_least_one("search", n)).transpose()?,
                    certify: fields.certify.unwrap_or(0),
                    seed: fields.seed.unwrap_or(0),
                }))
            }
        }
    }
}

impl From<SplitSpec> for SplitFields {
    fn from(split: SplitSpec) -> SplitFields {
        match split {
            SplitSpec::File(file) => SplitFields { file: Some(file), ..SplitFields::default() },
            SplitSpec::Counts(counts) => SplitFields {
                file: None,
                calibrate: Some(counts.calibrate),
                search: counts.search,
                certify: Some(counts.certify),
                seed: Some(counts.seed),
            },
        }
    }
}

#[cfg(test)]
mod tests;
