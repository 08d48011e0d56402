//! Heads in the network's own file: one call computes the velocity and the divergence.
//!
//! A solver needs the velocity at a node first, and the divergence there only once the step is
//! accepted. The network therefore stores the extra outputs of its recent calls, so that the
//! divergence costs no further call. At states without a stored value the head is evaluated by a
//! session of its own.

use super::output_cache::OutputCache;
use super::scalar::{HeadTransform, ScalarNetwork};
use crate::flow::field::{EvalError, Points, ScalarField};
use crate::flow::network_velocity::Parameterization;

/// A head that is an output of the velocity's own graph.
pub struct JointHead {
    /// The name of the output.
    pub output: String,
    /// The outputs that the velocity's calls have stored.
    pub output_cache: OutputCache,
    /// The meaning of the network's output, from which the network's input follows.
    pub parameterization: Parameterization,
    /// The conversion of the output into the divergence.
    pub transform: HeadTransform,
    /// The head with a session of its own, for states at which the velocity was not evaluated.
    pub standalone: ScalarNetwork,
}

impl ScalarField for JointHead {
    fn is_smooth(&self) -> bool {
        self.standalone.is_smooth()
    }

    fn calls_at(&self, t: f64) -> u64 {
        self.standalone.calls_at(t)
    }

    fn eval(&mut self, at: Points) -> Result<Vec<f64>, EvalError> {
        let fed = self.parameterization.network_input(at.t, at.x).into_owned();
        let fed = at.with_states(&fed);
        let known: Vec<Option<f64>> = (0..at.rows())
            .map(|i| {
                self.output_cache
                    .get(&self.output, at.samples[i], at.t[i], fed.x.row(i))
            })
            .collect();
        let unknown: Vec<usize> = (0..known.len()).filter(|i| known[*i].is_none()).collect();
        let mut values: Vec<f64> = known
            .iter()
            .zip(at.t)
            .map(|(v, t)| v.map_or(f64::NAN, |v| self.transform.divergence(*t, v)))
            .collect();
        if !unknown.is_empty() {
            let computed = self.standalone.eval(fed.select(&unknown).points())?;
            unknown
                .iter()
                .zip(computed)
                .for_each(|(i, v)| values[*i] = v);
        }
        Ok(values)
    }
}
