//! flowgauge measures log-likelihoods and samples of diffusion and flow models given as ONNX files.
//!
//! Data flows one way: config → plan → models → paths → divergences → likelihoods and samples →
//! statistics → tables → plots. The modules are layers, and each uses only the layers below it.
//! `ARCHITECTURE.md` describes the layers, and `tests/all/architecture.rs` checks them.
//!
//! # Example
//!
//! This example computes the log-likelihood of two points under a Gaussian mixture whose density is
//! known. It takes the exact trace along a path of the adaptive Dormand–Prince method.
//!
//! ```
//! use flowgauge::divergence::{DivergenceEstimator, ModelHandles};
//! use flowgauge::flow::{path::ProbabilityPath, prior::Prior};
//! use flowgauge::likelihood::{LikelihoodTask, evaluate_likelihoods};
//! use flowgauge::{model::analytic::example_mixture, num::key::RngKey, solve::Solver, yaml};
//!
//! let curve = ProbabilityPath::FlowMatching { data_at: 0, t_min: 0.0, t_max: 1.0 }.curve()?;
//! let model = example_mixture(curve.clone(), 2);
//! let estimators: Vec<DivergenceEstimator> = yaml::from_yaml_str("[exact]")?;
//! let solver: Solver = yaml::from_yaml_str("{dopri5: {rtol: 1e-7, atol: 1e-7}}")?;
//! let (prior, key) = (Prior::isotropic(1.0), RngKey { seed: 1 });
//! let task = LikelihoodTask { curve: &curve, prior, solver: &solver, estimators: &estimators, key };
//! let jacobian: Box<dyn flowgauge::flow::field::JacobianOperator> = Box::new(model.clone());
//! let mut handles = ModelHandles { jacobian: Some(jacobian), ..Default::default() };
//!
//! let x = ndarray::array![[0.6, 1.1], [0.0, 0.5]];
//! let rows = evaluate_likelihoods(&mut model.clone(), &mut handles, &task, &[0, 1], x.clone(), None)?;
//! for (row, x) in rows.iter().zip(x.rows()) {
//!     let known = model.log_density(curve.data_end(), x);
//!     assert!((row.log_likelihood.unwrap() - known).abs() < 1e-4);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/likelihood.rs` compares two estimators in this way. A model from files is a
//! [`model::loaded::Model`], and its networks are run by an [`execute::WorkerPool`].

/// Prints a line on standard error, or a note in the form of `--progress json`. A closed standard error
/// is ignored, so that the program goes on.
macro_rules! errln {
    ($($text:tt)*) => { $crate::progress::print_note(format_args!($($text)*)) };
}

mod budget;
pub mod calibration;
mod claim;
pub mod cli;
mod config;
mod convention;
pub mod data;
pub mod dequantization;
pub mod divergence;
mod draft;
pub mod execute;
pub mod features;
pub mod flow;
mod frontier;
mod gate;
pub mod graph;
mod host;
mod hub;
pub mod journal;
mod lattice;
pub mod likelihood;
pub mod metric;
pub mod model;
pub mod num;
mod output;
pub mod plan;
mod progress;
mod publish;
pub mod registry;
mod report;
pub mod reweight;
pub mod rows;
mod run;
pub mod sample;
mod signature;
pub mod solve;
mod status;
pub mod stein;
mod stop;
mod store;
mod table;
pub mod trace;
mod verify;
pub mod yaml;
