//! Element types and shapes of every node's outputs, as far as the inputs tell.
//!
//! Nothing here can fail: what cannot be told is `None` for a whole shape, or a fresh symbol for one axis.

use crate::content::{self, Item};
use crate::elem::ElemType;
use crate::ir::{Graph, Node, Shape, Val, tensor_type};
use crate::proto::TensorProto;
use crate::size::Size;

mod image;
mod layout;
mod newer;
mod product;
mod recurrent;
mod sampling;
mod spectral;

pub use image::{Window, windows};
pub use product::einsum_terms;

use image::{conv, conv_transpose, depth_to_space, pool, resize};
use layout::{
    concat, expand, flatten, gather, gather_nd, pad, reshape, slice, split, squeeze, tile, transpose, unsqueeze,
};
use product::{einsum, gemm, matmul};
use recurrent::recurrent;
use sampling::{col_to_im, grid_sample, max_unpool, regions};
use spectral::{dft, stft};

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
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" | "NonMaxSuppression" => ElemType::INT64,
        "If" | "Loop" | "Scan" | "SequenceAt" | "ConcatFromSequence" | "OptionalGetElement" | "ImageDecoder" => {
            ElemType::UNKNOWN
        }
        "Multinomial" => ElemType(node.int("dtype", 6) as i32),
        "BlackmanWindow" | "HammingWindow" | "HannWindow" | "MelWeightMatrix" => {
            ElemType(node.int("output_datatype", 1) as i32)
        }
        "TfIdfVectorizer" => ElemType::FLOAT,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Not" | "IsNaN"
        | "IsInf" => ElemType::BOOL,
        "BitCast" | "Cast" => ElemType(node.int("to", 0) as i32),
        "CastLike" | "Where" => input(1),
        "DequantizeLinear" => match node.int("output_dtype", 0) {
            0 => input(1),
            n => ElemType(n as i32),
        },
        "QuantizeLinear" => match (node.int("output_dtype", 0), node.input(2)) {
            (0, Some(zero)) => g.elem(zero),
            (0, None) => ElemType::UINT8,
            (n, _) => ElemType(n as i32),
        },
        "QLinearMatMul" | "QLinearConv" => input(7),
        "ConvInteger" | "MatMulInteger" => ElemType::INT32,
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
            let content = content::fold(g, node).into_iter().next().flatten()?;
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
        "MatMulInteger" => {
            let (a, b) = (g.shape(x?)?.clone(), g.shape(node.input(1)?)?.clone());
            matmul(g, a, b)
        }
        "QLinearMatMul" => {
            let (a, b) = (g.shape(x?)?.clone(), g.shape(node.input(3)?)?.clone());
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
        "Conv" | "ConvInteger" => conv(g, node),
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
        "Col2Im" => col_to_im(g, node),
        "DFT" => dft(g, node),
        "DeformConv" => conv(g, node),
        "MaxRoiPool" | "RoiAlign" => regions(g, node),
        "MaxUnpool" => max_unpool(g, node),
        "STFT" => stft(g, node),
        "AffineGrid" => affine_grid(g, node),
        "CenterCropPad" => center_crop_pad(g, node),
        "Compress" => compress(g, node),
        "Det" => Some(g.shape(x?)?.split_last_chunk::<2>()?.0.to_vec()),
        "NegativeLogLikelihoodLoss" => loss(g, node),
        "NonMaxSuppression" | "Loop" | "Scan" | "If" => None,
        "GridSample" => grid_sample(g, node),
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
    "BitCast",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DequantizeLinear",
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
    "QuantizeLinear",
    "RMSNormalization",
    "RandomNormalLike",
    "RandomUniformLike",
    "Reciprocal",
    "Relu",
    "ReverseSequence",
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
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Trilu",
];

/// Operators with several outputs.
fn infer_many(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let x = node.input(0)?;
    let elem = g.elem(x);
    match node.op.as_str() {
        "Split" => split(g, node, outputs),
        "Attention" => newer::attention(g, node),
        "CausalConvWithState" => newer::causal_conv(g, node),
        "GRU" | "LSTM" | "RNN" => recurrent(g, node),
        "LinearAttention" => newer::linear_attention(g, node),
        "Unique" => newer::unique(g, node),
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
        "DynamicQuantizeLinear" => {
            let number = || Some(Vec::new());
            let shape = g.shape(x).cloned();
            Some(vec![(ElemType::UINT8, shape), (ElemType::FLOAT, number()), (ElemType::UINT8, number())])
        }
        "If" => branch_types(g, node, outputs),
        "SoftmaxCrossEntropyLoss" => {
            let shape = g.shape(x).cloned();
            Some(vec![(elem, loss(g, node)), (elem, shape)])
        }
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

/// The product of sizes: how many elements there are along these axes together.
pub fn product(g: &mut Graph, sizes: &[Size]) -> Size {
    let mut product = Size::fixed(1);
    for size in sizes {
        product = g.symbols.mul(&product, size);
    }
    product
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

fn center_crop_pad(g: &mut Graph, node: &Node) -> Option<Shape> {
    let mut shape = g.shape(node.input(0)?)?.clone();
    let target = sizes(g, node.input(1)?)?;
    let axes = node.ints("axes").unwrap_or_else(|| (0..shape.len() as i64).collect());
    for (axis, size) in axes.iter().zip(target) {
        let axis = axis_of(*axis, shape.len())?;
        shape[axis] = size;
    }
    Some(shape)
}

/// How much a condition chooses is not known.
fn compress(g: &mut Graph, node: &Node) -> Option<Shape> {
    let some = g.symbols.fresh();
    if node.attribute("axis").is_none() {
        return Some(vec![some]);
    }
    let mut shape = g.shape(node.input(0)?)?.clone();
    let axis = axis_of(node.int("axis", 0), shape.len())?;
    shape[axis] = some;
    Some(shape)
}

/// `[N, …, axes]` for an image of the given size.
fn affine_grid(g: &mut Graph, node: &Node) -> Option<Shape> {
    let size = sizes(g, node.input(1)?)?;
    let lengths = size.get(2..)?;
    let axes = Size::fixed(lengths.len() as i64);
    Some([&size[..1], lengths, &[axes]].concat())
}

/// One number, or one for each target.
fn loss(g: &Graph, node: &Node) -> Option<Shape> {
    match node.text("reduction", "mean").as_str() {
        "none" => g.shape(node.input(1)?).cloned(),
        _ => Some(Vec::new()),
    }
}
