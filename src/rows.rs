//! The rows of the files that a run writes.
//!
//! There are two sorts: the rows that each trial leaves in its own file, and the rows of the tidy
//! tables that `table.rs` derives from them. A report sees the tables only.
//!
//! One struct is one CSV file and one field is one column, in this order. An absent number is an
//! empty cell. Log-densities and their differences are in nats, times are in seconds, and a cost
//! counts calls per sample: evaluations of the network, Jacobian products, or calls of a learned
//! head. `model` is the name of the model in the plan, `dataset` the file of the data, and
//! `estimator`, `solver` and `sampler` are labels such as `heun(steps=40)`. `sample` is the index
//! of a sample in its data, from 0.

use serde::{Deserialize, Serialize};

mod kinds;
mod text_table;

pub use kinds::{BoundKind, EstimateKind, Status};
pub(crate) use text_table::TextTable;

/// One row of a likelihood trial: one estimator on one sample, with its costs.
///
/// The numbers are absent if `status` is not `ok`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodRow {
    /// The identifier of the trial that computed the row.
    pub trial: String,
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    /// The kind of number, such as `ode-exact`; see [`SummaryRow::kind`].
    pub kind: EstimateKind,
    pub solver: String,
    pub sample: usize,
    /// The log-likelihood in nats: `prior_log_density` plus `divergence_integral`.
    pub log_likelihood: Option<f64>,
    /// The standard error of `log_likelihood` over probes or replicates; absent if the estimator is
    /// deterministic.
    pub stderr: Option<f64>,
    /// Half the width of the 95 % confidence interval over probes, by Student's t distribution.
    pub half_width: Option<f64>,
    /// The log-density of the prior at the prior end of the path, in nats.
    pub prior_log_density: Option<f64>,
    /// The integral of the divergence along the path, in nats.
    pub divergence_integral: Option<f64>,
    /// The negative log-likelihood in bits per dimension of the quantized data; absent if the card
    /// does not say how many levels the data have.
    pub bits_per_dim: Option<f64>,
    /// The negative log-likelihood in nats, divided by the number of dimensions.
    pub nats_per_dim: Option<f64>,
    /// Evaluations of the network, for the path and for the estimator on the nodes of the path.
    pub evaluations: u64,
    /// Jacobian products of the estimator.
    pub jvps: u64,
    /// Calls of a learned divergence head.
    pub head_calls: u64,
    /// `ok`, or why the solver has failed: `max-steps`, `step-too-small`, `non-finite` or
    /// `below-rounding`.
    pub status: Status,
    /// Seconds for the path: the sample's share of the time of its batch.
    pub path_seconds: f64,
    /// Seconds for the estimator on the nodes of the path: the sample's share of the time of its
    /// batch.
    pub divergence_seconds: f64,
    /// How the number relates to the data. `density` is the log-density at the given point; `elbo`
    /// and `iw-elbo` are lower bounds of a discrete log-probability; `none` bounds nothing.
    #[serde(default)]
    pub bound: BoundKind,
    /// The number of draws of dequantization noise behind the number.
    #[serde(default = "default_draws")]
    pub draws: usize,
    /// The standard error over the draws of dequantization noise, in nats; absent for one draw.
    #[serde(default)]
    pub dequantization_stderr: Option<f64>,
    /// The estimated size of the error that the steps of the solver leave, in nats; absent if it is
    /// not known.
    #[serde(default)]
    pub solver_error: Option<f64>,
    /// Seconds for all estimators of the config's entry together. The estimators share a path and
    /// Jacobian products, so that this is less than the sum of their own times. Absent in runs of
    /// older versions.
    #[serde(default)]
    pub entry_seconds: Option<f64>,
    /// The values of the sample's conditions, such as `label=3`; empty if there are none or if they
    /// are more than one number each.
    #[serde(default)]
    pub conditions: String,
    /// The first term of a variational bound −log p ≤ prior + diffusion + reconstruction, in nats:
    /// the divergence of the noised sample from the prior. The column is left out if no row has one.
    #[serde(default)]
    pub bound_prior: Option<f64>,
    /// The second term of the bound, over the noise levels.
    #[serde(default)]
    pub bound_diffusion: Option<f64>,
    /// The third term of the bound, at the data end.
    #[serde(default)]
    pub bound_reconstruction: Option<f64>,
    /// How far a flow map takes the noise that was found for the sample from the sample, as the root
    /// mean square over its values. The column is left out if no map was inverted.
    #[serde(default)]
    pub inverse_residual: Option<f64>,
}

/// Older runs have no column `draws`: they used one draw.
fn default_draws() -> usize {
    1
}

/// One row of a trial that generates samples: one sample. Its values are in the array of the trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// The identifier of the trial that drew the sample.
    pub trial: String,
    pub model: String,
    pub sampler: String,
    /// The index of the generated sample, from 0.
    pub sample: usize,
    /// `ok`, or `non-finite` if the sample has a NaN or an infinite value.
    pub status: Status,
    /// Evaluations of the network.
    pub evaluations: u64,
    /// Jacobian products.
    pub jvps: u64,
    /// Seconds per sample of the trial.
    pub seconds: f64,
    /// The log-density of the sample under the flow map that drew it, in nats; absent if the
    /// sampler does not compute it.
    pub log_density: Option<f64>,
    /// The part of `seconds` that Jacobian products took.
    pub jvp_seconds: f64,
    /// The values of the sample's conditions, such as `label=3`; empty if there are none or if they
    /// are more than one number each.
    #[serde(default)]
    pub conditions: String,
}

/// `steps.csv`: one step of one population of samples under SteinDiff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    pub model: String,
    pub sampler: String,
    /// The sampler that proposes the step.
    pub inner: String,
    /// How γ, the factor of the step, is found.
    pub mode: String,
    /// The index of the population, from 0.
    pub population: u64,
    /// The number of samples in the population.
    pub n: usize,
    /// The index of the step, from 0.
    pub step: usize,
    /// The time before the step, in the card's own time.
    pub t: f64,
    /// α before the step.
    pub alpha: f64,
    /// σ before the step.
    pub sigma: f64,
    /// The time after the step.
    pub t_next: f64,
    /// α after the step.
    pub alpha_next: f64,
    /// σ after the step.
    pub sigma_next: f64,
    /// γ as it was applied.
    pub gamma: f64,
    /// γ as it was estimated, before it was clamped.
    pub gamma_raw: Option<f64>,
    /// The standard error of γ from the probes only; absent with one probe or none.
    pub gamma_probe_stderr: Option<f64>,
    /// The standard error of γ over the samples, which includes the probes.
    pub gamma_stderr: Option<f64>,
    /// What was done with γ: `applied`, `clamped-low`, `clamped-high`, `skipped-last`,
    /// `skipped-gate`, `not-significant` or `undefined`.
    pub action: String,
    /// How E div u was obtained: `jacobian` or `linear`; empty if it was not needed.
    pub divergence: String,
    /// E⟨x, u⟩, the mean over the population.
    pub s_xu: Option<f64>,
    /// E‖u‖², the mean over the population.
    pub s_uu: Option<f64>,
    /// E div u, the mean over the population.
    pub s_div: Option<f64>,
    /// E‖x − αD‖² / (σ² (d − α E tr J_D)), where D is the denoiser and J_D its Jacobian. It is 1 if
    /// x = α x₀ + σ ε and D is exact. Absent without Jacobian products.
    pub coupling: Option<f64>,
    /// The mean weight of the look-ahead; absent in modes without one.
    pub blend: Option<f64>,
    /// The largest singular value of the step's Jacobian, the mean over the samples at which it was
    /// measured; absent without `lipschitz`.
    #[serde(default)]
    pub lipschitz: Option<f64>,
    /// The standard error of `lipschitz` over those samples.
    #[serde(default)]
    pub lipschitz_stderr: Option<f64>,
    /// The largest one of those samples.
    #[serde(default)]
    pub lipschitz_max: Option<f64>,
    /// The largest distance of one of them to a true singular value, which more iterations lower.
    #[serde(default)]
    pub lipschitz_residual: Option<f64>,
    /// Evaluations of the network per sample, in this step.
    pub evaluations: u64,
    /// Jacobian products per sample, in this step.
    pub jvps: u64,
}

/// One sample of an error budget: its log-likelihood, computed in several ways.
///
/// All log-likelihoods are in nats. One is absent if its path has failed, or if it was not
/// computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinedRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    pub sample: usize,
    /// With the steps of the config.
    pub log_likelihood: Option<f64>,
    /// With finer steps: twice as many, or tolerances ten times tighter.
    pub finer: Option<f64>,
    /// With coarser steps; absent if tolerances choose the steps.
    pub coarser: Option<f64>,
    /// At the state whose coordinates are changed by one rounding of float32, each in a random
    /// direction. It replaces `float64` if the networks cannot be computed in float64.
    pub ahead: Option<f64>,
    /// Like `ahead`, with the opposite change of each coordinate.
    pub behind: Option<f64>,
    /// With the same networks in float64.
    #[serde(default)]
    pub float64: Option<f64>,
    /// The order of the method; absent if tolerances choose the steps.
    pub order: Option<u32>,
}

/// `summary.csv`: one estimator on one dataset under one solver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// The kind of number: `ode-exact`, `ode-stochastic`, `learned`, `few-step` or `closed-form`.
    pub kind: EstimateKind,
    /// The number of samples in the averages.
    pub n: usize,
    /// The number of samples whose status is not `ok`; they are excluded from the averages.
    pub failed: usize,
    /// The mean negative log-likelihood in bits per dimension.
    pub bits_per_dim: Option<f64>,
    /// The standard error of `bits_per_dim` over the data.
    pub bits_per_dim_stderr: Option<f64>,
    /// The mean log-likelihood per sample, in nats.
    pub nats: Option<f64>,
    /// The standard error of `nats` over the data.
    pub nats_stderr: Option<f64>,
    /// The mean negative log-likelihood in nats per dimension.
    pub nats_per_dim: Option<f64>,
    /// The root mean square of the per-sample standard errors over probes; empty if the estimator
    /// is deterministic.
    pub probe_stderr: Option<f64>,
    /// The run's reference estimator. If the reference stands under another solver than this row,
    /// the text names both.
    pub reference: String,
    /// The solver of the reference.
    pub reference_solver: String,
    /// The mean over samples of the difference from the reference, in nats, paired by sample.
    pub bias: Option<f64>,
    /// The standard error of `bias`.
    pub bias_stderr: Option<f64>,
    /// The root mean square of the differences from the reference, in nats.
    pub rmse: Option<f64>,
    /// Pearson's correlation with the reference, over samples.
    pub correlation: Option<f64>,
    /// Spearman's rank correlation with the reference, over samples.
    pub rank_correlation: Option<f64>,
    /// The root mean square of difference / reported standard error. It is 1 if the reported errors
    /// are right.
    pub calibration: Option<f64>,
    /// Evaluations of the network per sample.
    pub evaluations: f64,
    /// Jacobian products per sample.
    pub jvps: f64,
    /// Calls of a learned head per sample.
    pub head_calls: f64,
    /// The total cost per sample in evaluations of the network. Jacobian products and head calls
    /// are converted by their measured time.
    pub cost: f64,
    /// Seconds per sample for the path and this estimator.
    pub seconds_per_sample: f64,
    /// How the number relates to the data; see [`LikelihoodRow::bound`].
    pub bound: BoundKind,
    /// Draws of dequantization noise per sample.
    pub draws: usize,
    /// The root mean square of the per-sample standard errors over draws of dequantization noise.
    pub dequantization_stderr: Option<f64>,
    /// The number of samples in `bias`.
    pub bias_n: Option<usize>,
    /// The part of `nats` that is the solver's error: the mean as it stands minus the mean for
    /// infinitely many steps. Absent if it was not measured.
    pub solver_bias: Option<f64>,
    /// The standard error of `solver_bias`.
    pub solver_bias_stderr: Option<f64>,
    /// The part of `bits_per_dim` that is the solver's error.
    pub solver_bias_bits_per_dim: Option<f64>,
    /// The standard error of `solver_bias_bits_per_dim`.
    pub solver_bias_bits_per_dim_stderr: Option<f64>,
    /// The number of samples on which the solver's error was measured.
    pub solver_bias_n: Option<usize>,
    /// The mean over samples of the estimated error of the solver's steps, in nats. It is an
    /// estimate, not a bound.
    pub solver_error: Option<f64>,
    /// Seconds per sample that the run took for all estimators of this row's entry together. These
    /// estimators share a path and Jacobian products.
    pub entry_seconds_per_sample: Option<f64>,
    /// The states that the estimate visits, as a method and a grid, such as `heun over uniform`. A
    /// sampler with the same value and as many evaluations takes the same steps. Empty for adaptive
    /// steps.
    #[serde(default)]
    pub trajectory: Option<String>,
    /// The guidance of the velocity, such as `1.5`; `1` for a conditional model without guidance. The
    /// column is left out if no row has one.
    #[serde(default)]
    pub guidance: String,
}

/// `samples.csv`: one estimator on one sample.
///
/// The fields have the meaning of those of [`LikelihoodRow`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleLikelihoodRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    pub sample: usize,
    pub log_likelihood: Option<f64>,
    pub stderr: Option<f64>,
    /// Half the width of the 95 % confidence interval over probes, by Student's t distribution.
    pub half_width: Option<f64>,
    pub prior_log_density: Option<f64>,
    pub divergence_integral: Option<f64>,
    pub bits_per_dim: Option<f64>,
    pub nats_per_dim: Option<f64>,
    pub evaluations: u64,
    pub jvps: u64,
    pub status: Status,
    pub bound: BoundKind,
    pub dequantization_stderr: Option<f64>,
    /// The estimated size of the error that the solver's steps leave, in nats. It is an estimate
    /// for this path, not a bound.
    pub solver_error: Option<f64>,
    /// The guidance of the velocity, such as `1.5`; `1` for a conditional model without guidance. The
    /// column is left out if no row has one.
    #[serde(default)]
    pub guidance: String,
    /// The values of the sample's conditions, such as `label=3`. The column is left out if no row has
    /// any.
    #[serde(default)]
    pub conditions: String,
    /// The first term of a variational bound −log p ≤ prior + diffusion + reconstruction, in nats:
    /// the divergence of the noised sample from the prior. The column is left out if no row has one.
    #[serde(default)]
    pub bound_prior: Option<f64>,
    /// The second term of the bound, over the noise levels.
    #[serde(default)]
    pub bound_diffusion: Option<f64>,
    /// The third term of the bound, at the data end.
    #[serde(default)]
    pub bound_reconstruction: Option<f64>,
    /// How far a flow map takes the noise that was found for the sample from the sample, as the root
    /// mean square over its values. The column is left out if no map was inverted.
    #[serde(default)]
    pub inverse_residual: Option<f64>,
}

/// `pairs.csv`: the mean paired difference of two estimators, `estimator` minus `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    pub other: String,
    /// The number of samples on which both estimators have a log-likelihood.
    pub n: usize,
    /// The mean difference of the log-likelihoods, in nats.
    pub difference: f64,
    /// The standard error of `difference`.
    pub difference_stderr: f64,
    /// The lower end of the 95 % confidence interval of `difference`.
    pub low: f64,
    /// The upper end of the 95 % confidence interval of `difference`.
    pub high: f64,
}

/// `conditions.csv`: the averages of one estimator over the samples with one value of a condition,
/// for entries with `by`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// The name of the condition in the card.
    pub condition: String,
    /// The value, a number or `null`.
    pub value: String,
    /// The number of samples in the averages.
    pub n: usize,
    /// The number of samples whose status is not `ok`; they are excluded from the averages.
    pub failed: usize,
    /// The mean negative log-likelihood in bits per dimension.
    pub bits_per_dim: Option<f64>,
    /// The standard error of `bits_per_dim` over the samples.
    pub bits_per_dim_stderr: Option<f64>,
    /// The mean log-likelihood per sample, in nats.
    pub nats: Option<f64>,
    /// The standard error of `nats` over the samples.
    pub nats_stderr: Option<f64>,
}

/// `budget.csv`: one part of the uncertainty of one summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// The part: `data`, `probe`, `solver`, `dequantization`, `numeric` or `total`.
    pub component: String,
    /// The number of samples on which the part was measured.
    pub n: usize,
    /// The size of the part per sample, a root mean square in nats.
    pub sample_nats: Option<f64>,
    /// The size of the part in the mean over the summary's samples, in nats.
    pub mean_nats: Option<f64>,
    /// The square of `mean_nats` as a fraction of the total's square.
    pub share: Option<f64>,
    /// The mean of a systematic part, in nats. It is positive if the log-likelihood is too high.
    pub bias_nats: Option<f64>,
    /// The standard error of `bias_nats`.
    pub bias_stderr: Option<f64>,
    /// `sample_nats` in bits per dimension.
    pub sample_bits_per_dim: Option<f64>,
    /// `mean_nats` in bits per dimension.
    pub mean_bits_per_dim: Option<f64>,
    /// `bias_nats` in bits per dimension, with the opposite sign.
    pub bias_bits_per_dim: Option<f64>,
    /// The order of convergence of fixed steps, observed with half, once and twice the steps.
    pub observed_order: Option<f64>,
    /// What lowers the part.
    pub knob: String,
    /// How the part was measured, or why it is unknown.
    pub measured: String,
}

/// `frontier.csv`: what one estimator costs per sample for one target accuracy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontierRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    /// The kind of number; see [`SummaryRow::kind`].
    pub kind: EstimateKind,
    /// Whether the target is for each `sample` or for the `mean` over the `n` samples.
    pub scope: String,
    /// The target: a standard error in `unit`.
    pub target: f64,
    /// The unit of `target` and `error`: `nats` or `bits/dim`.
    pub unit: String,
    /// The number of samples in the summary.
    pub n: usize,
    /// The estimator's error in this run.
    pub error: Option<f64>,
    /// How the cost is known: `exact`, `1/K` (extrapolated from K probes or replicates),
    /// `measured`, `out of reach` or `unknown`.
    pub basis: String,
    /// What must be averaged, `probes` or `replicates`; empty if nothing is averaged.
    pub averages: String,
    /// How many of them must be averaged.
    pub needed: Option<f64>,
    /// Jacobian products per sample at the target; absent if the target is out of reach.
    pub jvps: Option<f64>,
    /// Calls of a learned head per sample at the target; absent if the target is out of reach.
    pub head_calls: Option<f64>,
    /// Whether this estimator needs the fewest Jacobian products for the target.
    pub fewest_jvps: bool,
    /// Seconds per sample at the target; absent if the target is out of reach.
    pub seconds: Option<f64>,
    /// Whether this estimator needs the least time for the target.
    pub least_seconds: bool,
    /// The variance per sample (nats²) times the cost in Jacobian products; less is better.
    pub variance_jvps: Option<f64>,
    /// The variance per sample (nats²) times the estimator's own seconds; less is better.
    pub variance_seconds: Option<f64>,
}

/// `conventions.csv`: one mean log-likelihood under one named convention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConventionRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// The kind of number; see [`SummaryRow::kind`].
    pub kind: EstimateKind,
    /// How the number relates to the data; see [`LikelihoodRow::bound`].
    pub bound: BoundKind,
    /// The name of the convention.
    pub convention: String,
    /// The unit of `value`.
    pub unit: String,
    /// The number of samples in `value`.
    pub n: usize,
    /// The mean over samples; absent if the convention does not apply.
    pub value: Option<f64>,
    /// The standard error of `value` over the data.
    pub stderr: Option<f64>,
    /// The factor in value = scale · log p + offset, with log p in nats in the model's coordinates.
    pub scale: Option<f64>,
    /// The offset in value = scale · log p + offset.
    pub offset: Option<f64>,
    /// Why the convention does not apply; empty if it applies.
    pub reason: String,
    /// The convention as a formula.
    pub formula: String,
    /// The public code or the definition that the convention is taken from.
    pub source: String,
    /// What the public code does besides the formula.
    pub protocol: String,
}

/// `gaps.csv`: two datasets under one model and estimator, `dataset` minus `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapRow {
    pub model: String,
    pub solver: String,
    pub estimator: String,
    pub dataset: String,
    pub other: String,
    /// The number of samples of `dataset` with a log-likelihood.
    pub n: usize,
    /// The number of samples of `other` with a log-likelihood.
    pub n_other: usize,
    /// The difference of the mean log-likelihoods, in nats.
    pub difference: f64,
    /// The standard error of `difference`, for two independent sets of samples.
    pub difference_stderr: f64,
    /// The lower end of the 95 % confidence interval of `difference`.
    pub low: f64,
    /// The upper end of the 95 % confidence interval of `difference`.
    pub high: f64,
    /// The difference in bits per dimension. Its sign is opposite to that of `difference`.
    pub bits_per_dim: Option<f64>,
    /// The standard error of `bits_per_dim`.
    pub bits_per_dim_stderr: Option<f64>,
    /// The probability that a sample of `dataset` has a higher log-likelihood than a sample of
    /// `other`; a tie counts one half.
    pub auroc: f64,
    /// DeLong's standard error of `auroc`. It is absent if the two sets do not overlap, since it
    /// would be zero.
    pub auroc_stderr: Option<f64>,
}

/// `metrics.csv`: one statistic of one set of samples against a reference set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    pub model: String,
    /// The sampler, or `data` for the data-versus-data floor.
    pub sampler: String,
    pub metric: String,
    pub value: f64,
    /// The standard error of `value`.
    pub stderr: Option<f64>,
    /// The number of generated samples.
    pub n_generated: usize,
    /// The number of samples in the set that the generated samples are compared with.
    pub n_reference: usize,
    /// Evaluations of the network per generated sample.
    pub evaluations: f64,
    /// Jacobian products per generated sample.
    pub jvps: f64,
    /// The total cost per generated sample in evaluations of the network. Jacobian products are
    /// converted by their measured time.
    pub cost: f64,
    /// What the statistic was computed on: the file name of the feature extractor, or `raw`.
    pub features: String,
    /// A warning about the value; usually empty.
    #[serde(default)]
    pub note: String,
    /// The states that the sampler visits; see [`SummaryRow::trajectory`]. Empty if no solver
    /// visits the same ones.
    #[serde(default)]
    pub trajectory: Option<String>,
    /// The guidance of the velocity, such as `1.5`; `1` for a conditional model without guidance. The
    /// column is left out if no row has one.
    #[serde(default)]
    pub guidance: String,
}

/// `contrasts.csv`: a statistic of one sampler's samples minus the statistic of another sampler's
/// samples, both from the same noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastRow {
    pub model: String,
    pub sampler: String,
    /// The sampler whose statistic is subtracted.
    pub baseline: String,
    pub metric: String,
    /// The number of pairs of samples.
    pub n: usize,
    /// The number of samples of the reference.
    pub n_reference: usize,
    /// The difference of the two statistics.
    pub difference: f64,
    /// The standard error of `difference`, over the pairs and over the reference.
    pub difference_stderr: f64,
    /// The lower end of the 95 % confidence interval of `difference`.
    pub low: f64,
    /// The upper end of the 95 % confidence interval of `difference`.
    pub high: f64,
    /// How the error was found: `influence`, `parts` or `jackknife`.
    pub method: String,
    /// What the statistic was computed on: the file name of the feature extractor, or `raw`.
    pub features: String,
}

/// `maps.csv`: one identity of a flow map, checked with one number of steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapRow {
    pub model: String,
    pub dataset: String,
    /// The name of the flow map in the card.
    pub map: String,
    /// The identity. Its residual is zero for a true flow map.
    pub check: String,
    /// The number of steps of the flow map.
    pub steps: usize,
    /// The unit of the residuals.
    pub unit: String,
    /// The mean residual over samples. For the normalization, it is the mass of the density minus
    /// 1.
    pub residual: f64,
    /// The standard error of `residual` over samples.
    pub residual_stderr: Option<f64>,
    /// The root mean square of the residuals over samples.
    pub rms: Option<f64>,
    /// The number of samples; for the normalization, the number of draws.
    pub n: usize,
    /// For the normalization, the number of draws of equal weight that the draws are worth.
    pub effective_n: Option<f64>,
}

/// `stein.csv`: one test function for one learned head in one stratum of time.
///
/// The row whose `function` is `bias` has no `z`. It is the bias of the head over all times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteinRow {
    pub model: String,
    pub dataset: String,
    pub head: String,
    /// The beginning of the stratum, in the card's own time.
    pub from: f64,
    /// The end of the stratum, in the card's own time.
    pub to: f64,
    /// The test function, `1`, `x[a]`, `x.x/d` or `cos i`; or `bias`.
    pub function: String,
    /// The number of samples.
    pub n: usize,
    /// The mean of the residual, in nats per unit of ln(sigma/alpha). The unit is nats per unit of
    /// time if ln(sigma/alpha) is not finite at the ends of the path. For `bias`, it is nats.
    pub mean: Option<f64>,
    /// The standard error of `mean`.
    pub stderr: Option<f64>,
    /// `mean` divided by `stderr`.
    pub z: Option<f64>,
    /// The two-sided p-value times the number of tests of this head, at most 1 (Bonferroni).
    pub p: Option<f64>,
    /// The bias in bits per dimension, with the sign of bits: more nats are fewer bits.
    pub bits_per_dim: Option<f64>,
    /// The standard error of `bits_per_dim`.
    pub bits_per_dim_stderr: Option<f64>,
}

/// `calibration.csv`: one statistic of a test of calibration, over all observations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CalibrationRow {
    pub model: String,
    /// The file with the true parameters.
    pub dataset: String,
    pub sampler: String,
    /// The estimator of the log-densities; empty if the test needs none.
    pub estimator: String,
    /// The solver of the log-densities; empty if the test or the estimator needs none.
    pub solver: String,
    /// The test: `sbc`, `tarp`, `coverage` or `local-c2st`, with the parameters that are not its defaults.
    pub test: String,
    /// The index of the parameter, from 0; `all` for the smallest p-value over the parameters, times
    /// their number; empty if the test is one of all parameters together.
    pub parameter: String,
    /// The statistic: `ecdf`, `chi-square`, `dispersion`, `location`, `ks`, `coverage`, `area`,
    /// `log-density`, `rejected` or `deviation`.
    pub statistic: String,
    /// The credibility of a point of a curve, the statistic `coverage`.
    pub level: Option<f64>,
    /// The number of observations with a rank.
    pub n: usize,
    /// The number of observations without a rank; they are excluded.
    pub failed: usize,
    /// The number of draws per observation.
    pub draws: usize,
    pub value: Option<f64>,
    /// The standard error of `value` over observations.
    pub stderr: Option<f64>,
    /// The lower end of the 95 % confidence interval of `value`.
    pub low: Option<f64>,
    /// The upper end of the 95 % confidence interval of `value`.
    pub high: Option<f64>,
    /// The p-value under a calibrated model.
    pub p: Option<f64>,
    /// The guidance of the velocity; see [`SummaryRow::guidance`]. The column is left out if no row
    /// has one.
    #[serde(default)]
    pub guidance: String,
}

/// `ranks.csv`: the rank of one number of an observation's true parameters among the draws.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RankRow {
    pub model: String,
    pub dataset: String,
    pub sampler: String,
    /// The estimator of the log-densities; empty if the test needs none.
    pub estimator: String,
    /// The solver of the log-densities; empty if the test or the estimator needs none.
    pub solver: String,
    /// The test; see [`CalibrationRow::test`].
    pub test: String,
    /// The index of the parameter, from 0; absent if the rank is one of all parameters together.
    pub parameter: Option<usize>,
    /// The index of the observation, from 0.
    pub sample: usize,
    /// The number of draws.
    pub draws: usize,
    /// The number of draws below the true value, with a random place among equal ones. Absent if
    /// `status` is not `ok`.
    pub rank: Option<usize>,
    /// The number of draws that are equal to the true value.
    pub ties: usize,
    /// The ranked number of the true parameters: the parameter, the log-density in nats, or the
    /// distance from the reference point in widths of the parameters' box.
    pub value: Option<f64>,
    /// The standard error of a log-density over probes; absent if it is exact.
    pub stderr: Option<f64>,
    /// `ok`, or why a draw or a log-density is missing.
    pub status: Status,
}

/// `profile.csv`: the divergence of dx/dt at one node of one sample's path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    pub sample: usize,
    /// The time of the node, in the card's own time.
    pub t: f64,
    /// Half the log signal-to-noise ratio at the node, ln(alpha/sigma).
    pub half_log_snr: f64,
    /// The divergence of dx/dt at the node.
    pub divergence: f64,
}

/// `bound_profile.csv`: the integrand of a continuous bound at one pair of draws of one sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundProfileRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub sample: usize,
    /// The log signal-to-noise ratio ln(α²/σ²).
    pub log_snr: f64,
    /// The rate at which the bound's diffusion term grows there, in nats per unit of `log_snr`: half
    /// the squared error of the predicted noise.
    pub rate: f64,
    /// The rate for the denoiser of a normal distribution as large as the sample.
    pub normal_rate: f64,
}

/// One claim with the measured value: a row of the table that `--out` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClaimResult {
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: &'static str,
    /// The name of the claim.
    pub claim: String,
    pub table: String,
    pub column: String,
    /// The measured value. Absent if the run has no number there.
    pub measured: Option<f64>,
    /// The standard error of the measured value.
    pub stderr: Option<f64>,
    /// The lower end of the confidence interval.
    pub low: Option<f64>,
    /// The upper end of the confidence interval.
    pub high: Option<f64>,
    /// The lower end of the claimed interval. Absent if there is no lower bound.
    pub claimed_low: Option<f64>,
    /// The upper end of the claimed interval. Absent if there is no upper bound.
    pub claimed_high: Option<f64>,
    /// The confidence level of the interval.
    pub confidence: f64,
    /// `interval`, or `value` if the measured value has no standard error.
    pub decided_by: &'static str,
    /// Remarks on the measured value, often empty.
    pub note: String,
    /// Where the number was published, from the claims file.
    pub source: String,
}

/// `mass.csv`: the integral of one estimator's density over all states, by importance sampling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MassRow {
    pub model: String,
    /// The data at which the proposal has its kernels.
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// The integral, which is 1 for a true density. Noise of the log-densities is corrected for.
    pub mass: f64,
    /// The standard error of `mass` over the draws; absent if the weights have no mean.
    pub stderr: Option<f64>,
    /// The lower end of the 95 % confidence interval; absent if the draws cannot show one.
    pub low: Option<f64>,
    /// The upper end of the 95 % confidence interval; absent if the draws cannot show one.
    pub high: Option<f64>,
    /// The shape of the generalized Pareto distribution of the largest weights. Above 0.7 they may
    /// have a tail that the draws do not show.
    pub khat: Option<f64>,
    /// The effective number of draws as a share of `n`.
    pub ess: f64,
    /// The mean squared standard error of the log-densities over probes; absent if there is none.
    pub noise_variance: Option<f64>,
    /// The number of draws with a log-density.
    pub n: usize,
    /// The number of draws without a log-density, which are left out.
    pub failed: usize,
}

/// `reweight.csv`: one quantity of samples that were reweighted to the density exp(−u(x)) of a
/// target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReweightRow {
    pub model: String,
    /// The sampler that drew the samples.
    pub sampler: String,
    /// The divergence estimator of the samples' log-densities.
    pub estimator: String,
    /// The file of the target's energy.
    pub target: String,
    /// The quantity: `ess` (Kish's effective sample size as a share of `n`), `ess_corrected` (the
    /// same without the noise of log-densities), `log_z`, `log_z_naive`, `free_energy`, `khat`,
    /// `noise_variance`, or `mean_` with the name of an observable.
    pub quantity: String,
    pub value: f64,
    /// The standard error of `value`.
    pub stderr: Option<f64>,
    /// The lower end of the 95 % confidence interval; absent if the samples cannot show one.
    pub low: Option<f64>,
    /// The upper end of the 95 % confidence interval; absent if the samples cannot show one.
    pub high: Option<f64>,
    /// The number of samples with a log-density; for `khat`, the number of the largest weights.
    pub n: usize,
    /// The number of samples without a log-density, which are left out.
    pub failed: usize,
}

/// `weights.csv`: the weight of one sample that is reweighted to the density exp(−u(x)) of a target.
///
/// The trials of reweighting write the same rows. The numbers are absent if `status` is not `ok`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WeightRow {
    pub model: String,
    /// The sampler that drew the sample.
    pub sampler: String,
    /// The divergence estimator of the log-density.
    pub estimator: String,
    /// The file of the target's energy.
    pub target: String,
    pub sample: usize,
    pub status: Status,
    /// The log-density of the sample under the model, in nats.
    pub log_likelihood: Option<f64>,
    /// The standard error of `log_likelihood` over probes; absent if the estimator is deterministic.
    pub stderr: Option<f64>,
    /// The energy u of the sample: minus the unnormalized log-density of the target.
    pub energy: Option<f64>,
    /// −u − `log_likelihood`, in nats.
    pub log_weight: Option<f64>,
    /// The values of observables, such as `radius=1.5 angle=0.2`.
    #[serde(default)]
    pub observables: String,
    /// Evaluations of the network.
    pub evaluations: u64,
    /// Jacobian products.
    pub jvps: u64,
}

impl WeightRow {
    /// The set of samples that are reweighted together: model, sampler, estimator and target.
    pub fn set_key(&self) -> [&str; 4] {
        [&self.model, &self.sampler, &self.estimator, &self.target]
    }
}

/// `density.csv`: the log-density of a two-dimensional model on a rectangular grid. `x` varies
/// fastest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityRow {
    pub model: String,
    pub estimator: String,
    pub x: f64,
    pub y: f64,
    /// The log-density in nats; absent if the path has failed.
    pub log_density: Option<f64>,
}

/// Generated samples beside data, for the reader's eye: images, or points of the plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    pub model: String,
    pub sampler: String,
    /// `[height, width]` or `[channels, height, width]` for images, `[2]` for the plane.
    pub shape: Vec<usize>,
    /// The smallest and the largest value of the data, for grey levels.
    pub range: [f64; 2],
    /// Generated samples, each flat.
    pub generated: Vec<Vec<f64>>,
    /// Samples of the data, each flat.
    pub real: Vec<Vec<f64>>,
}

/// Declares all tables once, so that code that visits every table cannot forget one.
/// `runs.csv`: an estimator's mean in one of several runs that evaluated the same data, with its paired
/// difference from the first row of that data. Only reports of several runs have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRow {
    /// The name of the run.
    pub run: String,
    pub model: String,
    /// One SHA-256 for all files of the model: models with equal hashes are the same.
    pub model_sha256: String,
    pub dataset: String,
    /// The SHA-256 of the data, by which rows are compared.
    pub data_sha256: String,
    pub estimator: String,
    pub solver: String,
    /// The kind of number; see [`SummaryRow::kind`].
    pub kind: EstimateKind,
    /// The number of samples in the means.
    pub n: usize,
    pub bits_per_dim: Option<f64>,
    pub bits_per_dim_stderr: Option<f64>,
    pub nats: Option<f64>,
    pub nats_stderr: Option<f64>,
    /// The number of samples that this row shares with the first row of the data.
    pub pairs: usize,
    /// The mean over these samples of the log-likelihood minus that of the first row, in nats.
    pub difference: Option<f64>,
    pub difference_stderr: Option<f64>,
    /// The ends of the 95 % interval of `difference`, by Student's t.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

macro_rules! tables {
    (files: { $($file:ident: $row:ty,)* } shown: { $($shown:ident: $other:ty,)* }) => {
        /// All tables of one run, or of several runs together.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Tables {
            $(pub $file: Vec<$row>,)*
            $(pub $shown: Vec<$other>,)*
        }

        impl Tables {
            /// Appends the rows of another run.
            pub fn append(&mut self, other: Tables) {
                $(self.$file.extend(other.$file);)*
                $(self.$shown.extend(other.$shown);)*
            }

            /// The `model` column of every row of every table, for renaming models.
            pub fn models_mut(&mut self) -> impl Iterator<Item = &mut String> {
                let all = std::iter::empty();
                $(let all = all.chain(self.$file.iter_mut().map(|r| &mut r.model));)*
                $(let all = all.chain(self.$shown.iter_mut().map(|r| &mut r.model));)*
                all
            }

            /// The name of every table that is written as a file, with its number of rows.
            pub fn row_counts(&self) -> Vec<(&'static str, usize)> {
                vec![$((stringify!($file), self.$file.len()),)*]
            }

            /// The name of every table that is written as a file, with the bytes of its CSV file.
            /// The bytes are empty if the table has no rows.
            ///
            /// # Errors
            /// Fails if a row cannot be written as CSV.
            pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, csv::Error> {
                Ok(vec![$((stringify!($file), rows_to_csv(&self.$file)?),)*])
            }

            /// The name of every table that is written as a file, with its rows as JSON objects.
            ///
            /// # Errors
            /// Fails if a row cannot be written as JSON.
            pub fn to_json(
                &self,
                wanted: impl Fn(&str) -> bool,
            ) -> serde_json::Result<Vec<(&'static str, serde_json::Value)>> {
                let mut documents = Vec::new();
                $(if wanted(stringify!($file)) {
                    documents.push((stringify!($file), serde_json::to_value(&self.$file)?));
                })*
                Ok(documents)
            }
        }
    };
}

tables! {
    files: {
        summary: SummaryRow,
        samples: SampleLikelihoodRow,
        pairs: PairRow,
        conditions: ConditionRow,
        budget: BudgetRow,
        frontier: FrontierRow,
        conventions: ConventionRow,
        gaps: GapRow,
        metrics: MetricRow,
        contrasts: ContrastRow,
        maps: MapRow,
        stein: SteinRow,
        mass: MassRow,
        reweight: ReweightRow,
        weights: WeightRow,
        profile: ProfileRow,
        bound_profile: BoundProfileRow,
        density: DensityRow,
        steps: StepRow,
        calibration: CalibrationRow,
        ranks: RankRow,
        runs: RunRow,
    }
    shown: { galleries: Gallery, }
}

/// The bytes of a CSV file of these rows, with the names of the fields as its header.
///
/// # Errors
/// Fails if a row cannot be written as CSV.
pub fn rows_to_csv<T: Serialize>(rows: &[T]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|r| writer.serialize(r))?;
    let bytes = writer.into_inner().map_err(|e| e.into_error())?;
    without_empty_columns(&bytes)
}

/// The columns that a table has only if a row has a value there.
const OPTIONAL_COLUMNS: [&str; 11] = [
    "guidance",
    "conditions",
    "bound_prior",
    "bound_diffusion",
    "bound_reconstruction",
    "inverse_residual",
    "observables",
    "lipschitz",
    "lipschitz_stderr",
    "lipschitz_max",
    "lipschitz_residual",
];

/// The table without its optional columns that have no values.
fn without_empty_columns(bytes: &[u8]) -> Result<Vec<u8>, csv::Error> {
    let table = TextTable::read(bytes)?;
    let is_empty = |column: usize| table.rows.iter().all(|(_, row)| row[column].is_empty());
    let kept: Vec<usize> = (0..table.columns.len())
        .filter(|i| !(OPTIONAL_COLUMNS.contains(&&table.columns[*i][..]) && is_empty(*i)))
        .collect();
    if kept.len() == table.columns.len() {
        return Ok(bytes.to_vec());
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let pick = |row: &[String]| {
        kept.iter()
            .map(|i| row[*i].clone())
            .collect::<Vec<String>>()
    };
    writer.write_record(pick(&table.columns))?;
    for (_, row) in &table.rows {
        writer.write_record(pick(row))?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
