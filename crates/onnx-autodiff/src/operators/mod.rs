//! The declarations of all operators: one file for each operator or for a close family, and one
//! line for each file in the list below.
//!
//! A file holds everything about its operators: how types, shapes and contents of the outputs
//! follow, the rule that differentiates them, the transpose of those that tangents are made with,
//! how they are replaced in float64 or when a file is read, or why they are refused.

mod attention_mask;
mod fused_activation;
#[cfg(test)]
mod fused_tests;
mod operator;
mod parts;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::OnceLock;

use crate::content::{Content, LIMIT};
use crate::elem::ElemType;
use crate::error::{Obstacle, Refusal};
use crate::graph::{Graph, Inferred, Node, OperatorRegistry, Val};
use crate::jvp_context::JvpContext;
use crate::proto::{AttributeProto, NodeProto};
use crate::signatures;
use crate::size::Size;

use operator::{ContentRule, Float64, MICROSOFT, ShapeRule};
pub(crate) use operator::{Locality, Operator, Rule, Smoothness};

/// Declares the modules of the operators and lists the operators that they hold.
macro_rules! families {
    ($($family:ident,)*) => {
        $(mod $family;)*

        /// The names of the files, in alphabetical order.
        #[cfg(test)]
        const FILES: &[&str] = &[$(stringify!($family)),*];

        /// The operators of every file.
        const FAMILIES: &[&[Operator]] = &[$($family::OPERATORS),*];
    };
}

families! {
    activation,
    affine_grid,
    arithmetic,
    attention,
    cast,
    causal_conv,
    center_crop_pad,
    clip,
    compress,
    concat,
    conditional,
    constant,
    conv,
    cumulative,
    deform_conv,
    depth_to_space,
    dequantize,
    det,
    einsum,
    elementary,
    embed_layer_norm,
    erf,
    expand,
    extremum,
    fused_bias,
    fused_conv,
    fused_gelu,
    fused_group_norm,
    fused_layer_norm,
    fused_matmul,
    gated,
    gather,
    grid_sample,
    identity,
    linear_attention,
    logic,
    loops,
    loss,
    matmul,
    matmul_n_bits,
    max_unpool,
    multi_head_attention,
    norm,
    one_hot,
    pad,
    pool,
    power,
    quantization,
    random,
    range,
    recurrent,
    reduce,
    reshape,
    resize,
    reverse_sequence,
    roi_pool,
    rotary_embedding,
    rounding,
    scatter,
    select,
    selection,
    sequence,
    slice,
    softmax,
    spectral,
    split,
    tile,
    top_k,
    transpose,
    trigonometric,
    trilu,
    unique,
}

/// The largest rank that inference returns. No network has tensors of more axes, and a hostile file
/// must not make the ranks grow without bound.
const RANK_LIMIT: usize = 32;

/// The type and shape of an output about which nothing can be inferred.
const NOT_INFERRED: Inferred = (ElemType::UNKNOWN, None);

/// The reason for a float64 node that ONNX Runtime cannot run.
const SINGLE: &str = "ONNX Runtime implements this operator in float32 alone, and this form of it (antialiasing, a constant around a cropped region, or axes or scales that are \
                      not known before it runs) has no replacement; export the model with fixed sizes, or compute in float32";

/// Returns the declarations of all operators, in the order of their files.
pub(crate) fn all() -> impl Iterator<Item = &'static Operator> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// Returns the declaration of an operator.
pub(crate) fn find(domain: &str, name: &str) -> Option<&'static Operator> {
    static TABLE: OnceLock<HashMap<(&str, &str), &Operator>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        all()
            .map(|operator| ((operator.domain, operator.name), operator))
            .collect()
    });
    table.get(&(domain, name)).copied()
}

/// Returns the declaration of a node's operator.
pub(crate) fn of(node: &Node) -> Option<&'static Operator> {
    find(&node.domain, &node.op)
}

/// Returns the operators of the standard domain that have a derivative, in alphabetical order.
pub fn differentiable() -> Vec<&'static str> {
    let standard =
        |operator: &&Operator| operator.domain.is_empty() && signatures::is_standard(operator.name);
    let derived = |operator: &Operator| !matches!(operator.rule, Rule::Constant | Rule::Refused(_));
    let known = all()
        .filter(standard)
        .filter(|operator| derived(operator) || operator.lowering.is_some());
    let mut names: Vec<&str> = known.map(|operator| operator.name).collect();
    names.sort_unstable();
    names
}

/// Returns the rule for a node.
///
/// # Errors
///
/// Returns the reason why the node is not differentiated.
pub(crate) fn rule(node: &Node) -> Result<Rule, Refusal> {
    match of(node).map(|operator| operator.rule) {
        Some(Rule::Refused(reason)) => Err(reason.into()),
        Some(rule) => Ok(rule),
        None => Err(unknown_operator_reason(&node.domain).into()),
    }
}

/// Returns the reason for an operator without a declaration.
pub(crate) fn unknown_operator_reason(domain: &str) -> &'static str {
    match domain {
        "" => operator::NO_RULE,
        MICROSOFT | "com.ms.internal.nhwc" => {
            "a fused operator of ONNX Runtime; export the model again without graph optimization"
        }
        "com.microsoft.nchwc" => {
            "its images and weights are stored in blocks for one kind of processor, and the file does not state the size of the blocks; save the model again with graph optimization at the extended level or below"
        }
        _ => {
            "an operator outside the standard domain; export the model with standard operators only"
        }
    }
}

/// Returns whether a node reads only the shapes of its inputs.
pub(crate) fn reads_only_shapes(node: &Node) -> bool {
    of(node).is_some_and(|operator| operator.reads_only_shapes)
}

/// The declarations in the form in which a graph asks for them.
pub(crate) struct Registry;

impl OperatorRegistry for Registry {
    fn infer(&self, g: &mut Graph, node: &Node, outputs: usize) -> Vec<Inferred> {
        let mut inferred = of(node)
            .filter(|o| o.domain.is_empty())
            .map(|o| infer_outputs(o, g, node, outputs));
        let inferred = inferred.get_or_insert_default();
        inferred.resize(outputs.max(inferred.len()), NOT_INFERRED);
        for (_, shape) in inferred.iter_mut() {
            *shape = shape.take().filter(|shape| shape.len() <= RANK_LIMIT);
        }
        std::mem::take(inferred)
    }

    fn fold(&self, g: &mut Graph, node: &Node) -> Vec<Option<Content>> {
        match of(node).map_or(ContentRule::Unknown, |operator| operator.content) {
            ContentRule::Unknown => Vec::new(),
            ContentRule::OfNode(content) => vec![content(g, node)],
            ContentRule::All(contents) => contents(g, node).unwrap_or_default(),
            ContentRule::OfInputs(content) => {
                let known = |v: &Val| g.content(*v).filter(|c| c.items.len() <= LIMIT).cloned();
                let inputs: Option<Vec<Content>> =
                    node.inputs.iter().flatten().map(known).collect();
                vec![
                    inputs
                        .filter(|inputs| !inputs.is_empty())
                        .and_then(|inputs| content(g, node, &inputs)),
                ]
            }
        }
    }

    fn replaced(&self, g: &mut Graph, node: &Node, wanted: &[bool]) -> Option<Vec<Option<Val>>> {
        let lowering = of(node).and_then(|operator| operator.lowering);
        let told = node
            .inputs
            .iter()
            .flatten()
            .all(|v| g.elem(*v) != ElemType::UNKNOWN);
        let lowered = lowering
            .filter(|_| told)
            .and_then(|lowering| lowering(g, node));
        let outputs =
            lowered.or_else(|| Some(self.in_float64(g, node)?.into_iter().map(Some).collect()))?;
        let made = |index: usize| outputs.get(index).is_some_and(Option::is_some);
        wanted
            .iter()
            .enumerate()
            .all(|(index, wanted)| !wanted || made(index))
            .then_some(outputs)
    }

    fn in_float64(&self, g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
        let operator = of(node)?;
        if !g.avoids_single || !is_double(operator, g, node) {
            return None;
        }
        match operator.float64 {
            Float64::Itself => None,
            Float64::Formula(formula) => Some(vec![formula(g, node)?]),
            Float64::Decomposition => outputs_by_decomposition(g, node),
        }
    }

    fn reads_only_shapes(&self, node: &Node) -> bool {
        reads_only_shapes(node)
    }

    fn draws(&self, domain: &str, op: &str, inputs: usize) -> bool {
        find(domain, op)
            .and_then(|operator| operator.draws_with)
            .is_some_and(|least| inputs >= least)
    }
}

/// Returns the types and shapes of a node's outputs, by the declaration of its operator.
fn infer_outputs(operator: &Operator, g: &mut Graph, node: &Node, outputs: usize) -> Vec<Inferred> {
    let shape = match operator.shape {
        ShapeRule::Unknown => None,
        ShapeRule::Same => node.input(0).and_then(|x| g.shape(x).cloned()),
        ShapeRule::First(shape) => shape(g, node),
        ShapeRule::All(shapes) => match shapes(g, node, outputs) {
            Some(all) => return all,
            None => None,
        },
    };
    vec![((operator.element)(g, node), shape)]
}

/// Returns whether a node computes in float64.
fn is_double(operator: &Operator, g: &Graph, node: &Node) -> bool {
    node.input(operator.computes_as)
        .is_some_and(|v| g.elem(v) == ElemType::DOUBLE)
}

/// Appends the decomposition of a node and returns its outputs. Returns `None` if the decomposition
/// refuses the node or reads the outputs' elements.
fn outputs_by_decomposition(g: &mut Graph, node: &Node) -> Option<Vec<Val>> {
    let Ok(Rule::Decomposition(parts)) = rule(node) else {
        return None;
    };
    // A decomposition may read the shapes of the outputs, so the node receives placeholders for
    // them.
    let count = node.outputs.len().max(1);
    let shapes = Registry.infer(g, node, count).into_iter().take(count);
    let outputs: Vec<Val> = shapes
        .map(|(elem, shape)| g.placeholder(elem, shape))
        .collect();
    let node = Node {
        outputs: outputs.iter().copied().map(Some).collect(),
        ..node.clone()
    };
    let (start, tangents) = (g.nodes.len(), vec![None; node.inputs.len()]);
    let mut step = JvpContext {
        g,
        node,
        tangents,
        k: Size::fixed(1),
        walk: |_, _, _, _, _| {},
    };
    let made: Vec<Val> = parts(&mut step).ok()?.into_iter().collect::<Option<_>>()?;
    let circular = g.nodes[start..]
        .iter()
        .flat_map(|made| made.inputs.iter().flatten())
        .any(|v| outputs.contains(v));
    (!circular).then_some(made)
}

/// Returns the float64 nodes for which ONNX Runtime has no kernel and that were not replaced.
pub(crate) fn single_precision(g: &Graph) -> Vec<Obstacle> {
    let single = |node: &Node| {
        let here = |o: &Operator| is_double(o, g, node) && !matches!(o.float64, Float64::Itself);
        of(node).is_some_and(here) || node.attributes.iter().any(holds_single)
    };
    let needed = g.needed();
    let left = g
        .nodes
        .iter()
        .zip(needed)
        .filter(|(node, needed)| *needed && single(node))
        .map(|(node, _)| node);
    left.map(|node| g.obstacle(node, SINGLE.into())).collect()
}

/// Returns whether a subgraph holds an operator without a float64 kernel. Those that can be
/// replaced were replaced when the file was read.
fn holds_single(attribute: &AttributeProto) -> bool {
    let single = |node: &NodeProto| {
        find("", node.op_type())
            .is_some_and(|operator| !matches!(operator.float64, Float64::Itself))
    };
    let mut nodes = attribute
        .g
        .iter()
        .chain(&attribute.graphs)
        .flat_map(|graph| &graph.node);
    nodes.any(|node| single(node) || node.attribute.iter().any(holds_single))
}
