//! Whether the derivatives of a card's networks may jump, which decides what adaptive steps must look for.

use anyhow::Result;

use super::loaded::Model;
use crate::graph::Kink;

impl Model {
    /// Where derivatives of the network at `key` (`network`, `divergence_heads.a`) by state and time may jump; `None`
    /// where they are continuous. Times of an input of whole numbers are rounded or interpolated, which has kinks too.
    ///
    /// # Errors
    /// Where the file is no ONNX model.
    pub fn kink(&self, key: &str) -> Result<Option<Kink>> {
        let mut known = self.kinks.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = known.get(key) {
            return Ok(found.clone());
        }
        let found = self.find_kink(key)?;
        known.insert(key.to_owned(), found.clone());
        Ok(found)
    }

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

    /// What the networks that control adaptive steps are: smooth, or with a kink, by their keys.
    ///
    /// # Errors
    /// As [`Model::kink`].
    pub fn describe_kinks(&self) -> Result<Vec<(String, String)>> {
        let heads = self
            .card
            .divergence_heads
            .keys()
            .map(|name| format!("divergence_heads.{name}"));
        let words = |key: String| {
            let words = match self.kink(&key)? {
                None => "smooth: the derivative of no operator jumps".to_owned(),
                Some(Kink { node, op }) => {
                    format!(
                        "its derivative may jump, first at `{node}` ({op}): adaptive steps look for jumps"
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
