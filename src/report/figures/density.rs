//! The log-density of a two-dimensional model over the plane, and the differences between
//! estimators.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, Fill, Panel, PlotMark, Raster, RightMargin};
use crate::report::palette::{ColourMap, INK, MarkerShape, MarkerStyle};
use crate::report::text::{join_with_and, shorten};
use crate::report::view::{ReportView, figure_title};

/// The colours end this many nats below the maximum. Samples hardly ever have lower log-densities.
const COLOUR_DEPTH_NATS: f64 = 15.0;
/// The largest number of estimators that are compared with the first one.
const MAX_OTHERS: usize = 3;
/// The largest number of data points in a panel.
const MAX_DATA_POINTS: usize = 800;

/// One figure for each model with log-densities on a grid.
pub(super) fn density_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
    view.models
        .iter()
        .filter_map(|model| density_figure(view, model))
        .collect()
}

fn density_figure<'a>(view: &ReportView<'a>, model: &'a str) -> Option<CaptionedFigure<'a>> {
    let reference = view
        .groups
        .iter()
        .find(|g| g.model == model)
        .map_or("", |g| g.reference);
    let mut fields = density_fields(view, model);
    fields.sort_by_key(|field| field.estimator != reference);
    let first = fields.first()?;
    let top = first.max_value()?;
    let mut panels = vec![];
    let points = gallery_points(view, model);
    let others: Vec<&DensityField> = fields[1..]
        .iter()
        .filter(|f| f.max_value().is_some())
        .take(MAX_OTHERS)
        .collect();
    if others.is_empty() {
        panels.push(first.panel(view, top, &points));
    }
    let mut names = vec![];
    for other in others {
        names.push(view.short_name(other.estimator));
        panels.push(first.panel(view, top, &points));
        panels.push(other.panel(view, top, &[]));
        panels.extend(density_difference_panel(view, first, other, top));
    }
    let mut caption = format!(
        "Log-density over the plane by {}, in nats. The colours end {COLOUR_DEPTH_NATS} nats below \
         the maximum.",
        view.short_name(first.estimator)
    );
    if !points.is_empty() {
        caption.push_str(&format!(
            " The points are {} samples of the data.",
            points.len()
        ));
    }
    if !names.is_empty() {
        caption.push_str(&format!(
            " The other panels show {}, and the difference to {} within its colour range.",
            join_with_and(&names),
            view.short_name(first.estimator)
        ));
    }
    let columns = if panels.len() == 1 { 1 } else { 3 };
    // The height follows from the frame's width and from the aspect of the plane.
    let width = if columns == 1 { 640.0 } else { 380.0 };
    let cell = (width, 68.0 + (width - 125.0) / first.aspect());
    let spec = FigureSpec {
        title: figure_title(model, "log-density over the plane"),
        subtitle: format!("grid of {} × {}", first.xs.len(), first.ys.len()),
        legend: vec![],
        columns,
        panel_size: cell,
        panels,
    };
    Some(CaptionedFigure {
        model,
        stem: format!("density-{model}"),
        caption,
        spec,
    })
}

/// One estimator's log-densities on a rectangular grid. x runs fastest, and a missing value is
/// `None`.
struct DensityField<'a> {
    estimator: &'a str,
    xs: Vec<f64>,
    ys: Vec<f64>,
    values: Vec<Option<f64>>,
}

/// The fields of all estimators of a model, on one grid. Empty if the points are not a grid.
fn density_fields<'a>(view: &ReportView<'a>, model: &str) -> Vec<DensityField<'a>> {
    let rows = || {
        view.tables
            .density
            .iter()
            .filter(|r| r.model == model && r.x.is_finite() && r.y.is_finite())
    };
    let (xs, ys) = (
        sorted_unique(rows().map(|r| r.x)),
        sorted_unique(rows().map(|r| r.y)),
    );
    // A grid has a value at almost every pair of x and y. Scattered points would need an immense
    // field.
    if xs.len().saturating_mul(ys.len()) > 4 * rows().count().max(1) {
        return vec![];
    }
    let mut fields: Vec<DensityField> = vec![];
    for row in rows() {
        let known = fields.iter().position(|f| f.estimator == row.estimator);
        let index = known.unwrap_or_else(|| {
            let values = vec![None; xs.len() * ys.len()];
            fields.push(DensityField {
                estimator: &row.estimator,
                xs: xs.clone(),
                ys: ys.clone(),
                values,
            });
            fields.len() - 1
        });
        let place = |axis: &[f64], v: f64| axis.binary_search_by(|a| a.total_cmp(&v));
        if let (Ok(i), Ok(j)) = (place(&xs, row.x), place(&ys, row.y)) {
            fields[index].values[j * xs.len() + i] = row.log_density.filter(|v| v.is_finite());
        }
    }
    fields
}

fn sorted_unique(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| a.total_cmp(b).is_eq());
    values
}

impl DensityField<'_> {
    fn max_value(&self) -> Option<f64> {
        self.values.iter().flatten().copied().reduce(f64::max)
    }

    /// The panel of the log-density. `top` is the maximum of the colours in nats.
    fn panel(&self, view: &ReportView, top: f64, points: &[(f64, f64)]) -> Panel {
        let colour = |value: Option<f64>| match value {
            Some(value) => {
                ColourMap::Viridis.colour((value - top + COLOUR_DEPTH_NATS) / COLOUR_DEPTH_NATS)
            }
            None => [200, 200, 200],
        };
        let mut panel = self.raster_panel(view.short_name(self.estimator), colour);
        panel.right_margin = RightMargin::ColourBar(
            ColourMap::Viridis,
            Axis::with_range("nats", [top - COLOUR_DEPTH_NATS, top], 6),
        );
        let style = MarkerStyle {
            colour: INK,
            shape: MarkerShape::Circle,
        };
        let points = points.to_vec();
        let cloud = PlotMark::Dots {
            points,
            style,
            fill: Fill::Full,
            radius: 1.1,
            opacity: 0.5,
        };
        panel.marks.push(PlotMark::series("data", vec![cloud]));
        panel
    }

    /// A panel with one coloured cell per grid point.
    fn raster_panel(&self, heading: String, colour: impl Fn(Option<f64>) -> [u8; 3]) -> Panel {
        let (x, y) = (cell_range(&self.xs), cell_range(&self.ys));
        let mut panel = Panel::new(
            heading,
            Axis::with_range("x", x, 5),
            Axis::with_range("y", y, 5),
        );
        // A raster begins with its upper row, and the grid with its lower row.
        let rows = self.values.chunks(self.xs.len().max(1)).rev();
        let pixels = rows.flatten().map(|&value| colour(value)).collect();
        panel.raster = Some(Raster {
            width: self.xs.len(),
            height: self.ys.len(),
            pixels,
        });
        panel.aspect = Some(self.aspect());
        panel
    }

    /// The ratio of the grid's width to its height, from 0.4 to 4.
    fn aspect(&self) -> f64 {
        let (x, y) = (cell_range(&self.xs), cell_range(&self.ys));
        ((x[1] - x[0]) / (y[1] - y[0])).clamp(0.4, 4.0)
    }
}

/// The range of the grid's cells, which reach half a step beyond the outer centres.
fn cell_range(centres: &[f64]) -> [f64; 2] {
    let (low, high) = (
        centres.first().copied().unwrap_or(0.0),
        centres.last().copied().unwrap_or(1.0),
    );
    let steps = centres.len().saturating_sub(1).max(1) as f64;
    let half = if high > low {
        (high - low) / steps / 2.0
    } else {
        0.5
    };
    [low - half, high + half]
}

/// The panel of the difference between two estimators. It leaves out points where the first one is
/// below the colour range.
fn density_difference_panel(
    view: &ReportView,
    first: &DensityField,
    other: &DensityField,
    top: f64,
) -> Option<Panel> {
    let pairs = first.values.iter().zip(&other.values);
    let differences: Vec<Option<f64>> = pairs
        .map(|(a, b)| Some((*b)? - (*a).filter(|a| *a > top - COLOUR_DEPTH_NATS)?))
        .collect();
    let sizes = sorted_unique(differences.iter().flatten().map(|d| d.abs()));
    // A few cells at the edge of the support may have huge differences. The colours cover the other
    // 99 %.
    let reach = *sizes.get(sizes.len().saturating_sub(1) * 99 / 100)?;
    let reach = if reach > 0.0 && reach.is_finite() {
        reach
    } else {
        1e-6
    };
    let field = DensityField {
        estimator: other.estimator,
        xs: first.xs.clone(),
        ys: first.ys.clone(),
        values: differences,
    };
    let heading = format!(
        "{} − {}",
        shorten(&view.short_name(other.estimator), 18),
        shorten(&view.short_name(first.estimator), 14)
    );
    let colour = |value: Option<f64>| match value {
        Some(value) => ColourMap::Diverging.colour(0.5 + 0.5 * value / reach),
        None => [225, 226, 229],
    };
    let mut panel = field.raster_panel(heading, colour);
    panel.right_margin = RightMargin::ColourBar(
        ColourMap::Diverging,
        Axis::with_range("nats", [-reach, reach], 5),
    );
    Some(panel)
}

/// The data points of the model's first gallery in the plane, at most [`MAX_DATA_POINTS`] of them.
fn gallery_points(view: &ReportView, model: &str) -> Vec<(f64, f64)> {
    let gallery = view
        .tables
        .galleries
        .iter()
        .find(|g| g.model == model && g.shape == [2]);
    let real = gallery.map_or(&[][..], |gallery| &gallery.real[..]);
    let pair = |row: &Vec<f64>| Some((*row.first()?, *row.get(1)?));
    let step = real.len().div_ceil(MAX_DATA_POINTS).max(1);
    real.iter().step_by(step).filter_map(pair).collect()
}
