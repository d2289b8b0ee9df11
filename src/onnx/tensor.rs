//! Tensor messages to arrays. Dimensions are claims: they are held against the data before memory is taken.

use super::{
    array::{Array, Int, Known, count},
    error::TensorError,
    external::External,
    proto::{TensorProto, data_type},
};

/// Most elements of one constant, and of one value for one sample.
pub(super) const MAX_ELEMENTS: usize = 1 << 31;

/// Most dimensions; a classifier needs four. A limit keeps shapes from being the bulk of the memory.
pub(super) const MAX_RANK: usize = 8;

/// How the elements of one type are stored.
enum Format {
    Float,
    Half,
    Brain,
    Double,
    /// Bytes, and whether there is a sign.
    Int(usize, bool),
    Bool,
}

/// The elements of a tensor message: floats of any width as f32, integers and booleans as integers.
pub(super) fn known(tensor: &TensorProto, external: &mut External<'_>) -> Result<Known, TensorError> {
    let dims = dims(&tensor.dims)?;
    let expected = count(&dims).filter(|&n| n <= MAX_ELEMENTS).ok_or(TensorError::TooLarge)?;
    let format = Format::of(tensor.data_type)?;
    let width = format.width();
    let flat = if tensor.data_location == 1 {
        external.read(tensor, (expected * width) as u64, |bytes| format.decode(bytes))?
    } else if !tensor.raw_data.is_empty() {
        check("bytes", expected * width, tensor.raw_data.len())?;
        format.decode(&tensor.raw_data)
    } else {
        format.decode_fields(tensor, expected)?
    };
    flat.reshaped(dims).ok_or(TensorError::TooLarge)
}

/// Dimensions as sizes.
pub(super) fn dims(claimed: &[i64]) -> Result<Vec<usize>, TensorError> {
    if claimed.len() > MAX_RANK {
        return Err(TensorError::TooLarge);
    }
    claimed.iter().map(|&dim| usize::try_from(dim).map_err(|_| TensorError::NegativeDimension(dim))).collect()
}

impl Format {
    fn of(element_type: i32) -> Result<Format, TensorError> {
        Ok(match element_type {
            data_type::FLOAT => Format::Float,
            data_type::FLOAT16 => Format::Half,
            data_type::DOUBLE => Format::Double,
            data_type::BFLOAT16 => Format::Brain,
            data_type::UINT8 => Format::Int(1, false),
            data_type::INT8 => Format::Int(1, true),
            data_type::UINT16 => Format::Int(2, false),
            data_type::INT16 => Format::Int(2, true),
            data_type::UINT32 => Format::Int(4, false),
            data_type::INT32 => Format::Int(4, true),
            data_type::UINT64 => Format::Int(8, false),
            data_type::INT64 => Format::Int(8, true),
            data_type::BOOL => Format::Bool,
            other => return Err(TensorError::ElementType(other)),
        })
    }

    /// Bytes of one element in raw data.
    fn width(&self) -> usize {
        match self {
            Format::Bool => 1,
            Format::Half | Format::Brain => 2,
            Format::Float => 4,
            Format::Double => 8,
            Format::Int(width, _) => *width,
        }
    }

    /// From little-endian bytes, as many elements as there are whole ones.
    fn decode(&self, bytes: &[u8]) -> Known {
        match self {
            Format::Float => floats(each(bytes).map(f32::from_le_bytes)),
            Format::Half => floats(each(bytes).map(|b| half(u16::from_le_bytes(b)))),
            Format::Double => floats(each(bytes).map(|b| f64::from_le_bytes(b) as f32)),
            Format::Brain => floats(each(bytes).map(|b| brain(u16::from_le_bytes(b)))),
            Format::Int(1, false) => ints(bytes.iter().map(|&byte| i64::from(byte))),
            Format::Int(1, true) => ints(bytes.iter().map(|&byte| i64::from(byte as i8))),
            Format::Int(2, false) => ints(each(bytes).map(|b| i64::from(u16::from_le_bytes(b)))),
            Format::Int(2, true) => ints(each(bytes).map(|b| i64::from(i16::from_le_bytes(b)))),
            Format::Int(4, false) => ints(each(bytes).map(|b| i64::from(u32::from_le_bytes(b)))),
            Format::Int(4, true) => ints(each(bytes).map(|b| i64::from(i32::from_le_bytes(b)))),
            // Numbers of 2⁶³ and more saturate: no network has them.
            Format::Int(_, false) => {
                ints(each(bytes).map(|b| i64::try_from(u64::from_le_bytes(b)).unwrap_or(i64::MAX)))
            }
            Format::Int(_, true) => ints(each(bytes).map(i64::from_le_bytes)),
            Format::Bool => ints(bytes.iter().map(|&byte| i64::from(byte != 0))),
        }
    }

    /// From the field that this type is kept in when there are no raw bytes.
    fn decode_fields(&self, tensor: &TensorProto, expected: usize) -> Result<Known, TensorError> {
        let fits = |found| check("elements", expected, found);
        Ok(match self {
            Format::Float => {
                fits(tensor.float_data.len())?;
                floats(tensor.float_data.iter().copied())
            }
            Format::Half | Format::Brain => {
                fits(tensor.int32_data.len())?;
                let bits = |&word| u16::try_from(word).map_err(|_| TensorError::NotHalf(word));
                let bits: Vec<u16> = tensor.int32_data.iter().map(bits).collect::<Result<_, _>>()?;
                floats(bits.into_iter().map(if matches!(self, Format::Half) { half } else { brain }))
            }
            Format::Double => {
                fits(tensor.double_data.len())?;
                floats(tensor.double_data.iter().map(|&x| x as f32))
            }
            Format::Int(8, true) => {
                fits(tensor.int64_data.len())?;
                ints(tensor.int64_data.iter().copied())
            }
            Format::Int(4 | 8, false) => {
                fits(tensor.uint64_data.len())?;
                ints(tensor.uint64_data.iter().map(|&x| i64::try_from(x).unwrap_or(i64::MAX)))
            }
            Format::Int(..) => {
                fits(tensor.int32_data.len())?;
                ints(tensor.int32_data.iter().map(|&x| i64::from(x)))
            }
            Format::Bool => {
                fits(tensor.int32_data.len())?;
                ints(tensor.int32_data.iter().map(|&x| i64::from(x != 0)))
            }
        })
    }
}

fn check(unit: &'static str, expected: usize, found: usize) -> Result<(), TensorError> {
    let length = TensorError::Length { expected: expected as u64, found: found as u64, unit };
    if expected == found { Ok(()) } else { Err(length) }
}

fn each<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

/// One pass from the stored form into the shared array.
fn floats(elements: impl Iterator<Item = f32>) -> Known {
    let data: std::sync::Arc<[f32]> = elements.collect();
    Known::Floats(Array { dims: vec![data.len()], data })
}

fn ints(elements: impl Iterator<Item = i64>) -> Known {
    Known::Ints(Array::list(elements.map(Int::Fixed).collect()))
}

/// An IEEE 754 half-precision number; every one has an exact f32.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f32::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => fraction * f32::powi(2.0, -24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * f32::powi(2.0, exponent - 25),
    };
    sign * magnitude
}

/// A bfloat16 number: the upper half of an f32.
fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn read(tensor: TensorProto) -> Result<Known, String> {
        known(&tensor, &mut External::new(None, Sha256::new())).map_err(|error| error.to_string())
    }

    #[test]
    fn reads_every_type_from_bytes_and_from_fields() {
        let one = |data_type, raw_data: &[u8]| TensorProto {
            dims: vec![2],
            data_type,
            raw_data: raw_data.to_vec(),
            ..Default::default()
        };
        let wanted = Known::Floats(Array::list(vec![1.0, -2.5]));
        let le32: Vec<u8> = [1f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        let le64: Vec<u8> = [1f64, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(read(one(data_type::FLOAT, &le32)).as_ref(), Ok(&wanted));
        assert_eq!(read(one(data_type::DOUBLE, &le64)).as_ref(), Ok(&wanted));
        assert_eq!(read(one(data_type::FLOAT16, &[0, 0x3c, 0, 0xc1])).as_ref(), Ok(&wanted));
        let fields = TensorProto { dims: vec![2], int32_data: vec![0x3c00, 0xc100], ..Default::default() };
        assert_eq!(read(TensorProto { data_type: data_type::FLOAT16, ..fields.clone() }).as_ref(), Ok(&wanted));
        let ints = Known::Ints(Array::list(vec![Int::Fixed(0x3c00), Int::Fixed(0xc100)]));
        assert_eq!(read(TensorProto { data_type: data_type::INT32, ..fields.clone() }).as_ref(), Ok(&ints));
        assert_eq!(read(one(data_type::BFLOAT16, &[0x80, 0x3f, 0x20, 0xc0])).as_ref(), Ok(&wanted));
        let small = Known::Ints(Array::list(vec![Int::Fixed(-1), Int::Fixed(7)]));
        assert_eq!(read(one(data_type::INT8, &[255, 7])).as_ref(), Ok(&small));
        assert_eq!(read(one(data_type::INT16, &[255, 255, 7, 0])).as_ref(), Ok(&small));
        let large = Known::Ints(Array::list(vec![Int::Fixed(255), Int::Fixed(7)]));
        assert_eq!(read(one(data_type::UINT8, &[255, 7])).as_ref(), Ok(&large));
        assert_eq!(read(one(data_type::UINT32, &[255, 0, 0, 0, 7, 0, 0, 0])).as_ref(), Ok(&large));
        let unsigned = TensorProto {
            dims: vec![2],
            data_type: data_type::UINT64,
            uint64_data: vec![255, 7],
            ..Default::default()
        };
        assert_eq!(read(unsigned).as_ref(), Ok(&large));
        let truths = Known::Ints(Array::list(vec![Int::Fixed(1), Int::Fixed(0)]));
        assert_eq!(read(one(data_type::BOOL, &[3, 0])).as_ref(), Ok(&truths));
        let doubles = TensorProto {
            dims: vec![2],
            data_type: data_type::DOUBLE,
            double_data: vec![1.0, -2.5],
            ..Default::default()
        };
        assert_eq!(read(doubles).as_ref(), Ok(&wanted));
    }

    #[test]
    fn halves_are_exact() {
        assert_eq!(half(0x0001), 5.960_464_5e-8);
        assert_eq!(half(0x03ff), 6.097_555e-5);
        assert_eq!(half(0x7bff), 65504.0);
        assert_eq!(half(0x8000).to_bits(), (-0.0f32).to_bits());
        assert_eq!(half(0xfc00), f32::NEG_INFINITY);
        assert!(half(0x7e00).is_nan());
    }

    #[test]
    fn refuses_what_the_data_does_not_back() {
        let claim = |dims: &[i64], data_type| TensorProto {
            dims: dims.to_vec(),
            data_type,
            raw_data: vec![0; 8],
            ..Default::default()
        };
        let message = |dims, data_type| read(claim(dims, data_type)).unwrap_err();
        assert_eq!(message(&[3], data_type::FLOAT), "its dimensions need 12 bytes, its data has 8");
        assert_eq!(message(&[-1], data_type::FLOAT), "dimension -1 is negative");
        assert_eq!(message(&[1 << 20, 1 << 20], data_type::FLOAT), "its dimensions are too large");
        assert_eq!(message(&[i64::MAX, i64::MAX], data_type::FLOAT), "its dimensions are too large");
        assert_eq!(message(&[1 << 31], data_type::FLOAT), "its dimensions need 8589934592 bytes, its data has 8");
        assert_eq!(message(&[1; 9], data_type::FLOAT), "its dimensions are too large");
        assert_eq!(message(&[8], 8), "element type 8 is not supported");
        assert_eq!(message(&[0], data_type::FLOAT), "its dimensions need 0 bytes, its data has 8");
    }
}
