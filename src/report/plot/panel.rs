//! One panel: frame, grid, ticks, marks and what stands beside it.

use anyhow::Result;

use super::labels::{self, Wanted};
use super::pen::{self, Anchor, Backend, Pen, Rect, Type};
use crate::report::axis::Axis;
use crate::report::palette::{Colour, FAINT, GRID, INK, MUTED, Map, RULE};
use crate::report::picture::{Mark, Notes, Panel, Raster, Side, Stroke};

const HEADING: Type = Type {
    size: 12.5,
    bold: true,
    colour: INK,
};
const LABEL: Type = Type {
    size: 12.0,
    bold: false,
    colour: INK,
};
const TICK: Type = Type {
    size: 11.0,
    bold: false,
    colour: MUTED,
};
const NAME: Type = Type {
    size: 12.0,
    bold: false,
    colour: INK,
};
const NOTE: Type = Type {
    size: 11.5,
    bold: false,
    colour: INK,
};
const BAR: f64 = 13.0;

/// Room for texts left and right of a frame, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Room {
    left: f64,
    right: f64,
}

impl Room {
    /// The room that serves both, so that frames of one picture stand in line.
    pub fn both(self, other: Room) -> Room {
        Room {
            left: self.left.max(other.left),
            right: self.right.max(other.right),
        }
    }
}

/// Draws a panel into its cell.
pub fn draw<DB: Backend>(pen: &Pen<DB>, panel: &Panel, cell: Rect, room: Room) -> Result<()> {
    let frame = frame(panel, cell, room);
    let plot = Plot {
        x: &panel.x,
        y: &panel.y,
        frame,
    };
    pen.text(
        &panel.title,
        (frame.left, cell.top + 13.0),
        Anchor::Start,
        HEADING,
    )?;
    match &panel.raster {
        Some(raster) => pen.raster(frame, raster)?,
        None => grid(pen, &plot)?,
    }
    for mark in &panel.marks {
        plot.mark(pen, mark, &panel.marks)?;
    }
    ticks_below(pen, &plot)?;
    ticks_beside(pen, &plot)?;
    side(pen, panel, &plot)
}

/// What the panel's own texts need.
pub fn room(panel: &Panel) -> Room {
    let mut left = 2.0;
    if !panel.y.ticks.is_empty() {
        left += widest(&panel.y, tick_type(&panel.y).size) + 8.0;
    }
    if !panel.y.label.is_empty() {
        left += 24.0;
    }
    let right = match &panel.side {
        Side::Empty if panel.x.ticks.is_empty() => 2.0,
        Side::Empty => 12.0,
        Side::Notes(columns) => columns
            .iter()
            .map(|column| notes_width(column) + 14.0)
            .sum(),
        Side::Bar(_, axis) => BAR + 36.0 + widest(axis, TICK.size),
    };
    Room { left, right }
}

/// The box of the data: the cell less the room for texts.
fn frame(panel: &Panel, cell: Rect, room: Room) -> Rect {
    let below = if panel.x.ticks.is_empty() { 4.0 } else { 22.0 };
    let bottom = cell.bottom - below - if panel.x.label.is_empty() { 0.0 } else { 19.0 };
    let headed = matches!(&panel.side, Side::Notes(columns) if columns.iter().any(|c| !c.heading.is_empty()));
    let top = cell.top
        + if panel.title.is_empty() && !headed {
            8.0
        } else {
            24.0
        };
    // However long the texts are, something of the data is seen.
    let left = cell.left + room.left.min(0.6 * (cell.right - cell.left));
    let right = (cell.right - room.right).max(left + 40.0);
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

fn notes_width(column: &Notes) -> f64 {
    let widths = column
        .at
        .iter()
        .map(|(_, note)| pen::width(note, NOTE.size, false));
    widths.fold(pen::width(&column.heading, NOTE.size, false), f64::max)
}

fn widest(axis: &Axis, size: f64) -> f64 {
    axis.ticks
        .iter()
        .map(|t| pen::width(&t.text, size, false))
        .fold(0.0, f64::max)
}

/// Names are read as text, numbers as ticks.
fn tick_type(axis: &Axis) -> Type {
    if axis.label.is_empty() { NAME } else { TICK }
}

/// Axes on their frame.
struct Plot<'a> {
    x: &'a Axis,
    y: &'a Axis,
    frame: Rect,
}

impl Plot<'_> {
    fn across(&self, part: f64) -> f64 {
        self.frame.left + part.clamp(-0.02, 1.02) * (self.frame.right - self.frame.left)
    }

    fn up(&self, part: f64) -> f64 {
        self.frame.bottom - part.clamp(-0.02, 1.02) * (self.frame.bottom - self.frame.top)
    }

    fn at(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((
            self.across(self.x.fraction(x)?),
            self.up(self.y.fraction(y)?),
        ))
    }

    fn all(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        points.iter().filter_map(|&point| self.at(point)).collect()
    }

    fn mark<DB: Backend>(&self, pen: &Pen<DB>, mark: &Mark, all: &[Mark]) -> Result<()> {
        match mark {
            Mark::Line {
                points,
                colour,
                width,
                stroke: Stroke::Solid,
            } => pen.line(&self.all(points), *colour, *width),
            Mark::Line {
                points,
                colour,
                width,
                stroke: Stroke::Dashed,
            } => {
                let points = self.all(points);
                let pairs = points.windows(2);
                pairs
                    .into_iter()
                    .try_for_each(|p| pen.dashes(p[0], p[1], *colour, *width))
            }
            Mark::Dots {
                points,
                look,
                fill,
                radius,
                opacity,
            } => {
                let form = (look.shape, *fill);
                let ink = (look.colour, *opacity);
                self.all(points)
                    .into_iter()
                    .try_for_each(|at| pen.dot(at, form, *radius, ink))
            }
            Mark::Area {
                points,
                colour,
                opacity,
            } => pen.area(&self.all(points), *colour, *opacity),
            Mark::Upright { x, colour, stroke } => {
                let Some(x) = self.x.fraction(*x).map(|part| self.across(part)) else {
                    return Ok(());
                };
                self.rule(
                    pen,
                    (x, self.frame.top),
                    (x, self.frame.bottom),
                    *colour,
                    *stroke,
                )
            }
            Mark::Level { y, colour, stroke } => {
                let Some(y) = self.y.fraction(*y).map(|part| self.up(part)) else {
                    return Ok(());
                };
                self.rule(
                    pen,
                    (self.frame.left, y),
                    (self.frame.right, y),
                    *colour,
                    *stroke,
                )
            }
            Mark::Labels(texts) => self.labels(pen, texts, all),
            Mark::Corner(lines) => lines.iter().enumerate().try_for_each(|(i, line)| {
                let at = (
                    self.frame.left + 8.0,
                    self.frame.top + 17.0 + 16.0 * i as f64,
                );
                pen.text(line, at, Anchor::Start, NOTE)
            }),
        }
    }

    fn rule<DB: Backend>(
        &self,
        pen: &Pen<DB>,
        from: (f64, f64),
        to: (f64, f64),
        colour: Colour,
        stroke: Stroke,
    ) -> Result<()> {
        match stroke {
            Stroke::Solid => pen.line(&[from, to], colour, 1.2),
            Stroke::Dashed => pen.dashes(from, to, colour, 1.2),
        }
    }

    fn labels<DB: Backend>(
        &self,
        pen: &Pen<DB>,
        texts: &[(f64, f64, String, Colour)],
        all: &[Mark],
    ) -> Result<()> {
        let shown: Vec<_> = texts
            .iter()
            .filter_map(|(x, y, text, colour)| Some((self.at((*x, *y))?, text, *colour)))
            .collect();
        let wanted: Vec<Wanted> = shown
            .iter()
            .map(|(point, text, _)| Wanted {
                point: *point,
                width: pen::width(text, NOTE.size, false),
                height: 15.0,
            })
            .collect();
        let dots = all.iter().filter_map(|mark| match mark {
            Mark::Dots { points, .. } => Some(self.all(points)),
            Mark::Line { points, .. } if points.len() == 2 => Some(along(&self.all(points))),
            _ => None,
        });
        let points: Vec<_> = dots.flatten().collect();
        let places = labels::place(&wanted, &points, self.frame);
        for ((_, text, colour), place) in shown.iter().zip(places) {
            let Some(place) = place else { continue };
            let font = Type {
                colour: *colour,
                ..NOTE
            };
            pen.text(text, (place.left, place.bottom - 3.5), Anchor::Start, font)?;
        }
        Ok(())
    }
}

/// Places along a straight line, close enough that no text fits between.
fn along(ends: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let [from, to] = ends else { return vec![] };
    let steps = ((to.0 - from.0).hypot(to.1 - from.1) / 8.0)
        .ceil()
        .clamp(1.0, 200.0);
    let at = |part: f64| {
        (
            from.0 + (to.0 - from.0) * part,
            from.1 + (to.1 - from.1) * part,
        )
    };
    (0..=steps as usize).map(|i| at(i as f64 / steps)).collect()
}

fn grid<DB: Backend>(pen: &Pen<DB>, plot: &Plot) -> Result<()> {
    let f = plot.frame;
    let upright = |part: f64| [(plot.across(part), f.top), (plot.across(part), f.bottom)];
    let level = |part: f64| [(f.left, plot.up(part)), (f.right, plot.up(part))];
    for &at in &plot.x.minor {
        pen.line(&upright(plot.x.part(at)), FAINT, 1.0)?;
    }
    for &at in &plot.y.minor {
        pen.line(&level(plot.y.part(at)), FAINT, 1.0)?;
    }
    for tick in &plot.x.ticks {
        pen.line(&upright(plot.x.part(tick.at)), GRID, 1.0)?;
    }
    for tick in &plot.y.ticks {
        pen.line(&level(plot.y.part(tick.at)), GRID, 1.0)?;
    }
    Ok(())
}

fn ticks_below<DB: Backend>(pen: &Pen<DB>, plot: &Plot) -> Result<()> {
    let f = plot.frame;
    if plot.x.ticks.is_empty() && plot.x.label.is_empty() {
        return Ok(());
    }
    pen.line(&[(f.left, f.bottom), (f.right, f.bottom)], RULE, 1.0)?;
    let mut free_from = f64::NEG_INFINITY;
    for tick in &plot.x.ticks {
        let x = plot.across(plot.x.part(tick.at));
        pen.line(&[(x, f.bottom), (x, f.bottom + 4.0)], RULE, 1.0)?;
        let half = pen::width(&tick.text, TICK.size, false) / 2.0;
        if x - half > free_from {
            pen.text(&tick.text, (x, f.bottom + 17.0), Anchor::Middle, TICK)?;
            free_from = x + half + 6.0;
        }
    }
    let middle = (f.left + f.right) / 2.0;
    pen.text(
        &plot.x.label,
        (middle, f.bottom + 36.0),
        Anchor::Middle,
        LABEL,
    )
}

fn ticks_beside<DB: Backend>(pen: &Pen<DB>, plot: &Plot) -> Result<()> {
    let f = plot.frame;
    let font = tick_type(plot.y);
    for tick in &plot.y.ticks {
        let y = plot.up(plot.y.part(tick.at));
        pen.text(
            &tick.text,
            (f.left - 8.0, y + 0.36 * font.size),
            Anchor::End,
            font,
        )?;
    }
    let room = if plot.y.ticks.is_empty() {
        0.0
    } else {
        widest(plot.y, font.size) + 8.0
    };
    let at = (f.left - room - 9.0, (f.top + f.bottom) / 2.0);
    pen.text_up(&plot.y.label, at, LABEL)
}

fn side<DB: Backend>(pen: &Pen<DB>, panel: &Panel, plot: &Plot) -> Result<()> {
    let f = plot.frame;
    match &panel.side {
        Side::Empty => Ok(()),
        Side::Notes(columns) => notes(pen, columns, plot),
        Side::Bar(map, axis) => bar(pen, *map, axis, f),
    }
}

fn notes<DB: Backend>(pen: &Pen<DB>, columns: &[Notes], plot: &Plot) -> Result<()> {
    let mut x = plot.frame.right + 14.0;
    for column in columns {
        let small = Type {
            colour: MUTED,
            ..NOTE
        };
        pen.text(
            &column.heading,
            (x, plot.frame.top - 8.0),
            Anchor::Start,
            small,
        )?;
        for (y, note) in &column.at {
            let Some(part) = plot.y.fraction(*y) else {
                continue;
            };
            pen.text(note, (x, plot.up(part) + 4.2), Anchor::Start, NOTE)?;
        }
        x += notes_width(column) + 14.0;
    }
    Ok(())
}

fn bar<DB: Backend>(pen: &Pen<DB>, map: Map, axis: &Axis, f: Rect) -> Result<()> {
    let left = f.right + 10.0;
    let rect = Rect {
        left,
        right: left + BAR,
        ..f
    };
    let pixels = (0..128)
        .map(|i| map.colour(1.0 - (f64::from(i) + 0.5) / 128.0))
        .collect();
    pen.raster(
        rect,
        &Raster {
            width: 1,
            height: 128,
            pixels,
        },
    )?;
    for tick in &axis.ticks {
        let y = f.bottom - axis.part(tick.at) * (f.bottom - f.top);
        pen.line(&[(rect.right, y), (rect.right + 3.0, y)], RULE, 1.0)?;
        pen.text(&tick.text, (rect.right + 6.0, y + 4.0), Anchor::Start, TICK)?;
    }
    let x = rect.right + 20.0 + widest(axis, TICK.size);
    pen.text_up(&axis.label, (x, (f.top + f.bottom) / 2.0), LABEL)
}
