//! Pictures to SVG and PNG: one layout and one drawing for both.

mod canvas;
mod labels;
mod panel;

use anyhow::Result;

use self::canvas::{Anchor, Backend, Canvas, FontSpec, Rect};
use super::figure_spec::{FigureSpec, LegendEntry, LegendSymbol, Stroke};
use super::palette::{INK, MUTED};

const MARGIN: f64 = 16.0;
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
const LEGEND_HEIGHT: f64 = 20.0;

/// The picture as SVG text and as PNG bytes.
pub fn render_figure(picture: &FigureSpec) -> Result<(String, Vec<u8>)> {
    let layout = FigureLayout::from_spec(picture);
    let label = format!("{}: {}", picture.title, picture.subtitle);
    let svg = canvas::draw_svg(layout.size, &label, |pen| {
        draw_figure(pen, picture, &layout)
    })?;
    let png = canvas::draw_png(layout.size, |pen| draw_figure(pen, picture, &layout))?;
    Ok((svg, png))
}

/// Where everything goes, in pixels.
struct FigureLayout {
    size: (f64, f64),
    /// Start of each key's sign, in the picture's order.
    legend: Vec<(f64, f64)>,
    panel_rects: Vec<Rect>,
}

impl FigureLayout {
    fn from_spec(picture: &FigureSpec) -> FigureLayout {
        let columns = picture.columns.clamp(1, picture.panels.len().max(1));
        let rows = picture.panels.len().div_ceil(columns);
        let (w, h) = picture.panel_size;
        let panels = columns as f64 * w + (columns - 1) as f64 * GAP;
        let heading = canvas::text_width(&picture.title, TITLE.size, true).max(canvas::text_width(
            &picture.subtitle,
            SUBTITLE.size,
            false,
        ));
        let inner = panels.max(heading);
        let mut top = MARGIN
            + 18.0
            + if picture.subtitle.is_empty() {
                0.0
            } else {
                19.0
            };
        let keys = legend_positions(&picture.legend, inner, top + 6.0);
        if let Some((_, last)) = keys.last() {
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
            legend: keys,
            panel_rects: (0..picture.panels.len()).map(cell).collect(),
        }
    }
}

/// Keys from left to right, in as many rows as they need.
fn legend_positions(keys: &[LegendEntry], width: f64, top: f64) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (MARGIN, top);
    let mut places = vec![];
    for key in keys {
        let need = 24.0 + canvas::text_width(&key.text, LEGEND.size, false);
        if x > MARGIN && x + need > MARGIN + width {
            (x, y) = (MARGIN, y + LEGEND_HEIGHT);
        }
        places.push((x, y));
        x += need + 18.0;
    }
    places
}

fn draw_figure<DB: Backend>(
    pen: &Canvas<DB>,
    picture: &FigureSpec,
    layout: &FigureLayout,
) -> Result<()> {
    pen.text(
        &picture.title,
        (MARGIN, MARGIN + 13.0),
        Anchor::Start,
        TITLE,
    )?;
    pen.text(
        &picture.subtitle,
        (MARGIN, MARGIN + 33.0),
        Anchor::Start,
        SUBTITLE,
    )?;
    for (key, &place) in picture.legend.iter().zip(&layout.legend) {
        draw_legend_entry(pen, key, place)?;
    }
    let Some(room) = picture
        .panels
        .iter()
        .map(panel::text_margins)
        .reduce(panel::TextMargins::max)
    else {
        return Ok(());
    };
    for (panel, &cell) in picture.panels.iter().zip(&layout.panel_rects) {
        panel::draw_panel(pen, panel, cell, room)?;
    }
    Ok(())
}

fn draw_legend_entry<DB: Backend>(
    pen: &Canvas<DB>,
    key: &LegendEntry,
    (x, y): (f64, f64),
) -> Result<()> {
    let middle = y + LEGEND_HEIGHT / 2.0;
    let (from, to) = ((x, middle), (x + 18.0, middle));
    match key.symbol {
        LegendSymbol::Dot(shape, fill) => {
            pen.marker((x + 9.0, middle), (shape, fill), 4.5, (key.colour, 1.0))?;
        }
        LegendSymbol::Line(Stroke::Solid) => pen.line(&[from, to], key.colour, 2.2)?,
        LegendSymbol::Line(Stroke::Dashed) => pen.dashed_line(from, to, key.colour, 1.4)?,
        LegendSymbol::Band => {
            let (top, bottom) = (middle - 5.0, middle + 5.0);
            let corners = [(x, top), (to.0, top), (to.0, bottom), (x, bottom)];
            pen.polygon(&corners, key.colour, 0.18)?;
        }
    }
    pen.text(&key.text, (x + 24.0, middle + 4.3), Anchor::Start, LEGEND)
}
