//! What samples have cost, and the steps of their samplers.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::SampleWork;
use crate::rows::{MetricRow, SampleRow};

impl TabulateWork for SampleWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        collected.sampling_costs.add(&files.rows()?);
        collected.tables.steps.extend(files.steps()?);
        Ok(())
    }
}

/// What each sampler's samples have cost, from their own rows.
#[derive(Default)]
pub(super) struct SamplingCosts(BTreeMap<(String, String), [f64; 5]>);

impl SamplingCosts {
    fn add(&mut self, rows: &[SampleRow]) {
        for row in rows {
            let sums = self
                .0
                .entry((row.model.clone(), row.sampler.clone()))
                .or_default();
            let one = [
                1.0,
                row.evaluations as f64,
                row.jvps as f64,
                row.seconds,
                row.jvp_seconds,
            ];
            sums.iter_mut().zip(one).for_each(|(sum, v)| *sum += v);
        }
    }

    /// A row of statistics with the measured cost of its sampler.
    pub(super) fn with_cost(&self, mut row: MetricRow) -> MetricRow {
        if let Some([n, evaluations, jvps, all, products]) =
            self.0.get(&(row.model.clone(), row.sampler.clone()))
        {
            (row.evaluations, row.jvps) = (evaluations / n, jvps / n);
            let ratio = if all > products {
                products / (all - products)
            } else {
                0.0
            };
            row.cost = row.evaluations * (1.0 + ratio);
        }
        row
    }
}
