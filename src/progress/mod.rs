//! How far long work is: counted where it is done, its time left estimated from what was measured, and shown.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

mod display;
mod time_left;

pub use display::{ProgressDisplay, ProgressStatus, format_duration};
pub use time_left::{RunningWorkload, TimeLeftEstimator, Workload};

/// Counts the rows of one piece of work as batches of them begin and end.
#[derive(Debug)]
pub struct Meter(Mutex<MeterState>);

#[derive(Debug)]
struct MeterState {
    began: Instant,
    /// All rows of the work, where whoever does it has said.
    total: Option<usize>,
    done: usize,
    in_progress: usize,
    /// At the end of the batch that ended last.
    last_batch: Option<MeterReading>,
}

/// What a meter has seen of its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeterReading {
    /// Rows that are done, and half of those that were at work at the time.
    pub rows: f64,
    /// Seconds from the beginning to that time.
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
    fn state(&self) -> MutexGuard<'_, MeterState> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins another piece of work.
    pub fn restart(&self) {
        *self.state() = MeterState {
            began: Instant::now(),
            total: None,
            done: 0,
            in_progress: 0,
            last_batch: None,
        };
    }

    /// Begins another piece of work of so many rows.
    pub fn begin(&self, rows: usize) {
        self.restart();
        self.state().total = Some(rows);
    }

    /// All rows of the work at hand, where they are known.
    pub fn total(&self) -> Option<usize> {
        self.state().total
    }

    /// A batch of so many rows begins.
    pub fn batch_started(&self, rows: usize) {
        self.state().in_progress += rows;
    }

    /// A batch of so many rows has ended.
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

    /// How far the work was when its last batch ended; nothing before the first.
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
