//! The table of the readings of a card's network, for `flowgauge inspect CARD --data X.npy`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::RuntimeArgs;
use super::console::{Align, AlignedTable, Answer, Cell};
use super::setting::SettingArgs;
use crate::data::Dataset;
use crate::execute::{checked_samples, states_of_samples};
use crate::model::loaded::{Model, SessionOptions};
use crate::model::readings::{
    CheckEffort, MAX_CHECKED_SAMPLES, MIN_CHECKED_SAMPLES, ReadingReport, ReadingScore, path_name,
    prediction_name, two_digits,
};
use crate::num::shape::{AxisLayout, RequestedLayout};

/// The largest number of readings that the table shows.
const MAX_ROWS: usize = 12;
/// The number of neighbouring noise levels that share a column.
const LEVELS_PER_COLUMN: usize = 2;

/// Reads the data with which a card is checked.
///
/// # Errors
/// Fails if the data cannot be read, do not fit the card, or are too few.
pub(super) fn read_checked_data(
    model: &Model,
    data: &Path,
    layout: Option<&AxisLayout>,
) -> Result<Dataset> {
    let layout = layout.map(RequestedLayout::unconditional);
    let data = Dataset::read(data)?;
    let card = match model.encodes(data.values.len() / data.len().max(1)) {
        true => &model.data_card,
        false => &model.card,
    };
    let data = data.with_layout(layout, &card.shape)?;
    data.check_fits(card)?;
    SettingArgs::check_lengths(model, data.len(), &format!("{} holds", data.name))?;
    if data.len() < MIN_CHECKED_SAMPLES {
        bail!(
            "{}: {} samples are too few to check a card; expected at least {MIN_CHECKED_SAMPLES}",
            data.name,
            data.len()
        );
    }
    Ok(data)
}

/// Compares the card with data and adds the table of readings to the answer.
///
/// # Errors
/// Fails if the data are all zero or not finite, or if the network cannot be run.
pub(super) fn add_reading_check(
    answer: &mut Answer,
    model: &Model,
    data: &Dataset,
    runtime_args: &RuntimeArgs,
) -> Result<ReadingReport> {
    let machine = runtime_args.machine();
    let options = SessionOptions {
        provider: machine.provider,
        threads: machine.threads,
    };
    let samples = checked_samples(data.len(), MAX_CHECKED_SAMPLES);
    let runtime = runtime_args.runtime()?;
    let states = states_of_samples(model, data, &samples, (runtime, machine))?;
    let report = model.check_readings(runtime, options, &samples, &states, CheckEffort::Full);
    let report = report.with_context(|| data.name.clone())?;
    answer.heading(format!(
        "the card and {}: {} samples, {} evaluations",
        data.name, report.samples, report.evaluations
    ));
    answer.say("  denoising errors by σ/α, relative to the best constant predictor");
    answer.table(reading_table(&report));
    answer.set(
        "readings",
        json!({
            "data": data.name,
            "samples": report.samples,
            "evaluations": report.evaluations,
            "verdict": report.sentence(),
            "noise_levels": report.ratios,
            "best_linear_errors": report.linear,
            "scores": report.scores.iter().map(score_document).collect::<Vec<_>>(),
        }),
    );
    Ok(report)
}

/// One reading of a document. The errors are relative to the best constant predictor, by noise level.
fn score_document(score: &ReadingScore) -> serde_json::Value {
    json!({
        "prediction": prediction_name(score.reading.prediction),
        "negated": score.reading.negated,
        "time_reversed": score.time_reversed,
        "feed": score.reading.input.time.formula(),
        "path": path_name(&score.reading.input.path),
        "errors": score.errors,
        "ratio_to_card": score.ratio,
    })
}

/// The card's reading and the best others.
fn reading_table(report: &ReadingReport) -> AlignedTable {
    let middles: Vec<String> = report
        .ratios
        .chunks(LEVELS_PER_COLUMN)
        .map(|levels| {
            let mean = levels.iter().map(|r| r.ln()).sum::<f64>() / levels.len() as f64;
            two_digits(mean.exp())
        })
        .collect();
    let names = ["prediction", "sign", "time", "feed"].map(|name| (name, Align::Left));
    let levels = middles.iter().map(|level| (level.as_str(), Align::Right));
    let headings = names
        .into_iter()
        .chain(levels)
        .chain([("verdict", Align::Left)]);
    let mut table = AlignedTable::with_headings(headings);
    let mut shown: Vec<&ReadingScore> = Vec::new();
    for score in &report.scores {
        // Readings with the same errors are the same but for what the errors do not depend on.
        let own = score.reading == report.card;
        let known = shown.iter().any(|other| other.errors == score.errors);
        if own || (shown.len() < MAX_ROWS && !known) {
            shown.push(score);
        }
    }
    for score in shown {
        table.row(score_cells(score, report).into_iter().map(Cell::from));
    }
    let mut linear: Vec<String> = ["best linear denoiser", "", "", ""]
        .map(str::to_owned)
        .to_vec();
    let errors: Vec<Option<f64>> = report.linear.iter().copied().map(Some).collect();
    linear.extend(error_cells(&errors));
    table.row(linear.into_iter().map(Cell::from));
    table
}

/// The cells of one reading.
fn score_cells(score: &ReadingScore, report: &ReadingReport) -> Vec<String> {
    let (reading, card) = (&score.reading, &report.card);
    let mut cells = vec![
        prediction_name(reading.prediction).to_owned(),
        if reading.negated { "-" } else { "+" }.to_owned(),
        if score.time_reversed {
            "reversed"
        } else {
            "as it says"
        }
        .to_owned(),
        reading.input.time.formula(),
    ];
    cells.extend(error_cells(&score.errors));
    let mut verdict = if reading == card {
        "the card's".to_owned()
    } else if score.ratio > 0.995 && score.ratio < 1.005 {
        "as the card's".to_owned()
    } else {
        format!("{} of the card's", two_digits(score.ratio))
    };
    if reading.input.path != card.input.path {
        verdict += &format!("; path {}", path_name(&reading.input.path));
    }
    if reading.input.preconditioning != card.input.preconditioning {
        verdict += match reading.input.preconditioning {
            None => "; no preconditioning",
            Some(_) => "; other preconditioning",
        };
    }
    if reading.input.rescaled_data.is_some() {
        verdict += "; other range of data";
    }
    cells.push(verdict);
    cells
}

/// The geometric means of the errors of neighbouring levels, empty where there are none.
fn error_cells(errors: &[Option<f64>]) -> Vec<String> {
    let cell = |levels: &[Option<f64>]| {
        let found: Vec<f64> = levels.iter().flatten().map(|e| e.ln()).collect();
        if found.is_empty() {
            return String::new();
        }
        two_digits((found.iter().sum::<f64>() / found.len() as f64).exp())
    };
    errors.chunks(LEVELS_PER_COLUMN).map(cell).collect()
}
