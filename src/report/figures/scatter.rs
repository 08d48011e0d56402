//! The log-likelihood of each sample by each estimator, against the reference.

use std::collections::BTreeMap;

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, Fill, Panel, PlotMark, Stroke};
use crate::report::number_format::format_significant;
use crate::report::palette::{MarkerShape, RULE};
use crate::report::text::shorten;
use crate::report::view::{ComparisonGroup, ReportView, figure_title};

/// The largest number of points in one panel.
const MAX_POINTS_PER_PANEL: usize = 2000;
/// The largest number of points in one figure, which keeps its file small.
const MAX_POINTS_PER_FIGURE: usize = 9000;

/// One figure for each comparison group with several estimators.
pub(super) fn scatter_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.groups_with_figures()
        .filter_map(|group| scatter_figure(view, group))
        .collect()
}

fn scatter_figure<'a>(
    view: &ReportView<'a>,
    group: &ComparisonGroup<'a>,
) -> Option<CaptionedFigure<'a>> {
    let value = |s: &crate::rows::SampleLikelihoodRow| Some((s.sample, s.log_likelihood?));
    let reference: BTreeMap<usize, f64> = group
        .samples(view.tables, group.reference)
        .into_iter()
        .filter_map(value)
        .collect();
    let clouds: Vec<(&str, Vec<(f64, f64)>)> = (group.estimators().into_iter())
        .filter(|estimator| *estimator != group.reference)
        .map(|estimator| {
            let samples = group
                .samples(view.tables, estimator)
                .into_iter()
                .filter_map(value);
            let pairs = samples.filter_map(|(i, v)| Some((*reference.get(&i)?, v)));
            (estimator, pairs.collect::<Vec<_>>())
        })
        .filter(|(_, pairs)| !pairs.is_empty())
        .collect();
    if clouds.is_empty() {
        return None;
    }
    let most = MAX_POINTS_PER_PANEL
        .min(MAX_POINTS_PER_FIGURE / clouds.len())
        .max(1);
    let panels: Vec<Panel> = clouds
        .iter()
        .map(|(estimator, pairs)| scatter_panel(view, group, estimator, pairs, most))
        .collect();
    let columns = if panels.len() == 4 {
        2
    } else {
        panels.len().min(3)
    };
    let side = if columns == 1 { 420.0 } else { 330.0 };
    let is_thinned = clouds.iter().any(|(_, pairs)| pairs.len() > most);
    let thinned = if is_thinned {
        format!(
            " Each panel shows at most {most} points, evenly spaced in the table; r and RMSE use \
             all samples."
        )
    } else {
        String::new()
    };
    let caption = format!(
        "Each point is one sample: its log-likelihood by the panel's estimator against {}. The \
         dashed line is equality. r is Pearson's correlation, and RMSE is the root mean square \
         difference in nats.{thinned}",
        view.short_name(group.reference),
    );
    let spec = FigureSpec {
        title: figure_title(group.model, "log-likelihood per sample"),
        subtitle: group.subtitle(),
        legend: vec![],
        columns,
        panel_size: (side, side + 6.0),
        panels,
    };
    let (model, stem) = (group.model, view.file_stem("scatter", group));
    Some(CaptionedFigure {
        model,
        stem,
        caption,
        spec,
    })
}

/// The panel of one estimator with at most `most` points. A pair contains the reference's and the
/// estimator's log-likelihood.
fn scatter_panel(
    view: &ReportView,
    group: &ComparisonGroup,
    estimator: &str,
    pairs: &[(f64, f64)],
    most: usize,
) -> Panel {
    let both = || pairs.iter().flat_map(|&(a, b)| [a, b]);
    let short = shorten(&view.short_name(estimator), 24);
    let x = Axis::linear(
        &format!(
            "by {}, nats",
            shorten(&view.short_name(group.reference), 24)
        ),
        both(),
        4,
    );
    let y = Axis::linear(&format!("by {short}, nats"), both(), 4);
    let ends = vec![(x.range[0], x.range[0]), (x.range[1], x.range[1])];
    let mut panel = Panel::new(short, x, y);
    panel.aspect = Some(1.0);
    let stroke = Stroke::Dashed;
    panel.marks.push(PlotMark::Line {
        points: ends,
        colour: RULE,
        width: 1.2,
        stroke,
    });
    let mut style = view.style(estimator);
    // In a dense cloud circles are the clearest shape, and the panel's title names the estimator.
    style.shape = MarkerShape::Circle;
    let step = pairs.len().div_ceil(most);
    let points: Vec<(f64, f64)> = pairs.iter().copied().step_by(step).collect();
    let opacity = if points.len() > 400 { 0.35 } else { 0.6 };
    let radius = if points.len() > 400 { 2.0 } else { 2.8 };
    let cloud = PlotMark::Dots {
        points,
        style,
        fill: Fill::Full,
        radius,
        opacity,
    };
    let name = view.short_name(estimator);
    panel.marks.push(PlotMark::series(name, vec![cloud]));
    panel
        .marks
        .push(PlotMark::CornerText(agreement_lines(pairs)));
    panel
}

/// The correlation and the root mean square difference as lines of text. They stand in the upper
/// left corner, which a cloud along the diagonal leaves free. A single pair has no correlation.
fn agreement_lines(pairs: &[(f64, f64)]) -> Vec<String> {
    let n = pairs.len() as f64;
    let rmse = (pairs.iter().map(|(a, b)| (b - a).powi(2)).sum::<f64>() / n).sqrt();
    let (ma, mb) = (
        pairs.iter().map(|p| p.0).sum::<f64>() / n,
        pairs.iter().map(|p| p.1).sum::<f64>() / n,
    );
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(a, b)| f(a - ma, b - mb)).sum::<f64>();
    let (ab, aa, bb) = (sum(&|a, b| a * b), sum(&|a, _| a * a), sum(&|_, b| b * b));
    let r = ab / (aa * bb).sqrt();
    let rmse = format!("RMSE {} nats", format_significant(rmse, 3));
    let r = r
        .is_finite()
        .then(|| format!("r = {}", format_correlation(r)));
    r.into_iter().chain([rmse]).collect()
}

/// A correlation with enough digits to show its distance to one, such as 0.99987.
pub(crate) fn format_correlation(r: f64) -> String {
    let decimals = (1..=5)
        .find(|&d| 1.0 - r.abs() >= 10f64.powi(-d))
        .map_or(6, |d| d + 1);
    crate::report::number_format::format_fixed(r, (decimals as usize).max(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_lines_omit_undefined_correlation() {
        assert_eq!(agreement_lines(&[(1.0, 1.5)]), ["RMSE 0.500 nats"]);
        assert_eq!(
            agreement_lines(&[(0.0, 1.0), (1.0, 2.0), (2.0, 3.0)]),
            ["r = 1.000000", "RMSE 1.00 nats"]
        );
    }

    #[test]
    fn correlations_near_one_keep_their_digits() {
        assert_eq!(format_correlation(0.97612), "0.976");
        assert_eq!(format_correlation(0.99987), "0.99987");
        assert_eq!(format_correlation(-0.5), "−0.500");
    }
}
