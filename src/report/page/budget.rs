//! The error budget of a group: the size of each component of the uncertainty, and how to reduce
//! the largest one.

use maud::{Markup, html};

use super::data_table::{Column, data_table, name_markup, value_cell};
use crate::budget::SolverBias;
use crate::report::figures::BUDGET_COMPONENTS;
use crate::report::number_format::{
    ABSENT, format_count, format_significant, format_with_error, if_finite,
};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::BudgetRow;

/// A table with a row per estimator and a column per component. It is open if the solver's error
/// was measured.
pub(super) fn budget_section(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let in_group = |line: &&BudgetRow| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&BudgetRow> = view.tables.budget.iter().filter(in_group).collect();
    let exists = |name: &str| lines.iter().any(|l| l.component == name);
    let components: Vec<&str> = BUDGET_COMPONENTS
        .iter()
        .copied()
        .chain(["total"])
        .filter(|c| {
            lines
                .iter()
                .any(|l| l.component == *c && if_finite(l.mean_nats).is_some())
        })
        .collect();
    let (measured, rounding) = (exists("solver"), exists("numeric"));
    html! {
        @if !lines.is_empty() { details open[measured] {
            summary { "The error budget of the mean" }
            (data_table(
                &format!("budget-{}", group.model),
                &format!("Error budget of {}, nats", group.model),
                &budget_columns(&lines, &components),
                html! { @for estimator in group.estimators() { tr {
                    th scope="row" { (name_markup(&view.short_name(estimator))) }
                    @for name in &components {
                        (budget_cell(find_component(&lines, estimator, name), group))
                    }
                    td.wide { (largest_component(&lines, estimator)) }
                } } },
            ))
            p.note {
                "Size of each component in the mean over samples, in nats"
                @if group.bits_per_nat().is_some() { " (bits/dim in brackets)" }
                ". The small numbers are root mean squares per sample. The squares of the "
                "components add up to the square of the total. The component data does not include "
                "the noise of probes and of dequantization. The solver's component is a bias with "
                "its sign ± its standard error, and more samples do not reduce it. "
                (ABSENT) " means that a component is unknown or does not exist; "
                code { "budget.csv" } " says how each component was measured."
                @if !rounding { " " code { "budget: true" } " in a likelihood entry measures the "
                    "solver's and the rounding error of every estimator." }
            }
        } }
    }
}

/// The row of one component of one estimator.
fn find_component<'a>(
    lines: &[&'a BudgetRow],
    estimator: &str,
    component: &str,
) -> Option<&'a BudgetRow> {
    lines
        .iter()
        .find(|l| l.estimator == estimator && l.component == component)
        .copied()
}

/// The columns of the table: a component each, and the largest one.
fn budget_columns<'a>(lines: &[&BudgetRow], components: &[&'a str]) -> Vec<Column<'a>> {
    let component = |name: &&'a str| {
        let column = Column::number(*name, *name, "nats");
        let column = column.meaning(component_description(lines, name));
        // Rounding hardly ever matters.
        if *name == "numeric" {
            column.off()
        } else {
            column
        }
    };
    let first = Column::text("estimator", "Estimator");
    let last = Column::text("largest", "largest component, and how to reduce it");
    std::iter::once(first)
        .chain(components.iter().map(component))
        .chain([last])
        .collect()
}

/// How the component was measured, for the first estimator that has it.
fn component_description(lines: &[&BudgetRow], component: &str) -> String {
    lines
        .iter()
        .find(|l| l.component == component)
        .map_or(String::new(), |l| sanitize_line(&l.measured))
}

/// The size of a component in the mean and per sample, and the observed order of convergence.
fn budget_cell(line: Option<&BudgetRow>, group: &ComparisonGroup) -> Markup {
    let Some(line) = line.filter(|l| if_finite(l.mean_nats).is_some()) else {
        return value_cell(None, None);
    };
    let row = group
        .rows
        .iter()
        .find(|row| row.estimator == line.estimator);
    if line.component == "solver"
        && row.and_then(|row| SolverBias::from_summary(row)) == Some(SolverBias::Negligible)
    {
        return html! {
            td.n data-v=[if_finite(line.bias_nats)] title="Less than the rounding of the number" {
                "none"
            }
        };
    }
    let mean = match (line.bias_nats, line.bias_stderr) {
        (Some(bias), error) => format_with_error(Some(bias), error),
        _ => format_significant(line.mean_nats.unwrap_or(0.0), 2),
    };
    let bits = line
        .bias_bits_per_dim
        .or(line.mean_bits_per_dim)
        .filter(|_| group.bits_per_nat().is_some());
    html! {
        td.n data-v=[if_finite(line.bias_nats.or(line.mean_nats))] data-e=[if_finite(line.bias_stderr)] {
            (mean)
            @if let Some(bits) = bits { " (" (format_significant(bits, 2)) ")" }
            @if let Some(sample) = if_finite(line.sample_nats) {
                span.kind { (format_significant(sample, 2)) " per sample" }
            }
            @if let Some(order) = line.observed_order {
                span.kind { "observed order: " (format_significant(order, 2)) }
            }
        }
    }
}

/// The component with the largest share of the total, and the setting that reduces it.
fn largest_component(lines: &[&BudgetRow], estimator: &str) -> Markup {
    let own = lines
        .iter()
        .filter(|l| l.estimator == estimator && l.component != "total");
    let most = own
        .filter(|l| l.share.is_some())
        .max_by(|a, b| a.share.unwrap_or(0.0).total_cmp(&b.share.unwrap_or(0.0)));
    html! {
        @if let Some(line) = most {
            (sanitize_line(&line.component)) ", "
            (format_count((100.0 * line.share.unwrap_or(0.0)).round()))
            "\u{a0}% of the total's square: "
            (sanitize_line(&line.knob))
        } @else { (ABSENT) }
    }
}
