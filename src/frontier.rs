//! The frontier: the cost at which each estimator reaches a wanted accuracy, and the cheapest
//! estimator for it.
//!
//! If an estimator averages K independent probes or replicates, its variance is proportional to
//! 1/K. One measured run then gives the cost of every accuracy. Other estimators only have the
//! error that was measured: more calls of a learned divergence do not bring it closer to the truth.

use std::collections::BTreeMap;

use crate::num::stats::{self, Estimate};
use crate::rows::{EstimateKind, FrontierRow, SampleLikelihoodRow, SummaryRow};

/// The wanted standard errors, in nats, and in bits/dim if these are defined.
const TARGETS: [f64; 3] = [1.0, 0.1, 0.01];

/// What each estimator averages, by its label: `probes` or `replicates`, and how many of them.
pub(crate) type AveragingCounts = BTreeMap<String, (String, usize)>;

/// Log-likelihoods in nats, by model, dataset, solver and estimator, then by the sample's index.
type LogLikelihoodsBySample<'a> =
    BTreeMap<(&'a str, &'a str, &'a str, &'a str), BTreeMap<usize, f64>>;

/// What is known about the error of one estimator in one comparison group.
struct EstimatorAccuracy<'a> {
    row: &'a SummaryRow,
    /// The mean difference to the group's deterministic reference, in nats.
    bias: Option<Estimate>,
    /// The error per sample in nats. NaN if it is unknown.
    error: f64,
    basis: ErrorBasis,
}

/// How the error of an estimator is known.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ErrorBasis {
    /// The estimator has no error besides the solver's.
    Exact,
    /// The variance is proportional to 1/K, and the run averaged this number of probes or
    /// replicates.
    Averaged(usize),
    /// The error was measured against a deterministic reference, and no setting reduces it.
    Measured,
    /// The error is not known.
    Unknown,
}

/// The frontier of every comparison group: one row per estimator, unit, target and scope.
///
/// `averages` gives what each estimator averages, by its label. `dims` gives the number of values
/// in one sample, by model.
pub(crate) fn frontier_rows(
    summaries: &[SummaryRow],
    samples: &[SampleLikelihoodRow],
    averages: &AveragingCounts,
    dims: &BTreeMap<String, usize>,
) -> Vec<FrontierRow> {
    let mut values = LogLikelihoodsBySample::new();
    for s in samples {
        if let Some(value) = s.log_likelihood {
            values
                .entry((&s.model, &s.dataset, &s.solver, &s.estimator))
                .or_default()
                .insert(s.sample, value);
        }
    }
    let mut groups: Vec<Vec<&SummaryRow>> = Vec::new();
    for row in summaries.iter().filter(|row| row.n > 0) {
        let same = |g: &&mut Vec<&SummaryRow>| {
            (&g[0].model, &g[0].dataset, &g[0].solver) == (&row.model, &row.dataset, &row.solver)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
        .iter()
        .flat_map(|group| frontier_of_group(group, &values, averages, dims))
        .collect()
}

/// The frontier of one comparison group.
fn frontier_of_group<'a>(
    group: &[&'a SummaryRow],
    values: &LogLikelihoodsBySample<'a>,
    averages: &AveragingCounts,
    dims: &BTreeMap<String, usize>,
) -> Vec<FrontierRow> {
    // On the same nodes, the exact trace has the same solver error. The difference to it is
    // therefore the error of the estimator alone.
    let of_kind = |kind: EstimateKind| {
        group
            .iter()
            .copied()
            .find(|row| row.kind.of_estimator() == kind)
    };
    let truth = of_kind(EstimateKind::OdeExact).or(of_kind(EstimateKind::ClosedForm));
    let known: Vec<EstimatorAccuracy> = group
        .iter()
        .map(|row| {
            estimator_accuracy(
                row,
                differences_from_truth(row, truth, values).as_deref(),
                averages,
            )
        })
        .collect();
    let dim = dims.get(&group[0].model).copied().unwrap_or(0);
    let mut units = vec![("nats", 1.0)];
    if group.iter().any(|row| row.bits_per_dim.is_some()) && dim > 0 {
        units.push(("bits/dim", dim as f64 * std::f64::consts::LN_2));
    }
    let mut lines = Vec::new();
    for (unit, nats) in units {
        for target in TARGETS {
            for scope in ["sample", "mean"] {
                let mut rows: Vec<FrontierRow> = known
                    .iter()
                    .map(|k| frontier_row(k, averages, scope, (target, unit, nats)))
                    .collect();
                mark_cheapest(&mut rows);
                lines.append(&mut rows);
            }
        }
    }
    lines
}

fn summary_key(row: &SummaryRow) -> (&str, &str, &str, &str) {
    (&row.model, &row.dataset, &row.solver, &row.estimator)
}

/// The differences to the reference, on the samples for which both have a value.
fn differences_from_truth<'a>(
    row: &'a SummaryRow,
    truth: Option<&'a SummaryRow>,
    values: &LogLikelihoodsBySample<'a>,
) -> Option<Vec<f64>> {
    let (ours, theirs) = (
        values.get(&summary_key(row))?,
        values.get(&summary_key(truth?))?,
    );
    Some(
        ours.iter()
            .filter_map(|(i, v)| Some(v - theirs.get(i)?))
            .collect(),
    )
}

/// The error of one estimator per sample. `gaps` are its differences to the reference.
fn estimator_accuracy<'a>(
    row: &'a SummaryRow,
    gaps: Option<&[f64]>,
    averages: &AveragingCounts,
) -> EstimatorAccuracy<'a> {
    let against = gaps.and_then(stats::rms);
    let (error, basis) = match (row.kind.of_estimator(), averages.get(&row.estimator)) {
        (EstimateKind::OdeExact | EstimateKind::ClosedForm, _) => (Some(0.0), ErrorBasis::Exact),
        (EstimateKind::OdeStochastic, Some((_, units))) => {
            (row.probe_stderr.or(against), ErrorBasis::Averaged(*units))
        }
        _ => (against, ErrorBasis::Measured),
    };
    EstimatorAccuracy {
        row,
        bias: gaps.and_then(stats::mean_estimate),
        error: error.unwrap_or(f64::NAN),
        basis: if error.is_some() {
            basis
        } else {
            ErrorBasis::Unknown
        },
    }
}

/// The row of one estimator for one target. `nats` is the size of one `unit` in nats.
fn frontier_row(
    known: &EstimatorAccuracy,
    averages: &AveragingCounts,
    scope: &str,
    (target, unit, nats): (f64, &str, f64),
) -> FrontierRow {
    let row = known.row;
    // Each sample has its own probes, so more samples reduce their error in the mean. They do not
    // reduce a bias.
    let error = match (scope, known.basis) {
        ("mean", ErrorBasis::Measured) => known.bias.and_then(|b| {
            Some(b.value.abs() + stats::confidence_half_width(b.stderr?, Some(b.n), 0.95))
        }),
        ("mean", _) => Some(known.error / (row.n as f64).sqrt()),
        _ => Some(known.error),
    };
    let error = error.filter(|e| e.is_finite()).map(|e| e / nats);
    let units = match (known.basis, error) {
        (ErrorBasis::Averaged(k), Some(e)) => {
            Some((k as f64 * (e / target).powi(2)).ceil().max(1.0))
        }
        _ => None,
    };
    // `factor` is how many times more the wanted run averages than the measured one.
    let (factor, basis) = match (known.basis, error) {
        (ErrorBasis::Unknown, _) | (_, None) => (None, "unknown"),
        (ErrorBasis::Exact, _) => (Some(1.0), "exact"),
        (ErrorBasis::Averaged(k), _) => (units.map(|u| u / k as f64), "1/K"),
        (ErrorBasis::Measured, Some(e)) if e <= target => (Some(1.0), "measured"),
        (ErrorBasis::Measured, _) => (None, "out of reach"),
    };
    // Only the estimator's own time grows with the factor. The network evaluations that follow the
    // path do not.
    let share = if row.cost > 0.0 {
        row.evaluations / row.cost
    } else {
        1.0
    };
    let path = row.seconds_per_sample * share;
    let own = row.seconds_per_sample - path;
    let variance = (known.error * known.error)
        .is_finite()
        .then_some(known.error * known.error);
    FrontierRow {
        model: row.model.clone(),
        dataset: row.dataset.clone(),
        solver: row.solver.clone(),
        estimator: row.estimator.clone(),
        kind: row.kind,
        scope: scope.to_owned(),
        target,
        unit: unit.to_owned(),
        n: row.n,
        error,
        basis: basis.to_owned(),
        averages: averages
            .get(&row.estimator)
            .filter(|_| units.is_some())
            .map_or(String::new(), |a| a.0.clone()),
        needed: units.filter(|_| factor.is_some()),
        jvps: factor.map(|f| row.jvps * f),
        head_calls: factor.map(|_| row.head_calls),
        fewest_jvps: false,
        seconds: factor.map(|f| path + own * f),
        least_seconds: false,
        variance_jvps: variance.map(|v| v * row.jvps),
        variance_seconds: variance.map(|v| v * own),
    }
}

/// Marks the row with the fewest Jacobian products and the row with the shortest measured time.
/// Closed forms and variational bounds do not compete.
fn mark_cheapest(rows: &mut [FrontierRow]) {
    let least = |cost: fn(&FrontierRow) -> Option<f64>, rows: &[FrontierRow]| {
        let reached = (0..rows.len()).filter(|i| {
            cost(&rows[*i]).is_some()
                && rows[*i].kind.of_estimator() != EstimateKind::ClosedForm
                && rows[*i].kind != EstimateKind::Elbo
        });
        reached.min_by(|a, b| {
            cost(&rows[*a])
                .unwrap_or(f64::MAX)
                .total_cmp(&cost(&rows[*b]).unwrap_or(f64::MAX))
        })
    };
    if let Some(i) = least(|r| r.jvps, rows) {
        rows[i].fewest_jvps = true;
    }
    if let Some(i) = least(|r| r.seconds, rows) {
        rows[i].least_seconds = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(estimator: &str, kind: EstimateKind, jvps: f64, seconds: f64) -> SummaryRow {
        SummaryRow {
            model: "m".into(),
            dataset: "d".into(),
            solver: "s".into(),
            estimator: estimator.into(),
            kind,
            reference: "exact".into(),
            n: 100,
            nats: Some(-3.0),
            evaluations: 10.0,
            cost: 10.0 * seconds,
            seconds_per_sample: seconds,
            jvps,
            ..SummaryRow::default()
        }
    }

    fn group() -> Vec<SummaryRow> {
        vec![
            summary("exact", EstimateKind::OdeExact, 640.0, 11.0),
            SummaryRow {
                probe_stderr: Some(0.2),
                ..summary(
                    "hutchinson(probes=4)",
                    EstimateKind::OdeStochastic,
                    40.0,
                    2.0,
                )
            },
            SummaryRow {
                head_calls: 10.0,
                ..summary("learned(stad)", EstimateKind::Learned, 0.0, 1.5)
            },
        ]
    }

    fn all(rows: &[SummaryRow]) -> Vec<FrontierRow> {
        let averages =
            BTreeMap::from([("hutchinson(probes=4)".to_owned(), ("probes".to_owned(), 4))]);
        // The head is off by 0.05 in the mean and by 0.11 per sample.
        let gap = |estimator: &str, i: usize| match (estimator, i % 2) {
            ("learned(stad)", 0) => 0.15,
            ("learned(stad)", _) => -0.05,
            _ => 0.0,
        };
        let sample = |row: &SummaryRow, i: usize| SampleLikelihoodRow {
            model: row.model.clone(),
            dataset: row.dataset.clone(),
            solver: row.solver.clone(),
            estimator: row.estimator.clone(),
            sample: i,
            log_likelihood: Some((i as f64).sin() + gap(&row.estimator, i)),
            ..SampleLikelihoodRow::default()
        };
        let samples: Vec<SampleLikelihoodRow> = rows
            .iter()
            .flat_map(|row| (0..row.n).map(move |i| sample(row, i)))
            .collect();
        frontier_rows(
            rows,
            &samples,
            &averages,
            &BTreeMap::from([("m".to_owned(), 64)]),
        )
    }

    fn find<'a>(
        lines: &'a [FrontierRow],
        estimator: &str,
        scope: &str,
        target: f64,
    ) -> &'a FrontierRow {
        let same = |l: &&FrontierRow| {
            l.estimator.starts_with(estimator) && l.scope == scope && l.target == target
        };
        lines.iter().find(same).expect("a line")
    }

    #[test]
    fn probes_are_extrapolated_and_biases_are_not() {
        let lines = all(&group());
        // 0.2 with 4 probes: 0.1 takes 16, 0.01 takes 1600, and 1 still takes one.
        for (target, probes) in [(1.0, 1.0), (0.1, 16.0), (0.01, 1600.0)] {
            let line = find(&lines, "hutchinson", "sample", target);
            assert_eq!(
                (line.needed, line.basis.as_str(), line.averages.as_str()),
                (Some(probes), "1/K", "probes")
            );
            assert_eq!(line.jvps, Some(10.0 * probes));
            // One second is the path's, one is that of four probes.
            assert!((line.seconds.expect("measured") - (1.0 + probes / 4.0)).abs() < 1e-9);
        }
        // In the mean of 100 samples the same run is ten times as good.
        assert_eq!(find(&lines, "hutchinson", "mean", 0.01).needed, Some(16.0));
        for (scope, target, reached) in [
            ("sample", 1.0, true),
            ("sample", 0.1, false),
            ("mean", 0.1, true),
            ("mean", 0.01, false),
        ] {
            let line = find(&lines, "learned", scope, target);
            assert_eq!(line.jvps.is_some(), reached, "{scope} {target}");
            assert_eq!(
                line.basis,
                if reached { "measured" } else { "out of reach" }
            );
        }
        assert_eq!(find(&lines, "exact", "sample", 0.01).jvps, Some(640.0));
    }

    #[test]
    fn the_cheapest_is_marked_once_per_accuracy() {
        let lines = all(&group());
        let cheapest = |scope: &str, target: f64, by: fn(&FrontierRow) -> bool| -> Vec<String> {
            let here = lines
                .iter()
                .filter(|l| l.scope == scope && l.target == target && by(l));
            here.map(|l| l.estimator.clone()).collect()
        };
        assert_eq!(
            cheapest("sample", 1.0, |l| l.fewest_jvps),
            ["learned(stad)"]
        );
        assert_eq!(
            cheapest("sample", 0.1, |l| l.fewest_jvps),
            ["hutchinson(probes=4)"]
        );
        assert_eq!(cheapest("sample", 0.01, |l| l.fewest_jvps), ["exact"]);
        assert_eq!(cheapest("sample", 0.01, |l| l.least_seconds), ["exact"]);
        assert_eq!(
            cheapest("sample", 0.1, |l| l.least_seconds),
            ["hutchinson(probes=4)"]
        );
    }

    #[test]
    fn error_stays_unknown_without_deterministic_reference() {
        let mut rows = group();
        rows.remove(0);
        rows.iter_mut()
            .for_each(|r| r.reference = "hutchinson(probes=4)".to_owned());
        rows[0].probe_stderr = None;
        let lines = all(&rows);
        assert!(
            lines
                .iter()
                .all(|l| l.basis == "unknown" && l.jvps.is_none() && !l.fewest_jvps)
        );
    }

    #[test]
    fn bits_per_dim_targets_only_where_defined() {
        assert!(all(&group()).iter().all(|l| l.unit == "nats"));
        let mut rows = group();
        rows.iter_mut().for_each(|r| r.bits_per_dim = Some(3.0));
        let lines = all(&rows);
        let line = lines.iter().find(|l| {
            l.unit == "bits/dim" && l.scope == "sample" && l.kind == EstimateKind::OdeStochastic
        });
        let error = line.and_then(|l| l.error).expect("an error");
        assert!((error - 0.2 / (64.0 * std::f64::consts::LN_2)).abs() < 1e-15);
    }
}
