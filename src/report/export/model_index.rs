//! Results in the metadata of a model card on the Hub (`model-index`).

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::{ExportSource, ExportedFile};
use crate::report::number_format::format_with_error_ascii;
use crate::report::text::slug;
use crate::rows::{MetricRow, SummaryRow};

/// One entry for each model, with a result for each dataset. The text is JSON, which is YAML: no name
/// can end a string.
pub(super) fn model_index(source: &ExportSource) -> Result<Vec<ExportedFile>> {
    let mut entries = Vec::new();
    for model in source.facts.models.iter().map(|model| model.name.as_str()) {
        let mut results = Vec::new();
        let rows: Vec<&SummaryRow> = source
            .tables
            .summary
            .iter()
            .filter(|row| row.model == model)
            .collect();
        let same = |a: &&SummaryRow, b: &&SummaryRow| a.dataset == b.dataset;
        for group in rows.chunk_by(same) {
            let metrics: Vec<Value> = group
                .iter()
                .flat_map(|row| likelihood_metrics(row))
                .collect();
            results.push(result(
                source,
                "density-estimation",
                "Density estimation",
                &group[0].dataset,
                metrics,
            ));
        }
        let drawn: Vec<Value> = (source.tables.metrics.iter())
            .filter(|row| row.model == model && row.sampler != "data")
            .map(sample_metric)
            .collect();
        if !drawn.is_empty() {
            let reference = source.facts.data.iter().find(|data| data.model == model);
            let dataset = reference.map_or("reference", |data| data.file.as_str());
            results.push(result(
                source,
                "unconditional-generation",
                "Sampling",
                dataset,
                drawn,
            ));
        }
        if !results.is_empty() {
            entries.push(json!({ "name": model, "results": results }));
        }
    }
    if entries.is_empty() {
        bail!("the run has neither log-likelihoods nor statistics of samples");
    }
    let document = json!({ "model-index": entries });
    let text = serde_json::to_string_pretty(&document)? + "\n";
    Ok(vec![ExportedFile::text("model-index.yaml", text)])
}

fn result(
    source: &ExportSource,
    task: &str,
    name: &str,
    dataset: &str,
    metrics: Vec<Value>,
) -> Value {
    let known = source.hub_datasets.iter().find(|(own, _)| own == dataset);
    let kind = known.map_or_else(|| slug(dataset), |(_, hub)| hub.clone());
    json!({
        "task": { "type": task, "name": name },
        "dataset": { "type": kind, "name": dataset },
        "metrics": metrics,
    })
}

fn likelihood_metrics(row: &SummaryRow) -> Vec<Value> {
    let how = match row.kind.follows_path() {
        true => format!("{}, {}", row.estimator, row.solver),
        false => row.estimator.clone(),
    };
    let metric = |kind: &str, unit: &str, value: Option<f64>, error: Option<f64>| {
        value.map(|_| {
            json!({
                "type": kind,
                "value": format_with_error_ascii(value, error),
                "name": format!("{unit} ({how}; {}, n = {})", row.kind, row.n),
            })
        })
    };
    [
        metric(
            "bits_per_dim",
            "bits/dim",
            row.bits_per_dim,
            row.bits_per_dim_stderr,
        ),
        metric(
            "log_likelihood",
            "log-likelihood in nats",
            row.nats,
            row.nats_stderr,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn sample_metric(row: &MetricRow) -> Value {
    json!({
        "type": row.metric,
        "value": format_with_error_ascii(Some(row.value), row.stderr),
        "name": format!(
            "{} on {} features ({}, {} against {} samples)",
            row.metric, row.features, row.sampler, row.n_generated, row.n_reference
        ),
    })
}
