//! The summary of every estimator, and the paired differences between estimators.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use polars::prelude::*;

use crate::num::stats;
use crate::rows::{EstimateKind, LikelihoodRow, PairRow, Status, SummaryRow, Tables};

/// A standard error below this part of the usual one is rounding, of probes that all agree.
const ROUNDING_ERROR: f64 = 1e-9;

/// Adds the summary of every estimator and the paired differences between estimators, for each
/// group of rows with the same model, dataset and solver.
///
/// `references` has the labels of the reference estimator and its solver for each trial's id.
///
/// # Errors
/// Fails if the data frame library reports an error.
pub(super) fn add_summaries_and_pairs(
    rows: &[LikelihoodRow],
    references: &BTreeMap<String, [String; 2]>,
    tables: &mut Tables,
) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let index: Vec<u32> = (0..rows.len() as u32).collect();
    let text = |f: fn(&LikelihoodRow) -> &str| rows.iter().map(f).collect::<Vec<&str>>();
    let frame = DataFrame::new(
        rows.len(),
        vec![
            Column::new("row".into(), index),
            Column::new("model".into(), text(|r| &r.model)),
            Column::new("dataset".into(), text(|r| &r.dataset)),
            Column::new("solver".into(), text(|r| &r.solver)),
            Column::new("estimator".into(), text(|r| &r.estimator)),
            Column::new(
                "sample".into(),
                rows.iter().map(|r| r.sample as u64).collect::<Vec<_>>(),
            ),
            Column::new(
                "value".into(),
                rows.iter().map(|r| r.log_likelihood).collect::<Vec<_>>(),
            ),
            Column::new(
                "stderr".into(),
                rows.iter().map(|r| r.stderr).collect::<Vec<_>>(),
            ),
        ],
    )?;
    let first = |f: &DataFrame| -> Result<&LikelihoodRow> {
        let row = f
            .column("row")?
            .u32()?
            .get(0)
            .ok_or_else(|| anyhow!("an empty group"))?;
        Ok(&rows[row as usize])
    };
    let everywhere =
        frame.partition_by_stable(["model", "dataset", "solver", "estimator"], true)?;
    for group in frame.partition_by_stable(["model", "dataset", "solver"], true)? {
        let estimators = group.partition_by_stable(["estimator"], true)?;
        for one in &estimators {
            // Entries that share model, dataset and solver may have references of their own.
            let here = first(one)?;
            let [reference, solver] = references.get(&here.trial).cloned().unwrap_or_default();
            let is_base = |r: &LikelihoodRow| {
                (&r.model, &r.dataset, &r.solver, &r.estimator)
                    == (&here.model, &here.dataset, &solver, &reference)
            };
            let base = everywhere.iter().find(|e| first(e).is_ok_and(is_base));
            // If the reference has the same solver but no rows, the first estimator with rows
            // replaces it.
            let base = if solver == here.solver {
                base.or(estimators.first())
            } else {
                base
            };
            let base = ReferenceRows {
                rows: base,
                first_row: base.map(&first).transpose()?,
                planned_labels: [&reference, &solver],
            };
            tables
                .summary
                .push(summarize_estimator(one, &base, rows, here)?);
        }
        for (i, one) in estimators.iter().enumerate() {
            for other in &estimators[i + 1..] {
                tables.pairs.extend(paired_difference_row(
                    other,
                    one,
                    first(other)?,
                    &first(one)?.estimator,
                )?);
            }
        }
    }
    Ok(())
}

/// The log-likelihoods of two estimators on the samples for which both have one.
#[derive(Default)]
struct PairedLogLikelihoods {
    /// The first estimator's log-likelihoods in nats.
    a: Vec<f64>,
    /// The second estimator's log-likelihoods in nats.
    b: Vec<f64>,
    /// The standard errors of the first estimator.
    stderr: Vec<Option<f64>>,
}

/// Joins the rows of two estimators by the sample's index.
fn join_by_sample(a: &DataFrame, b: &DataFrame) -> Result<PairedLogLikelihoods> {
    let part = |f: &DataFrame| f.select(["sample", "value", "stderr"]);
    let mut joined = part(a)?.inner_join(&part(b)?, ["sample"], ["sample"])?;
    joined.sort_in_place(["sample"], SortMultipleOptions::default())?;
    let column = |name: &str| -> Result<Vec<Option<f64>>> {
        Ok(joined.column(name)?.f64()?.iter().collect())
    };
    let (left, right, stderr) = (column("value")?, column("value_right")?, column("stderr")?);
    let mut out = PairedLogLikelihoods {
        a: Vec::new(),
        b: Vec::new(),
        stderr: Vec::new(),
    };
    for ((a, b), s) in left.into_iter().zip(right).zip(stderr) {
        if let (Some(a), Some(b)) = (a, b) {
            out.a.push(a);
            out.b.push(b);
            out.stderr.push(s);
        }
    }
    Ok(out)
}

impl PairedLogLikelihoods {
    /// The first estimator's values minus the second's.
    fn differences(&self) -> Vec<f64> {
        self.a.iter().zip(&self.b).map(|(a, b)| a - b).collect()
    }
}

/// The reference estimate with which the rows of an estimator are compared.
struct ReferenceRows<'a> {
    /// The rows of the reference. `None` if its trials have not finished.
    rows: Option<&'a DataFrame>,
    first_row: Option<&'a LikelihoodRow>,
    /// The labels of the estimator and the solver in the plan.
    planned_labels: [&'a str; 2],
}

impl ReferenceRows<'_> {
    /// The labels of the estimator and the solver: those of the rows, or those of the plan.
    fn labels(&self) -> [&str; 2] {
        self.first_row
            .map_or(self.planned_labels, |row| [&row.estimator, &row.solver])
    }

    /// Whether a row is one of the reference.
    fn matches(&self, row: &LikelihoodRow) -> bool {
        self.labels() == [&row.estimator, &row.solver]
    }
}

/// The summary row of one estimator. `rows` are all rows; `one` has the positions of the
/// estimator's own.
fn summarize_estimator(
    one: &DataFrame,
    base: &ReferenceRows,
    rows: &[LikelihoodRow],
    first: &LikelihoodRow,
) -> Result<SummaryRow> {
    let mine: Vec<&LikelihoodRow> = one
        .column("row")?
        .u32()?
        .iter()
        .flatten()
        .map(|i| &rows[i as usize])
        .collect();
    let present = |f: fn(&LikelihoodRow) -> Option<f64>| {
        mine.iter().filter_map(|r| f(r)).collect::<Vec<f64>>()
    };
    let mean_of =
        |f: fn(&LikelihoodRow) -> f64| mine.iter().map(|r| f(r)).sum::<f64>() / mine.len() as f64;
    let nats = stats::mean_estimate(&present(|r| r.log_likelihood));
    let bits = stats::mean_estimate(&present(|r| r.bits_per_dim));
    let paired = base
        .rows
        .map_or(Ok(PairedLogLikelihoods::default()), |base| {
            join_by_sample(one, base)
        })?;
    let gaps = paired.differences();
    let bias = stats::mean_estimate(&gaps).filter(|_| !base.matches(first));
    let [reference, solver] = base.labels();
    // Where all probes of a sample agree, its error is rounding and says nothing.
    let errors: Vec<f64> = paired.stderr.iter().copied().flatten().collect();
    let rounding = stats::rms(&errors).map_or(0.0, |size| ROUNDING_ERROR * size);
    let scaled: Vec<f64> = gaps
        .iter()
        .zip(&paired.stderr)
        .filter_map(|(g, s)| s.filter(|s| *s > rounding).map(|s| g / s))
        .collect();
    let (path, own) = (
        mean_of(|r| r.path_seconds),
        mean_of(|r| r.divergence_seconds),
    );
    let evaluations = mean_of(|r| r.evaluations as f64);
    Ok(SummaryRow {
        model: first.model.clone(),
        dataset: first.dataset.clone(),
        estimator: first.estimator.clone(),
        solver: first.solver.clone(),
        kind: first.kind,
        n: nats.map_or(0, |e| e.n),
        failed: mine.iter().filter(|r| r.status != Status::Ok).count(),
        bits_per_dim: bits.map(|e| e.value),
        bits_per_dim_stderr: bits.and_then(|e| e.stderr),
        nats: nats.map(|e| e.value),
        nats_stderr: nats.and_then(|e| e.stderr),
        nats_per_dim: stats::mean_estimate(&present(|r| r.nats_per_dim)).map(|e| e.value),
        probe_stderr: stats::rms(&present(|r| r.stderr)),
        reference: if solver == first.solver {
            reference.to_owned()
        } else {
            format!("{reference}, {solver}")
        },
        reference_solver: solver.to_owned(),
        bias: bias.map(|e| e.value),
        bias_stderr: bias.and_then(|e| e.stderr),
        bias_n: bias.map(|e| e.n),
        rmse: bias.and_then(|_| stats::rms(&gaps)),
        correlation: bias.and_then(|_| stats::pearson_correlation(&paired.a, &paired.b)),
        rank_correlation: bias.and_then(|_| stats::spearman_correlation(&paired.a, &paired.b)),
        // The gap of a bound is no error of its estimate.
        calibration: bias
            .filter(|_| first.kind != EstimateKind::Elbo)
            .and_then(|_| stats::rms(&scaled)),
        evaluations,
        jvps: mean_of(|r| r.jvps as f64),
        head_calls: mean_of(|r| r.head_calls as f64),
        cost: if path > 0.0 {
            evaluations * (1.0 + own / path)
        } else {
            evaluations
        },
        seconds_per_sample: path + own,
        bound: first.bound,
        draws: first.draws,
        dequantization_stderr: stats::rms(&present(|r| r.dequantization_stderr)),
        solver_error: stats::mean_estimate(&present(|r| r.solver_error)).map(|e| e.value),
        entry_seconds_per_sample: stats::mean_estimate(&present(|r| r.entry_seconds))
            .map(|e| e.value),
        ..SummaryRow::default()
    })
}

/// The mean difference of `one` minus `other` over their common samples. `None` if there are fewer
/// than two. `name` is the label of `other`.
fn paired_difference_row(
    one: &DataFrame,
    other: &DataFrame,
    first: &LikelihoodRow,
    name: &str,
) -> Result<Option<PairRow>> {
    let Some(difference) = stats::mean_estimate(&join_by_sample(one, other)?.differences()) else {
        return Ok(None);
    };
    let Some(stderr) = difference.stderr else {
        return Ok(None);
    };
    let half = stats::confidence_half_width(stderr, Some(difference.n), 0.95);
    Ok(Some(PairRow {
        model: first.model.clone(),
        dataset: first.dataset.clone(),
        solver: first.solver.clone(),
        estimator: first.estimator.clone(),
        other: name.to_owned(),
        n: difference.n,
        difference: difference.value,
        difference_stderr: stderr,
        low: difference.value - half,
        high: difference.value + half,
    }))
}
