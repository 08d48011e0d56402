//! A model with its networks in another floating-point type than that of their files.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use super::files::FileContent;
use super::loaded::{CardPorts, Model};
use super::precision::NetworkPrecision;
use crate::graph;

impl Model {
    /// Returns the model with all its networks in another floating-point type, those of the models
    /// beside it too. The hashes remain those of the files.
    ///
    /// # Errors
    /// Fails if a network cannot be computed in that type. The message names its file and all nodes
    /// that prevent it.
    pub(super) fn with_precision(mut self, precision: NetworkPrecision) -> Result<Model> {
        if self.precision == Some(precision) {
            return Ok(self);
        }
        let beside = [&mut self.weak_model, &mut self.variance_model];
        for model in beside.into_iter().flatten() {
            let copy = model.variant(&model.conditions);
            *model = Arc::new(copy.with_precision(precision)?);
        }
        let keys: Vec<String> = self
            .files
            .iter()
            // The energy is the target's, so that its precision is no matter of the model.
            .filter(|f| f.is_network() && f.key != "energy.file")
            .map(|f| f.key.clone())
            .collect();
        for key in keys {
            let converted = self
                .converted_bytes(&key, precision)
                .with_context(|| format!("{key} in {}", precision.name()))?;
            if let Some(file) = self.files.iter_mut().find(|file| file.key == key) {
                file.original_content = Some(std::mem::replace(
                    &mut file.content,
                    FileContent::Network(Arc::new(converted)),
                ));
            }
        }
        self.precision = Some(precision);
        Ok(self)
    }

    /// Returns the network at `key`, converted to another floating-point type.
    ///
    /// # Errors
    /// Fails if the network is too large for one message or cannot be computed in that type.
    fn converted_bytes(&self, key: &str, precision: NetworkPrecision) -> Result<Vec<u8>> {
        if matches!(self.file(key)?.content, FileContent::OversizedNetwork) {
            bail!(
                "a model of more than 2 GB keeps its type; only a model that fits into one ONNX \
                 message can be converted"
            );
        }
        Ok(self
            .graph_with_known_axes(key)?
            .in_precision(precision.elem())?
            .to_bytes()?)
    }

    /// Returns the graph at `key` with its open axes fixed, as far as the card declares them.
    fn graph_with_known_axes(&self, key: &str) -> Result<graph::Model> {
        if key == "network.file" {
            return self.network_graph_with_known_axes();
        }
        let graph = self.graph_at(key)?;
        let part = |prefix: &str| {
            key.strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(".file"))
        };
        if let Some(name) = part("flow_maps.") {
            return self.flow_map_graph_with_known_axes(name, graph);
        }
        let none = BTreeMap::new();
        let constants =
            part("divergence_heads.").and_then(|name| self.card.divergence_heads.get(name));
        let (x, time, _) = self.state_time_output_names(key);
        let declared = CardPorts {
            key,
            state_ports: vec![x],
            scalar_ports: time.into_iter().collect(),
            constants: constants.map_or(&none, |head| &head.constants),
            conditions: &BTreeMap::new(),
        };
        Ok(self.with_known_axes(graph, &declared))
    }
}
