//! `If`: an undecided choice, whose tangent is another `If` with the same condition.

use std::collections::HashMap;

use super::operator::{Operator, unknown};
use crate::append;
use crate::append::branches::{BRANCHES, renamed};
use crate::elem::ElemType;
use crate::error::Refusal;
use crate::graph::subgraph::{Body, ControlSubgraphs, as_in_file};
use crate::graph::{Control, Graph, Inferred, Node, Val};
use crate::jvp_context::{JvpContext, Tangent, Tangents, known_at};
use crate::proto::*;
use crate::transpose_context::{
    CONTRADICTION, Cotangents, TransposeContext, close_subgraph, cotangent_or_zeros,
    transpose_subgraph,
};

/// The declaration of `If`.
pub(super) const OPERATORS: &[Operator] = &[Operator::new("If")
    .kinked()
    .element(unknown)
    .shapes(branch_types)
    .tangents_with_subgraphs(if_tangents)
    .transpose(if_cotangent)];

/// Returns the types and shapes of the outputs that both branches declare, if they agree.
fn branch_types(g: &mut Graph, node: &Node, outputs: usize) -> Option<Vec<Inferred>> {
    let branch = |name: &str| node.attribute(name)?.g.clone();
    let (yes, no) = (branch("then_branch")?, branch("else_branch")?);
    let mut inferred = Vec::new();
    for i in 0..outputs {
        let (a, b) = (
            tensor_type(yes.output.get(i)?),
            tensor_type(no.output.get(i)?),
        );
        let (Some(a), Some(b)) = (a, b) else {
            return None;
        };
        let (p, q) = (g.declared_shape(a), g.declared_shape(b));
        inferred.push((ElemType(a.elem_type()), p.filter(|p| Some(p) == q.as_ref())));
    }
    Some(inferred)
}

/// Returns the tangents of an `If`: another `If` with the same condition, whose branches compute
/// them.
fn if_tangents(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
) -> Result<Vec<Option<Tangent>>, Refusal> {
    s.node.captures.iter().for_each(|v| s.g.restore_name(*v));
    let proto = s.g.export_node(&s.node);
    let condition = s.node.input(0).ok_or("its condition is missing")?;
    let indices: Vec<usize> = (0..s.node.outputs.len())
        .filter(|i| s.node.output(*i).is_some_and(|v| s.g.elem(v).is_float()))
        .collect();
    let mut branch = |name: &str| -> Result<Body, Refusal> {
        let graph = renamed(s.g, &proto, name).ok_or("one of its branches is missing")?;
        let scope = s.g.enter();
        match branch_tangents(s, of, &graph, &indices) {
            Ok(outputs) => Ok(Body::close(s.g, scope, Vec::new(), outputs)),
            Err(refusal) => {
                s.g.leave(scope);
                Err(refusal)
            }
        }
    };
    let branches = [branch(BRANCHES[0])?, branch(BRANCHES[1])?];
    branches
        .iter()
        .try_for_each(|body| body.is_repeatable(s.g))?;
    let types = branches[1]
        .outputs
        .iter()
        .map(|v| (s.g.elem(*v), s.g.shape(*v).cloned()))
        .collect();
    let made = choice(s.g, condition, &branches, types, true);
    if let Some(first) = made.first() {
        s.g.control_subgraphs
            .insert(*first, ControlSubgraphs::Branches(branches));
    }
    let mut tangents = vec![None; s.node.outputs.len()];
    for (index, v) in indices.into_iter().zip(made) {
        let shape = s.tangent_shape(&s.shape(s.node.output(index).ok_or("an output is missing")?)?);
        s.g.set_shape(v, &shape);
        tangents[index] = Some(Tangent::plain(v));
    }
    Ok(tangents)
}

/// Returns the tangents of the values that the subgraphs capture.
pub(super) fn captured_tangents(
    s: &JvpContext,
    of: &HashMap<Val, Tangent>,
) -> HashMap<Val, Tangent> {
    s.node
        .captures
        .iter()
        .flat_map(|v| known_at(s.g, *v, of))
        .collect()
}

/// Appends the tangents of one branch's outputs to the current scope.
fn branch_tangents(
    s: &mut JvpContext,
    of: &HashMap<Val, Tangent>,
    graph: &GraphProto,
    indices: &[usize],
) -> Result<Vec<Val>, Refusal> {
    let start = s.g.nodes.len();
    append::push_body(s.g, graph);
    let mut found = Tangents {
        of: captured_tangents(s, of),
        obstacles: Vec::new(),
    };
    let (end, origin) = (s.g.nodes.len(), s.g.origin);
    let wanted: Vec<Val> = indices
        .iter()
        .filter_map(|i| s.g.named(graph.output.get(*i)?.name()))
        .collect();
    if wanted.len() != indices.len() {
        return Err("its branches lack an output".into());
    }
    (s.walk)(s.g, start..end, &s.k.clone(), &wanted, &mut found);
    s.g.origin = origin;
    if let Some(obstacle) = found.obstacles.first() {
        return Err(format!("in one of its branches, {}", as_in_file(obstacle)).into());
    }
    let mut outputs = Vec::new();
    for v in wanted {
        let shape = s.tangent_shape(&s.shape(v)?);
        let d = match found.of.get(&v) {
            Some(tangent) => s.materialize(*tangent),
            None => s.g.zeros(&shape, s.g.elem(v).tangent()),
        };
        // An output must be computed by a node inside the branch.
        outputs.push(s.g.fresh_identity(d));
    }
    Ok(outputs)
}

/// Appends an `If` with the given branches.
fn choice(
    g: &mut Graph,
    condition: Val,
    branches: &[Body; 2],
    types: Vec<Inferred>,
    linear: bool,
) -> Vec<Val> {
    let attributes = branches
        .iter()
        .zip(BRANCHES)
        .map(|(body, name)| body.attribute(g, name))
        .collect();
    let captures = branches.iter().flat_map(Body::captures).collect();
    g.push_control(
        Control {
            op: "If",
            inputs: vec![Some(condition)],
            attributes,
            captures,
            linear,
        },
        types,
    )
}

/// Appends an `If` with the same condition, whose branches compute the cotangents of the tangents
/// that they capture.
fn if_cotangent(t: &mut TransposeContext) -> Result<Cotangents, Refusal> {
    let first = t.node.outputs.iter().flatten().next();
    let Some(ControlSubgraphs::Branches(branches)) =
        first.and_then(|v| t.g.control_subgraphs.get(v)).cloned()
    else {
        return Err(CONTRADICTION.into());
    };
    let condition = t.input(0)?;
    let mut uses = branches[0].linear_captures(t.g);
    let others = branches[1].linear_captures(t.g);
    uses.extend(others.into_iter().filter(|v| !branches[0].uses(*v)));
    if uses.is_empty() {
        return Ok(Vec::new());
    }
    let mut branch = |body: &Body| -> Result<Body, Refusal> {
        let (scope, indices) = body.reopen(t.g);
        let output_cotangents = body
            .outputs
            .iter()
            .zip(&t.output_cotangents)
            .filter_map(|(v, c)| Some((*v, (*c)?)));
        let found =
            transpose_subgraph(t.g, t.walk, indices, output_cotangents).and_then(|cotangents| {
                uses.iter()
                    .map(|v| cotangent_or_zeros(t.g, &cotangents, *v))
                    .collect::<Result<Vec<Val>, _>>()
            });
        close_subgraph(t.g, scope, Vec::new(), found)
    };
    let turned = [branch(&branches[0])?, branch(&branches[1])?];
    let types = uses
        .iter()
        .map(|v| (t.g.elem(*v), t.g.shape(*v).cloned()))
        .collect();
    let made = choice(t.g, condition, &turned, types, false);
    t.captured.extend(uses.into_iter().zip(made));
    Ok(Vec::new())
}
