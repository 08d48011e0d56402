//! Tensors that depend only on the directions of Jacobian products and on the weights, stored from
//! one node of a path to the next.

use std::collections::VecDeque;

use ndarray::{ArrayD, ArrayView3};

use super::onnx::Session;
use super::session_tensors::{InputTensor, RepeatedInputs, TensorFormat};
use crate::flow::field::EvalError;
use crate::num::TangentBatch;

/// The largest number of values that the cache stores, directions included.
const MAX_CACHED_VALUES: usize = 1 << 23;

/// Computes and caches the inputs that a graph takes instead of directions, such as the product of
/// its first layer with the directions.
pub struct ProbeCache {
    /// The session that computes the inputs from directions.
    session: Session,
    /// The name of the session's input.
    input_name: String,
    /// The session's outputs, with the formats in which the graph takes them as inputs.
    outputs: Vec<(String, TensorFormat)>,
    /// The cached entries; the most recently used one is last.
    entries: VecDeque<ProbeCacheEntry>,
}

/// The tensors for one array of directions.
struct ProbeCacheEntry {
    /// The directions, k × rows × dim.
    z: TangentBatch,
    /// One tensor per output of the session.
    inputs: RepeatedInputs,
    /// The number of values in the directions and the tensors.
    value_count: usize,
}

impl ProbeCache {
    /// Returns an empty cache. `session` computes the inputs, and `consumer` is the session of the
    /// graph that takes them.
    pub fn new(session: Session, consumer: &Session) -> ProbeCache {
        let given = session
            .inputs
            .first()
            .map(|port| port.name.clone())
            .unwrap_or_default();
        let format = |name: &String| {
            consumer
                .input(name)
                .map_or(TensorFormat::F32, |port| port.format)
        };
        let made = session
            .outputs
            .iter()
            .map(|port| (port.name.clone(), format(&port.name)))
            .collect();
        ProbeCache {
            session,
            input_name: given,
            outputs: made,
            entries: VecDeque::new(),
        }
    }

    /// The names of the inputs that the cache computes.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the inputs for the directions `z`, k × rows × dim, of states with the given shape.
    /// They are computed unless the cache has an entry for the same directions.
    ///
    /// # Errors
    /// Fails if the session cannot be run.
    pub fn inputs_for(
        &mut self,
        z: ArrayView3<f64>,
        shape: &[usize],
    ) -> Result<&mut RepeatedInputs, EvalError> {
        match self.entries.iter().position(|known| known.z == z) {
            Some(place) => {
                let known = self
                    .entries
                    .remove(place)
                    .expect("its place was just found");
                self.entries.push_back(known);
            }
            None => self.compute(z, shape)?,
        }
        let newest = self.entries.back_mut().expect("it was just stored");
        Ok(&mut newest.inputs)
    }

    /// Computes the inputs for `z` and stores them as the most recent entry. The oldest entries are
    /// dropped while the cache is too large; the new entry always stays.
    fn compute(&mut self, z: ArrayView3<f64>, shape: &[usize]) -> Result<(), EvalError> {
        let axes: Vec<usize> = [&z.shape()[..2], shape].concat();
        let directions = z
            .to_shape(axes.as_slice())
            .expect("dim numbers per direction");
        let wanted: Vec<&str> = self.outputs.iter().map(|(name, _)| name.as_str()).collect();
        let made: Vec<ArrayD<f64>> = self
            .session
            .run(vec![(self.input_name.as_str(), directions.view())], &wanted)?;
        let numbers = z.len() + made.iter().map(|values| values.len()).sum::<usize>();
        let tensors = made
            .iter()
            .zip(&self.outputs)
            .map(|(values, (name, format))| {
                (name.clone(), InputTensor::new(&values.view(), *format))
            })
            .collect();
        self.entries.push_back(ProbeCacheEntry {
            z: z.to_owned(),
            inputs: RepeatedInputs::new(tensors),
            value_count: numbers,
        });
        while self.entries.len() > 1
            && self
                .entries
                .iter()
                .map(|known| known.value_count)
                .sum::<usize>()
                > MAX_CACHED_VALUES
        {
            self.entries.pop_front();
        }
        Ok(())
    }
}
