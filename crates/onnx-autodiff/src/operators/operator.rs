//! The declaration of an operator.
//!
//! A declaration begins with [`Operator::new`]. Further methods declare how types, shapes and
//! contents of the outputs follow from the inputs, how the operator is differentiated, what its
//! transpose is if tangents are made with it, and other properties. What is not declared counts as
//! unknown: the shape, the derivative, the transpose.

use std::collections::HashMap;

use crate::content::Content;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The tangent of an operator's only output, where `None` stands for a zero tangent, or the reason
/// why the rule refuses the node.
pub(super) type TangentResult = Result<Option<Tangent>, Refusal>;

/// The elementwise derivative of the output with respect to the input, or the reason why the rule
/// refuses the node.
pub(super) type DerivativeResult = Result<Val, Refusal>;

/// The outputs of an operator as other operators compute them, or the reason why the rule refuses
/// the node. An output that the decomposition does not compute is `None`.
pub(super) type DecompositionResult = Result<Vec<Option<Val>>, Refusal>;

/// The outputs of what replaces a node, in the order of the node's outputs. It is `None` if the
/// node is not replaced.
pub(super) type Lowered = Option<Vec<Option<Val>>>;

/// A rule that also reads the tangents of the inputs of the nodes that make the node's inputs.
pub(super) type ProducerRule = fn(&mut JvpContext, &HashMap<Val, Tangent>) -> TangentResult;

/// A rule that reads the tangents of all values, because subgraphs may use any of them.
pub(super) type SubgraphRule =
    fn(&mut JvpContext, &HashMap<Val, Tangent>) -> Result<Vec<Option<Tangent>>, Refusal>;

/// How the shapes of the outputs follow from the inputs.
#[derive(Clone, Copy)]
pub(crate) enum ShapeRule {
    /// The shapes cannot be inferred.
    Unknown,
    /// The first output has the shape of the first input.
    Same,
    /// The function infers the shape of the first output.
    First(fn(&mut Graph, &Node) -> Option<Shape>),
    /// The function infers the types and shapes of the given number of outputs.
    All(fn(&mut Graph, &Node, usize) -> Option<Vec<Inferred>>),
}

/// How the elements of small outputs follow from those of the inputs.
#[derive(Clone, Copy)]
pub(crate) enum ContentRule {
    /// The elements are not followed.
    Unknown,
    /// The function computes the elements of the first output from those of all inputs, which are
    /// known.
    OfInputs(fn(&mut Graph, &Node, &[Content]) -> Option<Content>),
    /// The function computes the elements of the first output, even if those of the inputs are not
    /// known.
    OfNode(fn(&mut Graph, &Node) -> Option<Content>),
    /// The function computes the elements of all outputs.
    All(fn(&mut Graph, &Node) -> Option<Vec<Option<Content>>>),
}

/// How the tangents of the outputs are computed.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// The derivative of the outputs is zero, or they carry none.
    Constant,
    /// The operator is elementwise. The function appends the derivative of the output with respect
    /// to the input, at the size of the primal.
    Derivative(fn(&mut JvpContext) -> DerivativeResult),
    /// The function appends the tangent of the first output. Other outputs are refused if they are
    /// needed.
    Single(fn(&mut JvpContext) -> TangentResult),
    /// The function appends the tangent of the first output. It may read the tangents of the inputs
    /// of the nodes that make the node's inputs.
    WithProducers(ProducerRule),
    /// The function appends the tangents of all outputs of a node with subgraphs.
    WithSubgraphs(SubgraphRule),
    /// The function appends other operators that compute the outputs, whose rules then
    /// differentiate them. Outputs beyond its list are refused if they are needed.
    Decomposition(fn(&mut JvpContext) -> DecompositionResult),
    /// The function appends the tangents of several outputs. Outputs beyond its list are refused if
    /// they are needed.
    Several(fn(&mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal>),
    /// The operator is not differentiated. The text says why, and what to do instead.
    Refused(&'static str),
}

/// How the operator is computed in float64, for ONNX Runtime.
#[derive(Clone, Copy)]
pub(crate) enum Float64 {
    /// ONNX Runtime has a float64 kernel.
    Itself,
    /// The function appends other operators that compute the output. It returns `None` if it cannot
    /// replace this form of the operator.
    Formula(fn(&mut Graph, &Node) -> Option<Val>),
    /// The decomposition that serves as the operator's rule computes the outputs.
    Decomposition,
}

/// For which inputs the first derivatives are continuous wherever they are finite.
#[derive(Clone, Copy)]
pub(crate) enum Smoothness {
    /// The operator has no derivative, or none of its own.
    NotStated,
    /// The derivatives may jump.
    Kinked,
    /// The derivatives are continuous, whichever inputs vary.
    Everywhere,
    /// The derivatives are continuous if only the inputs at these indices vary.
    In(&'static [usize]),
    /// The derivatives are continuous if the input and the output are floating-point numbers.
    BetweenFloats,
}

/// Whether the operator keeps axes apart, for the search for local axes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Locality {
    /// Whether the operator keeps an axis apart depends on the node.
    ByNode,
    /// Each element of the output depends on the elements of the inputs at the same index.
    Elementwise,
    /// All elements keep their order.
    SameOrder,
}

/// The transpose of an operator that is linear in some of its inputs. It returns the cotangents of
/// these inputs from those of the outputs.
pub(super) type Transpose = fn(&mut TransposeContext) -> Result<Cotangents, Refusal>;

/// The declaration of one operator.
#[derive(Clone, Copy)]
pub(crate) struct Operator {
    /// The domain, which is empty for the standard domain.
    pub domain: &'static str,
    /// The name.
    pub name: &'static str,
    /// The element type of the first output.
    pub element: fn(&Graph, &Node) -> ElemType,
    /// The shapes of the outputs.
    pub shape: ShapeRule,
    /// The elements of small outputs.
    pub content: ContentRule,
    /// The rule.
    pub rule: Rule,
    /// The transpose. It is `None` if tangents are never made with the operator.
    pub transpose: Option<Transpose>,
    /// The function that replaces a node when the file is read. It returns `None` for forms of the
    /// operator that it does not know exactly.
    pub lowering: Option<fn(&mut Graph, &Node) -> Lowered>,
    /// The replacement in float64.
    pub float64: Float64,
    /// The index of the input in whose type the operator computes.
    pub computes_as: usize,
    /// Where the first derivatives are continuous.
    pub smoothness: Smoothness,
    /// Whether the operator keeps axes apart.
    pub locality: Locality,
    /// Whether the operator reads only the shapes of its inputs.
    pub reads_only_shapes: bool,
    /// The number of inputs from which on the operator draws random numbers: 0, or the number with
    /// an input that turns on training. It is `None` for operators that draw none.
    pub draws_with: Option<usize>,
    /// Whether an attribute may name a floating-point type, which changes with the type of the
    /// graph.
    pub names_type: bool,
    /// The indices of inputs that are always in float32.
    pub single_inputs: &'static [usize],
}

/// The reason for operators without a rule.
pub(super) const NO_RULE: &str =
    "this operator has no rule; express it through differentiable standard operators";

/// The reason for forms of fused operators that are not replaced.
pub(super) const FUSED: &str = "this form of a fused operator of ONNX Runtime is not differentiated; export the model again without graph optimization";

/// The domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

impl Operator {
    /// Begins the declaration of an operator of the standard domain.
    pub(crate) const fn new(name: &'static str) -> Operator {
        Operator {
            domain: "",
            name,
            element: first_input,
            shape: ShapeRule::Unknown,
            content: ContentRule::Unknown,
            rule: Rule::Refused(NO_RULE),
            transpose: None,
            lowering: None,
            float64: Float64::Itself,
            computes_as: 0,
            smoothness: Smoothness::NotStated,
            locality: Locality::ByNode,
            reads_only_shapes: false,
            draws_with: None,
            names_type: false,
            single_inputs: &[],
        }
    }

    /// Declares an operator of ONNX Runtime that is replaced by standard operators.
    pub(crate) const fn fused(
        name: &'static str,
        lowering: fn(&mut Graph, &Node) -> Lowered,
    ) -> Operator {
        Operator {
            domain: MICROSOFT,
            rule: Rule::Refused(FUSED),
            ..Operator::new(name)
        }
        .lowered(lowering)
    }

    /// Declares the element type of the first output. The default is that of the first input.
    pub(crate) const fn element(self, element: fn(&Graph, &Node) -> ElemType) -> Operator {
        Operator { element, ..self }
    }

    /// Declares that the first output has the shape of the first input.
    pub(crate) const fn same_shape(self) -> Operator {
        Operator {
            shape: ShapeRule::Same,
            ..self
        }
    }

    /// Declares the shape of the first output.
    pub(crate) const fn shape(self, shape: fn(&mut Graph, &Node) -> Option<Shape>) -> Operator {
        Operator {
            shape: ShapeRule::First(shape),
            ..self
        }
    }

    /// Declares the types and shapes of all outputs.
    pub(crate) const fn shapes(
        self,
        shapes: fn(&mut Graph, &Node, usize) -> Option<Vec<Inferred>>,
    ) -> Operator {
        Operator {
            shape: ShapeRule::All(shapes),
            ..self
        }
    }

    /// Declares the elements of the first output, as a function of those of all inputs.
    pub(crate) const fn content(
        self,
        content: fn(&mut Graph, &Node, &[Content]) -> Option<Content>,
    ) -> Operator {
        Operator {
            content: ContentRule::OfInputs(content),
            ..self
        }
    }

    /// Declares the elements of the first output, as a function of the node.
    pub(crate) const fn content_of_node(
        self,
        content: fn(&mut Graph, &Node) -> Option<Content>,
    ) -> Operator {
        Operator {
            content: ContentRule::OfNode(content),
            ..self
        }
    }

    /// Declares the elements of all outputs, as a function of the node.
    pub(crate) const fn contents(
        self,
        contents: fn(&mut Graph, &Node) -> Option<Vec<Option<Content>>>,
    ) -> Operator {
        Operator {
            content: ContentRule::All(contents),
            ..self
        }
    }

    /// Declares that the derivative is zero, or that the outputs carry none.
    pub(crate) const fn constant(self) -> Operator {
        Operator {
            rule: Rule::Constant,
            ..self
        }
    }

    /// Declares the derivative of an elementwise operator.
    pub(crate) const fn derivative(
        self,
        derivative: fn(&mut JvpContext) -> DerivativeResult,
    ) -> Operator {
        Operator {
            rule: Rule::Derivative(derivative),
            ..self
        }
    }

    /// Declares the tangent of the first output.
    pub(crate) const fn tangent(self, tangent: fn(&mut JvpContext) -> TangentResult) -> Operator {
        Operator {
            rule: Rule::Single(tangent),
            ..self
        }
    }

    /// Declares the tangent of the first output by a rule that also reads the tangents behind the
    /// inputs.
    pub(crate) const fn tangent_with_producers(self, tangent: ProducerRule) -> Operator {
        Operator {
            rule: Rule::WithProducers(tangent),
            ..self
        }
    }

    /// Declares the tangents of several outputs.
    pub(crate) const fn tangents(
        self,
        tangents: fn(&mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal>,
    ) -> Operator {
        Operator {
            rule: Rule::Several(tangents),
            ..self
        }
    }

    /// Declares other operators that compute the outputs, whose rules serve for this operator.
    pub(crate) const fn decomposition(
        self,
        decomposition: fn(&mut JvpContext) -> DecompositionResult,
    ) -> Operator {
        Operator {
            rule: Rule::Decomposition(decomposition),
            ..self
        }
    }

    /// Declares the tangents of a node with subgraphs.
    pub(crate) const fn tangents_with_subgraphs(self, tangents: SubgraphRule) -> Operator {
        Operator {
            rule: Rule::WithSubgraphs(tangents),
            ..self
        }
    }

    /// Declares that the operator is not differentiated, and why.
    pub(crate) const fn refused(self, reason: &'static str) -> Operator {
        Operator {
            rule: Rule::Refused(reason),
            ..self
        }
    }

    /// Declares the transpose.
    pub(crate) const fn transpose(self, transpose: Transpose) -> Operator {
        Operator {
            transpose: Some(transpose),
            ..self
        }
    }

    /// Declares the replacement when a file is read.
    pub(crate) const fn lowered(self, lowering: fn(&mut Graph, &Node) -> Lowered) -> Operator {
        Operator {
            lowering: Some(lowering),
            ..self
        }
    }

    /// Declares the replacement in float64.
    pub(crate) const fn float64(self, formula: fn(&mut Graph, &Node) -> Option<Val>) -> Operator {
        Operator {
            float64: Float64::Formula(formula),
            ..self
        }
    }

    /// Declares in which input's type the operator computes. The default is the first input.
    pub(crate) const fn computes_as(self, index: usize) -> Operator {
        Operator {
            computes_as: index,
            ..self
        }
    }

    /// Declares that the decomposition also replaces the operator in float64.
    pub(crate) const fn float64_by_decomposition(self) -> Operator {
        Operator {
            float64: Float64::Decomposition,
            ..self
        }
    }

    /// Declares that the derivatives may jump.
    pub(crate) const fn kinked(self) -> Operator {
        Operator {
            smoothness: Smoothness::Kinked,
            ..self
        }
    }

    /// Declares that the derivatives are continuous, whichever inputs vary.
    pub(crate) const fn smooth(self) -> Operator {
        Operator {
            smoothness: Smoothness::Everywhere,
            ..self
        }
    }

    /// Declares that the derivatives are continuous if only the inputs at these indices vary.
    pub(crate) const fn smooth_in(self, indices: &'static [usize]) -> Operator {
        Operator {
            smoothness: Smoothness::In(indices),
            ..self
        }
    }

    /// Declares that the derivatives are continuous between floating-point types.
    pub(crate) const fn smooth_between_floats(self) -> Operator {
        Operator {
            smoothness: Smoothness::BetweenFloats,
            ..self
        }
    }

    /// Declares that each element of the output depends on the elements at the same index.
    pub(crate) const fn elementwise(self) -> Operator {
        Operator {
            locality: Locality::Elementwise,
            ..self
        }
    }

    /// Declares that all elements keep their order.
    pub(crate) const fn same_order(self) -> Operator {
        Operator {
            locality: Locality::SameOrder,
            ..self
        }
    }

    /// Declares that the operator reads only the shapes of its inputs.
    pub(crate) const fn reads_only_shapes(self) -> Operator {
        Operator {
            reads_only_shapes: true,
            ..self
        }
    }

    /// Declares that an attribute may name a floating-point type.
    pub(crate) const fn names_type(self) -> Operator {
        Operator {
            names_type: true,
            ..self
        }
    }

    /// Declares the inputs that are always in float32.
    pub(crate) const fn single_inputs(self, single_inputs: &'static [usize]) -> Operator {
        Operator {
            single_inputs,
            ..self
        }
    }

    /// Declares that the operator draws random numbers.
    pub(crate) const fn random(self) -> Operator {
        Operator {
            draws_with: Some(0),
            ..self
        }
    }

    /// Declares that the operator draws random numbers if it has so many inputs.
    pub(crate) const fn random_with(self, inputs: usize) -> Operator {
        Operator {
            draws_with: Some(inputs),
            ..self
        }
    }
}

/// Returns the element type of the first input.
pub(super) fn first_input(g: &Graph, node: &Node) -> ElemType {
    node.input(0).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

/// Returns the element type of the second input.
pub(super) fn second_input(g: &Graph, node: &Node) -> ElemType {
    node.input(1).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

/// Returns int64, as the element type of an operator's output.
pub(super) fn integers(_: &Graph, _: &Node) -> ElemType {
    ElemType::INT64
}

/// Returns the type of truth values, as the element type of an operator's output.
pub(super) fn booleans(_: &Graph, _: &Node) -> ElemType {
    ElemType::BOOL
}

/// Returns float32, as the element type of an operator's output.
pub(super) fn floats(_: &Graph, _: &Node) -> ElemType {
    ElemType::FLOAT
}

/// Returns the unknown type, as the element type of an operator's output.
pub(super) fn unknown(_: &Graph, _: &Node) -> ElemType {
    ElemType::UNKNOWN
}
