//! What can go wrong while importing.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// Why a model was not imported.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// A file could not be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read but not imported.
    #[error("failed to import `{}`", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<OnnxError>,
    },
    /// The bytes are no ONNX message, or end too early.
    #[error("not an ONNX model, or a truncated one")]
    Decode(#[source] prost::DecodeError),
    /// The model as a whole makes no sense, or is of a kind that is not supported.
    #[error("{0}")]
    Model(String),
    /// The operator set is too old, or newer than this version of qtuned.
    #[error("operator set {found} is not supported; supported are {oldest} to {newest}")]
    Opset {
        /// The model's.
        found: i64,
        /// Oldest supported.
        oldest: i64,
        /// Newest supported.
        newest: i64,
    },
    /// Operators that qtuned does not know.
    #[error("{0}")]
    Unsupported(UnsupportedOperators),
    /// One operator is used in a way that is wrong or not supported.
    #[error("node `{node}` (`{op_type}`): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// Its operator.
        op_type: String,
        /// What is wrong.
        reason: String,
    },
    /// A constant could not be read.
    #[error("tensor `{tensor}`")]
    Tensor {
        /// Name of the tensor.
        tensor: String,
        /// Why.
        source: TensorError,
    },
}

/// Why a constant could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// A dimension is negative.
    #[error("dimension {0} is negative")]
    NegativeDimension(i64),
    /// More dimensions, or larger ones, than any network has.
    #[error("its dimensions are too large")]
    TooLarge,
    /// The data is not what the dimensions say.
    #[error("its dimensions need {expected} {unit}, its data has {found}")]
    Length {
        /// What the dimensions say.
        expected: u64,
        /// What is there.
        found: u64,
        /// Of what.
        unit: &'static str,
    },
    /// An element type that is not read.
    #[error("element type {0} is not supported")]
    ElementType(i32),
    /// A half-precision number that has more than 16 bits.
    #[error("`{0}` is no 16-bit float")]
    NotHalf(i32),
    /// A weight that is NaN or infinite.
    #[error("element {0} is not finite")]
    NotFinite(usize),
    /// The data is in another file, and the model came without a folder.
    #[error("its data is in another file, and there is no folder to look in")]
    NoFolder,
    /// The keys that say where the data is are missing or malformed.
    #[error("external data: {0}")]
    ExternalKey(String),
    /// The data is said to be outside the model's folder.
    #[error("external data `{0}` is not in the model's folder")]
    Outside(String),
    /// The file ends before the data does.
    #[error("external data `{file}` has {found} bytes; bytes {offset}..{end} are needed")]
    ExternalShort {
        /// The file.
        file: String,
        /// Where the data starts.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// Size of the file.
        found: u64,
    },
    /// Different tensors claim the same bytes, more than the file has in all.
    #[error("the tensors in external data `{0}` overlap")]
    Overlap(String),
    /// The file could not be read.
    #[error("failed to read external data `{}`", path.display())]
    ExternalRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// All operators of a model that are not supported, one node of each kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOperators(pub(super) Vec<UnsupportedOperator>);

/// A node whose operator is not supported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedOperator {
    /// The operator.
    pub op_type: String,
    /// The first node that applies it.
    pub node: String,
    /// The operator's domain; `ai.onnx` for ONNX itself.
    pub domain: String,
    /// Version of that domain's operator set; 0 when the model does not say.
    pub opset: i64,
}

impl UnsupportedOperators {
    /// One node of each kind, in topological order; never empty.
    pub fn all(&self) -> &[UnsupportedOperator] {
        &self.0
    }
}

impl fmt::Display for UnsupportedOperators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.0.split_first() else { return Ok(()) };
        let UnsupportedOperator { op_type, node, domain, opset } = first;
        write!(f, "operator `{op_type}` (node `{node}`, domain `{domain}`, opset {opset}) is not supported")?;
        if !others.is_empty() {
            let names: Vec<String> = others.iter().map(|other| format!("`{}`", other.op_type)).collect();
            let kinds = if others.len() == 1 { "kind" } else { "kinds" };
            write!(f, ", and {} more {kinds}: {}", others.len(), names.join(", "))?;
        }
        Ok(())
    }
}

impl OnnxError {
    /// This error, about the file it comes from.
    pub(super) fn in_file(self, path: &Path) -> OnnxError {
        OnnxError::File { path: path.to_owned(), source: Box::new(self) }
    }
}

impl TensorError {
    /// This error, about the tensor of that name.
    pub(super) fn of(self, tensor: &str) -> OnnxError {
        OnnxError::Tensor { tensor: tensor.to_owned(), source: self }
    }
}
