//! The tables of one model: estimators against the reference, pairs, and sample statistics.

use maud::{Markup, html};

use super::{budget, conventions, frontier};
use crate::report::figures::{FLOOR, correlation};
use crate::report::number::{
    ABSENT, count, finite, half_width, interval, maybe, significant, to_error, with_error,
};
use crate::report::text::clean;
use crate::report::view::{Group, View};
use crate::rows::{Contrast, Gap, MetricRow, Pair, Summary};

/// The summary of each dataset and solver of the model.
pub fn tables(view: &View, model: &str) -> Markup {
    html! {
        @for group in view.groups.iter().filter(|group| group.model == model && !group.rows.is_empty() && !group.elsewhere) {
            h4 {
                (clean(group.dataset))
                span.solver {
                    (clean(group.solver))
                    @if let Some(n) = same_n(group) { " · n = " (count(n as f64)) }
                }
            }
            (summary(view, group))
            (budget::section(view, group))
            (frontier::section(view, group))
            (pairs(view, group))
            (conventions::section(view, group))
        }
    }
}

/// A column: its heading, what it means, and its text for a row; left out where no row has one.
struct Column {
    heading: &'static str,
    meaning: &'static str,
    cell: fn(&Group, &Summary) -> String,
}

const COLUMNS: [Column; 12] = [
    Column {
        heading: "bits/dim ± SE",
        meaning: "Mean over samples ± one standard error over the data; fewer is better",
        cell: |_, row| with_error(row.bits_per_dim, row.bits_per_dim_stderr),
    },
    Column {
        heading: "nats ± SE",
        meaning: "Mean log-likelihood per sample ± one standard error over the data",
        cell: |_, row| with_error(row.nats, row.nats_stderr),
    },
    Column {
        heading: "bias [95 %], nats",
        meaning: "Mean paired difference from the reference with its 95 % interval (Student's t)",
        cell: bias,
    },
    Column {
        heading: "RMSE, nats",
        meaning: "Root mean square difference from the reference per sample",
        cell: |group, row| {
            if is_reference(group, row) {
                ABSENT.into()
            } else {
                maybe(row.rmse, 3)
            }
        },
    },
    Column {
        heading: "r",
        meaning: "Pearson's correlation with the reference over samples",
        cell: |group, row| {
            let r = finite(row.correlation).filter(|_| !is_reference(group, row));
            r.map_or(ABSENT.into(), correlation)
        },
    },
    Column {
        heading: "rank r",
        meaning: "Spearman's correlation of ranks with the reference over samples",
        cell: |group, row| {
            let r = finite(row.rank_correlation).filter(|_| !is_reference(group, row));
            r.map_or(ABSENT.into(), correlation)
        },
    },
    Column {
        heading: "probe SE",
        meaning: "Root mean square of the reported per-sample standard error over probes, nats; none where the \
                  estimator is deterministic",
        cell: |_, row| maybe(row.probe_stderr, 3),
    },
    Column {
        heading: "calib.",
        meaning: "Root mean square of difference over reported standard error: 1 where the reported errors are \
                  honest",
        cell: |_, row| maybe(row.calibration, 3),
    },
    Column {
        heading: "cost",
        meaning: "Per sample, in evaluations of the network; products and head calls at their measured ratio",
        cell: |_, row| count(row.cost),
    },
    Column {
        heading: "evals",
        meaning: "Evaluations of the network per sample",
        cell: |_, row| count(row.evaluations),
    },
    Column {
        heading: "JVPs",
        meaning: "Jacobian-vector products per sample",
        cell: |_, row| count(row.jvps),
    },
    Column {
        heading: "s/sample",
        meaning: "Measured seconds per sample",
        cell: |_, row| significant(row.seconds_per_sample, 2),
    },
];

/// Beside the kind, what the number bounds; a density at given points bounds nothing.
fn bound(row: &Summary) -> String {
    match row.bound.as_str() {
        "" | "density" => String::new(),
        "none" => " · bounds nothing".to_owned(),
        bound if row.draws > 1 => format!(" · {} of {} draws", clean(bound), row.draws),
        bound => format!(" · {}", clean(bound)),
    }
}

fn summary(view: &View, group: &Group) -> Markup {
    let columns: Vec<&Column> = (COLUMNS.iter())
        .filter(|column| {
            group
                .rows
                .iter()
                .any(|row| (column.cell)(group, row) != ABSENT)
        })
        .collect();
    let failures = group.rows.iter().any(|row| row.failed > 0);
    let mut rows = group.rows.clone();
    rows.sort_by_key(|row| !is_reference(group, row));
    html! {
        div.scroll { table.summary {
            thead { tr {
                th { "Estimator" }
                @if same_n(group).is_none() { th.n title="Samples that entered the averages" { "n" } }
                @if failures { th.n { "failed" } }
                @for column in &columns { th.n title=(column.meaning) { (column.heading) } }
            } }
            tbody { @for row in rows { tr.reference[is_reference(group, row)] {
                th scope="row" { (swatch(view, &row.estimator)) (view.name(&row.estimator))
                    @if view.name(&row.estimator) != clean(&row.estimator) { code.kind { (clean(&row.estimator)) } }
                    span.kind { (clean(&row.kind)) (bound(row)) @if is_reference(group, row) { ", reference" } }
                }
                @if same_n(group).is_none() { td.n { (count(row.n as f64)) } }
                @if failures {
                    td.n.failed[row.failed > 0] { @if row.failed > 0 { strong { (row.failed) } } @else { "0" } } }
                @for column in &columns { td.n { ((column.cell)(group, row)) } }
            } } }
        } }
        p.note {
            "± is one standard error of the mean over the data. Bias, RMSE and r are paired per sample against "
            (view.name(group.reference)) "; brackets are 95 % intervals. Cost is per sample, in evaluations of "
            "the network. "
            (ABSENT) " stands for: not defined here."
        }
    }
}

/// The number of samples, where it is the same for all estimators.
fn same_n(group: &Group) -> Option<usize> {
    let n = group.rows.first()?.n;
    group
        .rows
        .iter()
        .all(|row| row.n == n && row.failed == 0)
        .then_some(n)
}

fn is_reference(group: &Group, row: &Summary) -> bool {
    row.estimator == group.reference
}

fn bias(group: &Group, row: &Summary) -> String {
    let Some(bias) = finite(row.bias).filter(|_| !is_reference(group, row)) else {
        return ABSENT.into();
    };
    match interval(row.bias, row.bias_stderr, row.bias_n) {
        Some(interval) => {
            format!(
                "{} {interval}",
                to_error(bias, row.bias_stderr.unwrap_or(0.0))
            )
        }
        None => significant(bias, 3),
    }
}

/// The estimator's colour in the figures.
fn swatch(view: &View, estimator: &str) -> Markup {
    let [r, g, b] = view.look(estimator).colour;
    html! { span.swatch style={ "background:rgb(" (r) "," (g) "," (b) ")" } {} }
}

fn pairs(view: &View, group: &Group) -> Markup {
    let here = |pair: &&Pair| {
        (
            pair.model.as_str(),
            pair.dataset.as_str(),
            pair.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let pairs: Vec<&Pair> = view.tables.pairs.iter().filter(here).collect();
    html! {
        @if !pairs.is_empty() { details {
            summary { "Every pair of estimators (" (pairs.len()) ")" }
            div.scroll { table {
                thead { tr { th { "Estimator" } th { "minus" } th.n { "n" } th.n { "difference ± SE, nats" }
                    th.n { "95 % interval" } } }
                tbody { @for pair in pairs { tr {
                    td { (clean(&pair.estimator)) } td { (clean(&pair.other)) } td.n { (count(pair.n as f64)) }
                    td.n { (with_error(Some(pair.difference), Some(pair.difference_stderr))) }
                    td.n.off[excludes_zero(pair)] {
                        "[" (to_error(pair.low, pair.difference_stderr)) ", "
                        (to_error(pair.high, pair.difference_stderr)) "]"
                    }
                } } }
            } }
            p.note { "Mean paired difference over the same samples ± one standard error. Bold: the interval "
            "does not contain zero." }
        } }
    }
}

fn excludes_zero(pair: &Pair) -> bool {
    pair.low > 0.0 || pair.high < 0.0
}

/// Each two datasets of the model: how far apart it puts them, and how well it tells them apart.
pub fn gaps(view: &View, model: &str) -> Markup {
    let rows: Vec<&Gap> = view
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
                    th { "Dataset" } th { "minus" } @if solvers { th { "Solver" } } th { "Estimator" }
                    th.n { "n" } th.n { "n" }
                    th.n { "difference ± SE, nats" } th.n { "95 % interval" } th.n { "bits/dim ± SE" }
                    th.n title="Chance that a sample of the first has a higher log-likelihood than one of the second; DeLong's error" {
                        "AUROC ± SE"
                    }
                } }
                tbody { @for gap in rows { tr {
                    th scope="row" { (clean(&gap.dataset)) } td { (clean(&gap.other)) }
                    @if solvers { td { (clean(&gap.solver)) } }
                    td { (view.name(&gap.estimator)) }
                    td.n { (count(gap.n as f64)) } td.n { (count(gap.n_other as f64)) }
                    td.n { (with_error(Some(gap.difference), Some(gap.difference_stderr))) }
                    td.n { "[" (to_error(gap.low, gap.difference_stderr)) ", " (to_error(gap.high, gap.difference_stderr)) "]" }
                    td.n { (with_error(gap.bits_per_dim, gap.bits_per_dim_stderr)) }
                    td.n { (with_error(Some(gap.auroc), gap.auroc_stderr)) }
                } } }
            } }
            p.note { "Mean log-likelihood of the first dataset minus that of the second; above zero, the model ranks the "
            "first higher. ± is one standard error over two independent sets of samples. An AUROC of ½ tells nothing apart; "
            "one without an error is of two sets that do not overlap." }
        }
    }
}

/// Statistics of generated samples, each beside the data-versus-data floor.
pub fn metrics(view: &View, model: &str) -> Markup {
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
                    th.n title="The same statistic of data against data, near which a perfect model would lie" {
                        "floor ± SE"
                    }
                    th.n title="How many combined standard errors the value lies above the floor" { "above floor" }
                    th.n { "generated" } th.n { "reference" }
                    th.n title="Evaluations of the network per generated sample" { "evaluations" }
                    th.n title="Jacobian products per generated sample" { "products" }
                    th.n title="Evaluations per sample, products counted at their measured ratio" { "cost" }
                    @if noted { th { "note" } }
                } }
                tbody {
                    @for row in rows.iter().filter(|row| row.sampler != FLOOR) { (metric(row, floor(&rows, row), noted)) }
                    @for row in rows.iter().filter(|row| row.sampler == FLOOR && alone(&rows, row)) {
                        (metric(row, None, noted))
                    }
                }
            } }
            p.note { "± is one standard error of the statistic. The floor is the same statistic of data "
            "against data, near which a perfect model would lie; its distance counts both errors." }
        }
    }
}

/// Differences between samplers that began at the same noise.
pub fn contrasts(view: &View, model: &str) -> Markup {
    let rows: Vec<&Contrast> = view
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
            h4 { "Samplers against others, from the same noise" }
            div.scroll { table {
                thead { tr {
                    th { "Sampler" } th { "less" } th { "Statistic" } th.n { "pairs" } th.n { "difference ± SE" }
                    th.n { "95 % interval" }
                } }
                tbody { @for row in &rows { tr {
                    th scope="row" { (clean(&row.sampler)) }
                    td { (clean(&row.baseline)) }
                    td { (clean(&row.metric)) }
                    td.n { (count(row.n as f64)) }
                    @if row.difference == 0.0 && row.difference_stderr == 0.0 {
                        td.n { "0" } td.n { "the same samples" }
                    } @else {
                        td.n { (with_error(Some(row.difference), Some(row.difference_stderr))) }
                        td.n.off[row.low > 0.0 || row.high < 0.0] {
                            "[" (to_error(row.low, row.difference_stderr)) ", "
                            (to_error(row.high, row.difference_stderr)) "]"
                        }
                    }
                } } }
            } }
            p.note { "A statistic of the one sampler's samples less that of the other's, which began at the same noise, so that "
            "what both share cancels. The error is over the pairs and over the reference data. Below zero: nearer to the "
            "data, for a distance. Bold: the interval does not contain zero, which of " (count(rows.len() as f64)) " intervals "
            (count(apart as f64)) " do not; of many, one in twenty does so by chance." }
        }
    }
}

fn metric(row: &MetricRow, floor: Option<&MetricRow>, noted: bool) -> Markup {
    html! { tr {
        th scope="row" { (clean(&row.sampler)) }
        td { (clean(&row.metric)) }
        td { @if row.features.is_empty() { (ABSENT) } @else { code { (clean(&row.features)) } } }
        td.n { (with_error(Some(row.value), row.stderr)) }
        td.n { (floor.map_or(ABSENT.into(), |floor| with_error(Some(floor.value), floor.stderr))) }
        td.n { (floor.and_then(|floor| distance(row, floor)).unwrap_or(ABSENT.into())) }
        td.n { (count(row.n_generated as f64)) }
        td.n { (count(row.n_reference as f64)) }
        td.n { (count(row.evaluations)) }
        td.n { (count(row.jvps)) }
        td.n { (count(row.cost.round())) }
        @if noted { td.wide { (said(row, floor)) } }
    } }
}

/// What to know before trusting a row and its distance from the floor.
fn said(row: &MetricRow, floor: Option<&MetricRow>) -> String {
    let of_floor = floor.filter(|floor| !floor.note.is_empty());
    let of_floor = of_floor.map(|floor| format!("floor: {}", clean(&floor.note)));
    let notes = (!row.note.is_empty())
        .then(|| clean(&row.note))
        .into_iter()
        .chain(of_floor);
    notes.collect::<Vec<_>>().join("; ")
}

/// The floor of a row: the same statistic on the same features.
pub fn floor<'a>(rows: &[&'a MetricRow], row: &MetricRow) -> Option<&'a MetricRow> {
    let same = |other: &&&MetricRow| {
        other.sampler == FLOOR && other.metric == row.metric && other.features == row.features
    };
    rows.iter().find(same).copied()
}

/// A floor without a generated row stands for itself.
fn alone(rows: &[&MetricRow], floor: &MetricRow) -> bool {
    !rows.iter().any(|row| {
        row.sampler != FLOOR && row.metric == floor.metric && row.features == floor.features
    })
}

fn distance(row: &MetricRow, floor: &MetricRow) -> Option<String> {
    let error = finite(row.stderr)?.hypot(finite(floor.stderr)?);
    let distance = (row.value - floor.value) / error;
    distance
        .is_finite()
        .then(|| format!("{} SE", significant(distance, 2)))
}

/// Whether the 95 % interval of the row's bias contains zero, where there is one.
pub fn contains_zero(row: &Summary) -> Option<bool> {
    let (bias, error) = (finite(row.bias)?, finite(row.bias_stderr)?);
    Some(bias.abs() <= half_width(Some(error), row.bias_n))
}
