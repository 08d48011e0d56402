//! Draws figures as SVG and as PNG, with one layout and one drawing routine for both formats.

mod canvas;
mod labels;
mod panel;

use anyhow::Result;

use self::canvas::{Anchor, Backend, Canvas, FontSpec, Rect};
use super::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Stroke};
use super::palette::{INK, MUTED};

/// The margin around the figure, in pixels.
const MARGIN: f64 = 16.0;
/// The gap between panels, in pixels.
const GAP: f64 = 18.0;
const TITLE: FontSpec = FontSpec {
    size: 15.0,
    bold: true,
    colour: INK,
};
const SUBTITLE: FontSpec = FontSpec {
    size: 12.0,
    bold: false,
    colour: MUTED,
};
const LEGEND: FontSpec = FontSpec {
    size: 12.0,
    bold: false,
    colour: INK,
};
/// The height of one row of the legend, in pixels.
const LEGEND_HEIGHT: f64 = 20.0;

/// The figure as SVG text and as PNG bytes.
///
/// # Errors
/// Fails if the figure cannot be drawn or encoded.
pub(super) fn render_figure(spec: &FigureSpec) -> Result<(String, Vec<u8>)> {
    let layout = FigureLayout::from_spec(spec);
    let label = format!("{}: {}", spec.title, spec.subtitle);
    let svg = canvas::draw_svg(layout.size, &label, |canvas| {
        draw_figure(canvas, spec, &layout)
    })?;
    let png = canvas::draw_png(layout.size, |canvas| draw_figure(canvas, spec, &layout))?;
    Ok((svg, png))
}

/// The positions of the parts of a figure, in pixels.
struct FigureLayout {
    size: (f64, f64),
    /// The upper left corner of each entry of the legend.
    legend: Vec<(f64, f64)>,
    panel_rects: Vec<Rect>,
}

impl FigureLayout {
    /// Computes the layout of a figure.
    fn from_spec(spec: &FigureSpec) -> FigureLayout {
        let columns = spec.columns.clamp(1, spec.panels.len().max(1));
        let rows = spec.panels.len().div_ceil(columns);
        let (w, h) = spec.panel_size;
        let panels = columns as f64 * w + (columns - 1) as f64 * GAP;
        let heading = canvas::text_width(&spec.title, TITLE.size, true).max(canvas::text_width(
            &spec.subtitle,
            SUBTITLE.size,
            false,
        ));
        let inner = panels.max(heading);
        let mut top = MARGIN + 18.0 + if spec.subtitle.is_empty() { 0.0 } else { 19.0 };
        let entries = legend_positions(&spec.legend, inner, top + 6.0);
        if let Some((_, last)) = entries.last() {
            top = last + LEGEND_HEIGHT;
        }
        top += 8.0;
        let cell = |i: usize| {
            let left = MARGIN + (i % columns) as f64 * (w + GAP);
            let top = top + (i / columns) as f64 * (h + GAP);
            Rect {
                left,
                top,
                right: left + w,
                bottom: top + h,
            }
        };
        let bottom = top + rows as f64 * (h + GAP) - GAP;
        FigureLayout {
            size: (inner + 2.0 * MARGIN, bottom + MARGIN),
            legend: entries,
            panel_rects: (0..spec.panels.len()).map(cell).collect(),
        }
    }
}

/// The positions of the legend's entries: from left to right, in as many rows as necessary.
fn legend_positions(entries: &[LegendEntry], width: f64, top: f64) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (MARGIN, top);
    let mut places = vec![];
    for entry in entries {
        let need = 24.0 + canvas::text_width(&entry.text, LEGEND.size, false);
        if x > MARGIN && x + need > MARGIN + width {
            (x, y) = (MARGIN, y + LEGEND_HEIGHT);
        }
        places.push((x, y));
        x += need + 18.0;
    }
    places
}

/// Draws the title, the legend and the panels.
fn draw_figure<DB: Backend>(
    canvas: &Canvas<DB>,
    spec: &FigureSpec,
    layout: &FigureLayout,
) -> Result<()> {
    canvas.text(&spec.title, (MARGIN, MARGIN + 13.0), Anchor::Start, TITLE)?;
    canvas.text(
        &spec.subtitle,
        (MARGIN, MARGIN + 33.0),
        Anchor::Start,
        SUBTITLE,
    )?;
    for (entry, &place) in spec.legend.iter().zip(&layout.legend) {
        draw_legend_entry(canvas, entry, place)?;
    }
    let Some(margins) = spec
        .panels
        .iter()
        .map(panel::text_margins)
        .reduce(panel::TextMargins::max)
    else {
        return Ok(());
    };
    for (panel, &cell) in spec.panels.iter().zip(&layout.panel_rects) {
        panel::draw_panel(canvas, panel, cell, margins)?;
    }
    Ok(())
}

fn draw_legend_entry<DB: Backend>(
    canvas: &Canvas<DB>,
    entry: &LegendEntry,
    (x, y): (f64, f64),
) -> Result<()> {
    let middle = y + LEGEND_HEIGHT / 2.0;
    let (from, to) = ((x, middle), (x + 18.0, middle));
    match entry.symbol {
        LegendSymbol::Dot(shape, fill) => {
            canvas.marker((x + 9.0, middle), (shape, fill), 4.5, (entry.colour, 1.0))?;
        }
        LegendSymbol::Line(Stroke::Solid) => canvas.line(&[from, to], entry.colour, 2.2)?,
        LegendSymbol::Line(Stroke::Dashed) => canvas.dashed_line(from, to, entry.colour, 1.4)?,
        LegendSymbol::Band => {
            let (top, bottom) = (middle - 5.0, middle + 5.0);
            let corners = [(x, top), (to.0, top), (to.0, bottom), (x, bottom)];
            canvas.polygon(&corners, entry.colour, 0.18)?;
        }
    }
    canvas.text(&entry.text, (x + 24.0, middle + 4.3), Anchor::Start, LEGEND)
}
