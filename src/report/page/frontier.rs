//! The cheapest estimator for a wanted accuracy.

use maud::{Markup, html};

use crate::report::number::{ABSENT, count, significant};
use crate::report::text::clean;
use crate::report::view::{Group, View};
use crate::rows::Frontier;

/// A row per wanted accuracy, a column per estimator.
pub fn section(view: &View, group: &Group) -> Markup {
    let here = |line: &&Frontier| {
        (
            line.model.as_str(),
            line.dataset.as_str(),
            line.solver.as_str(),
        ) == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&Frontier> = view.tables.frontier.iter().filter(here).collect();
    let mut wanted: Vec<(&str, &str, f64)> = vec![];
    for line in &lines {
        let one = (line.scope.as_str(), line.unit.as_str(), line.target);
        if !wanted.contains(&one) {
            wanted.push(one);
        }
    }
    wanted.sort_by(|a, b| (b.0, b.1).cmp(&(a.0, a.1)).then(b.2.total_cmp(&a.2)));
    let estimators = group.estimators();
    // With one estimator there is nothing to choose.
    html! {
        @if estimators.len() > 1 && !lines.is_empty() { details {
            summary { "The cheapest estimator for a wanted accuracy" }
            div.scroll { table {
                thead { tr { th { "Wanted standard error" } th { "least time" } th { "fewest Jacobian products" }
                    @for estimator in &estimators { th.n { (view.name(estimator)) } }
                } }
                tbody { @for (scope, unit, target) in &wanted {
                    @let row: Vec<&Frontier> = lines.iter().copied()
                        .filter(|l| (l.scope.as_str(), l.unit.as_str(), l.target) == (*scope, *unit, *target)).collect();
                    tr {
                        th scope="row" { (significant(*target, 1)) " " (clean(unit))
                            span.kind { @if *scope == "mean" { "of the mean" } @else { "per sample" } } }
                        td { (chosen(view, &row, |l| l.least_seconds)) }
                        td { (chosen(view, &row, |l| l.fewest_jvps)) }
                        @for estimator in &estimators {
                            td.n { (cell(row.iter().find(|l| l.estimator == **estimator).copied())) }
                        }
                    }
                } }
            } }
            p.note {
                "What one sample would cost: Jacobian products and measured seconds. Numbers of probes and replicates "
                "are extrapolated from this run by the law 1/K, which holds exactly for independent ones; a learned or "
                "few-step number is there only where its measured distance from the exact trace is already within what is "
                "wanted (per sample its RMSE, in the mean the upper end of the 95 % interval of its bias). The error is "
                "the estimator's alone: data, solver and dequantization are in the error budget. "
                (ABSENT) " stands for: out of reach, or not known."
            }
        } }
    }
}

fn chosen(view: &View, row: &[&Frontier], by: fn(&Frontier) -> bool) -> String {
    row.iter()
        .find(|l| by(l))
        .map_or(ABSENT.into(), |l| view.name(&l.estimator))
}

fn cell(line: Option<&Frontier>) -> Markup {
    html! {
        @match line.and_then(|l| Some((l, l.jvps?, l.seconds?))) {
            Some((line, jvps, seconds)) => {
                (count(jvps.round())) " products"
                span.kind {
                    @if let Some(needed) = line.needed { (count(needed)) " " (clean(&line.averages)) ", " }
                    (significant(seconds, 2)) " s"
                }
            }
            None => { (ABSENT) }
        }
    }
}
