//! The log-density of a two-dimensional model over the plane, and how estimators differ there.

use super::CaptionedFigure;
use crate::report::axis::Axis;
use crate::report::figure_spec::{FigureSpec, Fill, Panel, PlotMark, Raster, RightMargin};
use crate::report::palette::{ColourMap, INK, MarkerShape, MarkerStyle};
use crate::report::text::{join_with_and, shorten};
use crate::report::view::{ReportView, figure_title};

/// Nats below the maximum at which the colours end: further down nothing is ever sampled.
const COLOUR_DEPTH_NATS: f64 = 15.0;
/// Estimators compared with the first one.
const MAX_OTHERS: usize = 3;
const MAX_DATA_POINTS: usize = 800;

pub fn density_figures<'a>(view: &ReportView<'a>) -> Vec<CaptionedFigure<'a>> {
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
        "Log-density by {}, in nats per unit of the plane; colours end {COLOUR_DEPTH_NATS} nats below its \
         maximum.",
        view.short_name(first.estimator)
    );
    if !points.is_empty() {
        caption.push_str(&format!(" Points: {} samples of the data.", points.len()));
    }
    if !names.is_empty() {
        caption.push_str(&format!(
            " Beside it {}, and the difference to the former where that lies above the floor.",
            join_with_and(&names)
        ));
    }
    let columns = if panels.len() == 1 { 1 } else { 3 };
    // As high as the frame's width and the plane's aspect ask.
    let width = if columns == 1 { 640.0 } else { 380.0 };
    let cell = (width, 68.0 + (width - 125.0) / first.aspect());
    let picture = FigureSpec {
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
        spec: picture,
    })
}

/// One estimator's values on the grid, `None` where there are none; x runs fastest.
struct DensityField<'a> {
    estimator: &'a str,
    xs: Vec<f64>,
    ys: Vec<f64>,
    values: Vec<Option<f64>>,
}

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
    // A grid is dense; scattered points would ask for an immense one.
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
        let look = MarkerStyle {
            colour: INK,
            shape: MarkerShape::Circle,
        };
        let points = points.to_vec();
        panel.marks.push(PlotMark::Dots {
            points,
            style: look,
            fill: Fill::Full,
            radius: 1.1,
            opacity: 0.5,
        });
        panel
    }

    fn raster_panel(&self, heading: String, colour: impl Fn(Option<f64>) -> [u8; 3]) -> Panel {
        let (x, y) = (cell_range(&self.xs), cell_range(&self.ys));
        let mut panel = Panel::new(
            heading,
            Axis::with_range("x", x, 5),
            Axis::with_range("y", y, 5),
        );
        // Screens count rows from the top.
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

    /// Width over height of the plane's part, within what can be looked at.
    fn aspect(&self) -> f64 {
        let (x, y) = (cell_range(&self.xs), cell_range(&self.ys));
        ((x[1] - x[0]) / (y[1] - y[0])).clamp(0.4, 4.0)
    }
}

/// The range of a grid's cells: half a step beyond the outer centres.
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
    // A few cells at the edge of the support must not take all the colours.
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

/// Real points of the model's first plane gallery, thinned.
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
