//! Operators without a derivative here, and what to do instead.

use crate::error::Refusal;
use crate::ir::Node;
use crate::lowering;

const REFUSED: &[(&[&str], &str)] = &[
    (
        &[
            "QuantizeLinear",
            "DequantizeLinear",
            "DynamicQuantizeLinear",
            "QLinearConv",
            "QLinearMatMul",
            "ConvInteger",
            "MatMulInteger",
        ],
        "quantization has derivative zero almost everywhere; export the model without quantization",
    ),
    (
        &["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"],
        "a random operator makes the output no function of the input; export the model in evaluation mode",
    ),
    (
        &[
            "ConcatFromSequence",
            "Optional",
            "OptionalGetElement",
            "SequenceAt",
            "SequenceConstruct",
            "SequenceErase",
            "SequenceInsert",
            "SequenceMap",
            "SplitToSequence",
        ],
        "sequences and optional values are not differentiated; export the model with tensors",
    ),
    (&["Unique"], "how many elements differ is no function with a derivative; export the model without it"),
    (
        &["Attention", "RotaryEmbedding"],
        "this form of the operator is not differentiated (a window, lengths without padding, barred scores as an output, or shapes that cannot be told); export the model with its parts",
    ),
];

pub fn reason(node: &Node) -> Refusal {
    let known = REFUSED.iter().find(|(ops, _)| ops.contains(&node.op.as_str()));
    known
        .map_or("this operator has no rule; express it through differentiable standard operators", |(_, why)| why)
        .into()
}

/// Why an operator of another domain is refused.
pub fn foreign(node: &Node) -> Refusal {
    let why = match node.domain.as_str() {
        "com.microsoft" if lowering::is_lowered(node) => {
            "this form of a fused operator of ONNX Runtime is not differentiated; export the model again without graph optimization"
        }
        "com.microsoft" | "com.ms.internal.nhwc" => {
            "a fused operator of ONNX Runtime; export the model again without graph optimization"
        }
        "com.microsoft.nchwc" => {
            "its images and weights lie as one processor wants them, in blocks of a size that the file does not tell; save the model again with graph optimization at the extended level or below"
        }
        _ => "an operator outside the standard domain; export the model with standard operators only",
    };
    why.into()
}
