//! The extra outputs of a network's recent calls, from which heads in the same graph take their
//! values.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use ndarray::ArrayView1;

use crate::flow::field::Points;
use crate::num::key::SampleId;

/// The number of calls whose outputs are stored. A step has at most 13 stages. A rejected row keeps
/// its first slope while its step shrinks, which ends after about thirty attempts.
const MAX_CACHED_CALLS: usize = 512;

/// A 128-bit hash of a sample's number, a time and a state as the network's input.
type OutputCacheKey = [u64; 2];

/// Returns the key of a sample, whose conditions the output may depend on, of the time `t` and of
/// the network's input `fed`.
fn output_cache_key(sample: SampleId, t: f64, fed: ArrayView1<f64>) -> OutputCacheKey {
    [0u8, 1].map(|salt| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        sample.hash(&mut hasher);
        t.to_bits().hash(&mut hasher);
        fed.iter().for_each(|v| v.to_bits().hash(&mut hasher));
        hasher.finish()
    })
}

/// The stored extra outputs of a network. Clones share one store.
#[derive(Debug, Clone, Default)]
pub struct OutputCache(Arc<Mutex<OutputCacheEntries>>);

/// The content of an [`OutputCache`].
#[derive(Debug, Default)]
struct OutputCacheEntries {
    /// The values by output name, for each time and state.
    values: HashMap<OutputCacheKey, BTreeMap<String, f64>>,
    /// The keys of each call; the oldest call is first.
    calls: VecDeque<Vec<OutputCacheKey>>,
}

impl OutputCache {
    /// Stores the values of one call, with one value per row for each named output. The oldest call
    /// is dropped if there are too many.
    pub fn insert_call(&self, at: Points, outputs: &[(String, Vec<f64>)]) {
        let mut entries = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let keys: Vec<OutputCacheKey> =
            at.x.rows()
                .into_iter()
                .zip(at.t)
                .zip(at.samples)
                .map(|((row, t), sample)| output_cache_key(*sample, *t, row))
                .collect();
        for (i, key) in keys.iter().enumerate() {
            let values_at_key = entries.values.entry(*key).or_default();
            values_at_key.extend(
                outputs
                    .iter()
                    .map(|(name, values)| (name.clone(), values[i])),
            );
        }
        entries.calls.push_back(keys);
        if entries.calls.len() > MAX_CACHED_CALLS {
            for old in entries.calls.pop_front().into_iter().flatten() {
                entries.values.remove(&old);
            }
        }
    }

    /// Returns the stored value of an output for a sample, at a time and a network input.
    pub fn get(&self, output: &str, sample: SampleId, t: f64, fed: ArrayView1<f64>) -> Option<f64> {
        let entries = self.0.lock().unwrap_or_else(|e| e.into_inner());
        entries
            .values
            .get(&output_cache_key(sample, t, fed))?
            .get(output)
            .copied()
    }
}
