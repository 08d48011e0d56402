//! SteinDiff's factor γ over the steps, as it came out and as it was applied, and the coupling that it supposes.

use std::collections::BTreeMap;

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::number::half_width;
use crate::report::palette::{self, Look, RULE, Shape};
use crate::report::picture::{Fill, Key, Mark, Panel, Picture, Sign, Stroke};
use crate::report::text::shorten;
use crate::report::view::{View, title};
use crate::rows::Step;

/// Values of γ that are drawn; literal ones can be of any size.
const REACH: f64 = 2.0;

/// What becomes of a step whose γ is known and not applied.
const HELD: [&str; 2] = ["not-significant", "skipped-gate"];

/// Lines in one panel.
const MOST: usize = 8;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    let of = |model: &&'a str| {
        let rows: Vec<&Step> = view
            .tables
            .steps
            .iter()
            .filter(|row| row.model == *model)
            .collect();
        let mut kinds: Vec<(&str, &str)> = rows
            .iter()
            .map(|row| (row.inner.as_str(), row.mode.as_str()))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        let drawn = kinds.iter().filter_map(|kind| around(model, &rows, *kind));
        drawn.collect::<Vec<_>>()
    };
    view.models.iter().flat_map(of).collect()
}

/// One sampler's steps: means over its populations, in the order of the steps.
struct Run<'a> {
    sampler: &'a str,
    look: Look,
    steps: Vec<Mean>,
}

struct Mean {
    x: f64,
    gamma: f64,
    raw: Option<f64>,
    /// Of the raw γ, over the samples of all populations.
    error: Option<f64>,
    /// Those samples.
    n: usize,
    coupling: Option<f64>,
    /// Whether a population was held back although γ was known: not told from 1, or outside the gate.
    held: bool,
}

fn around<'a>(
    model: &'a str,
    rows: &[&'a Step],
    (inner, mode): (&str, &str),
) -> Option<Drawing<'a>> {
    let rows: Vec<&Step> = rows
        .iter()
        .filter(|r| r.inner == inner && r.mode == mode)
        .copied()
        .collect();
    let runs = runs(&rows);
    let all = || runs.iter().flat_map(|run| &run.steps);
    let ends = all()
        .map(|step| step.x)
        .fold([f64::INFINITY, f64::NEG_INFINITY], |[a, b], x| {
            [a.min(x), b.max(x)]
        });
    if ends[0] >= ends[1] {
        return None;
    }
    let label = "half log signal-to-noise ratio ln(α/σ) before the step";
    let mut panels = vec![factors(&runs, Axis::exactly(label, ends, 6))];
    if all().any(|step| step.coupling.is_some()) {
        panels.push(couplings(&runs, Axis::exactly(label, ends, 6)));
    }
    let mut keys: Vec<Key> = runs
        .iter()
        .map(|run| {
            let text = shorten(run.sampler, 60);
            Key {
                text,
                colour: run.look.colour,
                sign: Sign::Line(Stroke::Solid),
            }
        })
        .collect();
    let text = "γ before its bounds, with its 95 % interval".into();
    keys.push(Key {
        text,
        colour: palette::INK,
        sign: Sign::Dot(Shape::Circle, Fill::Hollow),
    });
    if all().any(|step| step.held) {
        let text = "held back, taken in full: γ not told from 1, or outside the gate".into();
        keys.push(Key {
            text,
            colour: palette::INK,
            sign: Sign::Dot(Shape::Square, Fill::Hollow),
        });
    }
    let caption = format!(
        "SteinDiff (mode {mode}) around {inner}: the factor of every step, mean over the populations. The line is what \
         was applied; hollow points are γ before its bounds, with 95 % intervals over the samples, left out beyond \
         {REACH}. The coupling ratio E‖x − αD‖² / (σ² (d − α E tr J_D)) is 1 where the state is data with noise of its \
         level, as the formula of γ supposes."
    );
    let picture = Picture {
        title: title(model, &format!("the factor γ of SteinDiff around {inner}")),
        subtitle: format!("mode {mode}"),
        keys,
        columns: 1,
        cell: (880.0, 260.0),
        panels,
    };
    Some(Drawing {
        model,
        stem: format!("gamma-{model}-{inner}-{mode}"),
        caption,
        picture,
    })
}

fn runs<'a>(rows: &[&'a Step]) -> Vec<Run<'a>> {
    let mut labels: Vec<&str> = Vec::new();
    for row in rows {
        if !labels.contains(&row.sampler.as_str()) {
            labels.push(&row.sampler);
        }
    }
    let run = |(i, sampler): (usize, &&'a str)| {
        let mut steps: BTreeMap<usize, Vec<&Step>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.sampler == *sampler) {
            steps.entry(row.step).or_default().push(row);
        }
        Run {
            sampler,
            look: palette::look(i),
            steps: steps.values().filter_map(|rows| mean(rows)).collect(),
        }
    };
    labels.iter().take(MOST).enumerate().map(run).collect()
}

fn mean(rows: &[&Step]) -> Option<Mean> {
    let x = (rows[0].alpha / rows[0].sigma).ln();
    let known = |of: fn(&Step) -> Option<f64>| {
        let values: Vec<f64> = rows
            .iter()
            .filter_map(|row| of(row))
            .filter(|v| v.is_finite())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let squares = known(|row| row.gamma_stderr.map(|e| e * e));
    x.is_finite().then_some(Mean {
        x,
        gamma: known(|row| Some(row.gamma))?,
        raw: known(|row| row.gamma_raw),
        n: rows.iter().map(|row| row.n).sum(),
        error: squares.map(|s| (s / rows.len() as f64).sqrt()),
        coupling: known(|row| row.coupling),
        held: rows.iter().any(|row| HELD.contains(&row.action.as_str())),
    })
}

fn factors(runs: &[Run], x: Axis) -> Panel {
    let mut panel = Panel::new("Factor γ", x, Axis::exactly("γ", [0.0, REACH], 5));
    panel.marks.push(Mark::Level {
        y: 1.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for Run { look, steps, .. } in runs {
        let applied: Vec<(f64, f64)> = steps.iter().map(|s| (s.x, s.gamma.min(REACH))).collect();
        panel
            .marks
            .push(Mark::line(applied.clone(), look.colour, 1.8));
        panel.marks.push(Mark::Dots {
            points: applied,
            look: *look,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        });
        let back: Vec<(f64, f64)> = steps
            .iter()
            .filter(|s| s.held)
            .map(|s| (s.x, s.gamma.min(REACH)))
            .collect();
        let square = Look {
            shape: Shape::Square,
            ..*look
        };
        panel.marks.push(Mark::Dots {
            points: back,
            look: square,
            fill: Fill::Hollow,
            radius: 6.0,
            opacity: 1.0,
        });
        for step in steps {
            let Some(raw) = step.raw.filter(|raw| (0.0..=REACH).contains(raw)) else {
                continue;
            };
            let half = half_width(step.error, Some(step.n));
            let ends = [(raw - half).max(0.0), (raw + half).min(REACH)].map(|y| (step.x, y));
            panel
                .marks
                .push(Mark::line(ends.to_vec(), look.colour, 1.0));
            let points = vec![(step.x, raw)];
            panel.marks.push(Mark::Dots {
                points,
                look: *look,
                fill: Fill::Hollow,
                radius: 4.2,
                opacity: 1.0,
            });
        }
    }
    panel
}

fn couplings(runs: &[Run], x: Axis) -> Panel {
    let points = |run: &Run| -> Vec<(f64, f64)> {
        let known = run
            .steps
            .iter()
            .filter_map(|s| Some((s.x, s.coupling.filter(|c| *c > 0.0)?)));
        known.collect()
    };
    let values: Vec<f64> = runs
        .iter()
        .flat_map(points)
        .map(|p| p.1)
        .chain([0.5, 2.0])
        .collect();
    let mut panel = Panel::new("Coupling ratio", x, Axis::log("ratio", values, 5));
    panel.marks.push(Mark::Level {
        y: 1.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for run in runs {
        let points = points(run);
        panel
            .marks
            .push(Mark::line(points.clone(), run.look.colour, 1.4));
        panel.marks.push(Mark::Dots {
            points,
            look: run.look,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        });
    }
    panel
}
