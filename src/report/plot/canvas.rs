//! The only module that draws. It wraps the backends of `plotters` with a few operations in logical
//! pixels.
//!
//! Both backends round to whole numbers. SVG is therefore drawn on a grid ten times finer than its
//! pixels. PNG is drawn at twice its size, and each square of four pixels is averaged.

use std::cell::RefCell;
use std::sync::Once;

use anyhow::{Context, Result, anyhow};
use base64::Engine as _;
use image::codecs::png::PngEncoder;
use image::{ColorType, ImageEncoder};
use ndarray::{ArrayView, Axis};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
pub(super) use plotters::prelude::DrawingBackend as Backend;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::figure_spec::{Fill, Raster};
use crate::report::palette::{Colour, MarkerShape, PAPER};

/// The steps of the SVG's grid in one pixel.
const SVG_UNITS_PER_PIXEL: f64 = 10.0;
/// The pixels of the PNG per logical pixel.
const PNG_SCALE: u32 = 2;
/// The drawn pixels per pixel of the PNG, in each direction. The average makes lines evenly thick.
/// Tests do not look at this and draw faster without.
const PNG_SUPERSAMPLING: u32 = if cfg!(test) { 1 } else { 2 };
/// The name under which the embedded fonts are registered.
const FONT_FAMILY: &str = "sans-serif";
/// The font size of plotters per height of an em, as in its SVG backend.
const FONT_SIZE_PER_EM: f64 = 1.24;

/// Which part of a text lies at the given point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// The size in logical pixels, the weight and the colour of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FontSpec {
    pub size: f64,
    pub bold: bool,
    pub colour: Colour,
}

/// A rectangle in logical pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

/// Draws in logical pixels on one backend.
pub(super) struct Canvas<DB: Backend> {
    area: DrawingArea<DB, Shift>,
    /// The backend's units per logical pixel.
    scale: f64,
    /// The rasters of an SVG, which become image elements after drawing. A bitmap draws its rasters
    /// at once.
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

    /// Draws a line through the points.
    pub(super) fn line(&self, points: &[(f64, f64)], colour: Colour, width: f64) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        // The rasterizer needs the direction between neighbours, which equal points do not have.
        path.dedup();
        if path.len() < 2 {
            return Ok(());
        }
        self.draw_element(&PathElement::new(path, self.line_style(colour, 1.0, width)))
    }

    /// Draws a straight dashed line.
    pub(super) fn dashed_line(
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

    /// Draws a filled polygon.
    pub(super) fn polygon(
        &self,
        points: &[(f64, f64)],
        colour: Colour,
        opacity: f64,
    ) -> Result<()> {
        let mut path: Vec<(i32, i32)> = points.iter().map(|&p| self.to_backend(p)).collect();
        path.dedup();
        if path.len() < 3 {
            return Ok(());
        }
        self.draw_element(&Polygon::new(path, to_rgb(colour).mix(opacity).filled()))
    }

    /// Draws a marker around a centre. A hollow marker is a filled one with a smaller white marker
    /// on top.
    pub(super) fn marker(
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

    /// Draws a text. The start, middle or end of its baseline lies at the point.
    pub(super) fn text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: FontSpec,
    ) -> Result<()> {
        self.draw_text(
            text,
            (at.0, at.1 + 0.32 * font.size),
            anchor,
            font,
            FontTransform::None,
        )
    }

    /// Draws a text that reads upwards, centred at the point.
    pub(super) fn vertical_text(&self, text: &str, at: (f64, f64), font: FontSpec) -> Result<()> {
        let at = (at.0 + 0.32 * font.size, at.1);
        self.draw_text(text, at, Anchor::Middle, font, FontTransform::Rotate270)
    }

    fn draw_text(
        &self,
        text: &str,
        at: (f64, f64),
        anchor: Anchor,
        font: FontSpec,
        rotation: FontTransform,
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
            .transform(rotation)
            .color(&to_rgb(font.colour))
            .pos(Pos::new(horizontal, VPos::Bottom));
        self.draw_element(&Text::new(text.to_string(), self.to_backend(at), style))
    }

    /// Draws a raster, stretched over a rectangle without smoothing.
    pub(super) fn raster(&self, rect: Rect, raster: &Raster) -> Result<()> {
        if raster.pixels.is_empty() || raster.pixels.len() != raster.width * raster.height {
            return Ok(());
        }
        if let Some(deferred) = &self.deferred_rasters {
            deferred.borrow_mut().push((rect, raster.clone()));
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
        let bitmap = BitMapElement::with_owned_buffer(from, (w as u32, h as u32), bytes)
            .context("the size of a raster does not match its pixels")?;
        self.draw_element(&bitmap)
    }
}

/// The drawing as SVG text of this size in pixels. `label` describes it to screen readers.
///
/// # Errors
/// Fails if `draw` fails or a raster cannot be encoded.
pub(super) fn draw_svg(
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
        let canvas = Canvas {
            area,
            scale: SVG_UNITS_PER_PIXEL,
            deferred_rasters: Some(RefCell::default()),
        };
        draw(&canvas)?;
        canvas
            .area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
        canvas
            .deferred_rasters
            .map(RefCell::into_inner)
            .unwrap_or_default()
    };
    let body = drawn.split_once('>').map_or("", |(_, body)| body);
    // Quotes in texts are escaped, so these patterns match only attributes, which have their
    // default values here.
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

/// The drawing as PNG bytes, with [`PNG_SCALE`] pixels per logical pixel.
///
/// # Errors
/// Fails if `draw` fails or the image cannot be encoded.
pub(super) fn draw_png(
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
        let canvas = Canvas {
            area,
            scale: f64::from(PNG_SCALE * PNG_SUPERSAMPLING),
            deferred_rasters: None,
        };
        draw(&canvas)?;
        canvas
            .area
            .present()
            .map_err(|error| anyhow!("drawing: {error}"))?;
    }
    encode_png(
        &downsampled(&pixels, wide as usize, PNG_SUPERSAMPLING as usize)?,
        w,
        h,
    )
}

/// The means over squares of `side` × `side` pixels. `pixels` contains rows of `wide` pixels with
/// three levels each.
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

/// The SVG element that embeds a raster as PNG.
fn image_element(rect: Rect, raster: &Raster) -> Result<String> {
    let bytes: Vec<u8> = raster.pixels.iter().flatten().copied().collect();
    let png = encode_png(&bytes, raster.width as u32, raster.height as u32)?;
    Ok(format!(
        "<image x=\"{:.0}\" y=\"{:.0}\" width=\"{:.0}\" height=\"{:.0}\" \
         preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" \
         href=\"data:image/png;base64,{}\"/>\n",
        rect.left * SVG_UNITS_PER_PIXEL,
        rect.top * SVG_UNITS_PER_PIXEL,
        (rect.right - rect.left) * SVG_UNITS_PER_PIXEL,
        (rect.bottom - rect.top) * SVG_UNITS_PER_PIXEL,
        base64::engine::general_purpose::STANDARD.encode(png),
    ))
}

/// The width of a text in logical pixels.
pub(super) fn text_width(text: &str, size: f64, bold: bool) -> f64 {
    // The text is measured at ten times its size, because plotters rounds to whole pixels.
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

/// Registers the embedded fonts once. No font of the system is used.
fn register_fonts() -> Result<()> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        let fonts = [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ];
        for (style, bytes) in fonts {
            // A font that cannot be parsed is noticed when the first text is measured.
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
