//! The choice of the rows that are recomputed: a random part of each kind of work. The choice
//! depends only on the seed, the trial's id and the sample's index.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use crate::num::key::{Purpose, RngKey, SampleId};
use crate::plan::{Trial, TrialWork};

/// The samples of one trial that are recomputed.
pub(super) struct TrialSelection<'a> {
    pub trial: &'a Trial,
    /// The samples in order. The list is empty if the trial's rows are statistics, which are
    /// recomputed together.
    pub samples: Vec<SampleId>,
}

/// The smallest part of a trial that can be recomputed: a sample, a whole population, or all of a
/// trial of statistics.
struct SelectionUnit {
    /// A uniform random number. The units with the smallest draws are chosen.
    draw: f64,
    /// The position of the trial in the list of trials.
    trial_index: usize,
    samples: Vec<SampleId>,
}

/// Chooses the share `fraction` of the units of every kind of work, and all units of the trials in
/// `whole`. The number of units is rounded up, so every kind has at least one.
///
/// A unit is a sample, a whole population, or a trial of statistics. With the same seed, a larger
/// fraction chooses the same units and more.
pub(super) fn select_samples<'a>(
    trials: &[&'a Trial],
    fraction: f64,
    seed: u64,
    whole: &BTreeSet<&str>,
) -> Vec<TrialSelection<'a>> {
    let mut kinds: BTreeMap<&str, Vec<SelectionUnit>> = BTreeMap::new();
    let mut chosen: Vec<BTreeSet<SampleId>> = vec![BTreeSet::new(); trials.len()];
    let mut taken = vec![false; trials.len()];
    for (place, trial) in trials.iter().enumerate() {
        let address = hash_trial_id(&trial.id);
        for samples in selection_units(&trial.work) {
            let first = samples.first().copied().unwrap_or(0);
            let draw = RngKey { seed }.uniform_at(Purpose::Verification, first, address, 0);
            if whole.contains(trial.id.as_str()) {
                taken[place] = true;
                chosen[place].extend(&samples);
            }
            kinds
                .entry(trial.work.kind_name())
                .or_default()
                .push(SelectionUnit {
                    draw,
                    trial_index: place,
                    samples,
                });
        }
    }
    for mut units in kinds.into_values() {
        units.sort_by(|a, b| a.draw.total_cmp(&b.draw));
        let count = (fraction * units.len() as f64).ceil() as usize;
        for SelectionUnit {
            trial_index: place,
            samples,
            ..
        } in units.into_iter().take(count)
        {
            taken[place] = true;
            chosen[place].extend(samples);
        }
    }
    let parts = trials
        .iter()
        .zip(chosen)
        .zip(taken)
        .filter(|(_, taken)| *taken);
    parts
        .map(|((trial, samples), _)| TrialSelection {
            trial,
            samples: samples.into_iter().collect(),
        })
        .collect()
}

/// The samples of each unit of a trial. If its rows are statistics, there is one unit without
/// samples.
fn selection_units(work: &TrialWork) -> Vec<Vec<SampleId>> {
    let Some(samples) = work.sample_range() else {
        return vec![Vec::new()];
    };
    samples
        .collect::<Vec<_>>()
        .chunks(work.samples_per_unit())
        .map(<[SampleId]>::to_vec)
        .collect()
}

/// The hash of a trial's id, for random draws that depend on it.
fn hash_trial_id(id: &str) -> u64 {
    let hash = Sha256::digest(id.as_bytes());
    hash.iter()
        .take(8)
        .fold(0, |n, byte| n << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::SampleWork;

    fn trials() -> Vec<Trial> {
        let work = |first, sampler: &str| SampleWork {
            model: 0,
            sampler: serde_json::from_str(sampler).expect("a sampler"),
            noise: None,
            density: None,
            first,
            count: 50,
        };
        let steindiff = r#"{"steindiff": {"sampler": "euler", "population": 25}}"#;
        let mut trials: Vec<Trial> = (0..4)
            .map(|i| Trial {
                id: format!("a{i}"),
                work: work(50 * i, "\"euler\"").into(),
            })
            .collect();
        trials.push(Trial {
            id: "b".into(),
            work: work(0, steindiff).into(),
        });
        trials
    }

    fn chosen(fraction: f64, seed: u64, whole: &[&str]) -> BTreeSet<(String, SampleId)> {
        let trials = trials();
        let trials: Vec<&Trial> = trials.iter().collect();
        let parts = select_samples(&trials, fraction, seed, &whole.iter().copied().collect());
        parts
            .iter()
            .flat_map(|p| p.samples.iter().map(|s| (p.trial.id.clone(), *s)))
            .collect()
    }

    #[test]
    fn selection_is_deterministic_and_nested() {
        assert_eq!(chosen(1.0, 0, &[]).len(), 250);
        let few = chosen(0.05, 0, &[]);
        assert_eq!(few, chosen(0.05, 0, &[]), "twice the same");
        assert_ne!(few, chosen(0.05, 1, &[]), "another seed");
        assert!(chosen(0.5, 0, &[]).is_superset(&few), "more of the same");
        // A population is taken whole or not at all.
        let populations = chosen(0.05, 0, &["b"])
            .into_iter()
            .filter(|(id, _)| id == "b")
            .count();
        assert_eq!(populations, 50);
        for seed in 0..20 {
            let of_b = chosen(0.3, seed, &[])
                .into_iter()
                .filter(|(id, _)| id == "b")
                .count();
            assert!(of_b % 25 == 0, "{of_b}");
        }
        assert!(!chosen(1e-9, 0, &[]).is_empty(), "one at least");
    }
}
