//! What a run found, for the terminal and as a document: tables of log-likelihoods and statistics, and
//! the line that answers first.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::console::{
    Align, AlignedTable, Answer, Cell, GOOD, UNSURE, WRONG, format_size, with_error,
};
use crate::budget::SolverBias;
use crate::num::format_decimals;
use crate::publish::RunResults;
use crate::rows::{CalibrationRow, EstimateKind, MetricRow, ReweightRow, SummaryRow};

/// Tables with a row for each sample, node or step. A document leaves them to their files.
const LONG_TABLES: [&str; 7] = [
    "samples",
    "weights",
    "profile",
    "bound_profile",
    "density",
    "steps",
    "ranks",
];

/// The sampler of rows that compare data with data.
const FLOOR: &str = "data";

/// The number of results that the last line names.
const MOST_NAMED: usize = 3;

/// Appends the tables of one run.
pub(super) fn add_run_tables(answer: &mut Answer, run: &RunResults) {
    let tables = &run.tables;
    for group in tables.summary.chunk_by(is_same_group) {
        let (bounds, densities): (Vec<&SummaryRow>, Vec<&SummaryRow>) =
            group.iter().partition(|row| is_bound(row));
        for (rows, what) in [(densities, ""), (bounds, ", variational bounds")] {
            if let Some(first) = rows.first() {
                answer.heading(format!("{}{what}", describe_group(first)));
                answer.table(group_table(&rows));
            }
        }
        let biases = || group.iter().filter_map(SolverBias::from_summary);
        if biases().next().is_some() && biases().all(|bias| bias == SolverBias::NotMeasured) {
            answer.say("  solver error not measured");
        }
    }
    let same_model =
        |a: &MetricRow, b: &MetricRow| (&a.model, &a.guidance) == (&b.model, &b.guidance);
    for group in tables.metrics.chunk_by(same_model) {
        answer.heading(format!("{}, statistics of samples", group[0].model));
        answer.table(statistics_table(group));
    }
    for group in tables
        .reweight
        .chunk_by(|a, b| (&a.model, &a.target) == (&b.model, &b.target))
    {
        answer.heading(format!(
            "{}, reweighted to {}",
            group[0].model, group[0].target
        ));
        answer.table(reweighting_table(group));
    }
    let overall: Vec<&CalibrationRow> = tables
        .calibration
        .iter()
        .filter(|row| is_overall(row))
        .collect();
    if !overall.is_empty() {
        answer.heading("calibration of posteriors");
        answer.table(calibration_table(&overall));
    }
}

/// What a document says of one run.
///
/// # Errors
/// Fails if a row cannot be written as JSON.
pub(super) fn run_document(run: &RunResults, report: &Path) -> Result<Map<String, Value>> {
    let tables: Map<String, Value> = run
        .tables
        .to_json(|name| !LONG_TABLES.contains(&name))?
        .into_iter()
        .filter(|(_, rows)| rows.as_array().is_some_and(|rows| !rows.is_empty()))
        .map(|(name, rows)| (name.to_owned(), rows))
        .collect();
    let mut document = Map::new();
    document.insert("run".to_owned(), json!(run.name));
    document.insert("seed".to_owned(), json!(run.seed));
    document.insert("report".to_owned(), json!(report.display().to_string()));
    document.insert(
        "trials".to_owned(),
        json!({
            "finished": run.finished_trials,
            "failed": run.failed_trials,
            "outstanding": run.outstanding_trials,
        }),
    );
    document.insert("failed_rows".to_owned(), json!(run.failed_rows()));
    let metrics = run.tables.metrics.iter();
    let units: Map<String, Value> = metrics
        .map(|row| (row.metric.clone(), json!(unit_of_statistic(&row.metric))))
        .collect();
    document.insert("metric_units".to_owned(), Value::Object(units));
    document.insert("tables".to_owned(), Value::Object(tables));
    Ok(document)
}

/// The line that says what a run found and where its report is.
pub(super) fn answer_line(run: &RunResults, report: &Path) -> String {
    let mut found: Vec<String> = run
        .tables
        .summary
        .chunk_by(|a, b| (&a.model, &a.dataset) == (&b.model, &b.dataset))
        .filter_map(first_likelihood)
        .collect();
    if found.is_empty() {
        let own = |row: &&MetricRow| row.sampler != FLOOR;
        let mut rows: Vec<&MetricRow> = run.tables.metrics.iter().filter(own).collect();
        rows.dedup_by_key(|row| &row.model);
        found = rows.into_iter().map(first_statistic).collect();
    }
    if found.is_empty() {
        found.push(format!(
            "{}: {} trials finished",
            run.name, run.finished_trials
        ));
    }
    let more = found.len().saturating_sub(MOST_NAMED);
    found.truncate(MOST_NAMED);
    let more = match more {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let outstanding = match run.outstanding_trials {
        0 => String::new(),
        trials => format!("; {trials} trials outstanding"),
    };
    let failed = match run.failed_trials {
        0 => String::new(),
        trials => format!("; {trials} trials failed"),
    };
    format!(
        "{}{more}{failed}{outstanding}; report: {}",
        found.join(", "),
        report.display()
    )
}

/// Rows that stand in one table: those of one model on one dataset under one solver.
fn is_same_group(a: &SummaryRow, b: &SummaryRow) -> bool {
    (&a.model, &a.dataset, &a.solver) == (&b.model, &b.dataset, &b.solver)
}

/// Whether a row is a variational bound, which is never in one column with a density.
fn is_bound(row: &SummaryRow) -> bool {
    row.kind.of_estimator() == EstimateKind::Elbo
}

fn describe_group(row: &SummaryRow) -> String {
    match row.solver.is_empty() {
        true => format!("{} on {}", row.model, row.dataset),
        false => format!("{} on {}, {}", row.model, row.dataset, row.solver),
    }
}

/// `digits: 2.152 ± 0.016 bits/dim (exact, 64 samples)`, of the reference estimator or the first.
fn first_likelihood(group: &[SummaryRow]) -> Option<String> {
    let own = |row: &&SummaryRow| row.estimator == row.reference && row.nats.is_some();
    let any = |row: &&SummaryRow| row.nats.is_some();
    let row = group.iter().find(own).or(group.iter().find(any))?;
    let (value, unit) = match row.bits_per_dim {
        Some(_) => (
            with_error(row.bits_per_dim, row.bits_per_dim_stderr),
            "bits/dim",
        ),
        None => (with_error(row.nats, row.nats_stderr), "nats"),
    };
    let bound = match is_bound(row) {
        true => ", a bound",
        false => "",
    };
    Some(format!(
        "{}: {value} {unit} ({}{bound}, {} samples)",
        row.model, row.estimator, row.n
    ))
}

fn first_statistic(row: &MetricRow) -> String {
    format!(
        "{}: {} {} ({}, {} samples)",
        row.model,
        row.metric,
        with_error(Some(row.value), row.stderr),
        row.sampler,
        row.n_generated
    )
}

/// The table of one group. Bits per dimension and nats are columns of their own; columns without a
/// number are left out.
fn group_table(rows: &[&SummaryRow]) -> AlignedTable {
    let has_bits = rows.iter().any(|row| row.bits_per_dim.is_some());
    let solver = match has_bits {
        true => "solver error, bits/dim",
        false => "solver error, nats",
    };
    let mut table = AlignedTable::new([
        ("estimator", Align::Left),
        ("bits/dim ± SE", Align::Right),
        ("nats ± SE", Align::Right),
        ("bias, nats ± SE", Align::Right),
        ("r", Align::Right),
        (solver, Align::Right),
        ("n", Align::Right),
        ("failed", Align::Right),
        ("cost, evaluations", Align::Right),
    ]);
    for row in rows {
        let failed = match row.failed {
            0 => Cell::from(""),
            failed => Cell::styled(failed.to_string(), WRONG),
        };
        let correlation = row.correlation.map(|r| format_decimals(r, 4));
        table.row([
            Cell::from(row.estimator.as_str()),
            with_error(row.bits_per_dim, row.bits_per_dim_stderr).into(),
            with_error(row.nats, row.nats_stderr).into(),
            with_error(row.bias, row.bias_stderr).into(),
            correlation.unwrap_or("–".to_owned()).into(),
            solver_error(row, has_bits).into(),
            row.n.to_string().into(),
            failed,
            format_decimals(row.cost, 0).into(),
        ]);
    }
    table.without_empty_columns()
}

/// The solver's part of a mean, in the unit of the table's leading column.
fn solver_error(row: &SummaryRow, in_bits: bool) -> String {
    match SolverBias::from_summary(row) {
        Some(SolverBias::Measured { nats, bits_per_dim }) => match (in_bits, bits_per_dim) {
            (true, Some(bits)) => format_size(bits),
            (true, None) => "–".to_owned(),
            (false, _) => format_size(nats),
        },
        Some(SolverBias::Negligible) => "none".to_owned(),
        Some(SolverBias::NotMeasured) | None => "–".to_owned(),
    }
}

/// One row for each sampler and statistic, with the statistic of data against data beside it.
fn statistics_table(rows: &[MetricRow]) -> AlignedTable {
    let mut table = AlignedTable::new([
        ("sampler", Align::Left),
        ("statistic", Align::Left),
        ("features", Align::Left),
        ("value ± SE", Align::Right),
        ("floor ± SE", Align::Right),
        ("n", Align::Right),
        ("n reference", Align::Right),
        ("cost, evaluations", Align::Right),
    ]);
    let floor_of = |row: &MetricRow| {
        rows.iter().find(|other| {
            other.sampler == FLOOR
                && (&other.metric, &other.features) == (&row.metric, &row.features)
        })
    };
    for row in rows.iter().filter(|row| row.sampler != FLOOR) {
        let floor = floor_of(row).map(|floor| with_error(Some(floor.value), floor.stderr));
        table.row([
            Cell::from(row.sampler.as_str()),
            row.metric.as_str().into(),
            match row.features.as_str() {
                "raw" => "".into(),
                features => Cell::from(features),
            },
            with_error(Some(row.value), row.stderr).into(),
            floor.unwrap_or("–".to_owned()).into(),
            row.n_generated.to_string().into(),
            row.n_reference.to_string().into(),
            format_decimals(row.cost, 0).into(),
        ]);
    }
    table.without_empty_columns()
}

fn reweighting_table(rows: &[ReweightRow]) -> AlignedTable {
    let mut table = AlignedTable::new([
        ("sampler", Align::Left),
        ("estimator", Align::Left),
        ("quantity", Align::Left),
        ("unit", Align::Left),
        ("value ± SE", Align::Right),
        ("n", Align::Right),
    ]);
    for row in rows {
        table.row([
            Cell::from(row.sampler.as_str()),
            row.estimator.as_str().into(),
            row.quantity.as_str().into(),
            unit_of_quantity(&row.quantity).into(),
            with_error(Some(row.value), row.stderr).into(),
            row.n.to_string().into(),
        ]);
    }
    table
}

/// The unit of a quantity of reweighting; `1` for shares and shapes, and empty for an observable, whose
/// unit is its file's.
pub(super) fn unit_of_quantity(name: &str) -> &'static str {
    match name {
        "log_z" | "log_z_naive" | "free_energy" => "nats",
        "noise_variance" => "nats²",
        name if name.starts_with("mean_") => "",
        _ => "1",
    }
}

/// The unit of a statistic of samples; `1` for shares, ratios and kernels. A feature is a number of the
/// extractor, or of the samples themselves.
pub(super) fn unit_of_statistic(metric: &str) -> &'static str {
    match metric {
        "frechet" | "frechet-infinity" | "frechet-min" => "feature²",
        "energy" | "sliced-wasserstein" | "pair-distances" => "feature",
        "cmmd" => "1e-3",
        "vendi" => "samples",
        "fld" | "fld-gap" | "fld-precision" => "0.01 nats/dim",
        "kernel" | "mmd-rbf" | "precision" | "recall" | "density" | "coverage" | "c2st"
        | "inception-score" | "authenticity" | "memorization" => "1",
        _ => "",
    }
}

/// Whether a statistic of calibration is shown: those that speak of all parameters.
fn is_overall(row: &CalibrationRow) -> bool {
    ["ecdf", "dispersion", "rejected"].contains(&row.statistic.as_str())
        && ["", "all"].contains(&row.parameter.as_str())
}

fn calibration_table(rows: &[&CalibrationRow]) -> AlignedTable {
    let mut table = AlignedTable::new([
        ("model", Align::Left),
        ("sampler", Align::Left),
        ("test", Align::Left),
        ("statistic", Align::Left),
        ("value ± SE", Align::Right),
        ("p", Align::Right),
        ("n", Align::Right),
    ]);
    for row in rows {
        let p = match row.p {
            None => Cell::from("–"),
            Some(p) => {
                let style = match p {
                    p if p < 0.001 => WRONG,
                    p if p < 0.05 => UNSURE,
                    _ => GOOD,
                };
                Cell::styled(format_size(p), style)
            }
        };
        table.row([
            Cell::from(row.model.as_str()),
            row.sampler.as_str().into(),
            row.test.as_str().into(),
            row.statistic.as_str().into(),
            with_error(row.value, row.stderr).into(),
            p,
            row.n.to_string().into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::plain_text;
    use crate::rows::Tables;

    fn summary(estimator: &str, solver_bias: Option<f64>) -> SummaryRow {
        SummaryRow {
            model: "m".into(),
            dataset: "x.npy".into(),
            solver: "heun".into(),
            estimator: estimator.into(),
            reference: "exact".into(),
            kind: EstimateKind::OdeExact,
            n: 5,
            nats: Some(-10.0),
            nats_stderr: Some(0.5),
            bits_per_dim: Some(2.15201),
            bits_per_dim_stderr: Some(0.016),
            bias: Some(-1e-7),
            bias_stderr: Some(1e-9),
            solver_bias,
            solver_bias_bits_per_dim: solver_bias.map(|v| -v / 10.0),
            ..SummaryRow::default()
        }
    }

    fn statistic(sampler: &str, value: f64, stderr: f64) -> MetricRow {
        MetricRow {
            model: "m".to_owned(),
            sampler: sampler.to_owned(),
            metric: "frechet".to_owned(),
            value,
            stderr: Some(stderr),
            n_generated: 1000,
            n_reference: 900,
            evaluations: 10.0,
            jvps: 0.0,
            cost: 10.0,
            features: "raw".to_owned(),
            note: String::new(),
            trajectory: None,
            guidance: String::new(),
        }
    }

    fn results(tables: Tables) -> RunResults {
        RunResults {
            name: "r".to_owned(),
            seed: "0".to_owned(),
            tables,
            finished_trials: 3,
            failed_trials: 0,
            outstanding_trials: 0,
        }
    }

    fn text(rows: Vec<SummaryRow>) -> String {
        let mut answer = Answer::new("run", "");
        let run = results(Tables {
            summary: rows,
            ..Tables::default()
        });
        add_run_tables(&mut answer, &run);
        plain_text(&answer)
    }

    #[test]
    fn every_statistic_has_a_unit() {
        for name in crate::metric::Metric::NAMES {
            assert_ne!(unit_of_statistic(name), "", "{name}");
        }
    }

    #[test]
    fn units_stand_in_the_headings_and_never_share_a_column() {
        let text = text(vec![summary("exact", None)]);
        let heading = text.lines().nth(1).expect("a heading").split("  ");
        let columns: Vec<&str> = heading.map(str::trim).filter(|w| !w.is_empty()).collect();
        assert_eq!(
            columns,
            [
                "estimator",
                "bits/dim ± SE",
                "nats ± SE",
                "bias, nats ± SE",
                "n",
                "cost, evaluations"
            ]
        );
        assert!(text.contains("2.152 ± 0.016"), "{text}");
        assert!(text.contains("-10.00 ± 0.50"), "{text}");
        assert!(!text.contains("bpd"), "{text}");
    }

    #[test]
    fn solver_errors_are_in_the_unit_of_the_heading() {
        let text = text(vec![
            summary("exact", Some(0.3)),
            summary("fine", Some(2e-4)),
            summary("finest", Some(1e-6)),
        ]);
        for words in ["solver error, bits/dim", "-0.0300", "-2e-5", "none"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("not measured"), "{text}");
        let other = self::text(vec![summary("exact", None)]);
        assert!(other.contains("solver error not measured"), "{other}");
        let map = SummaryRow {
            kind: EstimateKind::FewStep,
            ..summary("map", None)
        };
        assert!(!self::text(vec![map]).contains("solver error"));
    }

    #[test]
    fn bounds_have_a_table_of_their_own() {
        let bound = SummaryRow {
            kind: EstimateKind::Elbo,
            ..summary("nelbo", None)
        };
        let text = text(vec![summary("exact", None), bound]);
        assert_eq!(text.matches("bits/dim ± SE").count(), 2, "{text}");
        assert!(text.contains("variational bounds"), "{text}");
    }

    #[test]
    fn statistics_have_the_digits_of_their_errors_and_their_floor() {
        let mut answer = Answer::new("run", "");
        let run = results(Tables {
            metrics: vec![
                statistic("heun", 1.0133, 0.406),
                statistic("data", 0.6812, 0.0322),
            ],
            ..Tables::default()
        });
        add_run_tables(&mut answer, &run);
        let text = plain_text(&answer);
        for words in ["1.01 ± 0.41", "0.681 ± 0.032", "floor ± SE", "1000", "900"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("data "), "{text}");
    }

    #[test]
    fn the_last_line_answers_first() {
        let line = |tables: Tables| answer_line(&results(tables), Path::new("d/index.html"));
        let rows = vec![summary("hutchinson", None), summary("exact", None)];
        assert_eq!(
            line(Tables {
                summary: rows,
                ..Tables::default()
            }),
            "m: 2.152 ± 0.016 bits/dim (exact, 5 samples); report: d/index.html"
        );
        assert_eq!(
            line(Tables {
                metrics: vec![statistic("heun", 1.0133, 0.406)],
                ..Tables::default()
            }),
            "m: frechet 1.01 ± 0.41 (heun, 1000 samples); report: d/index.html"
        );
        assert_eq!(
            line(Tables::default()),
            "r: 3 trials finished; report: d/index.html"
        );
        let many = (0..5).map(|i| SummaryRow {
            model: format!("m{i}"),
            ..summary("exact", None)
        });
        let many = line(Tables {
            summary: many.collect(),
            ..Tables::default()
        });
        assert!(many.contains(", and 2 more; report: "), "{many}");
    }
}
