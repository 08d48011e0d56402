//! What holds adaptive steps to their tolerance besides the state: a divergence that belongs to no estimator.
//!
//! It comes from the same calls as the velocity, and depends on the model, the sample and the seed alone: in few
//! dimensions the whole trace, in many the mean of a few probes with addresses of their own, fixed along the path;
//! the head, where an entry's estimators take no products; nothing, where there is neither. Estimators of an entry
//! share the path that it makes, and one more of a kind changes no step.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use ndarray::{Array2, Axis};

use super::shared::basis;
use super::{Divergence, Plan, Sources};
use crate::flow::field::{EvalError, Evaluation, Linearized, Products, VectorField, Wanted};
use crate::num::key::{Distribution, Key, Purpose, SampleId};
use crate::num::{Batch, Blocks};

/// Dimensions up to which the whole trace controls.
const FEW: usize = 16;

/// Probes beyond them. Where the divergence jumps, the mean of two is wrong by about as much as one jump, and the
/// steps are held to the same order of error as by the trace.
const PROBES: usize = 2;

/// The divergence that controls the steps of one entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Control {
    /// The state alone.
    State,
    /// The trace, by products with every unit vector.
    Trace,
    /// The mean of some probes' products.
    Probes(usize),
    /// A head of the card.
    Head(String),
}

impl Control {
    /// Of an entry's estimators in `dim` dimensions.
    pub fn of<'a>(
        estimators: impl IntoIterator<Item = &'a Divergence> + Clone,
        dim: usize,
    ) -> Control {
        let products = estimators.clone().into_iter().any(|e| e.needs_products().0);
        match estimators.into_iter().find_map(Divergence::head) {
            _ if products && dim <= FEW => Control::Trace,
            _ if products => Control::Probes(PROBES),
            Some(head) => Control::Head(head.to_owned()),
            None => Control::State,
        }
    }

    /// In a few words, as a plan says it.
    pub fn describe(&self) -> String {
        match self {
            Control::State => "steps held by the state alone".to_owned(),
            Control::Trace => "steps held by state and trace".to_owned(),
            Control::Probes(k) => format!("steps held by state and {k} control probes"),
            Control::Head(head) => format!("steps held by state and head {head}"),
        }
    }

    /// Jacobian products of one evaluation in `dim` dimensions.
    pub fn products(&self, dim: usize) -> u64 {
        match self {
            Control::Trace => dim as u64,
            Control::Probes(k) => *k as u64,
            Control::State | Control::Head(_) => 0,
        }
    }

    /// Whether its values are those of an estimator, which then takes none of its own.
    pub fn is(&self, estimator: &Divergence) -> bool {
        match (self, estimator) {
            (Control::Trace, Divergence::Trace(e)) => e.is_exact(),
            (Control::Head(head), Divergence::Learned(learned)) => *head == learned.head,
            _ => false,
        }
    }

    /// k × rows × dim.
    fn directions(&self, key: Key, sample: &[SampleId], dim: usize) -> Blocks {
        match self {
            Control::Trace => basis(sample.len(), dim),
            Control::Probes(count) => {
                let mut z = Blocks::zeros((*count, sample.len(), dim));
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
            Control::State | Control::Head(_) => Blocks::zeros((0, sample.len(), dim)),
        }
    }
}

/// What is shared, for as long as one of both needs it.
pub fn lock<'a, 's>(sources: &'a Mutex<&'s mut Sources>) -> MutexGuard<'a, &'s mut Sources> {
    sources.lock().unwrap_or_else(|e| e.into_inner())
}

/// A velocity with what comes along with it: the divergence that controls its path, and planned products.
pub struct Controlled<'a, 's> {
    pub velocity: &'a mut dyn VectorField,
    /// The path and the estimators on its nodes take turns with them.
    pub sources: &'a Mutex<&'s mut Sources>,
    pub control: &'a Control,
    /// What estimators share, where it comes along.
    pub plan: &'a Plan,
    pub key: Key,
    pub spent: Spent,
    /// The directions of the last call, which are fixed along a path.
    pub drawn: Option<Drawn>,
}

/// Directions of some samples, those that control first.
pub struct Drawn {
    sample: Vec<SampleId>,
    planned: Plan,
    /// directions × rows × dim
    z: Blocks,
}

/// What calls took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Seconds and rows of calls of the velocity alone.
    alone: (f64, usize),
    /// The same of calls that gave more.
    with_more: (f64, usize),
    /// Seconds of a row of the velocity alone, measured where a path never asks for it.
    velocity_seconds: Option<f64>,
    /// Seconds of that measurement.
    pub timing: f64,
    /// Products in them, rows counted: for the divergence that controls, and for estimators.
    controlling: u64,
    pub estimating: u64,
}

impl Spent {
    /// Seconds that came on top of the velocity's own: for the divergence that controls, and for estimators' products.
    pub fn seconds(&self) -> [f64; 2] {
        let (seconds, rows) = self.with_more;
        let products = (self.controlling + self.estimating) as f64;
        let row = match self.alone {
            (alone, asked) if asked > 0 => alone / asked as f64,
            _ => self.velocity_seconds.unwrap_or_default(),
        };
        let alone = row * rows as f64;
        let more = (seconds - alone).max(0.0);
        let share = if products > 0.0 {
            self.estimating as f64 / products
        } else {
            0.0
        };
        [more * (1.0 - share), more * share]
    }
}

/// Seconds after which the velocity is timed no further.
const TIMING_SECONDS: f64 = 0.02;

impl Controlled<'_, '_> {
    /// Times a few calls of the velocity alone, once for all paths of a worker: what comes along with it is told apart from
    /// it by that.
    fn time_velocity(&mut self, t: &[f64], x: &Batch) -> Result<(), EvalError> {
        if self.spent.velocity_seconds.is_none() {
            self.spent.velocity_seconds = lock(self.sources).velocity_seconds;
        }
        if self.spent.velocity_seconds.is_some() || t.is_empty() {
            return Ok(());
        }
        let mut least = f64::INFINITY;
        let began = Instant::now();
        // The first call of a session settles its memory, and any may have to wait for other programs.
        for _ in 0..4 {
            let started = Instant::now();
            self.velocity.velocity(t, x)?;
            least = least.min(started.elapsed().as_secs_f64());
            if began.elapsed().as_secs_f64() > TIMING_SECONDS {
                break;
            }
        }
        self.spent.timing += began.elapsed().as_secs_f64();
        self.spent.velocity_seconds = Some(least / t.len() as f64);
        lock(self.sources).velocity_seconds = self.spent.velocity_seconds;
        Ok(())
    }

    /// Velocity and products: by one call, unless heads of the card live on the velocity's own calls.
    fn with_products(
        &mut self,
        sample: &[SampleId],
        wanted: Wanted,
        t: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        let (rows, dim) = x.dim();
        let planned = if wanted == Wanted::Node {
            self.plan
        } else {
            &Plan::Apart
        };
        let mut sources = lock(self.sources);
        let apart = sources.apart;
        let missing = || EvalError::Missing("this model offers no Jacobian products".to_owned());
        let tangents: &mut dyn Linearized = &mut **sources.tangents.as_mut().ok_or_else(missing)?;
        self.spent.controlling += self.control.products(dim) * rows as u64;
        if *planned == Plan::Jacobian {
            let z = planned.directions(self.key, sample, dim);
            let together = if apart {
                None
            } else {
                tangents.products_with_velocity(t, x, &z)?
            };
            let (velocity, columns) = match together {
                Some(both) => both,
                None => (self.velocity.velocity(t, x)?, tangents.products(t, x, &z)?),
            };
            // Summed as quadratic forms are, so that nothing depends on what was planned.
            let diagonal = || Array2::from_shape_fn((dim, rows), |(i, row)| columns[[i, row, i]]);
            let divergence =
                (*self.control == Control::Trace).then(|| diagonal().sum_axis(Axis(0)).to_vec());
            self.spent.estimating += if divergence.is_none() {
                (dim * rows) as u64
            } else {
                0
            };
            return Ok(Evaluation {
                velocity,
                divergence,
                products: Some(Products::Jacobian(columns)),
            });
        }
        let controls = self.control.products(dim) as usize;
        if *planned == Plan::Diagonal
            && controls == 0
            && !apart
            && let Some((velocity, terms)) = tangents.trace_terms_with_velocity(t, x)?
        {
            self.spent.estimating += (dim * rows) as u64;
            return Ok(Evaluation {
                velocity,
                divergence: None,
                products: Some(Products::Forms(terms)),
            });
        }
        let fits = |drawn: &&Drawn| {
            drawn.sample == sample && drawn.planned == *planned && drawn.z.shape()[2] == dim
        };
        let drawn = match self.drawn.take().filter(|drawn| fits(&drawn)) {
            Some(drawn) => drawn,
            None => {
                let control = self.control.directions(self.key, sample, dim);
                let shared = planned.directions(self.key, sample, dim);
                let z = ndarray::concatenate(Axis(0), &[control.view(), shared.view()])
                    .expect("the same rows");
                Drawn {
                    sample: sample.to_vec(),
                    planned: planned.clone(),
                    z,
                }
            }
        };
        let z = &drawn.z;
        self.spent.estimating += ((z.shape()[0] - controls) * rows) as u64;
        let together = if apart {
            None
        } else {
            tangents.with_velocity(t, x, z)?
        };
        let (velocity, forms) = match together {
            Some(both) => both,
            None => (self.velocity.velocity(t, x)?, tangents.quadratic(t, x, z)?),
        };
        self.drawn = Some(drawn);
        let (controlling, shared) = forms.view().split_at(Axis(0), controls);
        let share = if let Control::Probes(k) = self.control {
            1.0 / *k as f64
        } else {
            1.0
        };
        let divergence =
            (!controlling.is_empty()).then(|| (controlling.sum_axis(Axis(0)) * share).to_vec());
        let products = (!shared.is_empty()).then(|| Products::Forms(shared.to_owned()));
        Ok(Evaluation {
            velocity,
            divergence,
            products,
        })
    }
}

impl VectorField for Controlled<'_, '_> {
    fn dim(&self) -> usize {
        self.velocity.dim()
    }

    fn is_smooth(&self) -> bool {
        match self.control {
            Control::Head(name) => lock(self.sources)
                .heads
                .get(name)
                .is_some_and(|head| head.is_smooth()),
            _ => self.velocity.is_smooth(),
        }
    }

    fn velocity(&mut self, t: &[f64], x: &Batch) -> Result<Batch, EvalError> {
        let started = Instant::now();
        let velocity = self.velocity.velocity(t, x)?;
        let (seconds, rows) = self.spent.alone;
        self.spent.alone = (seconds + started.elapsed().as_secs_f64(), rows + t.len());
        Ok(velocity)
    }

    fn evaluate(
        &mut self,
        sample: &[SampleId],
        wanted: Wanted,
        t: &[f64],
        x: &Batch,
    ) -> Result<Evaluation, EvalError> {
        if !matches!(self.control, Control::State) || *self.plan != Plan::Apart {
            self.time_velocity(t, x)?;
        }
        let started = Instant::now();
        let along = wanted == Wanted::Node && *self.plan != Plan::Apart;
        let said = match self.control {
            Control::State if !along => {
                return Ok(Evaluation {
                    velocity: self.velocity(t, x)?,
                    divergence: None,
                    products: None,
                });
            }
            Control::Head(name) => {
                // A head in the velocity's own graph remembers what was said beside the velocity.
                let velocity = self.velocity.velocity(t, x)?;
                let missing =
                    || EvalError::Missing(format!("this model has no divergence head `{name}`"));
                let divergence = lock(self.sources)
                    .heads
                    .get_mut(name)
                    .ok_or_else(missing)?
                    .eval(t, x)?;
                Evaluation {
                    velocity,
                    divergence: Some(divergence),
                    products: None,
                }
            }
            Control::State | Control::Trace | Control::Probes(_) => {
                self.with_products(sample, wanted, t, x)?
            }
        };
        let (seconds, rows) = self.spent.with_more;
        self.spent.with_more = (seconds + started.elapsed().as_secs_f64(), rows + t.len());
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(estimators: &str, dim: usize) -> Control {
        let estimators: Vec<Divergence> = serde_yaml::from_str(estimators).expect(estimators);
        Control::of(&estimators, dim)
    }

    #[test]
    fn what_controls_is_the_same_for_all_estimators_of_a_kind() {
        for name in Divergence::names() {
            let spec: Divergence = serde_yaml::from_str(name).expect(name);
            let alone = Control::of([&spec], 64);
            if spec.needs_products().0 {
                assert_eq!(alone, Control::Probes(PROBES), "{name}");
                assert_eq!(
                    control(&format!("[{name}, learned, closed-form]"), 64),
                    alone,
                    "{name}"
                );
                assert_eq!(
                    control(&format!("[learned, {name}]"), 3),
                    Control::Trace,
                    "{name}"
                );
            }
        }
        assert_eq!(
            control("[closed-form, {learned: {head: a}}]", 3),
            Control::Head("a".to_owned())
        );
        assert_eq!(
            control("[closed-form, finite-difference]", 3),
            Control::State
        );
    }
}
