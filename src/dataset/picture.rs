//! A decoded picture and its channels.

use std::fmt::Display;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::error::DatasetError;
use super::spec::{Channels, Orientation};

/// Most bytes a decoder may take for one picture.
const MAX_DECODED_BYTES: u64 = 512 << 20;

/// u8 pixels in rows, channels last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picture {
    pub(super) pixels: Vec<u8>,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
}

/// A JPEG, PNG, WebP or BMP picture, told by its bytes; `place` is for messages. Colour gives 3 channels and gray 1, as
/// Pillow's `convert` to RGB or L would: alpha is dropped, not blended; CMYK and YCCK, which Photoshop stores inverted,
/// become RGB as Pillow makes it, without a profile. An upright picture is turned as its EXIF orientation says, as
/// `ImageOps.exif_transpose` does. PNG, BMP and WebP give Pillow's pixels; JPEG leaves decoders some freedom. In a
/// thousand photographs one value in a hundred differed from libjpeg's, the most by 3. Colours that change sharply from
/// pixel to pixel differ more where chroma is stored at half the size, for it is interpolated otherwise.
pub(super) fn decode(bytes: &[u8], place: &dyn Display, orientation: Orientation) -> Result<Picture, DatasetError> {
    let failed = |source| DatasetError::Decode { sample: place.to_string(), source };
    let unfit = |problem: String| DatasetError::Picture { sample: place.to_string(), problem };
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| failed(e.into()))?;
    if reader.format() == Some(ImageFormat::Jpeg) && !jpeg_is_whole(bytes) {
        return Err(unfit("expected an end marker, the jpeg is cut short".to_owned()));
    }
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    limits.reserve(decoder.total_bytes()).map_err(failed)?;
    decoder.set_limits(limits).map_err(failed)?;
    let turn = match orientation {
        Orientation::Upright => decoder.orientation().map_err(failed)?,
        Orientation::Stored => image::metadata::Orientation::NoTransforms,
    };
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(failed)?;
    decoded.apply_orientation(turn);
    let (height, width) = (decoded.height() as usize, decoded.width() as usize);
    let (pixels, channels) = match decoded {
        DynamicImage::ImageLuma8(gray) => (gray.into_raw(), 1),
        DynamicImage::ImageLumaA8(gray) => (gray.into_raw().chunks_exact(2).map(|pixel| pixel[0]).collect(), 1),
        DynamicImage::ImageRgb8(colour) => (colour.into_raw(), 3),
        DynamicImage::ImageRgba8(colour) => {
            (colour.into_raw().chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(), 3)
        }
        other => return Err(unfit(format!("expected 8 bits a channel, found {:?}", other.color()))),
    };
    if pixels.is_empty() {
        return Err(unfit("expected pixels, found none".to_owned()));
    }
    Ok(Picture { pixels, height, width, channels })
}

/// The decoder fills what is missing of a cut JPEG with gray and says nothing. A whole one has an
/// end marker after its last scan starts. (Thumbnails in the header have both markers too.)
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    let last = |marker: [u8; 2]| bytes.windows(2).rposition(|pair| pair == marker);
    last([0xff, 0xd9]) > last([0xff, 0xda])
}

/// The channels asked for, in their order. Arrays of 3 channels are taken as red, green, blue.
pub(super) fn convert(picture: Picture, channels: Channels) -> Result<Picture, String> {
    let mut picture = picture;
    match (picture.channels, channels) {
        (1, Channels::Gray) | (3, Channels::Rgb) => {}
        (1, Channels::Rgb | Channels::Bgr) => {
            picture.pixels = picture.pixels.iter().flat_map(|&luma| [luma; 3]).collect();
        }
        (3, Channels::Bgr) => {
            picture.pixels.chunks_exact_mut(3).for_each(|pixel| pixel.swap(0, 2));
        }
        (3, Channels::Gray) => {
            picture.pixels = picture.pixels.chunks_exact(3).map(luma).collect();
        }
        (found, _) => {
            let problem = format!("expected 1 or 3 channels to make {channels:?} of, found {found}");
            return Err(problem);
        }
    }
    picture.channels = channels.count();
    Ok(picture)
}

/// Pillow's fixed-point ITU-R 601.
fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|channel| u32::from(pixel[channel]));
    ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16) as u8
}
