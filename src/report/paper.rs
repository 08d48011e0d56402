//! Figures for papers: as wide as a column, without titles, in the letters of the text.

use std::str::FromStr;

use anyhow::{Context, Result};

use super::Facts;
use super::figure_data::figure_csv;
use super::figure_spec::{FigureSpec, Panel, RightMargin};
use super::figures::described_figures;
pub(crate) use super::plot::FigureFont;
use super::plot::{PAGE_LABEL_SIZE, PANEL_GAP, render_for_paper};
use super::text::shorten;
use super::view::ReportView;
use crate::rows::Tables;

/// Points in an inch, and in a millimetre.
const POINTS_PER_INCH: f64 = 72.0;
const POINTS_PER_MM: f64 = 72.0 / 25.4;
/// The narrowest panel beside another one, in pixels.
const NARROWEST_PANEL: f64 = 250.0;
/// The narrowest panel that has room for columns of texts beside its frame, in pixels.
const NARROWEST_WITH_TEXTS: f64 = 520.0;
/// The width of a letter, in pixels, by which names are shortened.
const LETTER_WIDTH: f64 = 6.9;

/// How figures for a paper look.
#[derive(Debug, Clone, Default)]
pub(crate) struct PaperStyle {
    pub width: FigureWidth,
    pub font_size: FontSize,
    pub font: FigureFont,
}

/// The width of a figure, in points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FigureWidth(f64);

impl Default for FigureWidth {
    /// One of two columns: 3.25 inches.
    fn default() -> FigureWidth {
        FigureWidth(3.25 * POINTS_PER_INCH)
    }
}

impl FromStr for FigureWidth {
    type Err = String;

    /// `column`, `text`, `page`, or a length such as `84mm`, `3.3in` or `240pt`.
    fn from_str(text: &str) -> Result<FigureWidth, String> {
        let points = match text {
            "column" => 3.25 * POINTS_PER_INCH,
            "text" => 5.5 * POINTS_PER_INCH,
            "page" => 6.75 * POINTS_PER_INCH,
            length => length_in_points(length).ok_or(
                "expected column (3.25in), text (5.5in), page (6.75in) or a length such as 84mm, \
                 3.3in or 240pt",
            )?,
        };
        if !(100.0..=2000.0).contains(&points) {
            return Err(format!("{text} is {points:.0}pt; expected 100pt to 2000pt"));
        }
        Ok(FigureWidth(points))
    }
}

/// The size of a figure's letters, in points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct FontSize(f64);

impl Default for FontSize {
    fn default() -> FontSize {
        FontSize(8.0)
    }
}

impl FromStr for FontSize {
    type Err = String;

    /// A size such as `8pt` or `8`.
    fn from_str(text: &str) -> Result<FontSize, String> {
        let number = text.strip_suffix("pt").unwrap_or(text).parse();
        match number {
            Ok(points) if (4.0..=24.0).contains(&points) => Ok(FontSize(points)),
            _ => Err("expected 4pt to 24pt".to_owned()),
        }
    }
}

/// A length with its unit, in points.
fn length_in_points(text: &str) -> Option<f64> {
    let units = [
        ("mm", POINTS_PER_MM),
        ("cm", 10.0 * POINTS_PER_MM),
        ("in", POINTS_PER_INCH),
        ("pt", 1.0),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    let number: f64 = number.trim().parse().ok()?;
    number.is_finite().then_some(number * unit)
}

/// A figure for a paper.
pub(crate) struct PaperFigure {
    /// The file stem.
    pub name: String,
    pub svg: String,
    pub pdf: Vec<u8>,
    /// The values of the figure's marks as CSV.
    pub data: String,
    /// What the figure shows, as the text under it.
    pub caption: String,
}

/// Draws every figure that the tables allow.
///
/// # Errors
/// Fails if a figure cannot be drawn.
pub(crate) fn draw_paper_figures(
    tables: &Tables,
    facts: &Facts,
    style: &PaperStyle,
) -> Result<Vec<PaperFigure>> {
    let view = ReportView::new(tables, facts);
    let points_per_pixel = style.font_size.0 / PAGE_LABEL_SIZE;
    let width = style.width.0 / points_per_pixel;
    let draw = |(name, figure): (String, super::figures::CaptionedFigure)| {
        let data = figure_csv(&figure.spec)?;
        let label = format!("{}: {}", figure.spec.title, figure.spec.subtitle);
        let spec = fitted_to_width(figure.spec, width);
        let (svg, pdf) = render_for_paper(&spec, &label, points_per_pixel, &style.font)
            .with_context(|| format!("figure {name}"))?;
        Ok(PaperFigure {
            name,
            svg,
            pdf,
            data,
            caption: figure.caption,
        })
    };
    described_figures(&view).into_iter().map(draw).collect()
}

/// The figure without its title, in as many columns of panels as fit into `width` pixels.
fn fitted_to_width(mut spec: FigureSpec, width: f64) -> FigureSpec {
    let (old_width, old_height) = spec.panel_size;
    let fitting = ((width + PANEL_GAP) / (NARROWEST_PANEL + PANEL_GAP)).floor() as usize;
    let columns = fitting.clamp(1, spec.columns.max(1));
    let gaps = (columns - 1) as f64 * PANEL_GAP;
    let new_width = (width - gaps) / columns as f64;
    let height = spec.panels.first().map_or(old_height, |panel| {
        fitted_height(panel, old_width, old_height, new_width)
    });
    spec.title.clear();
    spec.subtitle.clear();
    spec.columns = columns;
    spec.panel_size = (new_width, height);
    for entry in &mut spec.legend {
        entry.text = shorten(&entry.text, (width / LETTER_WIDTH) as usize - 4);
    }
    let alone = spec.panels.len() == 1;
    for panel in &mut spec.panels {
        if alone {
            panel.title.clear();
        }
        panel.title = shorten(&panel.title, (new_width / LETTER_WIDTH) as usize);
        if new_width < NARROWEST_WITH_TEXTS
            && matches!(panel.right_margin, RightMargin::TextColumns(_))
        {
            panel.right_margin = RightMargin::Empty;
        }
        if panel.y.label.is_empty() {
            let most = (0.42 * new_width / LETTER_WIDTH) as usize;
            for tick in &mut panel.y.ticks {
                tick.text = shorten(&tick.text, most);
            }
        }
    }
    spec
}

/// The height of a panel that is `new_width` wide. A panel of names keeps its height, and one with an
/// aspect keeps that.
fn fitted_height(panel: &Panel, old_width: f64, old_height: f64, new_width: f64) -> f64 {
    let labels = 70.0;
    if panel.aspect.is_some() {
        return (old_height - labels) * new_width / old_width + labels;
    }
    if panel.y.label.is_empty() {
        return old_height;
    }
    old_height.min(0.68 * new_width + 40.0).max(150.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::axis::Axis;

    #[test]
    fn lengths_are_read_with_their_units() {
        for (text, points) in [
            ("column", 234.0),
            ("84mm", 238.110),
            ("3.3in", 237.6),
            ("240pt", 240.0),
            ("8.4 cm", 238.110),
        ] {
            let width: FigureWidth = text.parse().expect("a width");
            assert!((width.0 - points).abs() < 1e-3, "{text}: {width:?}");
        }
        for wrong in ["", "84", "wide", "1pt", "nanmm", "1e9in"] {
            assert!(wrong.parse::<FigureWidth>().is_err(), "{wrong}");
        }
        assert_eq!("9.5".parse(), Ok(FontSize(9.5)));
        assert!("0pt".parse::<FontSize>().is_err());
    }

    #[test]
    fn panels_stand_side_by_side_only_where_they_fit() {
        let panel = || {
            Panel::new(
                "a",
                Axis::with_range("x", [0.0, 1.0], 3),
                Axis::with_range("y", [0.0, 1.0], 3),
            )
        };
        let spec = |columns| FigureSpec {
            title: "t".into(),
            subtitle: "s".into(),
            legend: vec![],
            columns,
            panel_size: (400.0, 300.0),
            panels: vec![panel(), panel(), panel()],
        };
        let narrow = fitted_to_width(spec(3), 351.0);
        assert_eq!((narrow.columns, narrow.panel_size.0), (1, 351.0));
        let wide = fitted_to_width(spec(3), 800.0);
        assert_eq!(wide.columns, 3);
        assert!(wide.title.is_empty() && wide.subtitle.is_empty());
    }
}
