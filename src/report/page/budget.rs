//! The error budget of a group: which part of the uncertainty comes from where, and what lowers it.

use maud::{Markup, html};

use crate::budget::SolverBias;
use crate::report::figures::COMPONENTS;
use crate::report::number::{ABSENT, count, finite, significant, with_error};
use crate::report::text::clean;
use crate::report::view::{Group, View};
use crate::rows::Budget;

/// A row per estimator, a column per component.
pub fn section(view: &View, group: &Group) -> Markup {
    let here = |line: &&Budget| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&Budget> = view.tables.budget.iter().filter(here).collect();
    let there = |name: &str| lines.iter().any(|l| l.component == name);
    let components: Vec<&str> = COMPONENTS
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
                    @for name in &components { th.n title=(meaning(&lines, name)) { (name) } }
                    th { "largest part, and what lowers it" }
                } }
                tbody { @for estimator in group.estimators() { tr {
                    th scope="row" { (view.name(estimator)) }
                    @for name in &components { td.n { (cell(line(&lines, estimator, name), group)) } }
                    td { (largest(&lines, estimator)) }
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

fn line<'a>(lines: &[&'a Budget], estimator: &str, component: &str) -> Option<&'a Budget> {
    lines
        .iter()
        .find(|l| l.estimator == estimator && l.component == component)
        .copied()
}

fn meaning(lines: &[&Budget], component: &str) -> String {
    lines
        .iter()
        .find(|l| l.component == component)
        .map_or(String::new(), |l| clean(&l.measured))
}

fn cell(line: Option<&Budget>, group: &Group) -> Markup {
    let Some(line) = line.filter(|l| finite(l.mean_nats).is_some()) else {
        return html! { (ABSENT) };
    };
    let row = group
        .rows
        .iter()
        .find(|row| row.estimator == line.estimator);
    if line.component == "solver"
        && row.and_then(|row| SolverBias::of(row)) == Some(SolverBias::Negligible)
    {
        return html! { span title="Less than a rounding of the number" { "none" } };
    }
    let mean = match (line.bias_nats, line.bias_stderr) {
        (Some(bias), error) => with_error(Some(bias), error),
        _ => significant(line.mean_nats.unwrap_or(0.0), 2),
    };
    let bits = line
        .bias_bits_per_dim
        .or(line.mean_bits_per_dim)
        .filter(|_| group.bits_per_nat().is_some());
    html! {
        (mean)
        @if let Some(bits) = bits { " (" (significant(bits, 2)) ")" }
        @if let Some(sample) = finite(line.sample_nats) { span.kind { (significant(sample, 2)) " per sample" } }
        @if let Some(order) = line.observed_order { span.kind { "order seen: " (significant(order, 2)) } }
    }
}

fn largest(lines: &[&Budget], estimator: &str) -> Markup {
    let own = lines
        .iter()
        .filter(|l| l.estimator == estimator && l.component != "total");
    let most = own
        .filter(|l| l.share.is_some())
        .max_by(|a, b| a.share.unwrap_or(0.0).total_cmp(&b.share.unwrap_or(0.0)));
    html! {
        @if let Some(line) = most {
            (clean(&line.component)) ", " (count((100.0 * line.share.unwrap_or(0.0)).round())) "\u{a0}% of the squares: "
            (clean(&line.knob))
        } @else { (ABSENT) }
    }
}
