//! SteinDiff's factor γ over the steps, before its bounds and as it was applied, the coupling ratio
//! that its formula assumes to be 1, and the largest singular value of each step's Jacobian.

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

/// The largest γ that is drawn. Without bounds, γ can have any size.
const MAX_GAMMA: f64 = 2.0;

/// The actions of steps whose γ is known but was not applied.
const NOT_APPLIED_ACTIONS: [&str; 2] = ["not-significant", "skipped-gate"];

/// The largest number of samplers in one panel.
const MAX_SAMPLERS: usize = 8;

/// One figure for each model, inner sampler and mode of SteinDiff.
pub(super) fn gamma_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    let figures_of_model = |model: &&'a str| {
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
    view.models.iter().flat_map(figures_of_model).collect()
}

/// The steps of one sampler, in their order.
struct SamplerSteps<'a> {
    sampler: &'a str,
    style: MarkerStyle,
    steps: Vec<MeanStep>,
}

/// One step, averaged over the populations.
struct MeanStep {
    /// Half the log signal-to-noise ratio before the step: ln(α/σ).
    x: f64,
    /// The applied γ.
    gamma: f64,
    /// γ before its bounds.
    raw: Option<f64>,
    /// The standard error of `raw`, over the samples of all populations.
    raw_stderr: Option<f64>,
    /// The number of samples of all populations.
    n: usize,
    /// The coupling ratio.
    coupling: Option<f64>,
    /// The largest singular value of the step's Jacobian.
    lipschitz: Option<f64>,
    /// Whether γ was known but not applied in at least one population.
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
        let x = Axis::with_range(label, ends, 6);
        panels.push(ratio_panel("Coupling ratio", "ratio", &runs, x, |step| {
            step.coupling
        }));
    }
    let measured = all().any(|step| step.lipschitz.is_some());
    if measured {
        let x = Axis::with_range(label, ends, 6);
        let title = "Largest singular value of the step";
        panels.push(ratio_panel(title, "σ max", &runs, x, |step| {
            step.lipschitz
        }));
    }
    let mut legend: Vec<LegendEntry> = runs
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
    let text = "γ before its bounds, with its 95 % confidence interval".into();
    legend.push(LegendEntry {
        text,
        colour: palette::INK,
        symbol: LegendSymbol::Dot(MarkerShape::Circle, Fill::Hollow),
    });
    if all().any(|step| step.not_applied) {
        let text = "γ not applied: not significantly different from 1, or outside the gate".into();
        legend.push(LegendEntry {
            text,
            colour: palette::INK,
            symbol: LegendSymbol::Dot(MarkerShape::Square, Fill::Hollow),
        });
    }
    let caption = format!(
        "SteinDiff (mode {mode}) around {inner}: the factor γ of every step, averaged over the \
         populations. The line shows the applied γ. Hollow points show γ before its bounds, with \
         95 % confidence intervals over the samples; points outside 0 to {MAX_GAMMA} are not \
         drawn. The coupling ratio E‖x − αD‖² / (σ² (d − α E tr J_D)) is 1 if the state is data \
         with noise of its level, as the formula of γ assumes.{}",
        match measured {
            true =>
                " A step whose largest singular value is above 1 spreads some states that are near \
                 one another.",
            false => "",
        }
    );
    let spec = FigureSpec {
        title: figure_title(model, &format!("the factor γ of SteinDiff around {inner}")),
        subtitle: format!("mode {mode}"),
        legend,
        columns: 1,
        panel_size: (880.0, 260.0),
        panels,
    };
    Some(CaptionedFigure {
        model,
        stem: format!("gamma-{model}-{inner}-{mode}"),
        caption,
        spec,
    })
}

/// The steps of each sampler, for at most [`MAX_SAMPLERS`] samplers.
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

/// The mean of one step over its populations. `None` if its signal-to-noise ratio is not finite.
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
        lipschitz: known(|row| row.lipschitz),
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
        style,
        steps,
        sampler,
    } in runs
    {
        let applied: Vec<(f64, f64)> = steps
            .iter()
            .map(|s| (s.x, s.gamma.min(MAX_GAMMA)))
            .collect();
        let dots = PlotMark::Dots {
            points: applied.clone(),
            style: *style,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        };
        let line = PlotMark::line(applied, style.colour, 1.8);
        let name = shorten(sampler, 60);
        panel.marks.push(PlotMark::series(&name, vec![line, dots]));
        let not_applied: Vec<(f64, f64)> = steps
            .iter()
            .filter(|s| s.not_applied)
            .map(|s| (s.x, s.gamma.min(MAX_GAMMA)))
            .collect();
        let square = MarkerStyle {
            shape: MarkerShape::Square,
            ..*style
        };
        panel.marks.push(PlotMark::Dots {
            points: not_applied,
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
            let dot = PlotMark::Dots {
                points: vec![(step.x, raw)],
                style: *style,
                fill: Fill::Hollow,
                radius: 4.2,
                opacity: 1.0,
            };
            let interval = PlotMark::line(ends.to_vec(), style.colour, 1.0);
            let name = format!("{name}, before its bounds");
            panel
                .marks
                .push(PlotMark::series(name, vec![interval, dot]));
        }
    }
    panel
}

/// A panel of positive numbers of each step about the line at 1.
fn ratio_panel(
    title: &str,
    label: &str,
    runs: &[SamplerSteps],
    x: Axis,
    of: fn(&MeanStep) -> Option<f64>,
) -> Panel {
    let points = |run: &SamplerSteps| -> Vec<(f64, f64)> {
        let known = run
            .steps
            .iter()
            .filter_map(|s| Some((s.x, of(s).filter(|value| *value > 0.0)?)));
        known.collect()
    };
    let values: Vec<f64> = runs
        .iter()
        .flat_map(points)
        .map(|p| p.1)
        .chain([0.5, 2.0])
        .collect();
    let mut panel = Panel::new(title, x, Axis::log(label, values, 5));
    panel.marks.push(PlotMark::HorizontalLine {
        y: 1.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for run in runs {
        let points = points(run);
        let dots = PlotMark::Dots {
            points: points.clone(),
            style: run.style,
            fill: Fill::Full,
            radius: 3.0,
            opacity: 1.0,
        };
        let line = PlotMark::line(points, run.style.colour, 1.4);
        let name = shorten(run.sampler, 60);
        panel.marks.push(PlotMark::series(name, vec![line, dots]));
    }
    panel
}
