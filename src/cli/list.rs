//! `flowgauge list`

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::Exit;
use crate::convention;
use crate::dequantization::Dequantization;
use crate::divergence::Divergence;
use crate::flow::path::Path;
use crate::flow::prediction::Prediction;
use crate::metric::Metric;
use crate::sample::Sampler;
use crate::solve::Solver;

#[derive(Debug, Args)]
pub struct List {}

impl List {
    pub fn execute(self) -> Result<Exit> {
        let estimators: Vec<Divergence> =
            Divergence::names().iter().filter_map(|n| serde_json::from_value((*n).into()).ok()).collect();
        section("estimators", &estimators)?;
        section("solvers", &Solver::defaults())?;
        section("samplers", &Sampler::defaults())?;
        section("metrics", &Metric::defaults())?;
        section("dequantizations", &Dequantization::defaults())?;
        say!("conventions");
        convention::ALL.iter().for_each(|c| say!("  {:<16} {}: {}", c.name, c.unit, c.formula));
        section("predictions", &Prediction::ALL)?;
        section("paths", &Path::defaults())?;
        Ok(Exit::Well)
    }
}

/// One line per entry: its name and its parameters with their defaults.
fn section<T: Serialize>(title: &str, entries: &[T]) -> Result<()> {
    say!("{title}");
    for entry in entries {
        let (name, parameters) = match serde_json::to_value(entry)? {
            serde_json::Value::String(name) => (name, serde_json::Value::Null),
            serde_json::Value::Object(mut map) => match map.remove("kind") {
                Some(kind) => (kind.as_str().unwrap_or_default().to_owned(), serde_json::Value::Object(map)),
                None => map.into_iter().next().unwrap_or_default(),
            },
            other => (other.to_string(), serde_json::Value::Null),
        };
        let shown: Vec<String> = (parameters.as_object().into_iter().flatten())
            .map(|(k, v)| format!("{k}: {}", v.to_string().replace('"', "")))
            .collect();
        say!("  {name:<16} {}", shown.join(", "));
    }
    Ok(())
}
