//! Unrolls `Loop` and `Scan` nodes whose number of steps is known before the graph runs: as many
//! copies of the body replace the node.
//!
//! Both modes differentiate the copies like any other nodes. A loop of unknown length stays a loop
//! and is differentiated as one (`operators/loops.rs`).

use std::collections::HashMap;

use crate::elem::ElemType;
use crate::graph::emit::int;
use crate::graph::{Graph, Val};
use crate::inference::axis_of;
use crate::inline;
use crate::order;
use crate::proto::*;

/// The largest number of steps of a loop that is unrolled.
const STEPS: i64 = 4096;
/// The largest number of nodes that one loop is unrolled to.
const NODES: usize = 200_000;
/// The largest number of nodes that the whole graph may reach by unrolling.
const LARGEST: usize = 1_000_000;

/// Unrolls a loop and returns its outputs. Returns `None` if the node is no loop or stays a loop.
pub(crate) fn unrolled(g: &mut Graph, node: &NodeProto) -> Option<Vec<Val>> {
    if !standardize(node.domain()).is_empty() {
        return None;
    }
    let unroll: fn(&mut Graph, &NodeProto, &GraphProto) -> Option<Vec<Val>> = match node.op_type() {
        "Loop" => unrolled_loop,
        "Scan" => unrolled_scan,
        _ => return None,
    };
    let body = node
        .attribute
        .iter()
        .find(|a| a.name() == "body")?
        .g
        .clone()?;
    // A failed attempt leaves nodes behind, which the scope discards.
    let scope = g.enter();
    let found = unroll(g, node, &body);
    if found.is_none() {
        g.leave(scope);
    }
    found
}

/// Returns whether so many copies of the body stay within the limits.
fn affordable(steps: i64, body: &GraphProto) -> bool {
    (0..=STEPS).contains(&steps) && body.node.len().saturating_mul(steps as usize) <= NODES
}

/// Unrolls a `Loop`.
fn unrolled_loop(g: &mut Graph, node: &NodeProto, body: &GraphProto) -> Option<Vec<Val>> {
    let input = |g: &Graph, index: usize| {
        node.input
            .get(index)
            .filter(|name| !name.is_empty())
            .and_then(|n| g.named(n))
    };
    let number = |g: &Graph, v: Val| g.content(v)?.items.first()?.as_fixed();
    let trips = input(g, 0)?;
    let trips = number(g, trips)?;
    let states = node.input.len().checked_sub(2)?;
    if !affordable(trips, body) || body.input.len() != states + 2 || body.output.len() < states + 1
    {
        return None;
    }
    let mut carried: Vec<Val> = (2..node.input.len())
        .map(|index| input(g, index))
        .collect::<Option<_>>()?;
    let mut goes_on = match node.input.get(1).filter(|name| !name.is_empty()) {
        Some(name) => g.named(name)?,
        None => truth(g, &[]),
    };
    let mut stacked: Vec<Vec<Val>> = vec![Vec::new(); body.output.len() - states - 1];
    for step in 0..trips {
        if number(g, goes_on)? == 0 {
            break;
        }
        if g.nodes.len() > LARGEST {
            return None;
        }
        let index = g.integer(step);
        let outputs = append_body(g, node, body, &[&[index, goes_on], &carried[..]].concat())?;
        goes_on = outputs[0];
        carried = outputs[1..=states].to_vec();
        stacked
            .iter_mut()
            .zip(&outputs[states + 1..])
            .for_each(|(list, v)| list.push(*v));
    }
    let stacked: Option<Vec<Val>> = stacked.into_iter().map(|list| stack(g, &list, 0)).collect();
    Some([carried, stacked?].concat())
}

/// Appends the constant `true` of the given shape.
pub(crate) fn truth(g: &mut Graph, dims: &[i64]) -> Val {
    g.add_constant(TensorProto {
        dims: dims.to_vec(),
        data_type: Some(ElemType::BOOL.0),
        raw_data: Some(prost::bytes::Bytes::from_static(&[1])),
        ..Default::default()
    })
}

/// Unrolls a `Scan`.
fn unrolled_scan(g: &mut Graph, node: &NodeProto, body: &GraphProto) -> Option<Vec<Val>> {
    let list = |name: &str| {
        node.attribute
            .iter()
            .find(|a| a.name() == name)
            .map(|a| a.ints.clone())
            .unwrap_or_default()
    };
    let sequences = usize::try_from(
        node.attribute
            .iter()
            .find(|a| a.name() == "num_scan_inputs")?
            .i(),
    )
    .ok()?;
    let states = node.input.len().checked_sub(sequences)?;
    if body.input.len() != node.input.len() || body.output.len() < states || sequences == 0 {
        return None;
    }
    let inputs: Vec<Val> = node
        .input
        .iter()
        .map(|name| g.named(name))
        .collect::<Option<_>>()?;
    let axes = list("scan_input_axes");
    let backwards = list("scan_input_directions");
    let axis = |g: &Graph, i: usize| {
        axis_of(
            axes.get(i).copied().unwrap_or(0),
            g.rank(inputs[states + i])?,
        )
    };
    let axes: Vec<usize> = (0..sequences).map(|i| axis(g, i)).collect::<Option<_>>()?;
    let steps = g.shape(inputs[states])?.get(axes[0])?.as_fixed()?;
    if !affordable(steps, body) {
        return None;
    }
    let mut carried = inputs[..states].to_vec();
    let mut stacked: Vec<Vec<Val>> = vec![Vec::new(); body.output.len() - states];
    for step in 0..steps {
        if g.nodes.len() > LARGEST {
            return None;
        }
        let mut given = carried.clone();
        for (i, axis) in axes.iter().enumerate() {
            let index = if backwards.get(i) == Some(&1) {
                steps - 1 - step
            } else {
                step
            };
            let index = g.integer(index);
            given.push(g.op_with(
                "Gather",
                &[inputs[states + i], index],
                vec![int("axis", *axis as i64)],
            ));
        }
        let outputs = append_body(g, node, body, &given)?;
        carried = outputs[..states].to_vec();
        stacked
            .iter_mut()
            .zip(&outputs[states..])
            .for_each(|(list, v)| list.push(*v));
    }
    let (axes, backwards) = (list("scan_output_axes"), list("scan_output_directions"));
    for (i, mut list) in stacked.into_iter().enumerate() {
        if backwards.get(i) == Some(&1) {
            list.reverse();
        }
        carried.push(stack(g, &list, axes.get(i).copied().unwrap_or(0))?);
    }
    Some(carried)
}

/// Concatenates values along a new axis. Returns `None` for an empty list.
fn stack(g: &mut Graph, list: &[Val], axis: i64) -> Option<Val> {
    if list.is_empty() {
        return None;
    }
    let parts: Vec<Val> = list.iter().map(|v| g.unsqueeze(*v, &[axis])).collect();
    Some(g.concat(&parts, axis))
}

/// Appends the body of `node` with its inputs bound to the values `given`, and returns its outputs.
pub(crate) fn append_body(
    g: &mut Graph,
    node: &NodeProto,
    body: &GraphProto,
    given: &[Val],
) -> Option<Vec<Val>> {
    let mut body = body.clone();
    let captured = order::captures(node)
        .into_iter()
        .map(|name| (name.clone(), name));
    let mut names: HashMap<String, String> = captured.collect();
    for (formal, actual) in body.input.iter().zip(given) {
        names.insert(formal.name().to_string(), g.value(*actual).name.clone());
    }
    let prefix = g.fresh_name("step");
    inline::rename_graph(&mut body, &mut names, &prefix);
    super::push_body(g, &body);
    body.output
        .iter()
        .map(|output| g.named(output.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::graph::emit::{int, ints};
    use crate::proto::*;
    use crate::testing::{bytes, graph, integers, node, port};
    use crate::{Mode, Model, differentiate};

    fn body(name: &str, graph: GraphProto) -> AttributeProto {
        AttributeProto {
            name: Some(name.into()),
            g: Some(graph),
            kind: Some(attribute_kind::GRAPH),
            ..Default::default()
        }
    }

    /// `s ← s · x`, so often, with every state kept.
    fn powers(trips: i64) -> Model {
        let steps = vec![
            node("Identity", "c", "on", vec![]),
            node("Mul", "s x", "next", vec![]),
            node("Identity", "next", "kept", vec![]),
        ];
        let mut inner = graph(&["s: N 2"], &["next: N 2", "kept: N 2"], vec![], steps);
        inner.input.splice(0..0, [port("i:", 7), port("c:", 9)]);
        inner.output.insert(0, port("on:", 9));
        let nodes = vec![node(
            "Loop",
            "trips - x",
            "y all",
            vec![body("body", inner)],
        )];
        let made = graph(
            &["x: N 2"],
            &["y: N 2"],
            vec![integers("trips", &[], &[trips])],
            nodes,
        );
        Model::from_bytes("loop.onnx", &bytes(made, 17)).expect("a model")
    }

    #[test]
    fn a_loop_of_known_length_is_differentiated_in_both_modes() {
        for mode in [Mode::Jvp, Mode::Vjp] {
            let derived = differentiate(&powers(3), mode, Some("x"), Some("y")).expect("unrolled");
            assert!(!derived.operators().contains_key("Loop"));
        }
    }

    #[test]
    fn a_scan_goes_along_its_axes_in_its_directions() {
        let steps = vec![
            node("Add", "s e", "next", vec![]),
            node("Mul", "next next", "out", vec![]),
        ];
        let inner = graph(&["s: N", "e: N"], &["next: N", "out: N"], vec![], steps);
        let attributes = vec![
            body("body", inner),
            int("num_scan_inputs", 1),
            ints("scan_input_axes", &[1]),
            ints("scan_input_directions", &[1]),
            ints("scan_output_axes", &[1]),
        ];
        let zero = vec![
            node(
                "ReduceMin",
                "x",
                "least",
                vec![ints("axes", &[1]), int("keepdims", 0)],
            ),
            node("Sub", "least least", "zero", vec![]),
        ];
        let nodes = [zero, vec![node("Scan", "zero x", "sum y", attributes)]].concat();
        let model = Model::from_bytes(
            "scan.onnx",
            &bytes(graph(&["x: N 3"], &["y: N 3"], vec![], nodes), 17),
        )
        .expect("a model");
        for mode in [Mode::Jvp, Mode::Vjp] {
            let derived = differentiate(&model, mode, Some("x"), Some("y")).expect("unrolled");
            assert!(!derived.operators().contains_key("Scan"));
        }
    }
}
