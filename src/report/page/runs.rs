//! Several runs in one table, where they evaluated the same data.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, name_markup, shown_cell, value_cell};
use crate::report::number_format::{ABSENT, format_to_error_digits};
use crate::report::view::ReportView;
use crate::rows::RunRow;

/// One table for each dataset that several runs evaluated. Empty on the page of one run.
pub(super) fn runs_section(view: &ReportView) -> Markup {
    let rows = &view.tables.runs;
    let mut datasets: Vec<&str> = Vec::new();
    for row in rows {
        if !datasets.contains(&row.data_sha256.as_str()) {
            datasets.push(&row.data_sha256);
        }
    }
    html! {
        @if !rows.is_empty() {
            article.model #runs {
                h3 { "Runs side by side" }
                @for dataset in datasets {
                    @let own: Vec<&RunRow> =
                        rows.iter().filter(|row| row.data_sha256 == dataset).collect();
                    (runs_table(&own))
                }
                p.note {
                    "Rows are in one table where the runs evaluated the same data by its SHA-256, "
                    "and differences are paired per sample, minus the first row. A difference is "
                    "absent where the runs share fewer than two samples. Models with one name are "
                    "the same only if the hashes of their files agree."
                }
            }
        }
    }
}

fn runs_table(rows: &[&RunRow]) -> Markup {
    let dataset = rows.first().map_or("", |row| &row.dataset);
    let bits = rows.iter().any(|row| row.bits_per_dim.is_some());
    let columns = [
        Some(Column::text("run", "Run")),
        Some(Column::text("model", "Model")),
        Some(Column::text("model_sha256", "files of the model")),
        Some(Column::text("estimator", "Estimator")),
        Some(Column::text("solver", "Solver")),
        Some(Column::text("kind", "kind").off()),
        Some(Column::number("n", "n", "")),
        bits.then(|| Column::number("bits_per_dim", "bits/dim ± SE", "bits/dim")),
        Some(Column::number("nats", "nats ± SE", "nats")),
        Some(Column::number("pairs", "pairs", "")),
        Some(Column::number(
            "difference",
            "difference ± SE, nats",
            "nats",
        )),
        Some(Column::number("low", "95 % interval", "nats")),
    ];
    html! {
        h4 { (name_markup(dataset)) }
        (data_table(
            &format!("runs-{dataset}"),
            &format!("Runs side by side on {dataset}"),
            &columns.into_iter().flatten().collect::<Vec<_>>(),
            html! { @for (i, row) in rows.iter().enumerate() { tr.reference[i == 0] {
                th scope="row" { (name_markup(&row.run)) }
                td { (name_markup(&row.model)) }
                td { code.hash { (row.model_sha256.chars().take(8).collect::<String>()) } }
                td { (name_markup(&row.estimator)) }
                td { (name_markup(&row.solver)) }
                td { (row.kind) }
                (count_cell(row.n as f64))
                @if bits { (value_cell(row.bits_per_dim, row.bits_per_dim_stderr)) }
                (value_cell(row.nats, row.nats_stderr))
                (count_cell(row.pairs as f64))
                (value_cell(row.difference, row.difference_stderr))
                (interval_cell(row))
            } } },
        ))
    }
}

/// The interval of the difference, in bold if it does not contain zero.
fn interval_cell(row: &RunRow) -> Markup {
    match (row.low, row.high, row.difference_stderr) {
        (Some(low), Some(high), Some(error)) => {
            let end = |value| format_to_error_digits(value, error);
            let text = format!("[{}, {}]", end(low), end(high));
            shown_cell(Some(low), &text, low > 0.0 || high < 0.0)
        }
        _ => shown_cell(None, ABSENT, false),
    }
}
