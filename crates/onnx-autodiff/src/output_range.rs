//! A part of an output in place of the whole, such as the mean of a network that also predicts
//! variances.

use crate::elem::ElemType;
use crate::error::GraphError;
use crate::model::Model;
use crate::names::Names;
use crate::proto::*;

impl Model {
    /// Returns the model with the elements `from` to `to` − 1 of an axis of an output in place of
    /// the whole output, under the same name. Axis 0 is the first one.
    ///
    /// # Errors
    /// Returns an error if the model has no output of that name, or if the file gives a shape for
    /// it in which the range does not lie.
    pub fn with_output_range(
        &self,
        output: &str,
        axis: usize,
        from: usize,
        to: usize,
    ) -> Result<Model, GraphError> {
        let known: Vec<String> = self.outputs().into_iter().map(|port| port.name).collect();
        if !known.iter().any(|name| name == output) {
            return Err(GraphError::UnknownPort {
                file: self.file.clone(),
                role: "output",
                name: output.to_owned(),
                present: known.join(", "),
            });
        }
        let mut made = Model {
            file: self.file.clone(),
            proto: self.proto.clone(),
        };
        let slices_by_inputs = self.opset() >= 10;
        let Some(graph) = &mut made.proto.graph else {
            return Ok(made);
        };
        let mut value_names = Names::of_values(graph);
        let whole = value_names.reserve(&format!("{output}_whole"));
        rename_value(graph, output, &whole);
        let mut slice = NodeProto {
            op_type: Some("Slice".to_owned()),
            name: Some(Names::of_nodes(graph).reserve(&format!("{output}_range"))),
            input: vec![whole.clone()],
            output: vec![output.to_owned()],
            ..NodeProto::default()
        };
        for (key, value) in [("starts", from), ("ends", to), ("axes", axis)] {
            if slices_by_inputs {
                let name = value_names.reserve(&format!("{whole}_{key}"));
                graph.initializer.push(TensorProto {
                    dims: vec![1],
                    data_type: Some(ElemType::INT64.0),
                    int64_data: vec![value as i64],
                    name: Some(name.clone()),
                    ..TensorProto::default()
                });
                slice.input.push(name);
            } else {
                slice.attribute.push(AttributeProto {
                    name: Some(key.to_owned()),
                    ints: vec![value as i64],
                    kind: Some(attribute_kind::INTS),
                    ..AttributeProto::default()
                });
            }
        }
        graph.node.push(slice);
        let dims = graph
            .output
            .iter_mut()
            .filter(|info| info.name() == output)
            .filter_map(|info| info.tensor_mut()?.shape.as_mut())
            .map(|shape| &mut shape.dim);
        for dims in dims {
            let size = dims.get(axis).map(|dim| dim.value.clone());
            let fits = match size {
                None => dims.is_empty(),
                Some(Some(DimensionValue::Value(size))) => to as i64 <= size,
                Some(_) => true,
            };
            if !fits || from >= to {
                return Err(GraphError::Port {
                    file: self.file.clone(),
                    role: "output",
                    name: output.to_owned(),
                    reason: format!("has no elements {from} to {to} along axis {axis}"),
                });
            }
            if let Some(dim) = dims.get_mut(axis) {
                dim.value = Some(DimensionValue::Value((to - from) as i64));
            }
        }
        Ok(made)
    }
}

/// Renames a value in all nodes of a graph and of its subgraphs. Declared outputs keep their names.
fn rename_value(graph: &mut GraphProto, old: &str, new: &str) {
    for node in &mut graph.node {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if name == old {
                *name = new.to_owned();
            }
        }
        for attribute in &mut node.attribute {
            for inner in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                rename_value(inner, old, new);
                for info in &mut inner.output {
                    if info.name() == old {
                        info.name = Some(new.to_owned());
                    }
                }
            }
        }
    }
    for info in &mut graph.value_info {
        if info.name() == old {
            info.name = Some(new.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes, floats, graph, node};

    fn doubled() -> Model {
        let weights = vec![floats(
            "w",
            &[2, 4],
            &[1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 0.0, 3.0],
        )];
        let nodes = vec![
            node("MatMul", "x w", "y", vec![]),
            node("Relu", "y", "z", vec![]),
        ];
        let made = bytes(
            graph(&["x: N 2"], &["y: N 4", "z: N 4"], weights, nodes),
            20,
        );
        Model::from_bytes("test", &made).expect("a model")
    }

    #[test]
    fn the_output_keeps_its_name_and_other_outputs_the_whole() {
        let model = doubled().with_output_range("y", 1, 0, 2).expect("in range");
        let shapes: Vec<String> = model
            .outputs()
            .iter()
            .map(|port| format!("{}: {}", port.name, crate::model::listed(&port.dims)))
            .collect();
        assert_eq!(shapes, ["y: [N, 2]", "z: [N, 4]"]);
        let inputs: Vec<&str> = model
            .graph()
            .node
            .iter()
            .map(|n| n.input[0].as_str())
            .collect();
        assert_eq!(inputs, ["x", "y_whole", "y_whole"]);
        let again = Model::from_bytes("again", &model.to_bytes().expect("bytes"));
        let derived = crate::differentiate(
            &again.expect("a model"),
            crate::Mode::Jvp,
            Some("x"),
            Some("y"),
        );
        let quadratic = |port: &crate::Port| port.name == "y_quadratic";
        assert!(derived.expect("linear").outputs().iter().any(quadratic));
    }

    #[test]
    fn a_range_outside_the_axis_is_refused() {
        let refused = |output, axis, from, to| {
            let made = doubled().with_output_range(output, axis, from, to);
            made.err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("y", 1, 2, 5).contains("no elements 2 to 5"));
        assert!(refused("y", 2, 0, 1).contains("axis 2"));
        assert!(refused("q", 1, 0, 1).contains('q'));
    }
}
