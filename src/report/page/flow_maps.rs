//! How far flow maps are flow maps: the residuals of their identities.

use maud::{Markup, html};

use crate::report::number_format::{ABSENT, format_count, format_optional, format_with_error};
use crate::report::text::sanitize_line;
use crate::report::view::ReportView;
use crate::rows::MapRow;

/// What each identity says.
const IDENTITY_DESCRIPTIONS: [(&str, &str); 8] = [
    (
        "log-determinant",
        "Σ (t′ − t) D less ln |det ∂X/∂x| along the walk, with the map's exact Jacobian",
    ),
    (
        "semigroup-divergence",
        "Σ (t′ − t) D of a step less that of its two halves",
    ),
    (
        "semigroup-state",
        "distance between the end of a step and the end of its two halves",
    ),
    (
        "diagonal",
        "D(x, t, t) less the exact trace of ∂u/∂x (x, t, t)",
    ),
    (
        "diagonal-velocity",
        "D(x, t, t) less the exact trace of the Jacobian of the model's own velocity",
    ),
    ("inverse-divergence", "Σ (t′ − t) D there and back again"),
    (
        "inverse-state",
        "distance from the start after a step there and back",
    ),
    (
        "normalization",
        "mass of the few-step density less one, by importance sampling from half a kernel density of \
                       the data and half a normal law of twice their standard deviations",
    ),
];

/// One table for each map of the model.
pub fn flow_map_tables(view: &ReportView, model: &str) -> Markup {
    let rows: Vec<&MapRow> = view
        .tables
        .maps
        .iter()
        .filter(|row| row.model == model)
        .collect();
    let mut maps: Vec<(&str, &str)> = vec![];
    for row in &rows {
        if !maps.contains(&(row.map.as_str(), row.dataset.as_str())) {
            maps.push((&row.map, &row.dataset));
        }
    }
    html! {
        @for (map, dataset) in maps {
            @let rows: Vec<&MapRow> = rows.iter().filter(|r| r.map == map && r.dataset == dataset).copied().collect();
            h4 { "Is " (sanitize_line(map)) " a flow map?" span.solver { (sanitize_line(dataset)) } }
            div.scroll { table {
                thead { tr {
                    th { "Identity" } th.n { "steps" } th.n { "residual ± SE" } th.n { "rms" } th { "unit" } th.n { "n" }
                    th.n title="Draws of equal weight that importance sampling is worth" { "effective n" }
                } }
                tbody { @for check in distinct_checks(&rows) { @for row in rows.iter().filter(|r| r.check == check) { tr {
                    th scope="row" title=(identity_description(check)) { (sanitize_line(check)) }
                    td.n { (row.steps) }
                    td.n { (format_with_error(Some(row.residual), row.residual_stderr)) }
                    td.n { (format_optional(row.rms, 3)) }
                    td { (sanitize_line(&row.unit)) }
                    td.n { (format_count(row.n as f64)) }
                    td.n { (row.effective_n.map_or(ABSENT.into(), format_count)) }
                } } } }
            } }
            p.note {
                "A true flow map has residuals of zero. "
                @for check in distinct_checks(&rows) { b { (sanitize_line(check)) } ": " (identity_description(check)) "; " }
                "each a mean over samples ± one standard error, with its root mean square."
            }
        }
    }
}

fn distinct_checks<'a>(rows: &[&'a MapRow]) -> Vec<&'a str> {
    let mut found: Vec<&str> = vec![];
    for row in rows {
        if !found.contains(&row.check.as_str()) {
            found.push(&row.check);
        }
    }
    found
}

fn identity_description(check: &str) -> &'static str {
    IDENTITY_DESCRIPTIONS
        .iter()
        .find(|(name, _)| *name == check)
        .map_or("", |(_, meaning)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_identity_is_explained() {
        assert_eq!(
            IDENTITY_DESCRIPTIONS.map(|m| m.0),
            crate::likelihood::flow_map_checks::FLOW_MAP_CHECKS
        );
    }
}
