//! Samples to features through an ONNX extractor.

use std::path::Path;

use anyhow::{Context, Result, bail};
use ndarray::{Array2, Axis, IxDyn};

use crate::model::onnx::{Provider, Runtime, Session};

/// Samples per call: fixed, so that `--batch` cannot reach a statistic.
const MICRO_BATCH: usize = 64;

/// An opened feature extractor.
pub struct Extractor {
    session: Session,
    input: String,
    output: String,
    /// Sizes of one sample, −1 where dynamic.
    shape: Vec<i64>,
}

impl Extractor {
    /// Opens an extractor; its input is its first, its output `features` or its first.
    ///
    /// # Errors
    /// Where the file is no model or has no ports of the right kind.
    pub fn open(path: &Path, runtime: &Runtime, provider: Provider, threads: usize) -> Result<Extractor> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).with_context(|| format!("{name}: the extractor cannot be read"))?;
        let session = runtime.open(&name, &bytes, provider, threads)?;
        if session.inputs.len() != 1 || session.outputs.is_empty() {
            bail!(
                "{name}: it has {} inputs and {} outputs, expected one input: samples",
                session.inputs.len(),
                session.outputs.len()
            );
        }
        let input = &session.inputs[0];
        if input.shape.len() < 2 || input.shape[0] >= 0 {
            bail!(
                "{name}: input `{}` has shape {:?}, expected a dynamic batch and a sample: [N, …]",
                input.name,
                input.shape
            );
        }
        let output = session.outputs.iter().find(|p| p.name == "features").unwrap_or(&session.outputs[0]);
        let (input, output, shape) = (input.name.clone(), output.name.clone(), input.shape[1..].to_vec());
        Ok(Extractor { session, input, output, shape })
    }

    /// Features of each row, in f64.
    ///
    /// # Errors
    /// Where the rows do not fit the extractor's input, or it cannot be run.
    pub fn features(&mut self, samples: &Array2<f64>, sample_shape: &[usize]) -> Result<Array2<f64>> {
        let shape = self.fit(samples.ncols(), sample_shape)?;
        let mut parts = Vec::new();
        for chunk in samples.axis_chunks_iter(Axis(0), MICRO_BATCH) {
            let full: Vec<usize> = std::iter::once(chunk.nrows()).chain(shape.iter().copied()).collect();
            let fed = chunk.as_standard_layout().into_owned().into_shape_with_order(IxDyn(&full))?;
            let out = self.session.run(vec![(&self.input, fed.view())], &[&self.output])?.remove(0);
            let width = out.len() / chunk.nrows();
            if out.shape().first() != Some(&chunk.nrows()) {
                bail!(
                    "{}: output `{}` has shape {:?}, expected {} rows",
                    self.session.file,
                    self.output,
                    out.shape(),
                    chunk.nrows()
                );
            }
            parts.push(out.into_shape_with_order((chunk.nrows(), width))?);
        }
        let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
        Ok(ndarray::concatenate(Axis(0), &views)?)
    }

    /// The shape one sample is fed in: the extractor's own where it is fixed.
    fn fit(&self, width: usize, sample_shape: &[usize]) -> Result<Vec<usize>> {
        let fixed: Option<Vec<usize>> = self.shape.iter().map(|s| usize::try_from(*s).ok()).collect();
        let shape = fixed.unwrap_or_else(|| sample_shape.to_vec());
        if shape.iter().product::<usize>() != width {
            bail!(
                "{}: input `{}` takes samples of shape {:?}, but the samples have {width} numbers",
                self.session.file,
                self.input,
                self.shape
            );
        }
        Ok(shape)
    }
}
