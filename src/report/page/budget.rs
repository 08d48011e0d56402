//! The error budget of a group: which part of the uncertainty comes from where, and what lowers it.

use maud::{Markup, html};

use crate::budget::SolverBias;
use crate::report::figures::BUDGET_COMPONENTS;
use crate::report::number_format::{
    ABSENT, format_count, format_significant, format_with_error, if_finite,
};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::BudgetRow;

/// A row per estimator, a column per component.
pub fn budget_section(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let here = |line: &&BudgetRow| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&BudgetRow> = view.tables.budget.iter().filter(here).collect();
    let there = |name: &str| lines.iter().any(|l| l.component == name);
    let components: Vec<&str> = BUDGET_COMPONENTS
        .iter()
        .copied()
        .chain(["total"])
        .filter(|c| there(c))
        .collect();
    let (measured, rounding) = (there("solver"), there("numeric"));
    html! {
        @if !lines.is_empty() { details open[measured] {
            summary { "The error budget of the mean" }
            div.scroll { table {
                thead { tr { th { "Estimator" }
                    @for name in &components { th.n title=(component_description(&lines, name)) { (name) } }
                    th { "largest part, and what lowers it" }
                } }
                tbody { @for estimator in group.estimators() { tr {
                    th scope="row" { (view.short_name(estimator)) }
                    @for name in &components { td.n { (budget_cell(find_component(&lines, estimator, name), group)) } }
                    td { (largest_component(&lines, estimator)) }
                } } }
            } }
            p.note {
                "Size of each part in the mean over samples, nats"
                @if group.bits_per_nat().is_some() { " (in brackets: bits/dim)" }
                "; small: per sample, root mean square. They add up in squares. The noise of probes and of "
                "dequantization is taken out of what is called data. The solver's part is a bias, with its sign, ± "
                "its standard error, and does not fall with more samples. "
                (ABSENT) " stands for: not known, or not there; " code { "budget.csv" } " says how each was measured."
                @if !rounding { " " code { "budget: true" } " in a likelihood entry measures the solver's and the "
                    "rounding's part for every estimator." }
            }
        } }
    }
}

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

fn component_description(lines: &[&BudgetRow], component: &str) -> String {
    lines
        .iter()
        .find(|l| l.component == component)
        .map_or(String::new(), |l| sanitize_line(&l.measured))
}

fn budget_cell(line: Option<&BudgetRow>, group: &ComparisonGroup) -> Markup {
    let Some(line) = line.filter(|l| if_finite(l.mean_nats).is_some()) else {
        return html! { (ABSENT) };
    };
    let row = group
        .rows
        .iter()
        .find(|row| row.estimator == line.estimator);
    if line.component == "solver"
        && row.and_then(|row| SolverBias::from_summary(row)) == Some(SolverBias::Negligible)
    {
        return html! { span title="Less than a rounding of the number" { "none" } };
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
        (mean)
        @if let Some(bits) = bits { " (" (format_significant(bits, 2)) ")" }
        @if let Some(sample) = if_finite(line.sample_nats) { span.kind { (format_significant(sample, 2)) " per sample" } }
        @if let Some(order) = line.observed_order { span.kind { "order seen: " (format_significant(order, 2)) } }
    }
}

fn largest_component(lines: &[&BudgetRow], estimator: &str) -> Markup {
    let own = lines
        .iter()
        .filter(|l| l.estimator == estimator && l.component != "total");
    let most = own
        .filter(|l| l.share.is_some())
        .max_by(|a, b| a.share.unwrap_or(0.0).total_cmp(&b.share.unwrap_or(0.0)));
    html! {
        @if let Some(line) = most {
            (sanitize_line(&line.component)) ", " (format_count((100.0 * line.share.unwrap_or(0.0)).round())) "\u{a0}% of the squares: "
            (sanitize_line(&line.knob))
        } @else { (ABSENT) }
    }
}
