//! Models: cards, the networks behind them, and the runtime that runs those.

pub mod analytic;
pub mod asked;
mod axes;
pub mod card;
pub mod constants;
pub mod derived;
pub mod files;
pub mod flow_map;
pub mod joint;
mod kinks;
pub mod library;
pub mod lift;
pub mod network;
pub mod onnx;
pub mod opened;
pub mod placement;
pub mod ports;
pub mod probe_cache;
pub mod provider;
pub mod scalar;
pub mod time;
