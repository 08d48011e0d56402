//! Shards: parts of a plan that several processes or machines execute.

use std::collections::{BTreeMap, BTreeSet};

use super::Plan;

mod engines;
mod place;

pub(crate) use place::shard_of_environment;

/// The shard with number `index` of `count` shards, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    pub index: usize,
    pub count: usize,
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let number = |s: &str| {
            s.parse::<usize>()
                .ok()
                .filter(|n| (1..=1 << 20).contains(n))
        };
        let shard = text.split_once('/').and_then(|(i, n)| {
            Some(Shard {
                index: number(i)?,
                count: number(n)?,
            })
        });
        shard.filter(|s| s.index <= s.count).ok_or_else(|| {
            "expected I/N with I from 1 to N: `--shard 1/3`, `2/3` and `3/3` make one run"
                .to_owned()
        })
    }
}

/// The value of `--shard`: a shard, or the place that the engine tells which started the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShardChoice {
    /// This shard.
    Given(Shard),
    /// The shard that follows from the variables of an engine.
    Auto,
}

impl std::str::FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<ShardChoice, String> {
        match text {
            "auto" => Ok(ShardChoice::Auto),
            _ => text
                .parse()
                .map(ShardChoice::Given)
                .map_err(|error| format!("{error}; `auto` asks the engine that started it")),
        }
    }
}

impl Shard {
    /// The ids of the trials in this shard. Trials are dealt out in the order of their ids, which
    /// are hashes. A trial that reads the samples of other trials is in the same shard as they are.
    pub fn trial_ids<'a>(&self, plan: &'a Plan) -> BTreeSet<&'a str> {
        let leaders = group_representatives(plan);
        let dealt: BTreeSet<&str> = leaders.values().copied().collect();
        let mine: BTreeSet<&str> = dealt
            .into_iter()
            .skip(self.index - 1)
            .step_by(self.count)
            .collect();
        leaders
            .into_iter()
            .filter(|(_, leader)| mine.contains(leader))
            .map(|(id, _)| id)
            .collect()
    }
}

/// The group of each trial, named by its smallest id. Trials that share samples, directly or
/// through other trials, are in the same group.
fn group_representatives(plan: &Plan) -> BTreeMap<&str, &str> {
    let mut ids: Vec<&str> = plan.trials.iter().map(|t| t.id.as_str()).collect();
    ids.sort_unstable();
    let place = |id: &str| ids.binary_search(&id).ok();
    // Each trial points to one with a smaller id in its group, or to itself.
    let mut parents: Vec<usize> = (0..ids.len()).collect();
    for trial in &plan.trials {
        for required in trial.work.required_trials() {
            if let (Some(a), Some(b)) = (place(required), place(&trial.id)) {
                let (a, b) = (root_of(&mut parents, a), root_of(&mut parents, b));
                parents[a.max(b)] = a.min(b);
            }
        }
    }
    (0..ids.len())
        .map(|i| (ids[i], ids[root_of(&mut parents, i)]))
        .collect()
}

/// The end of the chain of parents. The chain is shortened on the way.
fn root_of(parents: &mut [usize], mut at: usize) -> usize {
    while parents[at] != at {
        parents[at] = parents[parents[at]];
        at = parents[at];
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{ContrastWork, MetricsWork, SampleWork, Trial};
    use crate::sample::Sampler;

    fn plan() -> Plan {
        let sampler = || Sampler::defaults().remove(0);
        let sample = |first| SampleWork {
            model: 0,
            sampler: sampler(),
            noise: None,
            density: None,
            first,
            count: 1,
        };
        let metrics = MetricsWork {
            model: 0,
            sampler: Some(sampler()),
            parts: vec!["0a".into(), "0b".into(), "0c".into()],
            floor: None,
            count: None,
            reference: 0,
            train: None,
            test: None,
            extractor: None,
            bytes: Default::default(),
            metrics: vec![],
        };
        let mut trials: Vec<Trial> = ["0a", "0b", "0c", "0d"]
            .iter()
            .enumerate()
            .map(|(i, id)| Trial {
                id: id.to_string(),
                work: sample(i).into(),
            })
            .collect();
        trials.push(Trial {
            id: "ff".into(),
            work: metrics.into(),
        });
        // A contrast reads the samples of two samplers, so their trials are in the same group.
        let contrast = ContrastWork {
            model: 0,
            sampler: sampler(),
            baseline: Box::new(sampler()),
            parts: vec!["0a".into()],
            baseline_parts: vec!["0d".into()],
            reference: 0,
            extractor: None,
            bytes: Default::default(),
            metrics: vec![],
        };
        trials.push(Trial {
            id: "ee".into(),
            work: contrast.into(),
        });
        trials.extend((10..17).map(|i| Trial {
            id: i.to_string(),
            work: sample(i).into(),
        }));
        Plan {
            format: 1,
            name: "a".into(),
            seed: 0,
            models: vec![],
            data: vec![],
            trials,
            notes: vec![],
        }
    }

    #[test]
    fn shards_partition_a_plan_and_keep_samples_with_their_statistics() {
        let plan = plan();
        for count in [1, 2, 3, 20] {
            let shares: Vec<_> = (1..=count)
                .map(|index| Shard { index, count }.trial_ids(&plan))
                .collect();
            assert_eq!(
                shares.iter().map(BTreeSet::len).sum::<usize>(),
                plan.trials.len(),
                "{count}"
            );
            let all: BTreeSet<&str> = shares.iter().flatten().copied().collect();
            assert_eq!(all.len(), plan.trials.len(), "{count}");
            let whole = ["0a", "0b", "0c", "0d", "ee", "ff"];
            assert!(
                shares.iter().any(|s| whole.iter().all(|id| s.contains(id))),
                "{count}"
            );
            // Eight units of work: no share has two more of them than another.
            let units = |s: &BTreeSet<&str>| s.iter().filter(|id| !whole[1..].contains(id)).count();
            let (most, least) = (
                shares.iter().map(units).max(),
                shares.iter().map(units).min(),
            );
            assert!(most <= least.map(|l| l + 1), "{count}");
        }
    }

    #[test]
    fn shard_parses_index_and_count() {
        assert_eq!("2/3".parse(), Ok(Shard { index: 2, count: 3 }));
        for wrong in ["0/3", "4/3", "1/0", "3", "a/b", "1/-2", "1/3/5", ""] {
            assert!(
                wrong.parse::<Shard>().is_err_and(|e| e.contains("1 to N")),
                "{wrong}"
            );
        }
    }
}
