//! The differences of samplers, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::metric::paired::PairedErrorMethod;
use crate::num::stats;
use crate::plan::ContrastWork;
use crate::rows::ContrastRow;

impl TabulateWork for ContrastWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows()?;
        let rows = rows.into_iter().map(with_interval);
        collected.tables.contrasts.extend(rows);
        Ok(())
    }
}

/// A difference with its 95 % interval, whatever version of the program wrote the row.
fn with_interval(row: ContrastRow) -> ContrastRow {
    let n = row.n.min(row.n_reference);
    let half = match PairedErrorMethod::from_name(&row.method) {
        Some(method) => method.half_width(row.difference_stderr, n),
        None => stats::confidence_half_width(row.difference_stderr, Some(n), 0.95),
    };
    ContrastRow {
        low: row.difference - half,
        high: row.difference + half,
        ..row
    }
}
