//! A backend of `plotters` that writes SVG text.
//!
//! The one that comes with `plotters` writes every mark with all its attributes and knows no groups.
//! This one writes equal circles into one group, and it takes groups of its own, by which a reader of
//! the file finds the marks of one series, and a page shows their values.

use std::convert::Infallible;

use base64::Engine as _;
use image::codecs::png::CompressionType;
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{FontStyle, FontTransform};
use plotters_backend::{BackendColor, BackendStyle, BackendTextStyle, DrawingErrorKind};

use super::backend::Backend;
use super::encode::{encode_png, escaped};
use super::font::FONT_SIZE_PER_EM;
use crate::report::figure_spec::Raster;

/// The half of the height of a small letter, in heights of an em: texts are centred at their points.
pub(super) const HALF_X_HEIGHT: f64 = 0.27;

/// The SVG elements of a drawing, without the root element.
pub(super) struct SvgBackend<'a> {
    text: &'a mut String,
    size: (u32, u32),
    /// The group of equal circles that is not yet written.
    circles: Option<CircleGroup>,
    /// The straight lines of equal looks that are not yet written.
    lines: Option<LineGroup>,
}

/// Straight lines with the same attributes.
struct LineGroup {
    attributes: String,
    ends: Vec<[(i32, i32); 2]>,
}

/// Circles of the same colour and size.
struct CircleGroup {
    colour: BackendColor,
    radius: u32,
    centres: Vec<(i32, i32)>,
}

/// The number of circles from which a group becomes a few paths of dots, which are a third as long.
const MANY_CIRCLES: usize = 12;
/// The number of these paths. Dots of one path do not darken one another, and those of different paths do.
const DOT_PATHS: usize = 4;

impl<'a> SvgBackend<'a> {
    /// A backend that appends to `text`, on a grid of this size.
    pub(super) fn new(text: &'a mut String, size: (u32, u32)) -> SvgBackend<'a> {
        SvgBackend {
            text,
            size,
            circles: None,
            lines: None,
        }
    }

    fn push(&mut self, element: &str) {
        self.write_groups();
        self.text.push_str(element);
    }

    /// Writes what was collected. Circles and lines are never collected at the same time, so that marks
    /// stay in their order.
    fn write_groups(&mut self) {
        self.write_circles();
        self.write_lines();
    }

    /// Writes the group of lines: several of them, such as those of a grid, as one path.
    fn write_lines(&mut self) {
        let Some(LineGroup { attributes, ends }) = self.lines.take() else {
            return;
        };
        *self.text += &match &ends[..] {
            [line] => format!("<polyline points=\"{}\"{attributes}/>\n", point_list(*line)),
            lines => {
                let line = |[(x, y), (u, v)]: &[(i32, i32); 2]| format!("M{x} {y}L{u} {v}");
                let path: String = lines.iter().map(line).collect();
                format!("<path d=\"{path}\"{attributes}/>\n")
            }
        };
    }

    /// Writes the group of circles: many of them as dots, which are lines of no length with round ends.
    fn write_circles(&mut self) {
        let Some(group) = self.circles.take() else {
            return;
        };
        if group.centres.len() < MANY_CIRCLES {
            let fill = fill_attributes(group.colour);
            for (x, y) in group.centres {
                let r = group.radius;
                *self.text += &format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{r}\"{fill}/>\n");
            }
            return;
        }
        let (stroke, width) = (hex(group.colour), 2 * group.radius);
        let opacity = opacity_attribute("stroke-opacity", group.colour.alpha);
        for first in 0..DOT_PATHS {
            let dots = group.centres.iter().skip(first).step_by(DOT_PATHS);
            let dots: String = dots.map(|(x, y)| format!("M{x} {y}h0")).collect();
            *self.text += &format!(
                "<path class=\"dots\" d=\"{dots}\" stroke=\"{stroke}\" stroke-width=\"{width}\" \
                 stroke-linecap=\"round\"{opacity}/>\n"
            );
        }
    }
}

impl Drop for SvgBackend<'_> {
    fn drop(&mut self) {
        self.write_groups();
    }
}

impl Backend for SvgBackend<'_> {
    fn open_group(&mut self, attributes: &[(&str, &str)]) {
        let attributes: String = attributes
            .iter()
            .map(|(name, value)| format!(" {name}=\"{}\"", escaped(value)))
            .collect();
        self.push(&format!("<g{attributes}>\n"));
    }

    fn close_group(&mut self) {
        self.push("</g>\n");
    }

    fn write_value(&mut self, (x, y): (i32, i32), radius: u32, text: &str) {
        self.push(&format!(
            "<circle class=\"tip\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"none\" \
             pointer-events=\"all\" data-tip=\"{}\"/>\n",
            escaped(text)
        ));
    }

    fn set_dashes(&mut self, dashes: Option<[u32; 2]>) -> bool {
        match dashes {
            Some([dash, gap]) => self.open_group(&[("stroke-dasharray", &format!("{dash} {gap}"))]),
            None => self.close_group(),
        }
        true
    }

    fn draw_raster(&mut self, from: (i32, i32), to: (i32, i32), raster: &Raster) -> bool {
        let bytes: Vec<u8> = raster.pixels.iter().flatten().copied().collect();
        let size = (raster.width as u32, raster.height as u32);
        // A page contains the raster as text, where every byte counts.
        let png = encode_png(&bytes, size, CompressionType::Best);
        // A raster has as many pixels as its size says, so that it can always be encoded.
        let png = base64::engine::general_purpose::STANDARD.encode(png.unwrap_or_default());
        self.push(&format!(
            "<image x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" preserveAspectRatio=\"none\" \
             style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{png}\"/>\n",
            from.0,
            from.1,
            to.0 - from.0,
            to.1 - from.1,
        ));
        true
    }
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl DrawingBackend for SvgBackend<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        self.write_groups();
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): (i32, i32), colour: BackendColor) -> Drawn {
        let fill = fill_attributes(colour);
        self.push(&format!("<path d=\"M{x} {y}h1v1h-1z\"{fill}/>\n"));
        Ok(())
    }

    fn draw_line<S: BackendStyle>(&mut self, from: (i32, i32), to: (i32, i32), style: &S) -> Drawn {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = (i32, i32)>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Drawn {
        let colour = style.color();
        let attributes = format!(
            " fill=\"none\" stroke=\"{}\" stroke-width=\"{}\"{}",
            hex(colour),
            style.stroke_width(),
            opacity_attribute("stroke-opacity", colour.alpha),
        );
        let points: Vec<(i32, i32)> = path.into_iter().collect();
        let Ok(line) = <[(i32, i32); 2]>::try_from(points.as_slice()) else {
            self.push(&format!(
                "<polyline points=\"{}\"{attributes}/>\n",
                point_list(points)
            ));
            return Ok(());
        };
        self.write_circles();
        let other = |group: &LineGroup| group.attributes != attributes;
        if self.lines.as_ref().is_some_and(other) {
            self.write_lines();
        }
        let ends = Vec::new();
        let group = self.lines.get_or_insert(LineGroup { attributes, ends });
        group.ends.push(line);
        Ok(())
    }

    fn draw_circle<S: BackendStyle>(
        &mut self,
        (x, y): (i32, i32),
        radius: u32,
        style: &S,
        _fill: bool,
    ) -> Drawn {
        self.write_lines();
        let colour = style.color();
        let other = |group: &CircleGroup| {
            (hex(group.colour), group.colour.alpha, group.radius)
                != (hex(colour), colour.alpha, radius)
        };
        if self.circles.as_ref().is_some_and(other) {
            self.write_circles();
        }
        let group = self.circles.get_or_insert_with(|| CircleGroup {
            colour,
            radius,
            centres: Vec::new(),
        });
        group.centres.push((x, y));
        Ok(())
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = (i32, i32)>>(
        &mut self,
        corners: I,
        style: &S,
    ) -> Drawn {
        let fill = fill_attributes(style.color());
        self.push(&format!(
            "<polygon points=\"{}\"{fill}/>\n",
            point_list(corners)
        ));
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (x, y): (i32, i32),
    ) -> Drawn {
        let size = style.size() / FONT_SIZE_PER_EM;
        let anchor = match style.anchor().h_pos {
            HPos::Left => "",
            HPos::Center => " text-anchor=\"middle\"",
            HPos::Right => " text-anchor=\"end\"",
        };
        let raised = match style.anchor().v_pos {
            VPos::Bottom => (HALF_X_HEIGHT * size).round() as i32,
            VPos::Center | VPos::Top => 0,
        };
        let weight = match style.style() {
            FontStyle::Bold => " font-weight=\"bold\"",
            _ => "",
        };
        let turned = match style.transform() {
            FontTransform::Rotate270 => format!(" transform=\"rotate(270 {x} {y})\""),
            _ => String::new(),
        };
        let text = escaped(text);
        let fill = fill_attributes(style.color());
        self.push(&format!(
            "<text x=\"{x}\" y=\"{}\" font-size=\"{size:.0}\"{anchor}{weight}{fill}{turned}>{text}</text>\n",
            y - raised
        ));
        Ok(())
    }
}

/// The points as the value of an attribute.
fn point_list(points: impl IntoIterator<Item = (i32, i32)>) -> String {
    let pairs: Vec<String> = points
        .into_iter()
        .map(|(x, y)| format!("{x},{y}"))
        .collect();
    pairs.join(" ")
}

fn fill_attributes(colour: BackendColor) -> String {
    let opacity = opacity_attribute("fill-opacity", colour.alpha);
    format!(" fill=\"{}\"{opacity}", hex(colour))
}

/// An attribute for an opacity, which is left out at its default of 1.
fn opacity_attribute(name: &str, opacity: f64) -> String {
    if opacity >= 1.0 {
        return String::new();
    }
    format!(" {name}=\"{}\"", (1000.0 * opacity).round() / 1000.0)
}

fn hex(colour: BackendColor) -> String {
    let (r, g, b) = colour.rgb;
    format!("#{r:02X}{g:02X}{b:02X}")
}

#[cfg(test)]
mod tests {
    use super::super::backend::BackendCall;
    use super::*;
    use plotters::prelude::{Circle, Color, IntoDrawingArea, PathElement, RED, Text};
    use plotters::style::IntoFont;

    #[test]
    fn many_circles_become_dots_and_texts_are_escaped() {
        let mut text = String::new();
        {
            let area = SvgBackend::new(&mut text, (100, 100)).into_drawing_area();
            let style = RED.mix(0.5).filled();
            let draw = |x, r| area.draw(&Circle::new((x, 2), r, style)).expect("a circle");
            draw(1, 3);
            (0..MANY_CIRCLES as i32).for_each(|x| draw(x, 4));
            let open = |backend: &mut SvgBackend| backend.open_group(&[("id", "\"s")]);
            area.draw(&BackendCall(open)).expect("a group");
            area.draw(&PathElement::new(
                vec![(0, 0), (5, 6)],
                Color::stroke_width(&RED, 2),
            ))
            .expect("a line");
            let close = |backend: &mut SvgBackend| backend.close_group();
            area.draw(&BackendCall(close)).expect("its end");
            let font = ("sans-serif", 12).into_font();
            area.draw(&Text::new("<b>&\"", (7, 8), font)).expect("text");
        }
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..2],
            [
                "<circle cx=\"1\" cy=\"2\" r=\"3\" fill=\"#FF0000\" fill-opacity=\"0.5\"/>",
                "<path class=\"dots\" d=\"M0 2h0M4 2h0M8 2h0\" stroke=\"#FF0000\" stroke-width=\"8\" \
                 stroke-linecap=\"round\" stroke-opacity=\"0.5\"/>",
            ]
        );
        assert_eq!(
            lines[5..8],
            [
                "<g id=\"&quot;s\">",
                "<polyline points=\"0,0 5,6\" fill=\"none\" stroke=\"#FF0000\" stroke-width=\"2\"/>",
                "</g>",
            ]
        );
        assert!(text.contains(">&lt;b&gt;&amp;&quot;</text>"), "{text}");
    }
}
