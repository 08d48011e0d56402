//! Rows of several runs in one table, with differences paired per sample where the runs evaluated the same
//! data.

use std::collections::BTreeMap;

use crate::host::hex;
use crate::num::stats;
use crate::report::Facts;
use crate::rows::{RunRow, SummaryRow, Tables};
use sha2::{Digest, Sha256};

use super::labelled_run::LabelledRun;

/// The rows of every dataset, by its SHA-256, that at least two of the runs evaluated. The first row of a
/// dataset is the reference of the first run, from which all differences are taken.
pub(super) fn run_rows(runs: &[LabelledRun]) -> Vec<RunRow> {
    let mut hashes: Vec<&str> = Vec::new();
    for run in runs {
        for data in &run.facts.data {
            if !hashes.contains(&data.sha256.as_str()) {
                hashes.push(&data.sha256);
            }
        }
    }
    let mut rows = Vec::new();
    for hash in hashes {
        let evaluated: Vec<(&LabelledRun, Vec<&SummaryRow>)> = runs
            .iter()
            .map(|run| (run, evaluated_rows(run, hash)))
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        if evaluated.len() > 1 {
            rows.extend(rows_of_dataset(&evaluated, hash));
        }
    }
    rows
}

/// The run's summary rows on the dataset with this hash, the reference first.
fn evaluated_rows<'a>(run: &'a LabelledRun, hash: &str) -> Vec<&'a SummaryRow> {
    let is_on = |row: &&SummaryRow| {
        let mut data = run.facts.data.iter();
        data.any(|data| data.sha256 == hash && data.model == row.model && data.file == row.dataset)
    };
    let mut rows: Vec<&SummaryRow> = run.tables.summary.iter().filter(is_on).collect();
    rows.sort_by_key(|row| row.estimator != row.reference);
    rows
}

fn rows_of_dataset(evaluated: &[(&LabelledRun, Vec<&SummaryRow>)], hash: &str) -> Vec<RunRow> {
    let (first_run, first_rows) = &evaluated[0];
    let baseline = samples_of(&first_run.tables, first_rows[0]);
    let mut rows = Vec::new();
    for (run, summary) in evaluated {
        for row in summary {
            let is_baseline = std::ptr::eq(*row, first_rows[0]);
            let own = samples_of(&run.tables, row);
            let differences: Vec<f64> = own
                .iter()
                .filter(|_| !is_baseline)
                .filter_map(|(sample, value)| Some(value - baseline.get(sample)?))
                .collect();
            let paired = stats::mean_estimate(&differences).filter(|mean| mean.stderr.is_some());
            let half = paired.as_ref().and_then(|mean| {
                Some(stats::confidence_half_width(
                    mean.stderr?,
                    Some(mean.n),
                    0.95,
                ))
            });
            let value = paired.as_ref().map(|mean| mean.value);
            rows.push(RunRow {
                run: run.label.clone(),
                model: row.model.clone(),
                model_sha256: model_hash(&run.facts, &row.model),
                dataset: row.dataset.clone(),
                data_sha256: hash.to_owned(),
                estimator: row.estimator.clone(),
                solver: row.solver.clone(),
                kind: row.kind,
                n: row.n,
                bits_per_dim: row.bits_per_dim,
                bits_per_dim_stderr: row.bits_per_dim_stderr,
                nats: row.nats,
                nats_stderr: row.nats_stderr,
                pairs: differences.len(),
                difference: value,
                difference_stderr: paired.and_then(|mean| mean.stderr),
                low: value.zip(half).map(|(value, half)| value - half),
                high: value.zip(half).map(|(value, half)| value + half),
            });
        }
    }
    rows
}

/// The log-likelihoods of a summary row by the index of the sample.
fn samples_of(tables: &Tables, row: &SummaryRow) -> BTreeMap<usize, f64> {
    let own = tables.samples.iter().filter(|sample| {
        (
            &sample.model,
            &sample.dataset,
            &sample.solver,
            &sample.estimator,
        ) == (&row.model, &row.dataset, &row.solver, &row.estimator)
    });
    own.filter_map(|sample| Some((sample.sample, sample.log_likelihood?)))
        .collect()
}

/// One hash for the files of a model: of their hashes, in the order of the plan.
fn model_hash(facts: &Facts, model: &str) -> String {
    let mut all = Sha256::new();
    let own = facts.models.iter().filter(|facts| facts.name == model);
    own.flat_map(|facts| &facts.files)
        .for_each(|(_, hash)| all.update(hash.as_bytes()));
    hex(&all.finalize())
}
