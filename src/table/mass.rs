//! The integrals of densities, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::MassWork;
use crate::rows::MassRow;

impl TabulateWork for MassWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<MassRow>()?;
        collected.tables.mass.extend(rows);
        Ok(())
    }
}
