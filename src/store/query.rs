//! Statements of the user's, which can only read.

use std::path::Path;

use serde::{Serialize, Serializer};
use sqlx::{
    AssertSqlSafe, Column, Connection, Executor, Row, SqlSafeStr, SqliteConnection, Statement, TypeInfo, ValueRef,
    sqlite::SqliteRow,
};

use super::{Store, StoreError, connect};

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
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// Names, in order.
    pub columns: Vec<String>,
    /// One cell a column each.
    pub rows: Vec<Vec<Cell>>,
}

/// Writes a number as JSON can: infinities as the texts `inf` and `-inf`.
pub(crate) fn json_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match value.is_finite() {
        true => serializer.serialize_f64(*value),
        false => serializer.collect_str(value),
    }
}

impl Serialize for Cell {
    /// A blob is its bytes in hexadecimal.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Cell::Null => serializer.serialize_none(),
            Cell::Integer(value) => serializer.serialize_i64(*value),
            Cell::Real(value) => json_number(value, serializer),
            Cell::Text(text) => serializer.serialize_str(text),
            Cell::Blob(bytes) => serializer.collect_str(&hex(bytes)),
        }
    }
}

/// Bytes in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// Runs one statement that reads, on a connection that cannot write.
    ///
    /// # Errors
    /// Anything but one SELECT, VALUES, WITH or EXPLAIN; a statement that SQLite refuses; no database.
    pub async fn query(path: &Path, sql: &str) -> Result<Rows, StoreError> {
        check_statement(sql).map_err(|problem| StoreError::Refused(problem.to_owned()))?;
        connect::check_schema(path).await?;
        let mut connection = SqliteConnection::connect_with(&connect::readable(path)).await?;
        let refused = |error: sqlx::Error| match error {
            sqlx::Error::Database(error) => StoreError::Refused(error.message().to_owned()),
            error => StoreError::Sql(error),
        };
        // The user's own words, on a connection that was opened read-only.
        let sql = AssertSqlSafe(sql.to_owned()).into_sql_str();
        let statement = (&mut connection).prepare(sql).await.map_err(refused)?;
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let rows = statement.query().fetch_all(&mut connection).await.map_err(refused)?;
        let cells = |row: &SqliteRow| (0..row.len()).map(|index| cell(row, index)).collect();
        let rows = rows.iter().map(cells).collect::<Result<_, _>>()?;
        Ok(Rows { columns, rows })
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
