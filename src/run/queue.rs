//! Which outstanding trial comes next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use sha2::{Digest, Sha256};

use crate::plan::Trial;

/// The outstanding trials of a process, each given out when those that it needs are settled.
pub(super) struct TrialQueue {
    /// The positions of the trials by their ids.
    places: HashMap<String, usize>,
    /// How many required trials are not settled yet.
    missing: Vec<usize>,
    /// The trials that need each trial.
    dependents: Vec<Vec<usize>>,
    /// The rank of each trial among those that are ready: the largest comes first.
    ranks: Vec<Rank>,
    /// The trials that can be given out.
    ready: BinaryHeap<(Rank, usize)>,
    settled: Vec<bool>,
    /// The number of trials that are not settled.
    left: usize,
}

/// A rank: the seconds that a trial holds up, in whole microseconds, then the order of the plan.
type Rank = (u64, Reverse<usize>);

/// The order in which ready trials are given out.
pub(super) enum TrialOrder<'a> {
    /// The order of the plan.
    Plan,
    /// The longest first, by the estimated seconds of each trial. What waits for a trial counts
    /// with it.
    LongestFirst(&'a [f64]),
    /// Likewise, with those of about the same length in an order that follows from a name: processes
    /// with different names rarely want the same trial, where asking for one costs a request.
    LongestFirstFor(&'a [f64], &'a str),
}

impl TrialQueue {
    /// A queue of the trials `todo`. Trials that they need and that are not among them are settled.
    pub(super) fn new(todo: &[&Trial], order: &TrialOrder) -> TrialQueue {
        let places: HashMap<String, usize> = todo
            .iter()
            .enumerate()
            .map(|(i, trial)| (trial.id.clone(), i))
            .collect();
        let mut missing = vec![0; todo.len()];
        let mut dependents = vec![Vec::new(); todo.len()];
        for (i, trial) in todo.iter().enumerate() {
            for required in trial.work.required_trials() {
                if let Some(place) = places.get(required).copied() {
                    missing[i] += 1;
                    dependents[place].push(i);
                }
            }
        }
        let seconds = match order {
            TrialOrder::Plan => vec![0.0; todo.len()],
            TrialOrder::LongestFirst(seconds) | TrialOrder::LongestFirstFor(seconds, _) => {
                with_longest_dependent(seconds, &dependents)
            }
        };
        let ranks: Vec<Rank> = match order {
            TrialOrder::LongestFirstFor(_, name) => {
                let turns = turns_of(name, todo);
                let about = |(seconds, turn): (&f64, usize)| (about(*seconds), Reverse(turn));
                seconds.iter().zip(turns).map(about).collect()
            }
            _ => (seconds.iter().enumerate())
                .map(|(i, seconds)| ((1e6 * seconds) as u64, Reverse(i)))
                .collect(),
        };
        let ready = (0..todo.len())
            .filter(|i| missing[*i] == 0)
            .map(|i| (ranks[i], i))
            .collect();
        TrialQueue {
            places,
            missing,
            dependents,
            ranks,
            ready,
            settled: vec![false; todo.len()],
            left: todo.len(),
        }
    }

    /// Takes the next trial that is ready and not settled; its position.
    pub(super) fn next(&mut self) -> Option<usize> {
        while let Some((_, i)) = self.ready.pop() {
            if !self.settled[i] {
                return Some(i);
            }
        }
        None
    }

    /// Gives back a trial that was taken.
    pub(super) fn put_back(&mut self, i: usize) {
        self.ready.push((self.ranks[i], i));
    }

    /// Notes that a trial has finished or failed, here or in another process. Returns its position;
    /// `None` if it is not among these trials or was settled before.
    pub(super) fn settle(&mut self, id: &str) -> Option<usize> {
        let place = self.places.get(id).copied()?;
        if std::mem::replace(&mut self.settled[place], true) {
            return None;
        }
        self.left -= 1;
        for dependent in std::mem::take(&mut self.dependents[place]) {
            self.missing[dependent] -= 1;
            if self.missing[dependent] == 0 {
                self.put_back(dependent);
            }
        }
        Some(place)
    }

    /// Whether a trial can be taken, or could have been before others settled it.
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether a trial is settled.
    pub(super) fn is_settled(&self, i: usize) -> bool {
        self.settled[i]
    }

    /// The number of trials that are not settled.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

/// A number that is the same for times within a fifth of each other, as a rule.
fn about(seconds: f64) -> u64 {
    (4.0 * (1.0 + 1e6 * seconds).log2()) as u64
}

/// The turn of each trial in an order that follows from a name.
fn turns_of(name: &str, todo: &[&Trial]) -> Vec<usize> {
    let digest = |i: &usize| Sha256::digest(format!("{name} {}", todo[*i].id));
    let mut order: Vec<usize> = (0..todo.len()).collect();
    order.sort_by_cached_key(digest);
    let mut turns = vec![0; order.len()];
    order
        .into_iter()
        .enumerate()
        .for_each(|(turn, i)| turns[i] = turn);
    turns
}

/// The seconds of each trial plus those of the longest chain of trials that wait for it.
fn with_longest_dependent(seconds: &[f64], dependents: &[Vec<usize>]) -> Vec<f64> {
    let mut total = seconds.to_vec();
    // A plan lists a trial behind those that it needs.
    for i in (0..seconds.len()).rev() {
        let longest = dependents[i].iter().map(|d| total[*d]).fold(0.0, f64::max);
        total[i] += longest;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{MetricsWork, SampleWork};
    use crate::sample::Sampler;

    fn sample(id: &str) -> Trial {
        let work = SampleWork {
            model: 0,
            sampler: Sampler::defaults().remove(0),
            noise: None,
            density: None,
            first: 0,
            count: 1,
        };
        Trial {
            id: id.to_owned(),
            work: work.into(),
        }
    }

    fn metrics(id: &str, parts: &[&str]) -> Trial {
        let work = MetricsWork {
            model: 0,
            sampler: Some(Sampler::defaults().remove(0)),
            parts: parts.iter().map(|p| (*p).to_owned()).collect(),
            floor: None,
            count: None,
            reference: 0,
            train: None,
            test: None,
            extractor: None,
            bytes: Default::default(),
            metrics: vec![],
        };
        Trial {
            id: id.to_owned(),
            work: work.into(),
        }
    }

    /// The order in which a process alone does the trials.
    fn order(trials: &[Trial], order: &TrialOrder) -> Vec<String> {
        let todo: Vec<&Trial> = trials.iter().collect();
        let mut queue = TrialQueue::new(&todo, order);
        let mut done = Vec::new();
        while let Some(i) = queue.next() {
            done.push(todo[i].id.clone());
            queue.settle(&todo[i].id);
        }
        assert_eq!(queue.left(), 0);
        done
    }

    #[test]
    fn statistics_come_behind_their_samples_in_either_order() {
        let trials = [
            sample("a"),
            sample("b"),
            metrics("m", &["a", "b"]),
            sample("c"),
            metrics("n", &["c", "elsewhere"]),
        ];
        assert_eq!(order(&trials, &TrialOrder::Plan), ["a", "b", "m", "c", "n"]);
        // What waits for `c` makes it the longest.
        let seconds = [2.0, 1.0, 0.5, 1.5, 3.0];
        let longest = TrialOrder::LongestFirst(&seconds);
        assert_eq!(order(&trials, &longest), ["c", "n", "a", "b", "m"]);
    }

    #[test]
    fn processes_take_trials_of_one_length_in_orders_of_their_own() {
        let ids: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
        let mut trials: Vec<Trial> = ids.iter().map(|id| sample(id)).collect();
        trials.push(metrics("m", &["t3"]));
        // The first is far longer, and so is `t3`, for which another one waits.
        let mut seconds = vec![1.0; 41];
        (seconds[0], seconds[40]) = (20.0, 5.0);
        let orders =
            ["a", "b"].map(|name| order(&trials, &TrialOrder::LongestFirstFor(&seconds, name)));
        for order in &orders {
            assert_eq!(order[..3], ["t0", "t3", "m"]);
        }
        let same = (orders[0].iter().zip(&orders[1]).skip(3)).filter(|(a, b)| a == b);
        assert!(same.count() < 10, "{orders:?}");
        let sorted = orders.map(|mut order| {
            order.sort();
            order
        });
        assert_eq!(sorted[0], sorted[1]);
    }

    #[test]
    fn trials_settled_elsewhere_are_not_given_out() {
        let trials = [sample("a"), sample("b"), metrics("m", &["a", "b"])];
        let todo: Vec<&Trial> = trials.iter().collect();
        let mut queue = TrialQueue::new(&todo, &TrialOrder::Plan);
        assert_eq!(queue.next(), Some(0));
        queue.put_back(0);
        queue.settle("a");
        queue.settle("a");
        queue.settle("unknown");
        assert_eq!(queue.next(), Some(1));
        assert_eq!(queue.next(), None, "the statistics wait");
        assert!(queue.is_settled(0) && !queue.is_settled(1));
        queue.settle("b");
        assert_eq!((queue.next(), queue.left()), (Some(2), 1));
    }
}
