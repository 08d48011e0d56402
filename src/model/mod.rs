//! Models: their cards, their networks, and the ONNX Runtime that runs the networks.

pub mod analytic;
mod axes;
pub mod card;
pub mod conditions;
pub mod constants;
mod conversion;
pub mod describe;
pub mod files;
pub mod flow_map;
pub mod jacobian;
pub mod joint;
mod kinks;
pub mod latent;
pub mod library;
pub mod loaded;
pub mod network;
pub mod onnx;
mod output_cache;
pub mod placement;
pub mod ports;
pub mod precision;
pub mod probe_cache;
pub mod provider;
pub mod readings;
pub mod scalar;
pub mod shared_library;
pub mod time;
