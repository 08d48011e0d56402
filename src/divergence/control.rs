//! The divergence that controls adaptive steps together with the state. It is independent of the
//! estimators' values.
//!
//! It is computed in the velocity's calls, and depends only on the model, the sample and the seed.
//! In few dimensions it is the exact trace. In many dimensions it is the mean of a few probes,
//! which are fixed along the path and have their own random addresses. If no estimator of an entry
//! uses Jacobian products, it is a divergence head; without a head, there is none. All estimators
//! of an entry share the resulting path, and one more estimator of the same kind changes no step.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use ndarray::Axis;

use super::shared_products::unit_vectors;
use super::{DivergenceEstimator, ModelHandles, ProductPlan};
use crate::flow::field::{
    EvalError, Evaluation, EvaluationPurpose, JacobianOperator, JacobianProducts, Points,
    VectorField, jacobian_diagonals,
};
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch};

/// The maximum dimension in which the exact trace controls the steps.
const MAX_TRACE_CONTROL_DIM: usize = 16;

/// The number of control probes in higher dimensions. If the divergence jumps, the error of the
/// mean of two probes is about as large as one jump, so the steps are controlled to the same order
/// of error as by the exact trace.
const CONTROL_PROBES: usize = 2;

/// The divergence that controls the steps of one entry.
#[derive(Debug, Clone, PartialEq)]
pub enum ControlDivergence {
    /// No divergence: the state alone controls the steps.
    State,
    /// The exact trace, from products with every unit vector.
    Trace,
    /// The mean of the quadratic forms of this many probes.
    Probes(usize),
    /// The divergence head of this name.
    Head(String),
}

impl ControlDivergence {
    /// Chooses the control for an entry's estimators in `dim` dimensions.
    pub fn for_estimators<'a>(
        estimators: impl IntoIterator<Item = &'a DivergenceEstimator> + Clone,
        dim: usize,
    ) -> ControlDivergence {
        let products = estimators
            .clone()
            .into_iter()
            .any(|e| e.needs_jvp_and_vjp().0);
        match estimators.into_iter().find_map(DivergenceEstimator::head) {
            _ if products && dim <= MAX_TRACE_CONTROL_DIM => ControlDivergence::Trace,
            _ if products => ControlDivergence::Probes(CONTROL_PROBES),
            Some(head) => ControlDivergence::Head(head.to_owned()),
            None => ControlDivergence::State,
        }
    }

    /// A short description for the printed plan.
    pub fn describe(&self) -> String {
        match self {
            ControlDivergence::State => "steps controlled by the state alone".to_owned(),
            ControlDivergence::Trace => "steps controlled by state and trace".to_owned(),
            ControlDivergence::Probes(k) => {
                format!("steps controlled by state and {k} control probes")
            }
            ControlDivergence::Head(head) => format!("steps controlled by state and head {head}"),
        }
    }

    /// The number of Jacobian products per evaluation in `dim` dimensions.
    pub fn jvps_per_evaluation(&self, dim: usize) -> u64 {
        match self {
            ControlDivergence::Trace => dim as u64,
            ControlDivergence::Probes(k) => *k as u64,
            ControlDivergence::State | ControlDivergence::Head(_) => 0,
        }
    }

    /// Whether the estimator's values are the divergence that controls the steps, so that it needs
    /// no products of its own.
    pub fn is_estimator(&self, estimator: &DivergenceEstimator) -> bool {
        match (self, estimator) {
            (ControlDivergence::Trace, DivergenceEstimator::Trace(e)) => e.is_exact(),
            (ControlDivergence::Head(head), DivergenceEstimator::Learned(learned)) => {
                *head == learned.head
            }
            _ => false,
        }
    }

    /// The directions of the control's products, directions × rows × dim.
    fn directions(&self, key: RngKey, sample: &[SampleId], dim: usize) -> TangentBatch {
        match self {
            ControlDivergence::Trace => unit_vectors(sample.len(), dim),
            ControlDivergence::Probes(count) => {
                let mut z = TangentBatch::zeros((*count, sample.len(), dim));
                for (probe, mut block) in z.outer_iter_mut().enumerate() {
                    for (row, sample) in block.outer_iter_mut().zip(sample) {
                        key.probe(
                            Distribution::Rademacher,
                            (Purpose::Control, *sample, probe as u64, 0),
                            row,
                        );
                    }
                }
                z
            }
            ControlDivergence::State | ControlDivergence::Head(_) => {
                TangentBatch::zeros((0, sample.len(), dim))
            }
        }
    }
}

/// Locks the model handles, which the path and the estimators on its nodes use in turn.
pub fn lock_model_handles<'a, 's>(
    sources: &'a Mutex<&'s mut ModelHandles>,
) -> MutexGuard<'a, &'s mut ModelHandles> {
    sources.lock().unwrap_or_else(|e| e.into_inner())
}

/// A velocity that also returns the divergence that controls the steps, and the planned products.
pub struct ControlledVelocity<'a, 's> {
    /// The velocity alone.
    pub velocity: &'a mut dyn VectorField,
    /// The model handles, which the estimators on the path's nodes use too.
    pub sources: &'a Mutex<&'s mut ModelHandles>,
    /// The divergence that controls the steps.
    pub control: &'a ControlDivergence,
    /// The products to compute together with the velocity, for the estimators to share.
    pub plan: &'a ProductPlan,
    /// The random key of the probes.
    pub key: RngKey,
    /// The cost so far.
    pub cost: EvaluationCost,
    /// The directions of the last call. They are fixed along a path, so they are reused.
    pub cached_directions: Option<CachedDirections>,
}

/// Directions for some samples; those of the control come first.
pub struct CachedDirections {
    /// The samples of the rows.
    sample: Vec<SampleId>,
    /// The plan that gave the directions.
    plan: ProductPlan,
    /// The directions, directions × rows × dim.
    z: TangentBatch,
}

/// The time and the number of products of a path's calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct EvaluationCost {
    /// Seconds and rows of the calls of the velocity alone.
    velocity_calls: (f64, usize),
    /// Seconds and rows of the calls that returned more than the velocity.
    joint_calls: (f64, usize),
    /// The time of the velocity alone, in seconds per row. It is measured separately if the path
    /// never calls the velocity alone.
    velocity_seconds: Option<f64>,
    /// The duration of that measurement, in seconds.
    pub timing_seconds: f64,
    /// The number of products for the control, summed over rows.
    control_jvps: u64,
    /// The number of products for the estimators, summed over rows.
    pub estimator_jvps: u64,
}

impl EvaluationCost {
    /// The time in addition to the velocity's own, in seconds: for the control, and for the
    /// estimators' products.
    pub fn extra_seconds(&self) -> [f64; 2] {
        let (seconds, rows) = self.joint_calls;
        let products = (self.control_jvps + self.estimator_jvps) as f64;
        let row = match self.velocity_calls {
            (alone, rows) if rows > 0 => alone / rows as f64,
            _ => self.velocity_seconds.unwrap_or_default(),
        };
        let alone = row * rows as f64;
        let more = (seconds - alone).max(0.0);
        let share = if products > 0.0 {
            self.estimator_jvps as f64 / products
        } else {
            0.0
        };
        [more * (1.0 - share), more * share]
    }
}

/// The measurement of the velocity stops after this time.
const MAX_TIMING_SECONDS: f64 = 0.02;

impl ControlledVelocity<'_, '_> {
    /// Times a few calls of the velocity alone, once for all paths of a worker. From this, the time
    /// of the products in joint calls can be separated.
    fn time_velocity(&mut self, at: Points) -> Result<(), EvalError> {
        if self.cost.velocity_seconds.is_none() {
            self.cost.velocity_seconds = lock_model_handles(self.sources).velocity_seconds;
        }
        if self.cost.velocity_seconds.is_some() || at.t.is_empty() {
            return Ok(());
        }
        let mut least = f64::INFINITY;
        let began = Instant::now();
        // The first call of a session allocates memory, and other programs can delay any call, so
        // the shortest time counts.
        for _ in 0..4 {
            let started = Instant::now();
            self.velocity.velocity(at)?;
            least = least.min(started.elapsed().as_secs_f64());
            if began.elapsed().as_secs_f64() > MAX_TIMING_SECONDS {
                break;
            }
        }
        self.cost.timing_seconds += began.elapsed().as_secs_f64();
        self.cost.velocity_seconds = Some(least / at.rows() as f64);
        lock_model_handles(self.sources).velocity_seconds = self.cost.velocity_seconds;
        Ok(())
    }

    /// Returns the directions of the control, followed by those that are planned. They are the same
    /// along a path, so the caller puts them back into the cache. The Jacobian's directions are the
    /// planned ones alone, because they serve the control too.
    fn take_directions(
        &mut self,
        planned: &ProductPlan,
        sample: &[SampleId],
        dim: usize,
    ) -> CachedDirections {
        let fits = |directions: &CachedDirections| {
            directions.sample == sample
                && directions.plan == *planned
                && directions.z.shape()[2] == dim
        };
        if let Some(known) = self.cached_directions.take().filter(fits) {
            return known;
        }
        let shared = planned.directions(self.key, sample, dim);
        let z = if *planned == ProductPlan::Jacobian {
            shared
        } else {
            let control = self.control.directions(self.key, sample, dim);
            ndarray::concatenate(Axis(0), &[control.view(), shared.view()]).expect("the same rows")
        };
        CachedDirections {
            sample: sample.to_vec(),
            plan: planned.clone(),
            z,
        }
    }

    /// Evaluates velocity and products. One call gives both, unless the card has heads in the
    /// velocity's own graph.
    fn evaluate_with_products(
        &mut self,
        purpose: EvaluationPurpose,
        at: Points,
    ) -> Result<Evaluation, EvalError> {
        let sample = at.samples;
        let (rows, dim) = at.x.dim();
        let planned = if purpose == EvaluationPurpose::QuadratureNode {
            self.plan
        } else {
            &ProductPlan::Separate
        };
        let mut sources = lock_model_handles(self.sources);
        let separate = sources.separate_velocity;
        let missing = || EvalError::Missing("this model offers no Jacobian products".to_owned());
        let tangents: &mut dyn JacobianOperator =
            &mut **sources.jacobian.as_mut().ok_or_else(missing)?;
        self.cost.control_jvps += self.control.jvps_per_evaluation(dim) * rows as u64;
        if *planned == ProductPlan::Jacobian
            && *self.control != ControlDivergence::Trace
            && !separate
            && let Some((velocity, columns)) = tangents.velocity_and_jacobian(at)?
        {
            self.cost.estimator_jvps += (dim * rows) as u64;
            return Ok(Evaluation {
                velocity,
                divergence: None,
                products: Some(JacobianProducts::Jacobian(columns)),
            });
        }
        if *planned == ProductPlan::Jacobian {
            let directions = self.take_directions(planned, sample, dim);
            let z = &directions.z;
            let together = if separate {
                None
            } else {
                tangents.velocity_and_jvp(at, z)?
            };
            let (velocity, columns) = match together {
                Some(both) => both,
                None => (self.velocity.velocity(at)?, tangents.jvp(at, z)?),
            };
            self.cached_directions = Some(directions);
            // The diagonal is summed in the order of quadratic forms, so the result does not depend
            // on the plan.
            let divergence = (*self.control == ControlDivergence::Trace)
                .then(|| jacobian_diagonals(&columns).sum_axis(Axis(0)).to_vec());
            self.cost.estimator_jvps += if divergence.is_none() {
                (dim * rows) as u64
            } else {
                0
            };
            return Ok(Evaluation {
                velocity,
                divergence,
                products: Some(JacobianProducts::Jacobian(columns)),
            });
        }
        let controls = self.control.jvps_per_evaluation(dim) as usize;
        if *planned == ProductPlan::Diagonal
            && controls == 0
            && !separate
            && let Some((velocity, terms)) = tangents.velocity_and_trace_terms(at)?
        {
            self.cost.estimator_jvps += (dim * rows) as u64;
            return Ok(Evaluation {
                velocity,
                divergence: None,
                products: Some(JacobianProducts::QuadraticForms(terms)),
            });
        }
        let directions = self.take_directions(planned, sample, dim);
        let z = &directions.z;
        self.cost.estimator_jvps += ((z.shape()[0] - controls) * rows) as u64;
        let together = if separate {
            None
        } else {
            tangents.velocity_and_quadratic_form(at, z)?
        };
        let (velocity, forms) = match together {
            Some(both) => both,
            None => (self.velocity.velocity(at)?, tangents.quadratic_form(at, z)?),
        };
        self.cached_directions = Some(directions);
        let (controlling, shared) = forms.view().split_at(Axis(0), controls);
        let share = if let ControlDivergence::Probes(k) = self.control {
            1.0 / *k as f64
        } else {
            1.0
        };
        let divergence =
            (!controlling.is_empty()).then(|| (controlling.sum_axis(Axis(0)) * share).to_vec());
        let products =
            (!shared.is_empty()).then(|| JacobianProducts::QuadraticForms(shared.to_owned()));
        Ok(Evaluation {
            velocity,
            divergence,
            products,
        })
    }
}

impl VectorField for ControlledVelocity<'_, '_> {
    fn dim(&self) -> usize {
        self.velocity.dim()
    }

    fn is_smooth(&self) -> bool {
        match self.control {
            ControlDivergence::Head(name) => lock_model_handles(self.sources)
                .heads
                .get(name)
                .is_some_and(|head| head.is_smooth()),
            _ => self.velocity.is_smooth(),
        }
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.velocity.calls_at(t)
    }

    fn switch_times(&self) -> Vec<f64> {
        self.velocity.switch_times()
    }

    fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
        let started = Instant::now();
        let velocity = self.velocity.velocity(at)?;
        let (seconds, rows) = self.cost.velocity_calls;
        self.cost.velocity_calls = (seconds + started.elapsed().as_secs_f64(), rows + at.rows());
        Ok(velocity)
    }

    fn evaluate(
        &mut self,
        purpose: EvaluationPurpose,
        at: Points,
    ) -> Result<Evaluation, EvalError> {
        if !matches!(self.control, ControlDivergence::State) || *self.plan != ProductPlan::Separate
        {
            self.time_velocity(at)?;
        }
        let started = Instant::now();
        let along =
            purpose == EvaluationPurpose::QuadratureNode && *self.plan != ProductPlan::Separate;
        let evaluation = match self.control {
            ControlDivergence::State if !along => {
                return Ok(Evaluation {
                    velocity: self.velocity(at)?,
                    divergence: None,
                    products: None,
                });
            }
            ControlDivergence::Head(name) => {
                // The velocity's call also evaluates a head in the same graph, so the velocity must
                // be called first.
                let velocity = self.velocity.velocity(at)?;
                let missing =
                    || EvalError::Missing(format!("this model has no divergence head `{name}`"));
                let divergence = lock_model_handles(self.sources)
                    .heads
                    .get_mut(name)
                    .ok_or_else(missing)?
                    .eval(at)?;
                Evaluation {
                    velocity,
                    divergence: Some(divergence),
                    products: None,
                }
            }
            ControlDivergence::State | ControlDivergence::Trace | ControlDivergence::Probes(_) => {
                self.evaluate_with_products(purpose, at)?
            }
        };
        let (seconds, rows) = self.cost.joint_calls;
        self.cost.joint_calls = (seconds + started.elapsed().as_secs_f64(), rows + at.rows());
        Ok(evaluation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(estimators: &str, dim: usize) -> ControlDivergence {
        let estimators: Vec<DivergenceEstimator> =
            serde_yaml::from_str(estimators).expect(estimators);
        ControlDivergence::for_estimators(&estimators, dim)
    }

    #[test]
    fn control_divergence_is_the_same_for_all_trace_estimators() {
        for name in DivergenceEstimator::names() {
            let spec: DivergenceEstimator = serde_yaml::from_str(name).expect(name);
            let alone = ControlDivergence::for_estimators([&spec], 64);
            if spec.needs_jvp_and_vjp().0 {
                assert_eq!(alone, ControlDivergence::Probes(CONTROL_PROBES), "{name}");
                assert_eq!(
                    control(&format!("[{name}, learned, closed-form]"), 64),
                    alone,
                    "{name}"
                );
                assert_eq!(
                    control(&format!("[learned, {name}]"), 3),
                    ControlDivergence::Trace,
                    "{name}"
                );
            }
        }
        assert_eq!(
            control("[closed-form, {learned: {head: a}}]", 3),
            ControlDivergence::Head("a".to_owned())
        );
        assert_eq!(
            control("[closed-form, finite-difference]", 3),
            ControlDivergence::State
        );
    }
}
