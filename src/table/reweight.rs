//! Reweighted samples: the weights as they are, and the quantities of each set of samples.

use anyhow::{Result, anyhow};

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::ReweightWork;
use crate::reweight::ReweightedSamples;
use crate::rows::{ReweightRow, WeightRow};

impl TabulateWork for ReweightWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<WeightRow>()?;
        collected.tables.weights.extend(rows);
        Ok(())
    }
}

/// The quantities of every set of samples that are reweighted together. A set with fewer than two
/// weights has none.
///
/// # Errors
/// Fails if an observable of a row cannot be read.
pub(super) fn reweight_rows(weights: &[WeightRow]) -> Result<Vec<ReweightRow>> {
    let mut sets: Vec<[&str; 4]> = Vec::new();
    for row in weights {
        let key = row.set_key();
        if sets.last() != Some(&key) && !sets.contains(&key) {
            sets.push(key);
        }
    }
    let mut found = Vec::new();
    for key in sets {
        let of_set: Vec<&WeightRow> = weights.iter().filter(|row| row.set_key() == key).collect();
        let samples = collect_samples(&of_set)?;
        let failed = of_set.len() - samples.energies.len();
        let Ok(reweighting) = samples.reweight() else {
            continue;
        };
        let [model, sampler, estimator, target] = key.map(str::to_owned);
        found.extend(
            reweighting
                .quantities
                .into_iter()
                .map(|quantity| ReweightRow {
                    model: model.clone(),
                    sampler: sampler.clone(),
                    estimator: estimator.clone(),
                    target: target.clone(),
                    quantity: quantity.name,
                    value: quantity.estimate.value,
                    stderr: quantity.estimate.stderr,
                    low: quantity.estimate.low,
                    high: quantity.estimate.high,
                    n: quantity.estimate.n,
                    failed,
                }),
        );
    }
    Ok(found)
}

/// The samples of some rows that have a weight.
///
/// # Errors
/// Fails if an observable cannot be read.
fn collect_samples(rows: &[&WeightRow]) -> Result<ReweightedSamples> {
    let mut samples = ReweightedSamples::default();
    for row in rows {
        let (Some(log_density), Some(energy)) = (row.log_likelihood, row.energy) else {
            continue;
        };
        samples.log_densities.push(log_density);
        samples.stderrs.push(row.stderr.unwrap_or(0.0));
        samples.energies.push(energy);
        for (i, pair) in row.observables.split_whitespace().enumerate() {
            let malformed = || anyhow!("weights: {pair:?}, expected NAME=NUMBER");
            let (name, value) = pair.rsplit_once('=').ok_or_else(malformed)?;
            let value: f64 = value.parse().map_err(|_| malformed())?;
            if samples.observables.len() <= i {
                samples.observables.push((name.to_owned(), Vec::new()));
            }
            samples.observables[i].1.push(value);
        }
    }
    Ok(samples)
}
