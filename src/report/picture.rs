//! A figure as data: panels of marks in data units. Figures build it, `plot` draws it.

use super::axis::Axis;
use super::palette::{Colour, Look, Map, Shape};

/// A whole figure: a title, keys that explain the marks, and equal panels in rows.
#[derive(Debug, Clone)]
pub struct Picture {
    pub title: String,
    pub subtitle: String,
    pub keys: Vec<Key>,
    pub columns: usize,
    /// Width and height of one panel with its labels, in pixels.
    pub cell: (f64, f64),
    pub panels: Vec<Panel>,
}

/// One line of the legend.
#[derive(Debug, Clone)]
pub struct Key {
    pub text: String,
    pub colour: Colour,
    pub sign: Sign,
}

/// What the legend shows beside the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sign {
    Dot(Shape, Fill),
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
    pub marks: Vec<Mark>,
    /// Lies under the marks and fills the frame.
    pub raster: Option<Raster>,
    /// Width over height of the frame; free where absent.
    pub aspect: Option<f64>,
    pub side: Side,
}

impl Panel {
    /// An empty panel on these axes.
    pub fn new(title: impl Into<String>, x: Axis, y: Axis) -> Panel {
        let (marks, raster, aspect, side) = (vec![], None, None, Side::Empty);
        Panel {
            title: title.into(),
            x,
            y,
            marks,
            raster,
            aspect,
            side,
        }
    }
}

/// What stands right of the frame.
#[derive(Debug, Clone)]
pub enum Side {
    Empty,
    /// Columns of texts.
    Notes(Vec<Notes>),
    /// The colours of a raster with their numbers.
    Bar(Map, Axis),
}

/// Texts at values of the y axis, under a heading.
#[derive(Debug, Clone)]
pub struct Notes {
    pub heading: String,
    pub at: Vec<(f64, String)>,
}

/// Marks in data units; what has no place on the axes is left out.
#[derive(Debug, Clone)]
pub enum Mark {
    Line {
        points: Vec<(f64, f64)>,
        colour: Colour,
        width: f64,
        stroke: Stroke,
    },
    Dots {
        points: Vec<(f64, f64)>,
        look: Look,
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
    Upright {
        x: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// A line across the frame at this y.
    Level {
        y: f64,
        colour: Colour,
        stroke: Stroke,
    },
    /// Texts beside points, moved or left out so that none covers another.
    Labels(Vec<(f64, f64, String, Colour)>),
    /// Lines of text in the frame's upper left corner.
    Corner(Vec<String>),
}

impl Mark {
    /// A plain line through the points.
    pub fn line(points: Vec<(f64, f64)>, colour: Colour, width: f64) -> Mark {
        Mark::Line {
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
