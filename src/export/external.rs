//! Data in a file beside the model, for models that have some.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use super::ExportError;
use crate::onnx::{
    self,
    proto::{ModelProto, StringStringEntryProto, TensorProto},
};

/// Smaller tensors stay in the model.
const LEAST: usize = 1 << 10;

/// Tensors start at multiples of this, as engines that map the file into memory want.
const ALIGNMENT: usize = 1 << 12;

/// Where the model has external data, gathers that of all its tensors, and large new ones, in one file of this name.
pub(super) fn gather(proto: &mut ModelProto, folder: &Path, name: &str) -> Result<Option<Vec<u8>>, ExportError> {
    let Some(graph) = &mut proto.graph else { return Ok(None) };
    let attributes = graph.node.iter_mut().flat_map(|node| &mut node.attribute);
    let in_nodes = attributes.flat_map(|a| a.t.iter_mut().chain(&mut a.tensors));
    let mut tensors: Vec<&mut TensorProto> = graph.initializer.iter_mut().chain(in_nodes).collect();
    if !tensors.iter().any(|tensor| tensor.data_location == 1) {
        return Ok(None);
    }
    let mut data = Vec::new();
    // Tensors that share their data go on sharing it.
    let mut placed: HashMap<(std::path::PathBuf, u64, u64), u64> = HashMap::new();
    for tensor in &mut tensors {
        let (offset, length) = if tensor.data_location == 1 {
            let region = onnx::region(folder, tensor).map_err(|error| ExportError::Model(error.to_string()))?;
            let key = (region.path, region.offset, region.length);
            let offset = match placed.get(&key) {
                Some(&offset) => offset,
                None => {
                    let offset = align(&mut data);
                    let (path, start, length) = &key;
                    append(&mut data, path, *start, *length).map_err(|source| ExportError::External {
                        path: path.clone(),
                        tensor: tensor.name.clone(),
                        source,
                    })?;
                    placed.insert(key.clone(), offset);
                    offset
                }
            };
            (offset, key.2)
        } else if tensor.raw_data.len() >= LEAST {
            let offset = align(&mut data);
            let raw = std::mem::take(&mut tensor.raw_data);
            data.extend_from_slice(&raw);
            (offset, raw.len() as u64)
        } else {
            continue;
        };
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
        tensor.external_data = vec![
            entry("location", name.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", length.to_string()),
        ];
        tensor.data_location = 1;
    }
    Ok(Some(data))
}

fn align(data: &mut Vec<u8>) -> u64 {
    data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
    data.len() as u64
}

fn append(data: &mut Vec<u8>, path: &Path, offset: u64, length: u64) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let read = file.take(length).read_to_end(data)? as u64;
    if read == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
