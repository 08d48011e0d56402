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
//! A file is read (`read`, `inline`, `upgrade`, `order`) into a graph (`ir`) whose shapes are inferred as it grows (`shapes`,
//! `content`, `size`), with fused operators replaced by what they consist of (`lowering`), `If` decided where it can be
//! (`branches`), and loops of known length unrolled (`loops`). Forward mode (`tangent`) walks it with one rule per
//! operator (`rules`, `step`); reverse mode
//! (`cotangent`) transposes what forward mode wrote (`transposes`), so that a rule serves both.
//!
//! The trace (`trace`) is forward mode with unit vectors that the graph holds. They are repeated for every sample as late
//! as possible (`late_expansion`), and are fewer where an axis of the state is never mixed (`locality`). Quadratic forms
//! (`quadratic`) of directions that stay the same are two graphs: what depends on the directions alone, and the rest. Of
//! both the last linear layer is reduced first (`output_reduction`).
//!
//! A graph can first be written in another floating-point type (`lift`): in float64 with other operators in the place of
//! those that ONNX Runtime has in float32 alone (`float64`).
//!
//! What the crate does with each operator is told by [`operator_support`], and in `OPERATORS.md`.
//!
//! What else is found in a graph: where its derivative can jump (`kinks`), its largest value (`widest`), its coarsest
//! number format (`precision`). `separate_weights` copies weights for a runtime that confuses them.

mod branches;
mod check;
mod content;
mod cotangent;
mod differentiate;
mod elem;
mod emit;
mod error;
mod fixed;
mod float64;
mod inline;
mod ir;
mod kinks;
mod late_expansion;
mod lift;
mod locality;
mod loops;
mod lowering;
mod model;
mod order;
mod output_reduction;
mod precision;
mod proto;
mod quadratic;
mod read;
mod rules;
mod scaling;
mod separate_weights;
mod shapes;
mod signatures;
mod size;
mod step;
mod support;
mod tangent;
#[cfg(test)]
mod testing;
mod trace;
mod transposes;
mod upgrade;
mod widest;

pub use differentiate::{Mode, QuadraticForms, differentiate, obstacles, quadratic_forms};
pub use elem::ElemType;
pub use error::{GraphError, Obstacle};
pub use fixed::KnownPort;
pub use kinks::Kink;
pub use model::{Dim, Model, Port, external_files, listed};
pub use rules::differentiable as operators;
pub use scaling::Scaling;
pub use signatures::several_outputs;
pub use support::{OperatorSupport, Support, operator_support};
