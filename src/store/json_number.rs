//! Numbers in JSON, which has no infinity: there they are the texts `inf` and `-inf`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use utoipa::ToSchema;

/// A number, or the text `inf` or `-inf`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum JsonNumber {
    /// A finite number.
    Finite(f64),
    /// `inf` or `-inf`.
    Infinite(String),
}

/// Writes a number.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    JsonNumber::from(*value).serialize(serializer)
}

/// Reads a number.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    JsonNumber::deserialize(deserializer)?.value().ok_or_else(|| D::Error::custom("expected a number, inf or -inf"))
}

impl From<f64> for JsonNumber {
    fn from(value: f64) -> JsonNumber {
        if value.is_finite() { JsonNumber::Finite(value) } else { JsonNumber::Infinite(value.to_string()) }
    }
}

impl JsonNumber {
    /// As a number; `None` for another text.
    pub fn value(&self) -> Option<f64> {
        match self {
            JsonNumber::Finite(value) => Some(*value),
            JsonNumber::Infinite(text) => text.parse().ok(),
        }
    }
}
