//! Where the derivative of a graph may jump: at the kinks of its operators.

use std::collections::HashSet;

use super::differentiate::import;
use super::elem::ElemType;
use super::error::GraphError;
use super::ir::{Graph, Node, Val};
use super::model::Model;

/// A node at which a derivative may jump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kink {
    /// The node's name, or that of its first output.
    pub node: String,
    pub op: String,
}

/// Operators whose first derivatives are continuous wherever they are finite, whatever their inputs.
const SMOOTH: &[&str] = &[
    "Acos",
    "Acosh",
    "Add",
    "AffineGrid",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Col2Im",
    "Concat",
    "Conv",
    "ConvTranspose",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DFT",
    "DepthToSpace",
    "Det",
    "Div",
    "Dropout",
    "Einsum",
    "Erf",
    "Exp",
    "Flatten",
    "Gelu",
    "Gemm",
    "GlobalAveragePool",
    "GroupNormalization",
    "Identity",
    "InstanceNormalization",
    "LRN",
    "LayerNormalization",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MatMul",
    "Mean",
    "MeanVarianceNormalization",
    "Mish",
    "Mul",
    "Neg",
    "RMSNormalization",
    "Reciprocal",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "Sigmoid",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "SpaceToDepth",
    "Split",
    "Sqrt",
    "Squeeze",
    "Sub",
    "Sum",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

/// Operators of the same kind whose further inputs (sizes, indices, exponents, conditions) must not depend on what
/// varies: with the places of those that may.
const SMOOTH_IN: &[(&str, &[usize])] = &[
    ("CausalConvWithState", &[0, 1, 2, 3]),
    ("CenterCropPad", &[0]),
    ("Compress", &[0]),
    ("DequantizeLinear", &[1]),
    ("Expand", &[0]),
    ("GRU", &[0, 1, 2, 3, 5]),
    ("Gather", &[0]),
    ("GatherElements", &[0]),
    ("GatherND", &[0]),
    ("LinearAttention", &[0, 1, 2, 3, 4, 5]),
    ("LSTM", &[0, 1, 2, 3, 5, 6, 7]),
    ("MaxUnpool", &[0]),
    ("NegativeLogLikelihoodLoss", &[0, 2]),
    ("Pad", &[0, 2]),
    ("Pow", &[0]),
    ("RNN", &[0, 1, 2, 3, 5]),
    ("Reshape", &[0]),
    ("Resize", &[0]),
    ("ReverseSequence", &[0]),
    ("STFT", &[0, 2]),
    ("ScatterElements", &[0, 2]),
    ("ScatterND", &[0, 2]),
    ("Slice", &[0]),
    ("SoftmaxCrossEntropyLoss", &[0, 2]),
    ("TensorScatter", &[0, 1]),
    ("Tile", &[0]),
    ("Where", &[1, 2]),
];

/// Operators that say nothing of the numbers in their inputs.
pub const OF_SHAPES: &[&str] = &["ConstantOfShape", "Shape", "Size"];

impl Model {
    /// The first node through which some inputs reach an output and at which the output's derivative by them may jump:
    /// `Relu`, `MaxPool`, `Where` by a condition that varies, rounding to whole numbers. Where none is found the
    /// derivative is continuous; operators that are not known to be smooth count as kinks.
    ///
    /// # Errors
    /// Where the graph contradicts itself.
    pub fn kink(&self, inputs: &[&str], output: &str) -> Result<Option<Kink>, GraphError> {
        let (g, _) = import(self, self.opset())?;
        let Some(end) = g.named(output) else { return Ok(None) };
        let needed = needed(&g, end);
        let mut varies: HashSet<Val> = inputs.iter().filter_map(|name| g.named(name)).collect();
        for node in &g.nodes {
            let reached = |v: &Val| varies.contains(v);
            let touched = node.inputs.iter().flatten().chain(&node.captures).any(reached);
            let matters = node.outputs.iter().flatten().any(|v| needed.contains(v));
            if !touched || !matters || OF_SHAPES.contains(&node.standard()) {
                continue;
            }
            if !smooth(&g, node, &varies) {
                return Ok(Some(Kink { node: label(&g, node), op: node.operator() }));
            }
            varies.extend(node.outputs.iter().flatten());
        }
        Ok(None)
    }
}

/// Whether a node's derivative by its inputs that vary is continuous.
fn smooth(g: &Graph, node: &Node, varies: &HashSet<Val>) -> bool {
    let op = node.standard();
    if op == "Cast" || op == "CastLike" {
        let real = |v: Option<Val>| v.is_some_and(|v| g.elem(v).is_float() || g.elem(v) == ElemType::UNKNOWN);
        return real(node.input(0)) && real(node.output(0));
    }
    if let Some((_, places)) = SMOOTH_IN.iter().find(|(name, _)| *name == op) {
        let others = (0..node.inputs.len()).filter(|place| !places.contains(place));
        let fixed = others.filter_map(|place| node.input(place)).all(|v| !varies.contains(&v));
        // Scattering may multiply or compare, losses sum; recurrent layers may clip, or have activations of their own.
        let scatters = op.starts_with("Scatter");
        let adds = !scatters || ["none", "add"].contains(&node.text("reduction", "none").as_str());
        let plain = ["activations", "clip"].iter().all(|name| node.attribute(name).is_none());
        return fixed && node.captures.is_empty() && adds && plain;
    }
    SMOOTH.contains(&op) && node.captures.is_empty()
}

/// The values that one needs.
fn needed(g: &Graph, end: Val) -> HashSet<Val> {
    let mut needed = HashSet::from([end]);
    for node in g.nodes.iter().rev() {
        if node.outputs.iter().flatten().any(|v| needed.contains(v)) {
            needed.extend(node.inputs.iter().flatten().chain(&node.captures));
        }
    }
    needed
}

fn label(g: &Graph, node: &Node) -> String {
    match node.output(0) {
        Some(first) if node.name.is_empty() => g.value(first).name.clone(),
        _ => node.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::emit::int;
    use crate::proto::NodeProto;
    use crate::rules::differentiable;
    use crate::testing::{bytes, floats, graph, integers, node};

    /// Operators with a derivative that jumps, or that is not known to be continuous.
    const KINKED: &[&str] = &[
        "Abs",
        "Attention",
        "Cast",
        "CastLike",
        "Celu",
        "Clip",
        "DeformConv",
        "Elu",
        "GlobalLpPool",
        "GlobalMaxPool",
        "GridSample",
        "HardSigmoid",
        "HardSwish",
        "If",
        "LeakyRelu",
        "LpPool",
        "Max",
        "MaxPool",
        "MaxRoiPool",
        "Min",
        "Mod",
        "OneHot",
        "PRelu",
        "Range",
        "ReduceL1",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "RoiAlign",
        "RotaryEmbedding",
        "Selu",
        "Shrink",
        "Softsign",
        "ThresholdedRelu",
        "TopK",
        "Unique",
    ];

    #[test]
    fn every_operator_is_smooth_or_has_a_kink() {
        for op in differentiable() {
            let smooth = SMOOTH.contains(&op) || SMOOTH_IN.iter().any(|(name, _)| *name == op);
            assert!(smooth != KINKED.contains(&op), "{op}");
        }
        for op in SMOOTH.iter().chain(SMOOTH_IN.iter().map(|(op, _)| op)) {
            assert!(differentiable().contains(op), "{op}");
        }
    }

    fn kink(nodes: Vec<NodeProto>) -> Option<String> {
        let constants = vec![floats("c", &[2], &[0.5, 2.0]), integers("i", &[1], &[1]), floats("shift", &[1], &[0.1])];
        let graph = graph(&["x: N 2", "t: N"], &["y: N 2"], constants, nodes);
        let model = Model::from_bytes("test", &bytes(graph, 20)).expect("a model");
        model.kink(&["x", "t"], "y").expect("a graph").map(|kink| kink.op)
    }

    #[test]
    fn kinks_are_found_where_state_or_time_pass_through_them() {
        let cases: Vec<(Vec<NodeProto>, Option<&str>)> = vec![
            (vec![node("Tanh", "x", "a", vec![]), node("Mul", "a c", "y", vec![])], None),
            (vec![node("Relu", "x", "y", vec![])], Some("Relu")),
            // Of constants alone, and where the output does not need it.
            (vec![node("Relu", "c", "a", vec![]), node("Mul", "x a", "y", vec![])], None),
            (vec![node("Relu", "x", "a", vec![]), node("Tanh", "x", "y", vec![])], None),
            // By way of the time.
            (
                vec![
                    node("Floor", "t", "a", vec![]),
                    node("Unsqueeze", "a i", "b", vec![]),
                    node("Add", "x b", "y", vec![]),
                ],
                Some("Floor"),
            ),
            // A choice that varies, and one that does not.
            (vec![node("Greater", "x c", "a", vec![]), node("Where", "a x c", "y", vec![])], Some("Greater")),
            (vec![node("Greater", "c shift", "a", vec![]), node("Where", "a x c", "y", vec![])], None),
            // Sizes say nothing of the numbers.
            (
                vec![
                    node("Shape", "x", "s", vec![]),
                    node("Tanh", "x", "a", vec![]),
                    node("Reshape", "a s", "y", vec![]),
                ],
                None,
            ),
            (vec![node("Pow", "x c", "y", vec![])], None),
            (vec![node("Pow", "c x", "y", vec![])], Some("Pow")),
            // Rounding to whole numbers and back.
            (
                vec![
                    node("Cast", "x", "a", vec![int("to", 7)]),
                    node("Cast", "a", "b", vec![int("to", 1)]),
                    node("Add", "x b", "y", vec![]),
                ],
                Some("Cast"),
            ),
            (vec![node("Cast", "x", "a", vec![int("to", 11)]), node("Cast", "a", "y", vec![int("to", 1)])], None),
            (vec![node("Elu", "x", "y", vec![])], Some("Elu")),
        ];
        for (nodes, expected) in cases {
            let text = format!("{:?}", nodes.iter().map(|n| n.op_type()).collect::<Vec<_>>());
            assert_eq!(kink(nodes).as_deref(), expected, "{text}");
        }
    }
}
