//! One run under named conventions: what other programs would print for the same log-likelihoods.

use maud::{Markup, html};

use crate::report::number::{ABSENT, finite, significant, with_error};
use crate::report::text::clean;
use crate::report::view::{Group, View};
use crate::rows::Convention;

/// A row per convention, a column per estimator.
pub fn section(view: &View, group: &Group) -> Markup {
    let here = |row: &&Convention| {
        (
            row.model.as_str(),
            row.dataset.as_str(),
            row.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let rows: Vec<&Convention> = view.tables.conventions.iter().filter(here).collect();
    let estimators = group.estimators();
    let first = rows.first().map_or("", |row| row.estimator.as_str());
    html! {
        @if !rows.is_empty() { details {
            summary { "Under named conventions" }
            div.scroll { table {
                thead { tr {
                    th { "Convention" } th { "Unit" } th.n title="value = scale · log p + offset" { "offset" }
                    @for estimator in &estimators { th.n { (view.name(estimator)) } }
                    th { "Formula, source and protocol" }
                } }
                tbody { @for one in rows.iter().filter(|row| row.estimator == first) { tr {
                    th scope="row" { code { (clean(&one.convention)) } }
                    td { (clean(&one.unit)) }
                    td.n { (finite(one.offset).map_or(ABSENT.into(), |offset| significant(offset, 6))) }
                    @if one.reason.is_empty() {
                        @for estimator in &estimators { td.n { (value(&rows, one, estimator)) } }
                    } @else {
                        td.wide colspan=(estimators.len().max(1)) { "does not apply: " (clean(&one.reason)) }
                    }
                    td.wide { (clean(&one.formula)) " (" (clean(&one.source)) ")"
                        @if !one.protocol.is_empty() { ". That code: " (clean(&one.protocol)) "." } }
                } } }
            } }
            p.note {
                "Mean over samples ± one standard error over the data, of the same log-likelihoods; log p is in nats in "
                "the model's own coordinates, D the numbers in one sample. The formula is what the named code prints; "
                "its protocol, which this run did not repeat, is another source of difference."
            }
        } }
    }
}

fn value(rows: &[&Convention], one: &Convention, estimator: &str) -> String {
    let same = |row: &&&Convention| row.estimator == estimator && row.convention == one.convention;
    rows.iter()
        .find(same)
        .map_or(ABSENT.into(), |row| with_error(row.value, row.stderr))
}
