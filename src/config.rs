//! What a user wrote: a run's config, read strictly and changed only by `--set`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dequantization::Dequantization;
use crate::divergence::Divergence;
use crate::flow::grid::Spacing;
use crate::lattice::Lattice;
use crate::metric::Metric;
use crate::model::card::{plain_name, yaml};
use crate::num::shape::{Layout, Layouts};
use crate::sample::Sampler;
use crate::solve::Solver;
use crate::stein::Stein;

/// A run: which likelihoods and which samples to measure, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Names the run directory, `reports/<name>`, unless `--out` does.
    pub name: String,
    #[serde(default)]
    pub seed: u64,
    /// For every likelihood entry that names none of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub estimators: Vec<Divergence>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub solvers: Vec<Solver>,
    /// What the others are compared with, sample by sample; the first estimator unless named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Divergence>,
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
    pub layout: Option<Layout>,
    /// The name under the card's `flow_maps`.
    pub map: String,
    /// Numbers of steps to walk in.
    #[serde(default = "default_steps")]
    pub steps: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Spacing>,
    /// The first so many samples of the data.
    #[serde(default = "default_residuals")]
    pub samples: usize,
    /// Draws for the normalization by importance sampling, in up to three dimensions; 0 for none.
    #[serde(default)]
    pub draws: usize,
}

fn default_steps() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

fn default_residuals() -> usize {
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
    pub layout: Option<Layout>,
    /// The first so many samples; all of them unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimators: Option<Vec<Divergence>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solvers: Option<Vec<Solver>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Divergence>,
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
    pub budget: Option<Budgeting>,
    /// What is done about float data that were quantized and not dequantized: `refuse` or `allow`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lattice: Lattice,
    /// Stein tests of divergence heads on these data, one entry per head.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    #[schemars(schema_with = "either::<Stein, Vec<Stein>>")]
    pub stein: Vec<Stein>,
    /// For models of the plane: the log-density over a rectangle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<DensityGrid>,
}

/// How much of the data the error budget is measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    #[serde(default = "default_budget")]
    pub samples: usize,
}

/// What a config says of an error budget: `true`, `false` or `{samples: N}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or {samples: N}")]
pub enum Budgeting {
    Asked(bool),
    Given(Budget),
}

impl Budgeting {
    /// How many samples it is to be measured on; none where it is not wanted.
    pub fn samples(&self) -> Option<usize> {
        match self {
            Budgeting::Asked(asked) => asked.then(default_budget),
            Budgeting::Given(budget) => Some(budget.samples),
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
    pub layout: Option<Layouts>,
    /// An ONNX feature extractor; the raw numbers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractor: Option<PathBuf>,
    pub metrics: Vec<Metric>,
}

/// The schema of a key that takes two forms.
fn either<A: JsonSchema, B: JsonSchema>(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let forms = [generator.subschema_for::<A>(), generator.subschema_for::<B>()];
    schemars::json_schema!({ "anyOf": forms })
}

/// A list, or its one entry alone; by a visitor, since an untagged enum would not say which key is wrong.
fn one_or_many<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
    struct Either<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Either<T> {
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
    deserializer.deserialize_any(Either(std::marker::PhantomData))
}

/// Trials of one entry; more would only fill the disk with files.
const MOST_TRIALS: usize = 100_000;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_chunk() -> usize {
    128
}

fn default_profile() -> usize {
    8
}

fn default_budget() -> usize {
    32
}

fn default_points() -> usize {
    64
}

/// A config with the bytes it was read from and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub config: Config,
    pub text: String,
    /// The `--set` changes, as the user gave them.
    pub changes: Vec<String>,
    folder: PathBuf,
}

impl Written {
    /// Reads a config and applies `key.path=value` changes.
    ///
    /// # Errors
    /// One message that names the file, and the line or the key.
    pub fn read(path: &Path, changes: &[String]) -> Result<Written> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name}: the config cannot be read"))?;
        let config: Config = if changes.is_empty() {
            yaml(&text).map_err(|e| anyhow!("{name}: {e}"))?
        } else {
            let mut value: serde_json::Value = yaml(&text).map_err(|e| anyhow!("{name}: {e}"))?;
            for change in changes {
                set(&mut value, change).with_context(|| format!("--set {change}"))?;
            }
            serde_json::from_value(value).map_err(|e| anyhow!("{name} with --set {}: {e}", changes.join(" --set ")))?
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let written = Written { config, text, changes: changes.to_vec(), folder };
        written.check().with_context(|| name.to_string())?;
        Ok(written)
    }

    /// A path of the config: relative to its folder, or to the current one where nothing is there.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        let beside = self.folder.join(path);
        // `file.npz:name` is no file itself, so the part before the colon decides.
        let text = beside.to_string_lossy().into_owned();
        let file = text.rsplit_once(':').map_or(text.as_str(), |(file, _)| file);
        if beside.exists() || Path::new(file).exists() { beside } else { path.to_owned() }
    }

    fn check(&self) -> Result<()> {
        let config = &self.config;
        plain_name(&config.name).map_err(|e| anyhow!("name: {e}"))?;
        if config.likelihood.is_empty() && config.samples.is_empty() && config.maps.is_empty() {
            bail!("it asks for nothing; expected entries under `likelihood`, `samples` or `maps`");
        }
        if config.chunk == 0 {
            bail!("chunk: 0, expected at least 1");
        }
        for (i, entry) in config.likelihood.iter().enumerate() {
            let at = |key: &str| format!("likelihood.{i}.{key}");
            if entry.estimators.as_ref().unwrap_or(&config.estimators).is_empty() {
                bail!("{}: none here and none for the whole run; expected at least one", at("estimators"));
            }
            if entry.solvers.as_ref().unwrap_or(&config.solvers).is_empty() {
                bail!("{}: none here and none for the whole run; expected at least one", at("solvers"));
            }
            if entry.budget.as_ref().and_then(Budgeting::samples).is_some_and(|n| n < 2) {
                bail!("{}: fewer than 2; expected at least 2, so that the mean has an error", at("budget.samples"));
            }
            if entry.samples == Some(0) {
                bail!("{}: 0, expected at least 1", at("samples"));
            }
            if let Some(grid) = &entry.density {
                let ordered = |r: &[f64; 2]| r[0] < r[1] && r.iter().all(|v| v.is_finite());
                if !ordered(&grid.x) || !ordered(&grid.y) || !(2..=2000).contains(&grid.points) {
                    bail!("{}: expected x and y as [low, high] with low < high, and 2 to 2000 points", at("density"));
                }
            }
        }
        for (i, entry) in config.maps.iter().enumerate() {
            if entry.steps.is_empty() || entry.samples < 2 || entry.draws > 1 << 20 {
                bail!("maps.{i}: expected at least one of `steps`, at least 2 `samples`, and at most 1048576 `draws`");
            }
        }
        for (i, entry) in config.samples.iter().enumerate() {
            if entry.samplers.is_empty() || entry.metrics.is_empty() || entry.count == 0 {
                bail!("samples.{i}: expected at least one of `samplers`, of `metrics`, and a `count` of at least 1");
            }
            if entry.count.div_ceil(config.chunk) > MOST_TRIALS {
                bail!(
                    "samples.{i}.count: {} makes more than {MOST_TRIALS} trials of `chunk: {}`",
                    entry.count,
                    config.chunk
                );
            }
        }
        Ok(())
    }
}

/// Applies one `key.path=value`; numbers in the path are positions in a list.
fn set(root: &mut serde_json::Value, change: &str) -> Result<()> {
    use serde_json::Value;
    let (path, text) = change.split_once('=').ok_or_else(|| anyhow!("expected key.path=value"))?;
    let value: Value = yaml(text).map_err(|e| anyhow!("its value is no YAML: {e}"))?;
    let mut at = root;
    for segment in path.split('.') {
        if segment.is_empty() {
            bail!("expected key.path=value, with no empty key");
        }
        at = match at {
            Value::Array(items) => {
                let length = items.len();
                let index: usize =
                    segment.parse().map_err(|_| anyhow!("`{segment}` stands for a position in a list"))?;
                items.get_mut(index).ok_or_else(|| anyhow!("position {index} of a list of {length}"))?
            }
            Value::Object(map) => map.entry(segment).or_insert(Value::Null),
            Value::Null => {
                *at = Value::Object(Default::default());
                at.as_object_mut().expect("just made").entry(segment).or_insert(Value::Null)
            }
            other => bail!("`{segment}` lies below {other}, which has no keys"),
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
        Ok(Written::read(&path, &changes)?.config)
    }

    #[test]
    fn changes_reach_lists_and_absent_keys() {
        let config =
            read(TEXT, &["likelihood.0.samples=5", "seed=9", "estimators.1.hutchinson.probes=3"]).expect("right");
        assert_eq!((config.likelihood[0].samples, config.seed), (Some(5), 9));
        assert_eq!(config.estimators[1].label(), "hutchinson(probes=3)");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused = |text: &str, changes: &[&str]| format!("{:#}", read(text, changes).expect_err("refused"));
        assert!(refused(&TEXT.replace("chunk", "x").replace("solvers", "solver"), &[]).contains("solver"));
        assert!(refused(&TEXT.replace("name: a", "name: ../a"), &[]).contains("name"));
        assert!(refused(&TEXT.replace("probes", "probs"), &[]).contains("probs"));
        assert!(refused(TEXT, &["likelihood.3.samples=5"]).contains("position 3"));
        assert!(refused(TEXT, &["sead=5"]).contains("sead"));
        assert!(refused(TEXT, &["seed"]).contains("key.path=value"));
        assert!(refused("name: a\n", &[]).contains("nothing"));
    }
}
