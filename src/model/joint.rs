//! Heads that share the network's own file: one call gives the velocity and the divergence.
//!
//! A solver asks for the velocity at a node and, once the step is accepted, for the divergence there. The
//! network remembers what it said beside the velocity for long enough, so that the second question costs
//! no call. A head asked where no velocity was is evaluated by a session of its own.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use ndarray::ArrayView1;

use super::scalar::{HeadTransform, ScalarNetwork};
use crate::flow::field::{EvalError, ScalarField};
use crate::flow::network_velocity::Parameterization;
use crate::num::Batch;

/// Calls that are remembered. A step has at most 13 stages, and a row that is rejected keeps its first
/// slope while it shrinks its step, which ends after some thirty attempts.
const MAX_CACHED_CALLS: usize = 512;

/// 128 bits of a time and a state as the network took them.
type OutputCacheKey = [u64; 2];

fn output_cache_key(t: f64, fed: ArrayView1<f64>) -> OutputCacheKey {
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
pub struct OutputCache(Arc<Mutex<OutputCacheEntries>>);

#[derive(Debug, Default)]
struct OutputCacheEntries {
    values: HashMap<OutputCacheKey, BTreeMap<String, f64>>,
    calls: VecDeque<Vec<OutputCacheKey>>,
}

impl OutputCache {
    /// Keeps one call's values, output by output, and forgets the oldest call.
    pub fn insert_call(&self, t: &[f64], fed: &Batch, outputs: &[(String, Vec<f64>)]) {
        let mut said = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let marks: Vec<OutputCacheKey> = fed
            .rows()
            .into_iter()
            .zip(t)
            .map(|(row, t)| output_cache_key(*t, row))
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
        if said.calls.len() > MAX_CACHED_CALLS {
            for old in said.calls.pop_front().into_iter().flatten() {
                said.values.remove(&old);
            }
        }
    }

    fn get(&self, output: &str, t: f64, fed: ArrayView1<f64>) -> Option<f64> {
        let said = self.0.lock().unwrap_or_else(|e| e.into_inner());
        said.values
            .get(&output_cache_key(t, fed))?
            .get(output)
            .copied()
    }
}

/// A head that is an output of the velocity's own graph.
pub struct JointHead {
    pub output: String,
    pub output_cache: OutputCache,
    pub parameterization: Parameterization,
    pub transform: HeadTransform,
    /// For places that the velocity was never asked about.
    pub standalone: ScalarNetwork,
}

impl ScalarField for JointHead {
    fn is_smooth(&self) -> bool {
        self.standalone.is_smooth()
    }

    fn eval(&mut self, t: &[f64], x: &Batch) -> Result<Vec<f64>, EvalError> {
        let fed = self.parameterization.network_input(t, x).into_owned();
        let known: Vec<Option<f64>> = fed
            .rows()
            .into_iter()
            .zip(t)
            .map(|(row, t)| self.output_cache.get(&self.output, *t, row))
            .collect();
        let unknown: Vec<usize> = (0..known.len()).filter(|i| known[*i].is_none()).collect();
        let mut values: Vec<f64> = known
            .iter()
            .zip(t)
            .map(|(v, t)| v.map_or(f64::NAN, |v| self.transform.divergence(*t, v)))
            .collect();
        if !unknown.is_empty() {
            let times: Vec<f64> = unknown.iter().map(|i| t[*i]).collect();
            let asked = self
                .standalone
                .eval(&times, &fed.select(ndarray::Axis(0), &unknown))?;
            unknown.iter().zip(asked).for_each(|(i, v)| values[*i] = v);
        }
        Ok(values)
    }
}
