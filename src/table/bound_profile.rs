//! The integrands of continuous bounds, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::BoundProfileWork;
use crate::rows::BoundProfileRow;

impl TabulateWork for BoundProfileWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<BoundProfileRow>()?;
        collected.tables.bound_profile.extend(rows);
        Ok(())
    }
}
