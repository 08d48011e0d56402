//! Fixes axes whose sizes the file leaves open and the caller knows.

use std::collections::HashMap;

use crate::model::Model;
use crate::proto::*;

/// The axes of an input or output as the caller knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPort {
    /// The name of the input or output.
    pub name: String,
    /// One entry per axis: its size, or `None` for the batch axis.
    pub axes: Vec<Option<usize>>,
}

impl Model {
    /// Returns the model with the open axes of the ports fixed to the known sizes. A symbolic size
    /// is fixed wherever its name occurs, and the batch axes of all these ports receive one name.
    /// Sizes that the file already fixes, and ports of another rank, stay as they are.
    pub fn with_axes(mut self, ports: &[KnownPort]) -> Model {
        let Some(graph) = &mut self.proto.graph else {
            return self;
        };
        let batch = batch_name(graph, ports);
        let sizes = named_sizes(graph, ports, &batch);
        for port in ports {
            let mut infos = graph
                .input
                .iter_mut()
                .chain(&mut graph.output)
                .filter(|info| info.name() == port.name);
            if let Some(tensor) = infos.next().and_then(ValueInfoProto::tensor_mut) {
                fix(tensor, &port.axes, &batch);
            }
        }
        for info in graph
            .input
            .iter_mut()
            .chain(&mut graph.output)
            .chain(&mut graph.value_info)
        {
            for dim in info
                .tensor_mut()
                .and_then(|tensor| tensor.shape.as_mut())
                .into_iter()
                .flat_map(|s| &mut s.dim)
            {
                if let Some(DimensionValue::Param(name)) = &dim.value
                    && let Some(size) = sizes.get(name)
                {
                    dim.value = Some(DimensionValue::Value(*size));
                }
            }
        }
        self
    }
}

/// Returns the axes that the file declares for a port. The list is empty if their number differs
/// from that of the known axes.
fn declared<'a>(graph: &'a GraphProto, port: &KnownPort) -> &'a [DimensionProto] {
    let info = graph
        .input
        .iter()
        .chain(&graph.output)
        .find(|info| info.name() == port.name);
    let shape = info
        .and_then(tensor_type)
        .and_then(|tensor| tensor.shape.as_ref());
    shape
        .map(|shape| &shape.dim[..])
        .filter(|dims| dims.len() == port.axes.len())
        .unwrap_or_default()
}

/// Returns the name of the batch axis: the first name that one of the ports declares for it, or
/// `batch`.
fn batch_name(graph: &GraphProto, ports: &[KnownPort]) -> String {
    let named = ports
        .iter()
        .flat_map(|port| declared(graph, port).iter().zip(&port.axes))
        .find_map(|pair| match pair {
            (
                DimensionProto {
                    value: Some(DimensionValue::Param(name)),
                },
                None,
            ) if !name.is_empty() => Some(name.clone()),
            _ => None,
        });
    named.unwrap_or_else(|| "batch".into())
}

/// Returns the sizes of the named axes. Names with two different sizes and the name of the batch
/// axis are left out.
fn named_sizes(graph: &GraphProto, ports: &[KnownPort], batch: &str) -> HashMap<String, i64> {
    let mut sizes: HashMap<String, Option<i64>> = HashMap::from([(batch.to_string(), None)]);
    for (dim, known) in ports
        .iter()
        .flat_map(|port| declared(graph, port).iter().zip(&port.axes))
    {
        if let (Some(DimensionValue::Param(name)), Some(size)) = (&dim.value, known) {
            let size = Some(*size as i64);
            sizes
                .entry(name.clone())
                .and_modify(|known| *known = known.filter(|n| Some(*n) == size))
                .or_insert(size);
        }
    }
    sizes
        .into_iter()
        .filter_map(|(name, size)| Some((name, size?)))
        .collect()
}

/// Fixes the axes of one tensor. A tensor without a declared shape receives the known one.
fn fix(tensor: &mut TensorTypeProto, axes: &[Option<usize>], batch: &str) {
    let open = || {
        axes.iter()
            .map(|_| DimensionProto { value: None })
            .collect()
    };
    let shape = tensor
        .shape
        .get_or_insert_with(|| TensorShapeProto { dim: open() });
    if shape.dim.len() != axes.len() {
        return;
    }
    for (dim, known) in shape.dim.iter_mut().zip(axes) {
        if !matches!(dim.value, Some(DimensionValue::Value(n)) if n >= 0) {
            dim.value = Some(match known {
                Some(size) => DimensionValue::Value(*size as i64),
                None => DimensionValue::Param(batch.to_string()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bytes, graph, integers, node};
    use crate::{Dim, Mode, differentiate};

    fn known(name: &str, axes: &[Option<usize>]) -> KnownPort {
        KnownPort {
            name: name.into(),
            axes: axes.to_vec(),
        }
    }

    #[test]
    fn open_axes_become_sizes_and_the_batch_has_one_name() {
        let nodes = vec![
            node("Flatten", "x", "f", vec![]),
            node("Reshape", "f shape", "r", vec![]),
            node("Add", "r x", "y", vec![]),
        ];
        let constants = vec![integers("shape", &[4], &[-1, 2, 4, 4])];
        let file = graph(&["x: b c h h"], &["y: n0 c n2 n3"], constants, nodes);
        let model = || Model::from_bytes("m", &bytes(file.clone(), 17)).unwrap();
        let axes = [None, Some(2), Some(4), Some(4)];
        let fixed = || model().with_axes(&[known("x", &axes), known("y", &axes)]);
        let dims = [
            Dim::Symbol("b".into()),
            Dim::Fixed(2),
            Dim::Fixed(4),
            Dim::Fixed(4),
        ];
        assert_eq!(
            (
                &fixed().inputs()[0].dims[..],
                &fixed().outputs()[0].dims[..]
            ),
            (&dims[..], &dims[..])
        );
        let derived = differentiate(&fixed(), Mode::Jvp, None, None).unwrap();
        assert!(
            derived
                .outputs()
                .iter()
                .any(|port| port.name == "y_quadratic")
        );
    }

    #[test]
    fn what_the_file_says_stays() {
        let model = Model::from_bytes(
            "m",
            &bytes(
                graph(
                    &["x: n n 3"],
                    &["y: n n 3"],
                    vec![],
                    vec![node("Exp", "x", "y", vec![])],
                ),
                17,
            ),
        );
        let fixed = model.unwrap().with_axes(&[
            known("x", &[None, Some(5), Some(7)]),
            known("y", &[None, Some(5)]),
        ]);
        let (n, five) = (Dim::Symbol("n".into()), Dim::Fixed(5));
        assert_eq!(fixed.inputs()[0].dims, [n.clone(), five, Dim::Fixed(3)]);
        assert_eq!(fixed.outputs()[0].dims, [n.clone(), n, Dim::Fixed(3)]);
    }
}
