//! The summary of the results in sentences, made from the tables alone.

use maud::{Markup, html};

use super::data_table::name_markup;
use super::results::{bias_interval_contains_zero, find_floor};
use crate::budget::SolverBias;
use crate::report::figures::{FLOOR_SAMPLER, format_correlation};
use crate::report::number_format::{
    format_count, format_interval, format_optional, format_part, format_significant,
    format_to_error_digits, format_with_error, if_finite,
};
use crate::report::text::{join_with_and, sanitize_line};
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{EstimateKind, MetricRow, SummaryRow};

/// The part of the reference's cost below which an estimator is cheaper.
const CHEAPER: f64 = 0.98;
/// Rounding of log-likelihoods from networks in float32, relative to their size.
const ROUNDING: f64 = 1e-6;

/// The section about failed and outstanding work, which is the first of the page. Empty if there is
/// none.
pub(super) fn warnings_section(view: &ReportView) -> Markup {
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
            h2 { "Some results are missing" }
            ul {
                @for row in &failed { li {
                    b { (row.failed) " of " (row.n + row.failed) " samples failed" }
                    ": " (sanitize_line(&row.model)) ", " (sanitize_line(&row.estimator)) ", "
                    (sanitize_line(&row.solver))
                    ". They are excluded from the averages; " code { "samples.csv" }
                    " contains the status of each of them."
                } }
                @for (trial, reason) in &facts.trials_failed { li {
                    b { "Trial " (sanitize_line(trial)) " failed" } ": " (sanitize_line(reason))
                } }
                @if facts.trials_outstanding > 0 { li {
                    b {
                        (format_count(facts.trials_outstanding as f64)) " outstanding "
                        @if facts.trials_outstanding == 1 { "trial" } @else { "trials" }
                    }
                    ": the numbers below cover only finished trials. To continue, repeat the same "
                    code { "run" } " command."
                } }
            }
        } }
    }
}

/// The section with one card for each comparison group, and one for each model that has only
/// statistics of samples.
pub(super) fn summary_section(view: &ReportView) -> Markup {
    let compared: Vec<&ComparisonGroup> = view
        .groups
        .iter()
        .filter(|group| !group.rows.is_empty() && !group.reference_under_other_solver)
        .collect();
    let has_no_likelihood = |model: &&&str| compared.iter().all(|group| group.model != **model);
    let has_samples = |model: &&str| !sample_metric_sentences(view, model).is_empty();
    let is_empty = compared.is_empty() && !view.models.iter().any(has_samples);
    html! {
        @if !is_empty { section #summary {
            h2 { "In short" }
            div.cards {
                @for group in &compared { (summary_card(view, group)) }
                @for model in view.models.iter().filter(has_no_likelihood) {
                    @let sentences = sample_metric_sentences(view, model);
                    @if !sentences.is_empty() { div.card {
                        h3 { (sanitize_line(model)) }
                        ul { @for sentence in sentences { li { (sentence) } } }
                    } }
                }
            }
        } }
    }
}

/// The card of one comparison group: the headline and the sentences.
fn summary_card(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let first = view.groups.iter().find(|other| other.model == group.model);
    let lead = first.is_some_and(|first| std::ptr::eq(first, group));
    html! {
        div.card {
            h3 { (sanitize_line(group.model)) }
            (headline(view, group))
            ul {
                @for sentence in summary_sentences(view, group) { li { (sentence) } }
                // Statistics belong to the model, so only its first card shows them.
                @if lead {
                    @for sentence in sample_metric_sentences(view, group.model) {
                        li { (sentence) }
                    }
                }
            }
        }
    }
}

/// The mean of the reference estimator, or of the first estimator without a reference.
fn headline(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let row = group.reference_row().or(group.rows.first().copied());
    html! {
        @if let Some(row) = row {
            @let bits = if_finite(row.bits_per_dim).is_some();
            @let bits_text = format_with_error(row.bits_per_dim, row.bits_per_dim_stderr);
            @let nats_text = format_with_error(row.nats, row.nats_stderr);
            p.headline {
                span.value title="Mean over samples ± one standard error over the data" {
                    @if bits { (non_breaking(&bits_text)) } @else { (non_breaking(&nats_text)) }
                }
                " " span.unit { @if bits { "bits/dim" } @else { "nats" } }
            }
            p.under {
                (view.short_name(&row.estimator)) ", mean ± standard error over "
                (format_count(row.n as f64))
                @if row.n == 1 { " sample" } @else { " samples" }
                @if bits { " (" (non_breaking(&nats_text)) " nats)" }
            }
            p.under { (name_markup(group.dataset)) " · " (name_markup(group.solver))
                @if let Some(solver) = format_solver_bias(row) {
                    ", "
                    span title="The part of the mean from the solver's finite steps" {
                        (non_breaking(&solver))
                    }
                }
                @if SolverBias::from_summary(row) == Some(SolverBias::NotMeasured) {
                    ", solver error not measured"
                }
            }
        }
    }
}

/// The solver's bias in the unit of the headline, such as `solver −0.030`. `None` if it was not
/// measured.
fn format_solver_bias(row: &SummaryRow) -> Option<String> {
    match SolverBias::from_summary(row)? {
        SolverBias::NotMeasured => None,
        SolverBias::Negligible => Some("no solver error".into()),
        SolverBias::Measured { nats, bits_per_dim } => {
            let bits = if_finite(row.bits_per_dim).and(bits_per_dim);
            let shown = bits.map_or_else(
                || format_part(nats, row.nats_stderr),
                |bits| format_part(bits, row.bits_per_dim_stderr),
            );
            Some(format!("solver error {shown}"))
        }
    }
}

/// A sentence about the solver's bias. `None` if it is smaller than the standard error in the
/// headline, which does not contain it.
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
            b { "Solver: " } "the log-likelihoods are too "
            @if bias > 0.0 { "high" } @else { "low" }
            " by " b {
                (non_breaking(&format_with_error(Some(bias.abs()), part.bias_stderr))) " nats"
            }
            @if let Some(bits) = if_finite(part.bias_bits_per_dim) {
                " (" (format_significant(bits, 2)) " bits/dim)"
            }
            ", which is more than the standard error above. Measured by: "
            (sanitize_line(&part.measured)) ". To reduce it: " (sanitize_line(&part.knob)) "."
        }
    })
}

/// The sentences about the estimators of one comparison group.
fn summary_sentences(view: &ReportView, group: &ComparisonGroup) -> Vec<Markup> {
    let others: Vec<&SummaryRow> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && if_finite(row.bias).is_some())
        .collect();
    let mut sentences = vec![];
    sentences.extend(solver_bias_sentence(view, group));
    sentences.extend(
        others
            .iter()
            .filter(|row| row.kind.of_estimator() == EstimateKind::ClosedForm)
            .map(|row| known_truth_sentence(view, group, row)),
    );
    sentences.extend(nearest_estimator_sentence(view, group, &others));
    let learned = |row: &&&SummaryRow| {
        row.kind.of_estimator() == EstimateKind::Learned || row.kind.is_few_step()
    };
    sentences.extend(
        others
            .iter()
            .filter(learned)
            .map(|row| learned_bias_sentence(view, group, row)),
    );
    sentences.extend(
        others
            .iter()
            .filter(|row| row.kind == EstimateKind::Elbo)
            .map(|row| bound_gap_sentence(view, group, row)),
    );
    sentences.extend(randomized_bias_sentence(view, &others));
    sentences
}

/// A sentence about the difference between the closed form and the reference.
fn known_truth_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    html! {
        b { "Known truth: " } (view.short_name(&row.estimator)) " differs from "
        (view.short_name(group.reference)) " by "
        (non_breaking(&format_with_error(row.bias, row.bias_stderr))) " nats in the mean, and by "
        (format_optional(row.rmse, 2)) " nats (root mean square) per sample."
    }
}

/// A sentence about the gap between a variational bound and the reference.
fn bound_gap_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    let side = if row.bias.is_some_and(|bias| bias > 0.0) {
        "above"
    } else {
        "below"
    };
    html! {
        b { "Variational bound: " (view.short_name(&row.estimator)) } " lies "
        (non_breaking(&format_with_error(row.bias.map(f64::abs), row.bias_stderr)))
        " nats " (side) " " (view.short_name(group.reference)) " in the mean. It bounds the density of "
        "the reverse stochastic process, which is that of the ODE only for an exact score."
    }
}

/// A sentence about the estimator with the smallest RMSE among those that cost less than the reference,
/// closed forms and bounds excluded. One that costs as much as the reference is no alternative to it.
fn nearest_estimator_sentence(
    view: &ReportView,
    group: &ComparisonGroup,
    others: &[&SummaryRow],
) -> Option<Markup> {
    let reference = group.reference_row()?;
    let estimates = others.iter().filter(|row| {
        row.kind.of_estimator() != EstimateKind::ClosedForm && row.kind != EstimateKind::Elbo
    });
    let row = estimates
        .filter(|row| row.cost < CHEAPER * reference.cost)
        .filter(|row| if_finite(row.rmse).is_some())
        .min_by(|a, b| {
            a.rmse
                .unwrap_or(f64::MAX)
                .total_cmp(&b.rmse.unwrap_or(f64::MAX))
        })?;
    Some(html! {
        b { "Nearest at less cost: " (view.short_name(&row.estimator)) } " differs from "
        (view.short_name(group.reference)) " by " (format_optional(row.rmse, 2))
        " nats per sample (root mean square). It costs " (format_count(row.cost)) " evaluations"
        @if let Some(share) = relative_cost(view, group, row) { ", " (share) }
        "."
    })
}

/// The cost of a row relative to the cost of the reference, in words.
fn relative_cost(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Option<String> {
    let share = row.cost / group.reference_row()?.cost;
    let reference = view.short_name(group.reference);
    match share {
        _ if !share.is_finite() => None,
        _ if (0.98..1.02).contains(&share) => Some(format!("as many as {reference}")),
        _ if share >= 2.0 => Some(format!(
            "{} times as many as {reference}",
            format_significant(share, 2)
        )),
        _ => Some(format!(
            "{}\u{a0}% of the cost of {reference}",
            format_significant(100.0 * share, 2)
        )),
    }
}

/// A sentence about the bias of a learned head or of a few-step map.
fn learned_bias_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    let what = if row.kind.is_few_step() {
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
        b { (what) ": " (view.short_name(&row.estimator)) } " has a bias of "
        b { (shown(1.0)) " nats" }
        @if let Some(factor) = group.bits_per_nat() { " (" (shown(factor)) " bits/dim)" }
        @let interval = format_interval(row.bias, row.bias_stderr, row.bias_n);
        @match (interval, bias_interval_contains_zero(row)) {
            _ if is_rounding(view, row) => {
                ", which is no more than the rounding of the numbers. "
            }
            (Some(interval), Some(true)) => {
                "; its 95\u{a0}% interval " (non_breaking(&interval)) " contains zero. "
            }
            (Some(interval), _) => {
                "; its 95\u{a0}% interval " (non_breaking(&interval)) " does not contain zero. "
            }
            _ => { "; one sample gives no interval. " }
        }
        @if let Some(r) = if_finite(row.correlation) {
            "Its correlation per sample is r = " (format_correlation(r)) ". "
        }
        "It costs " (format_count(row.cost)) " evaluations"
        @if let Some(share) = relative_cost(view, group, row) { ", " (share) }
        @if row.jvps == 0.0 { ", without Jacobian products" }
        "."
    }
}

/// Whether a difference from the reference is no more than rounding: that of the estimator or of the
/// reference where the run measured them, and at least a few units in the last place of float32.
fn is_rounding(view: &ReportView, row: &SummaryRow) -> bool {
    let measured = view.tables.budget.iter().filter(|part| {
        part.component == "numeric"
            && (&part.model, &part.dataset, &part.solver) == (&row.model, &row.dataset, &row.solver)
    });
    let sizes = measured.filter_map(|part| if_finite(part.sample_nats));
    let least = ROUNDING * row.nats.map_or(1.0, |nats| nats.abs().max(1.0));
    let bias = row.bias.unwrap_or(0.0).abs();
    bias <= sizes.fold(least, f64::max)
}

/// A sentence about the randomized estimators, which should have no bias.
fn randomized_bias_sentence(view: &ReportView, others: &[&SummaryRow]) -> Option<Markup> {
    let which = |zero| -> Vec<String> {
        let stochastic = others
            .iter()
            .filter(|row| row.kind.of_estimator() == EstimateKind::OdeStochastic);
        let rows = stochastic.filter(|row| {
            bias_interval_contains_zero(row).map(|within| within || is_rounding(view, row))
                == Some(zero)
        });
        rows.map(|row| view.short_name(&row.estimator)).collect()
    };
    let (unbiased, biased) = (which(true), which(false));
    if unbiased.is_empty() && biased.is_empty() {
        return None;
    }
    Some(html! {
        b { "Randomized estimates: " }
        "the 95\u{a0}% interval of the bias "
        @if !unbiased.is_empty() { "contains zero for " (join_with_and(&unbiased)) }
        @if !unbiased.is_empty() && !biased.is_empty() { ", but " }
        @if !biased.is_empty() { "does not contain zero for " (join_with_and(&biased)) }
        "."
    })
}

/// Sentences about the statistics of samples: at most three samplers with two statistics each.
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
    let sentence = |sampler: &&str| {
        let shown = rows.iter().filter(|row| row.sampler == *sampler).take(2);
        html! {
            b { "Samples by " (sanitize_line(sampler)) ": " }
            @for (i, row) in shown.enumerate() {
                @if i > 0 { "; " }
                (sanitize_line(&row.metric)) " "
                (non_breaking(&format_with_error(Some(row.value), row.stderr)))
                @if let Some(floor) = find_floor(&rows, row) {
                    " (data against data: "
                    (non_breaking(&format_with_error(Some(floor.value), floor.stderr))) ")"
                }
                @if !row.note.is_empty() { " (see its note in the table)" }
            }
            "."
        }
    };
    samplers.iter().take(3).map(sentence).collect()
}

/// The number with non-breaking spaces, so that it stays on one line.
pub(super) fn non_breaking(number: &str) -> String {
    number.replace(' ', "\u{a0}")
}
