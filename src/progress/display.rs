//! Shows progress on standard error: one line that is redrawn on a terminal, a new line every minute
//! elsewhere, or events in JSON for programs.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::form::print_event;
use super::{Meter, ProgressForm, RunningWorkload, TimeLeftEstimator, Workload};

/// How far some work is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ProgressStatus {
    /// Seconds of finished work, including earlier sessions.
    pub seconds_done: f64,
    /// Estimated seconds that are left; `None` if they are not known.
    pub seconds_left: Option<f64>,
    /// The seconds that are left if all of the work is as slow as the slowest of its kind so far;
    /// `None` if they are not known.
    pub seconds_left_at_most: Option<f64>,
    /// The number of finished trials and of all trials of this process; `None` outside a run.
    pub trials: Option<[usize; 2]>,
    /// The work in progress.
    pub label: String,
}

impl ProgressStatus {
    /// The finished fraction, in [0, 1]; `None` if it is not known.
    fn fraction_done(&self) -> Option<f64> {
        let left = self.seconds_left?;
        Some(self.seconds_done / (self.seconds_done + left)).filter(|s| s.is_finite())
    }

    /// The line on a terminal: `[====>    ]  34 %, about 2 min left  digits: …`. If the time left
    /// is not known, it shows the `elapsed` seconds.
    fn bar(&self, elapsed: f64) -> String {
        const WIDTH: usize = 16;
        let full = self
            .fraction_done()
            .map_or(0, |s| (s * WIDTH as f64).floor() as usize)
            .min(WIDTH);
        let tip = if full < WIDTH { ">" } else { "" };
        let bar = format!(
            "{}{tip}{}",
            "=".repeat(full),
            " ".repeat(WIDTH - full - tip.len())
        );
        match self.fraction_done().zip(self.seconds_left) {
            Some((share, left)) => {
                let percent = (100.0 * share).floor();
                format!(
                    "[{bar}] {percent:>3} %, about {} left  {}",
                    format_duration(left),
                    self.label
                )
            }
            None => format!(
                "[{bar}] {} so far  {}",
                format_duration(elapsed),
                self.label
            ),
        }
    }

    /// The event for programs. Times are in seconds.
    fn event(&self, name: &str, elapsed: f64) -> serde_json::Value {
        // Thousandths are more than an estimate knows, and a program need not round them.
        let rounded = |number: f64| (number * 1e3).round() / 1e3;
        json!({
            "event": name,
            "what": self.label,
            "trials_done": self.trials.map(|[done, _]| done),
            "trials_total": self.trials.map(|[_, total]| total),
            "fraction_done": self.fraction_done().map(rounded),
            "seconds_elapsed": rounded(elapsed),
            "seconds_done": rounded(self.seconds_done),
            "seconds_left": self.seconds_left.map(rounded),
            "seconds_left_at_most": self.seconds_left_at_most.map(rounded),
        })
    }

    /// The line in a log: `34 % after 2 min, about 4 min left: digits: …`.
    fn sentence(&self, elapsed: f64) -> String {
        let after = format_duration(elapsed);
        match self.fraction_done().zip(self.seconds_left) {
            Some((share, left)) => {
                format!(
                    "{} % after {after}, about {} left: {}",
                    (100.0 * share).floor(),
                    format_duration(left),
                    self.label
                )
            }
            None => format!("{after} so far: {}", self.label),
        }
    }
}

/// Prints an event of a name.
type Announce = dyn Fn(&str) + Send + Sync;

/// Shows how far some work is, until the display is dropped.
pub(crate) struct ProgressDisplay {
    /// The line on a terminal.
    bar: Option<ProgressBar>,
    /// Prints an event of this name.
    announce: Option<Box<Announce>>,
    /// The thread that updates the line. It ends when the sender is dropped.
    ticker: Option<(Sender<()>, JoinHandle<()>)>,
}

/// The time between two updates on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(300);
/// The time between two lines in a log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The time between two events.
const EVENT_INTERVAL: Duration = Duration::from_secs(5);

impl ProgressDisplay {
    /// Calls `status` regularly and shows the result in the form of the process. With `quiet`, nothing
    /// is shown unless a form was asked for.
    pub(crate) fn new(
        quiet: bool,
        status: impl Fn() -> ProgressStatus + Send + Sync + 'static,
    ) -> ProgressDisplay {
        let form = match ProgressForm::chosen() {
            ProgressForm::Auto if quiet => ProgressForm::None,
            ProgressForm::Auto | ProgressForm::Bar if !std::io::stderr().is_terminal() => {
                ProgressForm::Plain
            }
            form => form,
        };
        if form == ProgressForm::None {
            return ProgressDisplay {
                bar: None,
                announce: None,
                ticker: None,
            };
        }
        let status = Arc::new(status);
        let began = Instant::now();
        let (stop, stopped) = channel();
        let every = |interval: Duration, update: Box<dyn Fn() + Send>| {
            std::thread::spawn(move || {
                while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                    update();
                }
            })
        };
        if form == ProgressForm::Json {
            let announce = move |name: &str| {
                print_event(&status().event(name, began.elapsed().as_secs_f64()));
            };
            announce("started");
            let update = announce.clone();
            return ProgressDisplay {
                bar: None,
                announce: Some(Box::new(announce)),
                ticker: Some((
                    stop,
                    every(EVENT_INTERVAL, Box::new(move || update("progress"))),
                )),
            };
        }
        if form == ProgressForm::Plain {
            let update = move || {
                errln!(
                    "flowgauge: {}",
                    status().sentence(began.elapsed().as_secs_f64())
                )
            };
            return ProgressDisplay {
                bar: None,
                announce: None,
                ticker: Some((stop, every(LOG_INTERVAL, Box::new(update)))),
            };
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // `wide_msg` cuts the line to the present width of the terminal, which the user may change.
        bar.set_style(
            ProgressStyle::with_template("{wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        let shown = bar.clone();
        let update = move || {
            let stopping = if crate::stop::requested() {
                "stopping: "
            } else {
                ""
            };
            shown.set_message(format!(
                "{stopping}{}",
                status().bar(began.elapsed().as_secs_f64())
            ));
            shown.tick();
        };
        ProgressDisplay {
            bar: Some(bar),
            announce: None,
            ticker: Some((stop, every(TERMINAL_INTERVAL, Box::new(update)))),
        }
    }

    /// Shows how far one piece of work is. `meter` is restarted and counts its `rows` rows; `what`
    /// names the work.
    pub(crate) fn for_rows(
        quiet: bool,
        meter: Arc<Meter>,
        rows: usize,
        what: &str,
    ) -> ProgressDisplay {
        meter.begin(rows);
        let what = what.to_owned();
        ProgressDisplay::for_meter(quiet, meter, move || what.clone())
    }

    /// Shows how far the work is that `meter` counts, one piece of work after the other. `what`
    /// names the present one.
    pub(crate) fn for_meter(
        quiet: bool,
        meter: Arc<Meter>,
        what: impl Fn() -> String + Send + Sync + 'static,
    ) -> ProgressDisplay {
        ProgressDisplay::new(quiet, move || {
            let (done, rows) = (meter.elapsed(), meter.total().map(|rows| rows as f64));
            let load = Workload {
                kinds: vec!["rows".to_owned()],
                units: rows.unwrap_or_default(),
                rows,
            };
            let left = rows.and_then(|_| {
                TimeLeftEstimator::default().time_left(
                    Some(RunningWorkload::new(&load, meter.last_reading(), done)),
                    [],
                )
            });
            ProgressStatus {
                seconds_done: done,
                seconds_left: left.map(|left| left.expected),
                seconds_left_at_most: left.map(|left| left.at_most),
                trials: None,
                label: what(),
            }
        })
    }

    /// Tells programs at once that a piece of the work is finished.
    pub(crate) fn piece_finished(&self) {
        if let Some(announce) = &self.announce {
            announce("progress");
        }
    }

    /// Calls `say`, which prints on standard error, while the line is cleared.
    pub(crate) fn suspend(&self, say: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if let Some((stop, ticker)) = self.ticker.take() {
            drop(stop);
            // If the thread has panicked, there is nothing more to show.
            let _ = ticker.join();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if let Some(announce) = &self.announce {
            announce(match crate::stop::requested() {
                true => "stopped",
                false => "finished",
            });
        }
    }
}

/// A duration in words: `45 s`, `3 min`, `2 h 10 min` or `3 days`. Estimates are not more accurate
/// than about two digits.
pub(crate) fn format_duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let minutes = (seconds / 60.0).round();
    match seconds {
        s if !s.is_finite() => "an unknown time".to_owned(),
        s if s < 99.5 => format!("{} s", s.round()),
        _ if minutes < 100.0 => format!("{minutes} min"),
        s if s < 2.0 * 86_400.0 => {
            let tens = (seconds / 600.0).round() as u64;
            format!("{} h {} min", tens / 6, tens % 6 * 10)
        }
        s => format!("{} days", (s / 86_400.0).round()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_digits() {
        for (seconds, text) in [
            (0.0, "0 s"),
            (-3.0, "0 s"),
            (59.4, "59 s"),
            (99.0, "99 s"),
            (100.0, "2 min"),
            (3600.0, "60 min"),
            (7800.0, "2 h 10 min"),
            (f64::INFINITY, "an unknown time"),
            (400_000.0, "5 days"),
        ] {
            assert_eq!(format_duration(seconds), text);
        }
    }

    #[test]
    fn unknown_time_left_shows_elapsed_time() {
        let what = "digits: log-likelihoods".to_owned();
        let fresh = ProgressStatus {
            label: what.clone(),
            ..ProgressStatus::default()
        };
        assert_eq!(
            fresh.bar(3.0),
            "[>               ] 3 s so far  digits: log-likelihoods"
        );
        assert_eq!(fresh.sentence(3.0), "3 s so far: digits: log-likelihoods");
        let half = ProgressStatus {
            seconds_done: 50.0,
            seconds_left: Some(50.0),
            label: what,
            ..ProgressStatus::default()
        };
        assert_eq!(
            half.bar(50.0),
            "[========>       ]  50 %, about 50 s left  digits: log-likelihoods"
        );
        assert_eq!(
            half.sentence(50.0),
            "50 % after 50 s, about 50 s left: digits: log-likelihoods"
        );
    }

    #[test]
    fn events_have_numbers_or_null() {
        let status = ProgressStatus {
            seconds_done: 12.34567,
            seconds_left: Some(12.34567),
            seconds_left_at_most: Some(20.0),
            trials: Some([3, 8]),
            label: "digits: log-likelihoods".to_owned(),
        };
        assert_eq!(
            status.event("progress", 5.0),
            json!({
                "event": "progress",
                "what": "digits: log-likelihoods",
                "trials_done": 3,
                "trials_total": 8,
                "fraction_done": 0.5,
                "seconds_elapsed": 5.0,
                "seconds_done": 12.346,
                "seconds_left": 12.346,
                "seconds_left_at_most": 20.0,
            })
        );
        let fresh = ProgressStatus::default().event("started", 0.0);
        for key in [
            "trials_done",
            "trials_total",
            "fraction_done",
            "seconds_left",
        ] {
            assert!(fresh[key].is_null(), "{key}");
        }
    }
}
