//! Choices and loops.

use super::operator::{Operator, unknown};
use crate::elem::ElemType;
use crate::ir::{Graph, Inferred, Node, tensor_type};

pub const OPERATORS: &[Operator] = &[
    Operator::new("If").element(unknown).shapes(branch_types).branches(),
    Operator::new("Loop").element(unknown).refused(UNROLLED),
    Operator::new("Scan").element(unknown).refused(UNROLLED),
];

pub const UNROLLED: &str = "a loop whose number of steps is not known before it runs is not differentiated; export the model with a fixed number of steps, or with the loop unrolled";

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
