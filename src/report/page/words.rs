//! The summary in plain words, made from the tables alone.

use maud::{Markup, html};

use super::results::{contains_zero, floor};
use crate::report::figures::{FLOOR, correlation};
use crate::report::number::{ABSENT, count, finite, interval, maybe, significant, to_error, with_error};
use crate::report::text::{clean, listing};
use crate::report::view::{Group, View};
use crate::rows::{MetricRow, Summary};

/// What went wrong, before anything else; nothing where nothing did.
pub fn alarms(view: &View) -> Markup {
    let facts = view.facts;
    let failed: Vec<&Summary> = view.tables.summary.iter().filter(|row| row.failed > 0).collect();
    let quiet = failed.is_empty() && facts.trials_failed.is_empty() && facts.trials_outstanding == 0;
    html! {
        @if !quiet { section.alarm role="alert" {
            h2 { "Not everything came through" }
            ul {
                @for row in &failed { li {
                    strong { (row.failed) " of " (row.n + row.failed) " samples failed" }
                    ": " (clean(&row.model)) ", " (clean(&row.estimator)) ", " (clean(&row.solver))
                    ". They are left out of the averages; " code { "samples.csv" } " names each with its status."
                } }
                @for (trial, reason) in &facts.trials_failed { li {
                    strong { "Trial " (clean(trial)) " failed" } ": " (clean(reason))
                } }
                @if facts.trials_outstanding > 0 { li {
                    strong { (facts.trials_outstanding) " trials are outstanding" }
                    ": the numbers below cover only what is finished. The same " code { "run" } " again carries on."
                } }
            }
        } }
    }
}

/// One card per model, dataset and solver.
pub fn summary(view: &View) -> Markup {
    let compared: Vec<&Group> = view.groups.iter().filter(|group| !group.rows.is_empty()).collect();
    html! {
        section #summary {
            h2 { "In short" }
            @if compared.is_empty() { p.empty { "No likelihood has been measured." } }
            div.cards {
                @for group in &compared { (card(view, group)) }
                @for model in view.models.iter().filter(|model| compared.iter().all(|group| group.model != **model)) {
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
            (headline(group))
            ul {
                @for sentence in sentences(group) { li { (sentence) } }
                // Statistics belong to the model, so they are said once.
                @if lead { @for sentence in samples(view, group.model) { li { (sentence) } } }
            }
        }
    }
}

fn headline(group: &Group) -> Markup {
    let row = group.reference_row().or(group.rows.first().copied());
    html! {
        @if let Some(row) = row {
            @let bits = finite(row.bits_per_dim).is_some();
            p.headline {
                span.value title="Mean over samples ± one standard error over the data" {
                    @if bits { (with_error(row.bits_per_dim, row.bits_per_dim_stderr)) } @else { (with_error(row.nats, row.nats_stderr)) }
                }
                " " span.unit { @if bits { "bits/dim" } @else { "nats" } }
            }
            p.under {
                (clean(&row.estimator)) ", mean ± standard error over " (count(row.n as f64))
                @if row.n == 1 { " sample" } @else { " samples" }
                @if bits { " (" (with_error(row.nats, row.nats_stderr)) " nats)" }
                br; (clean(group.dataset)) " · " (clean(group.solver))
            }
        }
    }
}

fn sentences(group: &Group) -> Vec<String> {
    let others: Vec<&Summary> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && finite(row.bias).is_some())
        .collect();
    let mut said = vec![];
    said.extend(others.iter().filter(|row| row.kind == "closed-form").map(|row| truth(group, row)));
    said.extend(nearest(group, &others));
    let learned = |row: &&&Summary| matches!(row.kind.as_str(), "learned" | "few-step");
    said.extend(others.iter().filter(learned).map(|row| head(group, row)));
    said.extend(unbiased(&others));
    said
}

fn truth(group: &Group, row: &Summary) -> String {
    format!(
        "The closed form, {}, lies {} nats from {} in the mean (root mean square {} per sample).",
        clean(&row.estimator),
        with_error(row.bias, row.bias_stderr),
        clean(group.reference),
        maybe(row.rmse, 2),
    )
}

fn nearest(group: &Group, others: &[&Summary]) -> Option<String> {
    let estimates = others.iter().filter(|row| row.kind != "closed-form");
    let row = estimates
        .filter(|row| finite(row.rmse).is_some())
        .min_by(|a, b| a.rmse.unwrap_or(f64::MAX).total_cmp(&b.rmse.unwrap_or(f64::MAX)))?;
    let share = group.reference_row().map(|reference| row.cost / reference.cost);
    let share = share.filter(|share| share.is_finite()).map(|share| {
        format!(", {} of what {} costs", percent(share), clean(group.reference))
    });
    Some(format!(
        "Nearest to {} per sample: {}, with a root mean square difference of {} nats, at {} evaluations{}.",
        clean(group.reference),
        clean(&row.estimator),
        maybe(row.rmse, 2),
        count(row.cost),
        share.unwrap_or_default(),
    ))
}

fn head(group: &Group, row: &Summary) -> String {
    let what = if row.kind == "few-step" { "few-step map" } else { "learned head" };
    let (bias, error) = (row.bias.unwrap_or(0.0), finite(row.bias_stderr));
    let shown = |factor: f64| match error {
        Some(error) => to_error(factor * bias, factor * error),
        None => significant(factor * bias, 3),
    };
    let bits = group.bits_per_nat().map(|factor| format!(" ({} bits/dim)", shown(factor)));
    let verdict = match (interval(row.bias, row.bias_stderr), contains_zero(row)) {
        (Some(interval), Some(true)) => format!("; 95 % interval {interval}, which contains zero"),
        (Some(interval), Some(false)) => {
            format!("; 95 % interval {interval}, which does not contain zero")
        }
        _ => "; with one sample there is no interval".into(),
    };
    let r = finite(row.correlation).map(|r| format!(" Per sample it correlates {} with {}", correlation(r), clean(group.reference)));
    let share = group.reference_row().map(|reference| row.cost / reference.cost);
    let cost = share.filter(|s| s.is_finite()).map_or(String::new(), |s| format!(", at {} of its cost", percent(s)));
    let jvps = if row.jvps == 0.0 { " and without a Jacobian product" } else { "" };
    let end = r.map_or(String::new(), |r| format!("{r}{cost}{jvps}."));
    format!(
        "The {what} {} is off by {} nats{}{verdict}.{end}",
        clean(&row.estimator),
        shown(1.0),
        bits.unwrap_or_default(),
    )
}

/// Estimators that should be right in the mean, and whether they are.
fn unbiased(others: &[&Summary]) -> Option<String> {
    let stochastic = || others.iter().filter(|row| row.kind == "ode-stochastic");
    let which = |zero| -> Vec<String> {
        stochastic().filter(|row| contains_zero(row) == Some(zero)).map(|row| clean(&row.estimator)).collect()
    };
    let (well, off) = (which(true), which(false));
    match (&well[..], &off[..]) {
        ([], []) => None,
        (_, []) => Some(format!("In the mean {} agree{} with it: the 95 % interval{} of the bias contain{} zero.", listing(&well), one(&well, "s", ""), one(&well, "", "s"), one(&well, "s", ""))),
        ([], _) => Some(format!("The 95 % interval of the bias of {} does not contain zero.", listing(&off))),
        _ => Some(format!("The 95 % interval of the bias contains zero for {}, but not for {}.", listing(&well), listing(&off))),
    }
}

fn one<'a>(items: &[String], single: &'a str, many: &'a str) -> &'a str {
    if items.len() == 1 { single } else { many }
}

fn samples(view: &View, model: &str) -> Vec<String> {
    let rows: Vec<&MetricRow> = view.tables.metrics.iter().filter(|row| row.model == model).collect();
    let say = |row: &&MetricRow| {
        let value = with_error(Some(row.value), row.stderr);
        let floor = floor(&rows, row).map_or(String::new(), |floor| {
            format!(", where data against data give {}", with_error(Some(floor.value), floor.stderr))
        });
        let metric = clean(&row.metric);
        if value == ABSENT { format!("{metric}: no value") } else { format!("{metric} {value}{floor}") }
    };
    let mut samplers: Vec<&str> = vec![];
    for row in rows.iter().filter(|row| row.sampler != FLOOR) {
        if !samplers.contains(&row.sampler.as_str()) {
            samplers.push(&row.sampler);
        }
    }
    let of = |sampler: &&str| {
        let said: Vec<String> = rows.iter().filter(|row| row.sampler == *sampler).take(2).map(say).collect();
        format!("Samples by {}: {}.", clean(sampler), said.join("; "))
    };
    samplers.iter().take(3).map(of).collect()
}

fn percent(share: f64) -> String {
    if share >= 2.0 { format!("{} times", significant(share, 2)) } else { format!("{} %", significant(100.0 * share, 2)) }
}
