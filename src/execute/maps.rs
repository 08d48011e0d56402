//! Execution of the checks of a flow map: the residuals of its identities, as rows.

use anyhow::Result;
use ndarray::Axis;

use super::{ExecuteWork, Executor, TrialOutput, TrialTask, WorkerPool, write_rows};
use crate::flow::field::{EvalError, FlowMap, JacobianOperator, Points};
use crate::flow::flow_map;
use crate::likelihood::flow_map_checks::{self, DensityMass, FlowMapResidual, MassProposal};
use crate::model::card::FlowMapDirection;
use crate::model::flow_map::{FlowMapDerivatives, OnnxFlowMap};
use crate::model::loaded::{JacobianOptions, SessionOptions, VelocityJacobian};
use crate::num::key::{RngKey, SampleId};
use crate::num::{Batch, TangentBatch, stats};
use crate::plan::FlowMapWork;
use crate::{rows, sample};

/// The check of one identity of a flow map, applied in one number of steps.
pub struct FlowMapIdentity {
    /// The number of steps.
    pub steps: usize,
    /// The residuals of the samples.
    pub residual: FlowMapResidual,
    /// The total mass of the few-step density. Only the check `normalization` has it, and that
    /// check has no residuals.
    pub mass: Option<DensityMass>,
}

impl WorkerPool<'_> {
    /// Opens the flow map with its Jacobian, and the Jacobian of the velocity.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or differentiated.
    pub(super) fn open_map_and_jacobian(
        &self,
        work: &FlowMapWork,
    ) -> Result<(OnnxFlowMap, VelocityJacobian)> {
        let options = SessionOptions {
            provider: self.machine.provider,
            threads: self.machine.threads,
        };
        let derivatives = FlowMapDerivatives {
            divergence_gradient: false,
            jacobian: true,
        };
        let map = self
            .model
            .flow_map(&work.map, self.runtime, options, derivatives)?;
        Ok((
            map,
            self.model
                .jacobian(self.runtime, options, JacobianOptions::default())?,
        ))
    }

    /// Opens the networks that the checks of a flow map need, and calls each once with two samples.
    ///
    /// # Errors
    /// Fails if a network cannot be opened or called.
    pub(super) fn dry_run_maps(&self, work: &FlowMapWork) -> Result<()> {
        let (mut map, mut velocity) = self.open_map_and_jacobian(work)?;
        let two = Batch::zeros((2, self.model.dim()));
        let (data, prior) = (
            [self.model.curve.data_end(); 2],
            [self.model.curve.prior_end(); 2],
        );
        let to_data = self.model.flow_map_spec(&work.map)?.direction() == FlowMapDirection::ToData;
        let (from, to) = if to_data {
            (&prior, &data)
        } else {
            (&data, &prior)
        };
        let z = TangentBatch::ones((2, 2, self.model.dim()));
        let at = Points::new(&[0, 1], from, &two);
        map.averages(at, to)?;
        map.jvp(at, to, &z)?;
        velocity.quadratic_form(Points::new(&[0, 1], &data, &two), &z)?;
        Ok(())
    }

    /// Checks the identities of a flow map for each number of steps.
    ///
    /// `x` holds the states of `samples` from which the map starts, rows × dim. `all` holds all samples of the
    /// data, from which the proposal of importance sampling is made.
    ///
    /// # Errors
    /// Fails if the map or the velocity's Jacobian cannot be evaluated.
    pub fn check_identities(
        &self,
        work: &FlowMapWork,
        key: RngKey,
        samples: &[SampleId],
        x: &Batch,
        all: &Batch,
    ) -> Result<Vec<FlowMapIdentity>> {
        let (mut map, mut velocity) = self.open_map_and_jacobian(work)?;
        let batch = self.machine.batch_size(self.model);
        let (curve, direction) = (
            &self.model.curve,
            self.model.flow_map_spec(&work.map)?.direction(),
        );
        let mut found = Vec::new();
        for &steps in &work.steps {
            let times =
                flow_map::flow_map_times(curve, work.grid, steps).map_err(EvalError::Missing)?;
            let mut fine = flow_map::flow_map_times(curve, work.grid, 2 * steps)
                .map_err(EvalError::Missing)?;
            if direction == FlowMapDirection::ToData {
                fine.reverse();
            }
            let setting = flow_map_checks::FlowMapCheckSetting {
                curve,
                times: &fine,
                both_ways: direction == FlowMapDirection::Both,
            };
            let mut residuals: Vec<FlowMapResidual> = Vec::new();
            for (part, samples) in x
                .axis_chunks_iter(Axis(0), batch)
                .zip(samples.chunks(batch))
            {
                for r in flow_map_checks::flow_map_residuals(
                    &mut map,
                    Some(&mut velocity),
                    &setting,
                    samples,
                    part.to_owned(),
                )? {
                    match residuals.iter_mut().find(|known| known.check == r.check) {
                        Some(known) => known.values.extend(r.values),
                        None => residuals.push(r),
                    }
                }
            }
            found.extend(residuals.into_iter().map(|residual| FlowMapIdentity {
                steps,
                residual,
                mass: None,
            }));
            if work.draws > 0 {
                let proposal = MassProposal::new(all.clone());
                let mut weights = Vec::new();
                for first in (0..work.draws).step_by(batch) {
                    let last = (first + batch).min(work.draws);
                    let x = proposal.draw(key, first as u64..last as u64);
                    // The draws go through the samples' conditions, one after the other.
                    let samples: Vec<SampleId> = (first..last)
                        .map(|draw| (draw % all.nrows()) as SampleId)
                        .collect();
                    weights.extend(flow_map_checks::importance_weights(
                        &mut map,
                        curve,
                        self.model.prior,
                        &times,
                        &proposal,
                        &samples,
                        &x,
                    )?);
                }
                let residual = FlowMapResidual {
                    check: "normalization",
                    unit: "mass",
                    values: Vec::new(),
                };
                found.push(FlowMapIdentity {
                    steps,
                    residual,
                    mass: flow_map_checks::density_mass(&weights),
                });
            }
        }
        Ok(found)
    }
}

impl ExecuteWork for FlowMapWork {
    fn dry_run(&self, executor: &Executor) -> Result<()> {
        executor.pools[self.model].dry_run_maps(self)
    }

    fn execute(&self, executor: &Executor, _task: &TrialTask) -> Result<TrialOutput> {
        let (plan, opened, data) = (
            &executor.prepared.plan,
            &executor.prepared.models[self.model],
            executor.state_data(self.data)?,
        );
        let all = data.states(
            &opened.card,
            executor.key(),
            &Executor::sample_ids(0, data.len()),
        );
        let samples = Executor::sample_ids(0, self.samples);
        let x = match opened.flow_map_spec(&self.map)?.direction() {
            FlowMapDirection::ToData => {
                let (prior, dim) = (opened.prior, opened.dim());
                prior.project(sample::initial_noise(
                    executor.key(),
                    &samples,
                    dim,
                    prior.std,
                ))
            }
            _ => data.states(&opened.card, executor.key(), &samples),
        };
        let found = executor.pools[self.model].check_identities(
            self,
            executor.key(),
            &samples,
            &x,
            &all,
        )?;
        let mut rows = Vec::new();
        for FlowMapIdentity {
            steps,
            residual:
                FlowMapResidual {
                    check,
                    unit,
                    values,
                },
            mass,
        } in found
        {
            let sound: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
            let Some(estimate) = mass.map(|m| m.estimate).or(stats::mean_estimate(&sound)) else {
                continue;
            };
            rows.push(rows::MapRow {
                model: plan.models[self.model].name.clone(),
                dataset: plan.data[self.data].name.clone(),
                map: self.map.clone(),
                check: check.to_owned(),
                steps,
                unit: unit.to_owned(),
                residual: if mass.is_some() {
                    estimate.value - 1.0
                } else {
                    estimate.value
                },
                residual_stderr: estimate.stderr,
                rms: stats::rms(&sound),
                n: estimate.n,
                effective_n: mass.map(|m| m.effective_draws),
            });
        }
        write_rows(rows.into_iter())
    }
}
