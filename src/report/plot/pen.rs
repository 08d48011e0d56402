//! The only place that draws: plotters' backends behind a few strokes in logical pixels.
//!
//! SVG is drawn on a grid ten times finer than its pixels, PNG at twice its size and then
//! halved, since both backends round to whole numbers.

use std::cell::RefCell;
use std::sync::Once;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use ndarray::{ArrayView, Axis};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
pub use plotters::prelude::DrawingBackend as Backend;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::palette::{Colour, PAPER, Shape};
use crate::report::picture::{Fill, Raster};

/// Steps of the SVG's grid in one pixel.
const FINE: f64 = 10.0;
/// Pixels of the PNG per logical pixel, and how many are averaged into one: for evenly thick lines,
/// which tests do not look at.
const DENSITY: u32 = 2;
const AVERAGED: u32 = if cfg!(test) { 1 } else { 2 };
const FAMILY: &str = "sans-serif";
/// Plotters' font size over the height of an em, as its SVG backend has it.
const EM: f64 = 1.24;

/// Where a text's given point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Size, weight and colour of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Type {
    pub size: f64,
    pub bold: bool,
    pub colour: Colour,
}

/// A box in logical pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// Draws in logical pixels on one backend.
pub struct Pen<DB: Backend> {
    area: DrawingArea<DB, Shift>,
    unit: f64,
    /// Rasters for the SVG, which takes them as pictures; on a bitmap they are drawn at once.
    apart: Option<RefCell<Vec<(Rect, Raster)>>>,
}

impl<DB: Backend> Pen<DB> {
    fn at(&self, (x, y): (f64, f64)) -> (i32, i32) {
        (
            (x * self.unit).round() as i32,
            (y * self.unit).round() as i32,
        )
    }

    fn stroke(&self, colour: Colour, opacity: f64, width: f64) -> ShapeStyle {
        let width = (width * self.unit).round().max(1.0) as u32;
        ShapeStyle {
            color: rgb(colour).mix(opacity),
            filled: false,
            stroke_width: width,
        }
    }

    fn put<E>(&self, element: &E) -> Result<()>
    where
        for<'b> &'b E: PointCollection<'b, (i32, i32)>,
        E: Drawable<DB>,
    {
        self.area
            .draw(element)
            .map_err(|error| anyhow!("drawing: {error}"))
    }

    /// A line through the points.
    pub fn line(&self, points: &[(f64, f64)], colour: Colour, width: f64) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.at(p)).collect();
        // Equal neighbours have no direction, which the rasterizer asks for.
        path.dedup();
        if path.len() < 2 {
            return Ok(());
        }
        self.put(&PathElement::new(path, self.stroke(colour, 1.0, width)))
    }

    /// A straight line in dashes.
    pub fn dashes(
        &self,
        from: (f64, f64),
        to: (f64, f64),
        colour: Colour,
        width: f64,
    ) -> Result<()> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let length = dx.hypot(dy);
        let count = (length / 7.0).ceil().min(1000.0) as usize;
        for i in 0..count {
            let part = |s: f64| (from.0 + dx * s / length, from.1 + dy * s / length);
            let start = 7.0 * i as f64;
            self.line(
                &[part(start), part((start + 4.0).min(length))],
                colour,
                width,
            )?;
        }
        Ok(())
    }

    /// A filled polygon.
    pub fn area(&self, points: &[(f64, f64)], colour: Colour, opacity: f64) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.at(p)).collect();
        path.dedup();
        if path.len() < 3 {
            return Ok(());
        }
        self.put(&Polygon::new(path, rgb(colour).mix(opacity).filled()))
    }

    /// A point of the given form around a centre.
    pub fn dot(
        &self,
        centre: (f64, f64),
        (shape, fill): (Shape, Fill),
        radius: f64,
        (colour, opacity): (Colour, f64),
    ) -> Result<()> {
        let inner = if fill == Fill::Hollow {
            Some((radius - 1.4).max(0.6))
        } else {
            None
        };
        self.blob(centre, shape, radius, colour, opacity)?;
        inner.map_or(Ok(()), |radius| {
            self.blob(centre, shape, radius, PAPER, 1.0)
        })
    }

    fn blob(
        &self,
        centre: (f64, f64),
        shape: Shape,
        r: f64,
        colour: Colour,
        opacity: f64,
    ) -> Result<()> {
        let around = |offsets: &[(f64, f64)]| -> Vec<(f64, f64)> {
            offsets
                .iter()
                .map(|(x, y)| (centre.0 + x * r, centre.1 + y * r))
                .collect()
        };
        let corners: &[(f64, f64)] = match shape {
            Shape::Circle => {
                let radius = (r * self.unit).round().max(1.0) as u32;
                let style = rgb(colour).mix(opacity).filled();
                return self.put(&Circle::new(self.at(centre), radius, style));
            }
            Shape::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            Shape::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            Shape::Triangle => &[(0.0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
        };
        self.area(&around(corners), colour, opacity)
    }

    /// A text whose baseline starts, is centred or ends at the point.
    pub fn text(&self, text: &str, at: (f64, f64), anchor: Anchor, font: Type) -> Result<()> {
        self.write(
            text,
            (at.0, at.1 + 0.32 * font.size),
            anchor,
            font,
            FontTransform::None,
        )
    }

    /// A text that reads upwards, centred on the point.
    pub fn text_up(&self, text: &str, at: (f64, f64), font: Type) -> Result<()> {
        let at = (at.0 + 0.32 * font.size, at.1);
        self.write(text, at, Anchor::Middle, font, FontTransform::Rotate270)
    }

    fn write(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: Type,
        turn: FontTransform,
    ) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let horizontal = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = described(font.size * self.unit, font.bold)
            .transform(turn)
            .color(&rgb(font.colour))
            .pos(Pos::new(horizontal, VPos::Bottom));
        self.put(&Text::new(text.to_string(), self.at(at), style))
    }

    /// A raster stretched over a box, without smoothing.
    pub fn raster(&self, rect: Rect, raster: &Raster) -> Result<()> {
        if raster.pixels.is_empty() || raster.pixels.len() != raster.width * raster.height {
            return Ok(());
        }
        if let Some(apart) = &self.apart {
            apart.borrow_mut().push((rect, raster.clone()));
            return Ok(());
        }
        let (from, to) = (
            self.at((rect.left, rect.top)),
            self.at((rect.right, rect.bottom)),
        );
        let (w, h) = (
            (to.0 - from.0).max(1) as usize,
            (to.1 - from.1).max(1) as usize,
        );
        let mut bytes = Vec::with_capacity(3 * w * h);
        for y in 0..h {
            let row = y * raster.height / h * raster.width;
            bytes.extend((0..w).flat_map(|x| raster.pixels[row + x * raster.width / w]));
        }
        let picture = BitMapElement::with_owned_buffer(from, (w as u32, h as u32), bytes)
            .context("a raster of another size than its pixels")?;
        self.put(&picture)
    }
}

/// The drawing as SVG text of this size in pixels.
pub fn svg(
    (width, height): (f64, f64),
    label: &str,
    draw: impl FnOnce(&Pen<SVGBackend>) -> Result<()>,
) -> Result<String> {
    fonts()?;
    let mut drawn = String::new();
    let size = ((width * FINE).ceil() as u32, (height * FINE).ceil() as u32);
    let rasters = {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let pen = Pen {
            area,
            unit: FINE,
            apart: Some(RefCell::default()),
        };
        draw(&pen)?;
        pen.area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
        pen.apart.map(RefCell::into_inner).unwrap_or_default()
    };
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    // Quotes in texts are escaped, so these patterns are only ever attributes at their defaults.
    let body = body
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\" stroke-width=\"1\"", "")
        .replace(" font-family=\"sans-serif\"", "");
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {} {}\" font-family=\"DejaVu Sans,Verdana,sans-serif\" \
         stroke-linejoin=\"round\" role=\"img\" aria-label=\"{}\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#FFFFFF\"/>\n",
        size.0,
        size.1,
        maud::html! { (label) }.into_string(),
    );
    for (rect, raster) in &rasters {
        svg.push_str(&image_element(*rect, raster)?);
    }
    svg.push_str(body.trim_start());
    Ok(svg)
}

/// The drawing as a PNG with two pixels per logical one.
pub fn png(
    (width, height): (f64, f64),
    draw: impl FnOnce(&Pen<BitMapBackend>) -> Result<()>,
) -> Result<Vec<u8>> {
    fonts()?;
    let (w, h) = (
        (width * f64::from(DENSITY)).ceil() as u32,
        (height * f64::from(DENSITY)).ceil() as u32,
    );
    let (wide, high) = (w * AVERAGED, h * AVERAGED);
    let mut pixels = vec![255; 3 * wide as usize * high as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
        let pen = Pen {
            area,
            unit: f64::from(DENSITY * AVERAGED),
            apart: None,
        };
        draw(&pen)?;
        pen.area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
    }
    encoded(
        &downsampled(&pixels, wide as usize, AVERAGED as usize)?,
        w,
        h,
    )
}

/// Means of squares of `side` by `side` pixels of three numbers each, row after row.
fn downsampled(pixels: &[u8], wide: usize, side: usize) -> Result<Vec<u8>> {
    let shape = (pixels.len() / (3 * wide * side), side, wide / side, side, 3);
    let squares = ArrayView::from_shape(shape, pixels)?.mapv(u32::from);
    let area = (side * side) as u32;
    let means = squares
        .sum_axis(Axis(3))
        .sum_axis(Axis(1))
        .mapv(|sum| ((sum + area / 2) / area) as u8);
    Ok(means.into_iter().collect())
}

fn encoded(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(rgb, width, height, ColorType::Rgb8)?;
    Ok(png)
}

fn image_element(rect: Rect, raster: &Raster) -> Result<String> {
    let bytes: Vec<u8> = raster.pixels.iter().flatten().copied().collect();
    let png = encoded(&bytes, raster.width as u32, raster.height as u32)?;
    Ok(format!(
        "<image x=\"{:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" preserveAspectRatio=\"none\" \
         style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>\n",
        rect.left * FINE,
        rect.top * FINE,
        (rect.right - rect.left) * FINE,
        (rect.bottom - rect.top) * FINE,
        base64::engine::general_purpose::STANDARD.encode(png),
    ))
}

/// Width of a text in logical pixels.
pub fn width(text: &str, size: f64, bold: bool) -> f64 {
    // Measured large, because plotters rounds to whole pixels.
    let measured = fonts()
        .ok()
        .and_then(|()| described(10.0 * size, bold).layout_box(text).ok());
    measured.map_or(
        0.6 * size * text.chars().count() as f64,
        |((left, _), (right, _))| f64::from(right - left) / 10.0,
    )
}

fn described(size: f64, bold: bool) -> FontDesc<'static> {
    let style = if bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    FontDesc::new(FontFamily::Name(FAMILY), size * EM, style)
}

fn rgb([r, g, b]: Colour) -> RGBColor {
    RGBColor(r, g, b)
}

/// Registers the embedded fonts, once: none is asked from the system.
fn fonts() -> Result<()> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let fonts = [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ];
        for (style, bytes) in fonts {
            // A font that does not parse shows when the first text is measured.
            let _ = plotters::style::register_font(FAMILY, style, bytes);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_of_pixels_become_their_means() {
        let rows = [
            [0, 10, 20, 4, 10, 20, 9, 9, 9, 1, 1, 1],
            [0, 10, 20, 4, 10, 23, 9, 9, 9, 1, 1, 2],
        ];
        assert_eq!(
            downsampled(rows.as_flattened(), 4, 2).expect("whole squares"),
            [2, 10, 21, 5, 5, 5]
        );
        assert_eq!(downsampled(&[1, 2, 3], 1, 1).expect("one pixel"), [1, 2, 3]);
    }
}
