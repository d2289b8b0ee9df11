//! The npy format of numpy: one array in a file, or in an entry of an archive.
//!
//! The header is read here. It is Python source, and a general parser of that follows whatever nesting and allocates
//! whatever length the file claims. The headers of the arrays wanted here have one flat form.

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::array::{Integers, PixelArray};
use super::error::{DatasetError, Fault};
use super::file;
use super::numbers::{InputArrays, NumberArray, Numbers};
use super::spec::{NpyFiles, NpyInputs};

/// Longest header that is read. numpy writes 128 bytes for arrays like these.
const MAX_HEADER_BYTES: u32 = 1 << 16;

/// An array as it is stored.
#[derive(Debug)]
pub(super) struct Npy {
    header: Header,
    bytes: Vec<u8>,
}

/// Pixels, which stay in their file, and labels; the paths are already resolved.
pub(super) fn read(files: &NpyFiles) -> Result<(PixelArray, Vec<u32>), DatasetError> {
    let (mut opened, length) = file::open(&files.images)?;
    let images = || -> Result<PixelArray, Fault> {
        let header = Header::read(&mut opened)?;
        header.check_pixels()?;
        let start = opened.stream_position()?;
        file::check_claim(&header.shape, 1, length.saturating_sub(start))?;
        PixelArray::in_file(opened, &files.images, start, &header.shape)
    };
    let images = images().map_err(|fault| fault.in_file(&files.images))?;
    Ok((images, read_labels(&files.labels)?))
}

/// What each input reads, which stays in its file, and labels; the paths are already resolved.
pub(super) fn read_inputs(files: &NpyInputs) -> Result<(InputArrays, Vec<u32>), DatasetError> {
    let input = |(name, path): (&String, &PathBuf)| {
        let (mut opened, length) = file::open(path)?;
        let array = || -> Result<NumberArray, Fault> {
            let header = Header::read(&mut opened)?;
            let numbers = header.numbers()?;
            let start = opened.stream_position()?;
            file::check_claim(&header.shape, header.item_bytes, length.saturating_sub(start))?;
            NumberArray::in_file(opened, path, start, numbers, &header.shape)
        };
        Ok((name.clone(), array().map_err(|fault| fault.in_file(path))?))
    };
    let inputs = files.inputs.iter().map(input).collect::<Result<_, DatasetError>>()?;
    Ok((inputs, read_labels(&files.labels)?))
}

fn read_labels(path: &Path) -> Result<Vec<u32>, DatasetError> {
    let (mut opened, length) = file::open(path)?;
    parse(&mut opened, length).and_then(|npy| labels(&npy)).map_err(|fault| fault.in_file(path))
}

/// An array of numbers, in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Dimensions.
    pub dims: Vec<usize>,
    /// Elements; their number is the product of `dims`.
    pub data: Vec<f32>,
}

/// Reads a `.npy` file of floats, integers or booleans; what f32 cannot hold exactly is rounded.
///
/// # Errors
/// A file that cannot be read, or is no such array.
pub fn read_numbers(path: &Path) -> Result<Array, DatasetError> {
    let (mut opened, length) = file::open(path)?;
    parse(&mut opened, length).and_then(|npy| numbers(&npy)).map_err(|fault| fault.in_file(path))
}

/// The array as numbers.
pub(super) fn numbers(npy: &Npy) -> Result<Array, Fault> {
    let numbers = npy.header.numbers()?;
    // Read from memory that is there: the dimensions fit.
    let dims = npy.header.shape.iter().map(|&dim| dim as usize).collect();
    Ok(Array { dims, data: numbers.values(&npy.bytes) })
}

/// What a `.npy` file of this dtype and shape starts with; the items follow in row-major order.
pub fn npy_header(descr: &str, dims: &[usize]) -> Vec<u8> {
    let shape: String = dims.iter().map(|dim| format!("{dim}, ")).collect();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Items start at a multiple of 64 bytes, after a line's end.
    let start = 10;
    let length = (start + text.len() + 1).next_multiple_of(64) - start;
    text += &" ".repeat(length - text.len() - 1);
    text.push('\n');
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], text.as_bytes()].concat()
}

/// `limit` is the most bytes that the reader can give.
pub(super) fn parse(reader: &mut impl Read, limit: u64) -> Result<Npy, Fault> {
    let header = Header::read(reader)?;
    let bytes = file::read_array(reader, &header.shape, header.item_bytes, limit)?;
    Ok(Npy { header, bytes })
}

/// The array as pixels.
pub(super) fn pixels(npy: Npy) -> Result<PixelArray, Fault> {
    npy.header.check_pixels()?;
    PixelArray::new(npy.bytes, &npy.header.shape)
}

/// The array as labels.
pub(super) fn labels(npy: &Npy) -> Result<Vec<u32>, Fault> {
    let header = &npy.header;
    if !matches!(header.shape.as_slice(), [_] | [_, 1]) {
        let problem = format!("expected [N] or [N, 1], found {:?}", header.shape);
        return Err(Fault::new("shape", problem));
    }
    if !matches!((header.kind, header.item_bytes), ('i' | 'u', 1 | 2 | 4 | 8)) {
        let problem = format!("expected an integer dtype, found {}", header.descr);
        return Err(Fault::new("dtype", problem));
    }
    let integers =
        Integers { item_bytes: header.item_bytes as usize, signed: header.kind == 'i', big_endian: header.big_endian };
    integers.labels(&npy.bytes)
}

/// What an npy header says.
#[derive(Debug, PartialEq)]
struct Header {
    /// The dtype as written, for messages.
    descr: String,
    kind: char,
    item_bytes: u64,
    big_endian: bool,
    fortran_order: bool,
    shape: Vec<u64>,
}

impl Header {
    /// How the items of an array of numbers are stored.
    fn numbers(&self) -> Result<Numbers, Fault> {
        if self.fortran_order && self.shape.len() > 1 {
            let problem = "expected C order, found Fortran order: save numpy.ascontiguousarray of it";
            return Err(Fault::new("order", problem));
        }
        let (big_endian, item_bytes) = (self.big_endian, self.item_bytes as usize);
        match (self.kind, item_bytes) {
            ('f', 4) => Ok(Numbers::Float32 { big_endian }),
            ('f', 8) => Ok(Numbers::Float64 { big_endian }),
            ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1) => {
                Ok(Numbers::Integers(Integers { item_bytes, signed: self.kind == 'i', big_endian }))
            }
            _ => {
                let problem = format!("expected float32, float64, an integer or bool, found {}", self.descr);
                Err(Fault::new("dtype", problem))
            }
        }
    }

    fn check_pixels(&self) -> Result<(), Fault> {
        if (self.kind, self.item_bytes) != ('u', 1) {
            let problem = format!("expected dtype uint8 (|u1), found {}", self.descr);
            return Err(Fault::new("dtype", problem));
        }
        if self.fortran_order {
            let problem = "expected C order, found Fortran order: save numpy.ascontiguousarray of it";
            return Err(Fault::new("order", problem));
        }
        Ok(())
    }

    fn read(reader: &mut impl Read) -> Result<Header, Fault> {
        let ends = || Fault::new("header", "expected an npy header, the data ends");
        let mut bytes = |count: u32| -> Result<Vec<u8>, Fault> {
            let mut read = Vec::new();
            reader.by_ref().take(u64::from(count)).read_to_end(&mut read)?;
            if read.len() == count as usize { Ok(read) } else { Err(ends()) }
        };
        let start = bytes(8)?;
        if !start.starts_with(b"\x93NUMPY") {
            return Err(Fault::new("header", "expected the npy magic (147, NUMPY)"));
        }
        let length = match start[6] {
            1 => bytes(2)?,
            2 | 3 => bytes(4)?,
            version => {
                let problem = format!("expected npy version 1, 2 or 3, found {version}");
                return Err(Fault::new("header", problem));
            }
        };
        let length = length.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte));
        if length > MAX_HEADER_BYTES {
            let problem = format!("expected at most {MAX_HEADER_BYTES} bytes, found {length}");
            return Err(Fault::new("header", problem));
        }
        let text = bytes(length)?;
        let text = String::from_utf8_lossy(&text);
        Header::parse(&text).ok_or_else(|| {
            let start: String = text.trim().chars().take(80).collect();
            let problem = format!(
                "expected {{'descr': a plain dtype, 'fortran_order': a bool, 'shape': a tuple}}, \
                 found {start:?}"
            );
            Fault::new("header", problem)
        })
    }

    fn parse(text: &str) -> Option<Header> {
        let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest)?;
            let after = after.trim_start().strip_prefix(':')?.trim_start();
            let after = match key {
                "descr" => {
                    let (value, after) = quoted(after)?;
                    descr = Some(value);
                    after
                }
                "fortran_order" => {
                    let (value, after) = boolean(after)?;
                    fortran_order = Some(value);
                    after
                }
                "shape" => {
                    let (value, after) = tuple(after)?;
                    shape = Some(value);
                    after
                }
                _ => return None,
            };
            rest = match after.trim_start() {
                "" => "",
                after => after.strip_prefix(',')?.trim_start(),
            };
        }
        let descr = descr?;
        let mut chars = descr.chars();
        let big_endian = match chars.next()? {
            '<' | '|' => false,
            '>' => true,
            _ => return None,
        };
        let kind = chars.next()?;
        Some(Header {
            descr: descr.to_owned(),
            kind,
            item_bytes: digits(chars.as_str())?,
            big_endian,
            fortran_order: fortran_order?,
            shape: shape?,
        })
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn boolean(text: &str) -> Option<(bool, &str)> {
    let value = |word, value| text.strip_prefix(word).map(|after| (value, after));
    value("True", true).or_else(|| value("False", false))
}

fn tuple(text: &str) -> Option<(Vec<u64>, &str)> {
    let (inside, after) = text.strip_prefix('(')?.split_once(')')?;
    let inside = inside.trim();
    let inside = inside.strip_suffix(',').unwrap_or(inside);
    if inside.is_empty() {
        return Some((Vec::new(), after));
    }
    let dims = inside.split(',').map(|dim| digits(dim.trim())).collect::<Option<_>>()?;
    Some((dims, after))
}

/// Digits only: `str::parse` would also take a sign.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
