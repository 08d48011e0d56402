//! Checks of a graph's inputs and outputs against the card.

use anyhow::{Result, anyhow, bail};

use super::onnx::SessionPort;
use crate::num::shape::ShapeMismatch;

/// Checks that the input or output `port` takes states of the card's shape, behind a dynamic batch
/// axis or one of size `batch`, if the graph takes only that. `what` is `input` or `output`.
///
/// # Errors
/// Fails if the port has another shape or a fixed batch size.
pub(super) fn check_state_shape(
    port: &SessionPort,
    shape: &[usize],
    batch: Option<usize>,
    file: &str,
    what: &str,
) -> Result<()> {
    let wanted: Vec<i64> = shape.iter().map(|s| *s as i64).collect();
    let baked = port
        .shape
        .first()
        .filter(|n| **n >= 0 && port.shape.len() == wanted.len() + 1);
    match (baked, batch) {
        (Some(size), Some(batch)) if *size != batch as i64 => bail!(
            "{file}: {what} `{}` has the batch size {size} baked in (shape {:?}), but the card says \
             `batch: {batch}`; expected `batch: {size}`",
            port.name,
            port.shape
        ),
        (Some(size), None) => bail!(
            "{file}: {what} `{}` has the batch size {size} baked in (shape {:?}); export it with a \
             dynamic first axis, or say `batch: {size}` under `network`, so that it is called with \
             {size} rows each time",
            port.name,
            port.shape
        ),
        _ => {}
    }
    let fits = port.shape.len() == wanted.len() + 1
        && port.shape[1..]
            .iter()
            .zip(&wanted)
            .all(|(p, w)| *p < 0 || p == w);
    // An output without a declared shape is checked when the graph runs.
    let undeclared = what == "output" && port.shape.is_empty();
    if !(fits || undeclared) {
        bail!(
            "{file}: {what} `{}` has shape {:?}, but the card's shape needs [N, {}]{}",
            port.name,
            port.shape,
            join_sizes(&wanted),
            permuted_axes_hint(port, shape).unwrap_or_default()
        );
    }
    Ok(())
}

/// Returns a hint if the axes of a port are those of the card in another order.
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

/// Returns the port with the given name; `what` is `input` or `output`.
///
/// # Errors
/// Fails if there is no such port. The message lists the names that exist.
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

/// Whether a port takes one number for the whole batch.
pub(super) fn is_scalar_port(port: &SessionPort) -> bool {
    port.shape.is_empty() || port.shape[..] == [1]
}

/// Joins sizes with commas.
fn join_sizes(sizes: &[i64]) -> String {
    sizes
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
