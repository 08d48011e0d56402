//! The time that is left, from what finished work has taken.
//!
//! A load is known in units: seconds of one thread, as a few calls of its networks suggest. What a unit takes is
//! measured on work that is done, for kinds of work from the narrowest (the same model, solver and estimators) to the
//! widest, and the narrowest kind that was measured tells.

use std::collections::BTreeMap;

use super::MeterReading;

/// One piece of work before it is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// The kinds it belongs to, the narrowest first.
    pub kinds: Vec<String>,
    /// Its size.
    pub units: f64,
    /// Rows that go through its networks; none where they cannot be counted.
    pub rows: Option<f64>,
}

/// The load that is at work.
#[derive(Debug, Clone, Copy)]
pub struct RunningWorkload<'a> {
    pub load: &'a Workload,
    /// Which part of it was done, in [0, 1], when `at` seconds had passed; nothing where that cannot be told.
    pub progress: Option<(f64, f64)>,
    /// Seconds since it began.
    pub elapsed: f64,
}

impl<'a> RunningWorkload<'a> {
    /// A load whose rows a meter counts.
    pub fn new(
        load: &'a Workload,
        reached: Option<MeterReading>,
        elapsed: f64,
    ) -> RunningWorkload<'a> {
        // A count that was too small is no reason to be done.
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

/// Less than so many seconds of work say nothing: opening sessions weighs more.
const MIN_MEASURED_SECONDS: f64 = 1.0;

/// Measured work: units and seconds.
#[derive(Debug, Clone, Copy, Default)]
struct WorkRate {
    units: f64,
    seconds: f64,
}

impl WorkRate {
    fn add(self, units: f64, seconds: f64) -> WorkRate {
        WorkRate {
            units: self.units + units,
            seconds: self.seconds + seconds,
        }
    }

    fn per_unit(self) -> Option<f64> {
        Some(self.seconds / self.units).filter(|r| r.is_finite())
    }
}

/// What kinds of work have taken, in this session and in those before it.
#[derive(Debug, Clone, Default)]
pub struct TimeLeftEstimator {
    this_session: BTreeMap<String, WorkRate>,
    earlier_sessions: BTreeMap<String, WorkRate>,
    /// Seconds of all measured work.
    measured_seconds: f64,
}

impl TimeLeftEstimator {
    /// A load was done in so many seconds.
    pub fn record(&mut self, load: &Workload, seconds: f64) {
        add_to_rates(&mut self.this_session, load, load.units, seconds);
        self.measured_seconds += seconds;
    }

    /// A load was done in an earlier session, which may have been on another machine: it tells where this session
    /// has measured nothing of the kind.
    pub fn record_earlier_session(&mut self, load: &Workload, seconds: f64) {
        add_to_rates(&mut self.earlier_sessions, load, load.units, seconds);
        self.measured_seconds += seconds;
    }

    /// Seconds until the running load and all of `rest` are done; nothing before anything was measured.
    pub fn seconds_left<'a>(
        &self,
        running: Option<RunningWorkload>,
        rest: impl IntoIterator<Item = &'a Workload>,
    ) -> Option<f64> {
        // The part that is done is a measurement like any other.
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
        let now = running.map_or(0.0, |r| {
            let whole = known.estimated_seconds(r.load);
            match r.progress {
                // What has passed since then is part of what was left.
                Some((part, at)) => ((1.0 - part) * whole - (r.elapsed - at)).max(0.0),
                None => (whole - r.elapsed).max(0.0),
            }
        });
        Some(
            now + rest
                .into_iter()
                .map(|load| known.estimated_seconds(load))
                .sum::<f64>(),
        )
    }

    /// What a load takes by the narrowest of its kinds that was measured; a unit is a second where none was.
    fn estimated_seconds(&self, load: &Workload) -> f64 {
        let rate = |kind: &String| {
            let of =
                |rates: &BTreeMap<String, WorkRate>| rates.get(kind).and_then(|r| r.per_unit());
            of(&self.this_session).or_else(|| of(&self.earlier_sessions))
        };
        load.units * load.kinds.iter().find_map(rate).unwrap_or(1.0)
    }
}

fn add_to_rates(rates: &mut BTreeMap<String, WorkRate>, load: &Workload, units: f64, seconds: f64) {
    for kind in &load.kinds {
        let rate = rates.entry(kind.clone()).or_default();
        *rate = rate.add(units, seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trial with what it takes in truth.
    struct Trial {
        load: Workload,
        seconds: f64,
    }

    /// `units` are off by the factor `off` in the kind's own way: the true seconds.
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

    /// What is said to be left of a run when a share of its seconds has passed, and what is left in truth.
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
            // Four batches, each of which ends when it does.
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
            return (clock.seconds_left(Some(running), rest), total - now);
        }
        (clock.seconds_left(None, []), 0.0)
    }

    fn within(factor: f64, trials: &[Trial], counted: bool, what: &str) {
        for share in [0.25, 0.5, 0.75] {
            let (left, truth) = at(share, trials, counted);
            let left = left.unwrap_or_else(|| panic!("{what}: nothing is said at {share}"));
            assert!(
                (1.0 / factor..=factor).contains(&(left / truth)),
                "{what} at {share}: {left:.0} s, truth {truth:.0} s"
            );
        }
    }

    /// Chunks of one model, then of another a hundred times quicker, then of one whose steps are chosen, then samples and
    /// statistics: costs of many sizes.
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
        // A guess that is ten times too small is mended by the first trial of its kind.
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
                .seconds_left(Some(RunningWorkload::new(load, None, 30.0)), rest()),
            None
        );
        let blink = MeterReading {
            rows: 32.0,
            seconds: 0.5,
        };
        assert_eq!(
            TimeLeftEstimator::default()
                .seconds_left(Some(RunningWorkload::new(load, Some(blink), 0.5)), rest()),
            None
        );
        let some = MeterReading {
            rows: 32.0,
            seconds: 5.0,
        };
        assert!(
            TimeLeftEstimator::default()
                .seconds_left(Some(RunningWorkload::new(load, Some(some), 5.0)), rest())
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
        assert_eq!(clock.seconds_left(None, [&load(1.0)]), Some(10.0));
        clock.record(&load(10.0), 20.0);
        assert_eq!(
            clock.seconds_left(None, [&load(1.0)]),
            Some(2.0),
            "another machine"
        );
        // A load that takes longer than thought has nothing negative left.
        let long = load(1.0);
        assert_eq!(
            clock.seconds_left(Some(RunningWorkload::new(&long, None, 100.0)), []),
            Some(0.0)
        );
    }
}
