//! A range of samples of one sampler.

use std::ops::Range;

use anyhow::{Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::WorkKind;
use super::paths::{check_sample_end, network_workload, path_cost};
use crate::divergence::DivergenceEstimator;
use crate::model::loaded::Model;
use crate::num::key::SampleId;
use crate::plan::capabilities::{check_estimator_supported, check_sampler_supported};
use crate::plan::{Plan, PreparedPlan, SecondsPerRow, TrialCost};
use crate::progress::Workload;
use crate::registry::prefix_with_name;
use crate::sample::flow_map::FlowMapSampler;
use crate::sample::{Sampler, SamplerContext};
use crate::solve::Solver;

/// The samples number `first` to `first + count` of one sampler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleWork {
    pub model: usize,
    pub sampler: Sampler,
    /// The data that hold the initial states. Without them, the states are drawn by sample number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<usize>,
    /// The estimator of the samples' log-densities, which are computed in the same pass. `None` if
    /// they are not computed, or if the sampler computes them itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<DivergenceEstimator>,
    pub first: usize,
    pub count: usize,
}

/// A sampler that computes the log-densities of its samples itself where it is a flow map, from the
/// volume that the estimator names.
pub fn with_own_density(sampler: &Sampler, density: &DivergenceEstimator) -> Sampler {
    match (sampler, density) {
        (Sampler::FlowMap(map), DivergenceEstimator::FlowMap(few)) => {
            Sampler::FlowMap(FlowMapSampler {
                density: true,
                volume: few.volume,
                ..map.clone()
            })
        }
        _ => sampler.clone(),
    }
}

/// Checks that log-densities of a sampler's samples can be computed by an estimator, and returns the
/// solver that does it. `None` for a flow map, whose own divergence is meant.
///
/// # Errors
/// Fails if the sampler's steps are not those of an ODE solver, or if the model does not support the
/// estimator.
pub fn sample_density_solver(
    model: &Model,
    sampler: &Sampler,
    density: &DivergenceEstimator,
) -> Result<Option<Solver>> {
    if let Sampler::FlowMap(map) = sampler {
        let same = matches!(density, DivergenceEstimator::FlowMap(few) if map.takes_steps_of(few));
        if !same {
            bail!(
                "`{}` is not the log-density of the samples of `{}`; expected `{1}` as the density \
                 too",
                density.label(),
                sampler.label()
            );
        }
        return Ok(None);
    }
    check_estimator_supported(model, density)?;
    if !density.needs_solver() {
        bail!(
            "`{}` has steps of its own, and not those of the sampler `{}`; expected an estimator of \
             the divergence, such as `exact`",
            density.label(),
            sampler.label()
        );
    }
    let solver = sampler.density_solver(&SamplerContext::for_model(model));
    solver.map(Some).map_err(|e| anyhow!(e))
}

impl WorkKind for SampleWork {
    fn model_index(&self) -> usize {
        self.model
    }

    fn data_indices(&self) -> Vec<usize> {
        self.noise.iter().copied().collect()
    }

    fn describe(&self, plan: &Plan) -> String {
        format!(
            "{}: samples {} to {}, {}",
            plan.models[self.model].name,
            self.first,
            self.first + self.count - 1,
            self.sampler.label()
        )
    }

    fn cost(&self, prepared: &PreparedPlan) -> TrialCost {
        let model = &prepared.models[self.model];
        if let Some(density) = &self.density
            && let Ok(Some(solver)) = sample_density_solver(model, &self.sampler, density)
        {
            return path_cost(model, &solver, std::slice::from_ref(density), self.count);
        }
        let context = SamplerContext::for_model(model);
        let (each, rows) = (self.sampler.cost(&context), self.count as u64);
        let calls = prepared.models[self.model].most_calls();
        TrialCost {
            evaluations: each.evaluations * calls * rows,
            products: each.products * calls * rows,
            head_calls: 0,
            guessed: each.is_upper_bound,
        }
    }

    fn workload(&self, prepared: &PreparedPlan, seconds: SecondsPerRow) -> Workload {
        let context = SamplerContext::for_model(&prepared.models[self.model]);
        let rows = self.sampler.network_rows(&context, self.count);
        let label = self.sampler.label();
        network_workload(self, prepared, seconds, "samples", &label, Some(rows))
    }

    fn validate(&self, prepared: &PreparedPlan) -> Result<()> {
        let model = &prepared.models[self.model];
        self.sampler
            .check(&SamplerContext::for_model(model))
            .map_err(|e| anyhow!(prefix_with_name(self.sampler.name(), e)))?;
        check_sampler_supported(model, &self.sampler)?;
        if let Some(density) = &self.density {
            sample_density_solver(model, &self.sampler, density)?;
        }
        self.noise.map_or(Ok(()), |noise| {
            check_sample_end(prepared, noise, self.first.checked_add(self.count))
        })
    }

    fn sample_range(&self) -> Option<Range<SampleId>> {
        Some(self.first as SampleId..(self.first + self.count) as SampleId)
    }

    fn samples_per_unit(&self) -> usize {
        self.sampler.population().unwrap_or(1).max(1)
    }

    fn estimators(&self) -> Vec<DivergenceEstimator> {
        self.density.iter().cloned().collect()
    }

    fn samplers(&self) -> Vec<Sampler> {
        vec![self.sampler.clone()]
    }
}
