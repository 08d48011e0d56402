//! Estimates the time left from the time that finished work has taken.
//!
//! The size of a workload is given in units: seconds of one thread, estimated from a few calls of
//! its networks. The seconds per unit are measured on finished work, for several kinds of work:
//! from the narrowest (the same model, solver and estimators) to the widest. The narrowest kind
//! that was measured gives the estimate.

use std::collections::BTreeMap;

use super::MeterReading;

/// The size of one piece of work.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The kinds of work it belongs to, the narrowest first.
    pub kinds: Vec<String>,
    /// The size in units.
    pub units: f64,
    /// The number of rows that go through its networks; `None` if they cannot be counted.
    pub rows: Option<f64>,
}

/// The workload in progress.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningWorkload<'a> {
    /// The workload.
    pub load: &'a Workload,
    /// The finished fraction, in [0, 1], and the seconds after which it was measured; `None` if it
    /// is not known.
    pub progress: Option<(f64, f64)>,
    /// Seconds since the workload began.
    pub elapsed: f64,
}

impl<'a> RunningWorkload<'a> {
    /// A workload whose rows a meter counts. `reached` is the latest reading of the meter.
    pub(crate) fn new(
        load: &'a Workload,
        reached: Option<MeterReading>,
        elapsed: f64,
    ) -> RunningWorkload<'a> {
        // The number of rows is an estimate: if it is too small, the work is still not finished.
        let part = |r: MeterReading| {
            load.rows
                .filter(|rows| *rows > 0.0)
                .map(|rows| ((r.rows / rows).min(0.99), r.seconds))
        };
        RunningWorkload {
            load,
            progress: reached.and_then(part),
            elapsed,
        }
    }
}

/// The least measured time, in seconds, for an estimate. In less time, opening sessions dominates.
const MIN_MEASURED_SECONDS: f64 = 1.0;

/// The units of measured work, and the seconds it took.
#[derive(Debug, Clone, Copy, Default)]
struct WorkRate {
    units: f64,
    seconds: f64,
    /// The most seconds per unit of one measurement.
    slowest: Option<f64>,
}

impl WorkRate {
    /// Adds a measurement.
    fn add(self, units: f64, seconds: f64) -> WorkRate {
        let rate = Some(seconds / units).filter(|rate| rate.is_finite());
        let slower = |rate: f64| rate.max(self.slowest.unwrap_or(0.0));
        WorkRate {
            units: self.units + units,
            seconds: self.seconds + seconds,
            slowest: rate.map(slower).or(self.slowest),
        }
    }

    /// Seconds per unit; `None` if nothing was measured.
    fn per_unit(self) -> Option<f64> {
        Some(self.seconds / self.units).filter(|r| r.is_finite())
    }
}

/// An estimate of the time left, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct TimeLeft {
    /// By the measured times of the work most alike.
    pub expected: f64,
    /// If all of the work is as slow as the slowest work of one of its kinds; at least `expected`.
    pub at_most: f64,
}

/// Measured times of each kind of work, from which the time left is estimated.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimeLeftEstimator {
    /// Measurements of this session, by kind of work.
    this_session: BTreeMap<String, WorkRate>,
    /// Measurements of earlier sessions, by kind of work.
    earlier_sessions: BTreeMap<String, WorkRate>,
    /// The seconds of all measured work.
    measured_seconds: f64,
}

impl TimeLeftEstimator {
    /// Records that a workload has finished after `seconds`.
    pub(crate) fn record(&mut self, load: &Workload, seconds: f64) {
        add_to_rates(&mut self.this_session, load, load.units, seconds);
        self.measured_seconds += seconds;
    }

    /// Records a workload of an earlier session. That session may have run on another machine, so
    /// that it counts only for kinds of work that this session has not measured.
    pub(crate) fn record_earlier_session(&mut self, load: &Workload, seconds: f64) {
        add_to_rates(&mut self.earlier_sessions, load, load.units, seconds);
        self.measured_seconds += seconds;
    }

    /// The time until the running workload and all of `rest` are finished; `None` if too little was
    /// measured.
    pub(crate) fn time_left<'a>(
        &self,
        running: Option<RunningWorkload>,
        rest: impl IntoIterator<Item = &'a Workload>,
    ) -> Option<TimeLeft> {
        // The finished part of the running workload is a measurement like any other.
        let mut known = self.clone();
        if let Some(RunningWorkload {
            load,
            progress: Some((part, at)),
            ..
        }) = running.filter(|r| r.elapsed > 0.0)
        {
            add_to_rates(&mut known.this_session, load, part * load.units, at);
            known.measured_seconds += at;
        }
        if known.measured_seconds < MIN_MEASURED_SECONDS {
            return None;
        }
        let remainder = |r: RunningWorkload, whole: f64| match r.progress {
            // The time since the measurement has already been spent on the remaining part.
            Some((part, at)) => ((1.0 - part) * whole - (r.elapsed - at)).max(0.0),
            None => (whole - r.elapsed).max(0.0),
        };
        let left = |seconds: &dyn Fn(&Workload) -> f64, rest: &[&Workload]| {
            running.map_or(0.0, |r| remainder(r, seconds(r.load)))
                + rest.iter().map(|load| seconds(load)).sum::<f64>()
        };
        let rest: Vec<&Workload> = rest.into_iter().collect();
        Some(TimeLeft {
            expected: left(&|load| known.estimated_seconds(load), &rest),
            at_most: left(&|load| known.slowest_seconds(load), &rest),
        })
    }

    /// Seconds for a workload, by the narrowest of its kinds that was measured; `None` if none was.
    pub(crate) fn measured_seconds_of(&self, load: &Workload) -> Option<f64> {
        let rate = |kind: &String| {
            let of =
                |rates: &BTreeMap<String, WorkRate>| rates.get(kind).and_then(|r| r.per_unit());
            of(&self.this_session).or_else(|| of(&self.earlier_sessions))
        };
        Some(load.units * load.kinds.iter().find_map(rate)?)
    }

    /// Seconds for a workload, by the narrowest of its kinds that was measured. If none was
    /// measured, a unit counts as a second.
    fn estimated_seconds(&self, load: &Workload) -> f64 {
        self.measured_seconds_of(load).unwrap_or(load.units)
    }

    /// Seconds for a workload, by the slowest of its kinds that was measured, and at least by
    /// [`TimeLeftEstimator::estimated_seconds`].
    fn slowest_seconds(&self, load: &Workload) -> f64 {
        let rates = [&self.this_session, &self.earlier_sessions];
        let measured = load
            .kinds
            .iter()
            .flat_map(|kind| rates.map(|rates| rates.get(kind).and_then(|r| r.slowest)))
            .flatten();
        let slowest = measured.fold(0.0, f64::max);
        self.estimated_seconds(load).max(load.units * slowest)
    }
}

/// Adds a measurement to every kind of a workload.
fn add_to_rates(rates: &mut BTreeMap<String, WorkRate>, load: &Workload, units: f64, seconds: f64) {
    for kind in &load.kinds {
        let rate = rates.entry(kind.clone()).or_default();
        *rate = rate.add(units, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial and its true duration.
    struct Trial {
        load: Workload,
        seconds: f64,
    }

    /// A trial whose true duration is `units` times `off`.
    fn trial(kinds: [&str; 4], units: f64, off: f64) -> Trial {
        let kinds = kinds.iter().map(|k| (*k).to_owned()).collect();
        Trial {
            load: Workload {
                kinds,
                units,
                rows: Some(128.0),
            },
            seconds: units * off,
        }
    }

    /// The estimated and the true time left of a run after a fraction of its time.
    fn at(share: f64, trials: &[Trial], counted: bool) -> (Option<f64>, f64) {
        let total: f64 = trials.iter().map(|t| t.seconds).sum();
        let (mut clock, mut passed) = (TimeLeftEstimator::default(), 0.0);
        let now = share * total;
        for (i, trial) in trials.iter().enumerate() {
            if passed + trial.seconds <= now {
                clock.record(&trial.load, trial.seconds);
                passed += trial.seconds;
                continue;
            }
            let elapsed = now - passed;
            // Each trial has four batches of equal duration.
            let batches = (4.0 * elapsed / trial.seconds).floor();
            let rows = 32.0 * batches;
            let reached = MeterReading {
                rows,
                seconds: batches / 4.0 * trial.seconds,
            };
            let running = RunningWorkload::new(
                &trial.load,
                Some(reached).filter(|_| counted && batches > 0.0),
                elapsed,
            );
            let rest = trials[i + 1..].iter().map(|t| &t.load);
            return (
                clock
                    .time_left(Some(running), rest)
                    .map(|left| left.expected),
                total - now,
            );
        }
        (clock.time_left(None, []).map(|left| left.expected), 0.0)
    }

    fn within(factor: f64, trials: &[Trial], counted: bool, what: &str) {
        for share in [0.25, 0.5, 0.75] {
            let (left, truth) = at(share, trials, counted);
            let left = left.unwrap_or_else(|| panic!("{what}: no estimate at {share}"));
            assert!(
                (1.0 / factor..=factor).contains(&(left / truth)),
                "{what} at {share}: {left:.0} s, truth {truth:.0} s"
            );
        }
    }

    /// Trials of very different costs: chunks of one model, of a much faster one, and of one with
    /// adaptive steps, then samples and statistics.
    fn mixed() -> Vec<Trial> {
        let digits = [
            "digits: likelihoods: heun",
            "digits: likelihoods",
            "digits",
            "networks",
        ];
        let moons = [
            "moons: likelihoods: heun",
            "moons: likelihoods",
            "moons",
            "networks",
        ];
        let mixture = [
            "mixture: likelihoods: dopri5",
            "mixture: likelihoods",
            "mixture: chosen",
            "networks",
        ];
        let samples = [
            "digits: samples: heun",
            "digits: samples",
            "digits",
            "networks",
        ];
        let budget = [
            "digits: budget: heun",
            "digits: budget",
            "digits",
            "networks",
        ];
        let statistics = ["digits: frechet", "statistics", "statistics", "statistics"];
        let mut trials: Vec<Trial> = (0..3).map(|_| trial(digits, 40.0, 0.7)).collect();
        trials.push(trial(budget, 25.0, 0.9));
        trials.extend((0..6).map(|_| trial(moons, 0.3, 1.6)));
        trials.extend((0..4).map(|_| trial(mixture, 12.0, 1.3)));
        trials.extend((0..8).map(|_| trial(samples, 3.0, 0.5)));
        trials.push(trial(statistics, 1.0, 2.0));
        trials
    }

    #[test]
    fn time_left_is_within_factor_of_truth() {
        for counted in [true, false] {
            within(2.0, &mixed(), counted, "the slow ones first");
            let mut turned = mixed();
            turned.reverse();
            within(2.0, &turned, counted, "the quick ones first");
        }
        let kinds = ["a: likelihoods: heun", "a: likelihoods", "a", "networks"];
        let alike: Vec<Trial> = (0..10)
            .map(|_| trial(kinds, 5.0, 0.1))
            .chain([trial(kinds, 500.0, 0.1)])
            .collect();
        within(1.1, &alike, true, "one kind, the long trial last");
        within(1.1, &[trial(kinds, 100.0, 7.0)], true, "one trial");
        // The first trial of a kind corrects an estimate that is ten times too small.
        let chosen = [
            "b: likelihoods: dopri5",
            "b: likelihoods",
            "b: chosen",
            "networks",
        ];
        let guessed: Vec<Trial> = (0..8).map(|_| trial(chosen, 4.0, 10.0)).collect();
        within(1.1, &guessed, false, "chosen steps");
    }

    #[test]
    fn time_left_is_unknown_before_measurement() {
        let trials = mixed();
        let rest = || trials[1..].iter().map(|t| &t.load);
        let load = &trials[0].load;
        assert_eq!(
            TimeLeftEstimator::default()
                .time_left(Some(RunningWorkload::new(load, None, 30.0)), rest()),
            None
        );
        let blink = MeterReading {
            rows: 32.0,
            seconds: 0.5,
        };
        assert_eq!(
            TimeLeftEstimator::default()
                .time_left(Some(RunningWorkload::new(load, Some(blink), 0.5)), rest()),
            None
        );
        let some = MeterReading {
            rows: 32.0,
            seconds: 5.0,
        };
        assert!(
            TimeLeftEstimator::default()
                .time_left(Some(RunningWorkload::new(load, Some(some), 5.0)), rest())
                .is_some()
        );
    }

    #[test]
    fn this_session_outranks_earlier_sessions() {
        let load = |units| Workload {
            kinds: vec!["a".to_owned()],
            units,
            rows: None,
        };
        let mut clock = TimeLeftEstimator::default();
        clock.record_earlier_session(&load(10.0), 100.0);
        assert_eq!(
            clock
                .time_left(None, [&load(1.0)])
                .map(|left| left.expected),
            Some(10.0)
        );
        clock.record(&load(10.0), 20.0);
        assert_eq!(
            clock
                .time_left(None, [&load(1.0)])
                .map(|left| left.expected),
            Some(2.0),
            "another machine"
        );
        // The time left is not negative if a workload takes longer than estimated.
        let long = load(1.0);
        assert_eq!(
            clock
                .time_left(Some(RunningWorkload::new(&long, None, 100.0)), [])
                .map(|left| left.expected),
            Some(0.0)
        );
    }

    #[test]
    fn the_slowest_work_of_a_kind_bounds_the_time_left() {
        let load = |kind: &str, units| Workload {
            kinds: vec![kind.to_owned(), "all".to_owned()],
            units,
            rows: None,
        };
        let mut clock = TimeLeftEstimator::default();
        clock.record(&load("a", 10.0), 10.0);
        clock.record(&load("a", 10.0), 30.0);
        clock.record(&load("b", 10.0), 50.0);
        let left = clock.time_left(None, [&load("a", 1.0)]).expect("measured");
        assert_eq!(
            left,
            TimeLeft {
                expected: 2.0,
                at_most: 5.0
            }
        );
        let other = clock.time_left(None, [&load("c", 1.0)]).expect("measured");
        assert_eq!(
            other,
            TimeLeft {
                expected: 3.0,
                at_most: 5.0
            }
        );
    }
}
