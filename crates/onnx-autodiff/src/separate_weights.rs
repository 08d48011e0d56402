//! Copies weights that products use in several ways, so that each way has a weight of its own.
//!
//! A differentiated graph multiplies by one weight both as it is and transposed, and convolves
//! forwards and backwards with one kernel. OpenVINO 2025.4 then computes a wrong result, as if it
//! used the packed weight of one product for the other. With a copy for each way, the result is
//! right.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::model::Model;
use crate::names::Names;
use crate::proto::*;

/// The operators whose weights runtimes pack, with the attributes that determine how the weight is
/// used.
const PRODUCTS: [(&str, &[&str]); 4] = [
    ("MatMul", &[]),
    ("Gemm", &["transA", "transB"]),
    ("Conv", &[]),
    ("ConvTranspose", &[]),
];

/// How a node uses a weight: the operator, the index of the input, and the values of the
/// attributes.
type WeightUse = (String, usize, Vec<i64>);

impl Model {
    /// Returns the model with a copy of a weight for each way in which products use it. Returns
    /// `None` if each weight is used in one way.
    pub fn with_separate_weights(&self) -> Option<Model> {
        let graph = self.graph();
        let fed: HashSet<&str> = graph.input.iter().map(|input| input.name()).collect();
        let stored: HashMap<&str, &TensorProto> = (graph.initializer.iter())
            .map(|tensor| (tensor.name(), tensor))
            .filter(|(name, tensor)| tensor.dims.len() >= 2 && !fed.contains(name))
            .collect();
        let mut ways: BTreeMap<&str, Vec<WeightUse>> = BTreeMap::new();
        for node in &graph.node {
            for (index, name) in node.input.iter().enumerate() {
                let (Some(way), Some((name, _))) =
                    (weight_use(node, index), stored.get_key_value(name.as_str()))
                else {
                    continue;
                };
                let known = ways.entry(name).or_default();
                if !known.contains(&way) {
                    known.push(way);
                }
            }
        }
        ways.retain(|_, ways| ways.len() > 1);
        if ways.is_empty() {
            return None;
        }
        let mut taken = Names::of_values(graph);
        // The first way keeps the original weight.
        let mut names: HashMap<(&str, &WeightUse), String> = HashMap::new();
        for (name, ways) in &ways {
            for (number, way) in ways.iter().enumerate().skip(1) {
                let copy = taken.reserve(&format!("{name}_copy_{number}"));
                names.insert((name, way), copy);
            }
        }
        let mut proto = self.proto.clone();
        let copied = proto.graph.as_mut()?;
        for ((of, _), name) in &names {
            copied.initializer.push(TensorProto {
                name: Some(name.clone()),
                ..stored[of].clone()
            });
        }
        for node in &mut copied.node {
            for index in 0..node.input.len() {
                let Some(way) = weight_use(node, index) else {
                    continue;
                };
                let copy = names.get(&(node.input[index].as_str(), &way)).cloned();
                if let Some(name) = copy {
                    node.input[index] = name;
                }
            }
        }
        Some(Model {
            file: self.file.clone(),
            proto,
        })
    }
}

/// Returns how a product uses the input at an index. Returns `None` if the node is no product.
fn weight_use(node: &NodeProto, index: usize) -> Option<WeightUse> {
    let (operator, turned) = PRODUCTS
        .iter()
        .find(|(operator, _)| *operator == node.op_type())?;
    let number = |name: &&str| {
        node.attribute
            .iter()
            .find(|a| a.name() == *name)
            .map_or(0, |a| a.i())
    };
    Some((
        (*operator).to_owned(),
        index,
        turned.iter().map(number).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::emit::int;
    use crate::testing::{bytes, floats, graph, node};

    fn separated(nodes: Vec<NodeProto>) -> Option<Model> {
        let weights = vec![floats("w", &[3, 3], &[0.1; 9])];
        let made = bytes(graph(&["x: N 3"], &["y: N 3"], weights, nodes), 20);
        Model::from_bytes("test", &made)
            .expect("a model")
            .with_separate_weights()
    }

    #[test]
    fn a_weight_that_is_also_taken_transposed_is_copied() {
        let nodes = vec![
            node("Gemm", "x w", "a", vec![int("transB", 1)]),
            node("MatMul", "a w", "b", vec![]),
            node("MatMul", "b w", "y", vec![]),
        ];
        let model = separated(nodes).expect("copied");
        let inputs: Vec<&str> = model
            .graph()
            .node
            .iter()
            .map(|n| n.input[1].as_str())
            .collect();
        assert_eq!(inputs, ["w", "w_copy_1", "w_copy_1"]);
        let [own, copy] = &model.graph().initializer[..] else {
            panic!("a weight and its copy")
        };
        assert_eq!(
            (copy.name(), &copy.dims, &copy.float_data),
            ("w_copy_1", &own.dims, &own.float_data)
        );
        assert!(Model::from_bytes("again", &model.to_bytes().expect("bytes")).is_ok());
        assert!(model.with_separate_weights().is_none());
    }

    #[test]
    fn a_weight_that_is_taken_in_one_way_stays_one() {
        assert!(
            separated(vec![
                node("MatMul", "x w", "a", vec![]),
                node("MatMul", "a w", "y", vec![])
            ])
            .is_none()
        );
        assert!(
            separated(vec![
                node("MatMul", "x w", "a", vec![]),
                node("Add", "a w", "y", vec![])
            ])
            .is_none()
        );
    }
}
