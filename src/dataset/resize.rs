//! Resizing as Pillow's `Image.resize` does it, bit for bit.
//!
//! Training pipelines resize with Pillow, so a picture resized otherwise is not the picture the
//! network was trained on. Pillow stretches the filter over the source when it shrinks
//! (antialiasing), goes over the rows first and the columns second, and rounds to u8 in between
//! with 22-bit fixed-point weights. fast_image_resize goes over the columns first with 16-bit
//! weights: on photographs one value in six differs by one from Pillow's. A picture is resized
//! once and then kept, so exactness costs little.

use super::picture::Picture;
use super::spec::Interpolation;

/// Fractional bits of a weight: 32 bits, less 8 for the pixel, less 2 for sums that overshoot.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// The picture at `height` x `width`. A side that keeps its length is not filtered.
pub(super) fn resize(picture: Picture, height: usize, width: usize, interpolation: Interpolation) -> Picture {
    if (picture.height, picture.width) == (height, width) {
        return picture;
    }
    let (filter, support): (fn(f64) -> f64, f64) = match interpolation {
        Interpolation::Nearest => return nearest(&picture, height, width),
        Interpolation::Bilinear => (triangle, 1.0),
        Interpolation::Bicubic => (cubic, 2.0),
        Interpolation::Lanczos => (lanczos3, 3.0),
    };
    let mut picture = picture;
    if picture.width != width {
        picture = resize_rows(&picture, &windows(picture.width, width, filter, support));
    }
    if picture.height != height {
        picture = resize_columns(&picture, &windows(picture.height, height, filter, support));
    }
    picture
}

/// The source pixels that make one output pixel.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// One window for each output position along one side.
fn windows(from: usize, to: usize, filter: fn(f64) -> f64, support: f64) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = support * stretch;
    let inverse = 1.0 / stretch;
    let window = |position: usize| {
        let center = (position as f64 + 0.5) * scale;
        // The casts truncate toward zero as C's do; a negative start becomes 0.
        let start = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weights: Vec<f64> = (start..end).map(|x| filter((x as f64 - center + 0.5) * inverse)).collect();
        // Added one by one, in Pillow's order.
        let sum = weights.iter().fold(0.0, |sum, w| sum + w);
        let weights = weights.iter().map(|&w| to_fixed(if sum == 0.0 { w } else { w / sum })).collect();
        Window { start, weights }
    };
    (0..to).map(window).collect()
}

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    let half = if weight < 0.0 { -0.5 } else { 0.5 };
    (half + weight * f64::from(1 << WEIGHT_BITS)) as i32
}

fn resize_rows(picture: &Picture, windows: &[Window]) -> Picture {
    let channels = picture.channels;
    let mut pixels = Vec::with_capacity(picture.height * windows.len() * channels);
    for row in picture.pixels.chunks_exact(picture.width * channels) {
        for window in windows {
            for channel in 0..channels {
                let mut sum = 1i32 << (WEIGHT_BITS - 1);
                let source = row[window.start * channels + channel..].iter();
                for (&pixel, &weight) in source.step_by(channels).zip(&window.weights) {
                    sum = sum.wrapping_add(i32::from(pixel).wrapping_mul(weight));
                }
                pixels.push(to_pixel(sum));
            }
        }
    }
    Picture { pixels, width: windows.len(), ..*picture }
}

fn resize_columns(picture: &Picture, windows: &[Window]) -> Picture {
    let stride = picture.width * picture.channels;
    let mut pixels = Vec::with_capacity(windows.len() * stride);
    let mut sums = vec![0i32; stride];
    for window in windows {
        sums.fill(1 << (WEIGHT_BITS - 1));
        let rows = picture.pixels[window.start * stride..].chunks_exact(stride);
        for (row, &weight) in rows.zip(&window.weights) {
            for (sum, &pixel) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(i32::from(pixel).wrapping_mul(weight));
            }
        }
        pixels.extend(sums.iter().map(|&sum| to_pixel(sum)));
    }
    Picture { pixels, height: windows.len(), ..*picture }
}

fn to_pixel(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

fn nearest(picture: &Picture, height: usize, width: usize) -> Picture {
    let rows = nearest_positions(picture.height, height);
    let columns = nearest_positions(picture.width, width);
    let channels = picture.channels;
    let mut pixels = Vec::with_capacity(height * width * channels);
    for y in rows {
        let row = &picture.pixels[y * picture.width * channels..];
        for &x in &columns {
            pixels.extend_from_slice(&row[x * channels..][..channels]);
        }
    }
    Picture { pixels, height, width, channels }
}

/// The source position under the centre of each output position. Pillow adds the step up, and so
/// does this: multiplying instead would round differently at some positions.
fn nearest_positions(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let mut at = step * 0.5;
    (0..to)
        .map(|_| {
            let position = (at as usize).min(from - 1);
            at += step;
            position
        })
        .collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos3(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    //! Expected values are Pillow's (13.0.0), by this script:
    //!
    //! ```python
    //! import hashlib, numpy as np
    //! from PIL import Image
    //! def source(h, w):
    //!     y, x, c = np.mgrid[:h, :w, :3]
    //!     return Image.fromarray(((37 * x + 59 * y + 83 * c + 7 * x * y) % 256).astype(np.uint8))
    //! def resized(h, w, to_h, to_w, name):
    //!     return np.asarray(source(h, w).resize((to_w, to_h), getattr(Image, name)))
    //! for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
    //!     print(name, resized(5, 7, 3, 4, name).ravel().tolist())
    //! for h, w, to_h, to_w in ((200, 301, 256, 385), (333, 250, 111, 97), (64, 64, 64, 31), (31, 47, 90, 47)):
    //!     for name in ("NEAREST", "BILINEAR", "BICUBIC", "LANCZOS"):
    //!         pixels = resized(h, w, to_h, to_w, name).tobytes()
    //!         print(h, w, to_h, to_w, name, hashlib.sha256(pixels).hexdigest()[:16])
    //! ```

    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::Interpolation::{Bicubic, Bilinear, Lanczos, Nearest};
    use super::*;

    fn source(height: usize, width: usize) -> Picture {
        let mut pixels = Vec::new();
        for y in 0..height {
            for x in 0..width {
                pixels.extend((0..3).map(|c| ((37 * x + 59 * y + 83 * c + 7 * x * y) % 256) as u8));
            }
        }
        Picture { pixels, height, width, channels: 3 }
    }

    #[test]
    fn small_pictures_equal_pillows() {
        let expected: [(Interpolation, [u8; 36]); 4] = [
            (
                Nearest,
                [
                    0, 83, 166, 74, 157, 240, 148, 231, 58, 222, 49, 132, 118, 201, 28, 220, 47, 130, 66, 149, 232,
                    168, 251, 78, 236, 63, 146, 110, 193, 20, 240, 67, 150, 114, 197, 24,
                ],
            ),
            (
                Bilinear,
                [
                    46, 129, 160, 109, 161, 124, 160, 126, 92, 140, 78, 155, 142, 164, 85, 139, 120, 118, 107, 133,
                    143, 114, 170, 115, 168, 70, 146, 106, 126, 102, 169, 113, 108, 98, 127, 128,
                ],
            ),
            (
                Bicubic,
                [
                    37, 132, 165, 112, 166, 119, 164, 124, 88, 139, 75, 160, 149, 171, 75, 141, 116, 119, 102, 130,
                    147, 113, 177, 115, 174, 65, 152, 99, 128, 99, 174, 112, 104, 95, 127, 129,
                ],
            ),
            (
                Lanczos,
                [
                    31, 137, 169, 116, 170, 113, 166, 115, 89, 137, 79, 163, 157, 174, 70, 144, 116, 119, 97, 126, 147,
                    111, 179, 118, 176, 62, 157, 91, 129, 101, 178, 114, 98, 99, 125, 130,
                ],
            ),
        ];
        for (interpolation, pixels) in expected {
            assert_eq!(resize(source(5, 7), 3, 4, interpolation).pixels, pixels, "{interpolation:?}");
        }
    }

    #[test]
    fn larger_pictures_equal_pillows() {
        let expected = [
            ((200, 301), (256, 385), Nearest, "ce19091b4c3e141a"),
            ((200, 301), (256, 385), Bilinear, "00d884ffd34d5ad4"),
            ((200, 301), (256, 385), Bicubic, "bf638da6577697e3"),
            ((200, 301), (256, 385), Lanczos, "da15d9612701709f"),
            ((333, 250), (111, 97), Nearest, "ff437f4ec25e6fb4"),
            ((333, 250), (111, 97), Bilinear, "698bb6944389699e"),
            ((333, 250), (111, 97), Bicubic, "86fe8b6a1ec080ac"),
            ((333, 250), (111, 97), Lanczos, "1eddeedabbe07a77"),
            ((64, 64), (64, 31), Nearest, "8de45746f322be15"),
            ((64, 64), (64, 31), Bilinear, "dfc4d0c0cc2490a6"),
            ((64, 64), (64, 31), Bicubic, "d817a0bad024fd68"),
            ((64, 64), (64, 31), Lanczos, "c3f01baaf4963cf3"),
            ((31, 47), (90, 47), Nearest, "fca14f47fa83c169"),
            ((31, 47), (90, 47), Bilinear, "cd98f7779cd7cdbc"),
            ((31, 47), (90, 47), Bicubic, "43b100843780045b"),
            ((31, 47), (90, 47), Lanczos, "ccf1c51ad6edf48e"),
        ];
        for ((height, width), (to_height, to_width), interpolation, hash) in expected {
            let resized = resize(source(height, width), to_height, to_width, interpolation);
            let found: String =
                Sha256::digest(&resized.pixels).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, hash, "{height}x{width} to {to_height}x{to_width}, {interpolation:?}");
        }
    }

    proptest! {
        #[test]
        fn any_size_becomes_any_size(
            (height, width, to_height, to_width) in (1usize..40, 1usize..40, 1usize..40, 1usize..40),
            interpolation in prop::sample::select(vec![Nearest, Bilinear, Bicubic, Lanczos]),
        ) {
            let gray = Picture { pixels: vec![77; height * width], height, width, channels: 1 };
            let resized = resize(gray, to_height, to_width, interpolation);
            // A flat picture stays flat: the weights of every window sum to one.
            prop_assert_eq!(resized.pixels, vec![77; to_height * to_width]);
        }
    }
}
