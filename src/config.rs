//! What a user wrote: a run's config, read strictly and changed only by `--set`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dequantization::Dequantization;
use crate::divergence::DivergenceEstimator;
use crate::flow::grid::GridSpacing;
use crate::lattice::LatticePolicy;
use crate::metric::Metric;
use crate::model::card::check_plain_name;
use crate::model::precision::NetworkPrecision;
use crate::num::shape::{AxisLayout, AxisLayouts};
use crate::sample::Sampler;
use crate::signature::{self, ExpectedFile};
use crate::solve::Solver;
use crate::stein::SteinTest;
use crate::yaml::{Document, Fault, MapEntry, Node, Value};

/// A run: which likelihoods and which samples to measure, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the run directory, `reports/<name>`, unless `--out` does.
    pub name: String,
    #[serde(default)]
    pub seed: u64,
    /// What all networks of cards compute in, where that is not the type of their files: `float64`, which shows what
    /// float32 costs in accuracy, or `float32` for networks in half precision. Feature extractors stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<NetworkPrecision>,
    /// For every likelihood entry that names none of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub estimators: Vec<DivergenceEstimator>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub solvers: Vec<Solver>,
    /// What the others are compared with, sample by sample; the first estimator unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DivergenceEstimator>,
    /// The solver under which the reference stands, for the rows of every solver; each solver's own unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_solver: Option<Solver>,
    /// Samples per trial: what a kill can lose, at most.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub likelihood: Vec<LikelihoodEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<SamplesEntry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<MapsEntry>,
}

/// How far a flow map is a flow map: identities that a true one keeps, on data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapsEntry {
    pub model: PathBuf,
    /// Where the walks begin; for a map that goes to the data alone they begin at noise, and these serve the proposal.
    pub data: PathBuf,
    /// The order of the data's axes where it is not the card's, a letter each: `NHWC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// The name under the card's `flow_maps`.
    pub map: String,
    /// Numbers of steps to walk in.
    #[serde(default = "default_steps")]
    pub steps: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpacing>,
    /// The first so many samples of the data.
    #[serde(default = "default_map_samples")]
    pub samples: usize,
    /// Draws for the normalization by importance sampling, in up to three dimensions; 0 for none.
    #[serde(default)]
    pub draws: usize,
}

fn default_steps() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

fn default_map_samples() -> usize {
    64
}

/// Log-likelihoods of one array under one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LikelihoodEntry {
    /// The card; like all paths, relative to the config's folder, or else to the current one.
    pub model: PathBuf,
    pub data: PathBuf,
    /// The order of the data's axes where it is not the card's, a letter each: `NHWC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// The first so many samples; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimators: Option<Vec<DivergenceEstimator>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solvers: Option<Vec<Solver>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DivergenceEstimator>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_solver: Option<Solver>,
    /// Samples whose divergence is recorded along the path, for the figure; 0 for none.
    #[serde(default = "default_profile")]
    pub profile: usize,
    /// How integers become reals: one uniform draw per sample unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantization: Option<Dequantization>,
    /// Measures the solver's and the rounding's part of the error of every estimator on the first few samples: `true`, or
    /// how many. Unless given, the solver's part of the reference is measured where its steps are fixed and that costs
    /// little; `false` leaves that out too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ErrorBudgetSetting>,
    /// What is done about data whose numbers bound nothing, such as floats that were quantized and not dequantized:
    /// `refuse` or `allow`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lattice: LatticePolicy,
    /// Stein tests of divergence heads on these data, one entry per head.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<SteinTest, Vec<SteinTest>>")]
    pub stein: Vec<SteinTest>,
    /// For models of the plane: the log-density over a rectangle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<DensityGrid>,
}

/// How much of the data the error budget is measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBudgetOptions {
    #[serde(default = "default_budget_samples")]
    pub samples: usize,
}

/// What a config says of an error budget: `true`, `false` or `{samples: N}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or {samples: N}")]
pub enum ErrorBudgetSetting {
    Enabled(bool),
    Options(ErrorBudgetOptions),
}

impl ErrorBudgetSetting {
    /// How many samples it is to be measured on; none where it is not wanted.
    pub fn samples(&self) -> Option<usize> {
        match self {
            ErrorBudgetSetting::Enabled(asked) => asked.then(default_budget_samples),
            ErrorBudgetSetting::Options(budget) => Some(budget.samples),
        }
    }
}

/// A rectangle with `points` × `points` grid points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DensityGrid {
    pub x: [f64; 2],
    pub y: [f64; 2],
    #[serde(default = "default_points")]
    pub points: usize,
}

/// Samples of one model, and their statistics against data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplesEntry {
    pub model: PathBuf,
    pub samplers: Vec<Sampler>,
    /// One of the samplers, which every other is held against: all begin at the same noise, so differences are paired.
    /// SteinDiff is held against its own sampler in any case, where the entry has that too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Sampler>,
    pub count: usize,
    /// States at the prior end, taken as they are, instead of the seed's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<PathBuf>,
    pub reference: PathBuf,
    /// Other data of the same law, for the data-versus-data floor of every statistic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<PathBuf>,
    /// What the model was trained on, where that is not the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Data that the model has not seen, where those are not the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The order of the axes of these arrays where it is not the card's: one for all that need it, `NHWC`, or one for
    /// each, `{reference: NHWC}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayouts>,
    /// An ONNX feature extractor; the raw numbers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractor: Option<PathBuf>,
    pub metrics: Vec<Metric>,
}

/// The schema of a key that takes two forms.
fn any_of_schema<A: JsonSchema, B: JsonSchema>(
    generator: &mut schemars::SchemaGenerator,
) -> schemars::Schema {
    let forms = [
        generator.subschema_for::<A>(),
        generator.subschema_for::<B>(),
    ];
    schemars::json_schema!({ "anyOf": forms })
}

/// A list, or its one entry alone; by a visitor, since an untagged enum would not say which key is wrong.
fn one_or_many<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
    struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for OneOrManyVisitor<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            write!(f, "one entry or a list of them")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<Vec<T>, A::Error> {
            Vec::<T>::deserialize(SeqAccessDeserializer::new(seq))
        }
    }
    deserializer.deserialize_any(OneOrManyVisitor(std::marker::PhantomData))
}

/// Trials of one entry; more would only fill the disk with files.
const MAX_TRIALS_PER_ENTRY: usize = 100_000;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_chunk() -> usize {
    128
}

fn default_profile() -> usize {
    8
}

fn default_budget_samples() -> usize {
    32
}

fn default_points() -> usize {
    64
}

/// A config with the bytes it was read from and where.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    /// What was written, without what is at fault.
    pub config: Config,
    pub text: String,
    /// The `--set` changes, as the user gave them.
    pub overrides: Vec<String>,
    folder: PathBuf,
    display_name: String,
    document: Document,
    faults: Vec<Fault>,
}

impl ConfigFile {
    /// Reads a config and applies `key.path=value` changes. Faults that leave something to check further wait for
    /// [`ConfigFile::reject_faults`], so that all of them are told at once.
    ///
    /// # Errors
    /// A message that names the file and every fault, where nothing can be checked further.
    pub fn read(path: &Path, changes: &[String]) -> Result<ConfigFile> {
        let named = std::iter::once(path.display().to_string())
            .chain(changes.iter().map(|c| format!("--set {c}")));
        let name = if changes.is_empty() {
            path.display().to_string()
        } else {
            name_with_overrides(named)
        };
        let text = signature::read_yaml_text(path, ExpectedFile::Config)
            .map_err(|e| anyhow!("{}: {e}", path.display()))?;
        let mut document =
            Document::parse(&text).map_err(|e| anyhow!("{}: {e}", path.display()))?;
        for change in changes {
            apply_override(&mut document.root, change)
                .with_context(|| format!("--set {change}"))?;
        }
        if let Some(other) = explain_other_file(&document.root) {
            bail!("{}: {other}", path.display());
        }
        let (config, faults) = document.read_partly::<Config>();
        let Some(config) = config else {
            bail!("{name}: {}", document.report_faults(faults))
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let faults = document.locate(faults);
        let mut written = ConfigFile {
            config,
            text,
            overrides: changes.to_vec(),
            folder,
            display_name: name,
            document,
            faults,
        };
        let found = written.check();
        written.faults.extend(written.document.locate(found));
        Ok(written)
    }

    /// A path of the config: relative to its folder, or to the current one where nothing is there.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let beside = self.folder.join(path);
        // `file.npz:name` is no file itself, so the part before the colon decides.
        let text = beside.to_string_lossy().into_owned();
        let file = text
            .rsplit_once(':')
            .map_or(text.as_str(), |(file, _)| file);
        if beside.exists() || Path::new(file).exists() {
            beside
        } else {
            path.to_owned()
        }
    }

    /// Whether something at or below a key, or above it, is at fault already, so that what follows from it is no news.
    pub fn has_fault_near(&self, key: &str) -> bool {
        let below = |inner: &str, outer: &str| {
            inner
                .strip_prefix(outer)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                && !outer.is_empty()
        };
        let key = &self.document.original_key(key);
        self.faults
            .iter()
            .any(|f| below(&f.key, key) || below(key, &f.key))
    }

    /// Refuses the config where it has faults, these among them.
    ///
    /// # Errors
    /// One message that names the file and every fault.
    pub fn reject_faults(&self, found: Vec<Fault>) -> Result<()> {
        let mut all = self.faults.clone();
        for fault in self.document.locate(found) {
            if !all.contains(&fault) {
                all.push(fault);
            }
        }
        if all.is_empty() {
            Ok(())
        } else {
            Err(anyhow!(
                "{}: {}",
                self.display_name,
                self.document.report_faults(all)
            ))
        }
    }

    fn check(&self) -> Vec<Fault> {
        let config = &self.config;
        let mut found = Vec::new();
        let mut fault = |key: String, message: String| {
            if !self.has_fault_near(&key) {
                found.push(Fault::new(key, message));
            }
        };
        if let Err(message) = check_plain_name(&config.name) {
            fault("name".to_owned(), message);
        }
        let asks = ["likelihood", "samples", "maps"];
        if config.likelihood.is_empty()
            && config.samples.is_empty()
            && config.maps.is_empty()
            && !asks.iter().any(|key| self.has_fault_near(key))
        {
            fault(
                String::new(),
                "it asks for nothing; expected entries under `likelihood`, `samples` or `maps`"
                    .to_owned(),
            );
        }
        if config.chunk == 0 {
            fault("chunk".to_owned(), "0, expected at least 1".to_owned());
        }
        for (i, entry) in config.likelihood.iter().enumerate() {
            let at = |key: &str| format!("likelihood.{i}.{key}");
            for (key, none) in [
                (
                    "estimators",
                    entry
                        .estimators
                        .as_ref()
                        .unwrap_or(&config.estimators)
                        .is_empty(),
                ),
                (
                    "solvers",
                    entry.solvers.as_ref().unwrap_or(&config.solvers).is_empty(),
                ),
            ] {
                if none && !self.has_fault_near(key) {
                    fault(
                        at(key),
                        "none here and none for the whole run; expected at least one".to_owned(),
                    );
                }
            }
            if let Some(few) = entry
                .budget
                .as_ref()
                .and_then(ErrorBudgetSetting::samples)
                .filter(|n| *n < 2)
            {
                let message = format!("{few}, expected at least 2, so that the mean has an error");
                fault(at("budget.samples"), message);
            }
            if entry.samples == Some(0) {
                fault(at("samples"), "0, expected at least 1".to_owned());
            }
            if let Some(grid) = &entry.density {
                for (key, [low, high]) in [("density.x", grid.x), ("density.y", grid.y)] {
                    if !(low < high && (high - low).is_finite()) {
                        fault(
                            at(key),
                            format!("[{low}, {high}], expected [low, high] with low < high"),
                        );
                    }
                }
                if !(2..=2000).contains(&grid.points) {
                    fault(
                        at("density.points"),
                        format!("{}, expected 2 to 2000", grid.points),
                    );
                }
            }
        }
        for (i, entry) in config.maps.iter().enumerate() {
            let at = |key: &str| format!("maps.{i}.{key}");
            if entry.steps.is_empty() {
                fault(
                    at("steps"),
                    "none, expected at least one number of steps".to_owned(),
                );
            }
            if entry.samples < 2 {
                fault(
                    at("samples"),
                    format!("{}, expected at least 2", entry.samples),
                );
            }
            if entry.draws > MAX_MAP_DRAWS {
                fault(
                    at("draws"),
                    format!("{}, expected at most {MAX_MAP_DRAWS}", entry.draws),
                );
            }
        }
        for (i, entry) in config.samples.iter().enumerate() {
            let at = |key: &str| format!("samples.{i}.{key}");
            if entry.samplers.is_empty() {
                fault(at("samplers"), "none, expected at least one".to_owned());
            }
            if entry.metrics.is_empty() {
                fault(at("metrics"), "none, expected at least one".to_owned());
            }
            if entry.count == 0 {
                fault(at("count"), "0, expected at least 1".to_owned());
            }
            if entry.count.div_ceil(config.chunk.max(1)) > MAX_TRIALS_PER_ENTRY {
                let message = format!(
                    "{} makes more than {MAX_TRIALS_PER_ENTRY} trials of `chunk: {}`",
                    entry.count, config.chunk
                );
                fault(at("count"), message);
            }
        }
        found
    }
}

/// Draws of one entry under `maps`: they are held at once.
const MAX_MAP_DRAWS: usize = 1 << 20;

fn name_with_overrides(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    format!("{} with {}", parts[0], parts[1..].join(" "))
}

/// What a file is whose keys are those of another kind of file.
fn explain_other_file(root: &Node) -> Option<String> {
    let has = |key: &str| root.get(key).is_some();
    if has("likelihood") || has("samples") || has("maps") {
        return None;
    }
    if has("network") || (has("shape") && has("path")) {
        return Some(
            "it is a model card, expected a config; a config names cards by `model:` of its entries".to_owned(),
        );
    }
    has("claims").then(|| {
        "it is a file of claims, expected a config; claims go to `flowgauge gate --claims`"
            .to_owned()
    })
}

/// Applies one `key.path=value`; numbers in the path are positions in a list.
fn apply_override(root: &mut Node, change: &str) -> Result<()> {
    let (path, text) = change
        .split_once('=')
        .ok_or_else(|| anyhow!("expected key.path=value"))?;
    let mut value = Document::parse(text)
        .map_err(|e| anyhow!("its value is no YAML: {e}"))?
        .root;
    value.set_position(None);
    let mut at = root;
    for segment in path.split('.') {
        if segment.is_empty() {
            bail!("expected key.path=value, with no empty key");
        }
        if at.value == Value::Null {
            at.value = Value::Map(Vec::new());
        }
        at = match &mut at.value {
            Value::List(items) => {
                let length = items.len();
                let index: usize = segment
                    .parse()
                    .map_err(|_| anyhow!("`{segment}` stands for a position in a list"))?;
                items
                    .get_mut(index)
                    .ok_or_else(|| anyhow!("position {index} of a list of {length}"))?
            }
            Value::Map(entries) => {
                let there = entries.iter().position(|e| e.key == segment);
                let index = there.unwrap_or_else(|| {
                    let node = Node {
                        value: Value::Null,
                        position: None,
                    };
                    entries.push(MapEntry {
                        key: segment.to_owned(),
                        position: None,
                        node,
                    });
                    entries.len() - 1
                });
                &mut entries[index].node
            }
            Value::Scalar(scalar) => {
                bail!("`{segment}` lies below {}, which has no keys", scalar.text)
            }
            Value::Null => bail!("`{segment}` lies below nothing"),
        };
    }
    *at = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: a\nestimators: [exact, {hutchinson: {probes: 8}}]\nsolvers: [{heun: {steps: 4}}]\n\
                        likelihood:\n  - {model: m.yaml, data: x.npy}\n";

    fn read(text: &str, changes: &[&str]) -> Result<Config> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("c.yaml");
        std::fs::write(&path, text)?;
        let changes: Vec<String> = changes.iter().map(|c| c.to_string()).collect();
        let written = ConfigFile::read(&path, &changes)?;
        written.reject_faults(Vec::new())?;
        Ok(written.config)
    }

    #[test]
    fn overrides_reach_lists_and_absent_keys() {
        let config = read(
            TEXT,
            &[
                "likelihood.0.samples=5",
                "seed=9",
                "estimators.1.hutchinson.probes=3",
            ],
        )
        .expect("right");
        assert_eq!((config.likelihood[0].samples, config.seed), (Some(5), 9));
        assert_eq!(config.estimators[1].label(), "hutchinson(probes=3)");
    }

    #[test]
    fn config_errors_name_the_key() {
        let refused = |text: &str, changes: &[&str]| {
            format!("{:#}", read(text, changes).expect_err("refused"))
        };
        assert!(
            refused(
                &TEXT.replace("chunk", "x").replace("solvers", "solver"),
                &[]
            )
            .contains("solver")
        );
        assert!(refused(&TEXT.replace("name: a", "name: ../a"), &[]).contains("name"));
        assert!(refused(&TEXT.replace("probes", "probs"), &[]).contains("probs"));
        assert!(refused(TEXT, &["likelihood.3.samples=5"]).contains("position 3"));
        assert!(refused(TEXT, &["sead=5"]).contains("sead"));
        assert!(refused(TEXT, &["seed"]).contains("key.path=value"));
        assert!(refused("name: a\n", &[]).contains("nothing"));
    }
}
