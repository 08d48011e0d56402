//! Estimates how much memory one sample takes inside a graph, by the known shapes.

use crate::error::GraphError;
use crate::graph::Shape;
use crate::import::import;
use crate::model::Model;

impl Model {
    /// Returns the number of elements, for one sample, of the largest value that a node makes: the
    /// product of its known sizes, where an unknown size counts as one. Returns 1 if no shape is
    /// known.
    ///
    /// # Errors
    ///
    /// Returns an error if the graph contradicts itself.
    pub fn widest(&self) -> Result<u64, GraphError> {
        let (g, _) = import(self, self.opset())?;
        let made = g
            .nodes
            .iter()
            .flat_map(|node| node.outputs.iter().flatten());
        let sizes = made.filter_map(|v| g.shape(*v)).map(known_elements);
        Ok(sizes.max().unwrap_or(1))
    }
}

/// Returns the product of the known sizes of a shape.
fn known_elements(shape: &Shape) -> u64 {
    let axis = |size: &crate::size::Size| {
        size.terms()
            .map(|(n, _)| n.unsigned_abs())
            .max()
            .unwrap_or(1)
            .max(1)
    };
    shape.iter().map(axis).fold(1, u64::saturating_mul)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes, floats, graph, node};

    #[test]
    fn the_largest_value_of_one_sample_is_counted() {
        let weights = vec![
            floats("w", &[3, 40], &[0.1; 120]),
            floats("v", &[40, 3], &[0.1; 120]),
        ];
        let nodes = vec![
            node("MatMul", "x w", "a", vec![]),
            node("MatMul", "a v", "y", vec![]),
        ];
        let model = Model::from_bytes(
            "test",
            &bytes(graph(&["x: N 3"], &["y: N 3"], weights, nodes), 20),
        );
        assert_eq!(model.expect("a model").widest().expect("a graph"), 40);
    }
}
