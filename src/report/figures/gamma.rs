//! SteinDiff's factor γ over the steps, as it came out and as it was applied, and the coupling that it supposes.

use std::collections::BTreeMap;

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{
    FigureSpec, Fill, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke,
};
use crate::report::number_format::half_width_95;
use crate::report::palette::{self, MarkerShape, MarkerStyle, RULE};
use crate::report::text::shorten;
use crate::report::view::{ReportView, figure_title};
use crate::rows::StepRow;

/// Values of γ that are drawn; literal ones can be of any size.
const MAX_GAMMA: f64 = 2.0;

/// What becomes of a step whose γ is known and not applied.
const NOT_APPLIED_ACTIONS: [&str; 2] = ["not-significant", "skipped-gate"];

/// Lines in one panel.
const MAX_SAMPLERS: usize = 8;

pub fn gamma_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    let of = |model: &&'a str| {
        let rows: Vec<&StepRow> = view
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
        let drawn = kinds
            .iter()
            .filter_map(|kind| gamma_figure(model, &rows, *kind));
        drawn.collect::<Vec<_>>()
    };
    view.models.iter().flat_map(of).collect()
}

/// One sampler's steps: means over its populations, in the order of the steps.
struct SamplerSteps<'a> {
    sampler: &'a str,
    style: MarkerStyle,
    steps: Vec<MeanStep>,
}

struct MeanStep {
    x: f64,
    gamma: f64,
    raw: Option<f64>,
    /// Of the raw γ, over the samples of all populations.
    raw_stderr: Option<f64>,
    /// Those samples.
    n: usize,
    coupling: Option<f64>,
    /// Whether a population was held back although γ was known: not told from 1, or outside the gate.
    not_applied: bool,
}

fn gamma_figure<'a>(
    model: &'a str,
    rows: &[&'a StepRow],
    (inner, mode): (&str, &str),
) -> Option<CaptionedFigure<'a>> {
    let rows: Vec<&StepRow> = rows
        .iter()
        .filter(|r| r.inner == inner && r.mode == mode)
        .copied()
        .collect();
    let runs = steps_by_sampler(&rows);
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
    let mut panels = vec![gamma_panel(&runs, Axis::with_range(label, ends, 6))];
    if all().any(|step| step.coupling.is_some()) {
        panels.push(coupling_panel(&runs, Axis::with_range(label, ends, 6)));
    }
    let mut keys: Vec<LegendEntry> = runs
        .iter()
        .map(|run| {
            let text = shorten(run.sampler, 60);
            LegendEntry {
                text,
                colour: run.style.colour,
                symbol: LegendSymbol::Line(Stroke::Solid),
            }
        })
        .collect();
    let text = "γ before its bounds, with its 95 % interval".into();
    keys.push(LegendEntry {
        text,
        colour: palette::INK,
        symbol: LegendSymbol::Dot(MarkerShape::Circle, Fill::Hollow),
    });
    if all().any(|step| step.not_applied) {
        let text = "held back, taken in full: γ not told from 1, or outside the gate".into();
        keys.push(LegendEntry {
            text,
            colour: palette::INK,
            symbol: LegendSymbol::Dot(MarkerShape::Square, Fill::Hollow),
        });
    }
    let caption = format!(
        "SteinDiff (mode {mode}) around {inner}: the factor of every step, mean over the populations. The line is what \
         was applied; hollow points are γ before its bounds, with 95 % intervals over the samples, left out beyond \
         {MAX_GAMMA}. The coupling ratio E‖x − αD‖² / (σ² (d − α E tr J_D)) is 1 where the state is data with noise of its \
         level, as the formula of γ supposes."
    );
    let picture = FigureSpec {
        title: figure_title(model, &format!("the factor γ of SteinDiff around {inner}")),
        subtitle: format!("mode {mode}"),
        legend: keys,
        columns: 1,
        panel_size: (880.0, 260.0),
        panels,
    };
    Some(CaptionedFigure {
        model,
        stem: format!("gamma-{model}-{inner}-{mode}"),
        caption,
        spec: picture,
    })
}

fn steps_by_sampler<'a>(rows: &[&'a StepRow]) -> Vec<SamplerSteps<'a>> {
    let mut labels: Vec<&str> = Vec::new();
    for row in rows {
        if !labels.contains(&row.sampler.as_str()) {
            labels.push(&row.sampler);
        }
    }
    let run = |(i, sampler): (usize, &&'a str)| {
        let mut steps: BTreeMap<usize, Vec<&StepRow>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.sampler == *sampler) {
            steps.entry(row.step).or_default().push(row);
        }
        SamplerSteps {
            sampler,
            style: palette::estimator_style(i),
            steps: steps.values().filter_map(|rows| mean_step(rows)).collect(),
        }
    };
    labels
        .iter()
        .take(MAX_SAMPLERS)
        .enumerate()
        .map(run)
        .collect()
}

fn mean_step(rows: &[&StepRow]) -> Option<MeanStep> {
    let x = (rows[0].alpha / rows[0].sigma).ln();
    let known = |of: fn(&StepRow) -> Option<f64>| {
        let values: Vec<f64> = rows
            .iter()
            .filter_map(|row| of(row))
            .filter(|v| v.is_finite())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let squares = known(|row| row.gamma_stderr.map(|e| e * e));
    x.is_finite().then_some(MeanStep {
        x,
        gamma: known(|row| Some(row.gamma))?,
        raw: known(|row| row.gamma_raw),
        n: rows.iter().map(|row| row.n).sum(),
        raw_stderr: squares.map(|s| (s / rows.len() as f64).sqrt()),
        coupling: known(|row| row.coupling),
        not_applied: rows
            .iter()
            .any(|row| NOT_APPLIED_ACTIONS.contains(&row.action.as_str())),
    })
}

fn gamma_panel(runs: &[SamplerSteps], x: Axis) -> Panel {
    let mut panel = Panel::new("Factor γ", x, Axis::with_range("γ", [0.0, MAX_GAMMA], 5));
    panel.marks.push(PlotMark::HorizontalLine {
        y: 1.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for SamplerSteps {
        style: look, steps, ..
    } in runs
    {
        let applied: Vec<(f64, f64)> = steps
            .iter()
            .map(|s| (s.x, s.gamma.min(MAX_GAMMA)))
            .collect();
        panel
            .marks
            .push(PlotMark::line(applied.clone(), look.colour, 1.8));
        panel.marks.push(PlotMark::Dots {
            points: applied,
            style: *look,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        });
        let back: Vec<(f64, f64)> = steps
            .iter()
            .filter(|s| s.not_applied)
            .map(|s| (s.x, s.gamma.min(MAX_GAMMA)))
            .collect();
        let square = MarkerStyle {
            shape: MarkerShape::Square,
            ..*look
        };
        panel.marks.push(PlotMark::Dots {
            points: back,
            style: square,
            fill: Fill::Hollow,
            radius: 6.0,
            opacity: 1.0,
        });
        for step in steps {
            let Some(raw) = step.raw.filter(|raw| (0.0..=MAX_GAMMA).contains(raw)) else {
                continue;
            };
            let half = half_width_95(step.raw_stderr, Some(step.n));
            let ends = [(raw - half).max(0.0), (raw + half).min(MAX_GAMMA)].map(|y| (step.x, y));
            panel
                .marks
                .push(PlotMark::line(ends.to_vec(), look.colour, 1.0));
            let points = vec![(step.x, raw)];
            panel.marks.push(PlotMark::Dots {
                points,
                style: *look,
                fill: Fill::Hollow,
                radius: 4.2,
                opacity: 1.0,
            });
        }
    }
    panel
}

fn coupling_panel(runs: &[SamplerSteps], x: Axis) -> Panel {
    let points = |run: &SamplerSteps| -> Vec<(f64, f64)> {
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
    panel.marks.push(PlotMark::HorizontalLine {
        y: 1.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for run in runs {
        let points = points(run);
        panel
            .marks
            .push(PlotMark::line(points.clone(), run.style.colour, 1.4));
        panel.marks.push(PlotMark::Dots {
            points,
            style: run.style,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        });
    }
    panel
}
