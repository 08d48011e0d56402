//! Where a network's nodes run, from the runtime's own profile of a first call, and whether what comes out there is what
//! the CPU gives.
//!
//! A provider can be listed, register without an error, and still run nothing: ONNX Runtime leaves to the CPU, in silence,
//! what a provider cannot load or does not take. It can also compute something else: OpenVINO 2025.4 takes one matrix for
//! another where a weight is used both as it is and transposed. So the first session of each graph is opened with a
//! profile, and its first call is held against the CPU's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use ndarray::ArrayD;
use serde::Deserialize;

use super::provider::Provider;

/// How many nodes of one graph ran on each provider, by the runtime's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeCounts(BTreeMap<String, usize>);

/// What a first call showed of one graph.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The graph's file, and which derivative of it.
    pub graph: String,
    pub counts: NodeCounts,
    /// The largest difference from what the CPU gives, in units of the largest value; none where the CPU cannot run it.
    pub max_difference: Option<f64>,
}

/// An event of a profile, as far as it is read.
#[derive(Deserialize)]
struct ProfileEvent {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    args: ProfileEventArgs,
}

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
    /// Reads a profile: an event for each run of each node's kernel. Copies between memories compute nothing and are not
    /// counted.
    ///
    /// # Errors
    /// Where it is no profile.
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

    /// Nodes on a provider.
    pub fn on_provider(&self, provider: Provider) -> usize {
        self.0.get(provider.runtime_name()).copied().unwrap_or(0)
    }

    /// The counts in words, with those of the provider that was asked for and of the CPU also where they are 0.
    pub fn describe(&self, asked: Provider) -> String {
        let mut order = vec![asked.runtime_name(), Provider::Cpu.runtime_name()];
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
    /// The graph by its file and the folder of that, which stays the same where a model is moved.
    pub fn short_name(&self) -> String {
        let names: Vec<&str> = self.graph.rsplit(['/', '\\']).take(2).collect();
        names.into_iter().rev().collect::<Vec<_>>().join("/")
    }

    /// The counts and the difference from the CPU in words.
    pub fn describe(&self, asked: Provider) -> String {
        let gap = self
            .max_difference
            .map(|gap| format!("; first call within {gap:.1e} of the CPU's"))
            .unwrap_or_default();
        format!("{}{gap}", self.counts.describe(asked))
    }

    /// Refuses a graph that ran elsewhere than asked, or gave other numbers than `precision` explains.
    ///
    /// # Errors
    /// One message with the file, what was asked and what was found.
    pub fn check(&self, asked: Provider, precision: Precision) -> Result<(), String> {
        let (graph, name) = (&self.graph, asked.name());
        if self.counts.on_provider(asked) == 0 {
            return Err(format!(
                "{graph}: --provider {name}: none of its nodes runs there ({}); expected at least one on {}; either its \
                 library could not be set up, or it takes none of the graph's operators in their number format; \
                 --provider cpu runs it",
                self.counts.describe(asked),
                asked.runtime_name()
            ));
        }
        match self.max_difference {
            Some(gap) if gap.is_nan() || gap > precision.tolerance() => Err(format!(
                "{graph}: --provider {name}: a first call differs from the CPU's by {gap:.1e} of the largest value, where \
                 {precision} differ by less than {:.0e}; its numbers are not the network's; --provider cpu runs it",
                precision.tolerance()
            )),
            _ => Ok(()),
        }
    }
}

/// What numbers a graph computes in, and so by how much two providers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    Double,
    Single,
    /// Half precision, or quantized numbers.
    Reduced,
}

impl Precision {
    /// That of a format by the distance from 1 to its next number.
    pub fn from_spacing(spacing: f64) -> Precision {
        match spacing {
            s if s < 1e-12 => Precision::Double,
            s if s < 1e-5 => Precision::Single,
            _ => Precision::Reduced,
        }
    }

    /// The difference, in units of the largest value, that rounding may make of a first call.
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

/// Outputs below this size are held to an absolute difference: at a place where they vanish, rounding is all that is left.
const MIN_OUTPUT_SCALE: f64 = 1e-3;

/// The largest difference between the outputs of two calls, each in units of its output's largest value. Numbers that are
/// not finite must be so in both.
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

fn nan_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// The profile of a session, written into a folder of its own that goes with it.
pub(super) struct SessionProfile {
    folder: tempfile::TempDir,
}

impl SessionProfile {
    pub fn new() -> Result<SessionProfile> {
        Ok(SessionProfile {
            folder: tempfile::Builder::new()
                .prefix("flowgauge-profile-")
                .tempdir()?,
        })
    }

    /// What the file's name begins with.
    pub fn prefix(&self) -> PathBuf {
        self.folder.path().join("profile")
    }

    /// The counts of the file that the runtime wrote, by the name that it gave.
    pub fn node_counts(self, file: &str) -> Result<NodeCounts> {
        let bytes =
            std::fs::read(file).map_err(|e| anyhow!("{file}: the runtime's profile: {e}"))?;
        NodeCounts::from_profile(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events as ONNX Runtime 1.24.1 writes them, fewer arguments each: three calls of one fused node and of one on the CPU,
    /// and what is no node.
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
        let told =
            "TensorrtExecutionProvider: 0, CPUExecutionProvider: 2, OpenVINOExecutionProvider: 1";
        assert_eq!(counts.describe(Provider::Tensorrt), told);
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
            let held = placed(PROFILE, Some(gap)).check(Provider::Openvino, precision);
            assert_eq!(held.is_ok(), fine, "{gap} {precision:?}: {held:?}");
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
