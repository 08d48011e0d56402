//! Prints what the crate does with each operator: domain, name, kind of support, first and newest opset, and why it or
//! some of its forms are refused, separated by tabs.
//!
//! `cargo run --release -p onnx-autodiff --example operators`

#![expect(clippy::print_stdout, reason = "an example prints its table")]

use onnx_autodiff::{OperatorSupport, Support, operator_support};

fn main() {
    operator_support()
        .iter()
        .for_each(|operator| println!("{}", line(operator)));
}

fn line(operator: &OperatorSupport) -> String {
    let (first, newest) = match &operator.opsets {
        Some(opsets) => (opsets.start().to_string(), opsets.end().to_string()),
        None => (String::new(), String::new()),
    };
    let reason = operator.reason.as_deref().unwrap_or_default();
    [
        &operator.domain,
        &operator.name,
        word(operator.support),
        &first,
        &newest,
        reason,
    ]
    .join("\t")
}

fn word(support: Support) -> &'static str {
    match support {
        Support::Constant => "constant",
        Support::Rule => "rule",
        Support::Parts => "parts",
        Support::Lowered => "lowered",
        Support::Subgraphs => "subgraphs",
        Support::Refused => "refused",
    }
}
