//! The placement of a graph: the execution providers on which its nodes run, and whether its
//! outputs agree with those of the CPU.
//!
//! An execution provider can be listed and register without an error, and still run nothing. ONNX
//! Runtime silently leaves nodes to the CPU if a provider cannot be loaded or does not support
//! them. A provider can also compute something else. OpenVINO 2025.4, for example, confuses two
//! matrices if a weight is used both as it is and transposed. Therefore the first session of each
//! graph is profiled during its first call, and the outputs of that call are compared with the
//! CPU's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use ndarray::ArrayD;
use serde::Deserialize;

use super::provider::Provider;

/// The number of nodes of one graph that ran on each provider, by ONNX Runtime's provider names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCounts(BTreeMap<String, usize>);

/// The result of the check of a graph's first call.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The path of the graph's file, and the kind of derivative if the graph is derived.
    pub graph: String,
    /// The number of nodes that ran on each provider.
    pub counts: NodeCounts,
    /// The largest difference from the CPU's outputs, relative to the largest value; `None` if the
    /// CPU cannot run the graph.
    pub max_difference: Option<f64>,
}

/// The fields of a profile's event that are read.
#[derive(Deserialize)]
struct ProfileEvent {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: ProfileEventArgs,
}

/// The fields of an event's arguments that are read.
#[derive(Default, Deserialize)]
struct ProfileEventArgs {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    op_name: String,
    #[serde(default)]
    node_index: serde_json::Value,
}

impl NodeCounts {
    /// Counts the nodes in a profile, which has one event for each run of each node's kernel.
    /// Copies between the memories of devices compute nothing and are not counted.
    ///
    /// # Errors
    /// Fails if the bytes are not a profile of ONNX Runtime.
    pub fn from_profile(json: &[u8]) -> Result<NodeCounts> {
        let events: Vec<ProfileEvent> =
            serde_json::from_slice(json).context("the runtime's profile")?;
        let computed = |event: &&ProfileEvent| {
            let node = event.cat == "Node"
                && event.name.ends_with("_kernel_time")
                && !event.args.provider.is_empty();
            node && !matches!(
                event.args.op_name.as_str(),
                "MemcpyFromHost" | "MemcpyToHost"
            )
        };
        let nodes: BTreeSet<(String, String, &str)> = (events.iter().filter(computed))
            .map(|e| {
                (
                    e.args.node_index.to_string(),
                    e.name.clone(),
                    e.args.provider.as_str(),
                )
            })
            .collect();
        let mut counts = BTreeMap::new();
        for (_, _, provider) in &nodes {
            *counts.entry((*provider).to_owned()).or_default() += 1;
        }
        Ok(NodeCounts(counts))
    }

    /// Returns the number of nodes that ran on a provider.
    pub fn on_provider(&self, provider: Provider) -> usize {
        self.0.get(provider.runtime_name()).copied().unwrap_or(0)
    }

    /// Describes the counts for the user. The requested provider and the CPU are listed even if no
    /// node ran on them.
    pub fn describe(&self, requested: Provider) -> String {
        let mut order = vec![requested.runtime_name(), Provider::Cpu.runtime_name()];
        order.dedup();
        let others = self
            .0
            .keys()
            .map(String::as_str)
            .filter(|name| !order.contains(name));
        let order: Vec<&str> = order.iter().copied().chain(others).collect();
        let one = |name: &&str| format!("{name}: {}", self.0.get(*name).copied().unwrap_or(0));
        order.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

impl Placement {
    /// Returns the names of the graph's file and of its folder. They stay the same if the model is
    /// moved.
    pub fn short_name(&self) -> String {
        let names: Vec<&str> = self.graph.rsplit(['/', '\\']).take(2).collect();
        names.into_iter().rev().collect::<Vec<_>>().join("/")
    }

    /// Describes the counts and the difference from the CPU for the user.
    pub fn describe(&self, requested: Provider) -> String {
        let gap = self
            .max_difference
            .map(|gap| format!("; first call within {gap:.1e} of the CPU's"))
            .unwrap_or_default();
        format!("{}{gap}", self.counts.describe(requested))
    }

    /// Checks that the graph ran on the requested provider and agrees with the CPU as far as
    /// `precision` permits.
    ///
    /// # Errors
    /// Fails if no node ran on that provider or if the outputs differ more. The message names the
    /// file, the requested provider and the result.
    pub fn check(&self, requested: Provider, precision: Precision) -> Result<(), String> {
        let (graph, name) = (&self.graph, requested.name());
        if self.counts.on_provider(requested) == 0 {
            return Err(format!(
                "{graph}: --provider {name}: none of its nodes runs there ({}); expected at least \
                 one on {}. Either the provider's library cannot be loaded, or it supports none of \
                 the graph's operators in their number format. --provider cpu runs the graph",
                self.counts.describe(requested),
                requested.runtime_name()
            ));
        }
        match self.max_difference {
            Some(gap) if gap.is_nan() || gap > precision.tolerance() => Err(format!(
                "{graph}: --provider {name}: the first call differs from the CPU's by {gap:.1e} of \
                 the largest value, but {precision} differ by less than {:.0e}. The provider's \
                 results are wrong; --provider cpu runs the graph",
                precision.tolerance()
            )),
            _ => Ok(()),
        }
    }
}

/// The lowest precision of a graph's numbers. It determines how much two providers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// float64.
    Double,
    /// float32.
    Single,
    /// float16, bfloat16 or quantized numbers.
    Reduced,
}

impl Precision {
    /// Returns the precision of a number format, from the distance between 1 and the next number.
    pub fn from_spacing(spacing: f64) -> Precision {
        match spacing {
            s if s < 1e-12 => Precision::Double,
            s if s < 1e-5 => Precision::Single,
            _ => Precision::Reduced,
        }
    }

    /// Returns the largest difference in a first call that rounding may cause, relative to the
    /// largest value.
    fn tolerance(self) -> f64 {
        match self {
            Precision::Double => 1e-9,
            Precision::Single => 1e-3,
            Precision::Reduced => 5e-2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Precision::Double => "two computations in double precision",
            Precision::Single => "two computations in single precision",
            Precision::Reduced => "two computations with half or quantized numbers",
        })
    }
}

/// The smallest scale to which differences are relative. If all outputs are close to zero, only
/// rounding is left of them, and a relative difference would be meaningless.
const MIN_OUTPUT_SCALE: f64 = 1e-3;

/// Returns the largest difference between the outputs of two calls. The difference of each output
/// is relative to its largest value. The result is NaN if a number is finite in only one of the
/// calls, or if the shapes differ.
pub fn max_output_difference(found: &[ArrayD<f64>], expected: &[ArrayD<f64>]) -> f64 {
    let one = |(a, b): (&ArrayD<f64>, &ArrayD<f64>)| {
        if a.shape() != b.shape() {
            return f64::NAN;
        }
        let largest = b
            .iter()
            .filter(|v| v.is_finite())
            .fold(MIN_OUTPUT_SCALE, |m, v| m.max(v.abs()));
        let difference = |(a, b): (&f64, &f64)| match (a.is_finite(), b.is_finite()) {
            (true, true) => (a - b).abs() / largest,
            (false, false) => 0.0,
            _ => f64::NAN,
        };
        a.iter().zip(b).map(difference).fold(0.0, nan_max)
    };
    found.iter().zip(expected).map(one).fold(0.0, nan_max)
}

/// Returns the larger number, or NaN if one of them is NaN.
fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// The profile of a session, in a temporary folder that is removed with it.
pub(super) struct SessionProfile {
    /// The temporary folder.
    folder: tempfile::TempDir,
}

impl SessionProfile {
    /// Creates the temporary folder.
    ///
    /// # Errors
    /// Fails if the folder cannot be created.
    pub(super) fn new() -> Result<SessionProfile> {
        Ok(SessionProfile {
            folder: tempfile::Builder::new()
                .prefix("flowgauge-profile-")
                .tempdir()?,
        })
    }

    /// Returns the path prefix that ONNX Runtime completes to the name of the profile's file.
    pub(super) fn prefix(&self) -> PathBuf {
        self.folder.path().join("profile")
    }

    /// Counts the nodes in the profile's file. `file` is the name that ONNX Runtime returned.
    ///
    /// # Errors
    /// Fails if the file cannot be read or is not a profile.
    pub(super) fn node_counts(self, file: &str) -> Result<NodeCounts> {
        let bytes =
            std::fs::read(file).map_err(|e| anyhow!("{file}: the runtime's profile: {e}"))?;
        NodeCounts::from_profile(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events as ONNX Runtime 1.24.1 writes them, with fewer arguments: three calls of one fused
    /// node and of one node on the CPU, and events that are not nodes.
    const PROFILE: &str = r#"[
        {"cat":"Session","pid":1,"tid":1,"dur":9,"ts":1,"ph":"X","name":"model_loading_array","args":{}},
        {"cat":"Node","dur":3477,"ts":2,"ph":"X","name":"OpenVINOExecutionProvider_OpenVINO-EP-subgraph_1_0_kernel_time","args":{"node_index":"123","provider":"OpenVINOExecutionProvider","op_name":"OpenVINO-EP-subgraph_1"}},
        {"cat":"Node","dur":1364,"ts":3,"ph":"X","name":"OpenVINOExecutionProvider_OpenVINO-EP-subgraph_1_0_kernel_time","args":{"node_index":"123","provider":"OpenVINOExecutionProvider","op_name":"OpenVINO-EP-subgraph_1"}},
        {"cat":"Node","dur":5,"ts":4,"ph":"X","name":"/celu_kernel_time","args":{"node_index":"7","provider":"CPUExecutionProvider","op_name":"Celu"}},
        {"cat":"Node","dur":5,"ts":4,"ph":"X","name":"_kernel_time","args":{"node_index":"8","provider":"CPUExecutionProvider","op_name":"Celu"}},
        {"cat":"Node","dur":5,"ts":5,"ph":"X","name":"/celu_fence_before","args":{"op_name":"Celu"}},
        {"cat":"Node","dur":5,"ts":6,"ph":"X","name":"Memcpy_kernel_time","args":{"node_index":"9","provider":"CUDAExecutionProvider","op_name":"MemcpyToHost"}},
        {"cat":"Session","dur":99,"ts":7,"ph":"X","name":"model_run","args":{}}
    ]"#;

    fn placed(profile: &str, gap: Option<f64>) -> Placement {
        let counts = NodeCounts::from_profile(profile.as_bytes()).expect("a profile");
        Placement {
            graph: "net.onnx".to_owned(),
            counts,
            max_difference: gap,
        }
    }

    #[test]
    fn nodes_are_counted_once_per_provider() {
        let counts = placed(PROFILE, None).counts;
        assert_eq!(
            (
                counts.on_provider(Provider::Openvino),
                counts.on_provider(Provider::Cpu),
                counts.on_provider(Provider::Cuda)
            ),
            (1, 2, 0)
        );
        assert_eq!(
            counts.describe(Provider::Openvino),
            "OpenVINOExecutionProvider: 1, CPUExecutionProvider: 2"
        );
        let expected =
            "TensorrtExecutionProvider: 0, CPUExecutionProvider: 2, OpenVINOExecutionProvider: 1";
        assert_eq!(counts.describe(Provider::Tensorrt), expected);
        assert!(NodeCounts::from_profile(b"no profile").is_err());
    }

    #[test]
    fn short_name_drops_leading_folders() {
        let short = |graph: &str| {
            Placement {
                graph: graph.to_owned(),
                ..placed("[]", None)
            }
            .short_name()
        };
        assert_eq!(short("/there/models/digits/stad.onnx"), "digits/stad.onnx");
        assert_eq!(
            short("configs/../digits/denoiser.onnx, its Jacobian products"),
            "digits/denoiser.onnx, its Jacobian products"
        );
        assert_eq!(short("net.onnx"), "net.onnx");
    }

    #[test]
    fn graph_on_another_provider_is_refused() {
        let elsewhere = placed(PROFILE, Some(0.0))
            .check(Provider::Cuda, Precision::Single)
            .expect_err("elsewhere");
        for word in [
            "net.onnx",
            "--provider cuda",
            "CUDAExecutionProvider: 0",
            "CPUExecutionProvider: 2",
        ] {
            assert!(elsewhere.contains(word), "{elsewhere}");
        }
        assert_eq!(
            placed(PROFILE, Some(1e-6)).check(Provider::Openvino, Precision::Single),
            Ok(())
        );
        assert_eq!(
            placed(PROFILE, None).check(Provider::Openvino, Precision::Single),
            Ok(())
        );
        let empty = placed("[]", None)
            .check(Provider::Openvino, Precision::Single)
            .expect_err("nothing ran");
        assert!(
            empty.contains("OpenVINOExecutionProvider: 0, CPUExecutionProvider: 0"),
            "{empty}"
        );
    }

    #[test]
    fn difference_from_cpu_beyond_precision_is_refused() {
        for (gap, precision, fine) in [
            (1e-6, Precision::Single, true),
            (5e-3, Precision::Single, false),
            (5e-3, Precision::Reduced, true),
            (0.7, Precision::Reduced, false),
            (1e-7, Precision::Double, false),
            (f64::NAN, Precision::Reduced, false),
        ] {
            let result = placed(PROFILE, Some(gap)).check(Provider::Openvino, precision);
            assert_eq!(result.is_ok(), fine, "{gap} {precision:?}: {result:?}");
        }
    }

    #[test]
    fn precision_from_spacing() {
        let of = |bits| Precision::from_spacing(f64::powi(0.5, bits));
        assert_eq!(
            [52, 23, 10, 7].map(of),
            [
                Precision::Double,
                Precision::Single,
                Precision::Reduced,
                Precision::Reduced
            ]
        );
    }

    #[test]
    fn output_difference_is_relative_and_detects_nonfinite() {
        let of = |values: &[f64]| {
            vec![ArrayD::from_shape_vec(vec![values.len()], values.to_vec()).expect("one axis")]
        };
        assert_eq!(
            max_output_difference(&of(&[1.0, 2.0]), &of(&[1.0, 4.0])),
            0.5
        );
        assert_eq!(
            max_output_difference(&of(&[0.0, 1e-9]), &of(&[0.0, 0.0])),
            1e-6
        );
        assert_eq!(
            max_output_difference(&of(&[f64::INFINITY, 1.0]), &of(&[f64::NAN, 1.0])),
            0.0
        );
        assert!(max_output_difference(&of(&[f64::NAN, 1.0]), &of(&[1.0, 1.0])).is_nan());
        assert!(max_output_difference(&of(&[1.0]), &of(&[1.0, 1.0])).is_nan());
    }
}
