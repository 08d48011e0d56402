//! Reweighted samples and the mass of densities: importance sampling, with what its weights allow to
//! say.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, name_markup, shown_cell, value_cell};
use crate::num::importance_weights::{
    FINITE_VARIANCE_SHAPE, MAX_NOISE_VARIANCE, MAX_RELIABLE_SHAPE,
};
use crate::report::number_format::{
    ABSENT, format_count, format_optional, format_significant, format_with_error,
};
use crate::report::text::sanitize_line;
use crate::report::view::ReportView;
use crate::rows::{MassRow, ReweightRow};

/// The quantities of every set of reweighted samples of a model.
pub(super) fn reweight_section(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&ReweightRow> = view
        .tables
        .reweight
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let mut sets: Vec<[&str; 3]> = Vec::new();
    for row in &rows {
        let key = [&row.target[..], &row.sampler, &row.estimator];
        if !sets.contains(&key) {
            sets.push(key);
        }
    }
    html! {
        @for [target, sampler, estimator] in sets {
            h4 {
                "Reweighting to " (sanitize_line(target))
                span.solver { (sanitize_line(sampler)) ", " (sanitize_line(estimator)) }
            }
            @let of_set = |row: &&&ReweightRow| {
                [&row.target[..], &row.sampler, &row.estimator] == [target, sampler, estimator]
            };
            (reweight_table(&rows.iter().filter(of_set).copied().collect::<Vec<_>>()))
        }
    }
}

/// The table of one set of samples.
fn reweight_table(rows: &[&ReweightRow]) -> Markup {
    let value = |quantity: &str| {
        let row = rows.iter().find(|row| row.quantity == quantity);
        row.map(|row| row.value)
    };
    let failed = rows.first().map_or(0, |row| row.failed);
    html! {
        (data_table(
            "reweight",
            "Quantities of the reweighted samples",
            &[
                Column::text("quantity", "Quantity"),
                Column::number("value", "Value", ""),
                Column::number("interval", "95 % interval", ""),
                Column::number("n", "n", ""),
            ],
            html! { @for row in rows { tr {
                th scope="row" { (quantity_heading(&row.quantity)) }
                (value_cell(Some(row.value), row.stderr))
                (shown_cell(row.low.or(row.high), &interval_text(row.low, row.high), false))
                (count_cell(row.n as f64))
            } } },
        ))
        p.note {
            @match value("khat") {
                Some(k) if k > MAX_RELIABLE_SHAPE => {
                    "k̂ is above " (MAX_RELIABLE_SHAPE) ": larger weights than any of these samples \
                    have may take the effective sample size to any value below its upper end. No \
                    lower end is claimed, and the errors of means are too small. "
                }
                Some(k) if k > FINITE_VARIANCE_SHAPE => {
                    "k̂ is above " (FINITE_VARIANCE_SHAPE) ": the interval of the effective sample \
                    size is widened by the tail that these samples do not show, and the errors of \
                    means are too small. "
                }
                _ => {}
            }
            @if let Some(v) = value("noise_variance").filter(|v| *v > MAX_NOISE_VARIANCE) {
                "The log-densities have errors of variance " (format_significant(v, 2))
                ", above " (MAX_NOISE_VARIANCE)
                ": more probes or an estimator without noise would raise the effective sample size. "
            }
            @if failed > 0 {
                (format_count(failed as f64))
                " samples have no log-density and are left out of every number. "
            }
            "Kish's effective sample size is too large as a rule; its interval follows the tail of \
            the weights."
        }
    }
}

/// The name of a quantity in words.
fn quantity_heading(quantity: &str) -> String {
    match quantity {
        "ess" => "effective sample size, share of n".to_owned(),
        "ess_corrected" => "the same without the noise of log-densities".to_owned(),
        "log_z" => "log Z, nats".to_owned(),
        "log_z_naive" => "log Z without the correction for noise, nats".to_owned(),
        "free_energy" => "free energy −log Z, nats".to_owned(),
        "khat" => "k̂ of the largest weights".to_owned(),
        "noise_variance" => "variance of the log-densities' errors, nats²".to_owned(),
        other => match other.strip_prefix("mean_") {
            Some(name) => format!("mean of {}", sanitize_line(name)),
            None => sanitize_line(other),
        },
    }
}

/// An interval of which an end may be unknown.
fn interval_text(low: Option<f64>, high: Option<f64>) -> String {
    if (low, high) == (None, None) {
        return ABSENT.to_owned();
    }
    format!(
        "{} to {}",
        format_optional(low, 4),
        format_optional(high, 4)
    )
}

/// The mass of the densities of a model.
pub(super) fn mass_section(view: &ReportView, model: &str) -> Markup {
    let of_model = |row: &&MassRow| row.model == model;
    let rows: Vec<&MassRow> = view.tables.mass.iter().filter(of_model).collect();
    html! { @if !rows.is_empty() {
        h4 { "Mass of the density" }
        (data_table(
            &format!("mass-{model}"),
            &format!("Mass of the density of {model}"),
            &[
                Column::text("estimator", "Estimator"),
                Column::text("dataset", "Data"),
                Column::text("solver", "Solver"),
                Column::number("mass", "Mass ± SE", ""),
                Column::number("interval", "95 % interval", ""),
                Column::number("khat", "k̂", ""),
                Column::number("effective_draws", "Effective draws", ""),
                Column::number("draws", "Draws", ""),
            ],
            html! { @for row in &rows { tr {
                th scope="row" { (name_markup(&row.estimator)) }
                td { (name_markup(&row.dataset)) }
                td { (name_markup(&row.solver)) }
                @let mass = format_with_error(Some(row.mass), row.stderr);
                (shown_cell(Some(row.mass), &mass, is_not_one(row)))
                (shown_cell(row.low.or(row.high), &interval_text(row.low, row.high), false))
                (shown_cell(row.khat, &format_optional(row.khat, 2), false))
                (count_cell((row.ess * row.n as f64).round()))
                (count_cell(row.n as f64))
            } } },
        ))
        p.note {
            "The integral of the density, by importance sampling with draws from kernels at the \
            data. It is 1 for a true density; bold values differ by more than 4 standard errors. "
            @if rows.iter().any(|row| row.khat.is_some_and(|k| k > MAX_RELIABLE_SHAPE)) {
                "Where k̂ is above " (MAX_RELIABLE_SHAPE)
                ", the weights may have a tail that the draws do not show, and with few effective \
                draws the value says nothing. "
            }
            @if rows.iter().any(|row| row.noise_variance.is_some_and(|v| v > MAX_NOISE_VARIANCE)) {
                "Errors of log-densities of a variance above " (MAX_NOISE_VARIANCE)
                " make the mass too large, because variances from few probes correct it too little. "
            }
            @let failed: usize = rows.iter().map(|row| row.failed).sum();
            @if failed > 0 {
                (format_count(failed as f64)) " draws have no log-density and are left out."
            }
        }
    } }
}

/// Whether a mass is not 1, by more than 4 standard errors.
fn is_not_one(row: &MassRow) -> bool {
    row.stderr
        .is_some_and(|stderr| (row.mass - 1.0).abs() > 4.0 * stderr.max(1e-6))
}
