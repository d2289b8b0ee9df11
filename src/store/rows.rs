//! Between columns and domain types.

use serde::{Serialize, de::DeserializeOwned};

use super::StoreError;

/// A count for a column.
pub(super) fn int(what: &'static str, count: impl TryInto<i64>) -> Result<i64, StoreError> {
    let problem = || StoreError::Unrecordable { what, problem: "a number does not fit in 63 bits".to_owned() };
    count.try_into().map_err(|_| problem())
}

/// A column to a count.
pub(super) fn count<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::Corrupt { what, problem: format!("{value} is out of range") })
}

/// A ratio or score for a column. NaN would become NULL.
pub(super) fn number(what: &'static str, value: f64) -> Result<f64, StoreError> {
    match value.is_nan() {
        true => Err(StoreError::Unrecordable { what, problem: "not a number".to_owned() }),
        false => Ok(value),
    }
}

/// A list for a column.
pub(super) fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Unrecordable { what, problem: e.to_string() })
}

/// A column to a list.
pub(super) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|e| StoreError::Corrupt { what, problem: e.to_string() })
}

/// The name that serde writes for a unit variant.
pub(super) fn name_of<T: Serialize>(what: &'static str, value: T) -> Result<String, StoreError> {
    to_json(what, &value).map(|text| text.trim_matches('"').to_owned())
}

/// The unit variant of that name.
pub(super) fn by_name<T: DeserializeOwned>(what: &'static str, name: &str) -> Result<T, StoreError> {
    from_json(what, &format!("\"{name}\""))
}

/// Bits, the first in the least significant place of the first byte.
pub(super) fn pack(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|byte| byte.iter().enumerate().fold(0, |byte, (place, bit)| byte | u8::from(*bit) << place))
        .collect()
}

/// The first `len` bits; `None` when the bytes are not exactly as many as that takes.
pub(super) fn unpack(bytes: &[u8], len: usize) -> Option<Vec<bool>> {
    (bytes.len() == len.div_ceil(8)).then(|| (0..len).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
}

/// How many bits are set.
pub(super) fn ones(bytes: &[u8]) -> i64 {
    bytes.iter().map(|byte| i64::from(byte.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_packed_from_the_least() {
        let mut bits = vec![false; 9];
        bits[0] = true;
        bits[3] = true;
        bits[8] = true;
        assert_eq!(pack(&bits), [0b1001, 1]);
        assert_eq!(unpack(&[0b1001, 1], 9), Some(bits));
        assert_eq!(unpack(&[1], 9), None);
        assert_eq!(unpack(&[], 0), Some(vec![]));
    }
}
