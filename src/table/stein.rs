//! Stein tests of divergence heads, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::SteinWork;
use crate::rows::SteinRow;

impl TabulateWork for SteinWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<SteinRow>()?;
        collected.tables.stein.extend(rows);
        Ok(())
    }
}
