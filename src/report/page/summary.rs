//! The summary in plain words, made from the tables alone.

use maud::{Markup, html};

use super::results::{bias_interval_contains_zero, find_floor};
use crate::budget::SolverBias;
use crate::report::figures::{FLOOR_SAMPLER, format_correlation};
use crate::report::number_format::{
    format_count, format_interval, format_optional, format_part, format_significant,
    format_to_error_digits, format_with_error, if_finite,
};
use crate::report::text::{join_with_and, sanitize_line};
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{MetricRow, SummaryRow};

/// What went wrong, before anything else; nothing where nothing did.
pub fn warnings_section(view: &ReportView) -> Markup {
    let facts = view.facts;
    let failed: Vec<&SummaryRow> = view
        .tables
        .summary
        .iter()
        .filter(|row| row.failed > 0)
        .collect();
    let quiet =
        failed.is_empty() && facts.trials_failed.is_empty() && facts.trials_outstanding == 0;
    html! {
        @if !quiet { section.alarm role="alert" {
            h2 { "Not everything came through" }
            ul {
                @for row in &failed { li {
                    b { (row.failed) " of " (row.n + row.failed) " samples failed" }
                    ": " (sanitize_line(&row.model)) ", " (sanitize_line(&row.estimator)) ", " (sanitize_line(&row.solver))
                    ". They are left out of the averages; " code { "samples.csv" } " names each with its status."
                } }
                @for (trial, reason) in &facts.trials_failed { li {
                    b { "Trial " (sanitize_line(trial)) " failed" } ": " (sanitize_line(reason))
                } }
                @if facts.trials_outstanding > 0 { li {
                    b { (format_count(facts.trials_outstanding as f64)) " of the trials outstanding" }
                    ": the numbers below cover only what is finished. The same " code { "run" } " again carries on."
                } }
            }
        } }
    }
}

/// One card per model, dataset and solver.
pub fn summary_section(view: &ReportView) -> Markup {
    let compared: Vec<&ComparisonGroup> = view
        .groups
        .iter()
        .filter(|group| !group.rows.is_empty() && !group.reference_under_other_solver)
        .collect();
    let alone = |model: &&&str| compared.iter().all(|group| group.model != **model);
    html! {
        section #summary {
            h2 { "In short" }
            @if compared.is_empty() { p.empty { "No likelihood has been measured." } }
            div.cards {
                @for group in &compared { (summary_card(view, group)) }
                @for model in view.models.iter().filter(alone) {
                    @let said = sample_metric_sentences(view, model);
                    @if !said.is_empty() { div.card {
                        h3 { (sanitize_line(model)) }
                        ul { @for sentence in said { li { (sentence) } } }
                    } }
                }
            }
        }
    }
}

fn summary_card(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let first = view.groups.iter().find(|other| other.model == group.model);
    let lead = first.is_some_and(|first| std::ptr::eq(first, group));
    html! {
        div.card {
            h3 { (sanitize_line(group.model)) }
            (headline(view, group))
            ul {
                @for sentence in summary_sentences(view, group) { li { (sentence) } }
                // Statistics belong to the model, so they are said once.
                @if lead { @for sentence in sample_metric_sentences(view, group.model) { li { (sentence) } } }
            }
        }
    }
}

fn headline(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let row = group.reference_row().or(group.rows.first().copied());
    html! {
        @if let Some(row) = row {
            @let bits = if_finite(row.bits_per_dim).is_some();
            p.headline {
                span.value title="Mean over samples ± one standard error over the data" {
                    @if bits { (non_breaking(&format_with_error(row.bits_per_dim, row.bits_per_dim_stderr))) }
                    @else { (non_breaking(&format_with_error(row.nats, row.nats_stderr))) }
                }
                @if let Some(solver) = format_solver_bias(row) {
                    span.value title="How much of it the solver's steps make" { ", " (non_breaking(&solver)) }
                }
                " " span.unit { @if bits { "bits/dim" } @else { "nats" } }
            }
            p.under {
                (view.short_name(&row.estimator)) ", mean ± standard error over " (format_count(row.n as f64))
                @if row.n == 1 { " sample" } @else { " samples" }
                @if bits { " (" (non_breaking(&format_with_error(row.nats, row.nats_stderr))) " nats)" }
            }
            p.under { (sanitize_line(group.dataset)) " · " (sanitize_line(group.solver))
                @if SolverBias::from_summary(row) == Some(SolverBias::NotMeasured) { ", solver error not measured" } }
        }
    }
}

/// `solver −0.030`, in the headline's unit; nothing where it was not measured.
fn format_solver_bias(row: &SummaryRow) -> Option<String> {
    match SolverBias::from_summary(row)? {
        SolverBias::NotMeasured => None,
        SolverBias::Negligible => Some("solver none".into()),
        SolverBias::Measured { nats, bits_per_dim } => {
            let bits = if_finite(row.bits_per_dim).and(bits_per_dim);
            let shown = bits.map_or_else(
                || format_part(nats, row.nats_stderr),
                |bits| format_part(bits, row.bits_per_dim_stderr),
            );
            Some(format!("solver {shown}"))
        }
    }
}

/// The solver's bias where it is larger than the ± of the headline, which says nothing of it.
fn solver_bias_sentence(view: &ReportView, group: &ComparisonGroup) -> Option<Markup> {
    let row = group.reference_row().or(group.rows.first().copied())?;
    let part = view.tables.budget.iter().find(|part| {
        part.component == "solver"
            && (part.model.as_str(), part.dataset.as_str()) == (group.model, group.dataset)
            && (part.solver.as_str(), &part.estimator) == (group.solver, &row.estimator)
    })?;
    let bias = if_finite(part.bias_nats)?;
    (bias.abs() > if_finite(row.nats_stderr)?).then(|| {
        html! {
            b { "Solver: " } "the log-likelihoods are too " @if bias > 0.0 { "high" } @else { "low" }
            " by " b { (non_breaking(&format_with_error(Some(bias.abs()), part.bias_stderr))) " nats" }
            @if let Some(bits) = if_finite(part.bias_bits_per_dim) { " (" (format_significant(bits, 2)) " bits/dim)" }
            ", more than the standard error above (" (sanitize_line(&part.measured)) "); what lowers it: " (sanitize_line(&part.knob)) "."
        }
    })
}

fn summary_sentences(view: &ReportView, group: &ComparisonGroup) -> Vec<Markup> {
    let others: Vec<&SummaryRow> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && if_finite(row.bias).is_some())
        .collect();
    let mut said = vec![];
    said.extend(solver_bias_sentence(view, group));
    said.extend(
        others
            .iter()
            .filter(|row| row.kind == "closed-form")
            .map(|row| known_truth_sentence(view, group, row)),
    );
    said.extend(nearest_estimator_sentence(view, group, &others));
    let learned = |row: &&&SummaryRow| matches!(row.kind.as_str(), "learned" | "few-step");
    said.extend(
        others
            .iter()
            .filter(learned)
            .map(|row| learned_bias_sentence(view, group, row)),
    );
    said.extend(randomized_bias_sentence(view, &others));
    said
}

fn known_truth_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    html! {
        b { "Known truth: " } (view.short_name(&row.estimator)) " differs from " (view.short_name(group.reference)) " by "
        (non_breaking(&format_with_error(row.bias, row.bias_stderr))) " nats in the mean, by " (format_optional(row.rmse, 2))
        " nats (root mean square) per sample."
    }
}

fn nearest_estimator_sentence(
    view: &ReportView,
    group: &ComparisonGroup,
    others: &[&SummaryRow],
) -> Option<Markup> {
    let estimates = others.iter().filter(|row| row.kind != "closed-form");
    let row = estimates
        .filter(|row| if_finite(row.rmse).is_some())
        .min_by(|a, b| {
            a.rmse
                .unwrap_or(f64::MAX)
                .total_cmp(&b.rmse.unwrap_or(f64::MAX))
        })?;
    Some(html! {
        b { "Nearest per sample: " (view.short_name(&row.estimator)) } ", " (format_optional(row.rmse, 2))
        " nats (root mean square) from " (view.short_name(group.reference)) ", for " (format_count(row.cost)) " evaluations"
        @if let Some(share) = relative_cost(view, group, row) { ", " (share) }
        "."
    })
}

/// A row's cost beside the reference's, in words.
fn relative_cost(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Option<String> {
    let share = row.cost / group.reference_row()?.cost;
    let of = view.short_name(group.reference);
    match share {
        _ if !share.is_finite() => None,
        _ if (0.98..1.02).contains(&share) => Some(format!("as many as {of}")),
        _ if share >= 2.0 => Some(format!(
            "{} times those of {of}",
            format_significant(share, 2)
        )),
        _ => Some(format!(
            "{}\u{a0}% of those of {of}",
            format_significant(100.0 * share, 2)
        )),
    }
}

fn learned_bias_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    let what = if row.kind == "few-step" {
        "Few-step map"
    } else {
        "Learned head"
    };
    let (bias, error) = (row.bias.unwrap_or(0.0), if_finite(row.bias_stderr));
    let shown = |factor: f64| match error {
        Some(error) => format_to_error_digits(factor * bias, factor * error),
        None => format_significant(factor * bias, 3),
    };
    html! {
        b { (what) ": " (view.short_name(&row.estimator)) } " is off by " b { (shown(1.0)) " nats" }
        @if let Some(factor) = group.bits_per_nat() { " (" (shown(factor)) " bits/dim)" }
        @match (format_interval(row.bias, row.bias_stderr, row.bias_n), bias_interval_contains_zero(row)) {
            (Some(interval), Some(true)) => { "; its 95\u{a0}% interval " (non_breaking(&interval)) " contains zero. " }
            (Some(interval), _) => { "; its 95\u{a0}% interval " (non_breaking(&interval)) " does not contain zero. " }
            _ => { "; one sample gives no interval. " }
        }
        @if let Some(r) = if_finite(row.correlation) { "Per sample r = " (format_correlation(r)) "; " } @else { "It takes " }
        (format_count(row.cost)) " evaluations"
        @if let Some(share) = relative_cost(view, group, row) { ", " (share) }
        @if row.jvps == 0.0 { ", and no Jacobian products" }
        "."
    }
}

/// Estimators that should be right in the mean, and whether they are.
fn randomized_bias_sentence(view: &ReportView, others: &[&SummaryRow]) -> Option<Markup> {
    let which = |zero| -> Vec<String> {
        let stochastic = others.iter().filter(|row| row.kind == "ode-stochastic");
        let rows = stochastic.filter(|row| bias_interval_contains_zero(row) == Some(zero));
        rows.map(|row| view.short_name(&row.estimator)).collect()
    };
    let (well, off) = (which(true), which(false));
    if well.is_empty() && off.is_empty() {
        return None;
    }
    Some(html! {
        b { "Randomized estimates: " }
        "the 95\u{a0}% interval of the bias "
        @if !well.is_empty() { "contains zero for " (join_with_and(&well)) }
        @if !well.is_empty() && !off.is_empty() { ", but " }
        @if !off.is_empty() { "does not contain zero for " (join_with_and(&off)) }
        "."
    })
}

fn sample_metric_sentences(view: &ReportView, model: &str) -> Vec<Markup> {
    let rows: Vec<&MetricRow> = view
        .tables
        .metrics
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let mut samplers: Vec<&str> = vec![];
    for row in rows.iter().filter(|row| row.sampler != FLOOR_SAMPLER) {
        if !samplers.contains(&row.sampler.as_str()) {
            samplers.push(&row.sampler);
        }
    }
    let of = |sampler: &&str| {
        let said = rows.iter().filter(|row| row.sampler == *sampler).take(2);
        html! {
            b { "Samples by " (sanitize_line(sampler)) ": " }
            @for (i, row) in said.enumerate() {
                @if i > 0 { "; " }
                (sanitize_line(&row.metric)) " " (non_breaking(&format_with_error(Some(row.value), row.stderr)))
                @if let Some(floor) = find_floor(&rows, row) {
                    " (data against data: " (non_breaking(&format_with_error(Some(floor.value), floor.stderr))) ")"
                }
                @if !row.note.is_empty() { ", but see its note" }
            }
            "."
        }
    };
    samplers.iter().take(3).map(of).collect()
}

/// A number that no line break may part.
pub fn non_breaking(number: &str) -> String {
    number.replace(' ', "\u{a0}")
}
