//! The table of sample statistics, and the gallery of generated samples beside data.

use anyhow::{Context, Result};

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::data::decode_npy_f32;
use crate::journal::array_file;
use crate::plan::MetricsWork;
use crate::rows::{Gallery, MetricRow};

impl TabulateWork for MetricsWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        for row in files.rows()? {
            let row = MetricRow {
                trajectory: self.sampler.as_ref().and_then(|s| s.trajectory()),
                ..collected.sampling_costs.with_cost(row)
            };
            collected.tables.metrics.push(row);
        }
        collected
            .tables
            .galleries
            .extend(load_gallery(self, files)?);
        Ok(())
    }
}

/// The first generated samples of a sampler and the first samples of the data, from the arrays in
/// the run directory. `None` for the data-versus-data floor.
///
/// # Errors
/// Fails if an array cannot be read.
fn load_gallery(work: &MetricsWork, files: &TrialFiles) -> Result<Option<Gallery>> {
    const MAX_GALLERY_SAMPLES: usize = 512;
    let Some(sampler) = &work.sampler else {
        return Ok(None);
    };
    let load = |id: &str| -> Result<Vec<Vec<f64>>> {
        let path = array_file(files.dir, id);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let rows = decode_npy_f32(&bytes).with_context(|| path.display().to_string())?;
        Ok(rows
            .rows()
            .into_iter()
            .take(MAX_GALLERY_SAMPLES)
            .map(|r| r.to_vec())
            .collect())
    };
    let mut generated = Vec::new();
    for id in &work.parts {
        if generated.len() < MAX_GALLERY_SAMPLES {
            generated.extend(load(id)?);
        }
    }
    generated.truncate(MAX_GALLERY_SAMPLES);
    let (model, real) = (&files.plan.models[work.model], load(&files.trial.id)?);
    let values = real.iter().flatten();
    let spread = || {
        [
            values.clone().fold(f64::INFINITY, |a, b| a.min(*b)),
            values.clone().fold(f64::NEG_INFINITY, |a, b| a.max(*b)),
        ]
    };
    Ok(Some(Gallery {
        model: model.name.clone(),
        sampler: sampler.label(),
        shape: image_shape(model.decoded_shape.as_ref().unwrap_or(&model.shape)),
        range: model.range.unwrap_or_else(spread),
        generated,
        real,
    }))
}

/// The shape in which a sample is drawn. A flat sample with a square number of values, at least 9,
/// becomes a square image. An axis of length 1 for the channel is dropped.
fn image_shape(shape: &[usize]) -> Vec<usize> {
    match shape {
        [n] if *n > 4 && n.isqrt() * n.isqrt() == *n => vec![n.isqrt(), n.isqrt()],
        [1, h, w] => vec![*h, *w],
        other => other.to_vec(),
    }
}
