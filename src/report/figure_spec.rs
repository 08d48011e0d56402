//! The description of a figure: panels with marks in data units. The modules under `figures` build
//! it, and the module `plot` draws it.

use super::axis::Axis;
use super::palette::{Colour, ColourMap, MarkerShape, MarkerStyle};

/// A whole figure: a title, a legend, and panels of equal size in rows.
#[derive(Debug, Clone)]
pub(super) struct FigureSpec {
    pub title: String,
    pub subtitle: String,
    /// The entries of the legend, from left to right.
    pub legend: Vec<LegendEntry>,
    /// The number of panels in one row.
    pub columns: usize,
    /// The width and the height of one panel with its labels, in pixels.
    pub panel_size: (f64, f64),
    /// The panels, row by row.
    pub panels: Vec<Panel>,
}

/// One entry of the legend: a symbol and the text beside it.
#[derive(Debug, Clone)]
pub(super) struct LegendEntry {
    pub text: String,
    pub colour: Colour,
    pub symbol: LegendSymbol,
}

/// The symbol that the legend shows beside the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum LegendSymbol {
    /// A marker.
    Dot(MarkerShape, Fill),
    /// A short line.
    Line(Stroke),
    /// A translucent rectangle.
    Band,
}

/// Whether a marker is filled or only outlined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    Full,
    Hollow,
}

/// The stroke of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
}

/// One pair of axes with the marks that are drawn on them.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub marks: Vec<PlotMark>,
    /// An image that fills the frame and lies under the marks.
    pub raster: Option<Raster>,
    /// The ratio of the frame's width to its height. Without a value, the frame fills its cell.
    pub aspect: Option<f64>,
    /// What is drawn to the right of the frame.
    pub right_margin: RightMargin,
}

impl Panel {
    /// An empty panel with these axes.
    pub(super) fn new(title: impl Into<String>, x: Axis, y: Axis) -> Panel {
        let (marks, raster, aspect, right_margin) = (vec![], None, None, RightMargin::Empty);
        Panel {
            title: title.into(),
            x,
            y,
            marks,
            raster,
            aspect,
            right_margin,
        }
    }
}

/// What is drawn to the right of a panel's frame.
#[derive(Debug, Clone)]
pub(super) enum RightMargin {
    Empty,
    /// Columns of texts.
    TextColumns(Vec<TextColumn>),
    /// The colours of the raster, with an axis of their values.
    ColourBar(ColourMap, Axis),
}

/// A column of texts under a heading.
#[derive(Debug, Clone)]
pub(super) struct TextColumn {
    pub heading: String,
    /// Each text with the value on the y axis at which it is drawn.
    pub texts: Vec<(f64, String)>,
}

/// A mark in data units. Points without a position on the axes are not drawn.
#[derive(Debug, Clone)]
pub(super) enum PlotMark {
    /// A line through the points. The width is in pixels.
    Line {
        points: Vec<(f64, f64)>,
        colour: Colour,
        width: f64,
        stroke: Stroke,
    },
    /// Markers at the points. The radius is in pixels.
    Dots {
        points: Vec<(f64, f64)>,
        style: MarkerStyle,
        fill: Fill,
        radius: f64,
        opacity: f64,
    },
    /// A filled polygon.
    Area {
        points: Vec<(f64, f64)>,
        colour: Colour,
        opacity: f64,
    },
    /// A vertical line across the frame.
    VerticalLine {
        x: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// A horizontal line across the frame.
    HorizontalLine {
        y: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// Texts beside points: x, y, text and colour. A text is moved if it would cover another one,
    /// and omitted if there is no room.
    Labels(Vec<(f64, f64, String, Colour)>),
    /// Lines of text in the upper left corner of the frame.
    CornerText(Vec<String>),
    /// Points with the texts that a page shows when the pointer is near: x, y and text. They are not
    /// drawn.
    Values(Vec<(f64, f64, String)>),
    /// The marks of what a name stands for, such as an estimator. The data of a figure are the marks
    /// of its series; marks outside of them only help to read it.
    Series { name: String, marks: Vec<PlotMark> },
}

impl PlotMark {
    /// The marks of what `name` stands for.
    pub(super) fn series(name: impl Into<String>, marks: Vec<PlotMark>) -> PlotMark {
        let name = name.into();
        PlotMark::Series { name, marks }
    }

    /// A solid line through the points. The width is in pixels.
    pub(super) fn line(points: Vec<(f64, f64)>, colour: Colour, width: f64) -> PlotMark {
        PlotMark::Line {
            points,
            colour,
            width,
            stroke: Stroke::Solid,
        }
    }
}

/// An image of `width` × `height` pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raster {
    pub width: usize,
    pub height: usize,
    /// The colours, row by row from the top.
    pub pixels: Vec<Colour>,
}
