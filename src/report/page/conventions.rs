//! One run under named conventions: what other programs would print for the same log-likelihoods.

use maud::{Markup, html};

use crate::report::number_format::{ABSENT, format_significant, format_with_error, if_finite};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::ConventionRow;

/// A row per convention, a column per estimator.
pub fn conventions_section(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let here = |row: &&ConventionRow| {
        (
            row.model.as_str(),
            row.dataset.as_str(),
            row.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let rows: Vec<&ConventionRow> = view.tables.conventions.iter().filter(here).collect();
    let estimators = group.estimators();
    let first = rows.first().map_or("", |row| row.estimator.as_str());
    html! {
        @if !rows.is_empty() { details {
            summary { "Under named conventions" }
            div.scroll { table {
                thead { tr {
                    th { "Convention" } th { "Unit" } th.n title="value = scale · log p + offset" { "offset" }
                    @for estimator in &estimators { th.n { (view.short_name(estimator)) } }
                    th { "Formula, source and protocol" }
                } }
                tbody { @for one in rows.iter().filter(|row| row.estimator == first) { tr {
                    th scope="row" { code { (sanitize_line(&one.convention)) } }
                    td { (sanitize_line(&one.unit)) }
                    td.n { (if_finite(one.offset).map_or(ABSENT.into(), |offset| format_significant(offset, 6))) }
                    @if one.reason.is_empty() {
                        @for estimator in &estimators { td.n { (convention_cell(&rows, one, estimator)) } }
                    } @else {
                        td.wide colspan=(estimators.len().max(1)) { "does not apply: " (sanitize_line(&one.reason)) }
                    }
                    td.wide { (sanitize_line(&one.formula)) " (" (sanitize_line(&one.source)) ")"
                        @if !one.protocol.is_empty() { ". That code: " (sanitize_line(&one.protocol)) "." } }
                } } }
            } }
            p.note {
                "Mean over samples ± one standard error over the data, of the same log-likelihoods; log p is in nats in "
                "the model's own coordinates, D the numbers in one sample. The formula is what the named code prints; "
                "its protocol, which this run did not repeat, is another source of difference."
            }
        } }
    }
}

fn convention_cell(rows: &[&ConventionRow], one: &ConventionRow, estimator: &str) -> String {
    let same =
        |row: &&&ConventionRow| row.estimator == estimator && row.convention == one.convention;
    rows.iter().find(same).map_or(ABSENT.into(), |row| {
        format_with_error(row.value, row.stderr)
    })
}
