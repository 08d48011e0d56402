//! Calibration of posteriors: the distribution of ranks inside its simultaneous band, and the share of
//! true parameters in regions of each credibility.

use super::CaptionedFigure;
use crate::num::rank_tests::RankBand;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke};
use crate::report::palette::{self, Colour};
use crate::report::text::{sanitize_line, shorten};
use crate::report::view::{CalibrationGroup, ReportView, figure_title};
use crate::rows::{CalibrationRow, RankRow};

/// The largest number of parameters with a line of their own.
const MAX_LINES: usize = 11;
/// The largest number of points of one line.
const MAX_POINTS: usize = 400;
/// The side of a panel in pixels.
const SIDE: f64 = 400.0;

/// One figure for each model, dataset, sampler and number of draws.
pub(super) fn calibration_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    let groups = view.calibration_groups();
    let figure = |group: &CalibrationGroup<'a>| {
        let same_model = groups.iter().filter(|other| other.model == group.model);
        calibration_figure(view, group, same_model.count() > 1)
    };
    groups.iter().filter_map(figure).collect()
}

fn calibration_figure<'a>(
    view: &ReportView<'a>,
    group: &CalibrationGroup<'a>,
    several: bool,
) -> Option<CaptionedFigure<'a>> {
    let mut panels = Vec::new();
    let mut legend = Vec::new();
    let mut sentences = Vec::new();
    let parameters = parameters_of(view, group);
    if let Some(panel) = rank_panel(view, group, &parameters) {
        panels.push(panel);
        legend.extend(parameters.iter().take(MAX_LINES).map(|p| LegendEntry {
            text: format!("parameter {p}"),
            colour: colour_of(*p),
            symbol: LegendSymbol::Line(Stroke::Solid),
        }));
        sentences.push(
            "Ranks: the empirical distribution function of each parameter's ranks minus that of \
             uniform ranks. All of a line lies in the band with probability 95 % if the draws are \
             those of the posterior.",
        );
        if parameters.len() > MAX_LINES {
            sentences.push("Only the first 11 parameters have lines.");
        }
    }
    let curves: Vec<Panel> = (group.tests.iter())
        .filter_map(|test| curve_panel(view, group, test))
        .collect();
    if !curves.is_empty() {
        sentences.push(
            "Curves: the share of observations whose true parameters lie in the region of each \
             credibility, with 95 % intervals. The dashed line is a calibrated model; a curve of \
             coverage below it says that the draws are too narrow.",
        );
    }
    panels.extend(curves);
    if panels.is_empty() {
        return None;
    }
    let mut stem = format!("calibration-{}", group.model);
    if several {
        stem = format!("{stem}-{}-{}-{}", group.dataset, group.sampler, group.draws);
    }
    let parts = [
        shorten(group.dataset, 40),
        shorten(group.sampler, 48),
        format!("{} draws", group.draws),
    ];
    Some(CaptionedFigure {
        model: group.model,
        stem,
        caption: sentences.join(" "),
        spec: FigureSpec {
            title: figure_title(group.model, "calibration"),
            subtitle: parts.join(" · "),
            legend,
            columns: panels.len().min(3),
            panel_size: (SIDE, SIDE),
            panels,
        },
    })
}

/// The colour of a parameter's line.
fn colour_of(parameter: usize) -> Colour {
    palette::estimator_style(parameter).colour
}

/// The ranks of single parameters in a group.
fn parameter_ranks<'a>(
    view: &ReportView<'a>,
    group: &CalibrationGroup<'a>,
) -> impl Iterator<Item = (usize, &'a RankRow)> {
    let rows = view
        .tables
        .ranks
        .iter()
        .filter(|row| group.holds_ranks(row));
    rows.filter_map(|row| Some((row.parameter?, row)))
}

/// The parameters with ranks, in order.
fn parameters_of(view: &ReportView, group: &CalibrationGroup) -> Vec<usize> {
    let mut found: Vec<usize> = parameter_ranks(view, group).map(|(p, _)| p).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The distribution function of one parameter's ranks.
struct RankLine {
    /// The index of the parameter.
    parameter: usize,
    /// The number of ranks.
    n: usize,
    /// Fractions of the ranks, and by how much the share of ranks below exceeds them.
    points: Vec<(f64, f64)>,
}

/// The distribution functions of the first parameters' ranks minus the uniform one.
fn rank_panel(view: &ReportView, group: &CalibrationGroup, parameters: &[usize]) -> Option<Panel> {
    let all = group.draws + 1;
    let lines: Vec<RankLine> = (parameters.iter().take(MAX_LINES))
        .filter_map(|parameter| {
            let mut ranks: Vec<usize> = parameter_ranks(view, group)
                .filter(|(p, _)| p == parameter)
                .filter_map(|(_, row)| row.rank)
                .collect();
            ranks.sort_unstable();
            let n = ranks.len();
            let point = |threshold: usize| {
                let below = ranks.partition_point(|rank| *rank < threshold);
                let at = threshold as f64 / all as f64;
                (at, below as f64 / n as f64 - at)
            };
            let step = all.div_ceil(MAX_POINTS);
            let points = (0..all).step_by(step).chain([all]).map(point).collect();
            let parameter = *parameter;
            (n > 0).then_some(RankLine {
                parameter,
                n,
                points,
            })
        })
        .collect();
    // A band for fewer ranks is wider.
    let n = lines.iter().map(|line| line.n).min()?;
    let band = RankBand::simultaneous(n, group.draws, 0.95);
    let edge = |side: usize| {
        let bounds = band.thresholds.iter().zip(&band.bounds);
        let inner = bounds.map(move |(threshold, bound)| {
            let at = *threshold as f64 / all as f64;
            (at, bound[side] as f64 / n as f64 - at)
        });
        std::iter::once((0.0, 0.0)).chain(inner).chain([(1.0, 0.0)])
    };
    let mut polygon: Vec<(f64, f64)> = edge(0).collect();
    let mut upper: Vec<(f64, f64)> = edge(1).collect();
    upper.reverse();
    polygon.extend(upper);
    let heights = lines.iter().flat_map(|line| &line.points);
    let heights = heights.chain(&polygon).map(|point| point.1);
    let x = Axis::with_range("rank as a fraction", [0.0, 1.0], 5);
    let y = Axis::linear("share of observations minus fraction", heights, 5);
    let mut panel = Panel::new("ranks of parameters", x, y);
    panel.marks.push(PlotMark::Area {
        points: polygon,
        colour: palette::RULE,
        opacity: 0.3,
    });
    panel.marks.push(PlotMark::HorizontalLine {
        y: 0.0,
        colour: palette::RULE,
        stroke: Stroke::Dashed,
    });
    let lines = lines.into_iter();
    let lines = lines.map(|line| {
        let name = format!("parameter {}", line.parameter);
        let mark = PlotMark::line(line.points, colour_of(line.parameter), 1.6);
        PlotMark::series(name, vec![mark])
    });
    panel.marks.extend(lines);
    Some(panel)
}

/// The curve of one test: the share of observations against the credibility.
fn curve_panel(view: &ReportView, group: &CalibrationGroup, test: &str) -> Option<Panel> {
    let of_test = |row: &&CalibrationRow| group.holds(row) && row.test == test;
    let rows = view.tables.calibration.iter().filter(of_test);
    let points: Vec<[f64; 4]> = rows
        .filter_map(|row| Some([row.level?, row.value?, row.low?, row.high?]))
        .collect();
    if points.is_empty() {
        return None;
    }
    let x = Axis::with_range("credibility", [0.0, 1.0], 5);
    let y = Axis::with_range("share of observations", [0.0, 1.0], 5);
    let mut panel = Panel::new(shorten(&sanitize_line(test), 40), x, y);
    panel.aspect = Some(1.0);
    let ends = [[0.0; 4], [1.0; 4]];
    let all = || ends[..1].iter().chain(&points).chain(&ends[1..]);
    let mut polygon: Vec<(f64, f64)> = all().map(|p| (p[0], p[2])).collect();
    polygon.extend(points.iter().rev().map(|p| (p[0], p[3])));
    let colour = palette::estimator_style(0).colour;
    let band = PlotMark::Area {
        points: polygon,
        colour,
        opacity: 0.25,
    };
    panel.marks.push(PlotMark::Line {
        points: vec![(0.0, 0.0), (1.0, 1.0)],
        colour: palette::RULE,
        width: 1.2,
        stroke: Stroke::Dashed,
    });
    let curve = all().map(|p| (p[0], p[1])).collect();
    let curve = PlotMark::line(curve, colour, 2.0);
    panel.marks.push(PlotMark::series(test, vec![band, curve]));
    Some(panel)
}
