//! `GridSample`: images sampled at positions that are computed.

use super::operator::{DecompositionResult, Operator};
use super::parts::{clipped, finished, range_to, size_value, stacked, total};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::emit::int;
use crate::graph::{Graph, Node, Shape, Val};
use crate::inference;
use crate::jvp_context::JvpContext;
use crate::size::Size;

/// The declaration of `GridSample`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("GridSample")
    .kinked()
    .shape(grid_sample_shape)
    .decomposition(grid_sample_decomposition)
    .float64_by_decomposition()];

fn grid_sample_shape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, grid) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    if x.len() != grid.len() || x.len() < 3 {
        return None;
    }
    Some([&x[..2], &grid[1..grid.len() - 1]].concat())
}

/// An image `[N, C, …]` as a table of its pixels, `[N · P, C]`.
pub(super) struct Pixels {
    table: Val,
    /// The sizes of its spatial axes.
    pub lengths: Shape,
    samples: Size,
}

/// A neighbour of a position along one axis.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    /// The index of the neighbour.
    pub index: Val,
    /// The weight of the neighbour. `None` stands for 1.
    pub weight: Option<Val>,
}

impl Pixels {
    /// Reshapes an image of the given shape to a table of its pixels.
    pub(super) fn of(g: &mut Graph, image: Val, shape: &[Size]) -> Pixels {
        let order: Vec<usize> = std::iter::once(0)
            .chain(2..shape.len())
            .chain([1])
            .collect();
        let last = g.transpose(image, &order);
        let lengths = shape[2..].to_vec();
        let rows = inference::size_product(g, &[&shape[..1], &lengths].concat());
        let table = g.reshape(last, &[rows, shape[1].clone()]);
        Pixels {
            table,
            lengths,
            samples: shape[0].clone(),
        }
    }

    /// Appends the row of the first pixel of each sample, with the given number of axes.
    pub(super) fn first_of_samples(&self, g: &mut Graph, rank: usize) -> Val {
        let samples = range_to(g, &self.samples);
        self.first_of(g, samples, rank)
    }

    /// Appends the row of the first pixel of each listed sample, with the given number of axes.
    pub(super) fn first_of(&self, g: &mut Graph, samples: Val, rank: usize) -> Val {
        let pixels = inference::size_product(g, &self.lengths);
        let pixels = size_value(g, &pixels, ElemType::INT64);
        let first = g.mul(samples, pixels);
        g.unsqueeze(first, &(1..rank as i64).collect::<Vec<_>>())
    }

    /// Appends the pixels of the given rows. The channels are the last axis.
    pub(super) fn gathered(&self, g: &mut Graph, numbers: Val) -> Val {
        g.op_with("Gather", &[self.table, numbers], vec![int("axis", 0)])
    }

    /// Appends the weighted sum over all combinations of the neighbours along each axis. The
    /// channels are the last axis.
    pub(super) fn interpolated(&self, g: &mut Graph, first: Val, taps: &[Vec<Tap>]) -> Val {
        let (numbers, weights) = self.combined(g, first, taps);
        let numbers = stacked(g, &numbers);
        let values = self.gathered(g, numbers);
        let weights: Option<Vec<Val>> = weights.into_iter().collect();
        let Some(weights) = weights else {
            return total(g, values);
        };
        let weights = stacked(g, &weights);
        let weights = g.unsqueeze(weights, &[-1]);
        let products = g.mul(values, weights);
        total(g, products)
    }

    /// Returns the row and the weight of each combination of neighbours along each axis.
    pub(super) fn combined(
        &self,
        g: &mut Graph,
        first: Val,
        taps: &[Vec<Tap>],
    ) -> (Vec<Val>, Vec<Option<Val>>) {
        let mut open: Vec<(Val, Option<Val>)> = vec![(first, None)];
        for (axis, taps) in taps.iter().enumerate() {
            let stride = inference::size_product(g, &self.lengths[axis + 1..]);
            let stride = size_value(g, &stride, ElemType::INT64);
            let mut next = Vec::new();
            for (place, weight) in open {
                for tap in taps {
                    let step = g.mul(tap.index, stride);
                    let place = g.add(place, step);
                    let weight = match (weight, tap.weight) {
                        (Some(a), Some(b)) => Some(g.mul(a, b)),
                        (a, b) => a.or(b),
                    };
                    next.push((place, weight));
                }
            }
            open = next;
        }
        open.into_iter().unzip()
    }
}

/// The interpolation between pixels.
#[derive(Clone, Copy, PartialEq)]
enum Interpolation {
    Nearest,
    Linear,
    Cubic,
}

/// The values beyond the image.
#[derive(Clone, Copy, PartialEq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// One axis of an image that is sampled.
pub(super) struct Axis {
    length: Val,
    last: Val,
    aligned: bool,
    mode: Interpolation,
    padding: Padding,
}

fn grid_sample_decomposition(s: &mut JvpContext) -> DecompositionResult {
    let (x, grid) = (s.x(0)?, s.x(1)?);
    let (shape, places) = (s.shape(x)?, s.shape(grid)?);
    let axes = shape.len().saturating_sub(2);
    let other = |size: &Size| size.as_fixed().is_some_and(|n| n != axes as i64);
    if axes == 0 || places.len() != shape.len() || places.last().is_some_and(other) {
        return Err("the shapes of its image and of its grid do not fit".into());
    }
    let (mode, padding) = (mode(s)?, padding(s)?);
    if mode == Interpolation::Cubic && axes > 2 {
        return Err("cubic interpolation of a volume is not differentiated".into());
    }
    let elem = s.g.elem(x);
    let grid = s.g.cast(grid, elem);
    let aligned = s.node.int("align_corners", 0) != 0;
    let pixels = Pixels::of(s.g, x, &shape);
    let mut taps = Vec::new();
    for (i, length) in shape[2..].iter().enumerate() {
        let length = size_value(s.g, length, elem);
        let last = s.g.shift(length, -1.0);
        let axis = Axis {
            length,
            last,
            aligned,
            mode,
            padding,
        };
        // The grid lists the last axis first.
        let component = s.g.integer((axes - 1 - i) as i64);
        let place =
            s.g.op_with("Gather", &[grid, component], vec![int("axis", -1)]);
        taps.push(axis.taps(s.g, place));
    }
    let first = pixels.first_of_samples(s.g, shape.len() - 1);
    let values = pixels.interpolated(s.g, first, &taps);
    let order: Vec<usize> = [0, shape.len() - 1]
        .into_iter()
        .chain(1..shape.len() - 1)
        .collect();
    let y = s.g.transpose(values, &order);
    finished(s, y)
}

fn mode(s: &JvpContext) -> Result<Interpolation, Refusal> {
    match s.node.text("mode", "linear").as_str() {
        "linear" | "bilinear" => Ok(Interpolation::Linear),
        "nearest" => Ok(Interpolation::Nearest),
        "cubic" | "bicubic" => Ok(Interpolation::Cubic),
        other => Err(format!("its mode `{other}` is not known").into()),
    }
}

fn padding(s: &JvpContext) -> Result<Padding, Refusal> {
    match s.node.text("padding_mode", "zeros").as_str() {
        "zeros" => Ok(Padding::Zeros),
        "border" => Ok(Padding::Border),
        "reflection" => Ok(Padding::Reflection),
        other => Err(format!("its padding mode `{other}` is not known").into()),
    }
}

impl Axis {
    /// Returns an axis with linear interpolation and zeros beyond the image.
    pub(super) fn open(g: &mut Graph, length: &Size, elem: ElemType) -> Axis {
        let length = size_value(g, length, elem);
        let last = g.shift(length, -1.0);
        Axis {
            length,
            last,
            aligned: false,
            mode: Interpolation::Linear,
            padding: Padding::Zeros,
        }
    }

    /// Returns the neighbours of a position between -1 and 1.
    fn taps(&self, g: &mut Graph, place: Val) -> Vec<Tap> {
        let place = self.pixel(g, place);
        self.neighbours(g, place)
    }

    /// Returns the neighbours of a position in pixels.
    pub(super) fn neighbours(&self, g: &mut Graph, place: Val) -> Vec<Tap> {
        if self.mode == Interpolation::Nearest {
            let near = g.op("Round", &[place]);
            let near = self.inside(g, near);
            return vec![self.tap(g, near, None)];
        }
        // With cubic interpolation, runtimes move only the neighbours to the border, and not the
        // position.
        let stays = self.mode == Interpolation::Cubic && self.padding == Padding::Border;
        let place = if stays { place } else { self.inside(g, place) };
        let low = g.op("Floor", &[place]);
        let rest = g.sub(place, low);
        let weights = if self.mode == Interpolation::Linear {
            linear_weights(g, rest)
        } else {
            cubic_convolution_weights(g, rest)
        };
        let before = if self.mode == Interpolation::Linear {
            0.0
        } else {
            1.0
        };
        let mut taps = Vec::new();
        for (i, weight) in weights.into_iter().enumerate() {
            let neighbour = g.shift(low, i as f64 - before);
            taps.push(self.tap(g, neighbour, Some(weight)));
        }
        taps
    }

    /// Converts a position between -1 and 1 to pixels.
    fn pixel(&self, g: &mut Graph, place: Val) -> Val {
        let from_start = g.shift(place, 1.0);
        let span = if self.aligned { self.last } else { self.length };
        let scaled = g.mul(from_start, span);
        if self.aligned {
            return g.scale(scaled, 0.5);
        }
        let shifted = g.shift(scaled, -1.0);
        g.scale(shifted, 0.5)
    }

    /// Moves a position beyond the image into it, if the padding says so.
    fn inside(&self, g: &mut Graph, place: Val) -> Val {
        match self.padding {
            Padding::Zeros => place,
            Padding::Border => {
                let zero = g.real_like(0.0, place);
                clipped(g, place, zero, self.last)
            }
            Padding::Reflection => self.reflected(g, place),
        }
    }

    /// Reflects a position at the borders until it lies between them.
    fn reflected(&self, g: &mut Graph, place: Val) -> Val {
        let low = g.real_like(if self.aligned { 0.0 } else { -0.5 }, place);
        let (high, span) = if self.aligned {
            let one = g.real_like(1.0, place);
            (self.last, g.op("Max", &[self.last, one]))
        } else {
            (g.shift(self.length, -0.5), self.length)
        };
        let from_low = g.sub(place, low);
        let far = g.op("Abs", &[from_low]);
        let ratio = g.div(far, span);
        let turns = g.op("Floor", &[ratio]);
        let whole = g.mul(turns, span);
        let rest = g.sub(far, whole);
        let half = g.scale(turns, 0.5);
        let pairs = g.op("Floor", &[half]);
        let even = g.op("Equal", &[half, pairs]);
        let (up, down) = (g.add(low, rest), g.sub(high, rest));
        g.op("Where", &[even, up, down])
    }

    /// Returns the neighbour of an integer position, which may lie beyond the image.
    fn tap(&self, g: &mut Graph, neighbour: Val, weight: Option<Val>) -> Tap {
        let zero = g.real_like(0.0, neighbour);
        let moved = match self.padding {
            Padding::Reflection => self.reflected(g, neighbour),
            _ => neighbour,
        };
        let kept = clipped(g, moved, zero, self.last);
        let index = g.cast(kept, ElemType::INT64);
        if self.padding != Padding::Zeros {
            return Tap { index, weight };
        }
        let there = g.op("Equal", &[kept, neighbour]);
        let one = g.real_like(1.0, neighbour);
        let weight = g.op("Where", &[there, weight.unwrap_or(one), zero]);
        Tap {
            index,
            weight: Some(weight),
        }
    }
}

/// Returns the weights of the two neighbours of a position, by its distance from the first one.
pub(super) fn linear_weights(g: &mut Graph, rest: Val) -> Vec<Val> {
    let one = g.real_like(1.0, rest);
    vec![g.sub(one, rest), rest]
}

/// Returns the weights of the four neighbours of a position by cubic convolution (R. G. Keys,
/// 1981).
fn cubic_convolution_weights(g: &mut Graph, rest: Val) -> Vec<Val> {
    const A: f64 = -0.75;
    let one = g.real_like(1.0, rest);
    let back = g.sub(one, rest);
    let (far, behind) = (g.shift(rest, 1.0), g.shift(back, 1.0));
    let outer = |g: &mut Graph, x: Val| horner(g, x, &[A, -5.0 * A, 8.0 * A, -4.0 * A]);
    let inner = |g: &mut Graph, x: Val| horner(g, x, &[A + 2.0, -(A + 3.0), 0.0, 1.0]);
    vec![
        outer(g, far),
        inner(g, rest),
        inner(g, back),
        outer(g, behind),
    ]
}

/// Appends a polynomial in the type of `x`. The highest power comes first.
fn horner(g: &mut Graph, x: Val, coefficients: &[f64]) -> Val {
    let (first, rest) = coefficients.split_first().unwrap_or((&0.0, &[]));
    let start = g.real_like(*first, x);
    rest.iter().fold(start, |sum, c| {
        let product = g.mul(sum, x);
        if *c == 0.0 {
            product
        } else {
            g.shift(product, *c)
        }
    })
}
