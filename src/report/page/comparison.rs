//! The table that compares full trajectories, learned divergences, and few steps of a flow map or
//! of the plain flow.
//!
//! It shows the cost, the value, the difference to the full trajectory, the agreement per sample,
//! and statistics of samples that were drawn with the same steps.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, name_markup, shown_cell, value_cell};
use super::summary::non_breaking;
use crate::report::figures::{FLOOR_SAMPLER, format_correlation};
use crate::report::number_format::{
    ABSENT, format_optional, format_with_error, half_width_95, if_finite,
};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{EstimateKind, MetricRow, SummaryRow};

/// One table for each dataset of a model on which solvers or few-step maps are compared.
pub(super) fn comparison_tables(view: &ReportView, model: &str) -> Markup {
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

/// Whether the group's reference has another solver, or the group contains few-step rows.
fn needs_comparison(group: &ComparisonGroup) -> bool {
    group.reference_under_other_solver || group.rows.iter().any(|row| is_few_step(row))
}

/// Whether the row belongs to a few-step estimator.
fn is_few_step(row: &SummaryRow) -> bool {
    row.kind.is_few_step()
}

/// A row with its comparison group.
type ComparisonRow<'a> = (&'a ComparisonGroup<'a>, &'a SummaryRow);

/// The comparison of all solvers and estimators of a model on one dataset.
fn comparison_table(view: &ReportView, model: &str, dataset: &str) -> Markup {
    let of_dataset = |group: &&ComparisonGroup| group.model == model && group.dataset == dataset;
    let mut lines: Vec<ComparisonRow> = view
        .groups
        .iter()
        .filter(of_dataset)
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
        (data_table(
            &format!("few-steps-{model}"),
            &format!("Few steps beside full trajectories of {model}"),
            &comparison_columns(unit, &statistics),
            html! { @for (group, row) in &lines { tr.reference[if_finite(row.bias).is_none()] {
                th scope="row" {
                    (name_markup(&row.estimator))
                    span.kind { (row.kind) }
                }
                td {
                    @if row.kind.follows_path() { (name_markup(&row.solver)) }
                    @else if is_few_step(row) { "its own" }
                    @else { "none" }
                }
                (count_cell(row.evaluations))
                (count_cell(row.jvps))
                (if bits { value_cell(row.bits_per_dim, row.bits_per_dim_stderr) }
                    else { value_cell(row.nats, row.nats_stderr) })
                (reference_distance_cell(group, row))
                (correlation_cell(row.correlation))
                (correlation_cell(row.rank_correlation))
                (shown_cell(row.rmse, &format_optional(row.rmse, 3), false))
                @for (name, features) in &statistics {
                    @let metric = metric_of_same_steps(row, &metrics, name, features);
                    (value_cell(metric.map(|m| m.value), metric.and_then(|m| m.stderr)))
                }
            } } },
        ))
        p.note {
            "|Δ|, r, rank r and RMSE compare each row with the reference, which is the row without "
            "them, paired per sample. Values closer to the reference are better. Few steps and "
            "learned divergences give no normalized density: a likelihood above that of the full "
            "trajectory is not a better model but a miscalibrated one."
            @if !better.is_empty() {
                " This applies to "
                @for (i, (group, row)) in better.iter().enumerate() {
                    @if i > 0 { @if i + 1 == better.len() { " and " } @else { ", " } }
                    b {
                        (sanitize_line(&row.estimator))
                        @if row.kind.follows_path() { " with " (sanitize_line(&row.solver)) }
                    }
                    @let bias = in_reported_unit(group, row.bias);
                    @let error = in_reported_unit(group, row.bias_stderr);
                    " (" (non_breaking(&format_with_error(bias, error))) " " (unit) ")"
                }
                ": the 95\u{a0}% intervals of these differences do not contain zero."
            }
            @if !statistics.is_empty() {
                " The statistics are those of samples that were drawn with the same steps, as in "
                "the table “Statistics of samples”."
            }
        }
    }
}

/// A difference of log-densities in bits/dim if these are defined, and in nats otherwise.
fn in_reported_unit(group: &ComparisonGroup, nats: Option<f64>) -> Option<f64> {
    nats.map(|v| group.bits_per_nat().map_or(v, |factor| v * factor))
}

/// The absolute bias ± its standard error, in the reported unit.
fn reference_distance_cell(group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    let part = |v: Option<f64>| in_reported_unit(group, if_finite(v)).map(f64::abs);
    value_cell(part(row.bias), part(row.bias_stderr))
}

/// The columns of the table, with one for each statistic of samples.
fn comparison_columns<'a>(unit: &'static str, statistics: &[(&'a str, &str)]) -> Vec<Column<'a>> {
    let correlation = "correlation with the reference over samples";
    let statistic = |(name, _): &(&'a str, &str)| {
        Column::number(*name, format!("{name} ± SE"), "")
            .meaning("Statistic of samples drawn with the same steps ± standard error")
    };
    [
        Column::text("estimator", "Estimator"),
        Column::text("path", "Path"),
        Column::number("evaluations", "evals", "")
            .meaning("Evaluations of the network or map per sample"),
        Column::number("jvps", "JVPs", "").meaning("Jacobian products per sample"),
        Column::number("mean", format!("{unit} ± SE"), unit)
            .meaning("Mean over samples ± one standard error over the data"),
        Column::number("difference", format!("|Δ| ± SE, {unit}"), unit)
            .meaning("Absolute mean paired difference from the reference ± standard error"),
        Column::number("correlation", "r", "").meaning(format!("Pearson's {correlation}")),
        Column::number("rank_correlation", "rank r", "")
            .meaning(format!("Spearman's rank {correlation}")),
        Column::number("rmse", "RMSE, nats", "nats")
            .meaning("Root mean square difference from the reference per sample"),
    ]
    .into_iter()
    .chain(statistics.iter().map(statistic))
    .collect()
}

/// Whether a row whose number is not a normalized density reports a significantly higher likelihood
/// than the reference.
fn exceeds_reference(row: &SummaryRow) -> bool {
    let biased = is_few_step(row)
        || row.kind.of_estimator() == EstimateKind::Learned
        || row.reference != row.estimator;
    let half = half_width_95(row.bias_stderr, row.bias_n);
    biased
        && row.kind.of_estimator() != EstimateKind::ClosedForm
        && row.kind.of_estimator() != EstimateKind::OdeStochastic
        && row.kind != EstimateKind::FewStepExact
        && row.kind != EstimateKind::Elbo
        && if_finite(row.bias).is_some_and(|b| b > half)
}

fn correlation_cell(r: Option<f64>) -> Markup {
    let text = if_finite(r).map_or(ABSENT.into(), format_correlation);
    shown_cell(r, &text, false)
}

/// The statistics with their features for which a sampler takes the steps of some row.
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

/// Whether a sampler takes the steps of a row: the same trajectory with as many evaluations. Karras
/// grids of samplers count points and those of solvers count steps, so `steps` is no measure.
fn same_steps(row: &SummaryRow, metric: &MetricRow) -> bool {
    metric.sampler != FLOOR_SAMPLER
        && row.trajectory.is_some()
        && metric.trajectory == row.trajectory
        && metric.evaluations == row.evaluations
}

/// The statistic of a sampler that takes the steps of the row.
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
