//! A run's log-likelihoods under named conventions: the numbers that other programs would print for
//! them.

use maud::{Markup, html};

use crate::report::number_format::{ABSENT, format_significant, format_with_error, if_finite};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::ConventionRow;

/// A table with a row per convention and a column per estimator.
pub(super) fn conventions_section(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let in_group = |row: &&ConventionRow| {
        (
            row.model.as_str(),
            row.dataset.as_str(),
            row.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let rows: Vec<&ConventionRow> = view.tables.conventions.iter().filter(in_group).collect();
    let estimators = group.estimators();
    let first = rows.first().map_or("", |row| row.estimator.as_str());
    html! {
        @if !rows.is_empty() { details {
            summary { "Under named conventions" }
            div.scroll { table {
                thead { tr {
                    th { "Convention" } th { "Unit" }
                    th.n title="value = scale · log p + offset" { "offset" }
                    @for estimator in &estimators { th.n { (view.short_name(estimator)) } }
                    th { "Formula, source and protocol" }
                } }
                tbody { @for convention in rows.iter().filter(|row| row.estimator == first) { tr {
                    th scope="row" { code { (sanitize_line(&convention.convention)) } }
                    td { (sanitize_line(&convention.unit)) }
                    @let offset = if_finite(convention.offset);
                    @let offset = offset.map(|offset| format_significant(offset, 6));
                    td.n { (offset.unwrap_or(ABSENT.into())) }
                    @if convention.reason.is_empty() {
                        @for estimator in &estimators {
                            td.n { (convention_cell(&rows, convention, estimator)) }
                        }
                    } @else {
                        td.wide colspan=(estimators.len().max(1)) {
                            "does not apply: " (sanitize_line(&convention.reason))
                        }
                    }
                    td.wide {
                        (sanitize_line(&convention.formula))
                        " (" (sanitize_line(&convention.source)) ")"
                        @if !convention.protocol.is_empty() {
                            ". Protocol of that code: " (sanitize_line(&convention.protocol)) "."
                        }
                    }
                } } }
            } }
            p.note {
                "Mean over samples ± one standard error over the data, always from the same "
                "log-likelihoods. log p is in nats in the model's own coordinates, and D is the "
                "number of values in one sample. The formula gives what the named code prints. "
                "This run did not repeat the protocol of that code, which is another source of "
                "differences."
            }
        } }
    }
}

/// The value of an estimator under a convention.
fn convention_cell(rows: &[&ConventionRow], convention: &ConventionRow, estimator: &str) -> String {
    let same = |row: &&&ConventionRow| {
        row.estimator == estimator && row.convention == convention.convention
    };
    rows.iter().find(same).map_or(ABSENT.into(), |row| {
        format_with_error(row.value, row.stderr)
    })
}
