//! Durations in a job: seconds, or a text such as `90s`, `10m`, `1h30m`.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

/// Longest duration: about ten years, in seconds.
const MAX_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

/// Units, largest first.
const UNITS: [(char, f64); 4] = [('d', 86_400.0), ('h', 3_600.0), ('m', 60.0), ('s', 1.0)];

const EXPECTED: &str = "expected seconds, or a duration such as `90s`, `10m` or `1h30m`";

/// Seconds of a text: numbers with the units d, h, m and s, each at most once and in this order.
pub(super) fn parse(text: &str) -> Result<f64, String> {
    let wrong = || format!("{EXPECTED}, found `{text}`");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut seconds = 0.0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let unit = tail.chars().next().ok_or_else(wrong)?;
        let (_, factor) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds += number * factor;
        rest = &tail[unit.len_utf8()..];
    }
    check(seconds)
}

fn check(seconds: f64) -> Result<f64, String> {
    match seconds > 0.0 && seconds <= MAX_SECONDS {
        true => Ok(seconds),
        false => Err(format!("expected a duration above 0 and of at most ten years, found {seconds} seconds")),
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected seconds, or a duration such as `90s`, `10m` or `1h30m`")]
pub(super) enum Written {
    /// Seconds.
    Seconds(#[schemars(extend("exclusiveMinimum" = 0))] f64),
    /// Numbers with the units d, h, m and s, each at most once and in this order, such as `1h30m`.
    Text(#[schemars(regex(pattern = r"^\s*([0-9.]+d)?([0-9.]+h)?([0-9.]+m)?([0-9.]+s)?\s*$"), length(min = 2))] String),
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let seconds = match Option::<Written>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Written::Seconds(seconds)) => check(seconds),
        Some(Written::Text(text)) => parse(&text),
    };
    seconds.map(Some).map_err(de::Error::custom)
}

/// As [`deserialize`], of a duration that must be there.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    deserialize(deserializer)?.ok_or_else(|| de::Error::custom(format!("{EXPECTED}, found nothing")))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_add_up() {
        for (text, seconds) in
            [("90s", 90.0), ("10m", 600.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1d2h", 93_600.0), ("0.5m", 30.0)]
        {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", " ", "10", "m", "10m5h", "1h1h", "10 m", "-5s", "1..2s", "5µ", "0s", "99999d", "infs"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
