//! What trials are to the clock that tells the time left.

use super::{Prepared, Work, solver_label};
use crate::divergence::Divergence;
use crate::progress::Load;
use crate::sample::Setting;
use crate::solve::Solver;

/// Seconds that a row takes in one thread: an evaluation of the network, a Jacobian product, a call of a head.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pace {
    pub evaluation: f64,
    pub product: f64,
    pub head: f64,
}

/// Seconds of a statistic per two samples and dimension, and of an extractor per sample: orders of size, for statistics
/// of which none was measured yet.
const PAIR: f64 = 1e-9;
const FEATURES: f64 = 1e-3;

impl Prepared {
    /// A trial as a load; `paces` are those of the plan's models.
    pub fn load(&self, work: &Work, paces: &[Pace]) -> Load {
        let model = work.model();
        let pace = paces.get(model).copied().unwrap_or_default();
        let cost = self.cost(work);
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
        let path = |kind: &str, solver: &Solver, estimators: &[Divergence]| {
            let labels: Vec<String> = estimators.iter().map(Divergence::label).collect();
            network(
                kind,
                format!("{}, {}", solver_label(solver), labels.join(", ")),
            )
        };
        let kinds = match work {
            Work::Likelihood(w) => path("likelihoods", &w.solver, &w.estimators),
            // The same paths, as far as the clock can tell.
            Work::Profile(w) => path("likelihoods", &w.solver, &w.estimators),
            Work::Budget(w) => path("budget", &w.solver, &w.estimators),
            Work::Density {
                solver, estimator, ..
            } => path("density", solver, std::slice::from_ref(estimator)),
            Work::Sample { sampler, .. } => network("samples", sampler.label()),
            Work::Maps(w) => network("maps", w.map.clone()),
            Work::Stein { stein, .. } => network("stein", stein.head.clone()),
            Work::Metrics { .. } | Work::Contrast(_) => return self.statistics(work),
        };
        Load {
            kinds,
            units,
            rows: self.rows(work),
        }
    }

    /// Rows that a trial sends through its networks, where they are counted.
    fn rows(&self, work: &Work) -> Option<f64> {
        let rows = match work {
            Work::Likelihood(w) => w.count * w.draws(),
            Work::Profile(w) => w.count,
            Work::Budget(w) => w.count * w.budget_solvers().len(),
            Work::Density { grid, .. } => grid.points * grid.points,
            Work::Stein { stein, .. } => stein.samples,
            Work::Sample {
                model,
                sampler,
                count,
                ..
            } => sampler.passes(&Setting::of(&self.models[*model]), *count),
            Work::Maps(_) | Work::Metrics { .. } | Work::Contrast(_) => return None,
        };
        Some(rows as f64)
    }

    /// Statistics run no network but an extractor's.
    fn statistics(&self, work: &Work) -> Load {
        let drawn = |parts: &[String]| -> usize {
            let of = |id: &String| {
                self.plan
                    .trials
                    .iter()
                    .find(|t| t.id == *id)
                    .and_then(|t| t.work.samples())
            };
            parts
                .iter()
                .filter_map(of)
                .map(|range| (range.end - range.start) as usize)
                .sum()
        };
        let data: usize = work.data().iter().map(|d| self.plan.data[*d].samples).sum();
        let (generated, metrics, extractor) = match work {
            Work::Metrics {
                parts,
                metrics,
                extractor,
                ..
            } => (drawn(parts), metrics, extractor),
            Work::Contrast(w) => (
                drawn(&w.parts) + drawn(&w.baseline_parts),
                &w.metrics,
                &w.extractor,
            ),
            _ => {
                return Load {
                    kinds: Vec::new(),
                    units: 0.0,
                    rows: None,
                };
            }
        };
        let (n, dim) = (
            (generated + data) as f64,
            self.models[work.model()].dim() as f64,
        );
        let names: Vec<&str> = metrics.iter().map(|m| m.name()).collect();
        let features = extractor.as_ref().map_or("raw", |e| e.name.as_str());
        let kind = if matches!(work, Work::Contrast(_)) {
            "contrast"
        } else {
            "statistics"
        };
        let model = &self.plan.models[work.model()].name;
        Load {
            kinds: vec![
                format!("{model}: {kind} of {features}: {}", names.join(", ")),
                format!("{kind} of {features}"),
            ],
            units: n * n * dim * PAIR * names.len() as f64
                + extractor.as_ref().map_or(0.0, |_| n * FEATURES),
            rows: None,
        }
    }
}
