//! Rewrites files of older opsets as files of the oldest opset that the rules know.
//!
//! Differences are: lists that were attributes and are inputs now, softmaxes over all axes from one
//! on, operators that had other names, and the mode of dropout.

use std::collections::HashMap;

use prost::bytes::Bytes;

use crate::content::Content;
use crate::elem::ElemType;
use crate::names::Names;
use crate::order::label;
use crate::proto::*;

/// The oldest opset that is read.
pub(crate) const OLDEST: i64 = 9;
/// The opset as which older files are rewritten.
const WRITTEN: i64 = 13;

/// Rewrites a graph, and the opset that its file imports. A graph of a newer or an unsupported
/// opset stays as it is.
///
/// # Errors
///
/// Returns an error if a node has no form in the newer opset.
pub(crate) fn upgrade(
    graph: &mut GraphProto,
    imports: &mut [OperatorSetIdProto],
) -> Result<(), String> {
    let Some(standard) = imports
        .iter_mut()
        .find(|o| standardize(o.domain()).is_empty())
    else {
        return Ok(());
    };
    let opset = standard.version();
    if !(OLDEST..WRITTEN).contains(&opset) {
        return Ok(());
    }
    standard.version = Some(WRITTEN);
    Upgrade {
        opset,
        names: Names::of_values(graph),
        made: 0,
        reals: HashMap::new(),
    }
    .graph(graph)
}

/// The rewrite of one file.
struct Upgrade {
    opset: i64,
    names: Names,
    made: usize,
    /// The elements of constants, some of which are scales.
    reals: HashMap<String, Vec<f64>>,
}

impl Upgrade {
    /// Rewrites a graph or a subgraph.
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), String> {
        let stored = graph
            .initializer
            .iter()
            .map(|tensor| (tensor.name(), tensor));
        let constants = graph
            .node
            .iter()
            .filter(|node| node.op_type() == "Constant");
        let made = constants.filter_map(|node| {
            Some((
                node.output.first()?.as_str(),
                node.attribute.first()?.t.as_ref()?,
            ))
        });
        let reals: Vec<_> = stored
            .chain(made)
            .filter_map(|(name, t)| Some((name.to_owned(), small(t)?)))
            .collect();
        self.reals.extend(reals);
        let mut nodes = Vec::with_capacity(graph.node.len());
        for mut node in std::mem::take(&mut graph.node) {
            node.attribute
                .iter_mut()
                .filter_map(|a| a.g.as_mut())
                .try_for_each(|inner| self.graph(inner))?;
            if standardize(node.domain()).is_empty() {
                self.node(node, &mut nodes)?;
            } else {
                nodes.push(node);
            }
        }
        graph.node = nodes;
        Ok(())
    }

    /// Appends a rewritten node, preceded by the constants that it takes.
    fn node(&mut self, mut node: NodeProto, nodes: &mut Vec<NodeProto>) -> Result<(), String> {
        match node.op_type() {
            "Squeeze" | "Unsqueeze" | "ReduceSum" => self.lists(&mut node, &["axes"], nodes),
            "Split" => self.lists(&mut node, &["split"], nodes),
            "Slice" if self.opset < 10 => self.lists(&mut node, &["starts", "ends", "axes"], nodes),
            "TopK" if self.opset < 10 => self.lists(&mut node, &["k"], nodes),
            "Pad" if self.opset < 11 => {
                self.lists(&mut node, &["pads"], nodes);
                self.number(&mut node, "value", 2, nodes);
            }
            "Clip" if self.opset < 11 => {
                self.number(&mut node, "min", 1, nodes);
                self.number(&mut node, "max", 2, nodes);
            }
            "Dropout" if self.opset < 12 => node.attribute.retain(|a| a.name() != "ratio"),
            "Scatter" => node.op_type = Some("ScatterElements".into()),
            "Upsample" | "Resize" if self.opset < 11 => self.resized(&mut node)?,
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                self.flattened(node, nodes);
                return Ok(());
            }
            _ => {}
        }
        nodes.push(node);
        Ok(())
    }

    /// Rewrites a `Resize` or an `Upsample`. The old forms counted pixels from the corner, and had
    /// no region input in front of the scales. Their nearest pixel was the one before along an axis
    /// that grows, and the one behind along an axis that shrinks.
    fn resized(&self, node: &mut NodeProto) -> Result<(), String> {
        let linear = node
            .attribute
            .iter()
            .any(|a| a.name() == "mode" && a.s.as_deref() == Some(b"linear"));
        let scales = node.input.get(1).and_then(|name| self.reals.get(name));
        let shrinks = scales.is_some_and(|scales| scales.iter().any(|scale| *scale < 1.0));
        let known =
            scales.is_some_and(|scales| !shrinks || scales.iter().all(|scale| *scale <= 1.0));
        if !linear && !known && node.op_type() == "Resize" {
            return Err(format!(
                "`{}` ({}) of opset {}: nearest pixels by scales that are not known, or that shrink one axis and stretch \
                 another, have no equivalent in newer opsets; export the model with opset 11 or later",
                label(node),
                node.op_type(),
                self.opset
            ));
        }
        node.op_type = Some("Resize".into());
        node.input.insert(1.min(node.input.len()), String::new());
        node.attribute
            .push(text("coordinate_transformation_mode", "asymmetric"));
        node.attribute
            .push(text("nearest_mode", if shrinks { "ceil" } else { "floor" }));
        Ok(())
    }

    /// Returns a name that does not occur in the file.
    fn fresh(&mut self, hint: &str) -> String {
        loop {
            let name = format!("{hint}_of_opset_{}_{}", self.opset, self.made);
            self.made += 1;
            if self.names.insert(name.clone()) {
                return name;
            }
        }
    }

    /// Appends a constant and returns its name.
    fn constant(&mut self, hint: &str, tensor: TensorProto, nodes: &mut Vec<NodeProto>) -> String {
        let name = self.fresh(hint);
        let value = AttributeProto {
            name: Some("value".into()),
            t: Some(tensor),
            kind: Some(attribute_kind::TENSOR),
            ..Default::default()
        };
        nodes.push(made("Constant", &[], &name, vec![value]));
        name
    }

    /// Turns attributes that are lists of integers into the inputs behind the first.
    fn lists(&mut self, node: &mut NodeProto, attributes: &[&str], nodes: &mut Vec<NodeProto>) {
        for (index, attribute) in attributes.iter().enumerate() {
            let Some(found) = taken(node, attribute) else {
                continue;
            };
            let list = if found.ints.is_empty() {
                found.i.into_iter().collect()
            } else {
                found.ints
            };
            let tensor = TensorProto {
                dims: vec![list.len() as i64],
                data_type: Some(ElemType::INT64.0),
                raw_data: Some(Bytes::from(
                    list.iter()
                        .flat_map(|n| n.to_le_bytes())
                        .collect::<Vec<u8>>(),
                )),
                ..Default::default()
            };
            let name = self.constant(attribute, tensor, nodes);
            put(node, index + 1, name);
        }
    }

    /// Turns an attribute that is a number into an input in float32, the only type of these
    /// attributes.
    fn number(
        &mut self,
        node: &mut NodeProto,
        attribute: &str,
        index: usize,
        nodes: &mut Vec<NodeProto>,
    ) {
        let Some(value) = taken(node, attribute).and_then(|found| found.f) else {
            return;
        };
        // The padding is zero by default.
        if attribute == "value" && value == 0.0 {
            return;
        }
        let tensor = TensorProto {
            data_type: Some(ElemType::FLOAT.0),
            raw_data: Some(Bytes::copy_from_slice(&value.to_le_bytes())),
            ..Default::default()
        };
        let name = self.constant(attribute, tensor, nodes);
        put(node, index, name);
    }

    /// Rewrites a softmax over all axes from one on, by merging these axes into one.
    fn flattened(&mut self, mut node: NodeProto, nodes: &mut Vec<NodeProto>) {
        let axis = taken(&mut node, "axis")
            .and_then(|found| found.i)
            .unwrap_or(1);
        node.attribute.push(int("axis", -1));
        let (Some(x), Some(y)) = (node.input.first().cloned(), node.output.first().cloned()) else {
            return nodes.push(node);
        };
        if axis == -1 {
            return nodes.push(node);
        }
        let [shape, flat, soft] = ["shape", "flat", "soft"].map(|hint| self.fresh(hint));
        nodes.push(made("Shape", &[&x], &shape, vec![]));
        nodes.push(made("Flatten", &[&x], &flat, vec![int("axis", axis)]));
        node.input = vec![flat];
        node.output = vec![soft.clone()];
        nodes.push(node);
        nodes.push(made("Reshape", &[&soft, &shape], &y, vec![]));
    }
}

/// Returns the elements of a small tensor.
fn small(tensor: &TensorProto) -> Option<Vec<f64>> {
    Content::of_tensor(tensor)?.reals()
}

/// Returns a node.
fn made(op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.into()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        attribute,
        ..Default::default()
    }
}

/// Removes an attribute from a node and returns it.
fn taken(node: &mut NodeProto, name: &str) -> Option<AttributeProto> {
    let index = node.attribute.iter().position(|a| a.name() == name)?;
    Some(node.attribute.remove(index))
}

/// Sets the input of a node at an index.
fn put(node: &mut NodeProto, index: usize, name: String) {
    node.input
        .resize(node.input.len().max(index + 1), String::new());
    node.input[index] = name;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{float, ints};
    use crate::testing::{bytes, floats, graph, node};
    use crate::{Mode, Model, differentiate};

    fn model(node: NodeProto, opset: i64) -> Model {
        let weights = vec![floats("s", &[3], &[1.0, 2.0, 2.0])];
        Model::from_bytes(
            "old.onnx",
            &bytes(
                graph(&["x: N 4 6"], &["y: N A B"], weights, vec![node]),
                opset,
            ),
        )
        .unwrap()
    }

    fn operators(model: &Model) -> Vec<&str> {
        model
            .graph()
            .node
            .iter()
            .map(|n| n.op_type())
            .filter(|op| *op != "Constant")
            .collect()
    }

    #[test]
    fn older_files_are_read_as_the_oldest_opset_that_the_rules_know() {
        let slice = vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[2])];
        let cases = [
            (node("Slice", "x", "y", slice), 9, vec!["Slice"]),
            (
                node("Clip", "x", "y", vec![float("max", 0.5)]),
                10,
                vec!["Clip"],
            ),
            (
                node("Pad", "x", "y", vec![ints("pads", &[0, 1, 0, 0, 0, 1])]),
                9,
                vec!["Pad"],
            ),
            (
                node("ReduceSum", "x", "y", vec![ints("axes", &[1])]),
                12,
                vec!["ReduceSum"],
            ),
            (
                node("Softmax", "x", "y", vec![]),
                11,
                vec!["Shape", "Flatten", "Softmax", "Reshape"],
            ),
            (
                node("Softmax", "x", "y", vec![int("axis", -1)]),
                12,
                vec!["Softmax"],
            ),
            (
                node("Upsample", "x s", "y", vec![text("mode", "linear")]),
                9,
                vec!["Resize"],
            ),
            (
                node("Dropout", "x", "y", vec![float("ratio", 0.5)]),
                11,
                vec!["Dropout"],
            ),
        ];
        for (node, opset, expected) in cases {
            let op = node.op_type().to_owned();
            let read = model(node, opset);
            assert_eq!((operators(&read), read.opset()), (expected, 13), "{op}");
            for mode in [Mode::Jvp, Mode::Vjp] {
                differentiate(&read, mode, None, None).unwrap_or_else(|e| panic!("{op}: {e}"));
            }
        }
    }

    #[test]
    fn nearest_pixels_are_the_ones_behind_where_an_image_shrinks() {
        let resized = |scales: [f32; 3]| {
            let node = node("Resize", "x s", "y", vec![]);
            let weights = vec![floats("s", &[3], &scales)];
            Model::from_bytes(
                "old.onnx",
                &bytes(graph(&["x: N 4 6"], &["y: N A B"], weights, vec![node]), 10),
            )
        };
        let mode = |model: &Model| {
            let attributes = &model.graph().node[0].attribute;
            attributes
                .iter()
                .find(|a| a.name() == "nearest_mode")
                .and_then(|a| a.s.clone())
                .unwrap()
        };
        assert_eq!(mode(&resized([1.0, 0.5, 0.5]).unwrap()), "ceil");
        assert_eq!(mode(&resized([1.0, 2.0, 1.0]).unwrap()), "floor");
        let error = resized([1.0, 2.0, 0.5]).err().expect("refused").to_string();
        assert!(
            error.contains("`node_y` (Resize) of opset 10: nearest pixels"),
            "{error}"
        );
    }

    #[test]
    fn what_is_older_than_that_is_refused() {
        let read = model(node("Relu", "x", "y", vec![]), 8);
        let error = differentiate(&read, Mode::Jvp, None, None)
            .err()
            .expect("refused")
            .to_string();
        assert!(
            error.contains("opset 8 of the standard domain; models of opset 9 to 28"),
            "{error}"
        );
    }
}
