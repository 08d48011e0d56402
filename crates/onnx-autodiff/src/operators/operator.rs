//! What is known of one operator, declared in one place.
//!
//! A declaration begins with [`Operator::new`] and says by its other methods how types, shapes and contents follow, how
//! the operator is differentiated, what its transpose is where tangents are made with it, and what else is to be known. What
//! is not said is unknown: the shape, a derivative, a transpose.

use std::collections::HashMap;

use crate::content::Content;
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::{Graph, Inferred, Node, Shape, Val};
use crate::jvp_context::{JvpContext, Tangent};
use crate::transpose_context::{Cotangents, TransposeContext};

/// The tangent of the output; none where it is zero.
pub type TangentResult = Result<Option<Tangent>, Refusal>;

/// The derivative of the output by the input, element by element.
pub type DerivativeResult = Result<Val, Refusal>;

/// The outputs of an operator, as others make them.
pub type DecompositionResult = Result<Vec<Option<Val>>, Refusal>;

/// The outputs of a node that is replaced, by place; none where the node is kept as it is.
pub type Lowered = Option<Vec<Option<Val>>>;

/// A rule that is also given the tangents of what the inputs are made of.
pub type ProducerRule = fn(&mut JvpContext, &HashMap<Val, Tangent>) -> TangentResult;

/// A rule that is given the tangents of all values, which subgraphs may use.
pub type SubgraphRule =
    fn(&mut JvpContext, &HashMap<Val, Tangent>) -> Result<Vec<Option<Tangent>>, Refusal>;

/// How the shapes of the outputs follow from the inputs.
#[derive(Clone, Copy)]
pub enum ShapeRule {
    Unknown,
    /// That of the first input.
    Same,
    /// That of the first output.
    First(fn(&mut Graph, &Node) -> Option<Shape>),
    /// Types and shapes of so many outputs.
    All(fn(&mut Graph, &Node, usize) -> Option<Vec<Inferred>>),
}

/// How the elements of small outputs follow from those of the inputs.
#[derive(Clone, Copy)]
pub enum ContentRule {
    Unknown,
    /// From the contents of all inputs, which are known.
    OfInputs(fn(&mut Graph, &Node, &[Content]) -> Option<Content>),
    /// From the node, whatever is known of its inputs.
    OfNode(fn(&mut Graph, &Node) -> Option<Content>),
    /// Those of all outputs.
    All(fn(&mut Graph, &Node) -> Option<Vec<Option<Content>>>),
}

/// How the tangents of the outputs are computed.
#[derive(Clone, Copy)]
pub enum Rule {
    /// The outputs do not depend on the input in a way that has a derivative other than zero.
    Constant,
    /// Elementwise: the output's derivative by the input, at the primal's cost.
    Derivative(fn(&mut JvpContext) -> DerivativeResult),
    /// One output: any other that is needed is refused.
    Single(fn(&mut JvpContext) -> TangentResult),
    /// One output, whose rule may look at the tangents of what its inputs are made of.
    WithProducers(ProducerRule),
    /// Several outputs of a node with subgraphs, whose rule walks through these.
    WithSubgraphs(SubgraphRule),
    /// Replaced by what it consists of where it is differentiated: the outputs as other operators make them, whose rules
    /// differentiate them. Those beyond the list are refused where they are needed.
    Decomposition(fn(&mut JvpContext) -> DecompositionResult),
    /// Several outputs; those beyond the list are refused where they are needed.
    Several(fn(&mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal>),
    /// Not differentiated, and what to do instead.
    Refused(&'static str),
}

/// How the operator is written in float64, where ONNX Runtime has it in float32 alone.
#[derive(Clone, Copy)]
pub enum Float64 {
    /// The runtime has it.
    Itself,
    /// By a formula; none where this form of the operator has none.
    Formula(fn(&mut Graph, &Node) -> Option<Val>),
    /// By the parts that its derivative is made of.
    Decomposition,
}

/// Where the first derivatives are continuous wherever they are finite.
#[derive(Clone, Copy)]
pub enum Smoothness {
    /// The operator has no derivative, or none of its own.
    NotStated,
    /// Nowhere that is known.
    Kinked,
    /// Whatever inputs vary.
    Everywhere,
    /// Where only the inputs at these places vary.
    In(&'static [usize]),
    /// Where input and output are floating-point numbers.
    BetweenFloats,
}

/// What the operator does to an axis that the network may leave to itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Locality {
    /// What is done depends on the node.
    ByNode,
    /// Each element of the output depends on the elements at its place.
    Elementwise,
    /// All elements keep their order.
    SameOrder,
}

/// The transpose of an operator that is linear in some inputs: their cotangents from those of its outputs.
pub type Transpose = fn(&mut TransposeContext) -> Result<Cotangents, Refusal>;

/// What is known of one operator.
#[derive(Clone, Copy)]
pub struct Operator {
    /// Its domain; empty for the standard one.
    pub domain: &'static str,
    pub name: &'static str,
    /// The type of the first output's elements.
    pub element: fn(&Graph, &Node) -> ElemType,
    pub shape: ShapeRule,
    pub content: ContentRule,
    pub rule: Rule,
    pub transpose: Option<Transpose>,
    /// What replaces a node as soon as it is read; a form that is not known to the last detail is kept.
    pub lowering: Option<fn(&mut Graph, &Node) -> Lowered>,
    pub float64: Float64,
    /// The place of the input whose type is the one that it computes in.
    pub computes_as: usize,
    pub smoothness: Smoothness,
    pub locality: Locality,
    /// Whether it says nothing of the numbers in its inputs.
    pub reads_only_shapes: bool,
    /// With how many inputs it draws random numbers: with any, or from those on that switch training on.
    pub draws_with: Option<usize>,
    /// Whether an attribute of it may name a floating-point type, which changes where the graph's does.
    pub names_type: bool,
    /// Places of inputs that are in float32 whatever the others are.
    pub single_inputs: &'static [usize],
}

/// Why operators without a rule are refused.
pub const NO_RULE: &str =
    "this operator has no rule; express it through differentiable standard operators";

/// Why a form of a fused operator that is not lowered is refused.
pub const FUSED: &str = "this form of a fused operator of ONNX Runtime is not differentiated; export the model again without graph optimization";

/// The domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

impl Operator {
    /// An operator of the standard domain.
    pub const fn new(name: &'static str) -> Operator {
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

    /// An operator of ONNX Runtime, which is replaced by standard ones.
    pub const fn fused(name: &'static str, lowering: fn(&mut Graph, &Node) -> Lowered) -> Operator {
        Operator {
            domain: MICROSOFT,
            rule: Rule::Refused(FUSED),
            ..Operator::new(name)
        }
        .lowered(lowering)
    }

    pub const fn element(self, element: fn(&Graph, &Node) -> ElemType) -> Operator {
        Operator { element, ..self }
    }

    pub const fn same_shape(self) -> Operator {
        Operator {
            shape: ShapeRule::Same,
            ..self
        }
    }

    pub const fn shape(self, shape: fn(&mut Graph, &Node) -> Option<Shape>) -> Operator {
        Operator {
            shape: ShapeRule::First(shape),
            ..self
        }
    }

    pub const fn shapes(
        self,
        shapes: fn(&mut Graph, &Node, usize) -> Option<Vec<Inferred>>,
    ) -> Operator {
        Operator {
            shape: ShapeRule::All(shapes),
            ..self
        }
    }

    pub const fn content(
        self,
        content: fn(&mut Graph, &Node, &[Content]) -> Option<Content>,
    ) -> Operator {
        Operator {
            content: ContentRule::OfInputs(content),
            ..self
        }
    }

    pub const fn content_of_node(
        self,
        content: fn(&mut Graph, &Node) -> Option<Content>,
    ) -> Operator {
        Operator {
            content: ContentRule::OfNode(content),
            ..self
        }
    }

    pub const fn contents(
        self,
        contents: fn(&mut Graph, &Node) -> Option<Vec<Option<Content>>>,
    ) -> Operator {
        Operator {
            content: ContentRule::All(contents),
            ..self
        }
    }

    pub const fn constant(self) -> Operator {
        Operator {
            rule: Rule::Constant,
            ..self
        }
    }

    pub const fn derivative(self, derivative: fn(&mut JvpContext) -> DerivativeResult) -> Operator {
        Operator {
            rule: Rule::Derivative(derivative),
            ..self
        }
    }

    pub const fn tangent(self, tangent: fn(&mut JvpContext) -> TangentResult) -> Operator {
        Operator {
            rule: Rule::Single(tangent),
            ..self
        }
    }

    pub const fn tangent_with_producers(self, tangent: ProducerRule) -> Operator {
        Operator {
            rule: Rule::WithProducers(tangent),
            ..self
        }
    }

    pub const fn tangents(
        self,
        tangents: fn(&mut JvpContext) -> Result<Vec<Option<Tangent>>, Refusal>,
    ) -> Operator {
        Operator {
            rule: Rule::Several(tangents),
            ..self
        }
    }

    pub const fn decomposition(
        self,
        decomposition: fn(&mut JvpContext) -> DecompositionResult,
    ) -> Operator {
        Operator {
            rule: Rule::Decomposition(decomposition),
            ..self
        }
    }

    pub const fn tangents_with_subgraphs(self, tangents: SubgraphRule) -> Operator {
        Operator {
            rule: Rule::WithSubgraphs(tangents),
            ..self
        }
    }

    pub const fn refused(self, reason: &'static str) -> Operator {
        Operator {
            rule: Rule::Refused(reason),
            ..self
        }
    }

    pub const fn transpose(self, transpose: Transpose) -> Operator {
        Operator {
            transpose: Some(transpose),
            ..self
        }
    }

    pub const fn lowered(self, lowering: fn(&mut Graph, &Node) -> Lowered) -> Operator {
        Operator {
            lowering: Some(lowering),
            ..self
        }
    }

    pub const fn float64(self, formula: fn(&mut Graph, &Node) -> Option<Val>) -> Operator {
        Operator {
            float64: Float64::Formula(formula),
            ..self
        }
    }

    pub const fn computes_as(self, place: usize) -> Operator {
        Operator {
            computes_as: place,
            ..self
        }
    }

    pub const fn float64_by_decomposition(self) -> Operator {
        Operator {
            float64: Float64::Decomposition,
            ..self
        }
    }

    pub const fn kinked(self) -> Operator {
        Operator {
            smoothness: Smoothness::Kinked,
            ..self
        }
    }

    pub const fn smooth(self) -> Operator {
        Operator {
            smoothness: Smoothness::Everywhere,
            ..self
        }
    }

    pub const fn smooth_in(self, places: &'static [usize]) -> Operator {
        Operator {
            smoothness: Smoothness::In(places),
            ..self
        }
    }

    pub const fn smooth_between_floats(self) -> Operator {
        Operator {
            smoothness: Smoothness::BetweenFloats,
            ..self
        }
    }

    pub const fn elementwise(self) -> Operator {
        Operator {
            locality: Locality::Elementwise,
            ..self
        }
    }

    pub const fn same_order(self) -> Operator {
        Operator {
            locality: Locality::SameOrder,
            ..self
        }
    }

    pub const fn reads_only_shapes(self) -> Operator {
        Operator {
            reads_only_shapes: true,
            ..self
        }
    }

    pub const fn names_type(self) -> Operator {
        Operator {
            names_type: true,
            ..self
        }
    }

    pub const fn single_inputs(self, single_inputs: &'static [usize]) -> Operator {
        Operator {
            single_inputs,
            ..self
        }
    }

    pub const fn random(self) -> Operator {
        Operator {
            draws_with: Some(0),
            ..self
        }
    }

    pub const fn random_with(self, inputs: usize) -> Operator {
        Operator {
            draws_with: Some(inputs),
            ..self
        }
    }
}

/// The type of the first input's elements.
pub fn first_input(g: &Graph, node: &Node) -> ElemType {
    node.input(0).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

/// The type of the second input's elements.
pub fn second_input(g: &Graph, node: &Node) -> ElemType {
    node.input(1).map_or(ElemType::UNKNOWN, |v| g.elem(v))
}

pub fn integers(_: &Graph, _: &Node) -> ElemType {
    ElemType::INT64
}

pub fn booleans(_: &Graph, _: &Node) -> ElemType {
    ElemType::BOOL
}

pub fn floats(_: &Graph, _: &Node) -> ElemType {
    ElemType::FLOAT
}

pub fn unknown(_: &Graph, _: &Node) -> ElemType {
    ElemType::UNKNOWN
}
