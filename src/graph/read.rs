//! From bytes to a checked message: external data loaded, functions inlined, nodes in an order that can run.
//!
//! Whatever the bytes hold, the answer is a model or an error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path};

use prost::Message;
use prost::bytes::Bytes;

use super::elem::ElemType;
use super::error::GraphError;
use super::proto::*;
use super::{inline, order};

/// Decodes and checks a model; `folder` is where external data lies.
pub fn model(file: &str, bytes: Bytes, folder: Option<&Path>) -> Result<ModelProto, GraphError> {
    let malformed = |reason: String| GraphError::Malformed { file: file.to_string(), reason };
    if bytes.is_empty() {
        return Err(malformed("the file is empty".into()));
    }
    let mut model = ModelProto::decode(bytes).map_err(|e| malformed(format!("{e}; the file may be truncated")))?;
    let mut graph = model.graph.take().ok_or_else(|| malformed("it holds no graph".into()))?;
    if !graph.sparse_initializer.is_empty() {
        return Err(malformed("sparse initializers are not supported: store them densely".into()));
    }
    let functions = std::mem::take(&mut model.functions);
    inline::functions(&mut graph, functions).map_err(malformed)?;
    each_tensor(&mut graph, &mut |tensor| {
        load_external(tensor, folder)?;
        check_tensor(tensor)
    })
    .map_err(malformed)?;
    order::sort(&mut graph).map_err(malformed)?;
    model.graph = Some(graph);
    Ok(model)
}

/// Visits every tensor of a graph, those of attributes and subgraphs among them.
fn each_tensor(
    graph: &mut GraphProto,
    visit: &mut dyn FnMut(&mut TensorProto) -> Result<(), String>,
) -> Result<(), String> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        for subgraph in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            each_tensor(subgraph, visit)?;
        }
    }
    Ok(())
}

/// Holds the amount of data against the shape.
fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name = tensor.name();
    let elem = ElemType(tensor.data_type());
    let count = tensor.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?));
    let count = count.ok_or_else(|| format!("tensor `{name}` has the impossible shape {:?}", tensor.dims))?;
    if elem == ElemType::STRING {
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
        // Several small elements may share one number.
        21..=23 | 25 | 26 => return Ok(()),
        _ => (tensor.int32_data.len(), 1),
    };
    if count.checked_mul(packed) != Some(held as u64) {
        return Err(format!("tensor `{name}` of shape {:?} and type {elem} holds {held} elements", tensor.dims));
    }
    Ok(())
}

/// Moves data that lies in another file into the tensor.
fn load_external(tensor: &mut TensorProto, folder: Option<&Path>) -> Result<(), String> {
    if tensor.data_location() != EXTERNAL {
        return Ok(());
    }
    let name = tensor.name().to_string();
    let folder = folder.ok_or_else(|| format!("tensor `{name}` lies in another file, and only bytes were given"))?;
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().to_string());
    let location =
        entry("location").ok_or_else(|| format!("tensor `{name}` does not say in which file its data lie"))?;
    let inside = Path::new(&location).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside || location.is_empty() {
        return Err(format!("the data of tensor `{name}` lie in `{location}`, outside the model's folder"));
    }
    let number = |key: &str| match entry(key) {
        Some(value) => {
            value.parse::<u64>().map(Some).map_err(|_| format!("tensor `{name}`: `{key}` is `{value}`, not a number"))
        }
        None => Ok(None),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let raw = read_part(&folder.join(&location), offset, length)
        .map_err(|e| format!("the data of tensor `{name}` in `{location}`: {e}"))?;
    tensor.raw_data = Some(raw);
    tensor.data_location = None;
    tensor.external_data.clear();
    Ok(())
}

fn read_part(path: &Path, offset: u64, length: Option<u64>) -> std::io::Result<Bytes> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    let length = length.unwrap_or_else(|| end.saturating_sub(offset));
    if offset.checked_add(length).is_none_or(|stop| stop > end) {
        let message = format!("{length} bytes from {offset} reach beyond the end at {end}");
        return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, message));
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut raw = Vec::new();
    file.take(length).read_to_end(&mut raw)?;
    Ok(Bytes::from(raw))
}
