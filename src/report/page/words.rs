//! The summary in plain words, made from the tables alone.

use maud::{Markup, html};

use super::results::{contains_zero, floor};
use crate::budget::SolverBias;
use crate::report::figures::{FLOOR, correlation};
use crate::report::number::{
    count, finite, interval, maybe, part, significant, to_error, with_error,
};
use crate::report::text::{clean, listing};
use crate::report::view::{Group, View};
use crate::rows::{MetricRow, Summary};

/// What went wrong, before anything else; nothing where nothing did.
pub fn alarms(view: &View) -> Markup {
    let facts = view.facts;
    let failed: Vec<&Summary> = view
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
                    ": " (clean(&row.model)) ", " (clean(&row.estimator)) ", " (clean(&row.solver))
                    ". They are left out of the averages; " code { "samples.csv" } " names each with its status."
                } }
                @for (trial, reason) in &facts.trials_failed { li {
                    b { "Trial " (clean(trial)) " failed" } ": " (clean(reason))
                } }
                @if facts.trials_outstanding > 0 { li {
                    b { (count(facts.trials_outstanding as f64)) " of the trials outstanding" }
                    ": the numbers below cover only what is finished. The same " code { "run" } " again carries on."
                } }
            }
        } }
    }
}

/// One card per model, dataset and solver.
pub fn summary(view: &View) -> Markup {
    let compared: Vec<&Group> = view
        .groups
        .iter()
        .filter(|group| !group.rows.is_empty() && !group.elsewhere)
        .collect();
    let alone = |model: &&&str| compared.iter().all(|group| group.model != **model);
    html! {
        section #summary {
            h2 { "In short" }
            @if compared.is_empty() { p.empty { "No likelihood has been measured." } }
            div.cards {
                @for group in &compared { (card(view, group)) }
                @for model in view.models.iter().filter(alone) {
                    @let said = samples(view, model);
                    @if !said.is_empty() { div.card {
                        h3 { (clean(model)) }
                        ul { @for sentence in said { li { (sentence) } } }
                    } }
                }
            }
        }
    }
}

fn card(view: &View, group: &Group) -> Markup {
    let first = view.groups.iter().find(|other| other.model == group.model);
    let lead = first.is_some_and(|first| std::ptr::eq(first, group));
    html! {
        div.card {
            h3 { (clean(group.model)) }
            (headline(view, group))
            ul {
                @for sentence in sentences(view, group) { li { (sentence) } }
                // Statistics belong to the model, so they are said once.
                @if lead { @for sentence in samples(view, group.model) { li { (sentence) } } }
            }
        }
    }
}

fn headline(view: &View, group: &Group) -> Markup {
    let row = group.reference_row().or(group.rows.first().copied());
    html! {
        @if let Some(row) = row {
            @let bits = finite(row.bits_per_dim).is_some();
            p.headline {
                span.value title="Mean over samples ± one standard error over the data" {
                    @if bits { (whole(&with_error(row.bits_per_dim, row.bits_per_dim_stderr))) }
                    @else { (whole(&with_error(row.nats, row.nats_stderr))) }
                }
                @if let Some(solver) = solver_part(row) {
                    span.value title="How much of it the solver's steps make" { ", " (whole(&solver)) }
                }
                " " span.unit { @if bits { "bits/dim" } @else { "nats" } }
            }
            p.under {
                (view.name(&row.estimator)) ", mean ± standard error over " (count(row.n as f64))
                @if row.n == 1 { " sample" } @else { " samples" }
                @if bits { " (" (whole(&with_error(row.nats, row.nats_stderr))) " nats)" }
            }
            p.under { (clean(group.dataset)) " · " (clean(group.solver))
                @if SolverBias::of(row) == Some(SolverBias::NotMeasured) { ", solver error not measured" } }
        }
    }
}

/// `solver −0.030`, in the headline's unit; nothing where it was not measured.
fn solver_part(row: &Summary) -> Option<String> {
    match SolverBias::of(row)? {
        SolverBias::NotMeasured => None,
        SolverBias::Negligible => Some("solver none".into()),
        SolverBias::Measured { nats, bits_per_dim } => {
            let bits = finite(row.bits_per_dim).and(bits_per_dim);
            let shown = bits.map_or_else(
                || part(nats, row.nats_stderr),
                |bits| part(bits, row.bits_per_dim_stderr),
            );
            Some(format!("solver {shown}"))
        }
    }
}

/// The solver's bias where it is larger than the ± of the headline, which says nothing of it.
fn solver(view: &View, group: &Group) -> Option<Markup> {
    let row = group.reference_row().or(group.rows.first().copied())?;
    let part = view.tables.budget.iter().find(|part| {
        part.component == "solver"
            && (part.model.as_str(), part.dataset.as_str()) == (group.model, group.dataset)
            && (part.solver.as_str(), &part.estimator) == (group.solver, &row.estimator)
    })?;
    let bias = finite(part.bias_nats)?;
    (bias.abs() > finite(row.nats_stderr)?).then(|| {
        html! {
            b { "Solver: " } "the log-likelihoods are too " @if bias > 0.0 { "high" } @else { "low" }
            " by " b { (whole(&with_error(Some(bias.abs()), part.bias_stderr))) " nats" }
            @if let Some(bits) = finite(part.bias_bits_per_dim) { " (" (significant(bits, 2)) " bits/dim)" }
            ", more than the standard error above (" (clean(&part.measured)) "); what lowers it: " (clean(&part.knob)) "."
        }
    })
}

fn sentences(view: &View, group: &Group) -> Vec<Markup> {
    let others: Vec<&Summary> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && finite(row.bias).is_some())
        .collect();
    let mut said = vec![];
    said.extend(solver(view, group));
    said.extend(
        others
            .iter()
            .filter(|row| row.kind == "closed-form")
            .map(|row| truth(view, group, row)),
    );
    said.extend(nearest(view, group, &others));
    let learned = |row: &&&Summary| matches!(row.kind.as_str(), "learned" | "few-step");
    said.extend(
        others
            .iter()
            .filter(learned)
            .map(|row| head(view, group, row)),
    );
    said.extend(unbiased(view, &others));
    said
}

fn truth(view: &View, group: &Group, row: &Summary) -> Markup {
    html! {
        b { "Known truth: " } (view.name(&row.estimator)) " differs from " (view.name(group.reference)) " by "
        (whole(&with_error(row.bias, row.bias_stderr))) " nats in the mean, by " (maybe(row.rmse, 2))
        " nats (root mean square) per sample."
    }
}

fn nearest(view: &View, group: &Group, others: &[&Summary]) -> Option<Markup> {
    let estimates = others.iter().filter(|row| row.kind != "closed-form");
    let row = estimates
        .filter(|row| finite(row.rmse).is_some())
        .min_by(|a, b| {
            a.rmse
                .unwrap_or(f64::MAX)
                .total_cmp(&b.rmse.unwrap_or(f64::MAX))
        })?;
    Some(html! {
        b { "Nearest per sample: " (view.name(&row.estimator)) } ", " (maybe(row.rmse, 2))
        " nats (root mean square) from " (view.name(group.reference)) ", for " (count(row.cost)) " evaluations"
        @if let Some(share) = share(view, group, row) { ", " (share) }
        "."
    })
}

/// A row's cost beside the reference's, in words.
fn share(view: &View, group: &Group, row: &Summary) -> Option<String> {
    let share = row.cost / group.reference_row()?.cost;
    let of = view.name(group.reference);
    match share {
        _ if !share.is_finite() => None,
        _ if (0.98..1.02).contains(&share) => Some(format!("as many as {of}")),
        _ if share >= 2.0 => Some(format!("{} times those of {of}", significant(share, 2))),
        _ => Some(format!(
            "{}\u{a0}% of those of {of}",
            significant(100.0 * share, 2)
        )),
    }
}

fn head(view: &View, group: &Group, row: &Summary) -> Markup {
    let what = if row.kind == "few-step" {
        "Few-step map"
    } else {
        "Learned head"
    };
    let (bias, error) = (row.bias.unwrap_or(0.0), finite(row.bias_stderr));
    let shown = |factor: f64| match error {
        Some(error) => to_error(factor * bias, factor * error),
        None => significant(factor * bias, 3),
    };
    html! {
        b { (what) ": " (view.name(&row.estimator)) } " is off by " b { (shown(1.0)) " nats" }
        @if let Some(factor) = group.bits_per_nat() { " (" (shown(factor)) " bits/dim)" }
        @match (interval(row.bias, row.bias_stderr, row.bias_n), contains_zero(row)) {
            (Some(interval), Some(true)) => { "; its 95\u{a0}% interval " (whole(&interval)) " contains zero. " }
            (Some(interval), _) => { "; its 95\u{a0}% interval " (whole(&interval)) " does not contain zero. " }
            _ => { "; one sample gives no interval. " }
        }
        @if let Some(r) = finite(row.correlation) { "Per sample r = " (correlation(r)) "; " } @else { "It takes " }
        (count(row.cost)) " evaluations"
        @if let Some(share) = share(view, group, row) { ", " (share) }
        @if row.jvps == 0.0 { ", and no Jacobian products" }
        "."
    }
}

/// Estimators that should be right in the mean, and whether they are.
fn unbiased(view: &View, others: &[&Summary]) -> Option<Markup> {
    let which = |zero| -> Vec<String> {
        let stochastic = others.iter().filter(|row| row.kind == "ode-stochastic");
        let rows = stochastic.filter(|row| contains_zero(row) == Some(zero));
        rows.map(|row| view.name(&row.estimator)).collect()
    };
    let (well, off) = (which(true), which(false));
    if well.is_empty() && off.is_empty() {
        return None;
    }
    Some(html! {
        b { "Randomized estimates: " }
        "the 95\u{a0}% interval of the bias "
        @if !well.is_empty() { "contains zero for " (listing(&well)) }
        @if !well.is_empty() && !off.is_empty() { ", but " }
        @if !off.is_empty() { "does not contain zero for " (listing(&off)) }
        "."
    })
}

fn samples(view: &View, model: &str) -> Vec<Markup> {
    let rows: Vec<&MetricRow> = view
        .tables
        .metrics
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let mut samplers: Vec<&str> = vec![];
    for row in rows.iter().filter(|row| row.sampler != FLOOR) {
        if !samplers.contains(&row.sampler.as_str()) {
            samplers.push(&row.sampler);
        }
    }
    let of = |sampler: &&str| {
        let said = rows.iter().filter(|row| row.sampler == *sampler).take(2);
        html! {
            b { "Samples by " (clean(sampler)) ": " }
            @for (i, row) in said.enumerate() {
                @if i > 0 { "; " }
                (clean(&row.metric)) " " (whole(&with_error(Some(row.value), row.stderr)))
                @if let Some(floor) = floor(&rows, row) {
                    " (data against data: " (whole(&with_error(Some(floor.value), floor.stderr))) ")"
                }
                @if !row.note.is_empty() { ", but see its note" }
            }
            "."
        }
    };
    samplers.iter().take(3).map(of).collect()
}

/// A number that no line break may part.
pub fn whole(number: &str) -> String {
    number.replace(' ', "\u{a0}")
}
