//! Decodes a model and checks it: loads external data, inlines functions, upgrades old opsets and
//! sorts the nodes.
//!
//! Any sequence of bytes results in a model or in an error.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use crate::elem::ElemType;
use crate::error::GraphError;
use crate::inline;
use crate::model::LARGEST;
use crate::order;
use crate::proto::*;
use crate::upgrade;

/// The treatment of tensors whose data lie in other files.
#[derive(Clone, Copy)]
pub(crate) enum External<'a> {
    /// Such tensors are an error.
    Refused,
    /// The data are read from this folder.
    Loaded(&'a Path),
    /// Data of small tensors, which may be shapes or indices, are read from this folder. Weights
    /// stay in their files.
    Skimmed(&'a Path),
}

/// The largest number of bytes of a tensor that counts as small, and not as a weight.
const SMALL: u64 = 1 << 16;

/// Decodes and checks a model.
///
/// # Errors
///
/// Returns an error if the bytes are no valid model or a file cannot be read.
pub(crate) fn model(
    file: &str,
    bytes: Bytes,
    external: External,
) -> Result<ModelProto, GraphError> {
    let malformed = |reason: String| GraphError::Malformed {
        file: file.to_string(),
        reason,
    };
    let mut model = decoded(bytes).map_err(malformed)?;
    let mut graph = model
        .graph
        .take()
        .ok_or_else(|| malformed("it holds no graph".into()))?;
    if !graph.sparse_initializer.is_empty() {
        return Err(malformed(
            "sparse initializers are not supported: store them densely".into(),
        ));
    }
    let functions = std::mem::take(&mut model.functions);
    inline::functions(&mut graph, functions).map_err(malformed)?;
    upgrade::upgrade(&mut graph, &mut model.opset_import).map_err(malformed)?;
    if let External::Loaded(_) = external {
        let bytes = external_size(&mut graph).map_err(malformed)?;
        if bytes > LARGEST {
            return Err(GraphError::TooLarge {
                file: file.to_string(),
                bytes,
            });
        }
    }
    each_tensor(&mut graph, &mut |tensor| {
        load_external(tensor, external)?;
        check_tensor(tensor)
    })
    .map_err(malformed)?;
    order::sort(&mut graph).map_err(malformed)?;
    model.graph = Some(graph);
    Ok(model)
}

/// Decodes the message.
fn decoded(bytes: Bytes) -> Result<ModelProto, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    ModelProto::decode(bytes).map_err(|e| format!("{e}; the file may be truncated"))
}

/// Returns the files that hold the model's external data, as the model names them.
///
/// # Errors
///
/// Returns an error if the bytes are no model, or if a file would lie outside the model's folder.
pub(crate) fn external_file_paths(
    file: &str,
    bytes: Bytes,
) -> Result<BTreeSet<PathBuf>, GraphError> {
    let malformed = |reason: String| GraphError::Malformed {
        file: file.to_string(),
        reason,
    };
    let mut model = decoded(bytes).map_err(malformed)?;
    let mut files = BTreeSet::new();
    let mut note = |tensor: &mut TensorProto| {
        if tensor.data_location() == EXTERNAL {
            files.insert(location(tensor)?);
        }
        Ok(())
    };
    model
        .graph
        .iter_mut()
        .try_for_each(|graph| each_tensor(graph, &mut note))
        .map_err(malformed)?;
    Ok(files)
}

/// Returns the number of bytes of a graph that lie in other files.
fn external_size(graph: &mut GraphProto) -> Result<u64, String> {
    let mut bytes = 0u64;
    each_tensor(graph, &mut |tensor| {
        if tensor.data_location() == EXTERNAL {
            bytes = bytes.saturating_add(stored_bytes(tensor)?);
        }
        Ok(())
    })?;
    Ok(bytes)
}

/// Returns the number of bytes of a tensor, by its shape and its type.
fn stored_bytes(tensor: &TensorProto) -> Result<u64, String> {
    let bits = ElemType(tensor.data_type()).bits().unwrap_or(8);
    Ok(element_count(tensor)?.saturating_mul(bits).div_ceil(8))
}

/// Returns the number of elements of a tensor.
fn element_count(tensor: &TensorProto) -> Result<u64, String> {
    let count = tensor
        .dims
        .iter()
        .try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
    count.ok_or_else(|| {
        format!(
            "tensor `{}` has the impossible shape {:?}",
            tensor.name(),
            tensor.dims
        )
    })
}

/// Calls `visit` for every tensor of a graph, its attributes and its subgraphs.
fn each_tensor(
    graph: &mut GraphProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), String>,
) -> Result<(), String> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute
            .t
            .iter_mut()
            .chain(&mut attribute.tensors)
            .try_for_each(&mut *visit)?;
        for subgraph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            each_tensor(subgraph, visit)?;
        }
    }
    Ok(())
}

/// Checks that a tensor holds as many elements as its shape has.
fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name = tensor.name();
    let elem = ElemType(tensor.data_type());
    let count = element_count(tensor)?;
    if elem == ElemType::STRING || tensor.data_location() == EXTERNAL {
        return Ok(());
    }
    let Some(bits) = elem.bits() else {
        return Err(format!("tensor `{name}` is of the unknown {elem}"));
    };
    if let Some(raw) = &tensor.raw_data {
        let expected = count.checked_mul(bits).map(|bits| bits.div_ceil(8));
        if expected != Some(raw.len() as u64) {
            return Err(format!(
                "tensor `{name}` of shape {:?} and type {elem} holds {} bytes of data",
                tensor.dims,
                raw.len()
            ));
        }
        return Ok(());
    }
    let (held, packed) = match elem.0 {
        1 => (tensor.float_data.len(), 1),
        14 => (tensor.float_data.len(), 2),
        11 => (tensor.double_data.len(), 1),
        15 => (tensor.double_data.len(), 2),
        7 => (tensor.int64_data.len(), 1),
        12 | 13 => (tensor.uint64_data.len(), 1),
        // One number of the message may hold several small elements.
        21..=23 | 25 | 26 => return Ok(()),
        _ => (tensor.int32_data.len(), 1),
    };
    if count.checked_mul(packed) != Some(held as u64) {
        return Err(format!(
            "tensor `{name}` of shape {:?} and type {elem} holds {held} elements",
            tensor.dims
        ));
    }
    Ok(())
}

/// Moves the data of a tensor from another file into the message.
fn load_external(tensor: &mut TensorProto, external: External) -> Result<(), String> {
    if tensor.data_location() != EXTERNAL {
        return Ok(());
    }
    let name = tensor.name().to_string();
    let folder = match external {
        External::Refused => {
            return Err(format!(
                "tensor `{name}` lies in another file, and only bytes were given"
            ));
        }
        External::Skimmed(_) if stored_bytes(tensor)? > SMALL => return Ok(()),
        External::Loaded(folder) | External::Skimmed(folder) => folder,
    };
    let location = location(tensor)?;
    let number = |key: &str| match external_entry(tensor, key) {
        Some(value) => value
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("tensor `{name}`: `{key}` is `{value}`, not a number")),
        None => Ok(None),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let expected = stored_bytes(tensor)?;
    if length.is_some_and(|length| length != expected) {
        return Err(format!(
            "tensor `{name}` takes {expected} bytes, but its entry claims {}",
            length.unwrap_or(0)
        ));
    }
    let raw = read_part(&folder.join(&location), offset, expected).map_err(|e| {
        format!(
            "the data of tensor `{name}` in `{}`: {e}",
            location.display()
        )
    })?;
    tensor.raw_data = Some(raw);
    tensor.data_location = None;
    tensor.external_data.clear();
    Ok(())
}

/// Returns the value of a key in the description of a tensor's external data.
fn external_entry(tensor: &TensorProto, key: &str) -> Option<String> {
    tensor
        .external_data
        .iter()
        .find(|e| e.key() == key)
        .map(|e| e.value().to_string())
}

/// Returns the file of a tensor's external data.
///
/// # Errors
///
/// Returns an error if the file would lie outside the model's folder.
fn location(tensor: &TensorProto) -> Result<PathBuf, String> {
    let name = tensor.name();
    let location = external_entry(tensor, "location")
        .ok_or_else(|| format!("tensor `{name}` does not say in which file its data lie"))?;
    let inside = Path::new(&location)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(format!(
            "the data of tensor `{name}` lie in `{location}`, outside the model's folder"
        ));
    }
    Ok(PathBuf::from(location))
}

/// Reads a part of a file.
fn read_part(path: &Path, offset: u64, length: u64) -> std::io::Result<Bytes> {
    // To read a device or a pipe may never end.
    if !path.metadata()?.is_file() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it is not a regular file",
        ));
    }
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    if offset.checked_add(length).is_none_or(|stop| stop > end) {
        let message = format!("{length} bytes from {offset} reach beyond the end at {end}");
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            message,
        ));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut raw = Vec::new();
    file.take(length).read_to_end(&mut raw)?;
    Ok(Bytes::from(raw))
}
