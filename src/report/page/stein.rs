//! The Stein tests of divergence heads: the largest deviation per kind of test function and stratum
//! of time.

use maud::{Markup, html};

use super::data_table::{Column, data_table, shown_cell, value_cell};
use crate::report::number_format::{format_count, format_significant, format_with_error};
use crate::report::text::sanitize_line;
use crate::report::view::ReportView;
use crate::rows::SteinRow;

/// The kinds of test functions: the heading of each column, and the prefix of the functions' names.
const TEST_FUNCTION_KINDS: [(&str, &str); 4] = [
    ("g = 1", "1"),
    ("g = x[a]", "x["),
    ("g = |x|²/d", "x.x/d"),
    ("g = cos", "cos "),
];

/// The tests of every head of a model.
pub(super) fn stein_section(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&SteinRow> = view
        .tables
        .stein
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let mut groups: Vec<(&str, &str)> = Vec::new();
    for row in &rows {
        if !groups.contains(&(row.dataset.as_str(), row.head.as_str())) {
            groups.push((&row.dataset, &row.head));
        }
    }
    html! {
        @for (dataset, head) in groups {
            h4 {
                "Stein tests of the head " (sanitize_line(head))
                span.solver { (sanitize_line(dataset)) }
            }
            @let same = |r: &&&SteinRow| r.dataset == dataset && r.head == head;
            (stein_table(rows.iter().filter(same).copied().collect()))
        }
    }
}

/// The table of one head on one dataset.
fn stein_table(rows: Vec<&SteinRow>) -> Markup {
    let tests: Vec<&SteinRow> = rows.iter().filter(|r| r.z.is_some()).copied().collect();
    let mut strata: Vec<(f64, f64)> = Vec::new();
    for row in &tests {
        if !strata.contains(&(row.from, row.to)) {
            strata.push((row.from, row.to));
        }
    }
    let worst = tests.iter().max_by(|a, b| abs_z(a).total_cmp(&abs_z(b)));
    html! {
        @let kinds = TEST_FUNCTION_KINDS.map(|(heading, _)| Column::number(heading, heading, ""));
        @let columns: Vec<Column> =
            std::iter::once(Column::text("times", "Times")).chain(kinds).collect();
        (data_table(
            "stein",
            "The largest |z| of each kind of test function",
            &columns,
            html! { @for stratum in &strata { tr {
                th scope="row" {
                    (format_significant(stratum.0, 3)) " to " (format_significant(stratum.1, 3))
                }
                @for (_, prefix) in TEST_FUNCTION_KINDS { (stein_cell(&tests, *stratum, prefix)) }
            } } },
        ))
        p.note {
            "The largest |z| of each kind of test function, per stratum of time. Bold values are "
            "rejected at 5 % over all " (format_count(tests.len() as f64)) " tests (Bonferroni). "
            @if let Some(worst) = worst.filter(|w| is_rejected(w)) {
                "This head is not the divergence of this velocity: |z| = "
                (format_significant(abs_z(worst), 3)) " for "
                code { (sanitize_line(&worst.function)) } ". "
            } @else { "No test distinguishes this head from the divergence. " }
            @for bias in rows.iter().filter(|r| r.z.is_none()) {
                "Its mean bias over noised data, which was found without any Jacobian, is "
                (format_with_error(bias.mean, bias.stderr)) " nats"
                @if bias.bits_per_dim.is_some() {
                    " ("
                    (format_with_error(bias.bits_per_dim, bias.bits_per_dim_stderr))
                    " bits/dim)"
                }
                ". The test function g = 1 detects only this bias."
            }
        }
    }
}

fn abs_z(row: &SteinRow) -> f64 {
    row.z.map_or(0.0, f64::abs)
}

/// Whether the test rejects the head at 5 %, corrected for the number of tests.
fn is_rejected(row: &SteinRow) -> bool {
    row.p.is_some_and(|p| p < 0.05)
}

/// The largest |z| of one kind of test function in one stratum.
fn stein_cell(tests: &[&SteinRow], stratum: (f64, f64), prefix: &str) -> Markup {
    let kind = |r: &&&SteinRow| {
        (r.from, r.to) == stratum
            && r.function.starts_with(prefix)
            && (prefix != "1" || r.function == "1")
    };
    let worst = tests
        .iter()
        .filter(kind)
        .max_by(|a, b| abs_z(a).total_cmp(&abs_z(b)));
    match worst {
        Some(row) => {
            let z = abs_z(row);
            shown_cell(Some(z), &format_significant(z, 3), is_rejected(row))
        }
        None => value_cell(None, None),
    }
}
