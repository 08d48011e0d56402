//! Writes a model in another floating-point type: float16 and bfloat16 in float32, or any type in
//! float64.
//!
//! Stored numbers keep their values. A float32 network in float64 is therefore the same function of
//! its weights, computed with a relative rounding error of 2⁻⁵³ instead of 2⁻²⁴. Operators that
//! ONNX Runtime implements in float32 alone are replaced by others (`float64` in their
//! declarations).

use prost::bytes::Bytes;

use crate::content::{bfloat16_from_bits, float16_from_bits};
use crate::elem::ElemType;
use crate::error::GraphError;
use crate::graph::emit::int;
use crate::import::import_in_double;
use crate::model::{LARGEST, Model};
use crate::names::Names;
use crate::operators;
use crate::proto::*;

/// The attributes that name an element type.
const TYPE_ATTRIBUTES: &[&str] = &[
    "to",
    "dtype",
    "stash_type",
    "softmax_precision",
    "output_datatype",
];

impl Model {
    /// Returns the model with its ports, weights, constants and casts in another floating-point
    /// type.
    ///
    /// `elem` is [`ElemType::DOUBLE`], or [`ElemType::FLOAT`], which leaves float64 as it is.
    /// Quantized weights are dequantized in the type of their scale and then cast.
    ///
    /// # Errors
    ///
    /// Returns an error if the result is too large for one file, if a weight lies in a file that
    /// was not read, or if ONNX Runtime has no float64 kernel for a node and the node cannot be
    /// replaced. The last error lists all such nodes.
    pub fn in_precision(&self, elem: ElemType) -> Result<Model, GraphError> {
        let bytes = self
            .graph()
            .initializer
            .iter()
            .map(|t| size_in(t, elem))
            .sum();
        if bytes > LARGEST {
            return Err(GraphError::TooLarge {
                file: self.file.clone(),
                bytes,
            });
        }
        let mut proto = self.proto.clone();
        if let Some(graph) = &mut proto.graph {
            let reason = |tensor: String| {
                format!(
                    "tensor `{tensor}` cannot be converted, because its data lie in a file that was not read"
                )
            };
            let malformed = |tensor| GraphError::Malformed {
                file: self.file.clone(),
                reason: reason(tensor),
            };
            let mut lift = Lift {
                elem,
                value_names: Names::of_values(graph),
                node_names: Names::of_nodes(graph),
            };
            lift.graph(graph).map_err(malformed)?;
        }
        let lifted = Model {
            file: self.file.clone(),
            proto,
        };
        if elem == ElemType::DOUBLE {
            lifted.without_single_precision_operators()
        } else {
            Ok(lifted)
        }
    }

    /// Returns the model with replacements for the float64 nodes that ONNX Runtime has no float64
    /// kernel for.
    fn without_single_precision_operators(&self) -> Result<Model, GraphError> {
        let (g, outputs) = import_in_double(self)?;
        let obstacles = operators::single_precision(&g);
        if !obstacles.is_empty() {
            return Err(GraphError::SinglePrecision {
                file: self.file.clone(),
                obstacles,
            });
        }
        let proto = ModelProto {
            graph: Some(g.export(&outputs)),
            ..self.proto.clone()
        };
        Ok(Model {
            file: self.file.clone(),
            proto,
        })
    }
}

/// Returns the number of bytes of a tensor after the conversion to `elem`.
fn size_in(tensor: &TensorProto, elem: ElemType) -> u64 {
    let own = ElemType(tensor.data_type());
    let bits = if own.is_float() {
        elem.bits()
    } else {
        own.bits()
    }
    .unwrap_or(8);
    tensor
        .dims
        .iter()
        .fold(1u64, |n, d| n.saturating_mul(d.unsigned_abs()))
        .saturating_mul(bits)
        / 8
}

/// The conversion of a graph to the floating-point type `elem`.
struct Lift {
    elem: ElemType,
    value_names: Names,
    node_names: Names,
}

impl Lift {
    /// Returns whether numbers of this type are converted.
    fn changes(&self, elem: i32) -> bool {
        let elem = ElemType(elem);
        elem.is_float() && elem != self.elem && elem != ElemType::DOUBLE
    }

    /// Converts a graph or a subgraph.
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), String> {
        for info in graph
            .input
            .iter_mut()
            .chain(&mut graph.output)
            .chain(&mut graph.value_info)
        {
            self.port(info);
        }
        let kept = single_inputs(graph);
        for tensor in graph
            .initializer
            .iter_mut()
            .filter(|t| !kept.contains(t.name.as_deref().unwrap_or_default()))
        {
            self.tensor(tensor)?;
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            let stays = node.output.iter().any(|name| kept.contains(name));
            if !stays {
                self.node(&mut node)?;
            }
            let cast = self.cast_behind(&mut node);
            nodes.push(node);
            nodes.extend(cast);
        }
        graph.node = nodes;
        Ok(())
    }

    /// Converts the declared type of a value.
    fn port(&self, info: &mut ValueInfoProto) {
        if let Some(TypeValue::Tensor(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut())
            && self.changes(tensor.elem_type())
        {
            tensor.elem_type = Some(self.elem.0);
        }
    }

    /// Converts the attributes and subgraphs of a node.
    fn node(&mut self, node: &mut NodeProto) -> Result<(), String> {
        let typed = operators::find(&standardize(node.domain()), node.op_type())
            .is_some_and(|operator| operator.names_type);
        for attribute in &mut node.attribute {
            attribute
                .t
                .iter_mut()
                .chain(&mut attribute.tensors)
                .try_for_each(|tensor| self.tensor(tensor))?;
            attribute
                .g
                .iter_mut()
                .chain(&mut attribute.graphs)
                .try_for_each(|graph| self.graph(graph))?;
            if typed
                && TYPE_ATTRIBUTES.contains(&attribute.name())
                && self.changes(attribute.i() as i32)
            {
                attribute.i = Some(i64::from(self.elem.0));
            }
        }
        if node.op_type() == "Constant" && standardize(node.domain()).is_empty() {
            node.attribute
                .iter_mut()
                .for_each(|attribute| self.constant(attribute));
        }
        if node.op_type() == "ConstantOfShape" && node.attribute.is_empty() {
            node.attribute
                .push(tensor_attribute(real_tensor(&[0.0], self.elem, vec![1])));
        }
        Ok(())
    }

    /// Converts the attributes `value_float` and `value_floats`, which are float32 by definition,
    /// to a tensor of the new type.
    fn constant(&self, attribute: &mut AttributeProto) {
        let (values, dims) = match attribute.name() {
            "value_float" => (vec![f64::from(attribute.f())], Vec::new()),
            "value_floats" => {
                let values: Vec<f64> = attribute.floats.iter().map(|x| f64::from(*x)).collect();
                let length = values.len() as i64;
                (values, vec![length])
            }
            _ => return,
        };
        *attribute = tensor_attribute(real_tensor(&values, self.elem, dims));
    }

    /// Converts the elements of a tensor.
    fn tensor(&self, tensor: &mut TensorProto) -> Result<(), String> {
        if !self.changes(tensor.data_type()) {
            return Ok(());
        }
        let values = real_values(tensor).ok_or_else(|| tensor.name().to_owned())?;
        *tensor = TensorProto {
            name: tensor.name.take(),
            ..real_tensor(&values, self.elem, tensor.dims.clone())
        };
        Ok(())
    }

    /// Returns the cast that must follow a node whose output keeps the type of its scale, such as
    /// dequantized weights.
    fn cast_behind(&mut self, node: &mut NodeProto) -> Option<NodeProto> {
        if node.op_type() != "DequantizeLinear" {
            return None;
        }
        let output = node.output.first_mut()?;
        let narrow = self.value_names.reserve(&format!("{output}.dequantized"));
        let wide = std::mem::replace(output, narrow.clone());
        Some(NodeProto {
            op_type: Some("Cast".into()),
            name: Some(self.node_names.reserve(&format!("{wide}.cast"))),
            input: vec![narrow],
            output: vec![wide],
            attribute: vec![int("to", i64::from(self.elem.0))],
            ..Default::default()
        })
    }
}

/// Returns the names of the values that an operator takes in float32 alone.
fn single_inputs(graph: &GraphProto) -> std::collections::HashSet<String> {
    let of = |node: &NodeProto| {
        let indices =
            operators::find("", node.op_type()).map_or(&[][..], |operator| operator.single_inputs);
        indices
            .iter()
            .filter_map(|index| node.input.get(*index).cloned())
            .collect::<Vec<_>>()
    };
    graph
        .node
        .iter()
        .flat_map(of)
        .filter(|name| !name.is_empty())
        .collect()
}

/// Returns the elements of a floating-point tensor. Returns `None` if they lie in a file that was
/// not read.
fn real_values(tensor: &TensorProto) -> Option<Vec<f64>> {
    if tensor.external_data.is_empty() && tensor.raw_data.is_none() {
        return Some(match ElemType(tensor.data_type()) {
            ElemType::FLOAT => tensor.float_data.iter().map(|x| f64::from(*x)).collect(),
            ElemType::FLOAT16 => tensor
                .int32_data
                .iter()
                .map(|n| float16_from_bits(*n as u16))
                .collect(),
            _ => tensor
                .int32_data
                .iter()
                .map(|n| bfloat16_from_bits(*n as u16))
                .collect(),
        });
    }
    let raw = tensor.raw_data.as_ref()?;
    let short = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
    Some(match ElemType(tensor.data_type()) {
        ElemType::FLOAT => raw
            .chunks_exact(4)
            .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
            .collect(),
        ElemType::FLOAT16 => raw
            .chunks_exact(2)
            .map(|bytes| float16_from_bits(short(bytes)))
            .collect(),
        _ => raw
            .chunks_exact(2)
            .map(|bytes| bfloat16_from_bits(short(bytes)))
            .collect(),
    })
}

/// Returns a tensor of floating-point numbers in the type `elem`.
fn real_tensor(values: &[f64], elem: ElemType, dims: Vec<i64>) -> TensorProto {
    let raw: Vec<u8> = match elem {
        ElemType::DOUBLE => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => values
            .iter()
            .flat_map(|x| (*x as f32).to_le_bytes())
            .collect(),
    };
    TensorProto {
        dims,
        data_type: Some(elem.0),
        raw_data: Some(Bytes::from(raw)),
        ..Default::default()
    }
}

/// Returns an attribute `value` that holds a tensor.
fn tensor_attribute(tensor: TensorProto) -> AttributeProto {
    AttributeProto {
        name: Some("value".into()),
        t: Some(tensor),
        kind: Some(attribute_kind::TENSOR),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::emit::int;
    use crate::testing::{bytes, graph, node};

    #[test]
    fn dequantized_weights_are_cast_to_what_the_network_computes_in() {
        let tensor = |name: &str, elem: i32, dims: &[i64], raw: &'static [u8]| TensorProto {
            name: Some(name.into()),
            dims: dims.to_vec(),
            data_type: Some(elem),
            raw_data: Some(Bytes::from_static(raw)),
            ..Default::default()
        };
        let (float16, int8) = (10, 3);
        let weights = vec![
            tensor("q", int8, &[2], &[1, 2]),
            tensor("s", float16, &[], &[0, 0x3c]),
        ];
        let nodes = vec![
            node("Cast", "x", "h", vec![int("to", i64::from(float16))]),
            node("DequantizeLinear", "q s", "w", vec![]),
            node("Mul", "h w", "m", vec![]),
            node("Cast", "m", "y", vec![int("to", 1)]),
        ];
        let model = Model::from_bytes(
            "m",
            &bytes(graph(&["x: N 2"], &["y: N 2"], weights, nodes), 19),
        )
        .expect("a model");
        for elem in [ElemType::FLOAT, ElemType::DOUBLE] {
            let lifted = model.in_precision(elem).expect("lifted");
            let cast = lifted
                .graph()
                .node
                .iter()
                .find(|n| n.output == ["w"])
                .expect("the weights");
            let to = cast
                .attribute
                .iter()
                .find(|a| a.name() == "to")
                .map(|a| a.i());
            assert_eq!((cast.op_type(), to), ("Cast", Some(i64::from(elem.0))));
        }
    }
}
