//! The divergence of dx/dt along the path by each estimator, and the difference to the reference.

use std::collections::BTreeMap;

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::curves::{self, CurveMoments};
use crate::report::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Panel, PlotMark, Stroke};
use crate::report::palette::{MarkerStyle, RULE};
use crate::report::view::{ComparisonGroup, ReportView, figure_title};
use crate::rows::ProfileRow;

/// The nodes of one sample's path: the x of the figure, and the divergence.
type DivergenceCurve = Vec<(f64, f64)>;

/// One figure for each comparison group with profiles.
pub(super) fn divergence_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter_map(|group| divergence_figure(view, group))
        .collect()
}

/// One estimator's curves, by the sample's index.
struct EstimatorCurves<'a> {
    estimator: &'a str,
    style: MarkerStyle,
    curves: BTreeMap<usize, DivergenceCurve>,
}

fn divergence_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let rows: Vec<&ProfileRow> = (view.tables.profile.iter())
        .filter(|r| {
            (r.model.as_str(), r.dataset.as_str(), r.solver.as_str())
                == (group.model, group.dataset, group.solver)
        })
        .collect();
    // At the ends of some paths the signal-to-noise ratio is infinite. It stays the x axis if at
    // most a fifth of the nodes are lost.
    let lost = rows
        .iter()
        .filter(|row| !row.half_log_snr.is_finite())
        .count();
    let by_snr = 5 * lost <= rows.len();
    let bundles = curves_by_estimator(view, group, &rows, by_snr);
    let all: Vec<&DivergenceCurve> = bundles.iter().flat_map(|b| b.curves.values()).collect();
    let grid = curves::common_grid(&all);
    if grid.len() < 2 {
        return None;
    }
    let label = if by_snr {
        "half log signal-to-noise ratio ln(α/σ): noise at the left, data at the right"
    } else {
        "time t of the model"
    };
    let mut panels = vec![mean_divergence_panel(view, &bundles, &grid, label)];
    panels.extend(divergence_difference_panel(
        view, group, &bundles, &grid, label,
    ));
    let samples = bundles.iter().map(|b| b.curves.len()).max().unwrap_or(0);
    let caption = divergence_caption(view, group, samples, panels.len() > 1);
    let spec = FigureSpec {
        title: figure_title(group.model, "divergence along the path"),
        subtitle: format!("{} · {samples} samples drawn", group.subtitle()),
        legend: divergence_legend(view, group, &bundles, panels.len() > 1),
        columns: 1,
        panel_size: (880.0, 280.0),
        panels,
    };
    let (model, stem) = (group.model, view.file_stem("divergence", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption,
        spec,
    })
}

/// The curves of each estimator, the reference first. With `by_snr`, x is half the log
/// signal-to-noise ratio, otherwise the model's time.
fn curves_by_estimator<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
    rows: &[&'a ProfileRow],
    by_snr: bool,
) -> Vec<EstimatorCurves<'a>> {
    let mut bundles: Vec<EstimatorCurves> = vec![];
    for row in rows {
        let known = bundles.iter().position(|b| b.estimator == row.estimator);
        let index = known.unwrap_or_else(|| {
            let style = view.style(&row.estimator);
            bundles.push(EstimatorCurves {
                estimator: &row.estimator,
                style,
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
            *curve = curves::sort_and_merge_nodes(std::mem::take(curve));
        }
        bundle.curves.retain(|_, curve| curve.len() > 1);
    }
    bundles.retain(|bundle| !bundle.curves.is_empty());
    // The reference is drawn first, so that curves that differ from it lie on top.
    bundles.sort_by_key(|bundle| bundle.estimator != group.reference);
    bundles
}

/// The panel of the mean divergence over samples.
fn mean_divergence_panel(
    view: &ReportView,
    bundles: &[EstimatorCurves],
    grid: &[f64],
    label: &str,
) -> Panel {
    let means: Vec<DivergenceCurve> = bundles
        .iter()
        .map(|bundle| {
            let curves: Vec<DivergenceCurve> = bundle.curves.values().cloned().collect();
            curves::average_curves(&curves, grid)
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
    let x = Axis::with_range(label, grid_range(grid), 8);
    let mut panel = Panel::new(
        "Mean over samples",
        x,
        Axis::linear_or_symlog("div dx/dt", values, 5),
    );
    for (i, (bundle, mean)) in bundles.iter().zip(means).enumerate() {
        let width = if i == 0 { 3.4 } else { 1.5 };
        let line = PlotMark::line(mean, bundle.style.colour, width);
        let name = view.short_name(bundle.estimator);
        panel.marks.push(PlotMark::series(name, vec![line]));
    }
    panel
}

/// The panel of the mean difference to the reference, with its standard deviation over samples.
/// `None` if there is nothing to compare.
fn divergence_difference_panel(
    view: &ReportView,
    group: &ComparisonGroup,
    bundles: &[EstimatorCurves],
    grid: &[f64],
    label: &str,
) -> Option<Panel> {
    let reference = bundles
        .iter()
        .find(|bundle| bundle.estimator == group.reference)?;
    let others: Vec<(&EstimatorCurves, Vec<CurveMoments>)> = bundles
        .iter()
        .filter(|bundle| bundle.estimator != group.reference)
        .map(|bundle| {
            (
                bundle,
                curves::average_curves(&difference_curves(bundle, reference, grid), grid),
            )
        })
        .filter(|(_, average)| average.len() > 1)
        .collect();
    if others.is_empty() {
        return None;
    }
    let reach = |(_, mean, spread): &CurveMoments| {
        [mean - spread.unwrap_or(0.0), mean + spread.unwrap_or(0.0)]
    };
    let values: Vec<f64> = others
        .iter()
        .flat_map(|(_, average)| average.iter().flat_map(reach))
        .collect();
    let heading = format!("Difference to {}", view.short_name(group.reference));
    let y = Axis::linear_or_symlog("difference of div dx/dt", values, 5);
    let mut panel = Panel::new(heading, Axis::with_range(label, grid_range(grid), 8), y);
    panel.marks.push(PlotMark::HorizontalLine {
        y: 0.0,
        colour: RULE,
        stroke: Stroke::Solid,
    });
    for (bundle, average) in &others {
        let band = spread_band(average, bundle.style).map(|band| vec![band]);
        let name = view.short_name(bundle.estimator);
        panel
            .marks
            .extend(band.map(|band| PlotMark::series(name, band)));
    }
    for (bundle, average) in &others {
        let mean = average.iter().map(|(x, mean, _)| (*x, *mean)).collect();
        let line = PlotMark::line(mean, bundle.style.colour, 1.7);
        let name = view.short_name(bundle.estimator);
        panel.marks.push(PlotMark::series(name, vec![line]));
    }
    Some(panel)
}

/// The differences to the reference of the same sample, on the grid.
fn difference_curves(
    bundle: &EstimatorCurves,
    reference: &EstimatorCurves,
    grid: &[f64],
) -> Vec<DivergenceCurve> {
    let pair = |(sample, curve): (&usize, &DivergenceCurve)| {
        let other = reference.curves.get(sample)?;
        let point = |&x: &f64| {
            Some((
                x,
                curves::interpolate_curve(curve, x)? - curves::interpolate_curve(other, x)?,
            ))
        };
        Some(grid.iter().filter_map(point).collect())
    };
    bundle.curves.iter().filter_map(pair).collect()
}

/// The area of one standard deviation on either side of the mean.
fn spread_band(average: &[CurveMoments], style: MarkerStyle) -> Option<PlotMark> {
    let side =
        |sign: f64| move |(x, mean, spread): &CurveMoments| Some((*x, mean + sign * (*spread)?));
    let mut points: Vec<(f64, f64)> = average.iter().filter_map(side(1.0)).collect();
    points.extend(average.iter().rev().filter_map(side(-1.0)));
    (points.len() > 3).then_some(PlotMark::Area {
        points,
        colour: style.colour,
        opacity: 0.13,
    })
}

fn grid_range(grid: &[f64]) -> [f64; 2] {
    [
        grid.first().copied().unwrap_or(0.0),
        grid.last().copied().unwrap_or(1.0),
    ]
}

fn divergence_legend(
    view: &ReportView,
    group: &ComparisonGroup,
    bundles: &[EstimatorCurves],
    with_band: bool,
) -> Vec<LegendEntry> {
    let entry = |bundle: &EstimatorCurves| {
        let role = if bundle.estimator == group.reference {
            " (reference)"
        } else {
            ""
        };
        let text = format!("{}{role}", view.short_name(bundle.estimator));
        LegendEntry {
            text,
            colour: bundle.style.colour,
            symbol: LegendSymbol::Line(Stroke::Solid),
        }
    };
    let mut legend: Vec<LegendEntry> = bundles.iter().map(entry).collect();
    if with_band && bundles.iter().any(|bundle| bundle.curves.len() > 1) {
        let text = "± 1 standard deviation over samples".into();
        legend.push(LegendEntry {
            text,
            colour: [90, 90, 90],
            symbol: LegendSymbol::Band,
        });
    }
    legend
}

fn divergence_caption(
    view: &ReportView,
    group: &ComparisonGroup,
    samples: usize,
    with_difference: bool,
) -> String {
    let over = if samples == 1 {
        "one sample".into()
    } else {
        format!("{samples} samples")
    };
    let difference = match with_difference {
        true => format!(
            " The lower panel shows the paired difference to {}: mean and standard deviation over \
             the samples.",
            view.short_name(group.reference)
        ),
        false => String::new(),
    };
    format!(
        "Divergence of dx/dt, with time running from data to noise, as a mean over {over}. The \
         log-likelihood is the prior's log-density plus the integral of this divergence over \
         time.{difference} All estimates are at the same nodes of the same paths; straight lines \
         connect the nodes.",
    )
}
