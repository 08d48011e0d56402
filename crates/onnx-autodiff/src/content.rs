//! The elements of small tensors, followed through shape arithmetic.
//!
//! Exporters compute target shapes, slice bounds and scales inside the graph, from `Shape` through `Gather`, `Concat`
//! and a little arithmetic. Following those few numbers, with symbolic sizes among them, tells the shapes of
//! everything else. An element that cannot be followed is [`Item::Unknown`].

use super::elem::ElemType;
use super::ir::{Graph, Node};
use super::proto::TensorProto;
use super::size::Size;

/// Tensors of more elements than this are not followed.
const LIMIT: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// An integer or boolean, perhaps a symbolic size.
    Int(Size),
    Real(f64),
    Unknown,
}

impl Item {
    pub fn fixed(n: i64) -> Item {
        Item::Int(Size::fixed(n))
    }

    pub fn as_fixed(&self) -> Option<i64> {
        match self {
            Item::Int(size) => size.as_fixed(),
            _ => None,
        }
    }

    fn as_real(&self) -> Option<f64> {
        match self {
            Item::Int(size) => size.as_fixed().map(|n| n as f64),
            Item::Real(x) => Some(*x),
            Item::Unknown => None,
        }
    }
}

/// A small tensor, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    pub dims: Vec<usize>,
    pub items: Vec<Item>,
}

impl Content {
    pub fn scalar(item: Item) -> Content {
        Content { dims: Vec::new(), items: vec![item] }
    }

    pub fn list(items: Vec<Item>) -> Content {
        Content { dims: vec![items.len()], items }
    }

    pub fn of_tensor(tensor: &TensorProto) -> Option<Content> {
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let dims = dims?;
        let count = count(&dims)?;
        let items = elements(tensor, count)?;
        (items.len() == count).then_some(Content { dims, items })
    }

    pub fn fixed(&self) -> Option<Vec<i64>> {
        self.items.iter().map(Item::as_fixed).collect()
    }

    pub fn reals(&self) -> Option<Vec<f64>> {
        self.items.iter().map(Item::as_real).collect()
    }
}

/// The number of elements, where it is small enough to follow.
fn count(dims: &[usize]) -> Option<usize> {
    let span = dims.iter().try_fold(1usize, |n, d| n.checked_mul((*d).max(1)))?;
    (span <= LIMIT).then(|| dims.iter().product())
}

/// The elements of a tensor of any size that holds real numbers.
pub fn reals(tensor: &TensorProto) -> Option<Vec<f64>> {
    let count = tensor.dims.iter().try_fold(1usize, |n, d| n.checked_mul(usize::try_from(*d).ok()?))?;
    let items = elements(tensor, count)?;
    (items.len() == count).then(|| items.iter().map(Item::as_real).collect())?
}

fn elements(tensor: &TensorProto, count: usize) -> Option<Vec<Item>> {
    let elem = ElemType(tensor.data_type());
    if let Some(raw) = &tensor.raw_data {
        let width = elem.bits()? as usize / 8;
        if width == 0 || Some(raw.len()) != count.checked_mul(width) {
            return None;
        }
        return raw.chunks_exact(width).map(|bytes| raw_element(elem, bytes)).collect();
    }
    Some(match elem {
        ElemType::INT64 => tensor.int64_data.iter().map(|n| Item::fixed(*n)).collect(),
        ElemType::FLOAT => tensor.float_data.iter().map(|x| Item::Real(f64::from(*x))).collect(),
        ElemType::DOUBLE => tensor.double_data.iter().map(|x| Item::Real(*x)).collect(),
        ElemType::INT32 | ElemType::BOOL => tensor.int32_data.iter().map(|n| Item::fixed(i64::from(*n))).collect(),
        ElemType::FLOAT16 => tensor.int32_data.iter().map(|n| Item::Real(half(*n as u16))).collect(),
        ElemType::BFLOAT16 => tensor.int32_data.iter().map(|n| Item::Real(brain(*n as u16))).collect(),
        _ => return None,
    })
}

fn raw_element(elem: ElemType, bytes: &[u8]) -> Option<Item> {
    Some(match elem {
        ElemType::INT64 => Item::fixed(i64::from_le_bytes(bytes.try_into().ok()?)),
        ElemType::INT32 => Item::fixed(i64::from(i32::from_le_bytes(bytes.try_into().ok()?))),
        ElemType::BOOL => Item::fixed(i64::from(bytes[0] != 0)),
        ElemType::FLOAT => Item::Real(f64::from(f32::from_le_bytes(bytes.try_into().ok()?))),
        ElemType::DOUBLE => Item::Real(f64::from_le_bytes(bytes.try_into().ok()?)),
        ElemType::FLOAT16 => Item::Real(half(u16::from_le_bytes(bytes.try_into().ok()?))),
        ElemType::BFLOAT16 => Item::Real(brain(u16::from_le_bytes(bytes.try_into().ok()?))),
        _ => return None,
    })
}

/// A float16 by its bits.
pub fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

/// A bfloat16 by its bits.
pub fn brain(bits: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(bits) << 16))
}

/// What the outputs of a node hold, as far as its inputs tell; called before the outputs exist.
pub fn fold(g: &mut Graph, node: &Node) -> Vec<Option<Content>> {
    if node.standard() == "Split" {
        return split(g, node).unwrap_or_default();
    }
    vec![fold_one(g, node)]
}

fn fold_one(g: &mut Graph, node: &Node) -> Option<Content> {
    let op = node.standard();
    match op {
        "Shape" => return shape(g, node),
        "Size" => return size(g, node),
        "Constant" => return constant(node),
        _ => {}
    }
    let inputs: Option<Vec<Content>> =
        node.inputs.iter().flatten().map(|v| g.content(*v).filter(|c| c.items.len() <= LIMIT).cloned()).collect();
    let inputs = inputs.filter(|inputs| !inputs.is_empty())?;
    let first = &inputs[0];
    match op {
        "Identity" => Some(first.clone()),
        "Cast" => Some(cast(first, ElemType(node.int("to", 0) as i32))),
        "Floor" | "Ceil" | "Round" | "Sqrt" | "Neg" | "Abs" | "Not" | "Reciprocal" | "Exp" | "Log" => {
            Some(unary(op, first))
        }
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual"
        | "And" | "Or" | "Max" | "Min" | "Pow" => binary(g, node, &inputs),
        "Where" => select(&inputs),
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => reshape(g, node, first),
        "Concat" => concat(node, &inputs),
        "Gather" => gather(node, first, inputs.get(1)?),
        "Slice" => slice(&inputs),
        "Transpose" => transpose(node, first),
        "Expand" | "Tile" | "ConstantOfShape" => spread(op, node, &inputs),
        "Range" => range(&inputs),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => reduce(g, op, node, first),
        _ => None,
    }
}

fn shape(g: &Graph, node: &Node) -> Option<Content> {
    let shape = g.shape(node.input(0)?)?;
    let rank = shape.len() as i64;
    let clamp = |n: i64| (if n < 0 { n.saturating_add(rank) } else { n }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int("start", 0)), clamp(node.int("end", rank)));
    let part = shape.get(start..end.max(start))?;
    Some(Content::list(part.iter().cloned().map(Item::Int).collect()))
}

fn size(g: &mut Graph, node: &Node) -> Option<Content> {
    let shape = g.shape(node.input(0)?)?.clone();
    let product = shape.iter().try_fold(Size::fixed(1), |n, d| n.times(d))?;
    Some(Content::scalar(Item::Int(product)))
}

fn constant(node: &Node) -> Option<Content> {
    let attribute = node.attributes.first()?;
    match attribute.name() {
        "value" => Content::of_tensor(attribute.t.as_ref()?),
        "value_int" => Some(Content::scalar(Item::fixed(attribute.i?))),
        "value_ints" => Some(Content::list(attribute.ints.iter().map(|n| Item::fixed(*n)).collect())),
        "value_float" => Some(Content::scalar(Item::Real(f64::from(attribute.f?)))),
        "value_floats" => Some(Content::list(attribute.floats.iter().map(|x| Item::Real(f64::from(*x))).collect())),
        _ => None,
    }
}

fn map(content: &Content, f: impl Fn(&Item) -> Item) -> Content {
    Content { dims: content.dims.clone(), items: content.items.iter().map(f).collect() }
}

fn cast(content: &Content, to: ElemType) -> Content {
    map(content, |item| match item {
        Item::Int(size) if to.is_float() => size.as_fixed().map_or_else(|| item.clone(), |n| Item::Real(n as f64)),
        Item::Int(size) if to == ElemType::BOOL => {
            size.as_fixed().map_or(Item::Unknown, |n| Item::fixed(i64::from(n != 0)))
        }
        Item::Real(x) if to.is_integer() => whole(x.trunc()),
        Item::Real(x) if to == ElemType::BOOL => Item::fixed(i64::from(*x != 0.0)),
        _ => item.clone(),
    })
}

fn whole(x: f64) -> Item {
    if x.abs() < 9e15 { Item::fixed(x as i64) } else { Item::Unknown }
}

fn unary(op: &str, content: &Content) -> Content {
    map(content, |item| match (op, item) {
        ("Floor" | "Ceil" | "Round", Item::Int(_)) => item.clone(),
        ("Neg", Item::Int(size)) => size.times(&Size::fixed(-1)).map_or(Item::Unknown, Item::Int),
        ("Not", Item::Int(size)) => size.as_fixed().map_or(Item::Unknown, |n| Item::fixed(i64::from(n == 0))),
        ("Abs", Item::Int(size)) => size.as_fixed().map_or(Item::Unknown, |n| Item::fixed(n.saturating_abs())),
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
    })
}

fn binary(g: &mut Graph, node: &Node, inputs: &[Content]) -> Option<Content> {
    let mut inputs = inputs.iter();
    let mut result = inputs.next()?.clone();
    for other in inputs {
        let dims = broadcast(&result.dims, &other.dims)?;
        let items = (0..count(&dims)?)
            .map(|i| {
                combine(
                    g,
                    node,
                    &result.items[source(i, &dims, &result.dims)],
                    &other.items[source(i, &dims, &other.dims)],
                )
            })
            .collect();
        result = Content { dims, items };
    }
    Some(result)
}

fn combine(g: &mut Graph, node: &Node, a: &Item, b: &Item) -> Item {
    match (a, b) {
        (Item::Int(a), Item::Int(b)) => combine_sizes(g, node, a, b),
        (Item::Int(a), Item::Real(b)) if a.as_fixed().is_none() && b.fract() == 0.0 => {
            combine(g, node, &Item::Int(a.clone()), &whole(*b))
        }
        (Item::Real(a), Item::Int(b)) if b.as_fixed().is_none() && a.fract() == 0.0 => {
            combine(g, node, &whole(*a), &Item::Int(b.clone()))
        }
        _ => match (a.as_real(), b.as_real()) {
            (Some(a), Some(b)) => combine_reals(&node.op, a, b),
            _ => Item::Unknown,
        },
    }
}

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

/// Whether a size, which is never negative, is compared with a negative number such as the -1 of a wildcard.
fn never_equal(a: &Size, b: &Size) -> bool {
    let negative = |s: &Size| s.as_fixed().is_some_and(|n| n < 0);
    (negative(a) && positive(b)) || (negative(b) && positive(a))
}

fn positive(size: &Size) -> bool {
    size.terms().all(|(coefficient, _)| coefficient > 0)
}

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

fn select(inputs: &[Content]) -> Option<Content> {
    let [condition, yes, no] = inputs else {
        return None;
    };
    let dims = broadcast(&broadcast(&condition.dims, &yes.dims)?, &no.dims)?;
    let pick = |i: usize| match condition.items[source(i, &dims, &condition.dims)].as_fixed() {
        Some(0) => no.items[source(i, &dims, &no.dims)].clone(),
        Some(_) => yes.items[source(i, &dims, &yes.dims)].clone(),
        None => Item::Unknown,
    };
    Some(Content { items: (0..count(&dims)?).map(pick).collect(), dims })
}

/// Numpy's rule for the shapes of two operands.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |j| dims[j]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (p, q) if p == q => Some(p),
            (1, q) => Some(q),
            (p, 1) => Some(p),
            _ => None,
        })
        .collect()
}

/// Where element `i` of a tensor of `dims` comes from in an operand that is broadcast to it.
fn source(i: usize, dims: &[usize], operand: &[usize]) -> usize {
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

/// Same elements, other axes; the target comes from shape inference.
fn reshape(g: &mut Graph, node: &Node, content: &Content) -> Option<Content> {
    let (_, shape) = super::shapes::infer(g, node, 1).into_iter().next()?;
    let dims: Option<Vec<usize>> = shape?.iter().map(|d| usize::try_from(d.as_fixed()?).ok()).collect();
    let dims = dims?;
    (count(&dims)? == content.items.len()).then(|| Content { dims, items: content.items.clone() })
}

fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

fn concat(node: &Node, inputs: &[Content]) -> Option<Content> {
    let rank = inputs[0].dims.len();
    let axis = axis_of(node.int("axis", 0), rank)?;
    if inputs.iter().any(|c| c.dims.len() != rank) {
        return None;
    }
    let mut dims = inputs[0].dims.clone();
    dims[axis] = inputs.iter().try_fold(0usize, |n, c| n.checked_add(c.dims[axis]))?;
    count(&dims)?;
    let outer: usize = dims[..axis].iter().product();
    let mut items = Vec::new();
    for i in 0..outer {
        for c in inputs {
            let run = c.items.len() / outer.max(1);
            items.extend_from_slice(c.items.get(i * run..(i + 1) * run)?);
        }
    }
    (items.len() == dims.iter().product::<usize>()).then_some(Content { dims, items })
}

/// Takes the given places along an axis.
fn take(content: &Content, axis: usize, places: &[usize]) -> Option<Content> {
    let mut dims = content.dims.clone();
    dims[axis] = places.len();
    count(&dims)?;
    let inner: usize = content.dims[axis + 1..].iter().product();
    let outer: usize = content.dims[..axis].iter().product();
    let mut items = Vec::new();
    for i in 0..outer {
        for place in places {
            let start = (i * content.dims[axis] + place) * inner;
            items.extend_from_slice(content.items.get(start..start + inner)?);
        }
    }
    Some(Content { dims, items })
}

fn gather(node: &Node, data: &Content, indices: &Content) -> Option<Content> {
    let axis = axis_of(node.int("axis", 0), data.dims.len())?;
    let places: Option<Vec<usize>> = indices.fixed()?.iter().map(|i| axis_of(*i, data.dims[axis])).collect();
    let mut taken = take(data, axis, &places?)?;
    taken.dims.splice(axis..=axis, indices.dims.iter().copied());
    Some(taken)
}

fn slice(inputs: &[Content]) -> Option<Content> {
    let mut content = inputs.first()?.clone();
    let (starts, ends) = (inputs.get(1)?.fixed()?, inputs.get(2)?.fixed()?);
    let axes = match inputs.get(3) {
        Some(axes) => axes.fixed()?,
        None => (0..starts.len() as i64).collect(),
    };
    let steps = inputs.get(4).map_or_else(|| Some(vec![1; starts.len()]), Content::fixed)?;
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, content.dims.len())?;
        let places = slice_places(content.dims[axis], *starts.get(i)?, *ends.get(i)?, *steps.get(i)?)?;
        content = take(&content, axis, &places)?;
    }
    Some(content)
}

fn slice_places(length: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    let n = length as i64;
    let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let mut places = Vec::new();
    if step > 0 {
        let (mut i, end) = (wrap(start).clamp(0, n), wrap(end).clamp(0, n));
        while i < end {
            places.push(i as usize);
            i = i.saturating_add(step);
        }
    } else if step < 0 {
        let (mut i, end) = (wrap(start).clamp(-1, n - 1), wrap(end).clamp(-1, n - 1));
        while i > end {
            places.push(i as usize);
            i = i.saturating_add(step);
        }
    } else {
        return None;
    }
    Some(places)
}

fn transpose(node: &Node, content: &Content) -> Option<Content> {
    let rank = content.dims.len();
    let perm = node.ints("perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
    let perm: Option<Vec<usize>> = perm.iter().map(|p| axis_of(*p, rank)).collect();
    let perm = perm.filter(|perm| perm.len() == rank)?;
    let dims: Vec<usize> = perm.iter().map(|p| content.dims[*p]).collect();
    let strides: Vec<usize> = (0..rank).map(|axis| content.dims[axis + 1..].iter().product()).collect();
    let mut items = Vec::new();
    for i in 0..count(&dims)? {
        let (mut rest, mut place) = (i, 0);
        for axis in (0..rank).rev() {
            place += rest % dims[axis].max(1) * strides[perm[axis]];
            rest /= dims[axis].max(1);
        }
        items.push(content.items.get(place)?.clone());
    }
    Some(Content { dims, items })
}

fn spread(op: &str, node: &Node, inputs: &[Content]) -> Option<Content> {
    let sizes = |c: &Content| c.fixed()?.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<usize>>>();
    match op {
        "ConstantOfShape" => {
            let dims = sizes(&inputs[0])?;
            let value = node.attribute("value").and_then(|a| a.t.as_ref());
            let item = value.map_or(Some(Item::Real(0.0)), |t| Content::of_tensor(t)?.items.first().cloned())?;
            Some(Content { items: vec![item; count(&dims)?], dims })
        }
        "Expand" => {
            let dims = broadcast(&inputs[0].dims, &sizes(inputs.get(1)?)?)?;
            let item = |i| inputs[0].items[source(i, &dims, &inputs[0].dims)].clone();
            Some(Content { items: (0..count(&dims)?).map(item).collect(), dims })
        }
        _ => {
            let repeats = sizes(inputs.get(1)?)?;
            let mut content = inputs[0].clone();
            for (axis, repeat) in repeats.iter().enumerate().filter(|(axis, _)| *axis < inputs[0].dims.len()) {
                let length = content.dims[axis];
                count(&[length, *repeat])?;
                let places: Vec<usize> = (0..length * repeat).map(|i| i % length).collect();
                content = take(&content, axis, &places)?;
            }
            Some(content)
        }
    }
}

fn range(inputs: &[Content]) -> Option<Content> {
    let [start, limit, delta] = inputs else {
        return None;
    };
    let one = |c: &Content| c.items.first()?.as_fixed();
    let (start, limit, delta) = (one(start)?, one(limit)?, one(delta)?);
    let span = limit.checked_sub(start)?;
    let steps = span.checked_div(delta)?.checked_add(i64::from(span.checked_rem(delta)? != 0))?;
    let steps = count(&[usize::try_from(steps.max(0)).ok()?])?;
    Some(Content::list((0..steps as i64).map(|i| Item::fixed(start + i * delta)).collect()))
}

/// Reduction of a whole list to one number.
fn reduce(g: &mut Graph, op: &str, node: &Node, content: &Content) -> Option<Content> {
    if content.dims.len() > 1 || content.items.is_empty() {
        return None;
    }
    let mut total = content.items[0].clone();
    for item in &content.items[1..] {
        total = match (op, &total, item) {
            ("ReduceProd", Item::Int(a), Item::Int(b)) => Item::Int(g.symbols.mul(a, b)),
            ("ReduceSum", Item::Int(a), Item::Int(b)) => Item::Int(g.symbols.add(a, b)),
            ("ReduceMax", ..) => {
                total.as_fixed().zip(item.as_fixed()).map_or(Item::Unknown, |(a, b)| Item::fixed(a.max(b)))
            }
            ("ReduceMin", ..) => {
                total.as_fixed().zip(item.as_fixed()).map_or(Item::Unknown, |(a, b)| Item::fixed(a.min(b)))
            }
            _ => Item::Unknown,
        };
    }
    let dims = if node.int("keepdims", 1) != 0 { vec![1; content.dims.len()] } else { Vec::new() };
    Some(Content { dims, items: vec![total] })
}

fn split(g: &Graph, node: &Node) -> Option<Vec<Option<Content>>> {
    let content = node.input(0).and_then(|v| g.content(v))?;
    let axis = axis_of(node.int("axis", 0), content.dims.len())?;
    let parts = node.outputs.len().max(1);
    let lengths: Vec<usize> = match node.input(1) {
        Some(v) => g.content(v)?.fixed()?.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<_>>()?,
        None => vec![content.dims[axis].div_ceil(parts); parts],
    };
    let mut start = 0usize;
    let mut outputs = Vec::new();
    for length in lengths {
        let end = start.checked_add(length)?.min(content.dims[axis]);
        outputs.push(take(content, axis, &(start..end).collect::<Vec<_>>()));
        start = end;
    }
    Some(outputs)
}
