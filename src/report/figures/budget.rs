//! The error budget: the size of each component in the mean, per estimator.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::{finite, significant};
use crate::report::palette::{self, INK, RULE};
use crate::report::picture::{Fill, Key, Mark, Notes, Panel, Picture, Side, Sign, Stroke};
use crate::report::view::{Group, View, title};
use crate::rows::Budget;

/// In the order in which a reader can do something about them.
pub const COMPONENTS: [&str; 5] = ["data", "probe", "solver", "dequantization", "numeric"];

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups_with_figures()
        .filter_map(|group| of(view, group))
        .collect()
}

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let here = |l: &&Budget| {
        (l.model.as_str(), l.dataset.as_str(), l.solver.as_str())
            == (group.model, group.dataset, group.solver)
    };
    let lines: Vec<&Budget> = view.tables.budget.iter().filter(here).collect();
    // Two components that everybody has are no budget yet.
    let shown: Vec<&str> = COMPONENTS
        .into_iter()
        .filter(|c| lines.iter().any(|l| sized(l, c).is_some()))
        .collect();
    if shown.len() < 2 || !shown.contains(&"solver") {
        return None;
    }
    let estimators = group.estimators();
    let names: Vec<String> = estimators.iter().map(|e| view.name(e)).collect();
    let sizes = lines
        .iter()
        .filter_map(|l| finite(l.mean_nats))
        .filter(|v| *v > 0.0);
    let mut panel = Panel::new(
        "",
        Axis::log("error of the mean, nats", sizes, 7),
        Axis::names(&names),
    );
    let (mut nats, mut bits) = (vec![], vec![]);
    for (i, estimator) in estimators.iter().enumerate() {
        let y = (estimators.len() - 1 - i) as f64;
        let own: Vec<&Budget> = lines
            .iter()
            .copied()
            .filter(|l| l.estimator == **estimator)
            .collect();
        let places: Vec<f64> = own
            .iter()
            .filter_map(|l| finite(l.mean_nats))
            .filter(|v| *v > 0.0)
            .collect();
        if let (Some(low), Some(high)) = (
            places.iter().copied().reduce(f64::min),
            places.iter().copied().reduce(f64::max),
        ) {
            panel
                .marks
                .push(Mark::line(vec![(low, y), (high, y)], RULE, 1.0));
        }
        if let Some(total) = own.iter().find(|l| l.component == "total") {
            let size = sized(total, "total");
            if let Some(v) = size {
                let points = vec![(v, y)];
                let look = palette::REFERENCE;
                panel.marks.push(Mark::Dots {
                    points,
                    look,
                    fill: Fill::Hollow,
                    radius: 9.0,
                    opacity: 1.0,
                });
            }
            nats.extend(size.map(|v| (y, significant(v, 2))));
            bits.extend(finite(total.mean_bits_per_dim).map(|v| (y, significant(v, 2))));
        }
        for (k, component) in shown.iter().enumerate() {
            let points: Vec<(f64, f64)> = own
                .iter()
                .filter_map(|l| sized(l, component))
                .map(|v| (v, y))
                .collect();
            if !points.is_empty() {
                let look = palette::look(k);
                panel.marks.push(Mark::Dots {
                    points,
                    look,
                    fill: Fill::Full,
                    radius: 5.0,
                    opacity: 0.95,
                });
            }
        }
    }
    let columns = [("total, nats", nats), ("bits/dim", bits)]
        .into_iter()
        .filter(|(_, at)| !at.is_empty());
    panel.side = Side::Notes(
        columns
            .map(|(heading, at)| Notes {
                heading: heading.into(),
                at,
            })
            .collect(),
    );
    let key = |(k, name): (usize, &&str)| {
        let look = palette::look(k);
        Key {
            text: (*name).into(),
            colour: look.colour,
            sign: Sign::Dot(look.shape, Fill::Full),
        }
    };
    let mut keys: Vec<Key> = shown.iter().enumerate().map(key).collect();
    let whole = Sign::Dot(palette::REFERENCE.shape, Fill::Hollow);
    keys.push(Key {
        text: "total, in squares".into(),
        colour: INK,
        sign: whole,
    });
    keys.push(Key {
        text: "from the least to the largest".into(),
        colour: RULE,
        sign: Sign::Line(Stroke::Solid),
    });
    let picture = Picture {
        title: title(group.model, "error budget"),
        subtitle: group.subtitle(),
        keys,
        columns: 1,
        cell: (880.0, 92.0 + 34.0 * estimators.len() as f64),
        panels: vec![panel],
    };
    let measured = lines
        .iter()
        .find(|l| l.component == "solver")
        .map_or(0, |l| l.n);
    let caption = format!(
        "Size of each part of the uncertainty in the mean log-likelihood, one line per estimator: what lies furthest \
         right is what to buy first. Solver and numeric were measured on {measured} of the samples; the solver's part \
         is the size of a bias. A part that is exactly zero or unknown has no place here.",
    );
    let (model, stem) = (group.model, view.stem("budget", group));
    Some(Drawing {
        model,
        stem,
        caption,
        picture,
    })
}

/// A component's size in the mean, where it has a place on a logarithmic axis.
fn sized(line: &Budget, component: &str) -> Option<f64> {
    finite(line.mean_nats).filter(|v| *v > 0.0 && line.component == component)
}
