//! Calibration of posteriors: the tests of ranks, and the coverage at a few credibilities.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, name_markup, shown_cell, value_cell};
use crate::calibration::STATISTICS;
use crate::calibration::local_c2st::local_p_value;
use crate::report::number_format::{ABSENT, format_count, format_fixed, format_optional};
use crate::report::text::sanitize_line;
use crate::report::view::{CalibrationGroup, ReportView};
use crate::rows::{CalibrationRow, RankRow};

/// The largest number of parameters that the table of a test shows.
const MAX_PARAMETERS: usize = 32;
/// The number of observations that the table of a local test shows.
const MAX_LOCAL: usize = 10;
/// The statistics that the table shows with their p-values, in the order of its columns.
const SHOWN_TESTS: [&str; 2] = ["ecdf", "chi-square"];
/// The statistics that the table shows with their errors and p-values.
const SHOWN_MOMENTS: [&str; 2] = ["dispersion", "location"];
/// The credibilities of the table of coverage.
const SHOWN_LEVELS: [f64; 4] = [0.5, 0.8, 0.9, 0.95];

/// The tests of every dataset, sampler and number of draws of a model.
pub(super) fn calibration_section(view: &ReportView, model: &str) -> Markup {
    let groups = view.calibration_groups();
    html! {
        @for group in groups.iter().filter(|group| group.model == model) {
            h4 {
                "Calibration of the posterior"
                span.solver {
                    (sanitize_line(group.dataset)) ", " (sanitize_line(group.sampler)) ", "
                    (format_count(group.draws as f64)) " draws each"
                }
            }
            @let rows: Vec<&CalibrationRow> =
                view.tables.calibration.iter().filter(|row| group.holds(row)).collect();
            (uniformity_table(group, &rows))
            (coverage_table(group, &rows))
            (local_table(view, group, &rows))
        }
    }
}

/// The statistic of that name for one test and parameter.
fn find_row<'a>(
    rows: &[&'a CalibrationRow],
    test: &str,
    parameter: &str,
    statistic: &str,
) -> Option<&'a CalibrationRow> {
    let is = |row: &&&CalibrationRow| {
        (
            row.test.as_str(),
            row.parameter.as_str(),
            row.statistic.as_str(),
        ) == (test, parameter, statistic)
    };
    rows.iter().find(is).copied()
}

/// The parameters of a test in the order of the rows, each once; the corrected ones come first.
fn distinct_parameters<'a>(rows: &[&'a CalibrationRow], test: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|row| row.test == test) {
        if !found.contains(&row.parameter.as_str()) {
            found.push(&row.parameter);
        }
    }
    found.sort_by_key(|parameter| *parameter != "all");
    found
}

/// The tests of uniform ranks: a row for each test and parameter.
fn uniformity_table(group: &CalibrationGroup, rows: &[&CalibrationRow]) -> Markup {
    let mut hidden = 0;
    let lines: Vec<(&str, &str)> = (group.tests.iter())
        .filter(|test| local_row(rows, test).is_none())
        .flat_map(|test| {
            let parameters = distinct_parameters(rows, test);
            hidden += parameters.len().saturating_sub(MAX_PARAMETERS + 1);
            let shown = parameters.into_iter().take(MAX_PARAMETERS + 1);
            shown
                .map(|parameter| (*test, parameter))
                .collect::<Vec<_>>()
        })
        .collect();
    html! {
        (data_table(
            &format!("ranks-{}", group.model),
            "Tests of uniform ranks",
            &uniformity_columns(),
            html! { @for (test, parameter) in lines { tr {
                @let of = |name: &str| find_row(rows, test, parameter, name);
                th scope="row" { (name_markup(test)) }
                td { (parameter_name(parameter)) }
                (optional_count_cell(of("ecdf").map(|row| row.n)))
                (optional_count_cell(of("ecdf").map(|row| row.failed)))
                @for name in SHOWN_TESTS {
                    @let value = of(name).and_then(|row| row.value);
                    (shown_cell(value, &format_optional(value, 3), false))
                    (p_cell(of(name)))
                }
                @for name in SHOWN_MOMENTS {
                    (moment_cell(of(name)))
                    (p_cell(of(name)))
                }
            } } },
        ))
        p.note {
            "If the model is the posterior, all ranks are equally likely. Bold p-values are below "
            "5 %. For " i { "all" } " parameters, p is the smallest one times the number of "
            "parameters (Bonferroni), with the value behind it. "
            @for (i, name) in SHOWN_TESTS.iter().chain(&SHOWN_MOMENTS).enumerate() {
                @if i > 0 { "; " }
                b { (name) } ": " (statistic_meaning(name))
            }
            "."
            @if hidden > 0 {
                " " (format_count(f64::from(u32::try_from(hidden).unwrap_or(u32::MAX))))
                " more parameters are in " code { "calibration.csv" } "."
            }
        }
    }
}

/// The coverage at a few credibilities, and the log-density of the true parameters.
fn coverage_table(group: &CalibrationGroup, rows: &[&CalibrationRow]) -> Markup {
    let curve = |test: &str| -> Vec<&CalibrationRow> {
        let points = rows.iter().filter(|row| row.test == test);
        points.filter(|row| row.level.is_some()).copied().collect()
    };
    let tests: Vec<&str> = (group.tests.iter().copied())
        .filter(|test| !curve(test).is_empty())
        .collect();
    let near = |test: &str, level: f64| {
        let gap = |row: &CalibrationRow| (row.level.unwrap_or(f64::INFINITY) - level).abs();
        let points = curve(test).into_iter();
        let nearest = points.min_by(|a, b| gap(a).total_cmp(&gap(b)));
        nearest.filter(|row| gap(row) < 0.03)
    };
    html! { @if !tests.is_empty() {
        (data_table(
            &format!("coverage-{}", group.model),
            "Coverage at credibility",
            &coverage_columns(),
            html! { @for test in tests { tr {
                th scope="row" { (name_markup(test)) }
                @for level in SHOWN_LEVELS {
                    @let row = near(test, level);
                    @let text = row.map_or(ABSENT.to_owned(), coverage_text);
                    (shown_cell(row.and_then(|row| row.value), &text, false))
                }
                @for name in ["area", "log-density"] { (moment_cell(find_row(rows, test, "", name))) }
            } } },
        ))
        p.note {
            "The share of observations in percent with its 95 % interval. The region of a "
            "credibility holds the draws of highest density (" code { "coverage" } ") or those "
            "nearest to a random point (" code { "tarp" } ")."
        }
    } }
}

/// The share of observations at which a test of one observation at a time rejects.
fn local_row<'a>(rows: &[&'a CalibrationRow], test: &str) -> Option<&'a CalibrationRow> {
    find_row(rows, test, "", "rejected")
}

/// The observations under which classifiers tell draws from true parameters best.
fn local_table(view: &ReportView, group: &CalibrationGroup, rows: &[&CalibrationRow]) -> Markup {
    let found: Vec<(&str, &CalibrationRow)> = (group.tests.iter())
        .filter_map(|test| Some((*test, local_row(rows, test)?)))
        .collect();
    html! { @for (test, row) in found {
        @let mut ranks: Vec<&RankRow> = view.tables.ranks.iter()
            .filter(|rank| group.holds_ranks(rank) && rank.test == test && rank.rank.is_some())
            .collect();
        @let () = ranks.sort_by(|a, b| {
            b.rank.cmp(&a.rank).then(b.value.unwrap_or(0.0).total_cmp(&a.value.unwrap_or(0.0)))
        });
        @let all = (group.draws + 1) as f64;
        (data_table(
            &format!("local-{}", group.model),
            "Observations with the smallest p-values",
            &local_columns(),
            html! { @for rank in ranks.iter().take(MAX_LOCAL) { tr {
                th scope="row" { (rank.sample) }
                @let p = rank.rank.map(|rank| local_p_value(rank, all));
                (shown_cell(p, &format_optional(p, 4), false))
                (shown_cell(rank.value, &format_optional(rank.value, 4), false))
            } } },
        ))
        p.note {
            (name_markup(test)) " rejects "
            (format_optional(row.value.map(|share| 100.0 * share), 1))
            " % of " (format_count(row.n as f64)) " observations at a level of 5 %; for all together, p "
            "is " (format_optional(row.p, 4)) ", twice the mean of their p-values. Under each "
            "observation a classifier that tells true parameters from draws is compared with "
            "classifiers whose classes were exchanged at random. All observations share their "
            "classifiers, so that p-values of different observations are dependent. The others are in "
            code { "ranks.csv" } ": p = 1 − rank / (draws + 1)."
        }
    } }
}

/// The columns of the observations of a local test.
fn local_columns() -> Vec<Column<'static>> {
    vec![
        Column::text("observation", "Observation"),
        Column::number("p", "p", ""),
        Column::number("deviation", "deviation", "").meaning(statistic_meaning("deviation")),
    ]
}

/// The share of a point of a curve in percent, with its interval.
fn coverage_text(row: &CalibrationRow) -> String {
    let percent = |value: Option<f64>| {
        value.map_or(ABSENT.to_owned(), |value| format_fixed(100.0 * value, 1))
    };
    format!(
        "{} [{}, {}]",
        percent(row.value),
        percent(row.low),
        percent(row.high)
    )
}

/// The columns of the tests of uniform ranks.
fn uniformity_columns() -> Vec<Column<'static>> {
    let mut columns = vec![
        Column::text("test", "Test"),
        Column::text("parameter", "parameter"),
        Column::number("n", "n", ""),
        Column::number("failed", "failed", ""),
    ];
    let p = |name: &str| Column::number(format!("{name}_p"), "p", "");
    for name in SHOWN_TESTS {
        columns.push(Column::number(name, name, "").meaning(statistic_meaning(name)));
        columns.push(p(name));
    }
    for name in SHOWN_MOMENTS {
        let heading = format!("{name} ± SE");
        columns.push(Column::number(name, heading, "").meaning(statistic_meaning(name)));
        columns.push(p(name));
    }
    columns
}

/// The columns of the coverage.
fn coverage_columns() -> Vec<Column<'static>> {
    let level = |level: f64| {
        let percent = format_fixed(100.0 * level, 0);
        Column::number(format!("coverage_{percent}"), format!("{percent} %"), "")
    };
    let statistic = |name: &'static str| {
        Column::number(name, format!("{name} ± SE"), "").meaning(statistic_meaning(name))
    };
    std::iter::once(Column::text("test", "Coverage at credibility"))
        .chain(SHOWN_LEVELS.map(level))
        .chain(["area", "log-density"].map(statistic))
        .collect()
}

fn moment_cell(row: Option<&CalibrationRow>) -> Markup {
    value_cell(
        row.and_then(|row| row.value),
        row.and_then(|row| row.stderr),
    )
}

fn optional_count_cell(count: Option<usize>) -> Markup {
    count.map_or_else(|| value_cell(None, None), |count| count_cell(count as f64))
}

/// A p-value, bold below 5 %.
fn p_cell(row: Option<&CalibrationRow>) -> Markup {
    let p = row.and_then(|row| row.p);
    shown_cell(p, &format_optional(p, 2), p.is_some_and(|p| p < 0.05))
}

/// A parameter in the table.
fn parameter_name(parameter: &str) -> String {
    match parameter {
        "" => "together".to_owned(),
        other => sanitize_line(other),
    }
}

/// The meaning of a statistic in a few words.
fn statistic_meaning(name: &str) -> &'static str {
    let mut known = STATISTICS.iter();
    known
        .find(|(known, _)| *known == name)
        .map_or("", |(_, meaning)| meaning)
}
