//! What a flow map makes of its identities, as rows.

use anyhow::Result;
use ndarray::Axis;

use super::{Output, Pool, Stage, write_rows};
use crate::flow::field::{EvalError, FlowMap, Linearized};
use crate::flow::map as flow_map;
use crate::likelihood::calibration::{self, Mass, Proposal, Residual};
use crate::model::card::Direction;
use crate::model::flow_map::{Derivatives, OnnxMap};
use crate::model::opened::{JacobianOptions, Options, Tangents};
use crate::num::key::Key;
use crate::num::{Batch, Blocks, stats};
use crate::plan::MapWork;
use crate::{rows, sample};

/// One identity of a flow map in one number of steps.
pub struct Identity {
    pub steps: usize,
    pub residual: Residual,
    /// In place of residuals, for the normalization.
    pub mass: Option<Mass>,
}

impl Pool<'_> {
    /// The map with its Jacobian, and the velocity's: what identities are held with.
    pub(super) fn opened_for(&self, work: &MapWork) -> Result<(OnnxMap, Tangents)> {
        let options = Options {
            provider: self.machine.provider,
            threads: self.machine.threads,
        };
        let derivatives = Derivatives {
            gradient: false,
            products: true,
        };
        let map = self
            .model
            .flow_map(&work.map, self.runtime, options, derivatives)?;
        Ok((
            map,
            self.model
                .tangents(self.runtime, options, JacobianOptions::default())?,
        ))
    }

    /// Opens what the identities of a flow map need, and calls everything once with two samples.
    pub(super) fn rehearse_maps(&self, work: &MapWork) -> Result<()> {
        let (mut map, mut velocity) = self.opened_for(work)?;
        let two = Batch::zeros((2, self.model.dim()));
        let (data, prior) = (
            [self.model.curve.data_end(); 2],
            [self.model.curve.prior_end(); 2],
        );
        let to_data = self.model.map_spec(&work.map)?.direction() == Direction::ToData;
        let (from, to) = if to_data {
            (&prior, &data)
        } else {
            (&data, &prior)
        };
        let z = Blocks::ones((2, 2, self.model.dim()));
        map.averages(from, to, &two)?;
        map.products(from, to, &two, &z)?;
        velocity.quadratic(&data, &two, &z)?;
        Ok(())
    }

    /// What a flow map makes of its identities, for each number of steps; `all` are the data behind the proposal.
    ///
    /// # Errors
    /// Where the map or the velocity's Jacobian cannot be evaluated.
    pub fn identities(
        &self,
        work: &MapWork,
        key: Key,
        x: &Batch,
        all: &Batch,
    ) -> Result<Vec<Identity>> {
        let (mut map, mut velocity) = self.opened_for(work)?;
        let batch = self.machine.batch(self.model);
        let (curve, direction) = (
            &self.model.curve,
            self.model.map_spec(&work.map)?.direction(),
        );
        let mut found = Vec::new();
        for &steps in &work.steps {
            let times = flow_map::times(curve, work.grid, steps).map_err(EvalError::Missing)?;
            let mut fine =
                flow_map::times(curve, work.grid, 2 * steps).map_err(EvalError::Missing)?;
            if direction == Direction::ToData {
                fine.reverse();
            }
            let setting = calibration::Setting {
                curve,
                times: &fine,
                both_ways: direction == Direction::Both,
            };
            let mut residuals: Vec<Residual> = Vec::new();
            for part in x.axis_chunks_iter(Axis(0), batch) {
                for r in calibration::residuals(
                    &mut map,
                    Some(&mut velocity),
                    &setting,
                    part.to_owned(),
                )? {
                    match residuals.iter_mut().find(|known| known.check == r.check) {
                        Some(known) => known.values.extend(r.values),
                        None => residuals.push(r),
                    }
                }
            }
            found.extend(residuals.into_iter().map(|residual| Identity {
                steps,
                residual,
                mass: None,
            }));
            if work.draws > 0 {
                let proposal = Proposal::new(all.clone());
                let mut weights = Vec::new();
                for first in (0..work.draws).step_by(batch) {
                    let last = (first + batch).min(work.draws);
                    let x = proposal.draw(key, first as u64..last as u64);
                    weights.extend(calibration::weights(
                        &mut map,
                        curve,
                        self.model.prior,
                        &times,
                        &proposal,
                        &x,
                    )?);
                }
                let residual = Residual {
                    check: "normalization",
                    unit: "mass",
                    values: Vec::new(),
                };
                found.push(Identity {
                    steps,
                    residual,
                    mass: calibration::mass(&weights),
                });
            }
        }
        Ok(found)
    }
}

impl Stage<'_> {
    pub(super) fn maps(&self, w: &MapWork) -> Result<Output> {
        let (plan, opened, data) = (
            &self.prepared.plan,
            &self.prepared.models[w.model],
            &self.prepared.data[w.data],
        );
        let all = data.states(&opened.card, self.key(), &Stage::ranged(0, data.len()));
        let samples = Stage::ranged(0, w.samples);
        let x = match opened.map_spec(&w.map)?.direction() {
            Direction::ToData => {
                sample::noise(self.key(), &samples, opened.dim(), opened.prior.std)
            }
            _ => data.states(&opened.card, self.key(), &samples),
        };
        let found = self.pools[w.model].identities(w, self.key(), &x, &all)?;
        let mut rows = Vec::new();
        for Identity {
            steps,
            residual:
                Residual {
                    check,
                    unit,
                    values,
                },
            mass,
        } in found
        {
            let sound: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
            let Some(estimate) = mass.map(|m| m.estimate).or(stats::mean(&sound)) else {
                continue;
            };
            rows.push(rows::MapRow {
                model: plan.models[w.model].name.clone(),
                dataset: plan.data[w.data].name.clone(),
                map: w.map.clone(),
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
                effective_n: mass.map(|m| m.effective),
            });
        }
        write_rows(rows.into_iter())
    }
}
