//! Bytes as a model: an answer or an error, and what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onnx_autodiff as graph;

fuzz_target!(|bytes: &[u8]| {
    let _ = graph::external_files("fuzz", bytes);
    if let Ok(model) = graph::Model::from_bytes("fuzz", bytes) {
        let (_, _, _) = (model.inputs(), model.outputs(), model.operators());
        let written = model.to_bytes().expect("it was read from fewer bytes");
        graph::Model::from_bytes("again", &written).expect("what was written can be read");
    }
});
