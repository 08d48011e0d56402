//! The config of a run, as the user wrote it. It is read strictly, and only `--set` changes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::calibration::CalibrationTest;
use crate::dequantization::Dequantization;
use crate::divergence::DivergenceEstimator;
use crate::features::images::ByteRounding;
use crate::flow::grid::GridSpacing;
use crate::flow::guidance::GuidanceSetting;
use crate::hub;
use crate::lattice::LatticePolicy;
use crate::metric::Metric;
use crate::model::card::check_plain_name;
use crate::model::conditions::ConditionSource;
use crate::model::latent::LatentEncoding;
use crate::model::precision::NetworkPrecision;
use crate::num::shape::{AxisLayout, AxisLayouts};
use crate::sample::Sampler;
use crate::signature::{self, ExpectedFile};
use crate::solve::Solver;
use crate::stein::SteinTest;
use crate::yaml::{Document, Fault, MapEntry, Node, Value};

/// The config of a run: which log-likelihoods and which samples to measure, and how.
///
/// At least one entry under `likelihood`, `samples`, `reweight`, `maps` or `calibration` is required.
/// Paths are relative to the folder of the config; a path that does not exist there is relative to
/// the current folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name of the run. The run directory is `reports/<name>`, unless `--out` names another.
    pub name: String,
    /// The seed of all random numbers. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// The precision of the networks of all cards, `float32` or `float64`. Default: the precision
    /// of their files. `float64` shows what float32 costs in accuracy; `float32` is for networks in
    /// half precision. Feature extractors are not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<NetworkPrecision>,
    /// The divergence estimators of likelihood entries without `estimators`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub estimators: Vec<DivergenceEstimator>,
    /// The solvers of likelihood entries without `solvers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub solvers: Vec<Solver>,
    /// The estimator that the others are compared with, sample by sample. Default: the first
    /// estimator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DivergenceEstimator>,
    /// The solver of the reference, for the rows of all solvers. Default: rows of each solver are
    /// compared with the reference under the same solver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_solver: Option<Solver>,
    /// The number of samples per trial. An interrupted run loses at most the trial in progress.
    /// Default: 128.
    #[serde(default = "default_chunk")]
    pub chunk: usize,
    /// Log-likelihoods to compute: one entry per model and dataset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub likelihood: Vec<LikelihoodEntry>,
    /// Samples to draw and to compare with data: one entry per model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<SamplesEntry>,
    /// Samples to draw and to reweight to an unnormalized density: one entry per model and target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reweight: Vec<ReweightEntry>,
    /// Flow maps to check: one entry per map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub maps: Vec<MapsEntry>,
    /// Posteriors to check: one entry per conditional model, with observations whose true parameters
    /// are known.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<CalibrationEntry, Vec<CalibrationEntry>>")]
    pub calibration: Vec<CalibrationEntry>,
}

/// A check of one conditional model as a posterior: the ranks of true parameters among draws under
/// the observations that they gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CalibrationEntry {
    /// The model card.
    pub model: PathBuf,
    /// The true parameters, one row per observation: parameters from the prior.
    pub data: PathBuf,
    /// The observations, as values of the card's conditions by name: a file with one observation for
    /// each row of `data`, or any other value of a condition. Default: the card has no conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The scale of guidance, `{scale: 1.5, interval: [0.3, 5]}`, or a list of these, which makes an
    /// entry of each. Default: the guidance of the card.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<GuidanceSetting, Vec<GuidanceSetting>>")]
    pub guidance: Vec<GuidanceSetting>,
    /// The order of the axes of the data if it differs from the card's, one letter per axis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// The number of observations, taken from the beginning of the data. Default: all observations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The number of draws per observation. Default: 1000.
    #[serde(default = "default_draws_per_observation")]
    pub draws: usize,
    /// The sampler of the draws.
    pub sampler: Sampler,
    /// The estimator of the log-densities of draws and true parameters, which the test `coverage`
    /// ranks. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<DivergenceEstimator>,
    /// The solver of the log-densities. Default: the first of `solvers` of the whole run, or `dopri5`
    /// if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solver: Option<Solver>,
    /// The tests. Default: `sbc` and `tarp`, and `coverage` if `density` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<Vec<CalibrationTest>>,
}

fn default_draws_per_observation() -> usize {
    1000
}

/// The number of draws of a trial of calibration for each sample of `chunk`. Draws are cheaper than
/// log-likelihoods with Jacobian products.
const DRAWS_PER_CHUNK_SAMPLE: usize = 128;

impl CalibrationEntry {
    /// The number of observations of one trial, at least 1: so many that a trial has about 128 times
    /// `chunk` draws.
    pub fn observations_per_trial(&self, chunk: usize) -> usize {
        (chunk.saturating_mul(DRAWS_PER_CHUNK_SAMPLE) / self.draws.max(1)).max(1)
    }
}

/// A check of one flow map: the residuals, on data, of identities that hold for a true flow map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MapsEntry {
    /// The model card.
    pub model: PathBuf,
    /// The states at which the map starts. A map that goes only to the data end starts at noise
    /// instead; these data then serve the proposal of the importance sampling.
    pub data: PathBuf,
    /// The order of the axes of the data if it differs from the card's, one letter per axis, such
    /// as `NHWC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// The values of the card's conditions by name: a file with one value per sample, a number, a
    /// list of numbers, `all:FILE` with one value for all samples, `uniform:K`, `balanced:K` or
    /// null. Default: the card has no conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The name of the flow map, a key under `flow_maps` of the card.
    pub map: String,
    /// The numbers of steps of the map to check. Default: 1, 2, 4 and 8.
    #[serde(default = "default_steps")]
    pub steps: Vec<usize>,
    /// The spacing of the times between the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridSpacing>,
    /// The number of samples, taken from the beginning of the data; at least 2. Default: 64.
    #[serde(default = "default_map_samples")]
    pub samples: usize,
    /// The number of draws that check the normalization of the density by importance sampling, for
    /// models of at most three dimensions. Default: 0, which skips the check.
    #[serde(default)]
    pub draws: usize,
}

fn default_steps() -> Vec<usize> {
    vec![1, 2, 4, 8]
}

fn default_map_samples() -> usize {
    64
}

/// Log-likelihoods of the samples of one array under one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LikelihoodEntry {
    /// The model card.
    pub model: PathBuf,
    /// The samples: .npy, .npz, .safetensors, .csv, .parquet, IDX or a folder of images.
    pub data: PathBuf,
    /// The values of the card's conditions by name: a file with one value per sample, a number, a
    /// list of numbers, `uniform:K`, `balanced:K` or null. Default: the card has no conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The scale of guidance, `{scale: 1.5, interval: [0.3, 5]}`, or a list of these, which makes an
    /// entry of each. Default: the guidance of the card.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<GuidanceSetting, Vec<GuidanceSetting>>")]
    pub guidance: Vec<GuidanceSetting>,
    /// The order of the axes of the data if it differs from the card's, one letter per axis, such
    /// as `NHWC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayout>,
    /// The number of samples, taken from the beginning of the data. Default: all samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// The divergence estimators. Default: `estimators` of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimators: Option<Vec<DivergenceEstimator>>,
    /// The solvers. Default: `solvers` of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solvers: Option<Vec<Solver>>,
    /// The estimator that the others are compared with. Default: `reference` of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<DivergenceEstimator>,
    /// The solver of the reference. Default: `reference_solver` of the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_solver: Option<Solver>,
    /// The number of samples whose divergence is recorded along the path, and whose denoising errors
    /// are recorded over the noise levels for `nelbo`, for the figures. 0 records none. Default: 8.
    #[serde(default = "default_profile")]
    pub profile: usize,
    /// The dequantization of integer data. Default: one uniform draw per sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dequantization: Option<Dequantization>,
    /// The error budget: `true` measures the error of the solver and of rounding for every
    /// estimator on the first samples, and `{samples: N}` says on how many. `false` measures
    /// nothing. Default: only the solver's error of the reference, if its steps are fixed and the
    /// measurement is cheap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<ErrorBudgetSetting>,
    /// A condition, or a list of conditions, by whose values the averages are split in the table
    /// `conditions.csv`. Default: none.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<String, Vec<String>>")]
    pub by: Vec<String>,
    /// How data become states of a latent model: by the encoder's `mean`, or by a `draw` from its
    /// distribution. Default: `mean`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encode: LatentEncoding,
    /// What to do with data for which bits per dimension are meaningless, such as floats that were
    /// quantized and not dequantized: `refuse` (an error) or `allow`. Default: `refuse`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lattice: LatticePolicy,
    /// Stein tests of learned divergence heads on these data: one entry per head.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<SteinTest, Vec<SteinTest>>")]
    pub stein: Vec<SteinTest>,
    /// The integral of the density of every estimator, which is 1 for a true density. It is
    /// estimated by importance sampling with draws near the data, in at most 64 dimensions. Default:
    /// it is not estimated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mass: Option<MassOptions>,
    /// A rectangle on which the log-density of a two-dimensional model is computed, for a figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub density: Option<DensityGrid>,
}

/// The options of the integral of a density.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MassOptions {
    /// The number of draws, at least 32. Default: 2000.
    #[serde(default = "default_mass_draws")]
    pub samples: usize,
}

fn default_mass_draws() -> usize {
    2000
}

/// The options of an error budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorBudgetOptions {
    /// The number of samples, taken from the beginning of the data; at least 2. Default: 32.
    #[serde(default = "default_budget_samples")]
    pub samples: usize,
}

/// Whether an error budget is measured: `true`, `false` or `{samples: N}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected true, false or {samples: N}")]
pub enum ErrorBudgetSetting {
    /// Whether the budget is measured, on the default number of samples.
    Enabled(bool),
    /// The budget is measured, with these options.
    Options(ErrorBudgetOptions),
}

impl ErrorBudgetSetting {
    /// The number of samples on which the error budget is measured; `None` if it is not measured.
    pub fn samples(&self) -> Option<usize> {
        match self {
            ErrorBudgetSetting::Enabled(enabled) => enabled.then(default_budget_samples),
            ErrorBudgetSetting::Options(budget) => Some(budget.samples),
        }
    }
}

/// A rectangle of the plane with a grid of `points` × `points` points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DensityGrid {
    /// The range of the first coordinate, `[low, high]`.
    pub x: [f64; 2],
    /// The range of the second coordinate, `[low, high]`.
    pub y: [f64; 2],
    /// The number of grid points per coordinate, 2 to 2000. Default: 64.
    #[serde(default = "default_points")]
    pub points: usize,
}

/// Samples of one model, and their statistics against reference data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamplesEntry {
    /// The model card.
    pub model: PathBuf,
    /// The samplers.
    pub samplers: Vec<Sampler>,
    /// One of the samplers, with which every other is compared. All start at the same noise, so
    /// that differences are paired. SteinDiff is always compared with its inner sampler, if the
    /// entry has that sampler too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Sampler>,
    /// The number of samples per sampler.
    pub count: usize,
    /// The values of the card's conditions by name: a file with one value per sample, a number, a
    /// list of numbers, `uniform:K`, `balanced:K` or null. Default: the card has no conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The scale of guidance, `{scale: 1.5, interval: [0.3, 5]}`, or a list of these, which makes an
    /// entry of each. Default: the guidance of the card.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<GuidanceSetting, Vec<GuidanceSetting>>")]
    pub guidance: Vec<GuidanceSetting>,
    /// An array of states at the prior end, used instead of random noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<PathBuf>,
    /// The samples that the statistics compare with.
    pub reference: PathBuf,
    /// Other samples of the reference's distribution. Every statistic of them shows what a perfect
    /// model would score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<PathBuf>,
    /// The training data of the model, if they differ from the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<PathBuf>,
    /// Data that the model has not seen, if they differ from the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// The order of the axes of these arrays if it differs from the card's: one order for all
    /// arrays that need it, `NHWC`, or one for each, `{reference: NHWC}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<AxisLayouts>,
    /// The feature extractor: an ONNX file, a preset file or the name of a preset. Default: none,
    /// the raw numbers are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extractor: Option<PathBuf>,
    /// How floats become bytes for the extractor: `nearest`, or `floor` as several published
    /// evaluations truncate. Default: `nearest`.
    #[serde(default, skip_serializing_if = "ByteRounding::is_default")]
    pub bytes: ByteRounding,
    /// The statistics to compute.
    pub metrics: Vec<Metric>,
}

/// Samples of one model with their log-densities, reweighted to the density exp(−u(x)) of a target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReweightEntry {
    /// The model card.
    pub model: PathBuf,
    /// The sampler: `ode` with any solver, plain `euler` or `heun`, or `flow-map`.
    pub sampler: Sampler,
    /// The divergence estimator of the samples' log-densities, or a list of estimators. For a flow
    /// map it is the same flow map.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "any_of_schema::<DivergenceEstimator, Vec<DivergenceEstimator>>")]
    pub density: Vec<DivergenceEstimator>,
    /// The number of samples, at least 2.
    pub count: usize,
    /// The energy u, an ONNX file from a batch of states to one number each. Default: `energy` of
    /// the card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy: Option<PathBuf>,
    /// The factor of the energy in `energy`, such as 1/kT. Default: 1.
    #[serde(default = "unit_factor")]
    pub energy_scale: f64,
    /// Observables whose means under the target are computed, ONNX files like `energy`. Default:
    /// none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub observables: Vec<PathBuf>,
    /// The values of the card's conditions by name: a file with one value per sample, a number, a
    /// list of numbers, `uniform:K`, `balanced:K` or null. Default: the card has no conditions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, Option<ConditionSource>>,
    /// The scale of guidance, `{scale: 1.5, interval: [0.3, 5]}`, or a list of these, which makes an
    /// entry of each. Default: the guidance of the card.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    #[schemars(schema_with = "any_of_schema::<GuidanceSetting, Vec<GuidanceSetting>>")]
    pub guidance: Vec<GuidanceSetting>,
}

fn unit_factor() -> f64 {
    1.0
}

/// The schema of a key that takes either of two forms.
fn any_of_schema<A: JsonSchema, B: JsonSchema>(
    generator: &mut schemars::SchemaGenerator,
) -> schemars::Schema {
    let forms = [
        generator.subschema_for::<A>(),
        generator.subschema_for::<B>(),
    ];
    schemars::json_schema!({ "anyOf": forms })
}

/// Reads a list, or a single entry as a list of one. This is a visitor because the errors of an
/// untagged enum do not say which key is wrong.
fn one_or_many<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    use serde::de::IntoDeserializer;
    use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
    struct OneOrManyVisitor<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for OneOrManyVisitor<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            write!(f, "one entry or a list of them")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|one| vec![one])
        }
        fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Vec<T>, E> {
            T::deserialize(number.into_deserializer()).map(|one| vec![one])
        }
        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Vec<T>, E> {
            self.visit_f64(number as f64)
        }
        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Vec<T>, E> {
            self.visit_f64(number as f64)
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

/// The largest number of trials of one entry. More would only fill the disk with small files.
const MAX_TRIALS_PER_ENTRY: usize = 100_000;

/// Whether a value is its default, which is then left out of the plan.
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

/// A config together with the text and the folder it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    /// The config. Optional keys and list entries that are wrong are left out.
    pub config: Config,
    /// The text of the file.
    pub text: String,
    /// The path of the file.
    pub path: PathBuf,
    /// The `--set` changes, as the user gave them.
    pub overrides: Vec<String>,
    /// The folder of the file.
    folder: PathBuf,
    /// The name of the file and the `--set` changes, for messages.
    display_name: String,
    document: Document,
    /// The faults found so far.
    faults: Vec<Fault>,
}

impl ConfigFile {
    /// Reads a config and applies `key.path=value` changes.
    ///
    /// A config with faults is returned if the rest of it can be read.
    /// [`ConfigFile::reject_faults`] reports these faults, together with those that later checks
    /// find.
    ///
    /// # Errors
    /// Fails if the file cannot be read, or if its faults leave no config. The message names the
    /// file and every fault.
    pub fn read(path: &Path, changes: &[String]) -> Result<ConfigFile> {
        let path = &hub::local_path(path)?;
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
        let mut config_file = ConfigFile {
            config,
            text,
            path: path.clone(),
            overrides: changes.to_vec(),
            folder,
            display_name: name,
            document,
            faults,
        };
        let found = config_file.check();
        config_file
            .faults
            .extend(config_file.document.locate(found));
        Ok(config_file)
    }

    /// Resolves a path of the config. It is relative to the folder of the config, or to the current
    /// folder if nothing exists there. A file on the Hub is fetched.
    ///
    /// # Errors
    /// Fails if a file on the Hub cannot be fetched.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf> {
        if hub::is_hub_name(path) {
            return hub::local_path(path);
        }
        let beside = self.folder.join(path);
        // `file.npz:name` is an array in a file, so that the part before the colon decides.
        let text = beside.to_string_lossy().into_owned();
        let file = text
            .rsplit_once(':')
            .map_or(text.as_str(), |(file, _)| file);
        if beside.exists() || Path::new(file).exists() {
            return Ok(beside);
        }
        if path.exists() {
            return Ok(path.to_owned());
        }
        // A config on the Hub names files of its own repository, which are fetched here.
        let fetched = hub::local_path(&beside)?;
        Ok(match fetched.exists() {
            true => fetched,
            false => path.to_owned(),
        })
    }

    /// Whether there is a fault at `key`, below it or above it already. A new fault at `key` may be
    /// only a consequence of that one, and is not reported.
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

    /// Reports the faults of the config, together with those in `found`.
    ///
    /// # Errors
    /// Fails if there is a fault. The message names the file and every fault.
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

    /// The faults that the schema cannot find: values out of range, and required lists that are
    /// empty.
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
        let lists = ["likelihood", "samples", "reweight", "maps", "calibration"];
        if config.likelihood.is_empty()
            && config.samples.is_empty()
            && config.reweight.is_empty()
            && config.maps.is_empty()
            && config.calibration.is_empty()
            && !lists.iter().any(|key| self.has_fault_near(key))
        {
            fault(
                String::new(),
                "there is nothing to measure; \
                 expected entries under `likelihood`, `samples`, `reweight`, `maps` or `calibration`"
                    .to_owned(),
            );
        }
        if config.chunk == 0 {
            fault("chunk".to_owned(), "0, expected at least 1".to_owned());
        }
        for (i, entry) in config.likelihood.iter().enumerate() {
            let at = |key: &str| format!("likelihood.{i}.{key}");
            if let Some(few) = entry
                .budget
                .as_ref()
                .and_then(ErrorBudgetSetting::samples)
                .filter(|n| *n < 2)
            {
                let message =
                    format!("{few}, expected at least 2, so that the mean has a standard error");
                fault(at("budget.samples"), message);
            }
            if let Some(mass) = &entry.mass
                && !(32..=MAX_MAP_DRAWS).contains(&mass.samples)
            {
                let message = format!("{}, expected 32 to {MAX_MAP_DRAWS}", mass.samples);
                fault(at("mass.samples"), message);
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
        for (i, entry) in config.reweight.iter().enumerate() {
            let at = |key: &str| format!("reweight.{i}.{key}");
            if entry.density.is_empty() {
                fault(at("density"), "none, expected at least one".to_owned());
            }
            if entry.count < 2 {
                fault(at("count"), format!("{}, expected at least 2", entry.count));
            }
            if entry.count.div_ceil(config.chunk.max(1)) > MAX_TRIALS_PER_ENTRY {
                let message = format!(
                    "{} makes more than {MAX_TRIALS_PER_ENTRY} trials of `chunk: {}`",
                    entry.count, config.chunk
                );
                fault(at("count"), message);
            }
            if !(entry.energy_scale.is_finite() && entry.energy_scale != 0.0) {
                let message = format!("{}, expected a number other than 0", entry.energy_scale);
                fault(at("energy_scale"), message);
            }
        }
        for (i, entry) in config.calibration.iter().enumerate() {
            let at = |key: &str| format!("calibration.{i}.{key}");
            if entry.samples == Some(0) {
                fault(at("samples"), "0, expected at least 1".to_owned());
            }
            if entry.tests.as_ref().is_some_and(Vec::is_empty) {
                fault(at("tests"), "none, expected at least one".to_owned());
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

/// The largest number of draws of one entry under `maps` or `likelihood`. All draws are in memory at once.
const MAX_MAP_DRAWS: usize = 1 << 20;

/// `FILE with --set a=1 --set b=2`.
fn name_with_overrides(parts: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = parts.collect();
    format!("{} with {}", parts[0], parts[1..].join(" "))
}

/// What a file is if it has the keys of another kind of file; `None` if it may be a config.
fn explain_other_file(root: &Node) -> Option<String> {
    let has = |key: &str| root.get(key).is_some();
    if ["likelihood", "samples", "reweight", "maps", "calibration"]
        .iter()
        .any(|key| has(key))
    {
        return None;
    }
    if has("network") || (has("shape") && has("path")) {
        return Some(
            "it is a model card, expected a config; \
             a config names a card in the key `model` of an entry"
                .to_owned(),
        );
    }
    has("claims").then(|| {
        "it is a file of claims, expected a config; claims go to `flowgauge gate --claims`"
            .to_owned()
    })
}

/// Applies one change `key.path=value`. A number in the path is a position in a list.
///
/// # Errors
/// Fails if the change has another form, or if the path does not exist.
fn apply_override(root: &mut Node, change: &str) -> Result<()> {
    let (path, text) = change
        .split_once('=')
        .ok_or_else(|| anyhow!("expected key.path=value"))?;
    let mut value = Document::parse(text)
        .map_err(|e| anyhow!("its value is not valid YAML: {e}"))?
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
                    .map_err(|_| anyhow!("`{segment}`, expected a position in a list: a number"))?;
                items.get_mut(index).ok_or_else(|| {
                    anyhow!("position {index} of a list of {length} does not exist")
                })?
            }
            Value::Map(entries) => {
                let existing = entries.iter().position(|e| e.key == segment);
                let index = existing.unwrap_or_else(|| {
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
                bail!(
                    "`{segment}` is a key below `{}`, which has no keys",
                    scalar.text
                )
            }
            Value::Null => bail!("`{segment}` is a key below an empty value"),
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
