//! Bytes as a model, differentiated in both modes: an error, or a graph that can be written and read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_autodiff::{self as graph, Mode};

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = graph::Model::from_bytes("fuzz", bytes) else { return };
    for mode in [Mode::Jvp, Mode::Vjp] {
        let _ = graph::obstacles(&model, mode, None, None);
        if let Ok(derived) = graph::differentiate(&model, mode, None, None) {
            let written = derived.to_bytes().expect("small models stay small");
            graph::Model::from_bytes("derived", &written).expect("what was written can be read");
        }
    }
});
