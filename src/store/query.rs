//! Statements of the user's, which can only read.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, Row, SqlSafeStr, SqliteConnection, Statement, TypeInfo, ValueRef,
    sqlite::SqliteRow,
};
use utoipa::ToSchema;

use super::{Store, StoreError, connect, json_number};

/// One value of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// SQL's NULL.
    Null,
    /// INTEGER.
    Integer(i64),
    /// REAL, which may be infinite.
    Real(f64),
    /// TEXT.
    Text(String),
    /// BLOB.
    Blob(Vec<u8>),
}

/// A result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rows {
    /// Names, in order.
    pub columns: Vec<String>,
    /// One cell a column each: `null`, a number, a text (`inf` and `-inf` also for infinities), or
    /// `{"hex": "0aff"}` for a blob.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    pub rows: Vec<Vec<Cell>>,
    /// Whether there are more rows than may be asked for at once.
    #[serde(default)]
    pub truncated: bool,
}

/// Steps of SQLite's machine between looks at the clock.
const OPERATIONS: i32 = 10_000;
/// SQLITE_INTERRUPT.
const INTERRUPTED: &str = "9";

impl Cell {
    /// What it takes in memory, about.
    fn bytes(&self) -> usize {
        match self {
            Cell::Null | Cell::Integer(_) | Cell::Real(_) => 8,
            Cell::Text(text) => text.len(),
            Cell::Blob(bytes) => bytes.len(),
        }
    }
}

impl Serialize for Cell {
    /// A blob is `{"hex": "0aff"}`, an infinity the text `inf` or `-inf`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Null => serializer.serialize_none(),
            Cell::Integer(value) => serializer.serialize_i64(*value),
            Cell::Real(value) => json_number::serialize(value, serializer),
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Blob(bytes) => Blob { hex: hex(bytes) }.serialize(serializer),
        }
    }
}

/// A blob in JSON.
#[derive(Serialize, Deserialize)]
struct Blob {
    /// Its bytes in hexadecimal.
    hex: String,
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cell, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Integer(i64),
            Real(f64),
            Text(String),
            Blob(Blob),
        }
        Ok(match Option::<Wire>::deserialize(deserializer)? {
            None => Cell::Null,
            Some(Wire::Integer(value)) => Cell::Integer(value),
            Some(Wire::Real(value)) => Cell::Real(value),
            Some(Wire::Text(text)) => match text.as_str() {
                "inf" => Cell::Real(f64::INFINITY),
                "-inf" => Cell::Real(f64::NEG_INFINITY),
                _ => Cell::Text(text),
            },
            Some(Wire::Blob(Blob { hex })) => {
                Cell::Blob(bytes(&hex).ok_or_else(|| D::Error::custom("expected hexadecimal"))?)
            }
        })
    }
}

/// Hexadecimal to bytes.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = hex.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| Some(pair.first()? << 4 | pair.get(1)?)).collect()
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a statement may take.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// Rows at most; what is more is left out.
    pub rows: usize,
    /// Bytes of all values at most.
    pub bytes: usize,
    /// Time at most.
    pub time: Duration,
}

impl QueryLimits {
    /// What a person at the machine may take.
    pub const NONE: QueryLimits = QueryLimits { rows: usize::MAX, bytes: usize::MAX, time: Duration::MAX };
}

impl Store {
    /// Runs one statement that reads, on a connection that cannot write.
    ///
    /// # Errors
    /// Anything but one SELECT, VALUES, WITH or EXPLAIN; a statement that SQLite refuses or that takes more than it
    /// may; no database.
    pub async fn query(path: &Path, sql: &str, limits: QueryLimits) -> Result<Rows, StoreError> {
        check_statement(sql).map_err(|problem| StoreError::Refused(problem.to_owned()))?;
        connect::check_schema(path).await?;
        let mut connection = SqliteConnection::connect_with(&connect::readable(path)).await?;
        let since = Instant::now();
        connection.lock_handle().await?.set_progress_handler(OPERATIONS, move || since.elapsed() < limits.time);
        let refused = |error: sqlx::Error| match error {
            sqlx::Error::Database(error) if error.code().as_deref() == Some(INTERRUPTED) => {
                StoreError::Refused(format!("the statement took longer than {} s", limits.time.as_secs()))
            }
            sqlx::Error::Database(error) => StoreError::Refused(error.message().to_owned()),
            error => StoreError::Sql(error),
        };
        // The user's own words, on a connection that was opened read-only.
        let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
        let statement = (&mut connection).prepare(sql).await.map_err(refused)?;
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let mut result = Rows { columns, rows: Vec::new(), truncated: false };
        let mut bytes = 0;
        let mut stream = statement.query().fetch(&mut connection);
        while let Some(row) = stream.try_next().await.map_err(refused)? {
            if result.rows.len() == limits.rows {
                result.truncated = true;
                break;
            }
            let cells: Vec<Cell> = (0..row.len()).map(|index| cell(&row, index)).collect::<Result<_, _>>()?;
            bytes += cells.iter().map(Cell::bytes).sum::<usize>();
            if bytes > limits.bytes {
                return Err(StoreError::Refused(format!("the result has more than {} bytes", limits.bytes)));
            }
            result.rows.push(cells);
        }
        Ok(result)
    }
}

fn cell(row: &SqliteRow, index: usize) -> Result<Cell, StoreError> {
    let value = row.try_get_raw(index)?;
    if value.is_null() {
        return Ok(Cell::Null);
    }
    Ok(match value.type_info().name() {
        "INTEGER" | "BOOLEAN" => Cell::Integer(row.try_get_unchecked(index)?),
        "REAL" => Cell::Real(row.try_get_unchecked(index)?),
        "BLOB" => Cell::Blob(row.try_get_unchecked(index)?),
        _ => Cell::Text(row.try_get_unchecked(index)?),
    })
}

/// Refuses everything but one statement that starts like a query. That it cannot write is the connection's doing;
/// this is for statements that do other things, such as `VACUUM INTO` and `ATTACH`.
fn check_statement(sql: &str) -> Result<(), &'static str> {
    let bare = without_literals(sql);
    let mut statements = bare.split(';').map(str::trim).filter(|statement| !statement.is_empty());
    let first = statements.next().ok_or("expected a SELECT statement, found nothing")?;
    if statements.next().is_some() {
        return Err("expected one statement, found more");
    }
    let word: String = first.chars().take_while(char::is_ascii_alphabetic).collect();
    match ["SELECT", "VALUES", "WITH", "EXPLAIN"].contains(&word.to_ascii_uppercase().as_str()) {
        true => Ok(()),
        false => Err("queries only read: expected a statement that starts with SELECT, WITH, VALUES or EXPLAIN"),
    }
}

/// The statement with every comment, text and quoted name taken out.
fn without_literals(sql: &str) -> String {
    let mut bare = String::new();
    let mut rest = sql;
    while let Some(next) = rest.chars().next() {
        let skip = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
        let length = match next {
            _ if rest.starts_with("--") => skip("\n", 2),
            _ if rest.starts_with("/*") => skip("*/", 2),
            // A doubled quote ends one literal and starts the next, which comes to the same.
            '\'' => skip("'", 1),
            '"' => skip("\"", 1),
            '`' => skip("`", 1),
            '[' => skip("]", 1),
            _ => 0,
        };
        match length {
            0 => bare.push(next),
            _ => bare.push(' '),
        }
        rest = &rest[length.max(next.len_utf8())..];
    }
    bare
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_reading_statement_is_taken() {
        for sql in [
            "SELECT 1",
            "select 1;",
            "  WITH a AS (SELECT 1) SELECT * FROM a ; -- done; really",
            "/* a; b */ VALUES (';', 'it''s;')",
            "SELECT [a;b], `c;d`, \"e;f\" FROM t",
            "EXPLAIN QUERY PLAN SELECT 1",
        ] {
            assert_eq!(check_statement(sql), Ok(()), "{sql}");
        }
        for sql in [
            "",
            " ; ",
            "-- nothing",
            "SELECT 1; SELECT 2",
            "DELETE FROM jobs",
            "VACUUM INTO 'x'",
            "ATTACH 'x' AS y",
            "PRAGMA query_only = OFF",
            "SELECT 'a' ; DROP TABLE jobs",
            "(SELECT 1)",
        ] {
            assert!(check_statement(sql).is_err(), "{sql}");
        }
    }
}
