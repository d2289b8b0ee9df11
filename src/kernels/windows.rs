//! What the windows of a dense convolution see: output pixels by the taps that are inside the picture.

use std::ops::Range;

use super::packing::Geometry;

/// Adjacent elements under a window, and the weights that they are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first element, from the pixel's place on.
    pub at: isize,
    /// Products before it in the packed weights of a block, and of its own.
    pub product: usize,
    pub products: usize,
}

/// One output pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pixel {
    /// Where its window begins in the input; outside where that is padding.
    pub input: isize,
    /// Its first element in the output.
    pub output: usize,
}

/// Output pixels whose windows see the picture through the same taps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub runs: Vec<Run>,
    /// Taps that see padding and are left out.
    pub outside: Vec<usize>,
    pub pixels: Vec<Pixel>,
}

/// Where the pixels of a part are.
pub(super) struct Area {
    pub rows: Range<usize>,
    pub width: usize,
    /// Height and width of the input as tiles read it.
    pub input: [usize; 2],
    /// Padding above and left of it that is not there.
    pub pads: [usize; 2],
    /// Where its first element is in what tiles read; outside where that is but a part of it.
    pub first_input: isize,
    /// Where the first element of the first row is written.
    pub first_output: usize,
}

/// Output positions along an axis that see the same taps.
struct Span {
    taps: Range<usize>,
    positions: Vec<usize>,
}

/// Positions along one axis by the taps that are inside `0..size`.
fn spans(geometry: &Geometry, axis: usize, positions: Range<usize>, size: usize, pad: usize) -> Vec<Span> {
    let window = geometry.window;
    let inside = |position: usize, tap: usize| {
        (position * window.stride[axis] + tap * window.dilation[axis]).checked_sub(pad).is_some_and(|at| at < size)
    };
    let mut spans: Vec<Span> = Vec::new();
    for position in positions {
        let all = 0..window.kernel[axis];
        let start = all.clone().find(|&tap| inside(position, tap)).unwrap_or(all.end);
        let end = (start..all.end).find(|&tap| !inside(position, tap)).unwrap_or(all.end);
        match spans.iter_mut().find(|span| span.taps == (start..end)) {
            Some(span) => span.positions.push(position),
            None => spans.push(Span { taps: start..end, positions: vec![position] }),
        }
    }
    spans
}

/// The pixels of an area, each in one class. `step` is the number of elements of a product.
pub(super) fn classes(geometry: &Geometry, area: &Area, step: usize) -> Vec<Class> {
    let (window, channels) = (geometry.window, geometry.in_channels);
    let row = (area.input[1] * channels) as isize;
    let [runs, run] = geometry.runs();
    // Products of one run, and of one tap where runs are of several.
    let products = run.div_ceil(step);
    let joined = runs == window.kernel[0] && window.kernel[1] > 1;
    let tap_products = if joined { channels / step } else { products };
    let pad = area.pads.map(|pad| pad as isize);
    let horizontal = spans(geometry, 1, 0..area.width, area.input[1], area.pads[1]);
    let mut classes = Vec::new();
    for vertical in spans(geometry, 0, area.rows.clone(), area.input[0], area.pads[0]) {
        for horizontal in &horizontal {
            let mut class = Class { runs: Vec::new(), outside: Vec::new(), pixels: Vec::new() };
            for tap in 0..geometry.taps() {
                let (y, x) = (tap / window.kernel[1], tap % window.kernel[1]);
                if !vertical.taps.contains(&y) || !horizontal.taps.contains(&x) {
                    class.outside.push(tap);
                    continue;
                }
                let at = (y * window.dilation[0]) as isize * row + (x * window.dilation[1] * channels) as isize;
                if !joined {
                    class.runs.push(Run { at, product: tap * products, products });
                } else if x == horizontal.taps.start {
                    let whole = horizontal.taps.len() == window.kernel[1];
                    let own = if whole { products } else { horizontal.taps.len() * tap_products };
                    class.runs.push(Run { at, product: y * products + x * tap_products, products: own });
                }
            }
            for &y in &vertical.positions {
                let start = area.first_input + ((y * window.stride[0]) as isize - pad[0]) * row;
                let output = area.first_output + (y - area.rows.start) * area.width * geometry.out_channels;
                class.pixels.extend(horizontal.positions.iter().map(|&x| Pixel {
                    input: start + ((x * window.stride[1]) as isize - pad[1]) * channels as isize,
                    output: output + x * geometry.out_channels,
                }));
            }
            classes.push(class);
        }
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Window;

    fn area(pads: [usize; 2]) -> Area {
        Area { rows: 0..3, width: 3, input: [3, 3], pads, first_input: 100, first_output: 0 }
    }

    #[test]
    fn windows_at_the_border_leave_taps_out() {
        let window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads: [1; 4] };
        let geometry = Geometry { in_channels: 4, out_channels: 2, groups: 1, window };
        let classes = classes(&geometry, &area([1, 1]), 4);
        assert_eq!(classes.iter().map(|c| c.pixels.len()).collect::<Vec<_>>(), [1; 9]);
        // The top left corner: two taps of the second and of the third row.
        assert_eq!(classes[0].outside, [0, 1, 2, 3, 6]);
        assert_eq!(classes[0].pixels, [Pixel { input: 100 - 12 - 4, output: 0 }]);
        let runs = [Run { at: 16, product: 4, products: 2 }, Run { at: 28, product: 7, products: 2 }];
        assert_eq!(classes[0].runs, runs);
        // The middle sees everything.
        assert_eq!(classes[4].outside, [0usize; 0]);
        assert_eq!(classes[4].runs[2], Run { at: 24, product: 6, products: 3 });
    }

    #[test]
    fn without_padding_there_is_one_class() {
        let window = Window { kernel: [1, 2], stride: [1, 1], dilation: [1, 2], pads: [0; 4] };
        let geometry = Geometry { in_channels: 3, out_channels: 2, groups: 1, window };
        let area = Area { rows: 1..3, width: 1, input: [3, 3], pads: [0, 0], first_input: 0, first_output: 8 };
        let classes = classes(&geometry, &area, 4);
        assert_eq!(classes.len(), 1);
        assert_eq!(classes[0].runs, [Run { at: 0, product: 0, products: 1 }, Run { at: 6, product: 1, products: 1 }]);
        assert_eq!(classes[0].pixels, [Pixel { input: 9, output: 8 }, Pixel { input: 18, output: 10 }]);
    }
}
