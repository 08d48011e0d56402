//! Whether the derivatives of a model's networks may jump. If they may, adaptive solvers look for
//! jumps.

use anyhow::Result;

use super::loaded::Model;
use crate::graph::Kink;

impl Model {
    /// Returns the first operator of the network at `key` (such as `network` or
    /// `divergence_heads.a`) at which a derivative with respect to state or time may jump. The
    /// result is `None` if all derivatives are continuous. A time input of whole numbers counts as
    /// a kink, because its times are rounded or interpolated.
    ///
    /// # Errors
    /// Fails if the file is not an ONNX model.
    pub fn kink(&self, key: &str) -> Result<Option<Kink>> {
        let mut known = self.caches.kinks.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = known.get(key) {
            return Ok(found.clone());
        }
        let found = self.find_kink(key)?;
        known.insert(key.to_owned(), found.clone());
        Ok(found)
    }

    /// Searches for the kink that [`Model::kink`] returns.
    fn find_kink(&self, key: &str) -> Result<Option<Kink>> {
        let file = format!("{key}.file");
        let (x, time, output) = self.state_time_output_names(&file);
        let graph = self.original_graph_at(&file)?;
        let whole = |name: &str| {
            graph
                .inputs()
                .iter()
                .any(|port| port.name == name && !port.elem.is_float())
        };
        if let Some(time) = time.filter(|time| whole(time)) {
            return Ok(Some(Kink {
                node: time.to_owned(),
                op: "whole numbers of time".to_owned(),
            }));
        }
        let varies: Vec<&str> = [Some(x), time].into_iter().flatten().collect();
        Ok(graph.kink(&varies, output)?)
    }

    /// Describes the network and every head for the user: smooth, or with the first kink. Each
    /// description has the card's key of the network.
    ///
    /// # Errors
    /// Fails if a file is not an ONNX model.
    pub fn describe_kinks(&self) -> Result<Vec<(String, String)>> {
        let heads = self
            .card
            .divergence_heads
            .keys()
            .map(|name| format!("divergence_heads.{name}"));
        let words = |key: String| {
            let words = match self.kink(&key)? {
                None => "smooth: no operator has a derivative that jumps".to_owned(),
                Some(Kink { node, op }) => {
                    format!(
                        "its derivative may jump, first at `{node}` ({op}); adaptive steps look \
                         for jumps"
                    )
                }
            };
            Ok((key, words))
        };
        std::iter::once("network".to_owned())
            .chain(heads)
            .map(words)
            .collect()
    }
}
