//! Error against cost: what an estimator buys for its evaluations of the network.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::{Z95, count, finite};
use crate::report::palette::{self, INK, MUTED, Shape};
use crate::report::picture::{Fill, Key, Mark, Panel, Picture, Sign, Stroke};
use crate::report::text::listing;
use crate::report::view::{Group, View, title};
use crate::rows::Summary;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups.iter().filter_map(|group| of(view, group)).collect()
}

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let compared = |row: &&Summary| row.estimator != group.reference && finite(row.rmse).is_some();
    let (shown, without): (Vec<&Summary>, Vec<&Summary>) =
        group.rows.iter().copied().filter(compared).partition(|row| rmse(row) > 0.0 && row.cost > 0.0);
    if shown.is_empty() {
        return None;
    }
    let reference = group.reference_row().filter(|row| row.cost > 0.0 && row.cost.is_finite());
    let costs = shown.iter().chain(&reference).map(|row| row.cost);
    // A bias that happens to be tiny says no more than its interval: it does not stretch the axis.
    let least = shown.iter().map(|row| rmse(row).min(bias_high(row))).fold(f64::MAX, f64::min);
    let errors = shown.iter().flat_map(|row| [rmse(row), bias(row).max(least / 4.0), bias_high(row)]);
    let x = Axis::log("cost per sample, evaluations of the network", costs, 7);
    let y = Axis::log(&format!("error against {}, nats", view.name(group.reference)), errors, 6);
    let [floor, top] = y.range.map(|decade| 10f64.powf(decade));
    let mut panel = Panel::new("", x, y);
    if let Some(row) = reference {
        panel.marks.push(Mark::Upright { x: row.cost, colour: MUTED, stroke: Stroke::Dashed });
    }
    for row in &shown {
        panel.marks.extend(marks(view, row, floor));
    }
    let labels = shown
        .iter()
        .map(|row| (row.cost, rmse(row), view.name(&row.estimator), palette::dark(view.look(&row.estimator).colour)));
    let reference_label =
        reference.map(|row| (row.cost, top.powf(0.96) * floor.powf(0.04), view.name(&row.estimator), MUTED));
    panel.marks.push(Mark::Labels(reference_label.into_iter().chain(labels).collect()));
    let picture = Picture {
        title: title(group.model, "error against cost"),
        subtitle: group.subtitle(),
        keys: keys(view, reference),
        columns: 1,
        cell: (880.0, 430.0),
        panels: vec![panel],
    };
    let (model, stem) = (group.model, view.stem("frontier", group));
    Some(Drawing { model, stem, caption: caption(view, group, &without), picture })
}

fn rmse(row: &Summary) -> f64 {
    finite(row.rmse).unwrap_or(0.0)
}

fn bias(row: &Summary) -> f64 {
    finite(row.bias).unwrap_or(0.0).abs()
}

fn bias_high(row: &Summary) -> f64 {
    bias(row) + Z95 * finite(row.bias_stderr).unwrap_or(0.0)
}

fn marks(view: &View, row: &Summary, floor: f64) -> Vec<Mark> {
    let look = view.look(&row.estimator);
    let low = (bias(row) - Z95 * finite(row.bias_stderr).unwrap_or(0.0)).max(floor);
    let mut marks = vec![];
    if finite(row.bias).is_some() && bias_high(row) > low {
        let points = vec![(row.cost, low), (row.cost, bias_high(row))];
        marks.push(Mark::line(points, look.colour, 1.2));
    }
    let dots = |y, fill, radius| Mark::Dots { points: vec![(row.cost, y)], look, fill, radius, opacity: 1.0 };
    marks.push(dots(bias(row).max(floor), Fill::Hollow, 4.4));
    marks.push(dots(rmse(row), Fill::Full, 5.2));
    marks
}

fn keys(view: &View, reference: Option<&Summary>) -> Vec<Key> {
    let key = |text: &str, sign| Key { text: text.into(), colour: INK, sign };
    let mut keys = vec![
        key("root mean square difference per sample", Sign::Dot(Shape::Circle, Fill::Full)),
        key("|bias| of the mean, with its 95 % interval", Sign::Dot(Shape::Circle, Fill::Hollow)),
    ];
    if let Some(row) = reference {
        let text = format!("cost of {}: {}", view.name(&row.estimator), count(row.cost));
        keys.push(Key { text, colour: MUTED, sign: Sign::Line(Stroke::Dashed) });
    }
    keys
}

fn caption(view: &View, group: &Group, without: &[&Summary]) -> String {
    let mut text = format!(
        "Per-sample error (full) and error of the mean (outlined) against {}, over the cost of one \
         sample; down and to the left is better. Thin bars: 95 % interval of the bias, down to the \
         lower edge where it contains zero; an outlined point on that edge lies below it.",
        view.name(group.reference),
    );
    if !without.is_empty() {
        let names: Vec<String> = without.iter().map(|row| view.name(&row.estimator)).collect();
        let plural = if names.len() == 1 { "has" } else { "have" };
        text.push_str(&format!(
            " Not drawn: {}, which {plural} no place on logarithmic axes (no network cost, or no \
             difference at all).",
            listing(&names)
        ));
    }
    text
}
