//! The error budget: the sources of the uncertainty in a mean log-likelihood, and the settings that
//! reduce them.
//!
//! The size of a component per sample is a root mean square. If each sample has its own draw of the
//! component, its size in the mean over n samples is √n times smaller. The error of a solver is
//! systematic instead: more samples do not reduce its size in the mean.
//!
//! The standard error over samples already contains the noise of probes and of dequantization. This
//! noise is subtracted from the component `data`, so that the squares of all components add up to
//! the square of the total.

use std::collections::BTreeMap;

use crate::num::stats;
use crate::rows::{BudgetRow, EstimateKind, RefinedRow, SummaryRow};

/// The name of a component, the setting that reduces it, and how it was measured.
struct Component<'a> {
    name: &'a str,
    knob: &'a str,
    measured: String,
}

/// The budgets of all summary rows that have samples.
///
/// `dims` gives the number of values in one sample, by model.
pub(crate) fn budget_rows(
    summaries: &[SummaryRow],
    refined: &[RefinedRow],
    dims: &BTreeMap<String, usize>,
) -> Vec<BudgetRow> {
    type EstimatorKey<'a> = (&'a str, &'a str, &'a str, &'a str);
    let mut refined_by_key: BTreeMap<EstimatorKey, Vec<&RefinedRow>> = BTreeMap::new();
    for row in refined {
        refined_by_key
            .entry((&row.model, &row.dataset, &row.estimator, &row.solver))
            .or_default()
            .push(row);
    }
    let budget = |row: &SummaryRow| {
        let key = (
            row.model.as_str(),
            row.dataset.as_str(),
            row.estimator.as_str(),
            row.solver.as_str(),
        );
        let nothing = Vec::new();
        budget_of_summary(
            row,
            refined_by_key.get(&key).unwrap_or(&nothing),
            dims.get(&row.model).copied().unwrap_or(0),
        )
    };
    summaries
        .iter()
        .filter(|row| row.n > 0)
        .flat_map(budget)
        .collect()
}

/// What is known about the solver's bias, which is its contribution to a mean log-likelihood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum SolverBias {
    /// The run did not measure the bias.
    NotMeasured,
    /// The bias is at most one millionth of the mean.
    Negligible,
    /// The bias in nats, and in bits/dim if these are defined.
    Measured {
        nats: f64,
        bits_per_dim: Option<f64>,
    },
}

/// A difference that is smaller than this share of a number counts as rounding.
const RELATIVE_ROUNDING: f64 = 1e-6;

impl SolverBias {
    /// The solver's bias of a summary row. `None` for few-step flow maps and variational bounds,
    /// which have no solver.
    pub(crate) fn from_summary(row: &SummaryRow) -> Option<SolverBias> {
        if !row.kind.follows_path() {
            return None;
        }
        Some(match (row.solver_bias, row.nats) {
            (Some(nats), Some(mean)) if nats.abs() <= RELATIVE_ROUNDING * mean.abs() => {
                SolverBias::Negligible
            }
            (Some(nats), Some(_)) => SolverBias::Measured {
                nats,
                bits_per_dim: row.solver_bias_bits_per_dim,
            },
            _ => SolverBias::NotMeasured,
        })
    }
}

/// Copies the solver component of every budget into its summary row.
pub(crate) fn set_solver_bias(summaries: &mut [SummaryRow], lines: &[BudgetRow]) {
    for line in lines.iter().filter(|line| line.component == "solver") {
        let same = |row: &&mut SummaryRow| {
            (&row.model, &row.dataset, &row.estimator, &row.solver)
                == (&line.model, &line.dataset, &line.estimator, &line.solver)
        };
        let Some(row) = summaries.iter_mut().find(same) else {
            continue;
        };
        let bits = line
            .bias_bits_per_dim
            .zip(line.bias_nats)
            .map(|(bits, nats)| (bits / nats).abs());
        row.solver_bias = line.bias_nats;
        row.solver_bias_stderr = line.bias_stderr;
        row.solver_bias_bits_per_dim = line.bias_bits_per_dim;
        row.solver_bias_bits_per_dim_stderr = line
            .bias_stderr
            .zip(bits.filter(|b| b.is_finite()))
            .map(|(e, b)| e * b);
        row.solver_bias_n = Some(line.n);
    }
}

/// The budget of one summary row: its components, and the total as the last row.
fn budget_of_summary(row: &SummaryRow, refined: &[&RefinedRow], dim: usize) -> Vec<BudgetRow> {
    let parts = [
        data_component(row),
        probe_component(row),
        solver_component(row, refined),
        dequantization_component(row),
        numeric_component(row, refined),
    ];
    let mut lines: Vec<BudgetRow> = parts.into_iter().flatten().collect();
    let square = |line: &BudgetRow| line.mean_nats.map_or(0.0, |m| m * m);
    let sum: f64 = lines.iter().map(square).sum();
    let per_sample: f64 = lines
        .iter()
        .filter(|l| l.component != "data")
        .filter_map(|l| l.sample_nats)
        .map(|s| s * s)
        .sum();
    let unknown: Vec<&str> = lines
        .iter()
        .filter(|l| l.mean_nats.is_none())
        .map(|l| l.component.as_str())
        .collect();
    let without = if unknown.is_empty() {
        String::new()
    } else {
        format!(", without {}", unknown.join(" and "))
    };
    let measured =
        format!("root of the sum of squares{without}; the size per sample is without data");
    let mut total = empty_budget_row(
        row,
        Component {
            name: "total",
            knob: "",
            measured,
        },
        row.n,
    );
    total.mean_nats = row.nats_stderr.map(|_| sum.sqrt());
    total.sample_nats = Some(per_sample.sqrt());
    lines.push(total);
    let bits = row
        .bits_per_dim
        .map(|_| 1.0 / (dim.max(1) as f64 * std::f64::consts::LN_2));
    for line in &mut lines {
        line.share = line.mean_nats.filter(|_| sum > 0.0).map(|m| m * m / sum);
        line.sample_bits_per_dim = line.sample_nats.zip(bits).map(|(v, b)| v * b);
        line.mean_bits_per_dim = line.mean_nats.zip(bits).map(|(v, b)| v * b);
        // A higher log-likelihood means fewer bits. The subtraction from zero avoids −0.
        line.bias_bits_per_dim = line.bias_nats.zip(bits).map(|(v, b)| 0.0 - v * b);
    }
    lines
}

/// A budget row without numbers.
fn empty_budget_row(row: &SummaryRow, component: Component, n: usize) -> BudgetRow {
    BudgetRow {
        model: row.model.clone(),
        dataset: row.dataset.clone(),
        estimator: row.estimator.clone(),
        solver: row.solver.clone(),
        component: component.name.to_owned(),
        n,
        sample_nats: None,
        mean_nats: None,
        share: None,
        bias_nats: None,
        bias_stderr: None,
        sample_bits_per_dim: None,
        mean_bits_per_dim: None,
        bias_bits_per_dim: None,
        observed_order: None,
        knob: component.knob.to_owned(),
        measured: component.measured,
    }
}

/// Whether the estimator's values depend on random probes.
fn is_random(row: &SummaryRow) -> bool {
    matches!(
        row.kind.of_estimator(),
        EstimateKind::OdeStochastic | EstimateKind::FiniteDifference
    )
}

/// The noise of random probes or replicates. `None` for deterministic estimators.
fn probe_component(row: &SummaryRow) -> Option<BudgetRow> {
    let measured = match (is_random(row), row.probe_stderr) {
        (false, _) => return None,
        (true, None) => {
            "unknown: a single probe or replicate has no spread; its noise is in `data`"
        }
        (true, Some(_)) => "root mean square of the standard errors over probes or replicates",
    };
    let component = Component {
        name: "probe",
        knob: "more probes, replicates or products",
        measured: measured.into(),
    };
    let mut line = empty_budget_row(row, component, row.n);
    line.sample_nats = row.probe_stderr;
    line.mean_nats = row.probe_stderr.map(|s| s / (row.n as f64).sqrt());
    Some(line)
}

/// The spread over draws of dequantization noise, without the noise of the probes that it contains.
/// `None` if the data were not dequantized.
fn dequantization_component(row: &SummaryRow) -> Option<BudgetRow> {
    if !row.bound.is_bound() {
        return None;
    }
    let own = |spread: f64| {
        (spread * spread - row.probe_stderr.map_or(0.0, |p| p * p))
            .max(0.0)
            .sqrt()
    };
    let measured = match row.dequantization_stderr {
        None => "unknown: a single draw has no spread; its noise is in `data`".to_owned(),
        Some(_) if is_random(row) && row.probe_stderr.is_none() => {
            format!(
                "spread over {} draws, including the noise of the probes",
                row.draws
            )
        }
        Some(_) => format!(
            "spread over {} draws of uniform noise, without the noise of the probes",
            row.draws
        ),
    };
    let component = Component {
        name: "dequantization",
        knob: "more draws (key `dequantization`)",
        measured,
    };
    let mut line = empty_budget_row(row, component, row.n);
    line.sample_nats = row.dequantization_stderr.map(own);
    line.mean_nats = line.sample_nats.map(|s| s / (row.n as f64).sqrt());
    Some(line)
}

/// The finite number of samples: the standard error over samples, without the noise of probes and
/// of dequantization that it contains.
fn data_component(row: &SummaryRow) -> Option<BudgetRow> {
    let n = row.n as f64;
    let noise: f64 = [probe_component(row), dequantization_component(row)]
        .iter()
        .flatten()
        .filter_map(|l| l.mean_nats)
        .map(|m| m * m)
        .sum();
    let measured = match row.nats_stderr {
        None => "unknown: a single sample has no spread",
        Some(_) => {
            "standard error over samples, without the measured noise of probes and dequantization"
        }
    };
    let component = Component {
        name: "data",
        knob: "more samples",
        measured: measured.into(),
    };
    let mut line = empty_budget_row(row, component, row.n);
    line.mean_nats = row.nats_stderr.map(|s| (s * s - noise).max(0.0).sqrt());
    line.sample_nats = line.mean_nats.map(|m| m * n.sqrt());
    Some(line)
}

/// The error of the solver's finite steps, from the same samples with finer steps. Coarser steps
/// give the observed order of convergence.
///
/// `None` if no sample was solved with finer steps.
fn solver_component(row: &SummaryRow, refined: &[&RefinedRow]) -> Option<BudgetRow> {
    let pairs: Vec<(f64, f64, Option<f64>)> = refined
        .iter()
        .filter_map(|r| Some((r.log_likelihood?, r.finer?, r.coarser)))
        .collect();
    let first = refined.first().filter(|_| !pairs.is_empty())?;
    // Richardson extrapolation: twice as many steps reduce an error of order p to 2⁻ᵖ of its size,
    // so the difference is 1 − 2⁻ᵖ of the whole error.
    let whole = first
        .order
        .map_or(1.0, |p| 1.0 / (1.0 - 0.5f64.powi(p as i32)));
    let errors: Vec<f64> = pairs
        .iter()
        .map(|(base, finer, _)| (base - finer) * whole)
        .collect();
    let mean = stats::mean_estimate(&errors)?;
    let steps: Vec<(f64, f64)> = pairs
        .iter()
        .filter_map(|(b, f, c)| Some((c.as_ref()? - b, b - f)))
        .collect();
    let ratio = |p: &[(f64, f64)]| {
        let rms =
            |pick: fn(&(f64, f64)) -> f64| stats::rms(&p.iter().map(pick).collect::<Vec<_>>());
        Some((rms(|d| d.0)? / rms(|d| d.1)?).log2()).filter(|o| o.is_finite())
    };
    let measured = match first.order {
        Some(p) => format!("difference to twice as many steps, extrapolated at order {p}"),
        None => "difference to tolerances that are ten times tighter".to_owned(),
    };
    let component = Component {
        name: "solver",
        knob: "more steps or a tighter tolerance",
        measured,
    };
    let mut line = empty_budget_row(row, component, errors.len());
    line.observed_order = ratio(&steps);
    line.sample_nats = stats::rms(&errors);
    line.mean_nats = Some(mean.value.abs());
    line.bias_nats = Some(mean.value);
    line.bias_stderr = mean.stderr;
    Some(line)
}

/// The error of computing the networks in float32: the difference to the same networks in float64
/// on the same samples.
///
/// Without float64 values, [`numeric_from_perturbations`] estimates it.
fn numeric_component(row: &SummaryRow, refined: &[&RefinedRow]) -> Option<BudgetRow> {
    let errors: Vec<f64> = refined
        .iter()
        .filter_map(|r| Some(r.log_likelihood? - r.float64?))
        .collect();
    let Some(mean) = stats::mean_estimate(&errors) else {
        return numeric_from_perturbations(row, refined);
    };
    let measured = "difference to the same networks in float64".to_owned();
    let component = Component {
        name: "numeric",
        knob: "networks in float64 (key `precision`)",
        measured,
    };
    let mut line = empty_budget_row(row, component, errors.len());
    line.sample_nats = stats::rms(&errors);
    line.mean_nats = Some(mean.value.abs());
    line.bias_nats = Some(mean.value);
    line.bias_stderr = mean.stderr;
    Some(line)
}

/// Estimates the rounding error of float32 from states that were moved by one rounding, forwards
/// and backwards. The second difference cancels everything that is linear in the move.
///
/// Rounding that the move does not change is not seen. On the mixture of `models/` this estimate is
/// 2.7e-7 nats per sample, and the difference to a float64 solution on the same steps is 7.3e-7.
fn numeric_from_perturbations(row: &SummaryRow, refined: &[&RefinedRow]) -> Option<BudgetRow> {
    let second: Vec<f64> = refined
        .iter()
        .filter_map(|r| Some(r.ahead? + r.behind? - 2.0 * r.log_likelihood?))
        .collect();
    // The second difference contains three independent rounding errors with the weights 1, 1 and
    // −2, so its variance is six times the variance of one.
    let own = stats::rms(&second)? / 6f64.sqrt();
    let measured = "second difference between states that were moved by one rounding of float32, \
                    divided by √6: the order of magnitude of the random part";
    let component = Component {
        name: "numeric",
        knob: "a network in float64",
        measured: measured.into(),
    };
    let mut line = empty_budget_row(row, component, second.len());
    line.sample_nats = Some(own);
    line.mean_nats = Some(own / (row.n as f64).sqrt());
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::divergence::{DivergenceEstimator, ModelHandles};
    use crate::flow::path::ProbabilityPath;
    use crate::flow::prior::Prior;
    use crate::likelihood::{LikelihoodTask, evaluate_likelihoods};
    use crate::model::analytic;
    use crate::num::Batch;
    use crate::num::key::{Purpose, RngKey};
    use crate::rows::BoundKind;
    use crate::solve::Solver;

    /// A summary row of `n` samples with these standard errors.
    fn summary(
        kind: EstimateKind,
        n: usize,
        data: f64,
        probe: Option<f64>,
        draws: Option<f64>,
    ) -> SummaryRow {
        SummaryRow {
            model: "m".into(),
            dataset: "d".into(),
            estimator: "e".into(),
            solver: "s".into(),
            kind,
            n,
            nats: Some(-3.0),
            nats_stderr: Some(data),
            bits_per_dim: Some(1.0),
            probe_stderr: probe,
            dequantization_stderr: draws,
            draws: if draws.is_some() { 4 } else { 1 },
            bound: BoundKind::Elbo,
            ..SummaryRow::default()
        }
    }

    fn refined(
        i: usize,
        base: f64,
        finer: f64,
        coarser: Option<f64>,
        order: Option<u32>,
    ) -> RefinedRow {
        RefinedRow {
            model: "m".into(),
            dataset: "d".into(),
            estimator: "e".into(),
            solver: "s".into(),
            sample: i,
            log_likelihood: Some(base),
            finer: Some(finer),
            coarser,
            ahead: Some(base + 1e-4),
            behind: Some(base - 1e-4 + 6e-6),
            float64: None,
            order,
        }
    }

    fn budget(row: &SummaryRow, refined_rows: &[RefinedRow]) -> BTreeMap<String, BudgetRow> {
        let dims = BTreeMap::from([("m".to_owned(), 4)]);
        budget_rows(std::slice::from_ref(row), refined_rows, &dims)
            .into_iter()
            .map(|l| (l.component.clone(), l))
            .collect()
    }

    #[test]
    fn component_variances_sum_to_total() {
        let row = summary(EstimateKind::OdeStochastic, 100, 0.5, Some(3.0), Some(5.0));
        let budget = budget(&row, &[]);
        let mean = |name: &str| budget[name].mean_nats.expect(name);
        assert!((mean("probe") - 0.3).abs() < 1e-14);
        assert!(
            (mean("dequantization") - 0.4).abs() < 1e-14,
            "5² − 3² = 4², over √100"
        );
        assert!(
            mean("data").abs() < 1e-7,
            "nothing is left of 0.5² − 0.3² − 0.4²"
        );
        assert!((mean("total") - 0.5).abs() < 1e-12);
        let shares: f64 = ["probe", "dequantization", "data"]
            .iter()
            .filter_map(|n| budget[*n].share)
            .sum();
        assert!((shares - 1.0).abs() < 1e-12);
        let bits = mean("probe") / (4.0 * std::f64::consts::LN_2);
        assert!((budget["probe"].mean_bits_per_dim.expect("levels") - bits).abs() < 1e-15);
    }

    #[test]
    fn unknown_components_have_no_size() {
        let row = summary(EstimateKind::OdeStochastic, 10, 0.5, None, None);
        let unknown = budget(&row, &[]);
        for name in ["probe", "dequantization"] {
            assert_eq!((unknown[name].mean_nats, unknown[name].share), (None, None));
            assert!(unknown[name].measured.contains("unknown"));
            assert!(unknown["total"].measured.contains(name));
        }
        assert!(!unknown.contains_key("solver") && !unknown.contains_key("numeric"));
        let exact = budget(&summary(EstimateKind::OdeExact, 10, 0.5, None, None), &[]);
        assert!(
            !exact.contains_key("probe"),
            "a deterministic estimator has no probes"
        );
        let alone = SummaryRow {
            n: 1,
            nats_stderr: None,
            ..summary(EstimateKind::OdeExact, 1, 0.5, None, None)
        };
        assert_eq!(budget(&alone, &[])["total"].mean_nats, None);
    }

    /// For errors c·hᵖ on known steps, the budget finds c·hᵖ and p.
    #[test]
    fn step_doubling_recovers_a_known_error() {
        let row = summary(EstimateKind::OdeExact, 4, 0.5, None, None);
        for p in [1u32, 2, 4] {
            let error = |i: usize, h: f64| (1.0 + i as f64) * 1e-3 * h.powi(p as i32);
            let refined_rows: Vec<RefinedRow> = (0..4)
                .map(|i| {
                    refined(
                        i,
                        error(i, 1.0),
                        error(i, 0.5),
                        Some(error(i, 2.0)),
                        Some(p),
                    )
                })
                .collect();
            let line = &budget(&row, &refined_rows)["solver"];
            assert!(
                (line.bias_nats.expect("measured") - 2.5e-3).abs() < 1e-15,
                "order {p}"
            );
            assert!(
                (line.sample_nats.expect("measured") - 1e-3 * 7.5f64.sqrt()).abs() < 1e-15,
                "order {p}"
            );
            assert!((line.observed_order.expect("measured") - f64::from(p)).abs() < 1e-9);
            assert!(
                line.bias_bits_per_dim.expect("levels") < 0.0,
                "too many nats are too few bits"
            );
        }
    }

    /// With fixed steps on an analytic mixture, step doubling finds the difference to the closed
    /// form.
    #[test]
    fn step_doubling_finds_the_true_error_of_an_analytic_model() {
        let curve = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 1e-2,
        }
        .curve()
        .expect("a path");
        let (model, prior) = (
            analytic::example_mixture(curve.clone(), 3),
            Prior::isotropic(curve.prior_std()),
        );
        let mut x = Batch::zeros((6, 3));
        for (i, mut row) in x.rows_mut().into_iter().enumerate() {
            row.assign(&(RngKey { seed: 17 }.normal(Purpose::Check, i as u64, 0, 3) * 0.8));
        }
        let run = |solver: &Solver, estimator: &str| -> Vec<f64> {
            let estimators: Vec<DivergenceEstimator> =
                serde_yaml::from_str(&format!("[{estimator}]")).expect("an estimator");
            let task = LikelihoodTask {
                curve: &model.curve,
                prior,
                solver,
                estimators: &estimators,
                key: RngKey { seed: 3 },
            };
            let mut sources = ModelHandles {
                jacobian: Some(Box::new(model.clone())),
                closed_form: Some(Box::new(model.clone())),
                ..Default::default()
            };
            let ids: Vec<u64> = (0..6).collect();
            let rows = evaluate_likelihoods(
                &mut model.clone(),
                &mut sources,
                &task,
                &ids,
                x.clone(),
                None,
            )
            .expect("analytic");
            rows.iter().map(|r| r.log_likelihood.expect("ok")).collect()
        };
        let fine: Solver =
            serde_yaml::from_str("{dopri5: {rtol: 1e-11, atol: 1e-11}}").expect("a solver");
        let truth = run(&fine, "closed-form");
        for (name, steps) in [
            ("euler", 1600),
            ("midpoint", 400),
            ("heun", 400),
            ("rk4", 100),
        ] {
            let solver: Solver =
                serde_yaml::from_str(&format!("{{{name}: {{steps: {steps}, grid: log-snr}}}}"))
                    .expect(name);
            let base = run(&solver, "exact");
            let finer = run(&solver.finer().expect("finer"), "exact");
            let coarser = run(&solver.coarser().expect("coarser"), "exact");
            let refined_rows: Vec<RefinedRow> = (0..6)
                .map(|i| refined(i, base[i], finer[i], Some(coarser[i]), Some(solver.order())))
                .collect();
            let line = &budget(
                &summary(EstimateKind::OdeExact, 6, 0.5, None, None),
                &refined_rows,
            )["solver"];
            let gaps: Vec<f64> = base.iter().zip(&truth).map(|(b, t)| b - t).collect();
            let (mean, rms) = (
                stats::mean_estimate(&gaps).expect("six").value,
                stats::rms(&gaps).expect("six"),
            );
            let (found, size) = (
                line.bias_nats.expect("measured"),
                line.sample_nats.expect("measured"),
            );
            assert!((found - mean).abs() < 0.1 * rms, "{name}: {found} {mean}");
            assert!((size / rms - 1.0).abs() < 0.1, "{name}: {size} {rms}");
            let order = line.observed_order.expect("measured");
            assert!(
                (order - f64::from(solver.order())).abs() < 0.3,
                "{name}: {order}"
            );
        }
    }

    #[test]
    fn float64_difference_replaces_perturbation_estimate() {
        let row = summary(EstimateKind::OdeExact, 4, 0.1, None, None);
        let errors = [3e-6, -1e-6, 2e-6, 4e-6];
        let measured = |(i, error): (usize, &f64)| {
            let float32 = refined(i, -3.0, -3.0, None, Some(2));
            RefinedRow {
                float64: Some(-3.0 - error),
                ahead: Some(1.0),
                behind: Some(1.0),
                ..float32
            }
        };
        let refined_rows: Vec<RefinedRow> = errors.iter().enumerate().map(measured).collect();
        let line = &budget(&row, &refined_rows)["numeric"];
        let close =
            |found: Option<f64>, truth: f64| found.is_some_and(|v| (v - truth).abs() < 1e-12);
        assert!(
            close(line.bias_nats, 2e-6) && close(line.mean_nats, 2e-6),
            "{line:?}"
        );
        assert!(close(line.sample_nats, 7.5e-12f64.sqrt()), "{line:?}");
        assert!(line.measured.contains("float64"), "{line:?}");
    }

    #[test]
    fn linear_perturbation_is_not_rounding_error() {
        let row = summary(EstimateKind::OdeExact, 4, 0.5, None, None);
        let refined_rows: Vec<RefinedRow> =
            (0..4).map(|i| refined(i, -2.0, -2.0, None, None)).collect();
        let line = &budget(&row, &refined_rows)["numeric"];
        assert!((line.sample_nats.expect("measured") - 1e-6 * 6f64.sqrt()).abs() < 1e-12);
        assert_eq!(line.n, 4);
        assert_eq!(budget(&row, &refined_rows)["solver"].observed_order, None);
    }
}
