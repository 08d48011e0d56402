//! Error against cost: what an estimator buys for its Jacobian products, and for measured time.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::{finite, half_width, significant};
use crate::report::palette::{self, INK, MUTED, Shape};
use crate::report::picture::{Fill, Key, Mark, Panel, Picture, Sign, Stroke};
use crate::report::text::listing;
use crate::report::view::{Group, View, title};
use crate::rows::{Frontier, Summary};

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups_with_figures()
        .filter(|group| !group.elsewhere)
        .filter_map(|group| of(view, group))
        .collect()
}

/// One way to count what a sample costs.
struct Cost {
    label: &'static str,
    of: fn(&Summary) -> f64,
    /// The part that more probes multiply.
    own: fn(&Summary) -> f64,
}

const COSTS: [Cost; 2] = [
    Cost {
        label: "Jacobian products per sample",
        of: |row| row.jvps,
        own: |row| row.jvps,
    },
    Cost {
        label: "measured seconds per sample",
        of: |row| row.seconds_per_sample,
        own: |row| {
            row.seconds_per_sample
                * (1.0
                    - if row.cost > 0.0 {
                        row.evaluations / row.cost
                    } else {
                        1.0
                    })
        },
    },
];

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let compared = |row: &&Summary| row.estimator != group.reference && finite(row.rmse).is_some();
    let rows: Vec<&Summary> = group.rows.iter().copied().filter(compared).collect();
    let panels: Vec<Panel> = COSTS
        .iter()
        .filter_map(|cost| panel(view, group, &rows, cost))
        .collect();
    if panels.is_empty() {
        return None;
    }
    let unseen = |row: &&&Summary| !COSTS.iter().any(|cost| has_place(row, cost));
    let without: Vec<&Summary> = rows.iter().filter(unseen).copied().collect();
    let reference = group
        .reference_row()
        .filter(|row| COSTS.iter().any(|cost| (cost.of)(row) > 0.0));
    let picture = Picture {
        title: title(group.model, "error against cost"),
        subtitle: group.subtitle(),
        keys: keys(view, reference),
        columns: panels.len(),
        cell: if panels.len() > 1 {
            (520.0, 430.0)
        } else {
            (880.0, 430.0)
        },
        panels,
    };
    let (model, stem) = (group.model, view.stem("frontier", group));
    Some(Drawing {
        model,
        stem,
        caption: caption(view, group, &without),
        picture,
    })
}

fn has_place(row: &Summary, cost: &Cost) -> bool {
    rmse(row) > 0.0 && (cost.of)(row) > 0.0 && (cost.of)(row).is_finite()
}

fn panel(view: &View, group: &Group, rows: &[&Summary], cost: &Cost) -> Option<Panel> {
    let shown: Vec<&Summary> = rows
        .iter()
        .copied()
        .filter(|row| has_place(row, cost))
        .collect();
    if shown.is_empty() {
        return None;
    }
    let place = |row: &Summary| (cost.of)(row);
    let reference = group
        .reference_row()
        .filter(|row| place(row) > 0.0 && place(row).is_finite());
    let costs = shown.iter().chain(&reference).map(|row| place(row));
    // A bias that happens to be tiny says no more than its interval: it does not stretch the axis.
    let least = shown
        .iter()
        .map(|row| rmse(row).min(bias_high(row)))
        .fold(f64::MAX, f64::min);
    let errors = shown
        .iter()
        .flat_map(|row| [rmse(row), bias(row).max(least / 4.0), bias_high(row)]);
    let x = Axis::log(cost.label, costs, 6);
    let y = Axis::log(
        &format!("error against {}, nats", view.name(group.reference)),
        errors,
        6,
    );
    let [floor, top] = y.range.map(|decade| 10f64.powf(decade));
    let last = 10f64.powf(x.range[1]);
    let mut panel = Panel::new("", x, y);
    if let Some(row) = reference {
        panel.marks.push(Mark::Upright {
            x: place(row),
            colour: MUTED,
            stroke: Stroke::Dashed,
        });
    }
    for row in &shown {
        if averages(view, row) {
            panel.marks.push(more(view, row, cost, last, floor));
        }
        panel.marks.extend(marks(view, row, place(row), floor));
    }
    let labels = shown.iter().map(|row| {
        (
            place(row),
            rmse(row),
            view.name(&row.estimator),
            palette::dark(view.look(&row.estimator).colour),
        )
    });
    let reference_label = reference.map(|row| {
        (
            place(row),
            top.powf(0.96) * floor.powf(0.04),
            view.name(&row.estimator),
            MUTED,
        )
    });
    panel.marks.push(Mark::Labels(
        reference_label.into_iter().chain(labels).collect(),
    ));
    Some(panel)
}

/// Whether the table of the frontier extrapolates this estimator by 1/K.
fn averages(view: &View, row: &Summary) -> bool {
    let same = |l: &&Frontier| {
        (&l.model, &l.dataset, &l.solver, &l.estimator)
            == (&row.model, &row.dataset, &row.solver, &row.estimator)
    };
    view.tables
        .frontier
        .iter()
        .find(same)
        .is_some_and(|l| l.basis == "1/K")
}

/// Where more probes or replicates would lead: the error falls with the root of what they multiply.
fn more(view: &View, row: &Summary, cost: &Cost, last: f64, floor: f64) -> Mark {
    let (all, own) = ((cost.of)(row), (cost.own)(row));
    let at = |factor: f64| (all + own * (factor - 1.0), rmse(row) / factor.sqrt());
    let inside = |p: &(f64, f64)| p.0 <= last && p.1 >= floor;
    let points = (0..60)
        .map(|i| at(10f64.powf(f64::from(i) / 10.0)))
        .take_while(inside)
        .collect();
    Mark::Line {
        points,
        colour: view.look(&row.estimator).colour,
        width: 1.0,
        stroke: Stroke::Dashed,
    }
}

fn rmse(row: &Summary) -> f64 {
    finite(row.rmse).unwrap_or(0.0)
}

fn bias(row: &Summary) -> f64 {
    finite(row.bias).unwrap_or(0.0).abs()
}

fn bias_high(row: &Summary) -> f64 {
    bias(row) + half_width(row.bias_stderr, row.bias_n)
}

fn marks(view: &View, row: &Summary, cost: f64, floor: f64) -> Vec<Mark> {
    let look = view.look(&row.estimator);
    let low = (bias(row) - half_width(row.bias_stderr, row.bias_n)).max(floor);
    let mut marks = vec![];
    if finite(row.bias).is_some() && bias_high(row) > low {
        let points = vec![(cost, low), (cost, bias_high(row))];
        marks.push(Mark::line(points, look.colour, 1.2));
    }
    let dots = |y, fill, radius| Mark::Dots {
        points: vec![(cost, y)],
        look,
        fill,
        radius,
        opacity: 1.0,
    };
    marks.push(dots(bias(row).max(floor), Fill::Hollow, 4.4));
    marks.push(dots(rmse(row), Fill::Full, 5.2));
    marks
}

fn keys(view: &View, reference: Option<&Summary>) -> Vec<Key> {
    let key = |text: &str, sign| Key {
        text: text.into(),
        colour: INK,
        sign,
    };
    let mut keys = vec![
        key(
            "root mean square difference per sample",
            Sign::Dot(Shape::Circle, Fill::Full),
        ),
        key(
            "|bias| of the mean, with its 95 % interval",
            Sign::Dot(Shape::Circle, Fill::Hollow),
        ),
    ];
    if let Some(row) = reference {
        let text = format!(
            "cost of {}: {} products, {} s",
            view.name(&row.estimator),
            significant(row.jvps, 3),
            significant(row.seconds_per_sample, 2)
        );
        keys.push(Key {
            text,
            colour: MUTED,
            sign: Sign::Line(Stroke::Dashed),
        });
    }
    keys
}

fn caption(view: &View, group: &Group, without: &[&Summary]) -> String {
    let mut text = format!(
        "Per-sample error (full) and error of the mean (outlined) against {}, over the cost of one \
         sample in Jacobian products and in measured time; down and to the left is better. Dashed lines: where \
         more probes or replicates would lead, by the law 1/K. An estimator without Jacobian products has a \
         place in the second panel alone. Thin bars: 95 % interval of the bias, down to the \
         lower edge where it contains zero; an outlined point on that edge lies below it.",
        view.name(group.reference),
    );
    if !without.is_empty() {
        let names: Vec<String> = without
            .iter()
            .map(|row| view.name(&row.estimator))
            .collect();
        let plural = if names.len() == 1 { "has" } else { "have" };
        text.push_str(&format!(
            " Not drawn: {}, which {plural} no place on logarithmic axes (no network cost, or no \
             difference at all).",
            listing(&names)
        ));
    }
    text
}
