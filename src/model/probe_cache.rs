//! What depends on the directions of Jacobian products and the weights alone, kept from one point of a path to the next.

use std::collections::VecDeque;

use ndarray::ArrayD;

use super::onnx::{InputTensor, Session, TensorFormat};
use crate::flow::field::EvalError;
use crate::num::TangentBatch;

/// Numbers that are kept at most.
const MAX_CACHED_VALUES: usize = 1 << 23;

/// The first layer applied to directions, and whatever else a graph takes of them instead of themselves.
pub struct ProbeCache {
    session: Session,
    /// The session's input.
    input_name: String,
    /// Its outputs, which are inputs of the graph that takes them, in that graph's formats.
    outputs: Vec<(String, TensorFormat)>,
    /// The latest last.
    entries: VecDeque<ProbeCacheEntry>,
}

struct ProbeCacheEntry {
    z: TangentBatch,
    tensors: Vec<InputTensor>,
    value_count: usize,
}

impl ProbeCache {
    /// From the graph that makes them, for the graph `of` that takes them.
    pub fn new(session: Session, of: &Session) -> ProbeCache {
        let given = session
            .inputs
            .first()
            .map(|port| port.name.clone())
            .unwrap_or_default();
        let format = |name: &String| of.input(name).map_or(TensorFormat::F32, |port| port.format);
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

    /// The names of what it makes.
    pub fn output_names(&self) -> impl Iterator<Item = &str> {
        self.outputs.iter().map(|(name, _)| name.as_str())
    }

    /// What the graph takes of `z`, k × rows × dim, of states of this shape: from an earlier call with the same numbers, or
    /// made now.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn inputs_for(
        &mut self,
        z: &TangentBatch,
        shape: &[usize],
    ) -> Result<Vec<(&str, &InputTensor)>, EvalError> {
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
        let made = self
            .entries
            .back()
            .map(|known| known.tensors.as_slice())
            .unwrap_or_default();
        Ok(self
            .outputs
            .iter()
            .map(|(name, _)| name.as_str())
            .zip(made)
            .collect())
    }

    fn compute(&mut self, z: &TangentBatch, shape: &[usize]) -> Result<(), EvalError> {
        let axes: Vec<usize> = [&z.shape()[..2], shape].concat();
        let directions = z
            .to_shape(axes.as_slice())
            .expect("dim numbers per direction");
        let wanted: Vec<&str> = self.outputs.iter().map(|(name, _)| name.as_str()).collect();
        let made: Vec<ArrayD<f64>> = self
            .session
            .run(vec![(self.input_name.as_str(), directions.view())], &wanted)?;
        let numbers = z.len() + made.iter().map(|values| values.len()).sum::<usize>();
        let made = made
            .iter()
            .zip(&self.outputs)
            .map(|(values, (_, format))| InputTensor::new(&values.view(), *format))
            .collect();
        self.entries.push_back(ProbeCacheEntry {
            z: z.clone(),
            tensors: made,
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
