//! `qtuned query`.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value};

use super::{Global, format, print, print_json, source::source};
use crate::store::{Cell, Rows};

/// Ask the database a question in SQL
///
/// One statement that reads: SELECT, WITH, VALUES or EXPLAIN. The file is opened read-only. Besides the tables there
/// are views with everything derived: trial_summary, front, sensitivity, latency_quartiles. In JSON, infinity is the
/// text "inf", and a blob is {"hex": ...}.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  qtuned query 'SELECT number, score, median_ns / 1e6 AS ms FROM front ORDER BY ms'
  qtuned query 'SELECT group_id, output_db FROM sensitivity ORDER BY output_db LIMIT 5' --json
  qtuned query \"SELECT name, sql FROM sqlite_schema WHERE type = 'view'\"")]
pub(super) struct QueryArgs {
    /// The statement
    #[arg(value_name = "SQL")]
    sql: String,
}

pub(super) fn run(global: &Global, args: &QueryArgs) -> Result<()> {
    let Rows { columns, rows, truncated } = source(global)?.query(&args.sql)?;
    if global.json {
        let object = |row: Vec<Cell>| -> Result<Value, serde_json::Error> {
            let cells = columns.iter().cloned().zip(row);
            let cells = cells.map(|(name, cell)| Ok((name, serde_json::to_value(cell)?)));
            cells.collect::<Result<Map<_, _>, serde_json::Error>>().map(Value::Object)
        };
        return print_json(&rows.into_iter().map(object).collect::<Result<Vec<_>, _>>()?);
    }
    // A column is a column of numbers when it holds nothing else.
    let numeric = |column: usize| {
        rows.iter().all(|row| matches!(row.get(column), Some(Cell::Null | Cell::Integer(_) | Cell::Real(_))))
    };
    let headings: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(column, name)| format!("{}{name}", if numeric(column) { ">" } else { "" }))
        .collect();
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let table = format::table(&headings, rows.iter().map(|row| row.iter().map(text).collect()));
    let more = if truncated { ", and there are more" } else { "" };
    print(&format!("{table}{}{more}\n", format::plural(rows.len(), "row")))
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Integer(value) => value.to_string(),
        Cell::Real(value) => value.to_string(),
        Cell::Text(text) => format::printable(text),
        Cell::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}
