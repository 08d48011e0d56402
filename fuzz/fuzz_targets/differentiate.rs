//! Bytes as a model, differentiated in every mode, or in the one that `ONNX_AUTODIFF_FUZZ_MODE` names: an error, or a graph
//! that can be written and read.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use onnx_autodiff::{self as graph, Mode};

const MODES: [(&str, Mode); 4] =
    [("jvp", Mode::Jvp), ("vjp", Mode::Vjp), ("trace", Mode::Trace), ("quadratic", Mode::Quadratic)];

fn modes() -> &'static [(&'static str, Mode)] {
    static CHOSEN: OnceLock<Vec<(&str, Mode)>> = OnceLock::new();
    let wanted = || std::env::var("ONNX_AUTODIFF_FUZZ_MODE").ok();
    CHOSEN.get_or_init(|| match wanted() {
        Some(name) => MODES.into_iter().filter(|(known, _)| *known == name).collect(),
        None => MODES.to_vec(),
    })
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = graph::Model::from_bytes("fuzz", bytes) else { return };
    for (_, mode) in modes() {
        let _ = graph::obstacles(&model, *mode, None, None);
        if let Ok(derived) = graph::differentiate(&model, *mode, None, None) {
            let written = derived.to_bytes().expect("small models stay small");
            graph::Model::from_bytes("derived", &written).expect("what was written can be read");
        }
    }
});
