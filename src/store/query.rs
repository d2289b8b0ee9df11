//! Statements of the user's, which can only read.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{
    Batch, Connection, Error, ErrorCode, OpenFlags,
    fallible_iterator::FallibleIterator,
    hooks::{AuthAction, AuthContext, Authorization},
    limits::Limit,
    types::ValueRef,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
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
/// Columns of a result that is limited. SQLite holds a whole row before it gives it away.
const COLUMNS: i32 = 100;
/// Pragmas that tell of the schema, and do nothing.
const PRAGMAS: [&str; 6] = ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "foreign_key_list"];
const EXPECTED: &str = "queries only read: expected a statement that starts with SELECT, WITH, VALUES or EXPLAIN";

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
    /// Bytes of one value at most, also of one that is made on the way to the result.
    pub value: Option<i32>,
    /// Time at most.
    pub time: Duration,
}

impl QueryLimits {
    /// What a person at the machine may take.
    pub const NONE: QueryLimits = QueryLimits { rows: usize::MAX, bytes: usize::MAX, value: None, time: Duration::MAX };
}

impl Store {
    /// Runs one statement that reads, on a connection that cannot write.
    ///
    /// # Errors
    /// Anything but one SELECT, VALUES, WITH or EXPLAIN; a statement that SQLite refuses or that takes more than it
    /// may; no database.
    pub async fn query(path: &Path, sql: &str, limits: QueryLimits) -> Result<Rows, StoreError> {
        connect::check_schema(path).await?;
        let (path, sql) = (path.to_owned(), sql.to_owned());
        let answered = tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            answer(&path, &sql, limits, since).map_err(|problem| refusal(problem, limits))
        });
        answered.await.map_err(|broken| StoreError::Refused(broken.to_string()))?
    }
}

/// Why a statement has no answer.
enum Unanswered {
    Sqlite(Error),
    Nothing,
    More,
    TooLarge,
}

impl From<Error> for Unanswered {
    fn from(error: Error) -> Unanswered {
        Unanswered::Sqlite(error)
    }
}

fn refusal(problem: Unanswered, limits: QueryLimits) -> StoreError {
    StoreError::Refused(match problem {
        Unanswered::Nothing => "expected a SELECT statement, found nothing".to_owned(),
        Unanswered::TooLarge => format!("the result has more than {} bytes", limits.bytes),
        Unanswered::More => "expected one statement, found more".to_owned(),
        Unanswered::Sqlite(error) => match (error.sqlite_error_code(), error) {
            (Some(ErrorCode::OperationInterrupted), _) => {
                format!("the statement took longer than {} s", limits.time.as_secs())
            }
            (Some(ErrorCode::AuthorizationForStatementDenied), _) => EXPECTED.to_owned(),
            (_, Error::SqliteFailure(_, Some(message))) => message,
            (_, error) => error.to_string(),
        },
    })
}

/// What may be done: to read, and nothing else, also by a statement of another kind inside of one that reads.
fn only_reads(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Function { .. } | AuthAction::Recursive => {
            Authorization::Allow
        }
        AuthAction::Pragma { pragma_name, .. } if PRAGMAS.contains(&pragma_name) => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

fn answer(path: &Path, sql: &str, limits: QueryLimits, since: Instant) -> Result<Rows, Unanswered> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(connect::BUSY.min(limits.time))?;
    if let Some(value) = limits.value {
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, value)?;
        connection.set_limit(Limit::SQLITE_LIMIT_COLUMN, COLUMNS)?;
    }
    connection.progress_handler(OPERATIONS, Some(move || since.elapsed() > limits.time))?;
    connection.authorizer(Some(only_reads))?;
    let mut statements = Batch::new(&connection, sql);
    let mut statement = statements.next()?.ok_or(Unanswered::Nothing)?;
    if !matches!(statements.next(), Ok(None)) {
        return Err(Unanswered::More);
    }
    let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
    let width = columns.len();
    let mut result = Rows { columns, rows: Vec::new(), truncated: false };
    let mut bytes = 0;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if result.rows.len() == limits.rows {
            result.truncated = true;
            break;
        }
        let cells: Vec<Cell> = (0..width).map(|index| row.get_ref(index).map(Cell::from)).collect::<Result<_, _>>()?;
        bytes += cells.iter().map(Cell::bytes).sum::<usize>();
        if bytes > limits.bytes {
            return Err(Unanswered::TooLarge);
        }
        result.rows.push(cells);
    }
    Ok(result)
}

impl From<ValueRef<'_>> for Cell {
    fn from(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(value) => Cell::Integer(value),
            ValueRef::Real(value) => Cell::Real(value),
            ValueRef::Text(bytes) => Cell::Text(String::from_utf8_lossy(bytes).into_owned()),
            ValueRef::Blob(bytes) => Cell::Blob(bytes.to_vec()),
        }
    }
}
