//! Derives, from an ONNX graph `y = f(x)`, the ONNX graph that also computes products with its
//! Jacobian J.
//!
//! [`Model`] reads and writes files. [`differentiate()`] derives a model that computes `y` and,
//! depending on [`Mode`], `J·V` for K tangents at once (forward mode), `Vᵀ·J` for one cotangent
//! (reverse mode), the trace of J, or J itself. The derived model uses only operators of the
//! standard domain, so that every runtime can run it. The crate itself runs no graphs.
//!
//! ```
//! use onnx_autodiff::{Mode, Model, differentiate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (net, net_jvp) = (folder.path().join("net.onnx"), folder.path().join("net-jvp.onnx"));
//! # std::fs::write(&net, include_bytes!("../tests/data/square.onnx"))?;
//! let model = Model::load(&net)?; // y = x * x, for x of shape [N, 3]
//! let derived = differentiate(&model, Mode::Jvp, Some("x"), Some("y"))?;
//! let names = |ports: Vec<onnx_autodiff::Port>| {
//!     ports.into_iter().map(|port| port.name).collect::<Vec<_>>()
//! };
//! assert_eq!(names(derived.inputs()), ["x", "x_tangent"]);
//! assert_eq!(names(derived.outputs()), ["y", "y_tangent", "y_quadratic"]);
//! std::fs::write(&net_jvp, derived.to_bytes()?)?;
//! # Ok(())
//! # }
//! ```
//!
//! A graph that cannot be differentiated is refused before anything is written. The error lists
//! every node that stands in the way, and how to export the model instead
//! ([`GraphError::Obstacles`]).
//!
//! # How it works
//!
//! A file is decoded (`model`, `inline`, `upgrade`, `order`) and read into a `graph`, whose new
//! names differ from those of the file (`names`). While the graph grows, it asks the declarations
//! of its operators for types, shapes and the elements of small tensors (`size`, `inference`,
//! `folding`), and for what replaces a fused operator. `If` nodes with a known condition and loops
//! with a known number of steps are replaced on the way (`append`).
//!
//! Forward mode (`tangent`) walks the graph with one rule for each operator (`jvp_context`).
//! Reverse mode (`cotangent`) transposes the operators that forward mode wrote
//! (`transpose_context`), so that one rule serves both modes. The tangent of an `If` that only the
//! run decides is another `If`, and the tangent of a loop of unknown length is another loop.
//!
//! **Everything about an operator is in one file of `operators`**: its shapes and known elements,
//! its rule, its transpose, its replacement in float64 or by other operators, or the reason why it
//! is refused. `operators/operator.rs` lists what can be declared.
//!
//! The trace and J itself (`trace`) are forward mode along unit vectors that the graph holds. The
//! unit vectors are repeated for every sample as late as possible (`late_expansion`). A layer
//! applied to them is its own weights, also where elementwise functions come first
//! (`unit_vectors`). A trace has fewer of them if the network never mixes the elements along an axis of the state (`locality`). Quadratic
//! forms (`quadratic`) with directions that stay the same take two models: one for what depends on
//! the directions alone, and one for the rest. Both the trace and quadratic forms sum before the
//! last linear layer (`output_reduction`).
//!
//! `lift` writes a model in another floating-point type.
//!
//! [`operator_support`] and `OPERATORS.md` list how the crate treats each operator.
//!
//! The crate also finds where the derivative of a graph can jump (`kinks`), the size of its largest
//! value (`widest`), its coarsest number format (`precision`), and how it scales its input
//! (`scaling`). `separate_weights` copies weights for a runtime that confuses them, and `winograd`
//! writes convolutions, also those of a derived model, with fewer multiplications.

#![warn(missing_docs)]

mod append;
mod check;
mod content;
mod cotangent;
mod differentiate;
mod elem;
mod error;
mod fixed;
mod folding;
mod graph;
mod import;
mod inference;
mod inline;
mod jvp_context;
mod kinks;
mod lift;
mod locality;
mod model;
mod names;
mod operators;
mod order;
mod output_range;
mod output_reduction;
mod passes;
mod precision;
mod proto;
mod quadratic;
mod scaling;
mod separate_weights;
mod signatures;
mod size;
mod support;
mod tangent;
#[cfg(test)]
mod testing;
mod trace;
mod transpose_context;
mod upgrade;
mod widest;
mod winograd;

pub use differentiate::{
    Mode, QuadraticForms, differentiate, differentiate_with, obstacles, quadratic_forms,
};
pub use elem::ElemType;
pub use error::{GraphError, Obstacle};
pub use fixed::KnownPort;
pub use kinks::Kink;
pub use model::{Dim, Model, Port, external_files, listed};
pub use operators::differentiable as operators;
pub use passes::{Pass, Passes};
pub use scaling::Scaling;
pub use signatures::several_outputs;
pub use support::{OperatorSupport, Support, operator_support};
