//! How far long work is: counted where it is done, its time left estimated from what was measured, and shown.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

mod clock;
mod show;

pub use clock::{Clock, Load, Running};
pub use show::{Show, Standing, duration};

/// Counts the rows of one piece of work as batches of them begin and end.
#[derive(Debug)]
pub struct Meter(Mutex<Count>);

#[derive(Debug)]
struct Count {
    began: Instant,
    /// All rows of the work, where whoever does it has said.
    all: Option<usize>,
    done: usize,
    at_work: usize,
    /// At the end of the batch that ended last.
    last: Option<Reached>,
}

/// What a meter has seen of its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// Rows that are done, and half of those that were at work at the time.
    pub rows: f64,
    /// Seconds from the beginning to that time.
    pub seconds: f64,
}

impl Default for Meter {
    fn default() -> Self {
        Meter(Mutex::new(Count {
            began: Instant::now(),
            all: None,
            done: 0,
            at_work: 0,
            last: None,
        }))
    }
}

impl Meter {
    fn count(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins another piece of work.
    pub fn restart(&self) {
        *self.count() = Count {
            began: Instant::now(),
            all: None,
            done: 0,
            at_work: 0,
            last: None,
        };
    }

    /// Begins another piece of work of so many rows.
    pub fn begin(&self, rows: usize) {
        self.restart();
        self.count().all = Some(rows);
    }

    /// All rows of the work at hand, where they are known.
    pub fn all(&self) -> Option<usize> {
        self.count().all
    }

    /// A batch of so many rows begins.
    pub fn enter(&self, rows: usize) {
        self.count().at_work += rows;
    }

    /// A batch of so many rows has ended.
    pub fn leave(&self, rows: usize) {
        let mut count = self.count();
        count.at_work = count.at_work.saturating_sub(rows);
        count.done += rows;
        let rows = count.done as f64 + 0.5 * count.at_work as f64;
        count.last = Some(Reached {
            rows,
            seconds: count.began.elapsed().as_secs_f64(),
        });
    }

    /// Seconds since the work began.
    pub fn elapsed(&self) -> f64 {
        self.count().began.elapsed().as_secs_f64()
    }

    /// How far the work was when its last batch ended; nothing before the first.
    pub fn reached(&self) -> Option<Reached> {
        self.count().last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_at_work_count_half() {
        let meter = Meter::default();
        meter.enter(32);
        meter.enter(32);
        assert_eq!(meter.reached(), None);
        meter.leave(32);
        assert_eq!(meter.reached().map(|r| r.rows), Some(48.0));
        meter.enter(8);
        assert_eq!(
            meter.reached().map(|r| r.rows),
            Some(48.0),
            "as it was when a batch ended"
        );
        meter.leave(32);
        meter.leave(8);
        assert_eq!(meter.reached().map(|r| r.rows), Some(72.0));
        meter.restart();
        assert_eq!(meter.reached(), None);
    }
}
