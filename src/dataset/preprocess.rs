//! From decoded pixels to network input.

use sha2::{Digest, Sha256};

use super::error::DatasetError;
use super::picture::{Picture, convert};
use super::resize::resize;
use super::spec::{Channels, Interpolation, Orientation, Preprocess, ResizeTo, Size};

/// Most bytes a resized picture may take: a long, thin picture grows far beyond its short side.
const MAX_RESIZED_BYTES: u64 = 512 << 20;

/// Orientation, which the decoder sees to, then channels, resize and crop: u8 in, u8 out.
pub(super) struct Geometry {
    pub(super) orientation: Orientation,
    channels: Option<Channels>,
    resize: Option<(ResizeTo, Interpolation)>,
    crop: Option<Size>,
}

impl Geometry {
    pub(super) fn new(spec: &Preprocess) -> Geometry {
        Geometry {
            orientation: spec.orientation,
            channels: spec.channels,
            resize: spec.resize.map(|resize| (resize.to, resize.interpolation)),
            crop: spec.center_crop,
        }
    }

    /// Whether pictures of this many channels come out as they went in.
    pub(super) fn keeps(&self, channels: usize) -> bool {
        let same_channels = match self.channels {
            None => true,
            Some(Channels::Bgr) => false,
            Some(wanted) => wanted.count() == channels,
        };
        same_channels && self.resize.is_none() && self.crop.is_none()
    }

    /// Channels first, so that gray is made of the picture's own pixels.
    pub(super) fn apply(&self, picture: Picture) -> Result<Picture, String> {
        let mut picture = picture;
        if let Some(channels) = self.channels {
            picture = convert(picture, channels)?;
        }
        if let Some((to, interpolation)) = self.resize {
            let (height, width) = target(&picture, to)?;
            picture = resize(picture, height, width, interpolation)?;
        }
        match self.crop {
            Some(size) => center_crop(picture, size.height as usize, size.width as usize),
            None => Ok(picture),
        }
    }

    /// Everything that changes a pixel, in one fixed form. Channels left to the source are
    /// written as what the source has, for that is what they mean.
    pub(super) fn hash_into(&self, hasher: &mut Sha256, source_channels: usize) {
        let channels = match (self.channels, source_channels) {
            (Some(Channels::Gray), _) | (None, 1) => 1,
            (Some(Channels::Rgb), _) | (None, 3) => 2,
            (Some(Channels::Bgr), _) => 3,
            (None, _) => 0,
        };
        let (kind, height, width) = match self.resize {
            None => (0, 0, 0),
            Some((ResizeTo::ShortSide(side), _)) => (1, side, side),
            Some((ResizeTo::Size(size), _)) => (2, size.height, size.width),
        };
        let interpolation = match self.resize.map(|(_, interpolation)| interpolation) {
            None => 0,
            Some(Interpolation::Nearest) => 1,
            Some(Interpolation::Bilinear) => 2,
            Some(Interpolation::Bicubic) => 3,
            Some(Interpolation::Lanczos) => 4,
        };
        let orientation = match self.orientation {
            Orientation::Stored => 0,
            Orientation::Upright => 1,
        };
        let (crop_height, crop_width) = self.crop.map_or((0, 0), |size| (size.height, size.width));
        for number in [orientation, channels, kind, height, width, interpolation, crop_height, crop_width] {
            hasher.update(number.to_le_bytes());
        }
    }
}

/// Height and width after a resize.
fn target(picture: &Picture, to: ResizeTo) -> Result<(usize, usize), String> {
    let (height, width) = (picture.height, picture.width);
    let (to_height, to_width) = match to {
        ResizeTo::Size(size) => (size.height as usize, size.width as usize),
        ResizeTo::ShortSide(side) => {
            let side = side as usize;
            // As torchvision: a float quotient, truncated.
            let long = |long: usize, short: usize| (side as f64 * long as f64 / short as f64) as usize;
            if width <= height { (long(height, width), side) } else { (side, long(width, height)) }
        }
    };
    // Between the two passes a picture has the old height and the new width.
    let tallest = height.max(to_height) as u64;
    let bytes = tallest.saturating_mul(to_width as u64).saturating_mul(picture.channels as u64);
    if bytes > MAX_RESIZED_BYTES {
        return Err(format!(
            "resizing {height}x{width} to {to_height}x{to_width} takes {bytes} bytes, \
             expected at most {MAX_RESIZED_BYTES}"
        ));
    }
    Ok((to_height, to_width))
}

/// The centre. An odd margin leaves its larger half below and to the right.
fn center_crop(picture: Picture, height: usize, width: usize) -> Result<Picture, String> {
    if (picture.height, picture.width) == (height, width) {
        return Ok(picture);
    }
    if picture.height < height || picture.width < width {
        return Err(format!(
            "expected at least {height}x{width} pixels for center_crop, found {}x{}",
            picture.height, picture.width
        ));
    }
    let top = (picture.height - height) / 2;
    let left = (picture.width - width) / 2;
    let row = picture.width * picture.channels;
    let pixels = picture
        .pixels
        .chunks_exact(row)
        .skip(top)
        .take(height)
        .flat_map(|row| &row[left * picture.channels..(left + width) * picture.channels])
        .copied()
        .collect();
    Ok(Picture { pixels, height, width, channels: picture.channels })
}

/// `(pixel * scale - mean) / std` in f32. A pixel has 256 values, so all results are tabled.
pub(super) struct Normalizer {
    /// One table for each channel.
    tables: Vec<[f32; 256]>,
}

impl Normalizer {
    pub(super) fn new(spec: &Preprocess, channels: usize) -> Result<Normalizer, DatasetError> {
        let wrong = |key: &'static str, problem: String| Err(DatasetError::Key { key, problem });
        // Rounded to f32 before any arithmetic, as numpy.float32 does.
        let scale = spec.scale as f32;
        if !scale.is_finite() || scale == 0.0 {
            return wrong("preprocess.scale", format!("expected a finite number other than 0, found {}", spec.scale));
        }
        let for_channels = |key: &'static str, values: &[f64]| match values.len() {
            1 => Ok(vec![values[0] as f32; channels]),
            count if count == channels => Ok(values.iter().map(|&value| value as f32).collect()),
            count => {
                let wanted = if channels == 1 { "1 value".to_owned() } else { format!("1 or {channels} values") };
                let problem = format!("expected {wanted}, found {count}");
                Err(DatasetError::Key { key, problem })
            }
        };
        let means = for_channels("preprocess.mean", &spec.mean)?;
        let stds = for_channels("preprocess.std", &spec.std)?;
        if let Some(mean) = means.iter().find(|mean| !mean.is_finite()) {
            return wrong("preprocess.mean", format!("expected finite numbers, found {mean}"));
        }
        if let Some(std) = stds.iter().find(|std| !std.is_finite() || **std == 0.0) {
            let problem = format!("expected finite numbers other than 0, found {std}");
            return wrong("preprocess.std", problem);
        }
        let table = |(mean, std): (f32, f32)| std::array::from_fn(|pixel| (pixel as f32 * scale - mean) / std);
        let tables: Vec<[f32; 256]> = means.into_iter().zip(stds).map(table).collect();
        if tables.iter().flatten().any(|value| !value.is_finite()) {
            let problem = "scale, mean and std give values that are not finite".to_owned();
            return wrong("preprocess", problem);
        }
        Ok(Normalizer { tables })
    }

    pub(super) fn apply(&self, pixels: &[u8]) -> Vec<f32> {
        let channels = self.tables.len();
        let mut values = vec![0.0; pixels.len() / channels * channels];
        for (channel, table) in self.tables.iter().enumerate() {
            let values = values.iter_mut().skip(channel).step_by(channels);
            let pixels = pixels.iter().skip(channel).step_by(channels);
            values.zip(pixels).for_each(|(value, &p)| *value = table[usize::from(p)]);
        }
        values
    }

    /// The tables themselves: what scale, mean and std come to.
    pub(super) fn hash_into(&self, hasher: &mut Sha256) {
        for value in self.tables.iter().flatten() {
            hasher.update(value.to_bits().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
