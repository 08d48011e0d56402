//! All integration tests in one binary: every test binary links everything, and one link is enough.
//!
//! Tests that run networks need ONNX Runtime, which is found or fetched as the program itself does it.

#![expect(clippy::panic, reason = "a helper stops its test with what it saw")]
#![expect(
    clippy::print_stdout,
    reason = "a test shows the figures that it holds"
)]

mod architecture;
mod auto_steps;
mod bounds;
mod calibration;
mod card_from;
mod cards;
mod centred;
mod claims;
mod cli;
mod closed_forms;
mod conditional;
mod conventions;
mod convolutions;
mod documented_commands;
mod edges;
mod exports;
mod few_step;
mod graph;
mod habits;
mod hub;
mod inputs;
mod messages;
mod metrics;
mod networks;
mod old_runs;
mod one_call;
mod oracle;
mod outputs;
mod passes;
mod precision;
mod products;
mod properties;
mod readings;
mod resume;
mod reweight;
mod row_places;
mod samplers;
mod schema;
mod shapes;
mod shards;
mod snapshots;
mod status;
mod stein;
mod stop;
mod stores;
mod terminal;
mod times;
mod verify;
mod views;
