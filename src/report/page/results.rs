//! The tables of one model: estimators against the reference, pairs of estimators, pairs of
//! datasets, and statistics of samples.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, name_markup, shown_cell, value_cell};
use super::{budget, conventions, frontier};
use crate::report::figures::{FLOOR_SAMPLER, format_correlation};
use crate::report::number_format::{
    ABSENT, format_count, format_interval, format_optional, format_significant,
    format_to_error_digits, format_with_error, half_width_95, if_finite,
};
use crate::report::text::sanitize_line;
use crate::report::view::{ComparisonGroup, ReportView};
use crate::rows::{
    BoundKind, ConditionRow, ContrastRow, EstimateKind, GapRow, MetricRow, PairRow, SummaryRow,
};

/// The tables of each comparison group of the model whose reference has the same solver.
pub(super) fn result_tables(view: &ReportView, model: &str) -> Markup {
    html! {
        @for group in view.groups.iter().filter(|group| {
            group.model == model && !group.rows.is_empty() && !group.reference_under_other_solver
        }) {
            h4 {
                (sanitize_line(group.dataset))
                span.solver {
                    (sanitize_line(group.solver))
                    @if let Some(n) = common_sample_count(group) {
                        " · n = " (format_count(n as f64))
                    }
                }
            }
            (summary_table(view, group))
            (budget::budget_section(view, group))
            (frontier::frontier_section(view, group))
            (pairs_table(view, group))
            (conventions::conventions_section(view, group))
        }
    }
}

/// A column of the summary table. It is omitted if no row has a value in it.
struct SummaryColumn {
    key: &'static str,
    heading: &'static str,
    unit: &'static str,
    /// The explanation that appears when the pointer rests on the heading.
    meaning: &'static str,
    /// Whether the column is hidden at first.
    is_off: bool,
    /// The number of a row, and its standard error.
    value: fn(&SummaryRow) -> (Option<f64>, Option<f64>),
    /// The text of the cell of a row.
    text: fn(&SummaryRow) -> String,
    /// Whether the reference has no such number.
    is_comparison: bool,
}

impl SummaryColumn {
    fn heading(&self) -> Column<'static> {
        let column = Column::number(self.key, self.heading, self.unit).meaning(self.meaning);
        if self.is_off { column.off() } else { column }
    }

    fn is_absent(&self, group: &ComparisonGroup, row: &SummaryRow) -> bool {
        if_finite((self.value)(row).0).is_none() || self.is_comparison && is_reference(group, row)
    }

    fn cell(&self, group: &ComparisonGroup, row: &SummaryRow) -> Markup {
        if self.is_absent(group, row) {
            return value_cell(None, None);
        }
        let (value, error) = (self.value)(row);
        html! {
            td.n data-v=[if_finite(value)] data-e=[if_finite(error)] { ((self.text)(row)) }
        }
    }
}

/// A column that is always shown.
const COLUMN: SummaryColumn = SummaryColumn {
    key: "",
    heading: "",
    unit: "",
    meaning: "",
    is_off: false,
    value: |_| (None, None),
    text: |_| String::new(),
    is_comparison: false,
};

/// The columns of the summary table after the estimator.
const SUMMARY_COLUMNS: [SummaryColumn; 12] = [
    SummaryColumn {
        key: "bits_per_dim",
        heading: "bits/dim ± SE",
        unit: "bits/dim",
        meaning: "Mean over samples ± one standard error over the data; lower is better",
        value: |row| (row.bits_per_dim, row.bits_per_dim_stderr),
        text: |row| format_with_error(row.bits_per_dim, row.bits_per_dim_stderr),
        ..COLUMN
    },
    SummaryColumn {
        key: "nats",
        heading: "nats ± SE",
        unit: "nats",
        meaning: "Mean log-likelihood per sample ± one standard error over the data",
        value: |row| (row.nats, row.nats_stderr),
        text: |row| format_with_error(row.nats, row.nats_stderr),
        ..COLUMN
    },
    SummaryColumn {
        key: "bias",
        heading: "bias [95 %], nats",
        unit: "nats",
        meaning: "Mean paired difference from the reference with its 95 % interval (Student's t)",
        value: |row| (row.bias, row.bias_stderr),
        text: bias_text,
        is_comparison: true,
        ..COLUMN
    },
    SummaryColumn {
        key: "rmse",
        heading: "RMSE, nats",
        unit: "nats",
        meaning: "Root mean square difference from the reference per sample",
        value: |row| (row.rmse, None),
        text: |row| format_optional(row.rmse, 3),
        is_comparison: true,
        ..COLUMN
    },
    SummaryColumn {
        key: "correlation",
        heading: "r",
        meaning: "Pearson's correlation with the reference over samples",
        value: |row| (row.correlation, None),
        text: |row| row.correlation.map_or(ABSENT.into(), format_correlation),
        is_comparison: true,
        ..COLUMN
    },
    SummaryColumn {
        key: "rank_correlation",
        heading: "rank r",
        meaning: "Spearman's correlation of ranks with the reference over samples",
        is_off: true,
        value: |row| (row.rank_correlation, None),
        text: |row| {
            row.rank_correlation
                .map_or(ABSENT.into(), format_correlation)
        },
        is_comparison: true,
        ..COLUMN
    },
    SummaryColumn {
        key: "probe_stderr",
        heading: "probe SE",
        unit: "nats",
        meaning: "Root mean square of the standard errors over probes that are reported per \
                  sample, nats; absent for deterministic estimators",
        is_off: true,
        value: |row| (row.probe_stderr, None),
        text: |row| format_optional(row.probe_stderr, 3),
        ..COLUMN
    },
    SummaryColumn {
        key: "calibration",
        heading: "calib.",
        meaning: "Root mean square of the difference divided by the reported standard error; 1 if \
                  the reported errors are right",
        value: |row| (row.calibration, None),
        text: |row| format_optional(row.calibration, 3),
        ..COLUMN
    },
    SummaryColumn {
        key: "cost",
        heading: "cost",
        unit: "evaluations",
        meaning: "Cost per sample in evaluations of the network; products and head calls count at \
                  their measured ratio",
        value: |row| (Some(row.cost), None),
        text: |row| format_count(row.cost),
        ..COLUMN
    },
    SummaryColumn {
        key: "evaluations",
        heading: "evals",
        meaning: "Evaluations of the network per sample",
        is_off: true,
        value: |row| (Some(row.evaluations), None),
        text: |row| format_count(row.evaluations),
        ..COLUMN
    },
    SummaryColumn {
        key: "jvps",
        heading: "JVPs",
        meaning: "Jacobian-vector products per sample",
        is_off: true,
        value: |row| (Some(row.jvps), None),
        text: |row| format_count(row.jvps),
        ..COLUMN
    },
    SummaryColumn {
        key: "seconds_per_sample",
        heading: "s/sample",
        unit: "s",
        meaning: "Measured seconds per sample",
        value: |row| (Some(row.seconds_per_sample), None),
        text: |row| format_significant(row.seconds_per_sample, 2),
        ..COLUMN
    },
];

/// What the number bounds, to show beside its kind. A density at given points bounds nothing, and
/// has no suffix.
fn bound_suffix(row: &SummaryRow) -> String {
    match row.bound {
        BoundKind::Unknown | BoundKind::Density => String::new(),
        BoundKind::None => " · bounds nothing".to_owned(),
        bound if row.draws > 1 => format!(" · {bound} of {} draws", row.draws),
        bound => format!(" · {bound}"),
    }
}

/// The tables of the estimators of one group, the reference first. Variational bounds have a table of
/// their own, so that no column holds bounds and densities.
fn summary_table(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let mut rows = group.rows.clone();
    rows.sort_by_key(|row| !is_reference(group, row));
    let (bounds, densities): (Vec<_>, Vec<_>) = rows
        .into_iter()
        .partition(|row| row.kind == EstimateKind::Elbo);
    html! {
        @if !densities.is_empty() { (summary_table_of(view, group, "Log-likelihoods", &densities)) }
        @if !bounds.is_empty() {
            h4 { "Variational bounds" }
            (summary_table_of(view, group, "Variational bounds", &bounds))
            p.note {
                "These are lower bounds: of the density of the reverse stochastic process, or of the "
                "probability of integers where the decoder is discretized. The density of the ODE may "
                "lie on either side of them. Their bias is the gap to the reference, and no error."
            }
        }
        p.note {
            "± is one standard error of the mean over the data. Bias, RMSE and r compare each "
            "estimator with " (view.short_name(group.reference)) ", paired per sample. Brackets "
            "are 95 % intervals. Cost is per sample, in evaluations of the network. "
            (ABSENT) " means that the number is not defined."
        }
    }
}

/// The table of some rows of a group.
fn summary_table_of(
    view: &ReportView,
    group: &ComparisonGroup,
    title: &str,
    rows: &[&SummaryRow],
) -> Markup {
    let columns: Vec<&SummaryColumn> = (SUMMARY_COLUMNS.iter())
        .filter(|column| rows.iter().any(|row| !column.is_absent(group, row)))
        .collect();
    let failures = rows.iter().any(|row| row.failed > 0);
    let counts = common_sample_count(group).is_none();
    let n = Column::number("n", "n", "").meaning("Samples in the averages");
    let headings: Vec<Column> = std::iter::once(Column::text("estimator", "Estimator"))
        .chain(counts.then_some(n))
        .chain(failures.then(|| Column::number("failed", "failed", "")))
        .chain(columns.iter().map(|column| column.heading()))
        .collect();
    data_table(
        &format!("{title}-{}", group.model),
        &format!(
            "{title} of {} on {}, {}",
            group.model, group.dataset, group.solver
        ),
        &headings,
        html! { @for row in rows { tr.reference[is_reference(group, row)] {
            th scope="row" {
                (colour_swatch(view, &row.estimator))
                (name_markup(&view.short_name(&row.estimator)))
                @if view.short_name(&row.estimator) != sanitize_line(&row.estimator) {
                    code.kind { (name_markup(&row.estimator)) }
                }
                span.kind {
                    (row.kind) (bound_suffix(row))
                    @if is_reference(group, row) { ", reference" }
                }
            }
            @if counts { (count_cell(row.n as f64)) }
            @if failures {
                td.n.failed[row.failed > 0] data-v=(row.failed) {
                    @if row.failed > 0 { strong { (row.failed) } } @else { "0" }
                }
            }
            @for column in &columns { (column.cell(group, row)) }
        } } },
    )
}

/// The number of samples if it is the same for all estimators and no sample failed.
fn common_sample_count(group: &ComparisonGroup) -> Option<usize> {
    let n = group.rows.first()?.n;
    group
        .rows
        .iter()
        .all(|row| row.n == n && row.failed == 0)
        .then_some(n)
}

fn is_reference(group: &ComparisonGroup, row: &SummaryRow) -> bool {
    row.estimator == group.reference
}

/// The bias with its 95 % interval.
fn bias_text(row: &SummaryRow) -> String {
    let bias = row.bias.unwrap_or(0.0);
    match format_interval(row.bias, row.bias_stderr, row.bias_n) {
        Some(interval) => {
            format!(
                "{} {interval}",
                format_to_error_digits(bias, row.bias_stderr.unwrap_or(0.0))
            )
        }
        None => format_significant(bias, 3),
    }
}

/// The text of an interval whose ends have the digits of an error.
fn interval_text(low: f64, high: f64, error: f64) -> String {
    let end = |value| format_to_error_digits(value, error);
    format!("[{}, {}]", end(low), end(high))
}

/// A swatch of the estimator's colour in the figures.
fn colour_swatch(view: &ReportView, estimator: &str) -> Markup {
    let [r, g, b] = view.style(estimator).colour;
    html! { span.swatch style={ "background:rgb(" (r) "," (g) "," (b) ")" } {} }
}

/// The differences between all pairs of estimators of a group, in a closed section.
fn pairs_table(view: &ReportView, group: &ComparisonGroup) -> Markup {
    let in_group = |pair: &&PairRow| {
        (
            pair.model.as_str(),
            pair.dataset.as_str(),
            pair.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let pairs: Vec<&PairRow> = view.tables.pairs.iter().filter(in_group).collect();
    html! {
        @if !pairs.is_empty() { details {
            summary { "Every pair of estimators (" (pairs.len()) ")" }
            (data_table(
                &format!("pairs-{}", group.model),
                &format!("Every pair of estimators of {}", group.model),
                &[
                    Column::text("estimator", "Estimator"),
                    Column::text("other", "minus"),
                    Column::number("n", "n", ""),
                    Column::number("difference", "difference ± SE, nats", "nats"),
                    Column::number("low", "95 % interval", "nats"),
                ],
                html! { @for pair in pairs { tr {
                    td { (name_markup(&pair.estimator)) } td { (name_markup(&pair.other)) }
                    (count_cell(pair.n as f64))
                    (value_cell(Some(pair.difference), Some(pair.difference_stderr)))
                    @let interval = interval_text(pair.low, pair.high, pair.difference_stderr);
                    (shown_cell(Some(pair.low), &interval, excludes_zero(pair)))
                } } },
            ))
            p.note {
                "Mean paired difference over the same samples ± one standard error. Bold intervals "
                "do not contain zero."
            }
        } }
    }
}

/// Whether the 95 % interval of the difference does not contain zero.
fn excludes_zero(pair: &PairRow) -> bool {
    pair.low > 0.0 || pair.high < 0.0
}

/// The table of all pairs of datasets of a model: the difference of their mean log-likelihoods, and
/// the AUROC that tells them apart.
pub(super) fn dataset_gaps_table(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&GapRow> = view
        .tables
        .gaps
        .iter()
        .filter(|gap| gap.model == model)
        .collect();
    let solvers = rows.iter().any(|gap| gap.solver != rows[0].solver);
    html! {
        @if !rows.is_empty() {
            h4 { "Between datasets" }
            @let columns = [
                Some(Column::text("dataset", "Dataset")),
                Some(Column::text("other", "minus")),
                solvers.then(|| Column::text("solver", "Solver")),
                Some(Column::text("estimator", "Estimator")),
                Some(Column::number("n", "n", "")),
                Some(Column::number("n_other", "n of the other", "")),
                Some(Column::number("difference", "difference ± SE, nats", "nats")),
                Some(Column::number("low", "95 % interval", "nats")),
                Some(Column::number("bits_per_dim", "bits/dim ± SE", "bits/dim")),
                Some(Column::number("auroc", "AUROC ± SE", "").meaning(
                    "Probability that a sample of the first dataset has a higher log-likelihood \
                     than a sample of the second, with DeLong's standard error",
                )),
            ];
            (data_table(
                &format!("gaps-{model}"),
                &format!("{model} between datasets"),
                &columns.into_iter().flatten().collect::<Vec<_>>(),
                html! { @for gap in rows { tr {
                    th scope="row" { (name_markup(&gap.dataset)) }
                    td { (name_markup(&gap.other)) }
                    @if solvers { td { (name_markup(&gap.solver)) } }
                    td { (name_markup(&view.short_name(&gap.estimator))) }
                    (count_cell(gap.n as f64))
                    (count_cell(gap.n_other as f64))
                    (value_cell(Some(gap.difference), Some(gap.difference_stderr)))
                    @let interval = interval_text(gap.low, gap.high, gap.difference_stderr);
                    (shown_cell(Some(gap.low), &interval, false))
                    (value_cell(gap.bits_per_dim, gap.bits_per_dim_stderr))
                    (value_cell(Some(gap.auroc), gap.auroc_stderr))
                } } },
            ))
            p.note {
                "Mean log-likelihood of the first dataset minus that of the second. If it is above "
                "zero, the model gives the first dataset the higher log-likelihood. ± is one "
                "standard error over two independent sets of samples. An AUROC of ½ does not "
                "distinguish the datasets. An AUROC without an error belongs to two sets that do "
                "not overlap."
            }
        }
    }
}

/// The table of averages by the value of a condition, such as a class.
pub(super) fn conditions_table(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&ConditionRow> = view
        .tables
        .conditions
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let bits = rows.iter().any(|row| row.bits_per_dim.is_some());
    html! {
        @if !rows.is_empty() {
            h4 { "By condition" }
            @let bits_column = bits.then(|| Column::number("bits_per_dim", "bits/dim ± SE", "bits/dim"));
            @let columns = [
                Column::text("condition", "Condition"),
                Column::text("dataset", "Dataset"),
                Column::text("solver", "Solver"),
                Column::text("estimator", "Estimator"),
                Column::number("n", "n", ""),
                Column::number("failed", "failed", ""),
                Column::number("nats", "nats ± SE", "nats"),
            ];
            (data_table(
                &format!("conditions-{model}"),
                &format!("{model} by condition"),
                &columns.into_iter().chain(bits_column).collect::<Vec<_>>(),
                html! { @for row in rows { tr {
                    th scope="row" { (name_markup(&format!("{} {}", row.condition, row.value))) }
                    td { (name_markup(&row.dataset)) }
                    td { (name_markup(&row.solver)) }
                    td { (name_markup(&view.short_name(&row.estimator))) }
                    (count_cell(row.n as f64))
                    (count_cell(row.failed as f64))
                    (value_cell(row.nats, row.nats_stderr))
                    @if bits { (value_cell(row.bits_per_dim, row.bits_per_dim_stderr)) }
                } } },
            ))
            p.note { "Averages over the samples with one value of the condition. ± is one standard "
                "error over these samples." }
        }
    }
}

/// The statistics of generated samples, each beside its floor of data against data.
pub(super) fn metrics_table(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&MetricRow> = view
        .tables
        .metrics
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let noted = rows.iter().any(|row| !row.note.is_empty());
    html! {
        @if !rows.is_empty() {
            h4 { "Statistics of samples" }
            (data_table(
                &format!("statistics-{model}"),
                &format!("Statistics of samples of {model}"),
                &metric_columns(noted),
                html! {
                    @for row in rows.iter().filter(|row| row.sampler != FLOOR_SAMPLER) {
                        (metrics_table_row(row, find_floor(&rows, row), noted))
                    }
                    @for row in rows.iter().filter(|row| {
                        row.sampler == FLOOR_SAMPLER && has_no_generated_row(&rows, row)
                    }) {
                        (metrics_table_row(row, None, noted))
                    }
                },
            ))
            p.note {
                "± is one standard error of the statistic. The floor is the same statistic of data "
                "against data; a perfect model would lie near it. The distance from the floor is "
                "in standard errors that combine both errors."
            }
        }
    }
}

/// The differences between samplers that start from the same noise.
pub(super) fn contrasts_table(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&ContrastRow> = view
        .tables
        .contrasts
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let apart = rows
        .iter()
        .filter(|row| row.low > 0.0 || row.high < 0.0)
        .count();
    html! {
        @if !rows.is_empty() {
            h4 { "Differences between samplers, from the same noise" }
            (data_table(
                &format!("contrasts-{model}"),
                &format!("Differences between samplers of {model}"),
                &[
                    Column::text("sampler", "Sampler"),
                    Column::text("baseline", "minus"),
                    Column::text("statistic", "Statistic"),
                    Column::number("pairs", "pairs", ""),
                    Column::number("difference", "difference ± SE", ""),
                    Column::number("low", "95 % interval", ""),
                ],
                html! {
                    @for row in &rows { tr {
                        th scope="row" { (name_markup(&row.sampler)) }
                        td { (name_markup(&row.baseline)) }
                        td { (name_markup(&row.metric)) }
                        (count_cell(row.n as f64))
                        @if row.difference == 0.0 && row.difference_stderr == 0.0 {
                            (shown_cell(Some(0.0), "0", false))
                            (shown_cell(Some(0.0), "the same samples", false))
                        } @else {
                            (value_cell(Some(row.difference), Some(row.difference_stderr)))
                            @let interval = interval_text(row.low, row.high, row.difference_stderr);
                            @let apart = row.low > 0.0 || row.high < 0.0;
                            (shown_cell(Some(row.low), &interval, apart))
                        }
                    } }
                },
            ))
            p.note {
                "A statistic of the first sampler's samples minus the statistic of the second "
                "sampler's. Both start from the same noise, so that errors that they share cancel. "
                "The standard error is over the pairs and over the reference data. If the "
                "statistic is a distance, a difference below zero means that the first sampler is "
                "nearer to the data. "
                "Bold intervals do not contain zero: " (format_count(apart as f64)) " of "
                (format_count(rows.len() as f64)) ". Without any real difference, one interval in "
                "twenty does not contain zero by chance."
            }
        }
    }
}

/// The columns of the table of statistics.
fn metric_columns(noted: bool) -> Vec<Column<'static>> {
    let columns = [
        Column::text("sampler", "Sampler"),
        Column::text("statistic", "Statistic"),
        Column::text("features", "Computed on"),
        Column::number("value", "value ± SE", ""),
        Column::number("floor", "floor ± SE", "")
            .meaning("The same statistic of data against data"),
        Column::number("above_floor", "above floor", "SE")
            .meaning("Difference between value and floor, in combined standard errors"),
        Column::number("generated", "generated", ""),
        Column::number("reference", "reference", ""),
        Column::number("evaluations", "evaluations", "")
            .meaning("Evaluations of the network per generated sample"),
        Column::number("jvps", "products", "")
            .meaning("Jacobian products per generated sample")
            .off(),
        Column::number("cost", "cost", "evaluations")
            .meaning("Evaluations per sample; products count at their measured ratio"),
    ];
    let note = noted.then(|| Column::text("note", "note"));
    columns.into_iter().chain(note).collect()
}

/// One row of the table of statistics.
fn metrics_table_row(row: &MetricRow, floor: Option<&MetricRow>, noted: bool) -> Markup {
    html! { tr {
        th scope="row" { (name_markup(&row.sampler)) }
        td { (name_markup(&row.metric)) }
        td {
            @if row.features.is_empty() { (ABSENT) }
            @else { code { (name_markup(&row.features)) } }
        }
        (value_cell(Some(row.value), row.stderr))
        (value_cell(floor.map(|floor| floor.value), floor.and_then(|floor| floor.stderr)))
        @let distance = floor.and_then(|floor| distance_from_floor(row, floor));
        @let text = distance.map(|distance| format!("{} SE", format_significant(distance, 2)));
        (shown_cell(distance, &text.unwrap_or(ABSENT.into()), false))
        (count_cell(row.n_generated as f64))
        (count_cell(row.n_reference as f64))
        (count_cell(row.evaluations))
        (count_cell(row.jvps))
        (count_cell(row.cost.round()))
        @if noted { td.wide { (notes_with_floor(row, floor)) } }
    } }
}

/// The notes of a row and of its floor, in one text.
fn notes_with_floor(row: &MetricRow, floor: Option<&MetricRow>) -> String {
    let of_floor = floor.filter(|floor| !floor.note.is_empty());
    let of_floor = of_floor.map(|floor| format!("floor: {}", sanitize_line(&floor.note)));
    let notes = (!row.note.is_empty())
        .then(|| sanitize_line(&row.note))
        .into_iter()
        .chain(of_floor);
    notes.collect::<Vec<_>>().join("; ")
}

/// The floor of a row: the same statistic on the same features, of data against data.
pub(super) fn find_floor<'a>(rows: &[&'a MetricRow], row: &MetricRow) -> Option<&'a MetricRow> {
    let same = |other: &&&MetricRow| {
        other.sampler == FLOOR_SAMPLER
            && other.metric == row.metric
            && other.features == row.features
    };
    rows.iter().find(same).copied()
}

/// Whether no generated samples have the statistic of this floor. Then the floor has a table row of
/// its own.
fn has_no_generated_row(rows: &[&MetricRow], floor: &MetricRow) -> bool {
    !rows.iter().any(|row| {
        row.sampler != FLOOR_SAMPLER && row.metric == floor.metric && row.features == floor.features
    })
}

/// The difference between a value and its floor, in combined standard errors.
pub(super) fn distance_from_floor(row: &MetricRow, floor: &MetricRow) -> Option<f64> {
    let error = if_finite(row.stderr)?.hypot(if_finite(floor.stderr)?);
    if_finite(Some((row.value - floor.value) / error))
}

/// Whether the 95 % interval of the row's bias contains zero. `None` if there is no interval.
pub(super) fn bias_interval_contains_zero(row: &SummaryRow) -> Option<bool> {
    let (bias, error) = (if_finite(row.bias)?, if_finite(row.bias_stderr)?);
    Some(bias.abs() <= half_width_95(Some(error), row.bias_n))
}
