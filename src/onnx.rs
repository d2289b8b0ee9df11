//! ONNX files: untrusted bytes to a [`crate::graph::Graph`].
//!
//! ```text
//! bytes ── proto ──> messages ── order ──> the nodes needed, in order
//!                    messages ── tensor, external ──> constants
//! nodes and constants ── fold (all inputs known) ──────> constants
//!                     └─ lower (some input computed) ──> drafts ── rewrite, affine ──> graph
//! ```
//!
//! On the way a tensor of the file is a view of a value: transposes, squeezes and the like only change how it is
//! read, and `arrange` moves elements where an operator needs them in order.
//!
//! Everything a file says is a claim. Sizes are compared with the data before memory is taken, work and
//! memory stay within a small multiple of the file, nothing recurses, and what is wrong or not supported
//! is an [`OnnxError`] that names the node or tensor.

mod affine;
mod arrange;
mod array;
mod draft;
mod error;
mod external;
mod fold;
mod import;
mod input;
mod locations;
mod lower;
mod order;
pub mod proto;
mod quantized;
mod reading;
mod rewrite;
mod site;
mod strided;
mod tensor;
#[cfg(test)]
mod tests;
mod view;

use std::path::Path;

pub(crate) use draft::Names;
pub use error::{OnnxError, TensorError, UnsupportedOperator, UnsupportedOperators};
pub(crate) use external::region;
pub use locations::external_files;
pub use reading::{Reading, SampleShapes, Sizes};
pub use rewrite::Rewrite;

use crate::graph::{Graph, SampleShape};

/// An imported model.
#[derive(Clone, Debug)]
pub struct Model {
    /// The network.
    pub graph: Graph,
    /// What was done to the file's nodes on the way.
    pub rewrites: Vec<Rewrite>,
    /// What the file says of the graph's inputs, in their order.
    pub inputs: Vec<FileInput>,
    /// For each node of the graph the file's nodes that it comes from, as indices: first the operator itself, then what
    /// was folded into it, in order. None where it is no node of the file: what was written in several operators.
    pub origins: Vec<Vec<usize>>,
    /// Version of the ONNX operator set it was written in.
    pub opset: i64,
    /// The tool that wrote the file, and its version; may be empty.
    pub producer: String,
    /// Version of the file format.
    pub ir_version: i64,
    /// Size of the file and of the external data used.
    pub bytes: u64,
    /// SHA-256 of the file's bytes and of the external data used, in order.
    pub digest: [u8; 32],
}

/// How an input is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInput {
    /// Whether it is `[batch, height, width, channels]`. The graph reads `[batch, channels, height, width]` all the same.
    pub channels_last: bool,
    /// Whether it holds integers. The graph reads floats all the same.
    pub integer: bool,
}

impl Model {
    /// What a sample gives the graph's input `index`, in the order of the file.
    pub fn file_shape(&self, index: usize) -> SampleShape {
        let shape = &self.graph.value(self.graph.inputs[index]).shape;
        match shape[..] {
            [c, h, w] if self.inputs[index].channels_last => vec![h, w, c],
            _ => shape.clone(),
        }
    }
}

/// Reads and imports an ONNX file that leaves nothing open; see [`Reading::load`].
///
/// # Errors
/// As there.
pub fn load(path: &Path) -> Result<Model, OnnxError> {
    Reading::default().load(path)
}

/// Imports a model that leaves nothing open from bytes in memory; see [`Reading::import`].
///
/// # Errors
/// As there.
pub fn import(bytes: &[u8], folder: Option<&Path>) -> Result<Model, OnnxError> {
    Reading::default().import(bytes, folder)
}
