//! Computes the known elements of small tensors through elementwise operators.

use crate::content::{Content, Item, broadcast_dims, followed_count};
use crate::graph::{Graph, Node};
use crate::size::Size;

/// Returns the elements as sizes of axes, if each one is a known number that is not negative.
pub(crate) fn axis_lengths(content: &Content) -> Option<Vec<usize>> {
    content
        .fixed()?
        .iter()
        .map(|n| usize::try_from(*n).ok())
        .collect()
}

/// Applies `f` to each element.
pub(crate) fn map(content: &Content, f: impl Fn(&Item) -> Item) -> Content {
    Content {
        dims: content.dims.clone(),
        items: content.items.iter().map(f).collect(),
    }
}

/// Returns a floating-point number as an integer element, or [`Item::Unknown`] if it is too large
/// to be exact.
pub(crate) fn integer_item(x: f64) -> Item {
    if x.abs() < 9e15 {
        Item::fixed(x as i64)
    } else {
        Item::Unknown
    }
}

/// Returns the content of the output of an elementwise operator with one input.
pub(crate) fn unary(_: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let op = node.op.as_str();
    Some(map(&inputs[0], |item| match (op, item) {
        ("Floor" | "Ceil" | "Round", Item::Int(_)) => item.clone(),
        ("Neg", Item::Int(size)) => size
            .times(&Size::fixed(-1))
            .map_or(Item::Unknown, Item::Int),
        ("Not", Item::Int(size)) => size
            .as_fixed()
            .map_or(Item::Unknown, |n| Item::fixed(i64::from(n == 0))),
        ("Abs", Item::Int(size)) => size
            .as_fixed()
            .map_or(Item::Unknown, |n| Item::fixed(n.saturating_abs())),
        (_, Item::Real(x)) => match op {
            "Floor" => Item::Real(x.floor()),
            "Ceil" => Item::Real(x.ceil()),
            "Round" => Item::Real(x.round_ties_even()),
            "Sqrt" => Item::Real(x.sqrt()),
            "Neg" => Item::Real(-x),
            "Abs" => Item::Real(x.abs()),
            "Reciprocal" => Item::Real(1.0 / x),
            "Exp" => Item::Real(x.exp()),
            "Log" => Item::Real(x.ln()),
            _ => Item::Unknown,
        },
        _ => Item::Unknown,
    }))
}

/// Returns the content of the output of an elementwise operator with two or more inputs, which are
/// broadcast to each other.
pub(crate) fn binary(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let mut inputs = inputs.iter();
    let mut result = inputs.next()?.clone();
    for other in inputs {
        let dims = broadcast_dims(&result.dims, &other.dims)?;
        let items = (0..followed_count(&dims)?)
            .map(|i| {
                combine(
                    g,
                    node,
                    &result.items[broadcast_source(i, &dims, &result.dims)],
                    &other.items[broadcast_source(i, &dims, &other.dims)],
                )
            })
            .collect();
        result = Content { dims, items };
    }
    Some(result)
}

/// Applies the node's operator to two elements.
fn combine(g: &mut Graph, node: &Node, a: &Item, b: &Item) -> Item {
    match (a, b) {
        (Item::Int(a), Item::Int(b)) => combine_sizes(g, node, a, b),
        (Item::Int(a), Item::Real(b)) if a.as_fixed().is_none() && b.fract() == 0.0 => {
            combine(g, node, &Item::Int(a.clone()), &integer_item(*b))
        }
        (Item::Real(a), Item::Int(b)) if b.as_fixed().is_none() && a.fract() == 0.0 => {
            combine(g, node, &integer_item(*a), &Item::Int(b.clone()))
        }
        _ => match (a.as_real(), b.as_real()) {
            (Some(a), Some(b)) => combine_reals(&node.op, a, b),
            _ => Item::Unknown,
        },
    }
}

/// Applies the node's operator to two integers, which may be symbolic sizes.
fn combine_sizes(g: &mut Graph, node: &Node, a: &Size, b: &Size) -> Item {
    let floats = node.input(0).is_some_and(|v| g.elem(v).is_float());
    let fixed = a.as_fixed().zip(b.as_fixed());
    let truth = |holds: bool| Item::fixed(i64::from(holds));
    let size = match (node.op.as_str(), fixed) {
        ("Add", _) => g.symbols.add(a, b),
        ("Sub", _) => g.symbols.sub(a, b),
        ("Mul", _) => g.symbols.mul(a, b),
        ("Div", _) if floats => return a.over(b).map_or(Item::Unknown, Item::Int),
        ("Div", Some((p, q))) => return p.checked_div(q).map_or(Item::Unknown, Item::fixed),
        ("Div", None) => g.symbols.div(a, b),
        ("Equal", Some((p, q))) => return truth(p == q),
        ("Equal", None) if a == b => return truth(true),
        ("Equal", None) if never_equal(a, b) => return truth(false),
        ("Less", Some((p, q))) => return truth(p < q),
        ("Greater", Some((p, q))) => return truth(p > q),
        ("LessOrEqual", Some((p, q))) => return truth(p <= q),
        ("GreaterOrEqual", Some((p, q))) => return truth(p >= q),
        ("And", Some((p, q))) => return truth(p != 0 && q != 0),
        ("Or", Some((p, q))) => return truth(p != 0 || q != 0),
        ("Max", Some((p, q))) => Size::fixed(p.max(q)),
        ("Min", Some((p, q))) => Size::fixed(p.min(q)),
        ("Max" | "Min", None) if a == b => a.clone(),
        ("Mod", Some((p, q))) if q != 0 => match p.checked_rem_euclid(q) {
            Some(rest) if q > 0 => Size::fixed(rest),
            _ => return Item::Unknown,
        },
        ("Pow", Some((p, q))) => match u32::try_from(q).ok().and_then(|q| p.checked_pow(q)) {
            Some(power) => Size::fixed(power),
            None => return Item::Unknown,
        },
        _ => return Item::Unknown,
    };
    Item::Int(size)
}

/// Returns whether one operand is a size and the other a negative number, such as the -1 of a
/// wildcard. A size is never negative.
fn never_equal(a: &Size, b: &Size) -> bool {
    let negative = |s: &Size| s.as_fixed().is_some_and(|n| n < 0);
    (negative(a) && is_positive(b)) || (negative(b) && is_positive(a))
}

/// Returns whether a size is a sum of terms with positive coefficients.
fn is_positive(size: &Size) -> bool {
    size.terms().all(|(coefficient, _)| coefficient > 0)
}

/// Applies an operator to two floating-point numbers.
fn combine_reals(op: &str, a: f64, b: f64) -> Item {
    let truth = |holds: bool| Item::fixed(i64::from(holds));
    match op {
        "Add" => Item::Real(a + b),
        "Sub" => Item::Real(a - b),
        "Mul" => Item::Real(a * b),
        "Div" => Item::Real(a / b),
        "Max" => Item::Real(a.max(b)),
        "Min" => Item::Real(a.min(b)),
        "Pow" => Item::Real(a.powf(b)),
        "Equal" => truth(a == b),
        "Less" => truth(a < b),
        "Greater" => truth(a > b),
        "LessOrEqual" => truth(a <= b),
        "GreaterOrEqual" => truth(a >= b),
        _ => Item::Unknown,
    }
}

/// Returns the index of the element of an operand that is broadcast to element `i` of a tensor with
/// the sizes `dims`.
pub(crate) fn broadcast_source(i: usize, dims: &[usize], operand: &[usize]) -> usize {
    let (mut rest, mut place, mut stride) = (i, 0, 1);
    for axis in (0..dims.len()).rev() {
        let index = rest % dims[axis].max(1);
        rest /= dims[axis].max(1);
        if let Some(j) = (axis + operand.len()).checked_sub(dims.len()) {
            place += if operand[j] == 1 { 0 } else { index * stride };
            stride *= operand[j];
        }
    }
    place
}

/// Returns the elements at the given `indices` along an axis.
pub(crate) fn take(content: &Content, axis: usize, indices: &[usize]) -> Option<Content> {
    let mut dims = content.dims.clone();
    dims[axis] = indices.len();
    followed_count(&dims)?;
    let inner: usize = content.dims[axis + 1..].iter().product();
    let outer: usize = content.dims[..axis].iter().product();
    let mut items = Vec::new();
    for i in 0..outer {
        for place in indices {
            let start = (i * content.dims[axis] + place) * inner;
            items.extend_from_slice(content.items.get(start..start + inner)?);
        }
    }
    Some(Content { dims, items })
}
