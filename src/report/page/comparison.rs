//! Full trajectories, learned divergences, few steps of a flow map and few steps of the plain flow in one table:
//! cost, value, difference to the full trajectory, agreement per sample, and the samples of the same steps.

use maud::{Markup, html};

use super::summary::non_breaking;
use crate::report::figures::{FLOOR_SAMPLER, format_correlation};
use crate::report::number_format::{
    ABSENT, format_count, format_optional, format_with_error, half_width_95, if_finite,
};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{MetricRow, SummaryRow};

/// The comparisons of a model, one for each dataset where solvers or few-step maps are compared.
pub fn comparison_tables(view: &ReportView, model: &str) -> Markup {
    let mut datasets: Vec<&str> = vec![];
    for group in view
        .groups
        .iter()
        .filter(|group| group.model == model && needs_comparison(group))
    {
        if !datasets.contains(&group.dataset) {
            datasets.push(group.dataset);
        }
    }
    html! { @for dataset in datasets { (comparison_table(view, model, dataset)) } }
}

/// Whether a group is held against another solver's reference, or holds few-step rows.
fn needs_comparison(group: &ComparisonGroup) -> bool {
    group.reference_under_other_solver || group.rows.iter().any(|row| is_few_step(row))
}

fn is_few_step(row: &SummaryRow) -> bool {
    row.kind.starts_with("few-step")
}

/// One row of the table with the group that it stands in.
type ComparisonRow<'a> = (&'a ComparisonGroup<'a>, &'a SummaryRow);

fn comparison_table(view: &ReportView, model: &str, dataset: &str) -> Markup {
    let here = |group: &&ComparisonGroup| group.model == model && group.dataset == dataset;
    let mut lines: Vec<ComparisonRow> = view
        .groups
        .iter()
        .filter(here)
        .flat_map(|g| g.rows.iter().map(move |row| (g, *row)))
        .collect();
    lines.sort_by_key(|(_, row)| if_finite(row.bias).is_some());
    let bits = lines
        .iter()
        .any(|(_, row)| if_finite(row.bits_per_dim).is_some());
    let unit = if bits { "bits/dim" } else { "nats" };
    let metrics: Vec<&MetricRow> = view
        .tables
        .metrics
        .iter()
        .filter(|m| m.model == model)
        .collect();
    let statistics = statistics_of_same_steps(&lines, &metrics);
    let better: Vec<&ComparisonRow> = lines
        .iter()
        .filter(|line| exceeds_reference(line.1))
        .collect();
    html! {
        h4 { "Few steps beside full trajectories" span.solver { (sanitize_line(dataset)) } }
        div.scroll { table.summary {
            thead { tr {
                th { "Estimator" } th { "Path" }
                th.n title="Evaluations of the network or map per sample" { "evals" }
                th.n title="Jacobian products per sample" { "JVPs" }
                th.n title="Mean over samples ± one standard error over the data" { (unit) " ± SE" }
                th.n title="Distance of the mean to the reference's, paired per sample, ± one standard error" {
                    "|Δ| ± SE, " (unit)
                }
                th.n title="Pearson's correlation with the reference over samples" { "r" }
                th.n title="Spearman's correlation of ranks with the reference over samples" { "rank r" }
                th.n title="Root mean square difference from the reference per sample" { "RMSE, nats" }
                @for (name, _) in &statistics {
                    th.n title="Of the samples that the same steps draw, ± one standard error" { (sanitize_line(name)) " ± SE" }
                }
            } }
            tbody { @for (group, row) in &lines { tr.reference[if_finite(row.bias).is_none()] {
                th scope="row" { (sanitize_line(&row.estimator)) span.kind { (sanitize_line(&row.kind)) } }
                td { @if is_few_step(row) { "its own" } @else { (sanitize_line(&row.solver)) } }
                td.n { (format_count(row.evaluations)) }
                td.n { (format_count(row.jvps)) }
                td.n { (if bits { format_with_error(row.bits_per_dim, row.bits_per_dim_stderr) }
                    else { format_with_error(row.nats, row.nats_stderr) }) }
                td.n { (reference_distance_cell(group, row)) }
                td.n { (correlation_cell(row.correlation)) }
                td.n { (correlation_cell(row.rank_correlation)) }
                td.n { (format_optional(row.rmse, 3)) }
                @for (name, features) in &statistics {
                    td.n { (metric_of_same_steps(row, &metrics, name, features).map_or(ABSENT.into(), |m| format_with_error(Some(m.value), m.stderr))) }
                }
            } } }
        } }
        p.note {
            "|Δ|, r, rank r and RMSE are paired per sample against the row without them. Closer to it is better, not "
            "lower: few steps and learned divergences give no normalized density, so a likelihood above the full "
            "trajectory's is not a better model but a miscalibrated one."
            @if !better.is_empty() {
                " Here that is so for "
                @for (i, (group, row)) in better.iter().enumerate() {
                    @if i > 0 { @if i + 1 == better.len() { " and " } @else { ", " } }
                    b { (sanitize_line(&row.estimator)) @if !is_few_step(row) { " with " (sanitize_line(&row.solver)) } }
                    " (" (non_breaking(&format_with_error(in_reported_unit(group, row.bias), in_reported_unit(group, row.bias_stderr)))) " " (unit) ")"
                }
                ": their 95\u{a0}% intervals lie above it."
            }
            @if !statistics.is_empty() {
                " Statistics are of samples drawn with the same steps, over the data of the statistics' own table."
            }
        }
    }
}

/// A difference of log-densities in bits/dim where they are defined, in nats elsewhere.
fn in_reported_unit(group: &ComparisonGroup, nats: Option<f64>) -> Option<f64> {
    nats.map(|v| group.bits_per_nat().map_or(v, |factor| v * factor))
}

fn reference_distance_cell(group: &ComparisonGroup, row: &SummaryRow) -> String {
    let part = |v: Option<f64>| in_reported_unit(group, if_finite(v)).map(f64::abs);
    format_with_error(part(row.bias), part(row.bias_stderr))
}

/// Whether a row that is no density reports more likelihood than the reference, beyond chance.
fn exceeds_reference(row: &SummaryRow) -> bool {
    let biased = is_few_step(row) || row.kind == "learned" || row.reference != row.estimator;
    let half = half_width_95(row.bias_stderr, row.bias_n);
    biased
        && row.kind != "closed-form"
        && row.kind != "ode-stochastic"
        && if_finite(row.bias).is_some_and(|b| b > half)
}

fn correlation_cell(r: Option<f64>) -> String {
    if_finite(r).map_or(ABSENT.into(), format_correlation)
}

/// Statistics, with their features, that some row's own steps have samples for.
fn statistics_of_same_steps<'a>(
    lines: &[ComparisonRow],
    metrics: &[&'a MetricRow],
) -> Vec<(&'a str, &'a str)> {
    let mut found: Vec<(&str, &str)> = vec![];
    for metric in metrics {
        let name = (metric.metric.as_str(), metric.features.as_str());
        if !found.contains(&name) && lines.iter().any(|(_, row)| same_steps(row, metric)) {
            found.push(name);
        }
    }
    found
}

/// Whether a sampler takes the steps of a row: the same method over the same grid, with as many evaluations.
/// Karras grids of samplers count points and those of solvers count steps, so `steps` itself says too little.
fn same_steps(row: &SummaryRow, metric: &MetricRow) -> bool {
    let label = if is_few_step(row) {
        &row.estimator
    } else {
        &row.solver
    };
    metric.sampler != FLOOR_SAMPLER
        && method_and_grid(&metric.sampler) == method_and_grid(label)
        && metric.evaluations == row.evaluations
}

/// A label's words without its number of steps: method and grid.
fn method_and_grid(label: &str) -> Vec<String> {
    let words = label
        .split(['(', ')', ' '])
        .filter(|word| !word.is_empty() && !word.starts_with("steps="));
    words
        .map(|word| word.replace("schedule=", "grid="))
        .collect()
}

fn metric_of_same_steps<'a>(
    row: &SummaryRow,
    metrics: &[&'a MetricRow],
    name: &str,
    features: &str,
) -> Option<&'a MetricRow> {
    metrics
        .iter()
        .find(|m| m.metric == name && m.features == features && same_steps(row, m))
        .copied()
}
