//! Sizes that exporters leave open (heights, widths, channels), fixed from the card before a graph
//! is differentiated.

use super::card::null_key;
use super::conditions::{ConditionSpec, null_value};
use super::loaded::{CardPorts, Model};
use crate::graph::{self, Dim, KnownPort, Port};

impl Model {
    /// Returns the graph with its open axes fixed as far as the card declares their sizes. The
    /// batch axis stays open.
    pub(super) fn with_known_axes(
        &self,
        graph: graph::Model,
        declared: &CardPorts,
    ) -> graph::Model {
        let ports: Vec<Port> = graph.inputs().into_iter().chain(graph.outputs()).collect();
        let state: Vec<Option<usize>> = std::iter::once(None)
            .chain(self.card.shape.iter().copied().map(Some))
            .collect();
        let mut known: Vec<KnownPort> = Vec::new();
        for name in &declared.state_ports {
            known.push(KnownPort {
                name: (*name).to_owned(),
                axes: state.clone(),
            });
        }
        for port in ports
            .iter()
            .filter(|port| declared.scalar_ports.contains(&port.name.as_str()))
        {
            let axes = [None, Some(1)].into_iter().take(port.dims.len()).collect();
            known.push(KnownPort {
                name: port.name.clone(),
                axes,
            });
        }
        for (name, constant) in declared.constants {
            let port = ports.iter().find(|port| port.name == *name);
            let values = constant
                .values(self.constant_bytes(declared.key, name))
                .ok();
            if let (Some(port), Some(values)) = (port, values)
                && let Some(axes) = constant_axes(port, values.shape())
            {
                known.push(KnownPort {
                    name: name.clone(),
                    axes,
                });
            }
        }
        for (name, spec) in declared.conditions {
            let port = ports.iter().find(|port| port.name == spec.input);
            if let (Some(port), Some(shape)) =
                (port, self.condition_shape(name, spec, declared.key))
                && let Some(axes) = constant_axes(port, &shape)
            {
                known.push(KnownPort {
                    name: spec.input.clone(),
                    axes,
                });
            }
        }
        graph.with_axes(&known)
    }

    /// The shape of one sample's value of a condition, from its values or its null value.
    fn condition_shape(&self, name: &str, spec: &ConditionSpec, key: &str) -> Option<Vec<usize>> {
        use super::conditions::ConditionValues;
        let network = key.strip_suffix(".file").unwrap_or(key);
        match self.conditions.by_name.get(name).map(|known| &known.values) {
            Some(ConditionValues::Constant(value)) => Some(value.shape().to_vec()),
            Some(ConditionValues::PerSample(rows)) => Some(rows.shape()[1..].to_vec()),
            Some(ConditionValues::Uniform { .. } | ConditionValues::Balanced { .. }) => {
                Some(Vec::new())
            }
            Some(ConditionValues::Null) | None => {
                let bytes = self.array_bytes(&null_key(network, name));
                let null = null_value(spec, bytes).ok()??;
                Some(null.shape().to_vec())
            }
        }
    }
}

/// Returns the sizes of an input that takes a constant of shape `values`; `None` stands for the
/// batch axis, an open first axis. The result is `None` if the shapes do not fit.
fn constant_axes(port: &Port, values: &[usize]) -> Option<Vec<Option<usize>>> {
    let sizes = || values.iter().copied().map(Some);
    let batched = !matches!(port.dims.first(), Some(Dim::Fixed(_)) | None);
    match (port.dims.len().checked_sub(values.len())?, batched) {
        (0, false) => Some(sizes().collect()),
        (0, true) if values.first() == Some(&1) => {
            Some(std::iter::once(None).chain(sizes().skip(1)).collect())
        }
        (1, true) => Some(std::iter::once(None).chain(sizes()).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::ElemType;

    #[test]
    fn constant_fixes_all_axes_but_the_batch() {
        let port = |dims: &[Dim]| Port {
            name: "c".to_owned(),
            elem: ElemType::FLOAT,
            dims: dims.to_vec(),
            ranked: true,
        };
        let open = || Dim::Symbol("n".to_owned());
        assert_eq!(
            constant_axes(&port(&[open(), open()]), &[7]),
            Some(vec![None, Some(7)])
        );
        assert_eq!(
            constant_axes(&port(&[open(), open()]), &[1, 7]),
            Some(vec![None, Some(7)])
        );
        assert_eq!(
            constant_axes(&port(&[Dim::Fixed(2), open()]), &[2, 7]),
            Some(vec![Some(2), Some(7)])
        );
        assert_eq!(constant_axes(&port(&[open(), open()]), &[3, 7]), None);
        assert_eq!(constant_axes(&port(&[open()]), &[]), Some(vec![None]));
        assert_eq!(constant_axes(&port(&[]), &[]), Some(vec![]));
    }
}
