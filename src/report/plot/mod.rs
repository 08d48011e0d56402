//! Pictures to SVG and PNG: one layout and one drawing for both.

mod labels;
mod panel;
mod pen;

use anyhow::Result;

use self::pen::{Anchor, Backend, Pen, Rect, Type};
use super::palette::{INK, MUTED};
use super::picture::{Key, Picture, Sign, Stroke};

const MARGIN: f64 = 16.0;
const GAP: f64 = 18.0;
const TITLE: Type = Type {
    size: 15.0,
    bold: true,
    colour: INK,
};
const SUBTITLE: Type = Type {
    size: 12.0,
    bold: false,
    colour: MUTED,
};
const KEY: Type = Type {
    size: 12.0,
    bold: false,
    colour: INK,
};
const KEY_HEIGHT: f64 = 20.0;

/// The picture as SVG text and as PNG bytes.
pub fn render(picture: &Picture) -> Result<(String, Vec<u8>)> {
    let layout = Layout::of(picture);
    let label = format!("{}: {}", picture.title, picture.subtitle);
    let svg = pen::svg(layout.size, &label, |pen| draw(pen, picture, &layout))?;
    let png = pen::png(layout.size, |pen| draw(pen, picture, &layout))?;
    Ok((svg, png))
}

/// Where everything goes, in pixels.
struct Layout {
    size: (f64, f64),
    /// Start of each key's sign, in the picture's order.
    keys: Vec<(f64, f64)>,
    cells: Vec<Rect>,
}

impl Layout {
    fn of(picture: &Picture) -> Layout {
        let columns = picture.columns.clamp(1, picture.panels.len().max(1));
        let rows = picture.panels.len().div_ceil(columns);
        let (w, h) = picture.cell;
        let panels = columns as f64 * w + (columns - 1) as f64 * GAP;
        let heading = pen::width(&picture.title, TITLE.size, true).max(pen::width(
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
        let keys = key_places(&picture.keys, inner, top + 6.0);
        if let Some((_, last)) = keys.last() {
            top = last + KEY_HEIGHT;
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
        Layout {
            size: (inner + 2.0 * MARGIN, bottom + MARGIN),
            keys,
            cells: (0..picture.panels.len()).map(cell).collect(),
        }
    }
}

/// Keys from left to right, in as many rows as they need.
fn key_places(keys: &[Key], width: f64, top: f64) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (MARGIN, top);
    let mut places = vec![];
    for key in keys {
        let need = 24.0 + pen::width(&key.text, KEY.size, false);
        if x > MARGIN && x + need > MARGIN + width {
            (x, y) = (MARGIN, y + KEY_HEIGHT);
        }
        places.push((x, y));
        x += need + 18.0;
    }
    places
}

fn draw<DB: Backend>(pen: &Pen<DB>, picture: &Picture, layout: &Layout) -> Result<()> {
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
    for (key, &place) in picture.keys.iter().zip(&layout.keys) {
        draw_key(pen, key, place)?;
    }
    let Some(room) = picture
        .panels
        .iter()
        .map(panel::room)
        .reduce(panel::Room::both)
    else {
        return Ok(());
    };
    for (panel, &cell) in picture.panels.iter().zip(&layout.cells) {
        panel::draw(pen, panel, cell, room)?;
    }
    Ok(())
}

fn draw_key<DB: Backend>(pen: &Pen<DB>, key: &Key, (x, y): (f64, f64)) -> Result<()> {
    let middle = y + KEY_HEIGHT / 2.0;
    let (from, to) = ((x, middle), (x + 18.0, middle));
    match key.sign {
        Sign::Dot(shape, fill) => {
            pen.dot((x + 9.0, middle), (shape, fill), 4.5, (key.colour, 1.0))?;
        }
        Sign::Line(Stroke::Solid) => pen.line(&[from, to], key.colour, 2.2)?,
        Sign::Line(Stroke::Dashed) => pen.dashes(from, to, key.colour, 1.4)?,
        Sign::Band => {
            let (top, bottom) = (middle - 5.0, middle + 5.0);
            let corners = [(x, top), (to.0, top), (to.0, bottom), (x, bottom)];
            pen.area(&corners, key.colour, 0.18)?;
        }
    }
    pen.text(&key.text, (x + 24.0, middle + 4.3), Anchor::Start, KEY)
}
