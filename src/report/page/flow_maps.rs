//! How far flow maps satisfy the identities of a flow map: the residuals of these identities.

use maud::{Markup, html};

use super::data_table::{Column, count_cell, data_table, shown_cell, value_cell};
use crate::report::number_format::{ABSENT, format_count, format_optional};
use crate::report::text::sanitize_line;
use crate::report::view::ReportView;
use crate::rows::MapRow;

/// The formula of each identity's residual, by the name of the identity.
const IDENTITY_DESCRIPTIONS: [(&str, &str); 8] = [
    (
        "log-determinant",
        "Σ (t′ − t) D minus ln |det ∂X/∂x| over the steps, with the map's exact Jacobian",
    ),
    (
        "semigroup-divergence",
        "Σ (t′ − t) D of a step minus that of its two halves",
    ),
    (
        "semigroup-state",
        "distance between the end of a step and the end of its two halves",
    ),
    (
        "diagonal",
        "D(x, t, t) minus the exact trace of ∂u/∂x (x, t, t)",
    ),
    (
        "diagonal-velocity",
        "D(x, t, t) minus the exact trace of the Jacobian of the model's own velocity",
    ),
    (
        "inverse-divergence",
        "Σ (t′ − t) D of a step and of the step back",
    ),
    (
        "inverse-state",
        "distance from the start after a step and the step back",
    ),
    (
        "normalization",
        "total mass of the few-step density minus one, by importance sampling from an equal \
         mixture of a kernel density of the data and a normal distribution with twice the \
         standard deviations of the data",
    ),
];

/// The columns of the table of identities.
const MAP_COLUMNS: [fn() -> Column<'static>; 7] = [
    || Column::text("identity", "Identity"),
    || Column::number("steps", "steps", ""),
    || Column::number("residual", "residual ± SE", ""),
    || Column::number("rms", "rms", ""),
    || Column::text("unit", "unit"),
    || Column::number("n", "n", ""),
    || {
        Column::number("effective_n", "effective n", "")
            .meaning("Number of draws of equal weight that would be as precise")
    },
];

/// One table for each map and dataset of the model.
pub(super) fn flow_map_tables(view: &ReportView, model: &str) -> Markup {
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
            @let same = |r: &&&MapRow| r.map == map && r.dataset == dataset;
            @let rows: Vec<&MapRow> = rows.iter().filter(same).copied().collect();
            h4 {
                "Is " (sanitize_line(map)) " a flow map?"
                span.solver { (sanitize_line(dataset)) }
            }
            (data_table(
                &format!("map-{model}-{map}"),
                &format!("Identities of the flow map {map}"),
                &MAP_COLUMNS.map(|column| column()),
                html! { @for check in distinct_checks(&rows) {
                    @for row in rows.iter().filter(|r| r.check == check) { tr {
                    th scope="row" title=(identity_description(check)) { (sanitize_line(check)) }
                    (count_cell(row.steps as f64))
                    (value_cell(Some(row.residual), row.residual_stderr))
                    (shown_cell(row.rms, &format_optional(row.rms, 3), false))
                    td { (sanitize_line(&row.unit)) }
                    (count_cell(row.n as f64))
                    (shown_cell(
                        row.effective_n,
                        &row.effective_n.map_or(ABSENT.into(), format_count),
                        false,
                    ))
                } } } },
            ))
            p.note {
                "The residuals of a true flow map are zero. Each residual is a mean over samples ± "
                "one standard error, and rms is its root mean square. The identities are: "
                @for (i, check) in distinct_checks(&rows).into_iter().enumerate() {
                    @if i > 0 { "; " }
                    b { (sanitize_line(check)) } ": " (identity_description(check))
                }
                "."
            }
        }
    }
}

/// The identities of the rows, each once.
fn distinct_checks<'a>(rows: &[&'a MapRow]) -> Vec<&'a str> {
    let mut found: Vec<&str> = vec![];
    for row in rows {
        if !found.contains(&row.check.as_str()) {
            found.push(&row.check);
        }
    }
    found
}

/// The formula of an identity's residual, or an empty text if the identity is unknown.
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
