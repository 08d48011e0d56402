//! The comparison of two datasets under the same model: does the model assign higher
//! log-likelihoods to its own data than to other data?

use crate::num::stats;
use crate::rows::{GapRow, LikelihoodRow};

/// One row for each pair of datasets with the same model, solver and estimator, in the order of the
/// given rows. Failed rows are excluded.
pub(super) fn dataset_gap_rows(rows: &[LikelihoodRow]) -> Vec<GapRow> {
    let mut sets: Vec<DatasetLogLikelihoods> = Vec::new();
    for row in rows.iter().filter(|r| r.log_likelihood.is_some()) {
        // The rows of one dataset and estimator are mostly adjacent, so the search starts at the
        // end.
        let at = sets
            .iter()
            .rposition(|s| s.matches(row))
            .unwrap_or_else(|| {
                sets.push(DatasetLogLikelihoods {
                    first: row,
                    nats: Vec::new(),
                    bits: Vec::new(),
                });
                sets.len() - 1
            });
        sets[at].nats.extend(row.log_likelihood);
        sets[at].bits.extend(row.bits_per_dim);
    }
    let pairs = (0..sets.len()).flat_map(|i| (i + 1..sets.len()).map(move |j| (i, j)));
    pairs
        .filter_map(|(i, j)| dataset_gap_row(&sets[i], &sets[j]))
        .collect()
}

/// The log-likelihoods of one dataset by one estimator.
struct DatasetLogLikelihoods<'a> {
    /// The first row, which has the names.
    first: &'a LikelihoodRow,
    /// The log-likelihoods in nats.
    nats: Vec<f64>,
    /// The values in bits per dimension, of the rows that have them.
    bits: Vec<f64>,
}

impl DatasetLogLikelihoods<'_> {
    /// Whether a row belongs to this set.
    fn matches(&self, row: &LikelihoodRow) -> bool {
        self.same_except_dataset(row) && self.first.dataset == row.dataset
    }

    /// Whether a row has the same model, solver and estimator.
    fn same_except_dataset(&self, row: &LikelihoodRow) -> bool {
        (&self.first.estimator, &self.first.model, &self.first.solver)
            == (&row.estimator, &row.model, &row.solver)
    }
}

/// The difference of the mean log-likelihoods of two sets, with the area under the ROC curve.
/// `None` if the sets are of another model, solver or estimator, or too small for a standard error.
fn dataset_gap_row(one: &DatasetLogLikelihoods, other: &DatasetLogLikelihoods) -> Option<GapRow> {
    if !one.same_except_dataset(other.first) {
        return None;
    }
    let apart = |a: &[f64], b: &[f64]| {
        Some(stats::independent_difference(
            stats::mean_estimate(a)?,
            stats::mean_estimate(b)?,
        ))
    };
    let nats = apart(&one.nats, &other.nats)?;
    let bits = apart(&one.bits, &other.bits);
    let area = stats::auroc(&one.nats, &other.nats)?;
    let stderr = nats.stderr?;
    let half = stats::confidence_half_width(stderr, Some(nats.n), 0.95);
    Some(GapRow {
        model: one.first.model.clone(),
        solver: one.first.solver.clone(),
        estimator: one.first.estimator.clone(),
        dataset: one.first.dataset.clone(),
        other: other.first.dataset.clone(),
        n: one.nats.len(),
        n_other: other.nats.len(),
        difference: nats.value,
        difference_stderr: stderr,
        low: nats.value - half,
        high: nats.value + half,
        bits_per_dim: bits.map(|b| b.value),
        bits_per_dim_stderr: bits.and_then(|b| b.stderr),
        auroc: area.value,
        auroc_stderr: area.stderr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{BoundKind, EstimateKind, Status};

    fn row(dataset: &str, estimator: &str, sample: usize, value: Option<f64>) -> LikelihoodRow {
        LikelihoodRow {
            model: "m".into(),
            dataset: dataset.into(),
            estimator: estimator.into(),
            kind: EstimateKind::OdeExact,
            solver: "heun".into(),
            sample,
            log_likelihood: value,
            bits_per_dim: value.map(|v| -v),
            status: if value.is_some() {
                Status::Ok
            } else {
                Status::NonFinite
            },
            bound: BoundKind::Density,
            ..LikelihoodRow::default()
        }
    }

    #[test]
    fn datasets_are_compared_within_one_model_and_estimator() {
        let values = [("in", [1.0, 3.0, 2.0, 9.0]), ("out", [0.0, 2.0, 7.0, 7.0])];
        let mut rows = Vec::new();
        for (dataset, values) in values {
            for estimator in ["exact", "hutchinson"] {
                for (i, v) in values.iter().enumerate() {
                    // The last rows failed: they are excluded from averages and counts.
                    let failed = i == 3 || (dataset == "out" && i == 2);
                    rows.push(row(dataset, estimator, i, (!failed).then_some(*v)));
                }
            }
        }
        let found = dataset_gap_rows(&rows);
        assert_eq!(found.len(), 2);
        let gap = &found[0];
        assert_eq!(
            (&*gap.estimator, &*gap.dataset, &*gap.other),
            ("exact", "in", "out")
        );
        assert_eq!(
            (gap.n, gap.n_other, gap.difference, gap.bits_per_dim),
            (3, 2, 1.0, Some(-1.0))
        );
        assert!((gap.difference_stderr.powi(2) - (1.0 / 3.0 + 2.0 / 2.0)).abs() < 1e-12);
        assert!((gap.auroc - 4.5 / 6.0).abs() < 1e-15);
        assert!(
            dataset_gap_rows(&rows[..8]).is_empty(),
            "one dataset alone has no gap"
        );
    }
}
