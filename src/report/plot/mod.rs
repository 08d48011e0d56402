//! Draws figures as SVG and as PNG, with one layout and one drawing routine for both formats.

mod backend;
mod canvas;
mod encode;
mod font;
mod labels;
mod panel;
mod pdf;
mod svg;

use anyhow::Result;

use self::canvas::{Anchor, Backend, Canvas, FontSpec, Rect};
pub(crate) use self::font::FigureFont;
use super::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Stroke};
use super::palette::{INK, MUTED};

/// The margin around the figure, in pixels.
const MARGIN: f64 = 16.0;
/// The gap between panels, in pixels.
pub(super) const PANEL_GAP: f64 = 18.0;
/// The size of an axis's label, in pixels.
pub(super) const PAGE_LABEL_SIZE: f64 = panel::LABEL.size;
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
    let font = FigureFont::default();
    let layout = FigureLayout::from_spec(spec, &font);
    let label = format!("{}: {}", spec.title, spec.subtitle);
    let svg = canvas::draw_svg(layout.size, &label, &font, |canvas| {
        draw_figure(canvas, spec, &layout)
    })?;
    let png = canvas::draw_png(layout.size, &font, |canvas| {
        draw_figure(canvas, spec, &layout)
    })?;
    Ok((svg, png))
}

/// The figure as SVG text and as a PDF file. On the page a pixel is `points_per_pixel` points.
///
/// # Errors
/// Fails if the figure cannot be drawn or the font cannot be embedded.
pub(super) fn render_for_paper(
    spec: &FigureSpec,
    label: &str,
    points_per_pixel: f64,
    font: &FigureFont,
) -> Result<(String, Vec<u8>)> {
    let layout = FigureLayout::from_spec(spec, font);
    let svg = canvas::draw_svg(layout.size, label, font, |canvas| {
        draw_figure(canvas, spec, &layout)
    })?;
    let pdf = canvas::draw_pdf(layout.size, points_per_pixel, font, |canvas| {
        draw_figure(canvas, spec, &layout)
    })?;
    Ok((svg, pdf))
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
    fn from_spec(spec: &FigureSpec, font: &FigureFont) -> FigureLayout {
        // A figure without a title stands in a text, which has its own margin.
        let margin = if spec.title.is_empty() { 1.0 } else { MARGIN };
        let columns = spec.columns.clamp(1, spec.panels.len().max(1));
        let rows = spec.panels.len().div_ceil(columns);
        let (w, h) = spec.panel_size;
        let panels = columns as f64 * w + (columns - 1) as f64 * PANEL_GAP;
        let title = font.width(&spec.title, TITLE.size, true);
        let heading = title.max(font.width(&spec.subtitle, SUBTITLE.size, false));
        let inner = panels.max(heading);
        let line = |text: &str, height: f64| if text.is_empty() { 0.0 } else { height };
        let mut top = margin + line(&spec.title, 18.0) + line(&spec.subtitle, 19.0);
        let entries = legend_positions(
            &spec.legend,
            margin,
            inner,
            top + line(&spec.title, 6.0),
            font,
        );
        if let Some((_, last)) = entries.last() {
            top = last + LEGEND_HEIGHT;
        }
        top += line(&spec.title, 8.0);
        let cell = |i: usize| {
            let left = margin + (i % columns) as f64 * (w + PANEL_GAP);
            let top = top + (i / columns) as f64 * (h + PANEL_GAP);
            Rect {
                left,
                top,
                right: left + w,
                bottom: top + h,
            }
        };
        let bottom = top + rows as f64 * (h + PANEL_GAP) - PANEL_GAP;
        FigureLayout {
            size: (inner + 2.0 * margin, bottom + margin),
            legend: entries,
            panel_rects: (0..spec.panels.len()).map(cell).collect(),
        }
    }
}

/// The positions of the legend's entries: from left to right, in as many rows as necessary.
fn legend_positions(
    entries: &[LegendEntry],
    left: f64,
    width: f64,
    top: f64,
    font: &FigureFont,
) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (left, top);
    let mut places = vec![];
    for entry in entries {
        let need = 24.0 + font.width(&entry.text, LEGEND.size, false);
        if x > left && x + need > left + width {
            (x, y) = (left, y + LEGEND_HEIGHT);
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
        .map(|panel| panel::text_margins(panel, canvas.font()))
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
        LegendSymbol::Line(Stroke::Dashed) => canvas.dashed_line(&[from, to], entry.colour, 1.4)?,
        LegendSymbol::Band => {
            let (top, bottom) = (middle - 5.0, middle + 5.0);
            let corners = [(x, top), (to.0, top), (to.0, bottom), (x, bottom)];
            canvas.polygon(&corners, entry.colour, 0.18)?;
        }
    }
    canvas.text(&entry.text, (x + 24.0, middle + 4.3), Anchor::Start, LEGEND)
}
