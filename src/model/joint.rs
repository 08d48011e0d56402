//! Heads that share the network's own file: one call gives the velocity and the divergence.
//!
//! A solver asks for the velocity at a node and, once the step is accepted, for the divergence there. The
//! network remembers what it said beside the velocity for long enough, so that the second question costs
//! no call. A head asked where no velocity was is evaluated by a session of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use ndarray::ArrayView1;

use super::scalar::{Reading, Scalar};
use crate::flow::field::{EvalError, ScalarField};
use crate::flow::view::Form;
use crate::num::Batch;

/// Calls that are remembered. A step has at most 13 stages, and a row that is rejected keeps its first
/// slope while it shrinks its step, which ends after some thirty attempts.
const CALLS: usize = 512;

/// 128 bits of a time and a state as the network took them.
type Mark = [u64; 2];

fn mark(t: f64, fed: ArrayView1<f64>) -> Mark {
    [0u8, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        t.to_bits().hash(&mut hasher);
        fed.iter().for_each(|v| v.to_bits().hash(&mut hasher));
        hasher.finish()
    })
}

/// What a network said beside its main output, by output and place.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    values: HashMap<Mark, BTreeMap<String, f64>>,
    calls: VecDeque<Vec<Mark>>,
}

impl Memory {
    /// Keeps one call's values, output by output, and forgets the oldest call.
    pub fn keep(&self, t: &[f64], fed: &Batch, outputs: &[(String, Vec<f64>)]) {
        let mut said = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let marks: Vec<Mark> = fed
            .rows()
            .into_iter()
            .zip(t)
            .map(|(row, t)| mark(*t, row))
            .collect();
        for (i, mark) in marks.iter().enumerate() {
            let place = said.values.entry(*mark).or_default();
            place.extend(
                outputs
                    .iter()
                    .map(|(name, values)| (name.clone(), values[i])),
            );
        }
        said.calls.push_back(marks);
        if said.calls.len() > CALLS {
            for old in said.calls.pop_front().into_iter().flatten() {
                said.values.remove(&old);
            }
        }
    }

    fn recall(&self, output: &str, t: f64, fed: ArrayView1<f64>) -> Option<f64> {
        let said = self.0.lock().unwrap_or_else(|e| e.into_inner());
        said.values.get(&mark(t, fed))?.get(output).copied()
    }
}

/// A head that is an output of the velocity's own graph.
pub struct JointHead {
    pub output: String,
    pub memory: Memory,
    pub form: Form,
    pub reading: Reading,
    /// For places that the velocity was never asked about.
    pub alone: Scalar,
}

impl ScalarField for JointHead {
    fn is_smooth(&self) -> bool {
        self.alone.is_smooth()
    }

    fn eval(&mut self, t: &[f64], x: &Batch) -> Result<Vec<f64>, EvalError> {
        let fed = self.form.fed(t, x).into_owned();
        let known: Vec<Option<f64>> = fed
            .rows()
            .into_iter()
            .zip(t)
            .map(|(row, t)| self.memory.recall(&self.output, *t, row))
            .collect();
        let unknown: Vec<usize> = (0..known.len()).filter(|i| known[*i].is_none()).collect();
        let mut values: Vec<f64> = known
            .iter()
            .zip(t)
            .map(|(v, t)| v.map_or(f64::NAN, |v| self.reading.divergence(*t, v)))
            .collect();
        if !unknown.is_empty() {
            let times: Vec<f64> = unknown.iter().map(|i| t[*i]).collect();
            let asked = self
                .alone
                .eval(&times, &fed.select(ndarray::Axis(0), &unknown))?;
            unknown.iter().zip(asked).for_each(|(i, v)| values[*i] = v);
        }
        Ok(values)
    }
}
