//! A figure as data: panels of marks in data units. Figures build it, `plot` draws it.

use super::axis::Axis;
use super::palette::{Colour, ColourMap, MarkerShape, MarkerStyle};

/// A whole figure: a title, keys that explain the marks, and equal panels in rows.
#[derive(Debug, Clone)]
pub struct FigureSpec {
    pub title: String,
    pub subtitle: String,
    pub legend: Vec<LegendEntry>,
    pub columns: usize,
    /// Width and height of one panel with its labels, in pixels.
    pub panel_size: (f64, f64),
    pub panels: Vec<Panel>,
}

/// One line of the legend.
#[derive(Debug, Clone)]
pub struct LegendEntry {
    pub text: String,
    pub colour: Colour,
    pub symbol: LegendSymbol,
}

/// What the legend shows beside the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LegendSymbol {
    Dot(MarkerShape, Fill),
    Line(Stroke),
    Band,
}

/// Points are full, or only outlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Full,
    Hollow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stroke {
    Solid,
    Dashed,
}

/// One pair of axes with what is drawn on it.
#[derive(Debug, Clone)]
pub struct Panel {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub marks: Vec<PlotMark>,
    /// Lies under the marks and fills the frame.
    pub raster: Option<Raster>,
    /// Width over height of the frame; free where absent.
    pub aspect: Option<f64>,
    pub right_margin: RightMargin,
}

impl Panel {
    /// An empty panel on these axes.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Panel {
        let (marks, raster, aspect, side) = (vec![], None, None, RightMargin::Empty);
        Panel {
            title: title.into(),
            x,
            y,
            marks,
            raster,
            aspect,
            right_margin: side,
        }
    }
}

/// What stands right of the frame.
#[derive(Debug, Clone)]
pub enum RightMargin {
    Empty,
    /// Columns of texts.
    TextColumns(Vec<TextColumn>),
    /// The colours of a raster with their numbers.
    ColourBar(ColourMap, Axis),
}

/// Texts at values of the y axis, under a heading.
#[derive(Debug, Clone)]
pub struct TextColumn {
    pub heading: String,
    pub texts: Vec<(f64, String)>,
}

/// Marks in data units; what has no place on the axes is left out.
#[derive(Debug, Clone)]
pub enum PlotMark {
    Line {
        points: Vec<(f64, f64)>,
        colour: Colour,
        width: f64,
        stroke: Stroke,
    },
    Dots {
        points: Vec<(f64, f64)>,
        style: MarkerStyle,
        fill: Fill,
        radius: f64,
        opacity: f64,
    },
    /// A closed area.
    Area {
        points: Vec<(f64, f64)>,
        colour: Colour,
        opacity: f64,
    },
    /// A line across the frame at this x.
    VerticalLine {
        x: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// A line across the frame at this y.
    HorizontalLine {
        y: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// Texts beside points, moved or left out so that none covers another.
    Labels(Vec<(f64, f64, String, Colour)>),
    /// Lines of text in the frame's upper left corner.
    CornerText(Vec<String>),
}

impl PlotMark {
    /// A plain line through the points.
    pub fn line(points: Vec<(f64, f64)>, colour: Colour, width: f64) -> PlotMark {
        PlotMark::Line {
            points,
            colour,
            width,
            stroke: Stroke::Solid,
        }
    }
}

/// A picture of `width` times `height` colours, row by row from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raster {
    pub width: usize,
    pub height: usize,
    pub pixels: Vec<Colour>,
}
