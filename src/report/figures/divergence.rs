//! The divergence of dx/dt along the path: each estimator's, and its difference to the reference.

use std::collections::BTreeMap;

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::curves::{self, Moments};
use crate::report::palette::{Look, RULE};
use crate::report::picture::{Key, Mark, Panel, Picture, Sign, Stroke};
use crate::report::view::{Group, View, title};
use crate::rows::Profile;

type Curve = Vec<(f64, f64)>;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.groups_with_figures()
        .filter_map(|group| of(view, group))
        .collect()
}

/// One estimator's curves, by sample.
struct Bundle<'a> {
    estimator: &'a str,
    look: Look,
    curves: BTreeMap<usize, Curve>,
}

fn of<'a>(view: &View<'a>, group: &Group<'a>) -> Option<Drawing<'a>> {
    let rows: Vec<&Profile> = (view.tables.profile.iter())
        .filter(|r| {
            (r.model.as_str(), r.dataset.as_str(), r.solver.as_str())
                == (group.model, group.dataset, group.solver)
        })
        .collect();
    // At the ends of some paths the ratio of signal to noise is infinite; a few nodes may go.
    let lost = rows
        .iter()
        .filter(|row| !row.half_log_snr.is_finite())
        .count();
    let by_snr = 5 * lost <= rows.len();
    let bundles = bundles(view, group, &rows, by_snr);
    let all: Vec<&Curve> = bundles.iter().flat_map(|b| b.curves.values()).collect();
    let grid = curves::grid(&all);
    if grid.len() < 2 {
        return None;
    }
    let label = if by_snr {
        "half log signal-to-noise ratio ln(α/σ): noise at the left, data at the right"
    } else {
        "time t of the model"
    };
    let mut panels = vec![levels(&bundles, &grid, label)];
    panels.extend(differences(view, group, &bundles, &grid, label));
    let samples = bundles.iter().map(|b| b.curves.len()).max().unwrap_or(0);
    let caption = caption(view, group, samples, panels.len() > 1);
    let picture = Picture {
        title: title(group.model, "divergence along the path"),
        subtitle: format!("{} · {samples} of them drawn", group.subtitle()),
        keys: keys(view, group, &bundles, panels.len() > 1),
        columns: 1,
        cell: (880.0, 280.0),
        panels,
    };
    let (model, stem) = (group.model, view.stem("divergence", group));
    Some(Drawing {
        model,
        stem,
        caption,
        picture,
    })
}

fn bundles<'a>(
    view: &View<'a>,
    group: &Group<'a>,
    rows: &[&'a Profile],
    by_snr: bool,
) -> Vec<Bundle<'a>> {
    let mut bundles: Vec<Bundle> = vec![];
    for row in rows {
        let known = bundles.iter().position(|b| b.estimator == row.estimator);
        let index = known.unwrap_or_else(|| {
            let look = view.look(&row.estimator);
            bundles.push(Bundle {
                estimator: &row.estimator,
                look,
                curves: BTreeMap::new(),
            });
            bundles.len() - 1
        });
        let x = if by_snr { row.half_log_snr } else { row.t };
        bundles[index]
            .curves
            .entry(row.sample)
            .or_default()
            .push((x, row.divergence));
    }
    for bundle in &mut bundles {
        for curve in bundle.curves.values_mut() {
            *curve = curves::tidy(std::mem::take(curve));
        }
        bundle.curves.retain(|_, curve| curve.len() > 1);
    }
    bundles.retain(|bundle| !bundle.curves.is_empty());
    // The reference is drawn first: what differs from it shows on top.
    bundles.sort_by_key(|bundle| bundle.estimator != group.reference);
    bundles
}

fn levels(bundles: &[Bundle], grid: &[f64], label: &str) -> Panel {
    let means: Vec<Curve> = bundles
        .iter()
        .map(|bundle| {
            let curves: Vec<Curve> = bundle.curves.values().cloned().collect();
            curves::average(&curves, grid)
                .into_iter()
                .map(|(x, mean, _)| (x, mean))
                .collect()
        })
        .collect();
    let values = means
        .iter()
        .flatten()
        .map(|point| point.1)
        .collect::<Vec<_>>();
    let x = Axis::exactly(label, ends(grid), 8);
    let mut panel = Panel::new("Mean over samples", x, Axis::sized("div dx/dt", values, 5));
    for (i, (bundle, mean)) in bundles.iter().zip(means).enumerate() {
        let width = if i == 0 { 3.4 } else { 1.5 };
        panel
            .marks
            .push(Mark::line(mean, bundle.look.colour, width));
    }
    panel
}

fn differences(
    view: &View,
    group: &Group,
    bundles: &[Bundle],
    grid: &[f64],
    label: &str,
) -> Option<Panel> {
    let reference = bundles
        .iter()
        .find(|bundle| bundle.estimator == group.reference)?;
    let others: Vec<(&Bundle, Vec<Moments>)> = bundles
        .iter()
        .filter(|bundle| bundle.estimator != group.reference)
        .map(|bundle| {
            (
                bundle,
                curves::average(&paired(bundle, reference, grid), grid),
            )
        })
        .filter(|(_, average)| average.len() > 1)
        .collect();
    if others.is_empty() {
        return None;
    }
    let reach =
        |(_, mean, spread): &Moments| [mean - spread.unwrap_or(0.0), mean + spread.unwrap_or(0.0)];
    let values: Vec<f64> = others
        .iter()
        .flat_map(|(_, average)| average.iter().flat_map(reach))
        .collect();
    let heading = format!("Difference to {}", view.name(group.reference));
    let y = Axis::sized("difference of div dx/dt", values, 5);
    let mut panel = Panel::new(heading, Axis::exactly(label, ends(grid), 8), y);
    panel.marks.push(Mark::Level {
        y: 0.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for (bundle, average) in &others {
        panel.marks.extend(band(average, bundle.look));
    }
    for (bundle, average) in &others {
        let mean = average.iter().map(|(x, mean, _)| (*x, *mean)).collect();
        panel.marks.push(Mark::line(mean, bundle.look.colour, 1.7));
    }
    Some(panel)
}

fn paired(bundle: &Bundle, reference: &Bundle, grid: &[f64]) -> Vec<Curve> {
    let pair = |(sample, curve): (&usize, &Curve)| {
        let other = reference.curves.get(sample)?;
        let point = |&x: &f64| Some((x, curves::at(curve, x)? - curves::at(other, x)?));
        Some(grid.iter().filter_map(point).collect())
    };
    bundle.curves.iter().filter_map(pair).collect()
}

fn band(average: &[Moments], look: Look) -> Option<Mark> {
    let side = |sign: f64| move |(x, mean, spread): &Moments| Some((*x, mean + sign * (*spread)?));
    let mut points: Vec<(f64, f64)> = average.iter().filter_map(side(1.0)).collect();
    points.extend(average.iter().rev().filter_map(side(-1.0)));
    (points.len() > 3).then_some(Mark::Area {
        points,
        colour: look.colour,
        opacity: 0.13,
    })
}

fn ends(grid: &[f64]) -> [f64; 2] {
    [
        grid.first().copied().unwrap_or(0.0),
        grid.last().copied().unwrap_or(1.0),
    ]
}

fn keys(view: &View, group: &Group, bundles: &[Bundle], with_band: bool) -> Vec<Key> {
    let key = |bundle: &Bundle| {
        let role = if bundle.estimator == group.reference {
            " (reference)"
        } else {
            ""
        };
        let text = format!("{}{role}", view.name(bundle.estimator));
        Key {
            text,
            colour: bundle.look.colour,
            sign: Sign::Line(Stroke::Solid),
        }
    };
    let mut keys: Vec<Key> = bundles.iter().map(key).collect();
    if with_band && bundles.iter().any(|bundle| bundle.curves.len() > 1) {
        let text = "± 1 standard deviation over samples".into();
        keys.push(Key {
            text,
            colour: [90, 90, 90],
            sign: Sign::Band,
        });
    }
    keys
}

fn caption(view: &View, group: &Group, samples: usize, with_difference: bool) -> String {
    let over = if samples == 1 {
        "one sample".into()
    } else {
        format!("{samples} samples")
    };
    let difference = match with_difference {
        true => format!(
            " Below, the paired difference to {}: mean and standard deviation over the samples.",
            view.name(group.reference)
        ),
        false => String::new(),
    };
    format!(
        "Divergence of dx/dt, time running from data to noise, over {over}: its integral over time \
         is what a likelihood adds to the prior's log-density.{difference} Estimates are at the same \
         nodes of the same paths; between nodes lines are drawn straight.",
    )
}
