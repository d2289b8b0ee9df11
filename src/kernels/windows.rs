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

/// Output pixels whose windows see the picture through the same taps: a rectangle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub runs: Vec<Run>,
    /// Taps that see padding and are left out.
    pub outside: Vec<usize>,
    rows: usize,
    columns: usize,
    first: Pixel,
    /// From one pixel to the next of its row, and from the last of a row to the first of the next, in elements of input
    /// and output.
    next: [(isize, isize); 2],
}

/// Goes through the pixels of a class, row by row.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    class: &'a Class,
    pixel: Pixel,
    /// Pixels to the end of the row.
    left: usize,
}

impl Class {
    /// Number of pixels.
    pub(super) fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Elements of the input from one window to the next.
    pub(super) fn pitch(&self) -> usize {
        self.next[0].0.unsigned_abs()
    }

    pub(super) fn walk(&self) -> Walk<'_> {
        Walk { class: self, pixel: self.first, left: self.columns }
    }

    /// Where the first and the last window begin in the input.
    pub(super) fn ends(&self) -> [isize; 2] {
        let (within, across) = (self.next[0].0, self.next[1].0);
        let row = (self.columns as isize - 1) * within;
        [self.first.input, self.first.input + row + (self.rows as isize - 1) * (row + across)]
    }
}

impl Walk<'_> {
    /// The pixel that is next; behind the last one it makes no sense.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Pixel {
        let pixel = self.pixel;
        self.left -= 1;
        let at_end = self.left == 0;
        let (input, output) = self.class.next[usize::from(at_end)];
        if at_end {
            self.left = self.class.columns;
        }
        self.pixel = Pixel { input: pixel.input + input, output: pixel.output.wrapping_add_signed(output) };
        pixel
    }
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
    positions: Range<usize>,
}

/// Positions along one axis by the taps that are inside `0..size`.
fn spans(geometry: &Geometry, axis: usize, positions: Range<usize>, size: usize, pad: usize) -> Vec<Span> {
    let window = geometry.window;
    let (stride, dilation, all) = (window.stride[axis], window.dilation[axis], window.kernel[axis]);
    let inside =
        |position: usize, tap: usize| (position * stride + tap * dilation).checked_sub(pad).is_some_and(|at| at < size);
    // Positions that see all taps are most of them, and need no look at each.
    let beyond = (size + pad).checked_sub(dilation * (all - 1) + 1).map_or(0, |last| last / stride + 1);
    let mut spans: Vec<Span> = Vec::new();
    let mut position = positions.start;
    while position < positions.end {
        let start = (0..all).find(|&tap| inside(position, tap)).unwrap_or(all);
        let end = (start..all).find(|&tap| !inside(position, tap)).unwrap_or(all);
        let next = if (start, end) == (0, all) { beyond.clamp(position + 1, positions.end) } else { position + 1 };
        match spans.last_mut().filter(|span| span.taps == (start..end)) {
            Some(span) => span.positions.end = next,
            None => spans.push(Span { taps: start..end, positions: position..next }),
        }
        position = next;
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
            let (mut own_runs, mut outside) = (Vec::new(), Vec::new());
            for tap in 0..geometry.taps() {
                let (y, x) = (tap / window.kernel[1], tap % window.kernel[1]);
                if !vertical.taps.contains(&y) || !horizontal.taps.contains(&x) {
                    outside.push(tap);
                    continue;
                }
                let at = (y * window.dilation[0]) as isize * row + (x * window.dilation[1] * channels) as isize;
                if !joined {
                    own_runs.push(Run { at, product: tap * products, products });
                } else if x == horizontal.taps.start {
                    let whole = horizontal.taps.len() == window.kernel[1];
                    let own = if whole { products } else { horizontal.taps.len() * tap_products };
                    own_runs.push(Run { at, product: y * products + x * tap_products, products: own });
                }
            }
            let (y, x) = (vertical.positions.start, horizontal.positions.start);
            let input = area.first_input
                + ((y * window.stride[0]) as isize - pad[0]) * row
                + ((x * window.stride[1]) as isize - pad[1]) * channels as isize;
            let output = ((y - area.rows.start) * area.width + x) * geometry.out_channels;
            let within = ((window.stride[1] * channels) as isize, geometry.out_channels as isize);
            let across = (window.stride[0] as isize * row, (area.width * geometry.out_channels) as isize);
            let (rows, columns) = (vertical.positions.len(), horizontal.positions.len());
            let back = columns as isize - 1;
            classes.push(Class {
                runs: own_runs,
                outside,
                // A column is a row too.
                rows: if columns == 1 { 1 } else { rows },
                columns: if columns == 1 { rows } else { columns },
                first: Pixel { input, output: area.first_output + output },
                next: match columns {
                    1 => [across, across],
                    _ => [within, (across.0 - back * within.0, across.1 - back * within.1)],
                },
            });
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

    fn pixels(class: &Class) -> Vec<Pixel> {
        let mut walk = class.walk();
        let pixels: Vec<Pixel> = (0..class.len()).map(|_| walk.next()).collect();
        let [first, last] = class.ends();
        assert_eq!((pixels[0].input, pixels[pixels.len() - 1].input), (first, last));
        pixels
    }

    #[test]
    fn windows_at_the_border_leave_taps_out() {
        let window = Window { kernel: [3, 3], stride: [1, 1], dilation: [1, 1], pads: [1; 4] };
        let geometry = Geometry { in_channels: 4, out_channels: 2, groups: 1, window };
        let classes = classes(&geometry, &area([1, 1]), 4);
        assert_eq!(classes.iter().map(Class::len).collect::<Vec<_>>(), [1; 9]);
        // The top left corner: two taps of the second and of the third row.
        assert_eq!(classes[0].outside, [0, 1, 2, 3, 6]);
        assert_eq!(pixels(&classes[0]), [Pixel { input: 100 - 12 - 4, output: 0 }]);
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
        assert_eq!(pixels(&classes[0]), [Pixel { input: 9, output: 8 }, Pixel { input: 18, output: 10 }]);
    }

    #[test]
    fn pixels_are_walked_row_by_row() {
        let window = Window { kernel: [1, 1], stride: [2, 1], dilation: [1, 1], pads: [0; 4] };
        let geometry = Geometry { in_channels: 5, out_channels: 3, groups: 1, window };
        let area = Area { rows: 1..3, width: 2, input: [5, 2], pads: [0, 0], first_input: 0, first_output: 0 };
        let pixel = |input, output| Pixel { input, output };
        assert_eq!(pixels(&classes(&geometry, &area, 1)[0]), [pixel(20, 0), pixel(25, 3), pixel(40, 6), pixel(45, 9)]);
    }
}
