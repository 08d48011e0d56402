//! One sentence for each model: what was found, and how far to trust it.

use maud::{Markup, html};

use super::data_table::name_markup;
use super::results::{distance_from_floor, find_floor};
use super::summary::non_breaking;
use crate::num::importance_weights::MAX_RELIABLE_SHAPE;
use crate::report::figures::FLOOR_SAMPLER;
use crate::report::number_format::{counted, format_significant, format_with_error, if_finite};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{BudgetRow, CalibrationRow, EstimateKind, MetricRow, ReweightRow, SummaryRow};

/// The number of combined standard errors from which a statistic is told apart from its floor.
const TOLD_APART: f64 = 2.0;

/// The section with a sentence for each model. Empty if nothing was measured.
pub(super) fn verdict_section(view: &ReportView) -> Markup {
    let sentences: Vec<(&str, Markup)> = view
        .models
        .iter()
        .filter_map(|model| Some((*model, model_sentence(view, model)?)))
        .collect();
    html! {
        @if !sentences.is_empty() {
            section #verdict {
                h2 { "What was found" }
                @for (model, sentence) in sentences {
                    p.verdict { b { (name_markup(model)) } " " (sentence) }
                }
            }
        }
    }
}

/// The sentence of one model: of its log-likelihood, or else of its samples.
fn model_sentence(view: &ReportView, model: &str) -> Option<Markup> {
    let groups = || {
        view.groups
            .iter()
            .filter(|group| group.model == model && !group.rows.is_empty())
    };
    let lead = groups()
        .find(|group| !group.reference_under_other_solver)
        .or_else(|| groups().next());
    match lead {
        Some(group) => {
            let row = group.reference_row().or(group.rows.first().copied())?;
            Some(likelihood_sentence(view, group, row))
        }
        None => samples_sentence(view, model)
            .or_else(|| reweight_sentence(view, model))
            .or_else(|| calibration_sentence(view, model))
            .or_else(|| other_sentence(view, model)),
    }
}

fn likelihood_sentence(view: &ReportView, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
    let bits = if_finite(row.bits_per_dim).is_some();
    let (value, error, unit) = match bits {
        true => (row.bits_per_dim, row.bits_per_dim_stderr, "bits/dim"),
        false => (row.nats, row.nats_stderr, "nats"),
    };
    html! {
        @if row.kind == EstimateKind::Elbo { "has a bound of " } @else { "has " }
        b { (non_breaking(&format_with_error(value, error))) "\u{a0}" (unit) }
        " on " (name_markup(group.dataset)) " (" (name_markup(&view.short_name(&row.estimator))) ", "
        (counted(row.n as f64, "samples")) ")"
        @if row.n == 0 { ": no sample could be evaluated." }
        @else {
            (trust_clause(view, group, row, unit))
            @if row.failed > 0 {
                " " b { (counted(row.failed as f64, "samples")) " failed" }
                " and are in no average."
            }
        }
    }
}

/// How far the number can be trusted: the size of all measured errors, and the largest of them.
fn trust_clause(
    view: &ReportView,
    group: &ComparisonGroup,
    row: &SummaryRow,
    unit: &str,
) -> Markup {
    let own = |line: &&BudgetRow| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
            && line.estimator == row.estimator
    };
    let lines: Vec<&BudgetRow> = view.tables.budget.iter().filter(own).collect();
    let total = lines.iter().find(|line| line.component == "total");
    let size = |line: &BudgetRow| match unit {
        "bits/dim" => if_finite(line.mean_bits_per_dim),
        _ => if_finite(line.mean_nats),
    };
    let is_measured = |name: &str| {
        let line = lines.iter().find(|line| line.component == name);
        line.is_some_and(|line| if_finite(line.mean_nats).is_some())
    };
    let largest = lines
        .iter()
        .filter(|line| line.component != "total" && line.share.is_some())
        .max_by(|a, b| a.share.unwrap_or(0.0).total_cmp(&b.share.unwrap_or(0.0)));
    let follows_path = row.kind.follows_path();
    html! {
        @match (total.and_then(|total| size(total)), largest) {
            (Some(total), Some(largest)) => {
                "; with all measured errors it is right to about "
                b { (non_breaking(&format_significant(total.abs(), 2))) "\u{a0}" (unit) }
                @if largest.component == "data" {
                    ", and more samples would help most"
                } @else {
                    ", of which most comes from the " (sanitize_line(&largest.component))
                    @if !largest.knob.is_empty() {
                        ": " (sanitize_line(&largest.knob)) " reduces it"
                    }
                }
                "."
            }
            _ if row.nats_stderr.is_none() => "; one sample has no error over the data.",
            _ => ".",
        }
        @if follows_path && !is_measured("solver") {
            " The solver's error was not measured (" code { "budget: true" } " does)."
        }
    }
}

/// The sentence of a model that has only statistics of samples.
fn samples_sentence(view: &ReportView, model: &str) -> Option<Markup> {
    let rows: Vec<&MetricRow> = view
        .tables
        .metrics
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let row = rows.iter().find(|row| row.sampler != FLOOR_SAMPLER)?;
    let floor = find_floor(&rows, row);
    Some(html! {
        "has a statistic " (name_markup(&row.metric)) " of "
        b { (non_breaking(&format_with_error(Some(row.value), row.stderr))) }
        " by " (name_markup(&row.sampler)) " (" (counted(row.n_generated as f64, "samples"))
        " against " (row.n_reference) ")"
        @if let Some(floor) = floor {
            "; data against data have "
            (non_breaking(&format_with_error(Some(floor.value), floor.stderr)))
            @match distance_from_floor(row, floor) {
                Some(distance) if distance > TOLD_APART => {
                    ", so that the samples are " (format_significant(distance, 2))
                    " standard errors from the data"
                }
                Some(_) => ", and so many samples do not tell the model from the data",
                None => {}
            }
        }
        "."
    })
}

/// The sentence of a model whose samples were only reweighted.
fn reweight_sentence(view: &ReportView, model: &str) -> Option<Markup> {
    let of_model = |row: &&ReweightRow| row.model == model;
    let rows: Vec<&ReweightRow> = view.tables.reweight.iter().filter(of_model).collect();
    let ess = rows.iter().find(|row| row.quantity == "ess")?;
    let same = |row: &&&ReweightRow| {
        (&row.target, &row.sampler, &row.estimator) == (&ess.target, &ess.sampler, &ess.estimator)
    };
    let khat = rows.iter().filter(same).find(|row| row.quantity == "khat");
    Some(html! {
        "reweighted to " (name_markup(&ess.target)) " keeps an effective sample size of "
        b { (non_breaking(&format_with_error(Some(ess.value), ess.stderr))) " of " (ess.n) }
        " samples by " (name_markup(&ess.sampler)) " with " (name_markup(&ess.estimator))
        @match khat {
            Some(khat) if khat.value > MAX_RELIABLE_SHAPE => {
                "; k\u{302} is " (format_significant(khat.value, 2))
                ", so that a few weights decide everything and the number is not to be trusted."
            }
            Some(khat) => {
                "; k\u{302} is " (format_significant(khat.value, 2))
                ", which its interval allows for."
            }
            None => ".",
        }
    })
}

/// The sentence of a posterior of which only the calibration was measured.
fn calibration_sentence(view: &ReportView, model: &str) -> Option<Markup> {
    let tested =
        |row: &&CalibrationRow| row.model == model && row.statistic == "ecdf" && row.p.is_some();
    let rows: Vec<&CalibrationRow> = view.tables.calibration.iter().filter(tested).collect();
    let all = rows.iter().find(|row| row.parameter == "all");
    let row = all.or(rows.first())?;
    let p = row.p?;
    Some(html! {
        @if p < 0.05 { "is not calibrated" } @else { "shows no miscalibration" }
        " on " (name_markup(&row.dataset)) ": the ranks of true parameters over "
        (counted(row.n as f64, "observations"))
        @if p < 0.05 { " are not uniform" } @else { " may be uniform" }
        " (p = " (format_significant(p, 2)) ")"
        @if p >= 0.05 { ", which is necessary for a posterior and not sufficient" }
        "."
    })
}

/// The sentence of a model of which only other things were measured.
fn other_sentence(view: &ReportView, model: &str) -> Option<Markup> {
    let tables = view.tables;
    let measured = [
        (
            "the mass of its density",
            tables.mass.iter().any(|row| row.model == model),
        ),
        (
            "the identities of its flow maps",
            tables.maps.iter().any(|row| row.model == model),
        ),
        (
            "Stein tests of its heads",
            tables.stein.iter().any(|row| row.model == model),
        ),
    ];
    let names: Vec<String> = (measured.iter())
        .filter(|(_, is_there)| *is_there)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    (!names.is_empty()).then(|| {
        html! {
            "has no log-likelihood in this run; measured: "
            (crate::report::text::join_with_and(&names)) "."
        }
    })
}
