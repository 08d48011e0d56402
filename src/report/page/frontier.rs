//! The table of the cheapest estimator for a wanted accuracy.

use maud::{Markup, html};

use super::data_table::{Column, data_table, value_cell};
use crate::progress::format_duration;
use crate::report::number_format::{ABSENT, counted, format_significant};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::FrontierRow;

/// A table with a row per wanted accuracy and a column per estimator, in a closed section.
pub(super) fn frontier_section(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let in_group = |line: &&FrontierRow| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&FrontierRow> = view.tables.frontier.iter().filter(in_group).collect();
    let mut wanted: Vec<(&str, &str, f64)> = vec![];
    for line in &lines {
        let one = (line.scope.as_str(), line.unit.as_str(), line.target);
        if !wanted.contains(&one) {
            wanted.push(one);
        }
    }
    wanted.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then(b.2.total_cmp(&a.2)));
    let estimators = group.estimators();
    // With a single estimator there is nothing to choose.
    html! {
        @if estimators.len() > 1 && !lines.is_empty() { details {
            summary { "The cheapest estimator for a wanted accuracy" }
            (data_table(
                &format!("frontier-{}", group.model),
                &format!("The cheapest estimator of {} for a wanted accuracy", group.model),
                &frontier_columns(view, &estimators),
                html! { @for (scope, unit, target) in &wanted {
                    @let same = |l: &&FrontierRow| {
                        (l.scope.as_str(), l.unit.as_str(), l.target) == (*scope, *unit, *target)
                    };
                    @let row: Vec<&FrontierRow> = lines.iter().copied().filter(same).collect();
                    tr {
                        th scope="row" { (format_significant(*target, 1)) " " (sanitize_line(unit))
                            span.kind {
                                @if *scope == "mean" { "of the mean" } @else { "per sample" }
                            }
                        }
                        td { (cheapest_estimator(view, &row, |l| l.least_seconds)) }
                        td { (cheapest_estimator(view, &row, |l| l.fewest_jvps)) }
                        @for estimator in &estimators {
                            @let line = row.iter().find(|l| l.estimator == **estimator).copied();
                            (frontier_cell(line))
                        }
                    }
                } },
            ))
            p.note {
                "The cost of one sample in Jacobian products and measured seconds. The numbers of "
                "probes and replicates are extrapolated from this run by the law 1/K, which is "
                "exact if they are independent. A learned or few-step estimator has a cost only if "
                "its measured distance from the exact trace is already within the wanted accuracy: "
                "per sample its RMSE, and in the mean the upper end of the 95 % interval of its "
                "bias. The error is that of the estimator alone. The error budget contains data, "
                "solver and dequantization. "
                (ABSENT) " means out of reach or unknown."
            }
        } }
    }
}

/// The estimator of the row that `by` marks as the cheapest.
fn cheapest_estimator(
    view: &ReportView,
    row: &[&FrontierRow],
    by: fn(&FrontierRow) -> bool,
) -> String {
    row.iter()
        .find(|l| by(l))
        .map_or(ABSENT.into(), |l| view.short_name(&l.estimator))
}

/// The cost of one sample, and the number of probes or replicates.
fn frontier_cell(line: Option<&FrontierRow>) -> Markup {
    let Some((line, jvps, seconds)) = line.and_then(|l| Some((l, l.jvps?, l.seconds?))) else {
        return value_cell(None, None);
    };
    html! {
        td.n data-v=(jvps) {
            (counted(jvps.round(), "products"))
            span.kind {
                @if let Some(needed) = line.needed {
                    (counted(needed, &sanitize_line(&line.averages))) ", "
                }
                @if seconds < 100.0 { (format_significant(seconds, 2)) " s" }
                @else { (format_duration(seconds)) }
            }
        }
    }
}

/// The columns of the table: a column for each estimator.
fn frontier_columns<'a>(view: &ReportView, estimators: &[&'a str]) -> Vec<Column<'a>> {
    let estimator =
        |estimator: &&'a str| Column::number(*estimator, view.short_name(estimator), "products");
    [
        Column::text("target", "Wanted standard error"),
        Column::text("least_time", "least time"),
        Column::text("fewest_products", "fewest Jacobian products"),
    ]
    .into_iter()
    .chain(estimators.iter().map(estimator))
    .collect()
}
