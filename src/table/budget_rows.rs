//! The rows behind the error budget.

use anyhow::Result;

use super::{CollectedRows, TabulateWork, TrialFiles};
use crate::plan::BudgetWork;

impl TabulateWork for BudgetWork {
    fn add_rows(&self, files: &TrialFiles, collected: &mut CollectedRows) -> Result<()> {
        collected.refined.extend(files.rows()?);
        Ok(())
    }
}
