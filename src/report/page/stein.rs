//! Stein tests of divergence heads: what each test function finds in each stratum of time.

use maud::{Markup, html};

use crate::report::number::{ABSENT, count, significant, with_error};
use crate::report::text::clean;
use crate::report::view::View;
use crate::rows::Stein;

/// Kinds of test functions, as columns: heading, and which names belong to it.
const KINDS: [(&str, &str); 4] = [
    ("g = 1", "1"),
    ("g = x[a]", "x["),
    ("g = |x|²/d", "x.x/d"),
    ("g = cos", "cos "),
];

/// The tests of every head of a model.
pub fn section(view: &View, model: &str) -> Markup {
    let rows: Vec<&Stein> = view
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
            h4 { "Stein tests of the head " (clean(head)) span.solver { (clean(dataset)) } }
            (one(rows.iter().filter(|r| r.dataset == dataset && r.head == head).copied().collect()))
        }
    }
}

fn one(rows: Vec<&Stein>) -> Markup {
    let tests: Vec<&Stein> = rows.iter().filter(|r| r.z.is_some()).copied().collect();
    let mut strata: Vec<(f64, f64)> = Vec::new();
    for row in &tests {
        if !strata.contains(&(row.from, row.to)) {
            strata.push((row.from, row.to));
        }
    }
    let worst = tests.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
    html! {
        div.scroll { table {
            thead { tr { th { "Times" } @for (heading, _) in KINDS { th.n { (heading) } } } }
            tbody { @for stratum in &strata { tr {
                th scope="row" { (significant(stratum.0, 3)) " to " (significant(stratum.1, 3)) }
                @for (_, prefix) in KINDS { (cell(&tests, *stratum, prefix)) }
            } } }
        } }
        p.note {
            "The largest |z| of each kind of test function, per stratum of time; bold: rejected at 5 % over all "
            (count(tests.len() as f64)) " tests (Bonferroni). "
            @if let Some(worst) = worst.filter(|w| rejected(w)) {
                "This head is not the divergence of this velocity: |z| = " (significant(size(worst), 3)) " for "
                code { (clean(&worst.function)) } ". "
            } @else { "None of the tests tells this head from the divergence. " }
            @for bias in rows.iter().filter(|r| r.z.is_none()) {
                "Its bias in the mean, found without any Jacobian, is "
                (with_error(bias.mean, bias.stderr)) " nats"
                @if bias.bits_per_dim.is_some() {
                    " (" (with_error(bias.bits_per_dim, bias.bits_per_dim_stderr)) " bits/dim)"
                }
                ", over the law of noised data. g = 1 sees this bias alone."
            }
        }
    }
}

fn size(row: &Stein) -> f64 {
    row.z.map_or(0.0, f64::abs)
}

fn rejected(row: &Stein) -> bool {
    row.p.is_some_and(|p| p < 0.05)
}

fn cell(tests: &[&Stein], stratum: (f64, f64), prefix: &str) -> Markup {
    let kind = |r: &&&Stein| {
        (r.from, r.to) == stratum
            && r.function.starts_with(prefix)
            && (prefix != "1" || r.function == "1")
    };
    let worst = tests
        .iter()
        .filter(kind)
        .max_by(|a, b| size(a).total_cmp(&size(b)));
    html! { @match worst {
        Some(row) => td.n.off[rejected(row)] { (significant(size(row), 3)) },
        None => td.n { (ABSENT) },
    } }
}
