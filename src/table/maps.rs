//! The identities of flow maps, as a table.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::FlowMapWork;
use crate::rows::MapRow;

impl TabulateWork for FlowMapWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        let rows = files.rows::<MapRow>()?;
        collected.tables.maps.extend(rows);
        Ok(())
    }
}
