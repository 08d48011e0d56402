//! Draws one panel: its frame, grid, ticks and marks, and the texts and colours beside the frame.

use anyhow::Result;

use super::canvas::{self, Anchor, Backend, Canvas, FontSpec, Rect};
use super::font::FigureFont;
use super::labels::{self, LabelRequest};
use crate::report::axis::{Axis, Scale};
use crate::report::figure_spec::{Panel, PlotMark, Raster, RightMargin, Stroke, TextColumn};
use crate::report::palette::{Colour, ColourMap, FAINT, GRID, INK, MUTED, RULE};
use crate::report::text::{sanitize_line, shorten};

const HEADING: FontSpec = FontSpec {
    size: 12.5,
    bold: true,
    colour: INK,
};
/// The labels of axes.
pub(super) const LABEL: FontSpec = FontSpec {
    size: 12.0,
    bold: false,
    colour: INK,
};
const TICK: FontSpec = FontSpec {
    size: 11.0,
    bold: false,
    colour: MUTED,
};
const CATEGORY: FontSpec = FontSpec {
    size: 12.0,
    bold: false,
    colour: INK,
};
const NOTE: FontSpec = FontSpec {
    size: 11.5,
    bold: false,
    colour: INK,
};
/// The smallest size of an axis's label, in pixels.
const SMALLEST_LABEL: f64 = 9.0;
/// The width of a colour bar, in pixels.
const COLOUR_BAR_WIDTH: f64 = 13.0;

/// The widths that texts need left and right of a frame, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TextMargins {
    left: f64,
    right: f64,
}

impl TextMargins {
    /// The larger width on each side. All panels of a figure use it, so that their frames are
    /// aligned.
    pub(super) fn max(self, other: TextMargins) -> TextMargins {
        TextMargins {
            left: self.left.max(other.left),
            right: self.right.max(other.right),
        }
    }
}

/// Draws a panel into its cell.
///
/// # Errors
/// Fails if the backend cannot draw.
pub(super) fn draw_panel<DB: Backend>(
    canvas: &Canvas<DB>,
    panel: &Panel,
    cell: Rect,
    margins: TextMargins,
) -> Result<()> {
    let frame = frame_rect(panel, cell, margins);
    let plot = PlotArea {
        x: &panel.x,
        y: &panel.y,
        frame,
        cell,
    };
    canvas.text(
        &panel.title,
        (frame.left, cell.top + 13.0),
        Anchor::Start,
        HEADING,
    )?;
    match &panel.raster {
        Some(raster) => canvas.raster(frame, raster)?,
        None => draw_grid(canvas, &plot)?,
    }
    let axes = axes_as_json(panel, frame);
    canvas.group(&[("class", "panel"), ("data-axes", &axes)], || {
        panel
            .marks
            .iter()
            .try_for_each(|mark| plot.draw_mark(canvas, mark, &panel.marks))
    })?;
    draw_x_axis(canvas, &plot)?;
    draw_y_axis(canvas, &plot)?;
    draw_right_margin(canvas, panel, &plot)
}

/// The widths that the texts of one panel need.
pub(super) fn text_margins(panel: &Panel, font: &FigureFont) -> TextMargins {
    let mut left = 2.0;
    if !panel.y.ticks.is_empty() {
        left += widest_tick_text(&panel.y, tick_font(&panel.y).size, font) + 8.0;
    }
    if !panel.y.label.is_empty() {
        left += 24.0;
    }
    let right = match &panel.right_margin {
        RightMargin::Empty if panel.x.ticks.is_empty() => 2.0,
        RightMargin::Empty => 12.0,
        RightMargin::TextColumns(columns) => columns
            .iter()
            .map(|column| text_column_width(column, font) + 14.0)
            .sum(),
        RightMargin::ColourBar(_, axis) => {
            COLOUR_BAR_WIDTH + 36.0 + widest_tick_text(axis, TICK.size, font)
        }
    };
    TextMargins { left, right }
}

/// The frame: the cell without the margins for texts. If the panel has an aspect, so has the frame.
fn frame_rect(panel: &Panel, cell: Rect, margins: TextMargins) -> Rect {
    let below = if panel.x.ticks.is_empty() { 4.0 } else { 22.0 };
    let bottom = cell.bottom - below - if panel.x.label.is_empty() { 0.0 } else { 19.0 };
    let headed = matches!(
        &panel.right_margin,
        RightMargin::TextColumns(columns) if columns.iter().any(|c| !c.heading.is_empty())
    );
    let top = cell.top
        + if panel.title.is_empty() && !headed {
            8.0
        } else {
            24.0
        };
    // Long texts must not push the data out of the cell.
    let left = cell.left + margins.left.min(0.6 * (cell.right - cell.left));
    let right = (cell.right - margins.right).max(left + 40.0);
    let bottom = bottom.max(top + 30.0);
    let Some(aspect) = panel.aspect.filter(|a| a.is_finite() && *a > 0.0) else {
        return Rect {
            left,
            top,
            right,
            bottom,
        };
    };
    let width = (right - left).min((bottom - top) * aspect).max(8.0);
    let height = (width / aspect).max(8.0);
    Rect {
        left,
        top,
        right: left + width,
        bottom: top + height,
    }
}

fn text_column_width(column: &TextColumn, font: &FigureFont) -> f64 {
    let widths = column
        .texts
        .iter()
        .map(|(_, note)| font.width(note, NOTE.size, false));
    widths.fold(font.width(&column.heading, NOTE.size, false), f64::max)
}

fn widest_tick_text(axis: &Axis, size: f64, font: &FigureFont) -> f64 {
    axis.ticks
        .iter()
        .map(|t| font.width(&t.text, size, false))
        .fold(0.0, f64::max)
}

/// The font of an axis's tick texts. An axis without a label has names as ticks, which are larger
/// than numbers.
fn tick_font(axis: &Axis) -> FontSpec {
    if axis.label.is_empty() {
        CATEGORY
    } else {
        TICK
    }
}

/// The two axes and the frame that they span.
struct PlotArea<'a> {
    x: &'a Axis,
    y: &'a Axis,
    frame: Rect,
    /// The frame with the room for its texts.
    cell: Rect,
}

impl PlotArea<'_> {
    /// The horizontal pixel of a place in the x range, from 0 at its start to 1 at its end. Places
    /// far outside the frame are moved to its edge.
    fn x_pixel(&self, part: f64) -> f64 {
        self.frame.left + part.clamp(-0.02, 1.02) * (self.frame.right - self.frame.left)
    }

    /// The vertical pixel of a place in the y range. Places far outside the frame are moved to its
    /// edge.
    fn y_pixel(&self, part: f64) -> f64 {
        self.frame.bottom - part.clamp(-0.02, 1.02) * (self.frame.bottom - self.frame.top)
    }

    /// The pixel of a point. `None` if an axis has no position for it.
    fn to_pixels(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((
            self.x_pixel(self.x.fraction(x)?),
            self.y_pixel(self.y.fraction(y)?),
        ))
    }

    fn points_to_pixels(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        points
            .iter()
            .filter_map(|&point| self.to_pixels(point))
            .collect()
    }

    /// Draws one mark. `all` are the marks of the panel, which labels must not cover.
    fn draw_mark<DB: Backend>(
        &self,
        canvas: &Canvas<DB>,
        mark: &PlotMark,
        all: &[PlotMark],
    ) -> Result<()> {
        match mark {
            PlotMark::Line {
                points,
                colour,
                width,
                stroke: Stroke::Solid,
            } => canvas.line(&self.points_to_pixels(points), *colour, *width),
            PlotMark::Line {
                points,
                colour,
                width,
                stroke: Stroke::Dashed,
            } => canvas.dashed_line(&self.points_to_pixels(points), *colour, *width),
            PlotMark::Dots {
                points,
                style,
                fill,
                radius,
                opacity,
            } => {
                let form = (style.shape, *fill);
                let ink = (style.colour, *opacity);
                self.points_to_pixels(points)
                    .into_iter()
                    .try_for_each(|at| canvas.marker(at, form, *radius, ink))
            }
            PlotMark::Area {
                points,
                colour,
                opacity,
            } => canvas.polygon(&self.points_to_pixels(points), *colour, *opacity),
            PlotMark::VerticalLine { x, colour, stroke } => {
                let Some(x) = self.x.fraction(*x).map(|part| self.x_pixel(part)) else {
                    return Ok(());
                };
                self.draw_rule(
                    canvas,
                    (x, self.frame.top),
                    (x, self.frame.bottom),
                    *colour,
                    *stroke,
                )
            }
            PlotMark::HorizontalLine { y, colour, stroke } => {
                let Some(y) = self.y.fraction(*y).map(|part| self.y_pixel(part)) else {
                    return Ok(());
                };
                self.draw_rule(
                    canvas,
                    (self.frame.left, y),
                    (self.frame.right, y),
                    *colour,
                    *stroke,
                )
            }
            PlotMark::Labels(texts) => self.draw_labels(canvas, texts, all),
            PlotMark::CornerText(lines) => lines.iter().enumerate().try_for_each(|(i, line)| {
                let at = (
                    self.frame.left + 8.0,
                    self.frame.top + 17.0 + 16.0 * i as f64,
                );
                canvas.text(line, at, Anchor::Start, NOTE)
            }),
            PlotMark::Values(values) => values.iter().try_for_each(|(x, y, text)| {
                let at = self.to_pixels((*x, *y));
                at.map_or(Ok(()), |at| canvas.value_text(at, &sanitize_line(text)))
            }),
            PlotMark::Series { name, marks } => {
                let name = sanitize_line(name);
                canvas.group(&[("class", "series"), ("data-name", &name)], || {
                    marks
                        .iter()
                        .try_for_each(|mark| self.draw_mark(canvas, mark, all))
                })
            }
        }
    }

    fn draw_rule<DB: Backend>(
        &self,
        canvas: &Canvas<DB>,
        from: (f64, f64),
        to: (f64, f64),
        colour: Colour,
        stroke: Stroke,
    ) -> Result<()> {
        match stroke {
            Stroke::Solid => canvas.line(&[from, to], colour, 1.2),
            Stroke::Dashed => canvas.dashed_line(&[from, to], colour, 1.2),
        }
    }

    /// Adds the points that a label must not cover.
    fn add_obstacles(&self, marks: &[PlotMark], points: &mut Vec<(f64, f64)>) {
        for mark in marks {
            match mark {
                PlotMark::Dots { points: dots, .. } => points.extend(self.points_to_pixels(dots)),
                PlotMark::Line { points: line, .. } => {
                    let line = self.points_to_pixels(line);
                    let pairs = line.windows(2);
                    points.extend(pairs.flat_map(|pair| points_along_line(pair[0], pair[1])));
                }
                PlotMark::VerticalLine { x, .. } => {
                    let x = self.x.fraction(*x).map(|part| self.x_pixel(part));
                    let ends = x.map(|x| [(x, self.frame.top), (x, self.frame.bottom)]);
                    points.extend(ends.into_iter().flat_map(|[a, b]| points_along_line(a, b)));
                }
                PlotMark::Series { marks, .. } => self.add_obstacles(marks, points),
                _ => {}
            }
        }
    }

    /// Draws the labels that have a free place.
    fn draw_labels<DB: Backend>(
        &self,
        canvas: &Canvas<DB>,
        texts: &[(f64, f64, String, Colour)],
        all: &[PlotMark],
    ) -> Result<()> {
        let shown: Vec<_> = texts
            .iter()
            .filter_map(|(x, y, text, colour)| Some((self.to_pixels((*x, *y))?, text, *colour)))
            .collect();
        let requests: Vec<LabelRequest> = shown
            .iter()
            .map(|(point, text, _)| LabelRequest {
                point: *point,
                width: canvas.font().width(text, NOTE.size, false),
                height: 15.0,
            })
            .collect();
        let mut points = Vec::new();
        self.add_obstacles(all, &mut points);
        let places = labels::place_labels(&requests, &points, self.frame);
        for ((_, text, colour), place) in shown.iter().zip(places) {
            let Some(place) = place else { continue };
            let font = FontSpec {
                colour: *colour,
                ..NOTE
            };
            canvas.text(text, (place.left, place.bottom - 3.5), Anchor::Start, font)?;
        }
        Ok(())
    }
}

/// Points along a straight line, so close to each other that no text fits between them.
fn points_along_line(from: (f64, f64), to: (f64, f64)) -> impl Iterator<Item = (f64, f64)> {
    let steps = ((to.0 - from.0).hypot(to.1 - from.1) / 8.0)
        .ceil()
        .clamp(1.0, 200.0);
    let at = move |part: f64| {
        (
            from.0 + (to.0 - from.0) * part,
            from.1 + (to.1 - from.1) * part,
        )
    };
    (0..=steps as usize).map(move |i| at(i as f64 / steps))
}

/// What a page needs to read values off a panel: the frame on the drawing's grid, and for each axis its
/// label, scale, range of positions, and names if it has names.
fn axes_as_json(panel: &Panel, frame: Rect) -> String {
    let axis = |axis: &Axis| {
        let (scale, unit) = match axis.scale {
            Scale::Linear => ("linear", None),
            Scale::Log => ("log", None),
            Scale::Symlog(unit) => ("symlog", Some(unit)),
        };
        let names: Vec<&str> = match axis.label.is_empty() {
            true => axis.ticks.iter().map(|tick| tick.text.as_str()).collect(),
            false => Vec::new(),
        };
        serde_json::json!({
            "label": axis.label, "scale": scale, "unit": unit, "range": axis.range, "names": names,
        })
    };
    let corners = [frame.left, frame.top, frame.right, frame.bottom];
    serde_json::json!({
        "title": panel.title,
        "frame": corners.map(|at| (at * canvas::GRID_PER_PIXEL).round()),
        "x": axis(&panel.x),
        "y": axis(&panel.y),
    })
    .to_string()
}

fn draw_grid<DB: Backend>(canvas: &Canvas<DB>, plot: &PlotArea) -> Result<()> {
    let f = plot.frame;
    let upright = |part: f64| [(plot.x_pixel(part), f.top), (plot.x_pixel(part), f.bottom)];
    let level = |part: f64| [(f.left, plot.y_pixel(part)), (f.right, plot.y_pixel(part))];
    for &at in &plot.x.minor {
        canvas.line(&upright(plot.x.position_fraction(at)), FAINT, 1.0)?;
    }
    for &at in &plot.y.minor {
        canvas.line(&level(plot.y.position_fraction(at)), FAINT, 1.0)?;
    }
    for tick in &plot.x.ticks {
        canvas.line(&upright(plot.x.position_fraction(tick.position)), GRID, 1.0)?;
    }
    for tick in &plot.y.ticks {
        canvas.line(&level(plot.y.position_fraction(tick.position)), GRID, 1.0)?;
    }
    Ok(())
}

fn draw_x_axis<DB: Backend>(canvas: &Canvas<DB>, plot: &PlotArea) -> Result<()> {
    let f = plot.frame;
    if plot.x.ticks.is_empty() && plot.x.label.is_empty() {
        return Ok(());
    }
    canvas.line(&[(f.left, f.bottom), (f.right, f.bottom)], RULE, 1.0)?;
    let mut free_from = f64::NEG_INFINITY;
    for tick in &plot.x.ticks {
        let x = plot.x_pixel(plot.x.position_fraction(tick.position));
        canvas.line(&[(x, f.bottom), (x, f.bottom + 4.0)], RULE, 1.0)?;
        let half = canvas.font().width(&tick.text, TICK.size, false) / 2.0;
        // A text that would overlap the previous one is omitted.
        if x - half > free_from {
            canvas.text(&tick.text, (x, f.bottom + 17.0), Anchor::Middle, TICK)?;
            free_from = x + half + 6.0;
        }
    }
    let (label, font) = fitted(canvas.font(), &plot.x.label, LABEL, plot.cell.width());
    let half = canvas.font().width(&label, font.size, font.bold) / 2.0;
    let middle = (f.left + f.right) / 2.0;
    // A long label leaves the middle of the frame before it leaves the cell.
    let middle = middle
        .min(plot.cell.right - half)
        .max(plot.cell.left + half);
    canvas.text(&label, (middle, f.bottom + 36.0), Anchor::Middle, font)
}

fn draw_y_axis<DB: Backend>(canvas: &Canvas<DB>, plot: &PlotArea) -> Result<()> {
    let f = plot.frame;
    let font = tick_font(plot.y);
    for tick in &plot.y.ticks {
        let y = plot.y_pixel(plot.y.position_fraction(tick.position));
        canvas.text(
            &tick.text,
            (f.left - 8.0, y + 0.36 * font.size),
            Anchor::End,
            font,
        )?;
    }
    let text_width = if plot.y.ticks.is_empty() {
        0.0
    } else {
        widest_tick_text(plot.y, font.size, canvas.font()) + 8.0
    };
    let (label, font) = fitted(canvas.font(), &plot.y.label, LABEL, plot.cell.height());
    let half = canvas.font().width(&label, font.size, font.bold) / 2.0;
    let middle = (f.top + f.bottom) / 2.0;
    let middle = middle
        .min(plot.cell.bottom - half)
        .max(plot.cell.top + half);
    let at = (f.left - text_width - 9.0, middle);
    canvas.vertical_text(&label, at, font)
}

/// A label that is no longer than `most` pixels: in smaller letters if that is enough, and else without
/// its middle.
fn fitted(font: &FigureFont, label: &str, spec: FontSpec, most: f64) -> (String, FontSpec) {
    let width = font.width(label, spec.size, spec.bold);
    if width <= most {
        return (label.to_owned(), spec);
    }
    let spec = FontSpec {
        size: (spec.size * most / width).max(SMALLEST_LABEL),
        ..spec
    };
    let width = font.width(label, spec.size, spec.bold);
    let chars = label.chars().count();
    let fitting = (chars as f64 * most / width).floor() as usize;
    (shorten(label, fitting.min(chars)), spec)
}

fn draw_right_margin<DB: Backend>(
    canvas: &Canvas<DB>,
    panel: &Panel,
    plot: &PlotArea,
) -> Result<()> {
    let f = plot.frame;
    match &panel.right_margin {
        RightMargin::Empty => Ok(()),
        RightMargin::TextColumns(columns) => draw_text_columns(canvas, columns, plot),
        RightMargin::ColourBar(map, axis) => draw_colour_bar(canvas, *map, axis, f),
    }
}

fn draw_text_columns<DB: Backend>(
    canvas: &Canvas<DB>,
    columns: &[TextColumn],
    plot: &PlotArea,
) -> Result<()> {
    let mut x = plot.frame.right + 14.0;
    for column in columns {
        let small = FontSpec {
            colour: MUTED,
            ..NOTE
        };
        canvas.text(
            &column.heading,
            (x, plot.frame.top - 8.0),
            Anchor::Start,
            small,
        )?;
        for (y, note) in &column.texts {
            let Some(part) = plot.y.fraction(*y) else {
                continue;
            };
            canvas.text(note, (x, plot.y_pixel(part) + 4.2), Anchor::Start, NOTE)?;
        }
        x += text_column_width(column, canvas.font()) + 14.0;
    }
    Ok(())
}

fn draw_colour_bar<DB: Backend>(
    canvas: &Canvas<DB>,
    map: ColourMap,
    axis: &Axis,
    f: Rect,
) -> Result<()> {
    let left = f.right + 10.0;
    let rect = Rect {
        left,
        right: left + COLOUR_BAR_WIDTH,
        ..f
    };
    let pixels = (0..128)
        .map(|i| map.colour(1.0 - (f64::from(i) + 0.5) / 128.0))
        .collect();
    canvas.raster(
        rect,
        &Raster {
            width: 1,
            height: 128,
            pixels,
        },
    )?;
    for tick in &axis.ticks {
        let y = f.bottom - axis.position_fraction(tick.position) * (f.bottom - f.top);
        canvas.line(&[(rect.right, y), (rect.right + 3.0, y)], RULE, 1.0)?;
        canvas.text(&tick.text, (rect.right + 6.0, y + 4.0), Anchor::Start, TICK)?;
    }
    let x = rect.right + 20.0 + widest_tick_text(axis, TICK.size, canvas.font());
    canvas.vertical_text(&axis.label, (x, (f.top + f.bottom) / 2.0), LABEL)
}
