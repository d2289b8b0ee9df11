//! Which other files a model's tensors are in.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use prost::Message;

use super::{
    OnnxError,
    proto::{ModelProto, TensorProto},
};

/// The files besides the model's own that its tensors say they are in, in the model's folder.
///
/// # Errors
/// A file that cannot be read, or is no ONNX.
pub fn external_files(path: &Path) -> Result<BTreeSet<PathBuf>, OnnxError> {
    let bytes = std::fs::read(path).map_err(|source| OnnxError::Read { path: path.to_owned(), source })?;
    let model = ModelProto::decode(&bytes[..]).map_err(|error| OnnxError::Decode(error).in_file(path))?;
    let graph = model.graph.unwrap_or_default();
    let in_nodes = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.t.as_ref());
    let folder = path.parent().unwrap_or(Path::new(""));
    Ok(graph.initializer.iter().chain(in_nodes).filter_map(location).map(|location| folder.join(location)).collect())
}

fn location(tensor: &TensorProto) -> Option<&str> {
    let entry = tensor.external_data.iter().find(|entry| entry.key == "location");
    entry.map(|entry| entry.value.as_str()).filter(|location| !location.is_empty() && tensor.data_location == 1)
}
