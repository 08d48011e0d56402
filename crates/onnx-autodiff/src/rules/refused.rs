//! Operators without a derivative here, and what to do instead.

use crate::error::Refusal;
use crate::ir::Node;
use crate::lowering;

const REFUSED: &[(&[&str], &str)] = &[
    (
        &["Scatter"],
        "it is read as ScatterElements in files of opset 9 and 10, and newer ones lack it; export the model with ScatterElements",
    ),
    (&["Upsample"], "it is read as Resize in files of opset 9, and newer ones lack it; export the model with Resize"),
    (
        &["QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"],
        "quantization has derivative zero almost everywhere; export the model without quantization",
    ),
    (
        &["Loop", "Scan", "SequenceMap"],
        "a loop whose number of steps is not known before it runs is not differentiated; export the model with a fixed number of steps, or with the loop unrolled",
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
            "SplitToSequence",
        ],
        "sequences and optional values are not differentiated; export the model with tensors",
    ),
    (
        &["RotaryEmbedding"],
        "this form of the operator is not differentiated (its heads do not fit, or its shapes cannot be told); export the model with its parts",
    ),
];

pub fn reason(node: &Node) -> Refusal {
    known(&node.op).into()
}

/// Why an operator of the standard domain is refused.
pub fn known(op: &str) -> &'static str {
    let listed = REFUSED.iter().find(|(ops, _)| ops.contains(&op));
    listed.map_or("this operator has no rule; express it through differentiable standard operators", |(_, why)| why)
}

/// Why an operator of another domain is refused.
pub fn foreign(node: &Node) -> Refusal {
    match node.domain.as_str() {
        "com.microsoft" if lowering::is_lowered(node) => {
            "this form of a fused operator of ONNX Runtime is not differentiated; export the model again without graph optimization".into()
        }
        domain => of_domain(domain).into(),
    }
}

/// Why the operators of another domain are refused that are not replaced.
pub fn of_domain(domain: &str) -> &'static str {
    match domain {
        "com.microsoft" | "com.ms.internal.nhwc" => {
            "a fused operator of ONNX Runtime; export the model again without graph optimization"
        }
        "com.microsoft.nchwc" => {
            "its images and weights lie as one processor wants them, in blocks of a size that the file does not tell; save the model again with graph optimization at the extended level or below"
        }
        _ => "an operator outside the standard domain; export the model with standard operators only",
    }
}
