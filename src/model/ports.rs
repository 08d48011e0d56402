//! Inputs and outputs of graphs, held against what a card says of them.

use anyhow::{Result, anyhow, bail};

use super::onnx::SessionPort;
use crate::num::shape::ShapeMismatch;

/// Holds a state-shaped port against the card's shape.
pub(super) fn check_state_shape(
    port: &SessionPort,
    shape: &[usize],
    file: &str,
    what: &str,
) -> Result<()> {
    let wanted: Vec<i64> = shape.iter().map(|s| *s as i64).collect();
    if port.shape.first().is_some_and(|n| *n >= 0) && port.shape.len() == wanted.len() + 1 {
        bail!(
            "{file}: {what} `{}` has the batch size {} baked in (shape {:?}); export it with a dynamic first axis",
            port.name,
            port.shape[0],
            port.shape
        );
    }
    let fits = port.shape.len() == wanted.len() + 1
        && port.shape[1..]
            .iter()
            .zip(&wanted)
            .all(|(p, w)| *p < 0 || p == w);
    // A graph that does not say its output's shape is held to it when it runs.
    let unsaid = what == "output" && port.shape.is_empty();
    if !(fits || unsaid) {
        bail!(
            "{file}: {what} `{}` has shape {:?}, but the card's shape asks for [N, {}]{}",
            port.name,
            port.shape,
            join_sizes(&wanted),
            permuted_axes_hint(port, shape).unwrap_or_default()
        );
    }
    Ok(())
}

/// That the axes of a port are the card's in another order, where they are.
fn permuted_axes_hint(port: &SessionPort, shape: &[usize]) -> Option<String> {
    let sizes: Option<Vec<usize>> = port
        .shape
        .get(1..)?
        .iter()
        .map(|n| usize::try_from(*n).ok())
        .collect();
    let sizes = sizes?;
    let layout = ShapeMismatch::for_shape(&[&[1], &sizes[..]].concat(), shape).layout?;
    Some(format!(
        ": {}; the graph's own shape is `shape: {sizes:?}`",
        layout.description()
    ))
}

pub(super) fn find_port<'a>(
    ports: &'a [SessionPort],
    name: &str,
    file: &str,
    what: &str,
) -> Result<&'a SessionPort> {
    ports.iter().find(|p| p.name == name).ok_or_else(|| {
        let known: Vec<&str> = ports.iter().map(|p| p.name.as_str()).collect();
        anyhow!(
            "{file}: no {what} `{name}`; the graph has {}",
            known.join(", ")
        )
    })
}

pub(super) fn is_scalar_port(port: &SessionPort) -> bool {
    port.shape.is_empty() || port.shape[..] == [1]
}

fn join_sizes(sizes: &[i64]) -> String {
    sizes
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
