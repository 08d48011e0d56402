//! flowgauge measures log-likelihoods and samples of diffusion and flow models given as ONNX files.
//!
//! Data flows one way: config → plan → models → trajectories → divergences → likelihoods and
//! samples → statistics → tables → plots. Modules are layers; `ARCHITECTURE.md` is the map and
//! `tests/all/architecture.rs` holds the modules to it.

/// A line on standard error. Whoever read it may have gone away, which is no reason to stop.
macro_rules! errln {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod budget;
pub mod cli;
pub mod config;
pub mod convention;
pub mod data;
pub mod dequantization;
pub mod divergence;
pub mod execute;
pub mod features;
pub mod flow;
pub mod frontier;
pub mod gate;
pub mod graph;
pub mod host;
pub mod journal;
pub mod lattice;
pub mod likelihood;
pub mod metric;
pub mod model;
pub mod num;
pub mod output;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod registry;
pub mod report;
pub mod rows;
pub mod run;
pub mod sample;
pub mod signature;
pub mod solve;
pub mod stein;
pub mod stop;
pub mod table;
pub mod trace;
pub mod verify;
pub mod yaml;
