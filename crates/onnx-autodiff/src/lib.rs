//! Derives, from an ONNX graph `y = f(x)`, the ONNX graph that also computes products with its Jacobian J.
//!
//! [`Model`] reads and writes files; [`differentiate`] derives a model that computes `y` and, by [`Mode`], `J·V` for K
//! tangents at once (forward mode), `Vᵀ·J` for one cotangent (reverse mode), or the trace of J. The result holds only
//! operators of the standard domain, so that every runtime runs it. This crate knows ONNX and nothing else: it runs nothing.
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
//! let names = |ports: Vec<onnx_autodiff::Port>| ports.into_iter().map(|port| port.name).collect::<Vec<_>>();
//! assert_eq!(names(derived.inputs()), ["x", "x_tangent"]);
//! assert_eq!(names(derived.outputs()), ["y", "y_tangent", "y_quadratic"]);
//! std::fs::write(&net_jvp, derived.to_bytes()?)?;
//! # Ok(())
//! # }
//! ```
//!
//! What cannot be differentiated is refused before anything is written, with every offending node and what to do about it
//! ([`GraphError::Obstacles`]).
//!
//! # How it works
//!
//! A file is read (`model`, `inline`, `upgrade`, `order`) into a `graph` that asks the operators of its nodes as it grows: for types,
//! shapes and the contents of small tensors (`size`, `inference`, `folding`), and what a fused operator consists of. What
//! is appended to it is decided first where it can be (`append`): branches whose condition is known, and loops whose number of
//! steps is. Forward mode (`tangent`) walks the graph with one rule per operator (`step`); reverse mode (`cotangent`)
//! transposes what forward mode wrote (`transposition`), so that a rule serves both. Choices and loops that only the run
//! decides have tangents and cotangents that are choices and loops.
//!
//! **Everything about an operator is in one file of `operators`**: its shapes and contents, its rule, its transpose, how it
//! is written in float64 or by other operators, or why it is refused. `operators/operator.rs` says what can be declared.
//!
//! The trace (`trace`) is forward mode with unit vectors that the graph holds. They are repeated for every sample as late
//! as possible (`late_expansion`), and are fewer where an axis of the state is never mixed (`locality`). Quadratic forms
//! (`quadratic`) of directions that stay the same are two graphs: what depends on the directions alone, and the rest. Of
//! both the last linear layer is reduced first (`output_reduction`).
//!
//! A graph can first be written in another floating-point type (`lift`).
//!
//! What the crate does with each operator is told by [`operator_support`], and in `OPERATORS.md`.
//!
//! What else is found in a graph: where its derivative can jump (`kinks`), its largest value (`widest`), its coarsest
//! number format (`precision`). `separate_weights` copies weights for a runtime that confuses them.

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
mod operators;
mod order;
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
