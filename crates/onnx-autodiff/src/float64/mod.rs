//! Operators that ONNX Runtime's CPU kernels compute in float32 alone, written with those that it has in float64.
//!
//! Each replacement is a formula of other operators; none approximates by more than the rounding of float64. What
//! cannot be replaced (an axis of unknown length where the formula needs one) is an obstacle that names its node.

mod convolution;
mod elementwise;
mod erf;
mod inverse_trigonometric;
mod norm;
mod pool;
mod resize;

use super::elem::ElemType;
use super::error::Obstacle;
use super::ir::{Graph, Node, Val};
use super::proto::AttributeProto;
use super::rules::{self, Rule};
use super::shapes;
use super::size::Size;
use super::step::Step;
use super::tangent::obstacle;

type Replacement = fn(&mut Graph, &Node) -> Option<Val>;

const KEPT: &str = "ONNX Runtime has this operator in float32 alone, and this form of it (antialiasing, or axes or scales that are not known before \
                    it runs) has no replacement; export the model with fixed sizes, or compute in float32";

const REPLACEMENTS: &[(&str, Replacement)] = &[
    ("Acos", inverse_trigonometric::acos),
    ("Acosh", elementwise::acosh),
    ("Asin", inverse_trigonometric::asin),
    ("Asinh", elementwise::asinh),
    ("Atan", inverse_trigonometric::atan),
    ("Atanh", elementwise::atanh),
    ("AveragePool", pool::average),
    ("Celu", elementwise::celu),
    ("Conv", convolution::conv),
    ("ConvTranspose", convolution::conv_transpose),
    ("Cosh", elementwise::cosh),
    ("Elu", elementwise::elu),
    ("Erf", erf::erf),
    ("Gelu", erf::gelu),
    ("GlobalAveragePool", pool::global_average),
    ("GlobalMaxPool", pool::global_max),
    ("GroupNormalization", norm::group),
    ("HardSigmoid", elementwise::hard_sigmoid),
    ("HardSwish", elementwise::hard_swish),
    ("InstanceNormalization", norm::instance),
    ("LeakyRelu", elementwise::leaky_relu),
    ("LRN", norm::local_response),
    ("Mean", elementwise::mean),
    ("MeanVarianceNormalization", norm::mean_variance),
    ("Mish", elementwise::mish),
    ("PRelu", elementwise::prelu),
    ("Resize", resize::resize),
    ("Selu", elementwise::selu),
    ("Shrink", elementwise::shrink),
    ("Sinh", elementwise::sinh),
    ("Softplus", elementwise::softplus),
    ("Softsign", elementwise::softsign),
    ("Tan", elementwise::tan),
    ("ThresholdedRelu", elementwise::thresholded_relu),
];

/// Operators that are replaced by the parts which their derivatives are made of.
const BY_PARTS: &[&str] =
    &["Col2Im", "Det", "GlobalLpPool", "GridSample", "GRU", "LpPool", "LSTM", "MaxRoiPool", "MaxUnpool", "RNN"];

/// What a node in float64 is replaced by, where the runtime has no kernel for it.
pub fn replacement(g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
    if !g.avoids_single || g.elem(node.input(0)?) != ElemType::DOUBLE {
        return None;
    }
    if BY_PARTS.contains(&node.standard()) {
        return parts(g, node);
    }
    let (_, replacement) = REPLACEMENTS.iter().find(|(op, _)| *op == node.standard())?;
    Some(vec![replacement(g, node)?])
}

/// All outputs of an operator as its rule writes them.
fn parts(g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
    let Ok(Rule::Parts(parts)) = rules::of(node) else { return None };
    // Rules look at the shapes of the outputs; one that needs their numbers cannot make them.
    let count = node.outputs.len().max(1);
    let shapes = shapes::infer(g, node, count).into_iter().take(count);
    let outputs: Vec<Val> = shapes.map(|(elem, shape)| g.placeholder(elem, shape)).collect();
    let node = Node { outputs: outputs.iter().copied().map(Some).collect(), ..node.clone() };
    let (start, tangents) = (g.nodes.len(), vec![None; node.inputs.len()]);
    let mut step = Step { g, node, tangents, k: Size::fixed(1) };
    let made: Vec<Val> = parts(&mut step).ok()?.into_iter().collect::<Option<_>>()?;
    let circular = g.nodes[start..].iter().flat_map(|made| made.inputs.iter().flatten()).any(|v| outputs.contains(v));
    (!circular).then_some(made)
}

/// The nodes that are left without a kernel, with what to do.
pub fn obstacles(g: &Graph) -> Vec<Obstacle> {
    let single = |node: &Node| {
        let wide = node.input(0).is_some_and(|v| g.elem(v) == ElemType::DOUBLE);
        wide && is_single(node.standard()) || node.attributes.iter().any(holds_single)
    };
    let needed = g.needed();
    let left = g.nodes.iter().zip(needed).filter(|(node, needed)| *needed && single(node)).map(|(node, _)| node);
    left.map(|node| obstacle(g, node, KEPT.into())).collect()
}

fn is_single(op: &str) -> bool {
    BY_PARTS.contains(&op) || REPLACEMENTS.iter().any(|(single, _)| *single == op)
}

/// Whether a subgraph holds such a node: what could be replaced in it was (`bodies`).
fn holds_single(attribute: &AttributeProto) -> bool {
    let mut nodes = attribute.g.iter().chain(&attribute.graphs).flat_map(|graph| &graph.node);
    nodes.any(|node| is_single(node.op_type()) || node.attribute.iter().any(holds_single))
}

/// A polynomial by Horner's rule, the highest power first.
fn polynomial(g: &mut Graph, x: Val, coefficients: &[f64]) -> Val {
    let (first, rest) = coefficients.split_first().unwrap_or((&0.0, &[]));
    let mut sum = g.real(*first, ElemType::DOUBLE);
    for coefficient in rest {
        let product = g.mul(sum, x);
        sum = g.shift(product, *coefficient);
    }
    sum
}

/// `yes` where `x` is greater than `bound`, else `no`.
fn where_greater(g: &mut Graph, x: Val, bound: f64, yes: Val, no: Val) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    let greater = g.op("Greater", &[x, bound]);
    g.op("Where", &[greater, yes, no])
}

/// `min(x, bound)`, with the derivative zero beyond the bound.
fn at_most(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("Min", &[x, bound])
}

fn at_least(g: &mut Graph, x: Val, bound: f64) -> Val {
    let bound = g.real(bound, ElemType::DOUBLE);
    g.op("Max", &[x, bound])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;
    use crate::emit::{int, ints, text};
    use crate::proto::NodeProto;
    use crate::testing::{bytes, floats, graph, node};

    /// A node of each operator, of images `[N, 4, 6, 6]`.
    fn case(op: &str) -> NodeProto {
        let window = || vec![ints("kernel_shape", &[3, 3]), ints("pads", &[1, 1, 1, 1])];
        match op {
            "Conv" | "ConvTranspose" => node(op, "x w", "y", window()),
            "AveragePool" => node(op, "x", "y", window()),
            "GroupNormalization" => node(op, "x c c", "y", vec![int("num_groups", 2)]),
            "InstanceNormalization" => node(op, "x c c", "y", vec![]),
            "LRN" => node(op, "x", "y", vec![int("size", 3)]),
            "Mean" => node(op, "x x", "y", vec![]),
            "PRelu" => node(op, "x s", "y", vec![]),
            "Resize" => node(op, "x - r", "y", vec![text("mode", "linear")]),
            _ => node(op, "x", "y", vec![]),
        }
    }

    fn model(node: NodeProto) -> Model {
        let weights = vec![
            floats("w", &[4, 4, 3, 3], &[0.1; 144]),
            floats("c", &[4], &[0.5; 4]),
            floats("s", &[4, 1, 1], &[0.25; 4]),
            floats("r", &[4], &[1.0, 1.0, 2.0, 2.0]),
        ];
        let made = graph(&["x: N 4 6 6"], &["y: N 4 H W"], weights, vec![node]);
        Model::from_bytes("net.onnx", &bytes(made, 22)).expect("a model")
    }

    #[test]
    fn every_replacement_leaves_no_operator_without_a_kernel() {
        for (op, _) in REPLACEMENTS {
            let lifted = model(case(op)).in_precision(ElemType::DOUBLE).unwrap_or_else(|e| panic!("{op}: {e}"));
            let left: Vec<String> =
                lifted.operators().into_keys().filter(|o| REPLACEMENTS.iter().any(|(r, _)| r == o)).collect();
            assert!(left.is_empty(), "{op} leaves {left:?}");
            assert_eq!(lifted.inputs()[0].elem, ElemType::DOUBLE, "{op}");
            assert_eq!(lifted.outputs()[0].elem, ElemType::DOUBLE, "{op}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        let smooth = node("Resize", "x - r", "y", vec![text("mode", "linear"), int("antialias", 1)]);
        let error = model(smooth).in_precision(ElemType::DOUBLE).err().expect("refused").to_string();
        assert!(error.contains("net.onnx: cannot be computed in float64:\n  node `node_y` (Resize)"), "{error}");
    }

    #[test]
    fn half_precision_becomes_single() {
        let mut half = graph(
            &["x: N 2"],
            &["y: N 2"],
            vec![],
            vec![node("Exp", "x", "h", vec![]), node("Cast", "h", "y", vec![int("to", 10)])],
        );
        for port in half.input.iter_mut().chain(&mut half.output) {
            *port = crate::testing::port(&format!("{}: N 2", port.name()), 10);
        }
        let lifted =
            Model::from_bytes("m", &bytes(half, 17)).expect("a model").in_precision(ElemType::FLOAT).expect("lifted");
        assert_eq!((lifted.inputs()[0].elem, lifted.outputs()[0].elem), (ElemType::FLOAT, ElemType::FLOAT));
        assert_eq!(lifted.coarsest_spacing(), f64::powi(0.5, 23));
    }
}
