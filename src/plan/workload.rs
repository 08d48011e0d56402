//! What trials are to the clock that tells the time left.

use super::{PreparedPlan, TrialWork, solver_label};
use crate::divergence::DivergenceEstimator;
use crate::progress::Workload;
use crate::sample::SamplerContext;
use crate::solve::Solver;

/// Seconds that a row takes in one thread: an evaluation of the network, a Jacobian product, a call of a head.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SecondsPerRow {
    pub evaluation: f64,
    pub product: f64,
    pub head: f64,
}

/// Seconds of a statistic per two samples and dimension, and of an extractor per sample: orders of size, for statistics
/// of which none was measured yet.
const SECONDS_PER_PAIR: f64 = 1e-9;
const EXTRACTOR_SECONDS_PER_SAMPLE: f64 = 1e-3;

impl PreparedPlan {
    /// A trial as a load; `paces` are those of the plan's models.
    pub fn trial_load(&self, work: &TrialWork, paces: &[SecondsPerRow]) -> Workload {
        let model = work.model_index();
        let pace = paces.get(model).copied().unwrap_or_default();
        let cost = self.trial_cost(work);
        let units = cost.evaluations as f64 * pace.evaluation
            + (cost.products - cost.head_calls) as f64 * pace.product
            + cost.head_calls as f64 * pace.head;
        let name = &self.plan.models[model].name;
        let steps = if cost.guessed {
            "chosen steps"
        } else {
            "fixed steps"
        };
        let network = |kind: &str, what: String| {
            vec![
                format!("{name}: {kind}: {what}"),
                format!("{name}: {kind}: {steps}"),
                format!("{name}: {steps}"),
                steps.to_owned(),
                "networks".to_owned(),
            ]
        };
        let path = |kind: &str, solver: &Solver, estimators: &[DivergenceEstimator]| {
            let labels: Vec<String> = estimators.iter().map(DivergenceEstimator::label).collect();
            network(
                kind,
                format!("{}, {}", solver_label(solver), labels.join(", ")),
            )
        };
        let kinds = match work {
            TrialWork::Likelihood(w) => path("likelihoods", &w.solver, &w.estimators),
            // The same paths, as far as the clock can tell.
            TrialWork::Profile(w) => path("likelihoods", &w.solver, &w.estimators),
            TrialWork::Budget(w) => path("budget", &w.solver, &w.estimators),
            TrialWork::Density {
                solver, estimator, ..
            } => path("density", solver, std::slice::from_ref(estimator)),
            TrialWork::Sample { sampler, .. } => network("samples", sampler.label()),
            TrialWork::Maps(w) => network("maps", w.map.clone()),
            TrialWork::Stein { stein, .. } => network("stein", stein.head.clone()),
            TrialWork::Metrics { .. } | TrialWork::Contrast(_) => {
                return self.statistics_load(work);
            }
        };
        Workload {
            kinds,
            units,
            rows: self.network_rows(work),
        }
    }

    /// Rows that a trial sends through its networks, where they are counted.
    fn network_rows(&self, work: &TrialWork) -> Option<f64> {
        let rows = match work {
            TrialWork::Likelihood(w) => w.count * w.draws(),
            TrialWork::Profile(w) => w.count,
            TrialWork::Budget(w) => w.count * w.budget_solvers().len(),
            TrialWork::Density { grid, .. } => grid.points * grid.points,
            TrialWork::Stein { stein, .. } => stein.samples,
            TrialWork::Sample {
                model,
                sampler,
                count,
                ..
            } => sampler.network_rows(&SamplerContext::for_model(&self.models[*model]), *count),
            TrialWork::Maps(_) | TrialWork::Metrics { .. } | TrialWork::Contrast(_) => return None,
        };
        Some(rows as f64)
    }

    /// Statistics run no network but an extractor's.
    fn statistics_load(&self, work: &TrialWork) -> Workload {
        let drawn = |parts: &[String]| -> usize {
            let of = |id: &String| {
                self.plan
                    .trials
                    .iter()
                    .find(|t| t.id == *id)
                    .and_then(|t| t.work.sample_range())
            };
            parts
                .iter()
                .filter_map(of)
                .map(|range| (range.end - range.start) as usize)
                .sum()
        };
        let data: usize = work
            .data_indices()
            .iter()
            .map(|d| self.plan.data[*d].samples)
            .sum();
        let (generated, metrics, extractor) = match work {
            TrialWork::Metrics {
                parts,
                metrics,
                extractor,
                ..
            } => (drawn(parts), metrics, extractor),
            TrialWork::Contrast(w) => (
                drawn(&w.parts) + drawn(&w.baseline_parts),
                &w.metrics,
                &w.extractor,
            ),
            _ => {
                return Workload {
                    kinds: Vec::new(),
                    units: 0.0,
                    rows: None,
                };
            }
        };
        let (n, dim) = (
            (generated + data) as f64,
            self.models[work.model_index()].dim() as f64,
        );
        let names: Vec<&str> = metrics.iter().map(|m| m.name()).collect();
        let features = extractor.as_ref().map_or("raw", |e| e.name.as_str());
        let kind = if matches!(work, TrialWork::Contrast(_)) {
            "contrast"
        } else {
            "statistics"
        };
        let model = &self.plan.models[work.model_index()].name;
        Workload {
            kinds: vec![
                format!("{model}: {kind} of {features}: {}", names.join(", ")),
                format!("{kind} of {features}"),
            ],
            units: n * n * dim * SECONDS_PER_PAIR * names.len() as f64
                + extractor
                    .as_ref()
                    .map_or(0.0, |_| n * EXTRACTOR_SECONDS_PER_SAMPLE),
            rows: None,
        }
    }
}
