//! Reads a model into a graph that can grow.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::append;
use crate::elem::ElemType;
use crate::error::GraphError;
use crate::graph::Graph;
use crate::graph::emit::text;
use crate::model::Model;
use crate::names::Names;
use crate::operators;
use crate::proto::*;
use crate::upgrade;

/// The opsets of the standard domain that are read without an upgrade. Older files are upgraded to
/// the first of them. Files of an opset before [`ADDING`] are then read as of that opset, which
/// differs in one default ([`written_out`]) and in training.
pub(crate) const OPSETS: std::ops::RangeInclusive<i64> = 13..=28;

/// The first opset whose scatter operators can add, which reverse mode needs.
pub(crate) const ADDING: i64 = 16;

/// The names of a graph's outputs, with the types that the file declares for them.
pub(crate) type Outputs = Vec<(String, Option<TypeProto>)>;

/// Reads a model into a graph of the given opset. Returns the graph and its outputs.
///
/// # Errors
///
/// Returns an error if no node makes an output.
pub(crate) fn import(model: &Model, opset: i64) -> Result<(Graph, Outputs), GraphError> {
    import_into(empty(model, opset), model)
}

/// Reads a float64 model into a graph, and replaces the operators that ONNX Runtime implements in
/// float32 alone.
///
/// # Errors
///
/// Returns an error if the opset is not supported or no node makes an output.
pub(crate) fn import_in_double(model: &Model) -> Result<(Graph, Outputs), GraphError> {
    check_opset(model)?;
    let mut g = empty(model, model.opset());
    g.avoids_single = true;
    import_into(g, model)
}

/// Returns an empty graph that knows the types which the model declares.
fn empty(model: &Model, opset: i64) -> Graph {
    let proto = model.graph();
    let declared = proto
        .value_info
        .iter()
        .chain(&proto.output)
        .map(|info| (info.name().to_string(), info.clone()));
    Graph::new(
        opset,
        &operators::Registry,
        declared.collect(),
        Names::of_values(proto),
        Names::of_nodes(proto),
    )
}

/// Appends the inputs, constants and nodes of the model to an empty graph.
fn import_into(mut g: Graph, model: &Model) -> Result<(Graph, Outputs), GraphError> {
    let proto = model.graph();
    for port in &proto.input {
        if let Some(tensor) = tensor_type(port)
            && !proto.initializer.iter().any(|t| t.name() == port.name())
        {
            let shape = g.declared_shape(tensor);
            g.add_input(port.name(), ElemType(tensor.elem_type()), shape);
        } else if !proto.initializer.iter().any(|t| t.name() == port.name()) {
            g.add_input(port.name(), ElemType::UNKNOWN, None);
        }
    }
    for tensor in &proto.initializer {
        g.add_initializer(tensor.clone());
    }
    let kept: HashSet<&str> = proto.output.iter().map(|o| o.name()).collect();
    for node in &proto.node {
        match constant_tensor(node).filter(|tensor| !kept.contains(tensor.name())) {
            Some(tensor) => drop(g.add_initializer(tensor)),
            None => append::push(&mut g, &written_out(node, model.opset())),
        }
    }
    let outputs: Vec<(String, Option<TypeProto>)> = proto
        .output
        .iter()
        .map(|info| (info.name().to_string(), info.r#type.clone()))
        .collect();
    for (name, _) in &outputs {
        let reason = || format!("nothing makes its output `{name}`");
        let made = g.named(name).ok_or_else(|| GraphError::Malformed {
            file: model.file.clone(),
            reason: reason(),
        })?;
        g.outputs.push(made);
    }
    Ok((g, outputs))
}

/// Checks that the model's opset is supported.
///
/// # Errors
///
/// Returns an error that names the supported opsets.
pub(crate) fn check_opset(model: &Model) -> Result<(), GraphError> {
    let found = model.opset();
    if OPSETS.contains(&found) {
        return Ok(());
    }
    let (low, high) = (upgrade::OLDEST, *OPSETS.end());
    Err(GraphError::Opset {
        file: model.file.clone(),
        found,
        low,
        high,
    })
}

/// Returns a node with an explicit attribute if the attribute's default changed in opset
/// [`ADDING`].
fn written_out(node: &NodeProto, opset: i64) -> Cow<'_, NodeProto> {
    let name = "coordinate_transformation_mode";
    let older =
        node.op_type() == "RoiAlign" && standardize(node.domain()).is_empty() && opset < ADDING;
    if !older || node.attribute.iter().any(|a| a.name() == name) {
        return Cow::Borrowed(node);
    }
    let mut node = node.clone();
    node.attribute.push(text(name, "output_half_pixel"));
    Cow::Owned(node)
}

/// Returns the tensor of a `Constant` node, under the name of the node's output.
fn constant_tensor(node: &NodeProto) -> Option<TensorProto> {
    let known = node.op_type() == "Constant" && standardize(node.domain()).is_empty();
    let value = node
        .attribute
        .iter()
        .find(|a| a.name() == "value")
        .filter(|_| known)?;
    Some(TensorProto {
        name: Some(node.output.first()?.clone()),
        ..value.t.clone()?
    })
}
