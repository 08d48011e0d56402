//! Models: ONNX files as data.

/// The decoder of files.
pub(crate) mod read;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use self::read::External;
use crate::elem::ElemType;
use crate::error::GraphError;
use crate::proto::*;

/// A model whose names, order and tensors have been checked, and whose functions have been inlined.
pub struct Model {
    /// The name of the model in messages.
    pub(super) file: String,
    /// The decoded message.
    pub(super) proto: ModelProto,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name of the port.
    pub name: String,
    /// The element type.
    pub elem: ElemType,
    /// The declared dimensions. The list is empty for a scalar, and also if the file declares no
    /// shape.
    pub dims: Vec<Dim>,
    /// Whether the file declares the number of dimensions.
    pub ranked: bool,
}

/// One declared dimension of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    /// A dimension of a known size.
    Fixed(i64),
    /// A dimension with a name.
    Symbol(String),
    /// A dimension without a size or a name.
    Unknown,
}

/// The largest number of bytes of a message that protobuf readers accept.
pub(super) const LARGEST: u64 = i32::MAX as u64;

impl Model {
    /// Reads a model from a file, with the external data in the same folder.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be read or the model is malformed.
    pub fn load(path: &Path) -> Result<Model, GraphError> {
        Model::read(path, External::Loaded(folder_of(path)))
    }

    /// Reads a model of any size for inspection. Weights that lie in other files are not loaded.
    ///
    /// # Errors
    ///
    /// Returns an error if the file cannot be read or the model is malformed.
    pub fn skim(path: &Path) -> Result<Model, GraphError> {
        Model::read(path, External::Skimmed(folder_of(path)))
    }

    /// Reads a file.
    fn read(path: &Path, external: External) -> Result<Model, GraphError> {
        let bytes = std::fs::read(path).map_err(|source| GraphError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let file = path.display().to_string();
        let proto = read::model(&file, Bytes::from(bytes), external)?;
        Ok(Model { file, proto })
    }

    /// Reads a model from memory. Messages call the model `name`.
    ///
    /// # Errors
    ///
    /// Returns an error if the model is malformed or refers to other files.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Model, GraphError> {
        let proto = read::model(name, Bytes::copy_from_slice(bytes), External::Refused)?;
        Ok(Model {
            file: name.to_string(),
            proto,
        })
    }

    /// Encodes the model as one file.
    ///
    /// # Errors
    ///
    /// Returns an error if the model is larger than protobuf readers accept.
    pub fn to_bytes(&self) -> Result<Vec<u8>, GraphError> {
        let bytes = self.proto.encoded_len() as u64;
        if bytes > LARGEST {
            return Err(GraphError::TooLarge {
                file: self.file.clone(),
                bytes,
            });
        }
        Ok(self.proto.encode_to_vec())
    }

    /// Returns the inputs that a caller must provide. Stored tensors that the file lists as inputs
    /// are left out.
    pub fn inputs(&self) -> Vec<Port> {
        let stored: HashSet<&str> = self.graph().initializer.iter().map(|t| t.name()).collect();
        self.graph()
            .input
            .iter()
            .filter(|input| !stored.contains(input.name()))
            .map(port)
            .collect()
    }

    /// Returns the outputs.
    pub fn outputs(&self) -> Vec<Port> {
        self.graph().output.iter().map(port).collect()
    }

    /// Returns the opset of the standard domain, or 0 if the file names none.
    pub fn opset(&self) -> i64 {
        let standard = self
            .proto
            .opset_import
            .iter()
            .find(|o| standardize(o.domain()).is_empty());
        standard.map_or(0, |o| o.version())
    }

    /// Returns the number of floating-point numbers that the model stores.
    pub fn parameters(&self) -> u64 {
        let floats = self
            .graph()
            .initializer
            .iter()
            .filter(|t| ElemType(t.data_type()).is_float());
        floats
            .map(|t| t.dims.iter().map(|d| *d as u64).product::<u64>())
            .sum()
    }

    /// Returns how often each operator occurs.
    pub fn operators(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in &self.graph().node {
            let domain = standardize(node.domain());
            let name = if domain.is_empty() {
                node.op_type().to_string()
            } else {
                format!("{domain}.{}", node.op_type())
            };
            *counts.entry(name).or_insert(0) += 1;
        }
        counts
    }

    /// Returns the coarsest element type in which the model reads an input: the type of the input,
    /// or of a `Cast` that a converter to half precision put behind it. Returns `None` if there is
    /// no such input.
    pub fn taken_in(&self, input: &str) -> Option<ElemType> {
        let own = self
            .inputs()
            .into_iter()
            .find(|port| port.name == input)?
            .elem;
        let casts = self
            .graph()
            .node
            .iter()
            .filter(|n| n.op_type() == "Cast" && n.input.iter().any(|i| i == input));
        let to = casts
            .flat_map(|node| node.attribute.iter().filter(|a| a.name() == "to"))
            .map(|a| ElemType(a.i() as i32));
        let coarser = |a: &ElemType, b: &ElemType| {
            a.spacing()
                .partial_cmp(&b.spacing())
                .unwrap_or(std::cmp::Ordering::Equal)
        };
        to.chain([own]).max_by(coarser)
    }

    /// Returns the name of the model in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the graph of the model, which is empty if the file has none.
    pub(super) fn graph(&self) -> &GraphProto {
        static EMPTY: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.proto
            .graph
            .as_ref()
            .unwrap_or_else(|| EMPTY.get_or_init(GraphProto::default))
    }
}

/// Formats the dimensions of a port as in `[N, 3, 32, 32]`.
pub fn listed(dims: &[Dim]) -> String {
    let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// Returns the folder of a file.
fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// Returns the files that hold the model's external data, relative to its folder. Messages call the
/// model `name`.
///
/// # Errors
///
/// Returns an error if the bytes are no model, or if a file would lie outside the folder.
pub fn external_files(name: &str, bytes: &[u8]) -> Result<BTreeSet<PathBuf>, GraphError> {
    read::external_file_paths(name, Bytes::copy_from_slice(bytes))
}

/// Reads the declaration of a port.
fn port(info: &ValueInfoProto) -> Port {
    let tensor = tensor_type(info);
    let dims = tensor
        .and_then(|t| t.shape.as_ref())
        .map_or(Vec::new(), |shape| shape.dim.iter().map(dim).collect());
    let elem = tensor.map_or(ElemType::UNKNOWN, |t| ElemType(t.elem_type()));
    let ranked = tensor.is_some_and(|t| t.shape.is_some());
    Port {
        name: info.name().to_string(),
        elem,
        dims,
        ranked,
    }
}

/// Reads the declaration of a dimension.
fn dim(dimension: &DimensionProto) -> Dim {
    match &dimension.value {
        Some(DimensionValue::Value(n)) if *n >= 0 => Dim::Fixed(*n),
        Some(DimensionValue::Param(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    }
}
