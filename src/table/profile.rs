//! The divergence at the nodes of paths, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::ProfileWork;
use crate::rows::ProfileRow;

impl TabulateWork for ProfileWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<ProfileRow>()?;
        collected.tables.profile.extend(rows);
        Ok(())
    }
}
