//! What depends on the directions of Jacobian products and the weights alone, kept from one point of a path to the next.

use std::collections::VecDeque;

use ndarray::ArrayD;

use super::onnx::{Fed, Format, Session};
use crate::flow::field::EvalError;
use crate::num::Blocks;

/// Numbers that are kept at most.
const MOST: usize = 1 << 23;

/// The first layer applied to directions, and whatever else a graph takes of them instead of themselves.
pub struct ProbeCache {
    session: Session,
    /// The session's input.
    given: String,
    /// Its outputs, which are inputs of the graph that takes them, in that graph's formats.
    made: Vec<(String, Format)>,
    /// The latest last.
    known: VecDeque<Known>,
}

struct Known {
    z: Blocks,
    made: Vec<Fed>,
    numbers: usize,
}

impl ProbeCache {
    /// From the graph that makes them, for the graph `of` that takes them.
    pub fn new(session: Session, of: &Session) -> ProbeCache {
        let given = session
            .inputs
            .first()
            .map(|port| port.name.clone())
            .unwrap_or_default();
        let format = |name: &String| of.input(name).map_or(Format::F32, |port| port.format);
        let made = session
            .outputs
            .iter()
            .map(|port| (port.name.clone(), format(&port.name)))
            .collect();
        ProbeCache {
            session,
            given,
            made,
            known: VecDeque::new(),
        }
    }

    /// The names of what it makes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.made.iter().map(|(name, _)| name.as_str())
    }

    /// What the graph takes of `z`, k × rows × dim, of states of this shape: from an earlier call with the same numbers, or
    /// made now.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn inputs_for(
        &mut self,
        z: &Blocks,
        shape: &[usize],
    ) -> Result<Vec<(&str, &Fed)>, EvalError> {
        match self.known.iter().position(|known| known.z == z) {
            Some(place) => {
                let known = self.known.remove(place).expect("its place was just found");
                self.known.push_back(known);
            }
            None => self.make(z, shape)?,
        }
        let made = self
            .known
            .back()
            .map(|known| known.made.as_slice())
            .unwrap_or_default();
        Ok(self
            .made
            .iter()
            .map(|(name, _)| name.as_str())
            .zip(made)
            .collect())
    }

    fn make(&mut self, z: &Blocks, shape: &[usize]) -> Result<(), EvalError> {
        let axes: Vec<usize> = [&z.shape()[..2], shape].concat();
        let directions = z
            .to_shape(axes.as_slice())
            .expect("dim numbers per direction");
        let wanted: Vec<&str> = self.made.iter().map(|(name, _)| name.as_str()).collect();
        let made: Vec<ArrayD<f64>> = self
            .session
            .run(vec![(self.given.as_str(), directions.view())], &wanted)?;
        let numbers = z.len() + made.iter().map(|values| values.len()).sum::<usize>();
        let made = made
            .iter()
            .zip(&self.made)
            .map(|(values, (_, format))| Fed::new(&values.view(), *format))
            .collect();
        self.known.push_back(Known {
            z: z.clone(),
            made,
            numbers,
        });
        while self.known.len() > 1
            && self.known.iter().map(|known| known.numbers).sum::<usize>() > MOST
        {
            self.known.pop_front();
        }
        Ok(())
    }
}
