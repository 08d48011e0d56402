//! How far flow maps are flow maps: the residuals of their identities.

use maud::{Markup, html};

use crate::report::number::{ABSENT, count, maybe, with_error};
use crate::report::text::clean;
use crate::report::view::View;
use crate::rows::MapRow;

/// What each identity says.
const MEANINGS: [(&str, &str); 8] = [
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
pub fn tables(view: &View, model: &str) -> Markup {
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
            h4 { "Is " (clean(map)) " a flow map?" span.solver { (clean(dataset)) } }
            div.scroll { table {
                thead { tr {
                    th { "Identity" } th.n { "steps" } th.n { "residual ± SE" } th.n { "rms" } th { "unit" } th.n { "n" }
                    th.n title="Draws of equal weight that importance sampling is worth" { "effective n" }
                } }
                tbody { @for check in checks(&rows) { @for row in rows.iter().filter(|r| r.check == check) { tr {
                    th scope="row" title=(meaning(check)) { (clean(check)) }
                    td.n { (row.steps) }
                    td.n { (with_error(Some(row.residual), row.residual_stderr)) }
                    td.n { (maybe(row.rms, 3)) }
                    td { (clean(&row.unit)) }
                    td.n { (count(row.n as f64)) }
                    td.n { (row.effective_n.map_or(ABSENT.into(), count)) }
                } } } }
            } }
            p.note {
                "A true flow map has residuals of zero. "
                @for check in checks(&rows) { b { (clean(check)) } ": " (meaning(check)) "; " }
                "each a mean over samples ± one standard error, with its root mean square."
            }
        }
    }
}

fn checks<'a>(rows: &[&'a MapRow]) -> Vec<&'a str> {
    let mut found: Vec<&str> = vec![];
    for row in rows {
        if !found.contains(&row.check.as_str()) {
            found.push(&row.check);
        }
    }
    found
}

fn meaning(check: &str) -> &'static str {
    MEANINGS
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
            MEANINGS.map(|m| m.0),
            crate::likelihood::calibration::CHECKS
        );
    }
}
