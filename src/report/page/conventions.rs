//! A run's log-likelihoods under named conventions: the numbers that other programs would print for
//! them.

use maud::{Markup, html};

use super::data_table::{Column, data_table, shown_cell, value_cell};
use crate::report::number_format::format_optional;
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
            (data_table(
                &format!("conventions-{}", group.model),
                &format!("{} under named conventions", group.model),
                &convention_columns(view, &estimators),
                html! { @for convention in rows.iter().filter(|row| row.estimator == first) { tr {
                    th scope="row" { code { (sanitize_line(&convention.convention)) } }
                    td { (sanitize_line(&convention.unit)) }
                    (shown_cell(convention.offset, &format_optional(convention.offset, 6), false))
                    @for estimator in &estimators {
                        (convention_cell(&rows, convention, estimator))
                    }
                    td.wide {
                        @if !convention.reason.is_empty() {
                            "does not apply: " (sanitize_line(&convention.reason)) ". "
                        }
                        (sanitize_line(&convention.formula))
                        " (" (sanitize_line(&convention.source)) ")"
                        @if !convention.protocol.is_empty() {
                            ". Protocol of that code: " (sanitize_line(&convention.protocol)) "."
                        }
                    }
                } } },
            ))
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

/// The columns of the table: a column for each estimator.
fn convention_columns<'a>(view: &ReportView, estimators: &[&'a str]) -> Vec<Column<'a>> {
    let estimator =
        |estimator: &&'a str| Column::number(*estimator, view.short_name(estimator), "");
    [
        Column::text("convention", "Convention"),
        Column::text("unit", "Unit"),
        Column::number("offset", "offset", "").meaning("value = scale · log p + offset"),
    ]
    .into_iter()
    .chain(estimators.iter().map(estimator))
    .chain([Column::text("formula", "Formula, source and protocol")])
    .collect()
}

/// The value of an estimator under a convention.
fn convention_cell(rows: &[&ConventionRow], convention: &ConventionRow, estimator: &str) -> Markup {
    let same = |row: &&&ConventionRow| {
        row.estimator == estimator && row.convention == convention.convention
    };
    let row = rows.iter().find(same);
    value_cell(
        row.and_then(|row| row.value),
        row.and_then(|row| row.stderr),
    )
}
