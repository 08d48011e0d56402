//! Results beside a model on the Hub, as a file in its folder `.eval_results`.

use anyhow::{Result, bail};
use serde_json::json;

use super::sentence::how_measured;
use super::{ExportSource, ExportedFile};
use crate::report::number_format::format_with_error_ascii;

/// One entry for each log-likelihood on a dataset of the Hub. The text is JSON, which is YAML.
///
/// # Errors
/// Fails if no dataset of the run is said to be one of the Hub: every entry names one.
pub(super) fn eval_results(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let datasets: Vec<&str> = source
        .tables
        .summary
        .iter()
        .map(|row| row.dataset.as_str())
        .collect();
    if let Some((unknown, _)) = source
        .hub_datasets
        .iter()
        .find(|(name, _)| !datasets.contains(&name.as_str()))
    {
        bail!(
            "--hub-dataset: the run has no dataset `{unknown}`; it has {}",
            datasets.join(", ")
        );
    }
    let mut entries = Vec::new();
    for row in &source.tables.summary {
        let Some((_, hub)) = source
            .hub_datasets
            .iter()
            .find(|(name, _)| *name == row.dataset)
        else {
            continue;
        };
        let (id, task) = hub.split_once(':').unwrap_or((hub, "density-estimation"));
        let (value, error, unit) = match row.bits_per_dim {
            Some(_) => (row.bits_per_dim, row.bits_per_dim_stderr, "bits/dim"),
            None => (row.nats, row.nats_stderr, "nats"),
        };
        entries.push(json!({
            "dataset": { "id": id, "task_id": task },
            "value": value,
            "date": source.date,
            "notes": format!(
                "{} {unit} of {} by {} ({}, n = {}). {}",
                format_with_error_ascii(value, error),
                row.model,
                row.estimator,
                row.kind,
                row.n,
                how_measured(source)
            ),
        }));
    }
    if entries.is_empty() {
        bail!(
            "--export eval-results: every entry names a dataset of the Hub; say which one a dataset of \
             the run is by --hub-dataset NAME=ORG/REPO, where NAME is one of {}",
            datasets.join(", ")
        );
    }
    let text = serde_json::to_string_pretty(&entries)? + "\n";
    Ok(vec![ExportedFile::text("flowgauge.yaml", text)])
}
