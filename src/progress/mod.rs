//! Progress of long work: meters count the finished rows, an estimator predicts the time left from
//! measured times, and a display shows both.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

mod display;
mod form;
mod time_left;

pub(crate) use display::{ProgressDisplay, ProgressStatus, format_duration};
pub use form::print_error;
pub(crate) use form::{ProgressForm, print_note};
pub(crate) use time_left::{RunningWorkload, TimeLeft, TimeLeftEstimator, Workload};

/// Counts the rows of one piece of work, as their batches start and finish. Several threads may use
/// one meter.
#[derive(Debug)]
pub struct Meter(Mutex<MeterState>);

/// What a meter knows.
#[derive(Debug)]
struct MeterState {
    /// When the work began.
    began: Instant,
    /// The number of rows of the whole work, if it is known.
    total: Option<usize>,
    /// The number of rows of finished batches.
    done: usize,
    /// The number of rows of batches that have started and not finished.
    in_progress: usize,
    /// The state when the latest batch finished.
    last_batch: Option<MeterReading>,
}

/// How far a piece of work was at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterReading {
    /// The number of finished rows, plus half of those that were in progress.
    pub rows: f64,
    /// Seconds from the beginning of the work to that time.
    pub seconds: f64,
}

impl Default for Meter {
    fn default() -> Self {
        Meter(Mutex::new(MeterState {
            began: Instant::now(),
            total: None,
            done: 0,
            in_progress: 0,
            last_batch: None,
        }))
    }
}

impl Meter {
    /// The state. If another thread has panicked with the lock, the counts are still usable.
    fn state(&self) -> MutexGuard<'_, MeterState> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins another piece of work, of an unknown number of rows.
    pub fn restart(&self) {
        *self.state() = MeterState {
            began: Instant::now(),
            total: None,
            done: 0,
            in_progress: 0,
            last_batch: None,
        };
    }

    /// Begins another piece of work, of `rows` rows.
    pub fn begin(&self, rows: usize) {
        self.restart();
        self.state().total = Some(rows);
    }

    /// The number of rows of the present work, if it is known.
    pub fn total(&self) -> Option<usize> {
        self.state().total
    }

    /// Counts a batch of `rows` rows that starts.
    pub fn batch_started(&self, rows: usize) {
        self.state().in_progress += rows;
    }

    /// Counts a batch of `rows` rows that has finished.
    pub fn batch_finished(&self, rows: usize) {
        let mut count = self.state();
        count.in_progress = count.in_progress.saturating_sub(rows);
        count.done += rows;
        let rows = count.done as f64 + 0.5 * count.in_progress as f64;
        count.last_batch = Some(MeterReading {
            rows,
            seconds: count.began.elapsed().as_secs_f64(),
        });
    }

    /// Seconds since the work began.
    pub fn elapsed(&self) -> f64 {
        self.state().began.elapsed().as_secs_f64()
    }

    /// How far the work was when the latest batch finished; `None` before the first.
    pub fn last_reading(&self) -> Option<MeterReading> {
        self.state().last_batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_in_progress_count_half() {
        let meter = Meter::default();
        meter.batch_started(32);
        meter.batch_started(32);
        assert_eq!(meter.last_reading(), None);
        meter.batch_finished(32);
        assert_eq!(meter.last_reading().map(|r| r.rows), Some(48.0));
        meter.batch_started(8);
        assert_eq!(
            meter.last_reading().map(|r| r.rows),
            Some(48.0),
            "as it was when a batch ended"
        );
        meter.batch_finished(32);
        meter.batch_finished(8);
        assert_eq!(meter.last_reading().map(|r| r.rows), Some(72.0));
        meter.restart();
        assert_eq!(meter.last_reading(), None);
    }
}
