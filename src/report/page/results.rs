//! The tables of one model: estimators against the reference, pairs of estimators, pairs of
//! datasets, and statistics of samples.

use maud::{Markup, html};

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
    heading: &'static str,
    /// The explanation that appears when the pointer rests on the heading.
    meaning: &'static str,
    /// The text of the cell of a row.
    cell: fn(&ComparisonGroup, &SummaryRow) -> String,
}

/// The columns of the summary table after the estimator.
const SUMMARY_COLUMNS: [SummaryColumn; 12] = [
    SummaryColumn {
        heading: "bits/dim ± SE",
        meaning: "Mean over samples ± one standard error over the data; lower is better",
        cell: |_, row| format_with_error(row.bits_per_dim, row.bits_per_dim_stderr),
    },
    SummaryColumn {
        heading: "nats ± SE",
        meaning: "Mean log-likelihood per sample ± one standard error over the data",
        cell: |_, row| format_with_error(row.nats, row.nats_stderr),
    },
    SummaryColumn {
        heading: "bias [95 %], nats",
        meaning: "Mean paired difference from the reference with its 95 % interval (Student's t)",
        cell: bias_cell,
    },
    SummaryColumn {
        heading: "RMSE, nats",
        meaning: "Root mean square difference from the reference per sample",
        cell: |group, row| {
            if is_reference(group, row) {
                ABSENT.into()
            } else {
                format_optional(row.rmse, 3)
            }
        },
    },
    SummaryColumn {
        heading: "r",
        meaning: "Pearson's correlation with the reference over samples",
        cell: |group, row| {
            let r = if_finite(row.correlation).filter(|_| !is_reference(group, row));
            r.map_or(ABSENT.into(), format_correlation)
        },
    },
    SummaryColumn {
        heading: "rank r",
        meaning: "Spearman's correlation of ranks with the reference over samples",
        cell: |group, row| {
            let r = if_finite(row.rank_correlation).filter(|_| !is_reference(group, row));
            r.map_or(ABSENT.into(), format_correlation)
        },
    },
    SummaryColumn {
        heading: "probe SE",
        meaning: "Root mean square of the standard errors over probes that are reported per \
                  sample, nats; absent for deterministic estimators",
        cell: |_, row| format_optional(row.probe_stderr, 3),
    },
    SummaryColumn {
        heading: "calib.",
        meaning: "Root mean square of the difference divided by the reported standard error; 1 if \
                  the reported errors are right",
        cell: |_, row| format_optional(row.calibration, 3),
    },
    SummaryColumn {
        heading: "cost",
        meaning: "Cost per sample in evaluations of the network; products and head calls count at \
                  their measured ratio",
        cell: |_, row| format_count(row.cost),
    },
    SummaryColumn {
        heading: "evals",
        meaning: "Evaluations of the network per sample",
        cell: |_, row| format_count(row.evaluations),
    },
    SummaryColumn {
        heading: "JVPs",
        meaning: "Jacobian-vector products per sample",
        cell: |_, row| format_count(row.jvps),
    },
    SummaryColumn {
        heading: "s/sample",
        meaning: "Measured seconds per sample",
        cell: |_, row| format_significant(row.seconds_per_sample, 2),
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
        @if !densities.is_empty() { (summary_table_of(view, group, &densities)) }
        @if !bounds.is_empty() {
            h4 { "Variational bounds" }
            (summary_table_of(view, group, &bounds))
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
fn summary_table_of(view: &ReportView, group: &ComparisonGroup, rows: &[&SummaryRow]) -> Markup {
    let columns: Vec<&SummaryColumn> = (SUMMARY_COLUMNS.iter())
        .filter(|column| rows.iter().any(|row| (column.cell)(group, row) != ABSENT))
        .collect();
    let failures = rows.iter().any(|row| row.failed > 0);
    html! {
        div.scroll { table.summary {
            thead { tr {
                th { "Estimator" }
                @if common_sample_count(group).is_none() {
                    th.n title="Samples in the averages" { "n" }
                }
                @if failures { th.n { "failed" } }
                @for column in &columns { th.n title=(column.meaning) { (column.heading) } }
            } }
            tbody { @for row in rows { tr.reference[is_reference(group, row)] {
                th scope="row" {
                    (colour_swatch(view, &row.estimator)) (view.short_name(&row.estimator))
                    @if view.short_name(&row.estimator) != sanitize_line(&row.estimator) {
                        code.kind { (sanitize_line(&row.estimator)) }
                    }
                    span.kind {
                        (row.kind) (bound_suffix(row))
                        @if is_reference(group, row) { ", reference" }
                    }
                }
                @if common_sample_count(group).is_none() { td.n { (format_count(row.n as f64)) } }
                @if failures {
                    td.n.failed[row.failed > 0] {
                        @if row.failed > 0 { strong { (row.failed) } } @else { "0" }
                    }
                }
                @for column in &columns { td.n { ((column.cell)(group, row)) } }
            } } }
        } }
    }
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

/// The bias with its 95 % interval. Absent for the reference itself.
fn bias_cell(group: &ComparisonGroup, row: &SummaryRow) -> String {
    let Some(bias) = if_finite(row.bias).filter(|_| !is_reference(group, row)) else {
        return ABSENT.into();
    };
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
            div.scroll { table {
                thead { tr {
                    th { "Estimator" } th { "minus" } th.n { "n" }
                    th.n { "difference ± SE, nats" } th.n { "95 % interval" }
                } }
                tbody { @for pair in pairs { tr {
                    td { (sanitize_line(&pair.estimator)) } td { (sanitize_line(&pair.other)) }
                    td.n { (format_count(pair.n as f64)) }
                    @let difference_stderr = Some(pair.difference_stderr);
                    td.n { (format_with_error(Some(pair.difference), difference_stderr)) }
                    td.n.off[excludes_zero(pair)] {
                        "[" (format_to_error_digits(pair.low, pair.difference_stderr)) ", "
                        (format_to_error_digits(pair.high, pair.difference_stderr)) "]"
                    }
                } } }
            } }
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
            div.scroll { table {
                thead { tr {
                    th { "Dataset" } th { "minus" } @if solvers { th { "Solver" } }
                    th { "Estimator" } th.n { "n" } th.n { "n" }
                    th.n { "difference ± SE, nats" } th.n { "95 % interval" }
                    th.n { "bits/dim ± SE" }
                    th.n title={
                        "Probability that a sample of the first dataset has a higher "
                        "log-likelihood than a sample of the second, with DeLong's standard error"
                    } { "AUROC ± SE" }
                } }
                tbody { @for gap in rows { tr {
                    th scope="row" { (sanitize_line(&gap.dataset)) }
                    td { (sanitize_line(&gap.other)) }
                    @if solvers { td { (sanitize_line(&gap.solver)) } }
                    td { (view.short_name(&gap.estimator)) }
                    td.n { (format_count(gap.n as f64)) }
                    td.n { (format_count(gap.n_other as f64)) }
                    td.n { (format_with_error(Some(gap.difference), Some(gap.difference_stderr))) }
                    td.n {
                        "[" (format_to_error_digits(gap.low, gap.difference_stderr)) ", "
                        (format_to_error_digits(gap.high, gap.difference_stderr)) "]"
                    }
                    td.n { (format_with_error(gap.bits_per_dim, gap.bits_per_dim_stderr)) }
                    td.n { (format_with_error(Some(gap.auroc), gap.auroc_stderr)) }
                } } }
            } }
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
            div.scroll { table {
                thead { tr {
                    th { "Condition" } th { "Dataset" } th { "Solver" } th { "Estimator" }
                    th.n { "n" } th.n { "failed" } th.n { "nats ± SE" }
                    @if bits { th.n { "bits/dim ± SE" } }
                } }
                tbody { @for row in rows { tr {
                    th scope="row" { (sanitize_line(&format!("{} {}", row.condition, row.value))) }
                    td { (sanitize_line(&row.dataset)) }
                    td { (sanitize_line(&row.solver)) }
                    td { (view.short_name(&row.estimator)) }
                    td.n { (format_count(row.n as f64)) }
                    td.n { (format_count(row.failed as f64)) }
                    td.n { (format_with_error(row.nats, row.nats_stderr)) }
                    @if bits { td.n { (format_with_error(row.bits_per_dim, row.bits_per_dim_stderr)) } }
                } } }
            } }
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
            div.scroll { table {
                thead { tr {
                    th { "Sampler" } th { "Statistic" } th { "Computed on" } th.n { "value ± SE" }
                    th.n title="The same statistic of data against data" {
                        "floor ± SE"
                    }
                    th.n title="Difference between value and floor, in combined standard errors" {
                        "above floor"
                    }
                    th.n { "generated" } th.n { "reference" }
                    th.n title="Evaluations of the network per generated sample" { "evaluations" }
                    th.n title="Jacobian products per generated sample" { "products" }
                    th.n title="Evaluations per sample; products count at their measured ratio" {
                        "cost"
                    }
                    @if noted { th { "note" } }
                } }
                tbody {
                    @for row in rows.iter().filter(|row| row.sampler != FLOOR_SAMPLER) {
                        (metrics_table_row(row, find_floor(&rows, row), noted))
                    }
                    @for row in rows.iter().filter(|row| {
                        row.sampler == FLOOR_SAMPLER && has_no_generated_row(&rows, row)
                    }) {
                        (metrics_table_row(row, None, noted))
                    }
                }
            } }
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
            div.scroll { table {
                thead { tr {
                    th { "Sampler" } th { "minus" } th { "Statistic" } th.n { "pairs" }
                    th.n { "difference ± SE" } th.n { "95 % interval" }
                } }
                tbody { @for row in &rows { tr {
                    th scope="row" { (sanitize_line(&row.sampler)) }
                    td { (sanitize_line(&row.baseline)) }
                    td { (sanitize_line(&row.metric)) }
                    td.n { (format_count(row.n as f64)) }
                    @if row.difference == 0.0 && row.difference_stderr == 0.0 {
                        td.n { "0" } td.n { "the same samples" }
                    } @else {
                        @let stderr = Some(row.difference_stderr);
                        td.n { (format_with_error(Some(row.difference), stderr)) }
                        td.n.off[row.low > 0.0 || row.high < 0.0] {
                            "[" (format_to_error_digits(row.low, row.difference_stderr)) ", "
                            (format_to_error_digits(row.high, row.difference_stderr)) "]"
                        }
                    }
                } } }
            } }
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

/// One row of the table of statistics.
fn metrics_table_row(row: &MetricRow, floor: Option<&MetricRow>, noted: bool) -> Markup {
    html! { tr {
        th scope="row" { (sanitize_line(&row.sampler)) }
        td { (sanitize_line(&row.metric)) }
        td {
            @if row.features.is_empty() { (ABSENT) }
            @else { code { (sanitize_line(&row.features)) } }
        }
        td.n { (format_with_error(Some(row.value), row.stderr)) }
        @let floor_text = floor.map(|floor| format_with_error(Some(floor.value), floor.stderr));
        td.n { (floor_text.unwrap_or(ABSENT.into())) }
        @let distance = floor.and_then(|floor| distance_from_floor(row, floor));
        td.n { (distance.unwrap_or(ABSENT.into())) }
        td.n { (format_count(row.n_generated as f64)) }
        td.n { (format_count(row.n_reference as f64)) }
        td.n { (format_count(row.evaluations)) }
        td.n { (format_count(row.jvps)) }
        td.n { (format_count(row.cost.round())) }
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
fn distance_from_floor(row: &MetricRow, floor: &MetricRow) -> Option<String> {
    let error = if_finite(row.stderr)?.hypot(if_finite(floor.stderr)?);
    let distance = (row.value - floor.value) / error;
    distance
        .is_finite()
        .then(|| format!("{} SE", format_significant(distance, 2)))
}

/// Whether the 95 % interval of the row's bias contains zero. `None` if there is no interval.
pub(super) fn bias_interval_contains_zero(row: &SummaryRow) -> Option<bool> {
    let (bias, error) = (if_finite(row.bias)?, if_finite(row.bias_stderr)?);
    Some(bias.abs() <= half_width_95(Some(error), row.bias_n))
}
