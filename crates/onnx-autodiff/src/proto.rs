//! The messages of an ONNX file, as far as this crate reads and writes them.
//!
//! The messages and their fields are those of `onnx.proto`. Fields that are missing
//! here (documentation, metadata, training) are skipped when a file is read. Every field that is
//! not repeated is optional, as in proto2.

use prost::Message;
use prost::bytes::Bytes;

/// A model: a graph with the opsets and functions that it uses.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ModelProto {
    /// The version of the file format.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// The name of the program that wrote the file.
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// The opset of each domain.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// The functions that the model defines.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionProto>,
}

/// The opset of one domain.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSetIdProto {
    /// The domain, which is empty or `ai.onnx` for the standard domain.
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    /// The opset.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// A function that a model defines, which nodes call like an operator.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FunctionProto {
    /// The name of the function.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// The names of the inputs.
    #[prost(string, repeated, tag = "4")]
    pub input: Vec<String>,
    /// The names of the outputs.
    #[prost(string, repeated, tag = "5")]
    pub output: Vec<String>,
    /// The names of the attributes without a default.
    #[prost(string, repeated, tag = "6")]
    pub attribute: Vec<String>,
    /// The nodes of the body.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeProto>,
    /// The opsets that the body uses.
    #[prost(message, repeated, tag = "9")]
    pub opset_import: Vec<OperatorSetIdProto>,
    /// The domain of the function.
    #[prost(string, optional, tag = "10")]
    pub domain: Option<String>,
    /// The attributes with a default.
    #[prost(message, repeated, tag = "11")]
    pub attribute_proto: Vec<AttributeProto>,
    /// The name that distinguishes overloads of the function.
    #[prost(string, optional, tag = "13")]
    pub overload: Option<String>,
}

/// A graph or a subgraph.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GraphProto {
    /// The nodes, in an order in which they can run.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// The name of the graph.
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// The stored tensors.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// The inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// The outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
    /// The declared types of other values.
    #[prost(message, repeated, tag = "13")]
    pub value_info: Vec<ValueInfoProto>,
    /// The stored sparse tensors.
    #[prost(message, repeated, tag = "15")]
    pub sparse_initializer: Vec<SparseTensorProto>,
}

/// A node: one application of an operator or a function.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NodeProto {
    /// The names of the inputs. An empty name is an optional input that is left out.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// The names of the outputs. An empty name is an optional output that is left out.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// The name of the node.
    #[prost(string, optional, tag = "3")]
    pub name: Option<String>,
    /// The name of the operator or the function.
    #[prost(string, optional, tag = "4")]
    pub op_type: Option<String>,
    /// The attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
    /// The domain of the operator or the function.
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
    /// The name that distinguishes overloads of a function.
    #[prost(string, optional, tag = "8")]
    pub overload: Option<String>,
}

/// An attribute of a node. One of its fields holds the value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AttributeProto {
    /// The name of the attribute.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// A floating-point number.
    #[prost(float, optional, tag = "2")]
    pub f: Option<f32>,
    /// An integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// A string of bytes.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub s: Option<Bytes>,
    /// A tensor.
    #[prost(message, optional, tag = "5")]
    pub t: Option<TensorProto>,
    /// A subgraph.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphProto>,
    /// A list of floating-point numbers.
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    /// A list of integers.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// A list of strings of bytes.
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub strings: Vec<Bytes>,
    /// A list of tensors.
    #[prost(message, repeated, tag = "10")]
    pub tensors: Vec<TensorProto>,
    /// A list of subgraphs.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphProto>,
    /// A type.
    #[prost(message, optional, tag = "14")]
    pub tp: Option<TypeProto>,
    /// A list of types.
    #[prost(message, repeated, tag = "15")]
    pub type_protos: Vec<TypeProto>,
    /// The field that holds the value, as a number of [`attribute_kind`].
    #[prost(int32, optional, tag = "20")]
    pub kind: Option<i32>,
    /// The name of the function's attribute whose value this attribute takes.
    #[prost(string, optional, tag = "21")]
    pub ref_attr_name: Option<String>,
    /// A sparse tensor.
    #[prost(message, optional, tag = "22")]
    pub sparse_tensor: Option<SparseTensorProto>,
}

/// The values of [`AttributeProto::kind`].
pub(crate) mod attribute_kind {
    /// The attribute is a floating-point number.
    pub(crate) const FLOAT: i32 = 1;
    /// The attribute is an integer.
    pub(crate) const INT: i32 = 2;
    /// The attribute is a string.
    pub(crate) const STRING: i32 = 3;
    /// The attribute is a tensor.
    pub(crate) const TENSOR: i32 = 4;
    /// The attribute is a subgraph.
    pub(crate) const GRAPH: i32 = 5;
    /// The attribute is a list of integers.
    pub(crate) const INTS: i32 = 7;
}

/// A stored tensor. Its elements are in `raw_data`, in one of the lists, or in another file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorProto {
    /// The sizes of the axes.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// The element type.
    #[prost(int32, optional, tag = "2")]
    pub data_type: Option<i32>,
    /// The elements of a float32 tensor.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// The elements of a tensor of a type of at most 32 bits, one or several in each number.
    #[prost(int32, repeated, tag = "5")]
    pub int32_data: Vec<i32>,
    /// The elements of a tensor of strings.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    pub string_data: Vec<Bytes>,
    /// The elements of an int64 tensor.
    #[prost(int64, repeated, tag = "7")]
    pub int64_data: Vec<i64>,
    /// The name of the tensor.
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    /// The elements as little-endian bytes.
    #[prost(bytes = "bytes", optional, tag = "9")]
    pub raw_data: Option<Bytes>,
    /// The elements of a float64 tensor.
    #[prost(double, repeated, tag = "10")]
    pub double_data: Vec<f64>,
    /// The elements of a uint32 or uint64 tensor.
    #[prost(uint64, repeated, tag = "11")]
    pub uint64_data: Vec<u64>,
    /// The description of the file that holds the elements.
    #[prost(message, repeated, tag = "13")]
    pub external_data: Vec<StringStringEntryProto>,
    /// Whether the elements are in another file: [`EXTERNAL`] if they are.
    #[prost(int32, optional, tag = "14")]
    pub data_location: Option<i32>,
}

/// The value of [`TensorProto::data_location`] for elements in another file.
pub(crate) const EXTERNAL: i32 = 1;

/// A stored sparse tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SparseTensorProto {
    /// The elements that are not zero.
    #[prost(message, optional, tag = "1")]
    pub values: Option<TensorProto>,
    /// The indices of these elements.
    #[prost(message, optional, tag = "2")]
    pub indices: Option<TensorProto>,
    /// The sizes of the axes.
    #[prost(int64, repeated, packed = "false", tag = "3")]
    pub dims: Vec<i64>,
}

/// An entry of a map of strings.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct StringStringEntryProto {
    /// The key.
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    /// The value.
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// The declaration of a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfoProto {
    /// The name of the value.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

impl ValueInfoProto {
    /// Returns the tensor type, if a tensor is declared.
    pub(crate) fn tensor_mut(&mut self) -> Option<&mut TensorTypeProto> {
        match self.r#type.as_mut()?.value.as_mut()? {
            TypeValue::Tensor(tensor) => Some(tensor),
            _ => None,
        }
    }
}

/// The type of a value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TypeProto {
    /// The kind of the type.
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 8, 9")]
    pub value: Option<TypeValue>,
}

/// The kinds of types.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum TypeValue {
    /// A tensor.
    #[prost(message, tag = "1")]
    Tensor(TensorTypeProto),
    /// A sequence of values.
    #[prost(message, tag = "4")]
    Sequence(Box<ElementTypeProto>),
    /// A map.
    #[prost(message, tag = "5")]
    Map(MapTypeProto),
    /// A sparse tensor.
    #[prost(message, tag = "8")]
    SparseTensor(TensorTypeProto),
    /// A value that may be absent.
    #[prost(message, tag = "9")]
    Optional(Box<ElementTypeProto>),
}

/// The type of a tensor.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorTypeProto {
    /// The element type.
    #[prost(int32, optional, tag = "1")]
    pub elem_type: Option<i32>,
    /// The shape. It is absent if the number of axes is not declared.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// The type of a sequence or of an optional value.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ElementTypeProto {
    /// The type of the contained values.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeProto>>,
}

/// The type of a map.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MapTypeProto {
    /// The type of the keys.
    #[prost(int32, optional, tag = "1")]
    pub key_type: Option<i32>,
}

/// A declared shape.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorShapeProto {
    /// The dimensions.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// A declared dimension.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DimensionProto {
    /// The size or the name. It is absent if the dimension is not known.
    #[prost(oneof = "DimensionValue", tags = "1, 2")]
    pub value: Option<DimensionValue>,
}

/// The size or the name of a dimension.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum DimensionValue {
    /// The size.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// The name. Dimensions of the same name have the same size.
    #[prost(string, tag = "2")]
    Param(String),
}

/// Returns the tensor type that a declaration states, if it declares a tensor.
pub(crate) fn tensor_type(info: &ValueInfoProto) -> Option<&TensorTypeProto> {
    match info.r#type.as_ref()?.value.as_ref()? {
        TypeValue::Tensor(tensor) => Some(tensor),
        _ => None,
    }
}

/// Returns a domain with an empty name for the standard domain, which has two names.
pub(crate) fn standardize(domain: &str) -> String {
    if domain == "ai.onnx" {
        String::new()
    } else {
        domain.to_string()
    }
}

/// Returns an attribute that is an integer.
pub(crate) fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(value),
        kind: Some(attribute_kind::INT),
        ..Default::default()
    }
}

/// Returns an attribute that is a floating-point number.
pub(crate) fn float(name: &str, value: f64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        f: Some(value as f32),
        kind: Some(attribute_kind::FLOAT),
        ..Default::default()
    }
}

/// Returns an attribute that is a list of integers.
pub(crate) fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        ints: values.to_vec(),
        kind: Some(attribute_kind::INTS),
        ..Default::default()
    }
}

/// Returns an attribute that is a string.
pub(crate) fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        s: Some(Bytes::copy_from_slice(value.as_bytes())),
        kind: Some(attribute_kind::STRING),
        ..Default::default()
    }
}
