//! The tables of an export as values: headings, cells with their errors, and what is the best.

use anyhow::{Result, bail};

use super::ExportSource;
use crate::num::stats;
use crate::report::number_format;
use crate::rows::{ContrastRow, EstimateKind, MetricRow, SummaryRow};

/// A table of an export.
pub(super) struct ExportTable {
    /// What the table shows, one sentence.
    pub caption: String,
    /// A short name for labels.
    pub label: &'static str,
    pub headings: Vec<Heading>,
    pub rows: Vec<Vec<ExportCell>>,
}

/// A column's heading.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Heading {
    /// The name by which users choose the column.
    pub name: String,
    /// The text above the column, with its unit.
    pub text: String,
    /// Whether the column holds numbers.
    pub is_number: bool,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ExportCell {
    Text(String),
    /// A number with as many digits as its error suggests; `best` only where the interval of its
    /// difference from every other one excludes zero.
    Number {
        value: Option<f64>,
        error: Option<f64>,
        best: bool,
    },
    /// A count.
    Count(f64),
}

impl ExportCell {
    /// The cell as plain text.
    pub(super) fn text(&self) -> String {
        match self {
            ExportCell::Text(text) => text.clone(),
            ExportCell::Number { value, error, .. } => {
                number_format::format_with_error(*value, *error)
            }
            ExportCell::Count(count) => number_format::format_count(*count),
        }
    }
}

fn number(value: Option<f64>, error: Option<f64>) -> ExportCell {
    ExportCell::Number {
        value,
        error,
        best: false,
    }
}

fn text(text: &str) -> ExportCell {
    ExportCell::Text(text.to_owned())
}

/// The tables of a run with the chosen columns. Densities and bounds never share a table.
///
/// # Errors
/// Fails if a chosen column is in no table, or if the run has no table to export.
pub(super) fn export_tables(source: &ExportSource) -> Result<Vec<ExportTable>> {
    let is_bound = |row: &&SummaryRow| row.kind.of_estimator() == EstimateKind::Elbo;
    let (bounds, densities): (Vec<&SummaryRow>, Vec<&SummaryRow>) =
        source.tables.summary.iter().partition(is_bound);
    let mut tables = Vec::new();
    if !densities.is_empty() {
        let caption = "Log-likelihoods, mean ± standard error over the samples. Bias and correlation are \
                       paired by sample with the reference.";
        tables.push(likelihood_table(caption, "likelihood", &densities, |_| {
            true
        }));
    }
    if !bounds.is_empty() {
        let caption = "Variational bounds of the log-likelihood, mean ± standard error over the samples. \
                       They are not densities and are not compared with them.";
        // A bound's difference from a density is a gap, which `tables/pairs.csv` has.
        let own = |name: &str| !["bias", "correlation"].contains(&name);
        tables.push(likelihood_table(caption, "bounds", &bounds, own));
    }
    if !source.tables.metrics.is_empty() {
        tables.push(metric_table(
            &source.tables.metrics,
            &source.tables.contrasts,
        ));
    }
    if tables.is_empty() {
        bail!("the run has neither log-likelihoods nor statistics of samples");
    }
    let known: Vec<&str> = (tables.iter())
        .flat_map(|table| table.headings.iter().map(|heading| heading.name.as_str()))
        .collect();
    if let Some(unknown) = source
        .columns
        .iter()
        .find(|name| !known.contains(&name.as_str()))
    {
        let mut all: Vec<&str> = Vec::new();
        known.iter().for_each(|name| {
            if !all.contains(name) {
                all.push(name);
            }
        });
        bail!(
            "--columns: no column `{unknown}`; the columns are {}",
            all.join(", ")
        );
    }
    Ok(tables
        .into_iter()
        .map(|table| match source.columns {
            [] => table.without_constant_columns(),
            names => table.with_columns(names),
        })
        .filter(|table| !table.headings.is_empty())
        .collect())
}

impl ExportTable {
    /// The table without the columns whose value all rows share, which the caption says instead.
    fn without_constant_columns(mut self) -> ExportTable {
        let mut shared = Vec::new();
        for name in ["model", "dataset", "solver", "features"] {
            let Some(place) = self
                .headings
                .iter()
                .position(|heading| heading.name == name)
            else {
                continue;
            };
            let first = self.rows[0][place].clone();
            if self.rows.iter().all(|row| row[place] == first) {
                shared.push(format!("{}: {}", self.headings[place].text, first.text()));
                self.headings.remove(place);
                self.rows.iter_mut().for_each(|row| drop(row.remove(place)));
            }
        }
        if !shared.is_empty() {
            self.caption += &format!(" In all rows {}.", shared.join(", "));
        }
        self
    }

    /// The table with the columns of these names alone, in their order.
    fn with_columns(self, names: &[String]) -> ExportTable {
        let places: Vec<usize> = (names.iter())
            .filter_map(|name| {
                self.headings
                    .iter()
                    .position(|heading| heading.name == *name)
            })
            .collect();
        let pick = |row: &Vec<ExportCell>| places.iter().map(|i| row[*i].clone()).collect();
        ExportTable {
            headings: places.iter().map(|i| self.headings[*i].clone()).collect(),
            rows: self.rows.iter().map(pick).collect(),
            ..self
        }
    }
}

/// A column that a table has if any row has a value in it.
struct Column {
    name: &'static str,
    text: &'static str,
    is_number: bool,
    cell: fn(&SummaryRow) -> ExportCell,
    is_there: fn(&SummaryRow) -> bool,
}

/// The columns of tables of log-likelihoods.
const LIKELIHOOD_COLUMNS: [Column; 11] = [
    column("model", "model", |r| text(&r.model)),
    column("dataset", "data", |r| text(&r.dataset)),
    column("estimator", "estimator", |r| text(&r.estimator)),
    Column {
        is_there: |r| r.kind.follows_path(),
        ..column("solver", "solver", |r| match r.kind.follows_path() {
            true => text(&r.solver),
            false => text("–"),
        })
    },
    column("kind", "kind", |r| text(r.kind.as_str())),
    numbers("n", "n", |_| true, |r| ExportCell::Count(r.n as f64)),
    numbers(
        "bits_per_dim",
        "bits/dim",
        |r| r.bits_per_dim.is_some(),
        |r| number(r.bits_per_dim, r.bits_per_dim_stderr),
    ),
    numbers(
        "nats",
        "nats",
        |r| r.nats.is_some(),
        |r| number(r.nats, r.nats_stderr),
    ),
    numbers(
        "bias",
        "bias (nats)",
        |r| r.bias.is_some(),
        |r| number(r.bias, r.bias_stderr),
    ),
    numbers(
        "correlation",
        "r",
        |r| r.correlation.is_some(),
        |r| match r.correlation {
            Some(r) => text(&number_format::format_fixed(r, 4)),
            None => text("–"),
        },
    ),
    numbers(
        "cost",
        "cost (evaluations)",
        |_| true,
        |r| ExportCell::Count(r.cost),
    ),
];

const fn column(
    name: &'static str,
    text: &'static str,
    cell: fn(&SummaryRow) -> ExportCell,
) -> Column {
    Column {
        name,
        text,
        is_number: false,
        cell,
        is_there: |_| true,
    }
}

const fn numbers(
    name: &'static str,
    text: &'static str,
    is_there: fn(&SummaryRow) -> bool,
    cell: fn(&SummaryRow) -> ExportCell,
) -> Column {
    Column {
        name,
        text,
        is_number: true,
        cell,
        is_there,
    }
}

fn likelihood_table(
    caption: &str,
    label: &'static str,
    rows: &[&SummaryRow],
    is_shown: impl Fn(&str) -> bool,
) -> ExportTable {
    let shown: Vec<&Column> = LIKELIHOOD_COLUMNS
        .iter()
        .filter(|column| is_shown(column.name))
        .filter(|column| rows.iter().any(|row| (column.is_there)(row)))
        .collect();
    let heading = |column: &&Column| Heading {
        name: column.name.to_owned(),
        text: column.text.to_owned(),
        is_number: column.is_number,
    };
    let cells = |row: &&SummaryRow| shown.iter().map(|column| (column.cell)(row)).collect();
    ExportTable {
        caption: caption.to_owned(),
        label,
        headings: shown.iter().map(heading).collect(),
        rows: rows.iter().map(cells).collect(),
    }
}

/// The sampler of rows that compare data with data.
const FLOOR: &str = "data";

/// Whether smaller values of a statistic are better; `None` if neither direction is.
fn is_smaller_better(metric: &str) -> Option<bool> {
    match metric {
        "frechet" | "frechet-infinity" | "frechet-min" | "kernel" | "energy" | "mmd-rbf"
        | "sliced-wasserstein" | "pair-distances" | "cmmd" | "fld" => Some(true),
        "precision" | "recall" | "density" | "coverage" | "inception-score" | "vendi" => {
            Some(false)
        }
        _ => None,
    }
}

/// One row for each model and sampler, one column for each statistic.
fn metric_table(rows: &[MetricRow], contrasts: &[ContrastRow]) -> ExportTable {
    let mut metrics: Vec<&str> = Vec::new();
    let mut samplers: Vec<(&str, &str, &str)> = Vec::new();
    for row in rows {
        if !metrics.contains(&row.metric.as_str()) {
            metrics.push(&row.metric);
        }
        let place = (
            row.model.as_str(),
            row.sampler.as_str(),
            row.features.as_str(),
        );
        if !samplers.contains(&place) {
            samplers.push(place);
        }
    }
    let of = |place: &(&str, &str, &str), metric: &str| {
        rows.iter().find(|row| {
            (
                row.model.as_str(),
                row.sampler.as_str(),
                row.features.as_str(),
            ) == *place
                && row.metric == metric
        })
    };
    let plain = |name: &str, text: &str, is_number| Heading {
        name: name.to_owned(),
        text: text.to_owned(),
        is_number,
    };
    let mut headings = vec![
        plain("model", "model", false),
        plain("sampler", "sampler", false),
        plain("features", "features", false),
        plain("evaluations", "evaluations", true),
    ];
    headings.extend(metrics.iter().map(|metric| plain(metric, metric, true)));
    let row = |place: &(&str, &str, &str)| {
        let own: Vec<&MetricRow> = metrics
            .iter()
            .filter_map(|metric| of(place, metric))
            .collect();
        let evaluations = own.first().map_or(0.0, |row| row.evaluations);
        let mut cells = vec![
            text(place.0),
            text(place.1),
            text(place.2),
            match place.1 {
                FLOOR => text("–"),
                _ => ExportCell::Count(evaluations),
            },
        ];
        cells.extend(metrics.iter().map(|metric| match of(place, metric) {
            None => number(None, None),
            Some(row) => ExportCell::Number {
                value: Some(row.value),
                error: row.stderr,
                best: is_best(row, rows, contrasts),
            },
        }));
        cells
    };
    let counts = |of: fn(&MetricRow) -> usize| {
        let mut found: Vec<usize> = rows.iter().map(of).collect();
        found.sort_unstable();
        found.dedup();
        let texts: Vec<String> = found.iter().map(usize::to_string).collect();
        texts.join(", ")
    };
    ExportTable {
        caption: format!(
            "Statistics of {} samples against {} reference samples, value ± standard error. A value is \
             marked as the best where the 95 % interval of its difference from every other sampler \
             excludes zero.{}",
            counts(|row| row.n_generated),
            counts(|row| row.n_reference),
            match rows.iter().any(|row| row.sampler == FLOOR) {
                true => " The row of the sampler data compares data with data.",
                false => "",
            }
        ),
        label: "samples",
        headings,
        rows: samplers.iter().map(row).collect(),
    }
}

/// Whether a value is better than that of every other sampler, with intervals of the differences that
/// exclude zero. Differences are paired where the run measured them.
fn is_best(row: &MetricRow, rows: &[MetricRow], contrasts: &[ContrastRow]) -> bool {
    let Some(smaller) = is_smaller_better(&row.metric) else {
        return false;
    };
    let alike = |other: &&MetricRow| {
        (&other.model, &other.metric, &other.features) == (&row.model, &row.metric, &row.features)
            && other.sampler != row.sampler
            && other.sampler != FLOOR
    };
    let others: Vec<&MetricRow> = rows.iter().filter(alike).collect();
    let sign = if smaller { 1.0 } else { -1.0 };
    let beats = |other: &&MetricRow| {
        let paired = |one: &MetricRow, baseline: &MetricRow| {
            contrasts.iter().find(|contrast| {
                (&contrast.model, &contrast.metric, &contrast.features)
                    == (&row.model, &row.metric, &row.features)
                    && contrast.sampler == one.sampler
                    && contrast.baseline == baseline.sampler
            })
        };
        let [low, high] = match (paired(row, other), paired(other, row)) {
            (Some(contrast), _) => [contrast.low, contrast.high],
            (None, Some(contrast)) => [-contrast.high, -contrast.low],
            (None, None) => {
                let (Some(one), Some(two)) = (row.stderr, other.stderr) else {
                    return false;
                };
                let n = row.n_generated.min(other.n_generated);
                let half = stats::confidence_half_width(one.hypot(two), Some(n), 0.95);
                let difference = row.value - other.value;
                [difference - half, difference + half]
            }
        };
        if sign > 0.0 { high < 0.0 } else { low > 0.0 }
    };
    row.sampler != FLOOR && !others.is_empty() && others.iter().all(beats)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sampler: &str, metric: &str, value: f64, stderr: f64) -> MetricRow {
        MetricRow {
            model: "m".to_owned(),
            sampler: sampler.to_owned(),
            metric: metric.to_owned(),
            value,
            stderr: Some(stderr),
            n_generated: 1000,
            n_reference: 1000,
            evaluations: 10.0,
            jvps: 0.0,
            cost: 10.0,
            features: "raw".to_owned(),
            note: String::new(),
            trajectory: None,
            guidance: String::new(),
        }
    }

    #[test]
    fn the_best_is_marked_only_where_the_interval_allows_it() {
        for (values, best) in [
            ([("a", 1.0, 0.1), ("b", 2.0, 0.1)], Some("a")),
            ([("a", 1.0, 0.5), ("b", 2.0, 0.5)], None),
            ([("a", 1.0, 0.1), ("data", 0.1, 0.01)], None),
            ([("a", 2.0, 0.1), ("b", 1.0, 0.1)], Some("b")),
        ] {
            for (metric, smaller) in [("frechet", true), ("recall", false), ("c2st", true)] {
                let sign = if smaller { 1.0 } else { -1.0 };
                let rows = values.map(|(s, v, e)| row(s, metric, sign * v, e));
                let marked: Vec<&str> = (rows.iter())
                    .filter(|row| is_best(row, &rows, &[]))
                    .map(|row| row.sampler.as_str())
                    .collect();
                let expected = best.filter(|_| metric != "c2st");
                assert_eq!(marked, Vec::from_iter(expected), "{metric} {values:?}");
            }
        }
    }

    /// A paired difference decides, whatever the separate errors say.
    #[test]
    fn paired_differences_decide() {
        let rows = [row("a", "frechet", 1.0, 0.5), row("b", "frechet", 1.2, 0.5)];
        let contrast = |low, high| ContrastRow {
            model: "m".to_owned(),
            sampler: "b".to_owned(),
            baseline: "a".to_owned(),
            metric: "frechet".to_owned(),
            n: 1000,
            n_reference: 1000,
            difference: 0.2,
            difference_stderr: 0.05,
            low,
            high,
            method: String::new(),
            features: "raw".to_owned(),
        };
        assert!(!is_best(&rows[0], &rows, &[]));
        assert!(is_best(&rows[0], &rows, &[contrast(0.1, 0.3)]));
        assert!(!is_best(&rows[0], &rows, &[contrast(-0.1, 0.5)]));
        assert!(!is_best(&rows[1], &rows, &[contrast(0.1, 0.3)]));
    }
}
