//! Finds the coarsest number format in which a graph computes.

use crate::elem::ElemType;
use crate::model::Model;
use crate::proto::*;

/// The spacing of quantized numbers next to 1: eight bits, of which one is the sign.
const QUANTIZED: f64 = 1.0 / 128.0;

impl Model {
    /// Returns the distance from 1 to the next larger number in the coarsest format among the
    /// model's ports, weights, constants, casts and quantized operators. The format is float32 if
    /// none is declared.
    pub fn coarsest_spacing(&self) -> f64 {
        let found = spacings(self.graph()).into_iter().max_by(f64::total_cmp);
        found.or(ElemType::FLOAT.spacing()).unwrap_or_default()
    }
}

/// Returns the spacings of all formats in a graph and its subgraphs.
fn spacings(graph: &GraphProto) -> Vec<f64> {
    let ports = graph
        .input
        .iter()
        .chain(&graph.output)
        .filter_map(tensor_type)
        .map(|t| t.elem_type());
    let stored = graph.initializer.iter().map(|t| t.data_type());
    let mut found: Vec<f64> = ports
        .chain(stored)
        .filter_map(|elem| ElemType(elem).spacing())
        .collect();
    for node in &graph.node {
        let name = node.op_type();
        if name.contains("Quantize")
            || name.contains("Integer")
            || name.starts_with("QLinear")
            || name.contains("NBits")
        {
            found.push(QUANTIZED);
        }
        for attribute in &node.attribute {
            let cast = (name == "Cast" && attribute.name() == "to").then(|| attribute.i() as i32);
            let constant = attribute.t.as_ref().map(|t| t.data_type());
            found.extend(
                cast.into_iter()
                    .chain(constant)
                    .filter_map(|elem| ElemType(elem).spacing()),
            );
            found.extend(attribute.g.as_ref().map(spacings).unwrap_or_default());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes, floats, graph, node};

    #[test]
    fn the_coarsest_format_is_found() {
        let weights = || vec![floats("w", &[3, 3], &[0.1; 9])];
        let spacing = |nodes| {
            let made = bytes(graph(&["x: N 3"], &["y: N 3"], weights(), nodes), 20);
            Model::from_bytes("test", &made)
                .expect("a model")
                .coarsest_spacing()
        };
        assert_eq!(
            spacing(vec![node("MatMul", "x w", "y", vec![])]),
            f64::powi(0.5, 23)
        );
        let cast = |to| node("Cast", "x", "h", vec![crate::graph::emit::int("to", to)]);
        let back = || node("Cast", "h", "y", vec![crate::graph::emit::int("to", 1)]);
        assert_eq!(spacing(vec![cast(10), back()]), f64::powi(0.5, 10));
        assert_eq!(spacing(vec![cast(11), back()]), f64::powi(0.5, 23));
    }
}
