//! A run directory's derived files: tables, plots and page, all rebuilt from the journal.

use std::path::Path;

use anyhow::{Result, bail};

use crate::journal::{self, Journal, Outcome, outstanding, read_plan, write_whole};
use crate::plan::{Plan, PlannedModel};
use crate::report::{self, DataFacts, Facts, ModelFacts};
use crate::rows::{Summary, Tables};
use crate::table;

/// What was published, and what is missing from it.
pub struct Published {
    pub tables: Tables,
    pub failed_trials: usize,
    pub outstanding: usize,
}

impl Published {
    /// Rows without numbers, over all estimators.
    pub fn broken_rows(&self) -> usize {
        self.tables.summary.iter().map(|s| s.failed).sum()
    }

    /// The summary as lines for a terminal.
    pub fn digest(&self) -> String {
        let mut out = String::new();
        let mut last = None;
        for row in &self.tables.summary {
            let group = (&row.model, &row.dataset, &row.solver);
            if last != Some(group) {
                out += &format!("\n{} on {}, {}\n", row.model, row.dataset, row.solver);
                out += &format!(
                    "  {:<34} {:>24} {:>20} {:>10} {:>10}\n",
                    "estimator", "mean", "bias, nats", "corr.", "cost"
                );
                last = Some(group);
            }
            out += &line(row);
        }
        for row in &self.tables.metrics {
            let error = row.stderr.map_or(String::new(), |e| format!(" ± {e:.3}"));
            out += &format!("\n{} {}: {} {:.4}{error}", row.model, row.sampler, row.metric, row.value);
        }
        out + "\n"
    }
}

/// Value ± standard error over the data; bias ± standard error, paired; cost in evaluations per sample.
fn line(row: &Summary) -> String {
    let with_error = |value: Option<f64>, error: Option<f64>, unit: &str| match (value, error) {
        (Some(v), Some(e)) => format!("{v:.4} ± {e:.4}{unit}"),
        (Some(v), None) => format!("{v:.4}{unit}"),
        _ => "–".to_owned(),
    };
    let mean = match row.bits_per_dim {
        Some(_) => with_error(row.bits_per_dim, row.bits_per_dim_stderr, " bpd"),
        None => with_error(row.nats, row.nats_stderr, " nats"),
    };
    let bias = with_error(row.bias, row.bias_stderr, "");
    let correlation = row.correlation.map_or("–".to_owned(), |c| format!("{c:.4}"));
    format!("  {:<34} {mean:>24} {bias:>20} {correlation:>10} {:>10.0}\n", row.estimator, row.cost)
}

/// Rebuilds tables, plots and page of one run directory from its journal; needs no ONNX Runtime.
///
/// # Errors
/// Where the directory is no run's, or a file in it is not what the run wrote, by its name.
pub fn publish(dir: &Path) -> Result<Published> {
    let file = read_plan(dir)?;
    let journal = Journal::read(dir)?;
    let damaged = journal::damaged(dir, &file.plan, &journal);
    if let Some((_, reason)) = damaged.first() {
        bail!("{}: {reason} ({} such); `flowgauge run` with its config mends it", dir.display(), damaged.len());
    }
    let tables = table::tables(dir, &file.plan, &journal)?;
    table::write(dir, &tables)?;
    let config = std::fs::read_to_string(dir.join("config.yaml")).unwrap_or_default();
    let facts = facts(&file.plan, &file.environment, &journal, config);
    let report = report::report(&tables, &facts)?;
    for figure in &report.figures {
        write_whole(&dir.join("plots").join(format!("{}.svg", figure.name)), figure.svg.as_bytes())?;
        write_whole(&dir.join("plots").join(format!("{}.png", figure.name)), &figure.png)?;
    }
    write_whole(&dir.join("index.html"), report.html.as_bytes())?;
    Ok(Published { tables, failed_trials: facts.trials_failed.len(), outstanding: facts.trials_outstanding })
}

/// The facts of one run.
fn facts(plan: &Plan, environment: &[(String, String)], journal: &Journal, config: String) -> Facts {
    let failed = |id: &str| match journal.outcomes.get(id) {
        Some(Outcome::Failed { error }) => Some(error.clone()),
        _ => None,
    };
    let mut environment = environment.to_vec();
    environment.push(("measuring took".to_owned(), format!("{:.0} s", journal.seconds)));
    Facts {
        name: plan.name.clone(),
        seed: plan.seed,
        models: plan.models.iter().map(model).collect(),
        data: plan
            .data
            .iter()
            .map(|d| DataFacts {
                model: plan.models[d.model].name.clone(),
                file: d.name.clone(),
                sha256: d.sha256.clone(),
                samples: d.samples,
                treatment: d.treatment.clone(),
            })
            .collect(),
        trials_finished: journal.outcomes.values().filter(|o| matches!(o, Outcome::Finished { .. })).count(),
        trials_failed: plan.trials.iter().filter_map(|t| Some((t.work.describe(plan), failed(&t.id)?))).collect(),
        trials_outstanding: outstanding(plan, journal, false).len(),
        environment,
        config,
    }
}

fn model(m: &PlannedModel) -> ModelFacts {
    let pairs = |value: &serde_json::Value, skip: &str| -> Vec<(String, String)> {
        let text = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        let map = value.as_object().into_iter().flatten();
        map.filter(|(k, _)| *k != skip).map(|(k, v)| (k.clone(), text(v))).collect()
    };
    let kind = m.path.get("kind").and_then(|k| k.as_str()).unwrap_or_default();
    let parameters: Vec<String> = pairs(&m.path, "kind").iter().map(|(k, v)| format!("{k}: {v}")).collect();
    let convention = match (m.range, m.levels) {
        (Some([low, high]), Some(levels)) => format!(
            "bits/dim = nats/dim / ln 2 + log2({levels} / ({high} − ({low}))) = nats/dim / ln 2 + {:.4}: \
             bits per dimension of data with {levels} levels, uniformly dequantized (an upper bound on the discrete code length)",
            (f64::from(levels) / (high - low)).log2()
        ),
        _ => "no bits/dim: the data are not quantized, so only nats and nats/dim are given".to_owned(),
    };
    ModelFacts {
        name: m.name.clone(),
        dim: m.shape.iter().product(),
        path: format!("{kind} {{{}}}", parameters.join(", ")),
        prediction: m.prediction.clone(),
        prior: format!("N(0, {}² I)", m.prior_std),
        parameters: m.parameters,
        files: m.files.iter().map(|f| (f.name.clone(), f.sha256.clone())).collect(),
        convention,
        provenance: pairs(&m.provenance, ""),
    }
}
