//! Numbers with units, and tables of them.

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets};

use crate::{
    evaluate::{Metric, plain},
    quant::Repair,
};

/// A line below the headings and nothing else.
const UNDERLINED: TableStyle = presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─'));

/// What is shown where there is nothing.
pub(super) const NONE: &str = "-";

/// A table that fits the terminal. Columns whose heading starts with `>` are aligned to the right.
pub(super) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(UNDERLINED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headings.iter().map(|heading| heading.trim_start_matches('>')));
    table.add_rows(rows);
    for (index, heading) in headings.iter().enumerate() {
        if let Some(column) = table.column_mut(index).filter(|_| heading.starts_with('>')) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// A value or [`NONE`].
pub(super) fn or_none<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NONE.to_owned(), show)
}

/// A score: a share in percent, dB, or the number that a program prints.
pub(super) fn score(metric: Metric, value: f64) -> String {
    match metric {
        Metric::Sqnr => decibel(value),
        Metric::Score => plain(value),
        Metric::Top1 | Metric::Top5 | Metric::Agreement => format!("{:.2} %", value * 100.0),
    }
}

/// A drop of a score: in points, or in the unit of a number.
pub(super) fn drop(metric: Metric, drop: f64) -> String {
    if metric.counts() { points(drop) } else { plain(drop) }
}

/// A drop in points: hundredths of all samples.
pub(super) fn points(drop: f64) -> String {
    // A drop of -0 is no drop.
    format!("{:.2} pt", drop * 100.0 + 0.0)
}

/// A ratio in dB.
pub(super) fn decibel(value: f64) -> String {
    match value {
        f64::INFINITY => "∞ dB".to_owned(),
        value => format!("{value:.1} dB"),
    }
}

/// Nanoseconds in milliseconds.
pub(super) fn milliseconds(ns: f64) -> String {
    format!("{:.3} ms", ns / 1e6)
}

/// What a trial leaves in fp32, and how the rest is repaired.
pub(super) fn in_fp32(int8_groups: usize, fp32_groups: usize, repairs: &[Repair]) -> String {
    match int8_groups {
        0 => "all in fp32".to_owned(),
        _ => format!("{} in fp32{}", plural(fp32_groups, "group"), repaired(repairs)),
    }
}

/// Names of repairs, to be set behind other text.
pub(super) fn repaired(repairs: &[Repair]) -> String {
    let names: Vec<&str> = repairs.iter().map(|repair| repair.name()).collect();
    if names.is_empty() { String::new() } else { format!(", repaired by {}", names.join(" and ")) }
}

/// Bytes in the largest decimal unit that keeps the number above 1.
pub(super) fn bytes(count: u64) -> String {
    scaled(count, "B", ["kB", "MB", "GB"])
}

/// A count in thousands, millions or thousands of millions.
pub(super) fn count(count: u64) -> String {
    scaled(count, "", ["k", "M", "G"])
}

fn scaled(count: u64, one: &str, units: [&str; 3]) -> String {
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} {one}").trim_end().to_owned(),
        1_000..1_000_000 => format!("{:.1} {}", value / 1e3, units[0]),
        1_000_000..1_000_000_000 => format!("{:.1} {}", value / 1e6, units[1]),
        _ => format!("{:.1} {}", value / 1e9, units[2]),
    }
}

/// A number and what it counts: `1 job`, `2 jobs`.
pub(super) fn plural(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How long a search is likely to go on, to be set behind other text.
pub(super) fn left(seconds: u64) -> String {
    match seconds {
        0..120 => format!(", about {seconds} s left"),
        120..7200 => format!(", about {} min left", (seconds + 30) / 60),
        _ => format!(", about {} h left", (seconds + 1800) / 3600),
    }
}

/// A text without control characters, which would act on the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Milliseconds since 1970 as a date and time in UTC, to the second.
pub(super) fn time(ms: i64) -> String {
    let seconds = ms.div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to year, month and day (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms, civil_from_days).
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(score(Metric::Top1, 0.91625), "91.62 %");
        assert_eq!(score(Metric::Sqnr, f64::INFINITY), "∞ dB");
        assert_eq!((score(Metric::Score, 0.7634), drop(Metric::Score, -0.0)), ("0.7634".into(), "0.0000".into()));
        assert_eq!(
            (points(0.0), points(-0.0), points(-0.0123)),
            ("0.00 pt".into(), "0.00 pt".into(), "-1.23 pt".into())
        );
        assert_eq!((bytes(999), bytes(1500), bytes(3_400_000)), ("999 B".into(), "1.5 kB".into(), "3.4 MB".into()));
        assert_eq!((count(12), count(42_000)), ("12".into(), "42.0 k".into()));
        assert_eq!((plural(1, "job"), plural(0, "job")), ("1 job".into(), "0 jobs".into()));
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(time(1_700_000_000_999), "2023-11-14 22:13:20Z");
        assert_eq!(time(-1), "1969-12-31 23:59:59Z");
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let rows = [vec!["a".to_owned(), "1.5 kB".to_owned()], vec!["long".to_owned(), "12.5 kB".to_owned()]];
        insta::assert_snapshot!(table(&["name", ">size"], rows));
    }
}
