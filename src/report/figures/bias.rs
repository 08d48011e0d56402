//! Mean paired difference of each estimator from the reference, with its 95 % interval.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::{finite, half_width, with_error};
use crate::report::palette::INK;
use crate::report::picture::{Fill, Mark, Notes, Panel, Picture, Side, Stroke};
use crate::report::view::{Group, View, title};
use crate::rows::Summary;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups_with_figures()
        .filter(|group| !group.elsewhere)
        .filter_map(|group| of(view, group))
        .collect()
}

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let rows: Vec<&Summary> = (group.rows.iter().copied())
        .filter(|row| row.estimator != group.reference && finite(row.bias).is_some())
        .collect();
    if rows.is_empty() {
        return None;
    }
    let names: Vec<String> = rows.iter().map(|row| view.name(&row.estimator)).collect();
    let ends = rows
        .iter()
        .flat_map(|row| [low(row), high(row)])
        .chain([0.0]);
    let reference = view.name(group.reference);
    let label = format!("log p − log p by {reference}, nats, mean over samples");
    let mut panel = Panel::new("", Axis::sized(&label, ends, 7), Axis::names(&names));
    panel.marks.push(Mark::Upright {
        x: 0.0,
        colour: INK,
        stroke: Stroke::Solid,
    });
    let mut nats = vec![];
    let mut bits = vec![];
    for (i, row) in rows.iter().enumerate() {
        let y = (rows.len() - 1 - i) as f64;
        let look = view.look(&row.estimator);
        panel.marks.push(Mark::line(
            vec![(low(row), y), (high(row), y)],
            look.colour,
            2.6,
        ));
        let points = vec![(mean(row), y)];
        panel.marks.push(Mark::Dots {
            points,
            look,
            fill: Fill::Full,
            radius: 5.0,
            opacity: 1.0,
        });
        nats.push((y, with_error(row.bias, row.bias_stderr)));
        bits.extend(group.bits_per_nat().map(|factor| (y, in_bits(row, factor))));
    }
    let columns = [("nats", nats), ("bits/dim", bits)];
    let columns = columns.into_iter().filter(|(_, at)| !at.is_empty());
    let columns = columns.map(|(heading, at)| Notes {
        heading: heading.into(),
        at,
    });
    panel.side = Side::Notes(columns.collect());
    let picture = Picture {
        title: title(group.model, &format!("bias against {reference}")),
        subtitle: group.subtitle(),
        keys: vec![],
        columns: 1,
        cell: (880.0, 92.0 + 30.0 * rows.len() as f64),
        panels: vec![panel],
    };
    let (model, stem) = (group.model, view.stem("bias", group));
    Some(Drawing {
        model,
        stem,
        caption: caption(view, group, &rows),
        picture,
    })
}

fn mean(row: &Summary) -> f64 {
    finite(row.bias).unwrap_or(0.0)
}

fn low(row: &Summary) -> f64 {
    mean(row) - half_width(row.bias_stderr, row.bias_n)
}

fn high(row: &Summary) -> f64 {
    mean(row) + half_width(row.bias_stderr, row.bias_n)
}

fn in_bits(row: &Summary, factor: f64) -> String {
    with_error(
        row.bias.map(|bias| factor * bias),
        row.bias_stderr.map(|error| factor * error),
    )
}

fn caption(view: &View, group: &Group, rows: &[&Summary]) -> String {
    let n = rows.iter().map(|row| row.n).max().unwrap_or(0);
    let mut text = format!(
        "Mean difference in log-likelihood from {} over the same {n} samples (n = {n}). Bars are \
         95 % intervals of the mean (Student's t, paired per sample); numbers at the \
         right are mean ± one standard error.",
        view.name(group.reference),
    );
    if group.bits_per_nat().is_some() {
        text.push_str(
            " In bits/dim the sign turns, since bits/dim fall where the log-likelihood rises.",
        );
    }
    text
}
