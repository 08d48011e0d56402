//! One of several runs that are published together.

use crate::report::Facts;
use crate::rows::Tables;

/// The tables and facts of one run, with a label for the run.
pub(super) struct LabelledRun {
    /// The run's name. Joining runs adds a number if another run has the same name.
    pub label: String,
    pub tables: Tables,
    pub facts: Facts,
}

impl LabelledRun {
    /// The tables and facts without the label.
    pub(super) fn into_tables_and_facts(self) -> (Tables, Facts) {
        (self.tables, self.facts)
    }
}
