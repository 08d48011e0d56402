//! A model as a graph that can grow.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::append;
use crate::elem::ElemType;
use crate::error::GraphError;
use crate::graph::Graph;
use crate::graph::emit::text;
use crate::model::Model;
use crate::operators;
use crate::proto::*;
use crate::upgrade;

/// Opsets of the standard domain whose operators are known; older files are read as of the first of them. Those before [`ADDING`] are read as that one, from which
/// they differ in one default ([`written_out`]) and in training.
pub const OPSETS: std::ops::RangeInclusive<i64> = 13..=28;

/// The opset in which scattering learned to add, as reverse mode needs it.
pub const ADDING: i64 = 16;

/// Outputs of a graph with the types that they declare.
pub type Outputs = Vec<(String, Option<TypeProto>)>;

/// The model as a graph that can grow, and its outputs.
pub fn import(model: &Model, opset: i64) -> Result<(Graph, Outputs), GraphError> {
    import_into(empty(model, opset), model)
}

/// The same for a model in float64, without operators that are only there in float32.
pub fn import_in_double(model: &Model) -> Result<(Graph, Outputs), GraphError> {
    check_opset(model)?;
    let mut g = empty(model, model.opset());
    g.avoids_single = true;
    import_into(g, model)
}

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
        inner_names(proto),
    )
}

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

pub fn check_opset(model: &Model) -> Result<(), GraphError> {
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

/// A node with the one default that is another from [`ADDING`] on written out.
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

/// The tensor of a `Constant` node, under the node's output name.
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

/// Names inside subgraphs, which new values must not take.
fn inner_names(graph: &GraphProto) -> HashSet<String> {
    let mut names = HashSet::new();
    let mut open: Vec<&GraphProto> = graph.node.iter().flat_map(subgraphs).collect();
    while let Some(inner) = open.pop() {
        names.extend(
            inner
                .node
                .iter()
                .flat_map(|node| node.output.iter().cloned()),
        );
        names.extend(inner.input.iter().map(|i| i.name().to_string()));
        names.extend(inner.initializer.iter().map(|t| t.name().to_string()));
        open.extend(inner.node.iter().flat_map(subgraphs));
    }
    names
}

fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute
        .iter()
        .flat_map(|a| a.g.iter().chain(&a.graphs))
}
