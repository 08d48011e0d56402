//! An ONNX file as data.

pub mod read;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use self::read::External;
use crate::elem::ElemType;
use crate::error::GraphError;
use crate::proto::*;

/// A model whose names, order and tensors have been checked; functions of its own are inlined.
pub struct Model {
    pub(super) file: String,
    pub(super) proto: ModelProto,
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub elem: ElemType,
    /// Empty for a scalar, and where the file says nothing of them.
    pub dims: Vec<Dim>,
    /// Whether the file says how many dimensions there are.
    pub ranked: bool,
}

/// One dimension of a port as the file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(i64),
    Symbol(String),
    Unknown,
}

/// The largest message that protobuf readers accept.
pub(super) const LARGEST: u64 = i32::MAX as u64;

impl Model {
    /// Reads a file, and the external data beside it.
    pub fn load(path: &Path) -> Result<Model, GraphError> {
        Model::read(path, External::Loaded(folder_of(path)))
    }

    /// Reads a file of whatever size to be looked at: weights that lie in other files stay there.
    pub fn skim(path: &Path) -> Result<Model, GraphError> {
        Model::read(path, External::Skimmed(folder_of(path)))
    }

    fn read(path: &Path, external: External) -> Result<Model, GraphError> {
        let bytes = std::fs::read(path).map_err(|source| GraphError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let file = path.display().to_string();
        let proto = read::model(&file, Bytes::from(bytes), external)?;
        Ok(Model { file, proto })
    }

    /// Reads a model from memory; `name` stands for it in messages.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Model, GraphError> {
        let proto = read::model(name, Bytes::copy_from_slice(bytes), External::Refused)?;
        Ok(Model {
            file: name.to_string(),
            proto,
        })
    }

    /// The model as one file.
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

    /// What the graph must be fed; initializers that are listed as inputs are not among them.
    pub fn inputs(&self) -> Vec<Port> {
        let stored: HashSet<&str> = self.graph().initializer.iter().map(|t| t.name()).collect();
        self.graph()
            .input
            .iter()
            .filter(|input| !stored.contains(input.name()))
            .map(port)
            .collect()
    }

    pub fn outputs(&self) -> Vec<Port> {
        self.graph().output.iter().map(port).collect()
    }

    /// The version of the standard operators; 0 where the file names none.
    pub fn opset(&self) -> i64 {
        let standard = self
            .proto
            .opset_import
            .iter()
            .find(|o| standardize(o.domain()).is_empty());
        standard.map_or(0, |o| o.version())
    }

    /// How many floating-point numbers the model stores.
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

    /// How often each operator occurs.
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

    /// The coarsest format that an input is taken in: its own, or that of a cast as converters to half precision put
    /// behind it.
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

    /// What the model is called in messages.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn graph(&self) -> &GraphProto {
        static EMPTY: std::sync::OnceLock<GraphProto> = std::sync::OnceLock::new();
        self.proto
            .graph
            .as_ref()
            .unwrap_or_else(|| EMPTY.get_or_init(GraphProto::default))
    }
}

/// The dimensions of a port in words: `[N, 3, 32, 32]`.
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

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

/// The files beside a model that hold its data, relative to its folder; `name` stands for it in messages.
///
/// # Errors
/// Where the bytes are no model, or a file would lie outside the folder.
pub fn external_files(name: &str, bytes: &[u8]) -> Result<BTreeSet<PathBuf>, GraphError> {
    read::external_file_paths(name, Bytes::copy_from_slice(bytes))
}

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

fn dim(dimension: &DimensionProto) -> Dim {
    match &dimension.value {
        Some(DimensionValue::Value(n)) if *n >= 0 => Dim::Fixed(*n),
        Some(DimensionValue::Param(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    }
}
