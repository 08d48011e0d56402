//! The log-density over a rectangle of the plane, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::DensityWork;
use crate::rows::DensityRow;

impl TabulateWork for DensityWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<DensityRow>()?;
        collected.tables.density.extend(rows);
        Ok(())
    }
}
