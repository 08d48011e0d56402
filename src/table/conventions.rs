//! The averages of the summary, converted to the units and conventions of other programs.

use crate::convention::{self, ConventionContext};
use crate::plan::Plan;
use crate::rows::{ConventionRow, SummaryRow};

/// One row for each summary and each convention.
pub(super) fn convention_rows(plan: &Plan, summaries: &[SummaryRow]) -> Vec<ConventionRow> {
    let of = |row: &SummaryRow| -> Vec<ConventionRow> {
        let Some(model) = plan.models.iter().find(|m| m.name == row.model) else {
            return Vec::new();
        };
        let setting = ConventionContext {
            dim: model.shape.iter().product(),
            range: model.range,
            levels: model.levels,
        };
        convention::CONVENTIONS
            .iter()
            .map(|c| convention_row(c, &setting, row))
            .collect()
    };
    summaries.iter().flat_map(of).collect()
}

/// One summary under one convention. If the convention does not apply to the model, the row has the
/// reason in place of a value.
fn convention_row(
    convention: &convention::Convention,
    setting: &ConventionContext,
    row: &SummaryRow,
) -> ConventionRow {
    let linear = convention.conversion_for(setting);
    let applied = linear.as_ref().ok();
    ConventionRow {
        model: row.model.clone(),
        dataset: row.dataset.clone(),
        estimator: row.estimator.clone(),
        solver: row.solver.clone(),
        kind: row.kind,
        bound: row.bound,
        convention: convention.name.to_owned(),
        unit: convention.unit.to_owned(),
        n: row.n,
        value: applied.zip(row.nats).map(|(l, v)| l.convert(v)),
        stderr: applied
            .zip(row.nats_stderr)
            .map(|(l, e)| l.convert_stderr(e)),
        scale: applied.map(|l| l.scale),
        offset: applied.map(|l| l.offset),
        reason: linear.err().unwrap_or_default(),
        formula: convention.formula.to_owned(),
        source: convention.source.to_owned(),
        protocol: convention.protocol.to_owned(),
    }
}
