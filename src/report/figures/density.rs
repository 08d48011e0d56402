//! The log-density of a two-dimensional model over the plane, and how estimators differ there.

use super::Drawing;
use crate::report::axis::Axis;
use crate::report::palette::{INK, Look, Map, Shape};
use crate::report::picture::{Fill, Mark, Panel, Picture, Raster, Side};
use crate::report::text::{listing, shorten};
use crate::report::view::{View, title};

/// Nats below the maximum at which the colours end: further down nothing is ever sampled.
const DEPTH: f64 = 15.0;
/// Estimators compared with the first one.
const OTHERS: usize = 3;
const POINTS: usize = 800;

pub fn draw<'a>(view: &View<'a>) -> Vec<Drawing<'a>> {
    view.models
        .iter()
        .filter_map(|model| of(view, model))
        .collect()
}

fn of<'a>(view: &View<'a>, model: &'a str) -> Option<Drawing<'a>> {
    let reference = view
        .groups
        .iter()
        .find(|g| g.model == model)
        .map_or("", |g| g.reference);
    let mut fields = fields(view, model);
    fields.sort_by_key(|field| field.estimator != reference);
    let first = fields.first()?;
    let top = first.top()?;
    let mut panels = vec![];
    let points = points(view, model);
    let others: Vec<&Field> = fields[1..]
        .iter()
        .filter(|f| f.top().is_some())
        .take(OTHERS)
        .collect();
    if others.is_empty() {
        panels.push(first.panel(view, top, &points));
    }
    let mut names = vec![];
    for other in others {
        names.push(view.name(other.estimator));
        panels.push(first.panel(view, top, &points));
        panels.push(other.panel(view, top, &[]));
        panels.extend(difference(view, first, other, top));
    }
    let mut caption = format!(
        "Log-density by {}, in nats per unit of the plane; colours end {DEPTH} nats below its \
         maximum.",
        view.name(first.estimator)
    );
    if !points.is_empty() {
        caption.push_str(&format!(" Points: {} samples of the data.", points.len()));
    }
    if !names.is_empty() {
        caption.push_str(&format!(
            " Beside it {}, and the difference to the former where that lies above the floor.",
            listing(&names)
        ));
    }
    let columns = if panels.len() == 1 { 1 } else { 3 };
    // As high as the frame's width and the plane's aspect ask.
    let width = if columns == 1 { 640.0 } else { 380.0 };
    let cell = (width, 68.0 + (width - 125.0) / first.aspect());
    let picture = Picture {
        title: title(model, "log-density over the plane"),
        subtitle: format!("grid of {} × {}", first.xs.len(), first.ys.len()),
        keys: vec![],
        columns,
        cell,
        panels,
    };
    Some(Drawing {
        model,
        stem: format!("density-{model}"),
        caption,
        picture,
    })
}

/// One estimator's values on the grid, `None` where there are none; x runs fastest.
struct Field<'a> {
    estimator: &'a str,
    xs: Vec<f64>,
    ys: Vec<f64>,
    values: Vec<Option<f64>>,
}

fn fields<'a>(view: &View<'a>, model: &str) -> Vec<Field<'a>> {
    let rows = || {
        view.tables
            .density
            .iter()
            .filter(|r| r.model == model && r.x.is_finite() && r.y.is_finite())
    };
    let (xs, ys) = (sorted(rows().map(|r| r.x)), sorted(rows().map(|r| r.y)));
    // A grid is dense; scattered points would ask for an immense one.
    if xs.len().saturating_mul(ys.len()) > 4 * rows().count().max(1) {
        return vec![];
    }
    let mut fields: Vec<Field> = vec![];
    for row in rows() {
        let known = fields.iter().position(|f| f.estimator == row.estimator);
        let index = known.unwrap_or_else(|| {
            let values = vec![None; xs.len() * ys.len()];
            fields.push(Field {
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

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.dedup_by(|a, b| a.total_cmp(b).is_eq());
    values
}

impl Field<'_> {
    fn top(&self) -> Option<f64> {
        self.values.iter().flatten().copied().reduce(f64::max)
    }

    fn panel(&self, view: &View, top: f64, points: &[(f64, f64)]) -> Panel {
        let colour = |value: Option<f64>| match value {
            Some(value) => Map::Viridis.colour((value - top + DEPTH) / DEPTH),
            None => [200, 200, 200],
        };
        let mut panel = self.raster(view.name(self.estimator), colour);
        panel.side = Side::Bar(Map::Viridis, Axis::exactly("nats", [top - DEPTH, top], 6));
        let look = Look {
            colour: INK,
            shape: Shape::Circle,
        };
        let points = points.to_vec();
        panel.marks.push(Mark::Dots {
            points,
            look,
            fill: Fill::Full,
            radius: 1.1,
            opacity: 0.5,
        });
        panel
    }

    fn raster(&self, heading: String, colour: impl Fn(Option<f64>) -> [u8; 3]) -> Panel {
        let (x, y) = (cells(&self.xs), cells(&self.ys));
        let mut panel = Panel::new(heading, Axis::exactly("x", x, 5), Axis::exactly("y", y, 5));
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
        let (x, y) = (cells(&self.xs), cells(&self.ys));
        ((x[1] - x[0]) / (y[1] - y[0])).clamp(0.4, 4.0)
    }
}

/// The range of a grid's cells: half a step beyond the outer centres.
fn cells(centres: &[f64]) -> [f64; 2] {
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

fn difference(view: &View, first: &Field, other: &Field, top: f64) -> Option<Panel> {
    let pairs = first.values.iter().zip(&other.values);
    let differences: Vec<Option<f64>> = pairs
        .map(|(a, b)| Some((*b)? - (*a).filter(|a| *a > top - DEPTH)?))
        .collect();
    let sizes = sorted(differences.iter().flatten().map(|d| d.abs()));
    // A few cells at the edge of the support must not take all the colours.
    let reach = *sizes.get(sizes.len().saturating_sub(1) * 99 / 100)?;
    let reach = if reach > 0.0 && reach.is_finite() {
        reach
    } else {
        1e-6
    };
    let field = Field {
        estimator: other.estimator,
        xs: first.xs.clone(),
        ys: first.ys.clone(),
        values: differences,
    };
    let heading = format!(
        "{} − {}",
        shorten(&view.name(other.estimator), 18),
        shorten(&view.name(first.estimator), 14)
    );
    let colour = |value: Option<f64>| match value {
        Some(value) => Map::Diverging.colour(0.5 + 0.5 * value / reach),
        None => [225, 226, 229],
    };
    let mut panel = field.raster(heading, colour);
    panel.side = Side::Bar(Map::Diverging, Axis::exactly("nats", [-reach, reach], 5));
    Some(panel)
}

/// Real points of the model's first plane gallery, thinned.
fn points(view: &View, model: &str) -> Vec<(f64, f64)> {
    let gallery = view
        .tables
        .galleries
        .iter()
        .find(|g| g.model == model && g.shape == [2]);
    let real = gallery.map_or(&[][..], |gallery| &gallery.real[..]);
    let pair = |row: &Vec<f64>| Some((*row.first()?, *row.get(1)?));
    let step = real.len().div_ceil(POINTS).max(1);
    real.iter().step_by(step).filter_map(pair).collect()
}
