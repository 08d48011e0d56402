//! The progress of a run: the measured time, the outstanding trials, and the one in hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::journal::{Journal, Outcome};
use crate::plan::{PreparedPlan, SecondsPerRow, Trial};
use crate::progress::{
    Meter, ProgressStatus, RunningWorkload, TimeLeft, TimeLeftEstimator, Workload,
};

/// The progress of a run.
pub(super) struct RunProgress {
    meter: Arc<Meter>,
    /// The workload and the description of each trial that this process may execute.
    todo: Vec<(Workload, String)>,
    /// The number of trials that earlier calls have finished, and of all trials of this process.
    done_before: usize,
    total: usize,
    /// The group of each trial: those of one group are of the same kinds of work.
    groups: Vec<usize>,
    state: Mutex<RunProgressState>,
}

/// The part of the progress that changes during the run.
struct RunProgressState {
    clock: TimeLeftEstimator,
    /// The position of the trial in hand.
    in_hand: Option<usize>,
    /// Whether each trial is outstanding and not in hand.
    is_open: Vec<bool>,
    /// The open trials of each group as one workload.
    open: Vec<Workload>,
    /// The number of processes that share the outstanding trials.
    workers: usize,
    /// The seconds of all finished trials, including those of earlier sessions.
    seconds_done: f64,
}

impl RunProgress {
    /// The progress of a process that executes `todo` out of its part `mine` of the plan.
    pub(super) fn new(
        prepared: &PreparedPlan,
        journal: &Journal,
        [mine, todo]: [&[&Trial]; 2],
        seconds_per_row: &[SecondsPerRow],
        meter: Arc<Meter>,
    ) -> RunProgress {
        let todo: Vec<(Workload, String)> = todo
            .iter()
            .map(|t| {
                (
                    prepared.trial_load(&t.work, seconds_per_row),
                    t.work.describe(&prepared.plan),
                )
            })
            .collect();
        let (groups, open) = grouped_by_kinds(&todo);
        let (done_before, total) = (mine.len() - todo.len(), mine.len());
        let mut state = RunProgressState {
            clock: TimeLeftEstimator::default(),
            in_hand: None,
            is_open: vec![true; todo.len()],
            open,
            workers: 1,
            seconds_done: 0.0,
        };
        for trial in mine {
            if let Some(Outcome::Finished { seconds, .. }) = journal.outcomes.get(&trial.id) {
                state.clock.record_earlier_session(
                    &prepared.trial_load(&trial.work, seconds_per_row),
                    *seconds,
                );
                state.seconds_done += seconds;
            }
        }
        RunProgress {
            meter,
            todo,
            done_before,
            total,
            groups,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, RunProgressState> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The estimated units of each trial.
    pub(super) fn units(&self) -> Vec<f64> {
        self.todo.iter().map(|(load, _)| load.units).collect()
    }

    /// What a trial is, in words.
    pub(super) fn describe(&self, i: usize) -> &str {
        self.todo.get(i).map_or("", |(_, what)| what)
    }

    /// The seconds that a trial will take, by finished trials of its kind; `None` if there are none.
    pub(super) fn expected_seconds(&self, i: usize) -> Option<f64> {
        let (load, _) = self.todo.get(i)?;
        self.state().clock.measured_seconds_of(load)
    }

    /// Notes that a trial is in hand.
    pub(super) fn begin_trial(&self, i: usize) {
        self.close_trial(i);
        self.state().in_hand = Some(i);
        self.meter.restart();
    }

    /// Notes that the trial in hand is done.
    pub(super) fn finish_trial(&self) {
        let mut state = self.state();
        let seconds = self.meter.elapsed();
        if let Some((load, _)) = state.in_hand.take().and_then(|i| self.todo.get(i)) {
            state.clock.record(load, seconds);
        }
        state.seconds_done += seconds;
        self.meter.restart();
    }

    /// Notes that a trial is in hand here, or that another process has settled it.
    pub(super) fn close_trial(&self, i: usize) {
        let mut state = self.state();
        if std::mem::replace(&mut state.is_open[i], false) {
            let rest = &mut state.open[self.groups[i]].units;
            *rest = (*rest - self.todo[i].0.units).max(0.0);
        }
    }

    /// Notes how many processes share the outstanding trials.
    pub(super) fn set_workers(&self, workers: usize) {
        self.state().workers = workers.max(1);
    }

    /// The estimated seconds until the trial in hand is done; `None` if they are not known.
    pub(super) fn seconds_left_in_hand(&self) -> Option<f64> {
        let state = self.state();
        let (load, _) = self.todo.get(state.in_hand?)?;
        let left = state.clock.time_left(Some(self.running(load)), [])?;
        Some(left.expected)
    }

    /// The trial in hand, as far as it is.
    fn running<'a>(&self, load: &'a Workload) -> RunningWorkload<'a> {
        RunningWorkload::new(load, self.meter.last_reading(), self.meter.elapsed())
    }

    /// The progress that the display shows.
    pub(super) fn snapshot(&self) -> ProgressStatus {
        let state = self.state();
        let running = state.in_hand.and_then(|i| self.todo.get(i));
        let in_hand = running.map(|(load, _)| self.running(load));
        let own = state.clock.time_left(in_hand, []);
        let all = state.clock.time_left(in_hand, &state.open);
        // The others do their part of the rest.
        let shared = |of: fn(&TimeLeft) -> f64| {
            let (own, all) = (of(own.as_ref()?), of(all.as_ref()?));
            Some(own + (all - own) / state.workers as f64)
        };
        let waiting = "waiting for trials of other processes";
        let open = state.is_open.iter().filter(|open| **open).count();
        let left = open + usize::from(running.is_some());
        ProgressStatus {
            seconds_done: state.seconds_done + running.map_or(0.0, |_| self.meter.elapsed()),
            seconds_left: shared(|left| left.expected),
            seconds_left_at_most: shared(|left| left.at_most),
            trials: Some([self.done_before + self.todo.len() - left, self.total]),
            label: running.map_or(waiting, |(_, what)| what).to_owned(),
        }
    }
}

/// The group of each trial, and each group as one workload.
fn grouped_by_kinds(todo: &[(Workload, String)]) -> (Vec<usize>, Vec<Workload>) {
    let mut known: HashMap<&[String], usize> = HashMap::new();
    let mut whole: Vec<Workload> = Vec::new();
    let mut groups = Vec::with_capacity(todo.len());
    for (load, _) in todo {
        let group = *known.entry(&load.kinds).or_insert_with(|| {
            whole.push(Workload {
                units: 0.0,
                rows: None,
                ..load.clone()
            });
            whole.len() - 1
        });
        whole[group].units += load.units;
        groups.push(group);
    }
    (groups, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_what_is_open_of_their_kinds() {
        let trial = |kind: &str, units: f64| {
            let load = Workload {
                kinds: vec![kind.to_owned(), "all".to_owned()],
                units,
                rows: Some(1.0),
            };
            (load, kind.to_owned())
        };
        let todo = vec![trial("a", 1.0), trial("b", 2.0), trial("a", 4.0)];
        let (groups, open) = grouped_by_kinds(&todo);
        assert_eq!(groups, [0, 1, 0]);
        let progress = RunProgress {
            meter: Arc::default(),
            done_before: 0,
            total: 3,
            todo,
            groups,
            state: Mutex::new(RunProgressState {
                clock: TimeLeftEstimator::default(),
                in_hand: None,
                is_open: vec![true; 3],
                open,
                workers: 1,
                seconds_done: 0.0,
            }),
        };
        let left = || {
            progress
                .state()
                .open
                .iter()
                .map(|load| load.units)
                .collect::<Vec<_>>()
        };
        assert_eq!(left(), [5.0, 2.0]);
        progress.begin_trial(2);
        progress.close_trial(2);
        progress.close_trial(1);
        assert_eq!(left(), [1.0, 0.0]);
        assert_eq!(progress.snapshot().label, "a");
        progress.finish_trial();
        assert_eq!(progress.expected_seconds(0).map(|s| s < 1.0), Some(true));
    }
}
