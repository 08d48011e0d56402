//! Element types and shapes of every node's outputs, as far as the inputs tell.
//!
//! Nothing here can fail: what cannot be told is `None` for a whole shape, or a fresh symbol for one axis.

use super::content::{Content, Item};
use super::elem::ElemType;
use super::ir::{Graph, Node, Shape, Val, tensor_type};
use super::proto::TensorProto;
use super::size::Size;

pub type Inferred = (ElemType, Option<Shape>);

/// No network has tensors of more axes; a hostile file must not make them grow without bound.
const RANK_LIMIT: usize = 32;

const UNKNOWN: Inferred = (ElemType::UNKNOWN, None);

/// The outputs of a node whose inputs are known values of the graph.
pub fn infer(g: &mut Graph, node: &Node, outputs: usize) -> Vec<Inferred> {
    let mut inferred =
        if node.domain.is_empty() { infer_standard(g, node, outputs).unwrap_or_default() } else { Vec::new() };
    inferred.resize(outputs.max(inferred.len()), UNKNOWN);
    for (_, shape) in &mut inferred {
        *shape = shape.take().filter(|shape| shape.len() <= RANK_LIMIT);
    }
    inferred
}

fn infer_standard(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    if let Some(many) = infer_many(g, node, outputs) {
        return Some(many);
    }
    let elem = elem_of(g, node);
    Some(vec![(elem, shape_of(g, node))])
}

fn elem_of(g: &Graph, node: &Node) -> ElemType {
    let input = |place| node.input(place).map_or(ElemType::UNKNOWN, |v| g.elem(v));
    match node.op.as_str() {
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => ElemType::INT64,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Not" | "IsNaN"
        | "IsInf" => ElemType::BOOL,
        "Cast" => ElemType(node.int("to", 0) as i32),
        "CastLike" | "Where" => input(1),
        "OneHot" => input(2),
        "Constant" => constant_type(node),
        "ConstantOfShape" => match node.attribute("value").and_then(|a| a.t.as_ref()) {
            Some(tensor) => ElemType(tensor.data_type()),
            None => ElemType::FLOAT,
        },
        "RandomNormal" | "RandomUniform" => ElemType(node.int("dtype", 1) as i32),
        "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" | "EyeLike" => match node.int("dtype", 0) {
            0 => input(0),
            n => ElemType(n as i32),
        },
        "Attention" => input(0),
        _ => input(0),
    }
}

fn constant_type(node: &Node) -> ElemType {
    let Some(attribute) = node.attributes.first() else {
        return ElemType::UNKNOWN;
    };
    match attribute.name() {
        "value" => attribute.t.as_ref().map_or(ElemType::UNKNOWN, |t| ElemType(t.data_type())),
        "value_int" | "value_ints" => ElemType::INT64,
        "value_float" | "value_floats" => ElemType::FLOAT,
        "value_string" | "value_strings" => ElemType::STRING,
        _ => ElemType::UNKNOWN,
    }
}

fn constant_shape(node: &Node) -> Option<Shape> {
    let attribute = node.attributes.first()?;
    let list = |n: usize| Some(vec![Size::fixed(n as i64)]);
    match attribute.name() {
        "value" => Some(tensor_shape(attribute.t.as_ref()?)),
        "value_int" | "value_float" | "value_string" => Some(Vec::new()),
        "value_ints" => list(attribute.ints.len()),
        "value_floats" => list(attribute.floats.len()),
        "value_strings" => list(attribute.strings.len()),
        _ => None,
    }
}

fn tensor_shape(tensor: &TensorProto) -> Shape {
    tensor.dims.iter().map(|d| Size::fixed(*d)).collect()
}

/// The first output's shape, for operators with one kind of output.
fn shape_of(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = node.input(0);
    match node.op.as_str() {
        "Constant" => constant_shape(node),
        "Shape" => {
            let content = super::content::fold(g, node).into_iter().next().flatten()?;
            Some(vec![Size::fixed(content.items.len() as i64)])
        }
        "Size" => Some(Vec::new()),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Sum" | "Mean" | "Equal" | "Less"
        | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Where" | "BitwiseAnd"
        | "BitwiseOr" | "BitwiseXor" => broadcast_all(g, node),
        "PRelu" => g.shape(x?).cloned(),
        "MatMul" => {
            let (a, b) = (g.shape(x?)?.clone(), g.shape(node.input(1)?)?.clone());
            matmul(g, a, b)
        }
        "Gemm" => gemm(g, node),
        "Transpose" => transpose(g, node),
        "Reshape" => reshape(g, node),
        "Flatten" => flatten(g, node),
        "Squeeze" => squeeze(g, node),
        "Unsqueeze" => unsqueeze(g, node),
        "Concat" => concat(g, node),
        "Slice" => slice(g, node),
        "Gather" => gather(g, node),
        "GatherElements" => g.shape(node.input(1)?).cloned(),
        "GatherND" => gather_nd(g, node),
        "Expand" => expand(g, node),
        "ConstantOfShape" => sizes(g, x?),
        "Tile" => tile(g, node),
        "Pad" => pad(g, node),
        "Range" => range(g, node),
        "OneHot" => one_hot(g, node),
        "Conv" => conv(g, node),
        "ConvTranspose" => conv_transpose(g, node),
        "AveragePool" | "LpPool" => pool(g, node),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
            let shape = g.shape(x?)?;
            Some(shape.iter().enumerate().map(|(i, d)| if i < 2 { d.clone() } else { Size::fixed(1) }).collect())
        }
        "DepthToSpace" | "SpaceToDepth" => depth_to_space(g, node),
        "Resize" | "Upsample" => resize(g, node),
        "Einsum" => einsum(g, node),
        "ArgMax" | "ArgMin" => {
            let rank = g.rank(x?)?;
            let axis = axis_of(node.int("axis", 0), rank)?;
            reduced(g.shape(x?)?, &[axis], node.int("keepdims", 1) != 0)
        }
        "NonZero" => {
            let rank = g.rank(x?)?;
            Some(vec![Size::fixed(rank as i64), g.symbols.fresh()])
        }
        "DFT" => dft(g, node),
        "Compress" | "Unique" | "NonMaxSuppression" | "Loop" | "Scan" | "If" | "LSTM" | "GRU" | "RNN"
        | "GridSample" => None,
        "RandomNormal" | "RandomUniform" => Some(node.ints("shape")?.iter().map(|n| Size::fixed(*n)).collect()),
        op if op.starts_with("Reduce") => reduce(g, node),
        op if KEEPS_SHAPE.contains(&op) => g.shape(x?).cloned(),
        _ => None,
    }
}

/// Operators whose output has the shape of their first input.
const KEEPS_SHAPE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "Bernoulli",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "Elu",
    "Erf",
    "Exp",
    "EyeLike",
    "Floor",
    "Gelu",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "RMSNormalization",
    "RandomNormalLike",
    "RandomUniformLike",
    "Reciprocal",
    "Relu",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Trilu",
];

/// Operators with several outputs.
fn infer_many(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let elem = g.elem(x);
    match node.op.as_str() {
        "Split" => split(g, node, outputs),
        "LayerNormalization" => {
            let shape = g.shape(x)?.clone();
            let axis = axis_of(node.int("axis", -1), shape.len())?;
            let statistics: Shape =
                shape.iter().enumerate().map(|(i, d)| if i < axis { d.clone() } else { Size::fixed(1) }).collect();
            let stash = ElemType(node.int("stash_type", 1) as i32);
            let stash = if elem == ElemType::DOUBLE { elem } else { stash };
            Some(vec![(elem, Some(shape)), (stash, Some(statistics.clone())), (stash, Some(statistics))])
        }
        "MaxPool" => {
            let shape = pool(g, node);
            Some(vec![(elem, shape.clone()), (ElemType::INT64, shape)])
        }
        "TopK" => {
            let mut shape = g.shape(x)?.clone();
            let axis = axis_of(node.int("axis", -1), shape.len())?;
            let k = node.input(1).and_then(|k| g.content(k)).and_then(|c| c.items.first().cloned());
            shape[axis] = match k {
                Some(Item::Int(size)) => size,
                _ => g.symbols.fresh(),
            };
            Some(vec![(elem, Some(shape.clone())), (ElemType::INT64, Some(shape))])
        }
        "Dropout" => {
            let shape = g.shape(x).cloned();
            Some(vec![(elem, shape.clone()), (ElemType::BOOL, shape)])
        }
        "BatchNormalization" => Some(vec![(elem, g.shape(x).cloned())]),
        "If" => branch_types(g, node, outputs),
        _ => None,
    }
}

/// Both branches' declared outputs, where they agree.
fn branch_types(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let branch = |name: &str| node.attribute(name)?.g.clone();
    let (yes, no) = (branch("then_branch")?, branch("else_branch")?);
    let mut inferred = Vec::new();
    for i in 0..outputs {
        let (a, b) = (tensor_type(yes.output.get(i)?), tensor_type(no.output.get(i)?));
        let (Some(a), Some(b)) = (a, b) else {
            return None;
        };
        let (p, q) = (g.declared_shape(a), g.declared_shape(b));
        inferred.push((ElemType(a.elem_type()), p.filter(|p| Some(p) == q.as_ref())));
    }
    Some(inferred)
}

pub fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|axis| *axis < rank)
}

fn sizes(g: &mut Graph, v: Val) -> Option<Shape> {
    if let Some(content) = g.content(v) {
        let items = content.items.clone();
        return Some(items.into_iter().map(|item| size_of(g, item)).collect());
    }
    let length = g.shape(v)?.first()?.as_fixed()?;
    (0..=64).contains(&length).then(|| (0..length).map(|_| g.symbols.fresh()).collect())
}

fn size_of(g: &mut Graph, item: Item) -> Size {
    match item {
        Item::Int(size) => size,
        _ => g.symbols.fresh(),
    }
}

/// Numpy's rule, for one axis.
fn broadcast_size(g: &mut Graph, a: &Size, b: &Size) -> Size {
    match (a.as_fixed(), b.as_fixed()) {
        _ if a == b => a.clone(),
        (Some(1), _) => b.clone(),
        (_, Some(1)) => a.clone(),
        (Some(_), _) => a.clone(),
        (_, Some(_)) => b.clone(),
        _ => {
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            g.symbols.expression(format!("{low:?} or {high:?}"))
        }
    }
}

pub fn broadcast(g: &mut Graph, a: &[Size], b: &[Size]) -> Shape {
    let rank = a.len().max(b.len());
    let one = Size::fixed(1);
    let at = |shape: &[Size], i: usize| (i + shape.len()).checked_sub(rank).map_or(one.clone(), |j| shape[j].clone());
    (0..rank).map(|i| broadcast_size(g, &at(a, i), &at(b, i))).collect()
}

fn broadcast_all(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = Vec::new();
    for v in node.inputs.iter().flatten() {
        let operand = g.shape(*v)?.clone();
        shape = broadcast(g, &shape, &operand);
    }
    Some(shape)
}

fn matmul(g: &mut Graph, mut a: Shape, mut b: Shape) -> Option<Shape> {
    let (row, column) = (a.len() == 1, b.len() == 1);
    if row {
        a.insert(0, Size::fixed(1));
    }
    if column {
        b.push(Size::fixed(1));
    }
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let mut shape = broadcast(g, &a[..a.len() - 2], &b[..b.len() - 2]);
    if !row {
        shape.push(a[a.len() - 2].clone());
    }
    if !column {
        shape.push(b[b.len() - 1].clone());
    }
    Some(shape)
}

fn gemm(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (a, b) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let rows = a.get(usize::from(node.int("transA", 0) != 0))?;
    let columns = b.get(usize::from(node.int("transB", 0) == 0))?;
    Some(vec![rows.clone(), columns.clone()])
}

fn transpose(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?;
    match node.ints("perm") {
        None => Some(shape.iter().rev().cloned().collect()),
        Some(perm) if perm.len() != shape.len() => None,
        Some(perm) => perm.iter().map(|p| shape.get(usize::try_from(*p).ok()?).cloned()).collect(),
    }
}

fn product(g: &mut Graph, sizes: &[Size]) -> Size {
    let mut product = Size::fixed(1);
    for size in sizes {
        product = g.symbols.mul(&product, size);
    }
    product
}

fn reshape(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, target) = (node.input(0)?, node.input(1)?);
    let Some(items) = g.content(target).map(|c| c.items.clone()) else {
        return sizes(g, target);
    };
    let from = g.shape(x).cloned();
    let copies = node.int("allowzero", 0) == 0;
    let mut shape = Vec::new();
    let mut wildcard = None;
    for (i, item) in items.iter().enumerate() {
        shape.push(match (item.as_fixed(), &from) {
            (Some(0), Some(from)) if copies => from.get(i).cloned()?,
            (Some(-1), _) => {
                wildcard = Some(i);
                Size::fixed(1)
            }
            _ => size_of(g, item.clone()),
        });
    }
    if let Some(i) = wildcard {
        let part = product(g, &shape);
        let whole = from.map(|from| product(g, &from));
        shape[i] = match whole {
            Some(whole) => g.symbols.div(&whole, &part),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

fn flatten(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let axis = node.int("axis", 1);
    let axis = if axis == shape.len() as i64 { shape.len() } else { axis_of(axis, shape.len())? };
    Some(vec![product(g, &shape[..axis]), product(g, &shape[axis..])])
}

/// Axes given as the second input or, in old opsets, as an attribute.
pub fn axes(g: &Graph, node: &Node, rank: usize) -> Option<Option<Vec<usize>>> {
    let list = match node.input(1) {
        Some(v) => Some(g.content(v)?.fixed()?),
        None => node.ints("axes"),
    };
    let Some(list) = list else { return Some(None) };
    let mut axes: Vec<usize> = list.iter().map(|axis| axis_of(*axis, rank)).collect::<Option<_>>()?;
    axes.sort_unstable();
    axes.dedup();
    Some(Some(axes))
}

fn squeeze(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    match axes(g, node, shape.len())? {
        Some(axes) => reduced(&shape, &axes, false),
        // Without axes the rank depends on which sizes are 1.
        None if shape.iter().all(|d| d.as_fixed().is_some()) => Some(shape.into_iter().filter(|d| !d.is(1)).collect()),
        None => None,
    }
}

fn unsqueeze(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let added = match node.input(1) {
        Some(v) => g.content(v)?.items.len(),
        None => node.ints("axes")?.len(),
    };
    let rank = shape.len().checked_add(added)?;
    let axes = axes(g, node, rank)??;
    let mut rest = shape.into_iter();
    (0..rank).map(|i| if axes.contains(&i) { Some(Size::fixed(1)) } else { rest.next() }).collect()
}

fn concat(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    for v in node.inputs.iter().skip(1) {
        let next = g.shape((*v)?)?.clone();
        if next.len() != shape.len() {
            return None;
        }
        shape[axis] = g.symbols.add(&shape[axis], &next[axis]);
        for i in (0..shape.len()).filter(|i| *i != axis) {
            if shape[i].as_fixed().is_none() && next[i].as_fixed().is_some() {
                shape[i] = next[i].clone();
            }
        }
    }
    Some(shape)
}

fn split(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let (elem, shape) = (g.elem(x), g.shape(x)?.clone());
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    let parts: Vec<Size> = match node.input(1) {
        Some(v) => sizes(g, v)?,
        None => {
            let n = outputs as i64;
            let part = match shape[axis].as_fixed() {
                Some(length) => Size::fixed(length.checked_add(n - 1)?.checked_div(n)?),
                None => g.symbols.div(&shape[axis], &Size::fixed(n)),
            };
            let last = match part.times(&Size::fixed(n - 1)) {
                Some(rest) => g.symbols.sub(&shape[axis], &rest),
                None => g.symbols.fresh(),
            };
            let mut parts = vec![part; outputs.saturating_sub(1)];
            parts.push(last);
            parts
        }
    };
    let with = |part: Size| {
        let mut shape = shape.clone();
        shape[axis] = part;
        (elem, Some(shape))
    };
    Some(parts.into_iter().map(with).collect())
}

fn slice(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let content = |g: &Graph, place: usize| node.input(place).and_then(|v| g.content(v).cloned());
    let starts = content(g, 1);
    let ends = content(g, 2);
    let steps = content(g, 4);
    let axes: Option<Vec<i64>> = match node.input(3) {
        Some(v) => g.content(v).and_then(Content::fixed),
        None => {
            let length = g.shape(node.input(1)?)?.first()?.as_fixed()?;
            (0..=shape.len() as i64).contains(&length).then(|| (0..length).collect())
        }
    };
    let Some(axes) = axes else {
        // Which axes are cut is not known.
        return Some(shape.iter().map(|_| g.symbols.fresh()).collect());
    };
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis_of(*axis, shape.len())?;
        let bound = |c: &Option<Content>| c.as_ref().and_then(|c| c.items.get(i).cloned()).unwrap_or(Item::Unknown);
        let step = if node.input(4).is_some() { bound(&steps).as_fixed() } else { Some(1) };
        shape[axis] = slice_size(g, &shape[axis].clone(), bound(&starts), bound(&ends), step);
    }
    Some(shape)
}

fn slice_size(g: &mut Graph, length: &Size, start: Item, end: Item, step: Option<i64>) -> Size {
    let (Item::Int(start), Item::Int(end), Some(step)) = (start, end, step) else {
        return g.symbols.fresh();
    };
    if let (Some(n), Some(s), Some(e)) = (length.as_fixed(), start.as_fixed(), end.as_fixed()) {
        return fixed_slice(n, s, e, step).map_or_else(|| g.symbols.fresh(), Size::fixed);
    }
    let far = end.as_fixed().is_some_and(|e| e >= i64::from(i32::MAX));
    let reversed = start.is(-1) && end.as_fixed().is_some_and(|e| e <= -i64::from(i32::MAX)) && step == -1;
    if start.is(0) && step == 1 && (far || end == *length) || reversed {
        return length.clone();
    }
    // A non-negative start and a run to the end, or to a symbolic place: the plain difference.
    let negative = |s: &Size| s.as_fixed().is_some_and(|n| n < 0);
    let from = if negative(&start) { g.symbols.add(length, &start) } else { start.clone() };
    let to = if far {
        length.clone()
    } else if negative(&end) {
        g.symbols.add(length, &end)
    } else {
        end
    };
    let surely = step == 1 && (to == *length || to.as_fixed().is_none() && from.is(0) && to.as_symbol().is_some());
    let ends_inside = step == 1 && length.minus(&to).is_some_and(|rest| rest.as_fixed().is_some_and(|n| n >= 0));
    if surely || ends_inside {
        g.symbols.sub(&to, &from)
    } else {
        g.symbols.expression(format!("{length:?}[{from:?}:{to:?}:{step}]"))
    }
}

fn fixed_slice(n: i64, start: i64, end: i64, step: i64) -> Option<i64> {
    let wrap = |i: i64| if i < 0 { i.saturating_add(n) } else { i };
    let (low, high) = if step > 0 { (0, n) } else { (-1, n.checked_sub(1)?) };
    let (start, end) = (wrap(start).max(low).min(high), wrap(end).max(low).min(high));
    let span = if step > 0 { end.checked_sub(start)? } else { start.checked_sub(end)? };
    let step = step.checked_abs().filter(|s| *s > 0)?;
    Some(if span <= 0 { 0 } else { (span - 1) / step + 1 })
}

fn gather(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let indices = g.shape(node.input(1)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    shape.splice(axis..=axis, indices);
    Some(shape)
}

fn gather_nd(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (data, indices) = (g.shape(node.input(0)?)?, g.shape(node.input(1)?)?);
    let batch = usize::try_from(node.int("batch_dims", 0)).ok()?;
    let (last, leading) = indices.split_last()?;
    let depth = usize::try_from(last.as_fixed()?).ok()?;
    let rest = data.get(batch.checked_add(depth)?..)?;
    Some(leading.iter().chain(rest).cloned().collect())
}

fn expand(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let target = sizes(g, node.input(1)?)?;
    Some(broadcast(g, &shape, &target))
}

fn tile(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let repeats = sizes(g, node.input(1)?)?;
    (repeats.len() == shape.len()).then(|| shape.iter().zip(&repeats).map(|(d, n)| g.symbols.mul(d, n)).collect())
}

fn pad(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let pads = match node.input(1).and_then(|v| g.content(v).cloned()) {
        Some(content) => content.items,
        None => return Some(shape.iter().map(|_| g.symbols.fresh()).collect()),
    };
    let axes: Vec<usize> = match node.input(3) {
        Some(v) => g.content(v)?.fixed()?.iter().map(|a| axis_of(*a, shape.len())).collect::<Option<_>>()?,
        None => (0..shape.len()).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return None;
    }
    for (i, axis) in axes.iter().enumerate() {
        for pad in [&pads[i], &pads[i + axes.len()]] {
            shape[*axis] = match pad {
                Item::Int(pad) => g.symbols.add(&shape[*axis], pad),
                _ => g.symbols.fresh(),
            };
        }
    }
    Some(shape)
}

fn range(g: &mut Graph, node: &Node) -> Option<Shape> {
    let item = |place: usize| node.input(place).and_then(|v| g.content(v)).and_then(|c| c.items.first().cloned());
    let (start, limit, delta) = (item(0), item(1), item(2));
    if let (Some(Item::Int(start)), Some(Item::Int(limit)), Some(Item::Int(delta))) = (&start, &limit, &delta)
        && delta.is(1)
    {
        return Some(vec![g.symbols.sub(limit, start)]);
    }
    let length = (|| {
        let n = |item: &Option<Item>| match item {
            Some(Item::Int(size)) => size.as_fixed().map(|n| n as f64),
            Some(Item::Real(x)) => Some(*x),
            _ => None,
        };
        let length = ((n(&limit)? - n(&start)?) / n(&delta)?).ceil().max(0.0);
        (length < 1e15).then(|| Size::fixed(length as i64))
    })();
    Some(vec![length.unwrap_or_else(|| g.symbols.fresh())])
}

fn one_hot(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", -1), shape.len() + 1)?;
    let depth = node.input(1).and_then(|v| g.content(v)).and_then(|c| c.items.first().cloned());
    let depth = size_of(g, depth.unwrap_or(Item::Unknown));
    shape.insert(axis, depth);
    Some(shape)
}

/// Window arguments of convolutions and pools, for one spatial axis.
pub struct Window {
    pub kernel: i64,
    pub stride: i64,
    pub dilation: i64,
    pub before: i64,
    pub after: i64,
}

/// The windows of all spatial axes; pads are zero where `auto_pad` sets them.
pub fn windows(node: &Node, kernel: &[i64]) -> Option<Vec<Window>> {
    let n = kernel.len();
    let list = |name: &str, default: i64, length: usize| {
        let list = node.ints(name).filter(|l| !l.is_empty()).unwrap_or_else(|| vec![default; length]);
        (list.len() == length).then_some(list)
    };
    let (strides, dilations, pads) = (list("strides", 1, n)?, list("dilations", 1, n)?, list("pads", 0, 2 * n)?);
    let sane = |v: u64| v < 1 << 31;
    let positive = |v: &i64| *v > 0 && sane(v.unsigned_abs());
    if !kernel.iter().chain(&strides).chain(&dilations).all(positive) || !pads.iter().all(|v| sane(v.unsigned_abs())) {
        return None;
    }
    let window = |i: usize| Window {
        kernel: kernel[i],
        stride: strides[i],
        dilation: dilations[i],
        before: pads[i],
        after: pads[i + n],
    };
    Some((0..n).map(window).collect())
}

fn windowed(g: &mut Graph, node: &Node, length: &Size, w: &Window) -> Size {
    let stride = Size::fixed(w.stride);
    let reach = w.dilation * (w.kernel - 1) + 1;
    match node.text("auto_pad", "NOTSET").as_str() {
        "SAME_UPPER" | "SAME_LOWER" => {
            let up = g.symbols.add(length, &Size::fixed(w.stride - 1));
            g.symbols.div(&up, &stride)
        }
        auto => {
            let pads = if auto == "VALID" { 0 } else { w.before + w.after };
            let room = g.symbols.add(length, &Size::fixed(pads - reach));
            if node.int("ceil_mode", 0) != 0 {
                return ceil_windows(g, length, &room, pads, w);
            }
            let steps = g.symbols.div(&room, &stride);
            g.symbols.add(&steps, &Size::fixed(1))
        }
    }
}

/// Windows that may reach over the end, but must not start beyond it.
fn ceil_windows(g: &mut Graph, length: &Size, room: &Size, _pads: i64, w: &Window) -> Size {
    let up = g.symbols.add(room, &Size::fixed(w.stride - 1));
    let steps = g.symbols.div(&up, &Size::fixed(w.stride));
    match (steps.as_fixed(), length.as_fixed()) {
        (Some(steps), Some(length)) => {
            let beyond = steps.saturating_mul(w.stride) >= length.saturating_add(w.before);
            Size::fixed(steps.saturating_add(i64::from(!beyond)))
        }
        _ => g.symbols.fresh(),
    }
}

fn conv(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (g.shape(node.input(0)?)?.clone(), g.shape(node.input(1)?)?.clone());
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let mut shape = vec![x[0].clone(), w[0].clone()];
    match kernel.and_then(|kernel| windows(node, &kernel)) {
        Some(windows) => {
            shape.extend(x[2..].iter().zip(&windows).map(|(d, w)| windowed(g, node, d, w)).collect::<Vec<_>>())
        }
        None => shape.extend(x[2..].iter().map(|_| g.symbols.fresh()).collect::<Vec<_>>()),
    }
    Some(shape)
}

fn conv_transpose(g: &mut Graph, node: &Node) -> Option<Shape> {
    let (x, w) = (g.shape(node.input(0)?)?.clone(), g.shape(node.input(1)?)?.clone());
    if x.len() != w.len() || x.len() < 3 {
        return None;
    }
    let group = Size::fixed(node.int("group", 1));
    let mut shape = vec![x[0].clone(), g.symbols.mul(&w[1], &group)];
    let kernel: Option<Vec<i64>> = w[2..].iter().map(Size::as_fixed).collect();
    let given = node.ints("output_shape").filter(|l| !l.is_empty());
    let extra = node.ints("output_padding").unwrap_or_default();
    let windows = kernel.and_then(|kernel| windows(node, &kernel));
    for (i, length) in x[2..].iter().enumerate() {
        let size = match (&given, &windows) {
            (Some(given), _) => Size::fixed(*given.get(given.len().checked_sub(x.len() - 2)? + i)?),
            (None, Some(windows)) if !node.text("auto_pad", "NOTSET").starts_with("SAME") => {
                let w = &windows[i];
                let reach = w.dilation * (w.kernel - 1) + 1 + extra.get(i).unwrap_or(&0) - w.before - w.after;
                let steps = g.symbols.sub(length, &Size::fixed(1));
                let span = g.symbols.mul(&steps, &Size::fixed(w.stride));
                g.symbols.add(&span, &Size::fixed(reach))
            }
            (None, Some(windows)) => g.symbols.mul(length, &Size::fixed(windows[i].stride)),
            _ => g.symbols.fresh(),
        };
        shape.push(size);
    }
    Some(shape)
}

fn pool(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let kernel = node.ints("kernel_shape")?;
    if kernel.len() + 2 != x.len() {
        return None;
    }
    let windows = windows(node, &kernel)?;
    let mut shape = x[..2].to_vec();
    for (length, w) in x[2..].iter().zip(&windows) {
        shape.push(windowed(g, node, length, w));
    }
    Some(shape)
}

fn depth_to_space(g: &mut Graph, node: &Node) -> Option<Shape> {
    let x = g.shape(node.input(0)?)?.clone();
    let block = Size::fixed(node.int("blocksize", 1));
    let square = block.times(&block)?;
    let [n, c, h, w] = x.as_slice() else {
        return None;
    };
    Some(if node.op == "DepthToSpace" {
        vec![n.clone(), g.symbols.div(c, &square), g.symbols.mul(h, &block), g.symbols.mul(w, &block)]
    } else {
        vec![n.clone(), g.symbols.mul(c, &square), g.symbols.div(h, &block), g.symbols.div(w, &block)]
    })
}

fn resize(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axes = match node.ints("axes") {
        Some(axes) => axes.iter().map(|a| axis_of(*a, shape.len())).collect::<Option<Vec<_>>>()?,
        None => (0..shape.len()).collect(),
    };
    let stretch = node.text("keep_aspect_ratio_policy", "stretch") == "stretch";
    let scales = if node.op == "Upsample" { node.input(1) } else { node.input(2) };
    if let (Some(v), true) = (node.input(3), stretch) {
        let target = sizes(g, v)?;
        for (axis, size) in axes.iter().zip(target) {
            shape[*axis] = size;
        }
        return Some(shape);
    }
    let scales = scales.and_then(|v| g.content(v)).and_then(Content::reals).filter(|s| s.len() == axes.len());
    for (i, axis) in axes.iter().enumerate() {
        shape[*axis] = match &scales {
            Some(scales) => scaled(g, &shape[*axis].clone(), scales[i]),
            None => g.symbols.fresh(),
        };
    }
    Some(shape)
}

/// `floor(length * scale)`.
fn scaled(g: &mut Graph, length: &Size, scale: f64) -> Size {
    match length.as_fixed() {
        Some(n) if (n as f64 * scale).abs() < 1e15 => Size::fixed((n as f64 * scale).floor() as i64),
        None if scale.fract() == 0.0 && scale.abs() < 1e6 => g.symbols.mul(length, &Size::fixed(scale as i64)),
        None if (1.0 / scale).fract() == 0.0 && scale > 1e-6 => {
            g.symbols.div(length, &Size::fixed((1.0 / scale) as i64))
        }
        _ => g.symbols.expression(format!("floor {length:?} * {scale}")),
    }
}

/// The terms of an einsum and its result, with letters in the place of ellipses and an implicit result written out.
pub fn einsum_terms(equation: &str, ranks: &[usize]) -> Option<(Vec<String>, String)> {
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left.to_string(), right.to_string()),
        None => (equation.clone(), implicit_result(&equation)),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return None;
    }
    let spare: Vec<char> = ('a'..='z').chain('A'..='Z').filter(|c| !equation.contains(*c)).collect();
    let covered = |term: &str, rank: usize| rank.checked_sub(term.replace("...", "").chars().count());
    let mut widest = 0;
    for (term, rank) in terms.iter().zip(ranks) {
        let width = covered(term, *rank)?;
        if !term.contains("...") && width != 0 {
            return None;
        }
        widest = widest.max(width);
    }
    let letters = |width: usize| spare.get(widest - width..widest).map(|l| l.iter().collect::<String>());
    let named = terms.iter().zip(ranks).map(|(term, rank)| Some(term.replace("...", &letters(covered(term, *rank)?)?)));
    Some((named.collect::<Option<_>>()?, right.replace("...", &letters(widest)?)))
}

/// The result of an equation without an arrow: letters that occur once, in alphabetical order.
fn implicit_result(terms: &str) -> String {
    let mut letters: Vec<char> =
        terms.chars().filter(|c| c.is_alphabetic() && terms.matches(*c).count() == 1).collect();
    letters.sort_unstable();
    let dots = if terms.contains("...") { "..." } else { "" };
    dots.chars().chain(letters).collect()
}

fn einsum(g: &mut Graph, node: &Node) -> Option<Shape> {
    let ranks: Option<Vec<usize>> = node.inputs.iter().map(|v| g.rank((*v)?)).collect();
    let (terms, result) = einsum_terms(&node.text("equation", ""), &ranks?)?;
    let mut sizes: Vec<(char, Size)> = Vec::new();
    for (term, v) in terms.iter().zip(&node.inputs) {
        let shape = g.shape((*v)?)?.clone();
        for (letter, size) in term.chars().zip(shape) {
            match sizes.iter().position(|(l, _)| *l == letter) {
                Some(i) => sizes[i].1 = broadcast_size(g, &sizes[i].1.clone(), &size),
                None => sizes.push((letter, size)),
            }
        }
    }
    let size = |letter: char| sizes.iter().find(|(l, _)| *l == letter).map(|(_, size)| size.clone());
    result.chars().map(size).collect()
}

pub fn reduced(shape: &[Size], axes: &[usize], keep: bool) -> Option<Shape> {
    let kept = |(i, d): (usize, &Size)| match (axes.contains(&i), keep) {
        (false, _) => Some(d.clone()),
        (true, true) => Some(Size::fixed(1)),
        (true, false) => None,
    };
    Some(shape.iter().enumerate().filter_map(kept).collect())
}

fn reduce(g: &mut Graph, node: &Node) -> Option<Shape> {
    let shape = g.shape(node.input(0)?)?.clone();
    let keep = node.int("keepdims", 1) != 0;
    match axes(g, node, shape.len()) {
        Some(Some(axes)) if !axes.is_empty() => reduced(&shape, &axes, keep),
        Some(_) if node.int("noop_with_empty_axes", 0) != 0 => Some(shape),
        Some(_) => reduced(&shape, &(0..shape.len()).collect::<Vec<_>>(), keep),
        None if keep => Some(shape.iter().map(|_| g.symbols.fresh()).collect()),
        None => None,
    }
}

fn dft(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = match node.input(2) {
        Some(v) => g.content(v)?.fixed()?.first().copied()?,
        None => node.int("axis", if g.opset >= 20 { -2 } else { 1 }),
    };
    let axis = axis_of(axis, shape.len())?;
    if node.input(1).is_some() {
        shape[axis] = g.symbols.fresh();
    }
    if node.int("onesided", 0) != 0 {
        let half = g.symbols.div(&shape[axis].clone(), &Size::fixed(2));
        shape[axis] = g.symbols.add(&half, &Size::fixed(1));
    }
    *shape.last_mut()? = Size::fixed(2);
    Some(shape)
}
