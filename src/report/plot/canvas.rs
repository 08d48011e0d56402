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

use crate::report::figure_spec::{Fill, Raster};
use crate::report::palette::{Colour, MarkerShape, PAPER};

/// Steps of the SVG's grid in one pixel.
const SVG_UNITS_PER_PIXEL: f64 = 10.0;
/// Pixels of the PNG per logical pixel, and how many are averaged into one: for evenly thick lines,
/// which tests do not look at.
const PNG_SCALE: u32 = 2;
const PNG_SUPERSAMPLING: u32 = if cfg!(test) { 1 } else { 2 };
const FONT_FAMILY: &str = "sans-serif";
/// Plotters' font size over the height of an em, as its SVG backend has it.
const FONT_SIZE_PER_EM: f64 = 1.24;

/// Where a text's given point lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Size, weight and colour of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FontSpec {
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
pub struct Canvas<DB: Backend> {
    area: DrawingArea<DB, Shift>,
    scale: f64,
    /// Rasters for the SVG, which takes them as pictures; on a bitmap they are drawn at once.
    deferred_rasters: Option<RefCell<Vec<(Rect, Raster)>>>,
}

impl<DB: Backend> Canvas<DB> {
    fn to_backend(&self, (x, y): (f64, f64)) -> (i32, i32) {
        (
            (x * self.scale).round() as i32,
            (y * self.scale).round() as i32,
        )
    }

    fn line_style(&self, colour: Colour, opacity: f64, width: f64) -> ShapeStyle {
        let width = (width * self.scale).round().max(1.0) as u32;
        ShapeStyle {
            color: to_rgb(colour).mix(opacity),
            filled: false,
            stroke_width: width,
        }
    }

    fn draw_element<E>(&self, element: &E) -> Result<()>
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
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        // Equal neighbours have no direction, which the rasterizer asks for.
        path.dedup();
        if path.len() < 2 {
            return Ok(());
        }
        self.draw_element(&PathElement::new(path, self.line_style(colour, 1.0, width)))
    }

    /// A straight line in dashes.
    pub fn dashed_line(
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
    pub fn polygon(&self, points: &[(f64, f64)], colour: Colour, opacity: f64) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        path.dedup();
        if path.len() < 3 {
            return Ok(());
        }
        self.draw_element(&Polygon::new(path, to_rgb(colour).mix(opacity).filled()))
    }

    /// A point of the given form around a centre.
    pub fn marker(
        &self,
        centre: (f64, f64),
        (shape, fill): (MarkerShape, Fill),
        radius: f64,
        (colour, opacity): (Colour, f64),
    ) -> Result<()> {
        let inner = if fill == Fill::Hollow {
            Some((radius - 1.4).max(0.6))
        } else {
            None
        };
        self.filled_marker(centre, shape, radius, colour, opacity)?;
        inner.map_or(Ok(()), |radius| {
            self.filled_marker(centre, shape, radius, PAPER, 1.0)
        })
    }

    fn filled_marker(
        &self,
        centre: (f64, f64),
        shape: MarkerShape,
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
            MarkerShape::Circle => {
                let radius = (r * self.scale).round().max(1.0) as u32;
                let style = to_rgb(colour).mix(opacity).filled();
                return self.draw_element(&Circle::new(self.to_backend(centre), radius, style));
            }
            MarkerShape::Square => &[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
            MarkerShape::Diamond => &[(0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)],
            MarkerShape::Triangle => &[(0.0, -1.25), (1.2, 0.9), (-1.2, 0.9)],
        };
        self.polygon(&around(corners), colour, opacity)
    }

    /// A text whose baseline starts, is centred or ends at the point.
    pub fn text(&self, text: &str, at: (f64, f64), anchor: Anchor, font: FontSpec) -> Result<()> {
        self.draw_text(
            text,
            (at.0, at.1 + 0.32 * font.size),
            anchor,
            font,
            FontTransform::None,
        )
    }

    /// A text that reads upwards, centred on the point.
    pub fn vertical_text(&self, text: &str, at: (f64, f64), font: FontSpec) -> Result<()> {
        let at = (at.0 + 0.32 * font.size, at.1);
        self.draw_text(text, at, Anchor::Middle, font, FontTransform::Rotate270)
    }

    fn draw_text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: FontSpec,
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
        let style = font_desc(font.size * self.scale, font.bold)
            .transform(turn)
            .color(&to_rgb(font.colour))
            .pos(Pos::new(horizontal, VPos::Bottom));
        self.draw_element(&Text::new(text.to_string(), self.to_backend(at), style))
    }

    /// A raster stretched over a box, without smoothing.
    pub fn raster(&self, rect: Rect, raster: &Raster) -> Result<()> {
        if raster.pixels.is_empty() || raster.pixels.len() != raster.width * raster.height {
            return Ok(());
        }
        if let Some(apart) = &self.deferred_rasters {
            apart.borrow_mut().push((rect, raster.clone()));
            return Ok(());
        }
        let (from, to) = (
            self.to_backend((rect.left, rect.top)),
            self.to_backend((rect.right, rect.bottom)),
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
        self.draw_element(&picture)
    }
}

/// The drawing as SVG text of this size in pixels.
pub fn draw_svg(
    (width, height): (f64, f64),
    label: &str,
    draw: impl FnOnce(&Canvas<SVGBackend>) -> Result<()>,
) -> Result<String> {
    register_fonts()?;
    let mut drawn = String::new();
    let size = (
        (width * SVG_UNITS_PER_PIXEL).ceil() as u32,
        (height * SVG_UNITS_PER_PIXEL).ceil() as u32,
    );
    let rasters = {
        let area = SVGBackend::with_string(&mut drawn, size).into_drawing_area();
        let pen = Canvas {
            area,
            scale: SVG_UNITS_PER_PIXEL,
            deferred_rasters: Some(RefCell::default()),
        };
        draw(&pen)?;
        pen.area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
        pen.deferred_rasters
            .map(RefCell::into_inner)
            .unwrap_or_default()
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
pub fn draw_png(
    (width, height): (f64, f64),
    draw: impl FnOnce(&Canvas<BitMapBackend>) -> Result<()>,
) -> Result<Vec<u8>> {
    register_fonts()?;
    let (w, h) = (
        (width * f64::from(PNG_SCALE)).ceil() as u32,
        (height * f64::from(PNG_SCALE)).ceil() as u32,
    );
    let (wide, high) = (w * PNG_SUPERSAMPLING, h * PNG_SUPERSAMPLING);
    let mut pixels = vec![255; 3 * wide as usize * high as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (wide, high)).into_drawing_area();
        let pen = Canvas {
            area,
            scale: f64::from(PNG_SCALE * PNG_SUPERSAMPLING),
            deferred_rasters: None,
        };
        draw(&pen)?;
        pen.area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
    }
    encode_png(
        &downsampled(&pixels, wide as usize, PNG_SUPERSAMPLING as usize)?,
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

fn encode_png(rgb: &[u8], width: u32, height: u32) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(rgb, width, height, ColorType::Rgb8)?;
    Ok(png)
}

fn image_element(rect: Rect, raster: &Raster) -> Result<String> {
    let bytes: Vec<u8> = raster.pixels.iter().flatten().copied().collect();
    let png = encode_png(&bytes, raster.width as u32, raster.height as u32)?;
    Ok(format!(
        "<image x=\"{:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" preserveAspectRatio=\"none\" \
         style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>\n",
        rect.left * SVG_UNITS_PER_PIXEL,
        rect.top * SVG_UNITS_PER_PIXEL,
        (rect.right - rect.left) * SVG_UNITS_PER_PIXEL,
        (rect.bottom - rect.top) * SVG_UNITS_PER_PIXEL,
        base64::engine::general_purpose::STANDARD.encode(png),
    ))
}

/// Width of a text in logical pixels.
pub fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    // Measured large, because plotters rounds to whole pixels.
    let measured = register_fonts()
        .ok()
        .and_then(|()| font_desc(10.0 * size, bold).layout_box(text).ok());
    measured.map_or(
        0.6 * size * text.chars().count() as f64,
        |((left, _), (right, _))| f64::from(right - left) / 10.0,
    )
}

fn font_desc(size: f64, bold: bool) -> FontDesc<'static> {
    let style = if bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    FontDesc::new(
        FontFamily::Name(FONT_FAMILY),
        size * FONT_SIZE_PER_EM,
        style,
    )
}

fn to_rgb([r, g, b]: Colour) -> RGBColor {
    RGBColor(r, g, b)
}

/// Registers the embedded fonts, once: none is asked from the system.
fn register_fonts() -> Result<()> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let fonts = [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ];
        for (style, bytes) in fonts {
            // A font that does not parse shows when the first text is measured.
            let _ = plotters::style::register_font(FONT_FAMILY, style, bytes);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downsampling_averages_pixel_squares() {
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
