//! Rows as they lie on disk: those that trials leave, and those of the tidy tables that
//! `table.rs` derives from them, which are all that a report sees.
//!
//! One struct is one CSV file, one field one column, in this order. Absent numbers
//! are empty cells. Units: log-densities and their differences in nats, costs in
//! evaluations of the network, times in seconds.

use serde::{Deserialize, Serialize};

/// One likelihood row on disk: a sample under an estimator, with its costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LikelihoodRow {
    pub trial: String,
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub kind: String,
    pub solver: String,
    pub sample: usize,
    pub log_likelihood: Option<f64>,
    pub stderr: Option<f64>,
    /// Half the width of the 95 % interval over probes, by Student's t.
    pub half_width: Option<f64>,
    pub prior_log_density: Option<f64>,
    pub divergence_integral: Option<f64>,
    pub bits_per_dim: Option<f64>,
    pub nats_per_dim: Option<f64>,
    pub evaluations: u64,
    pub jvps: u64,
    pub head_calls: u64,
    pub status: String,
    pub path_seconds: f64,
    pub divergence_seconds: f64,
    /// What the number is to the data: `density` at the given point, or a bound of a discrete
    /// log-probability, `elbo` or `iw-elbo`, over so many draws of dequantization noise.
    #[serde(default)]
    pub bound: String,
    #[serde(default = "default_draws")]
    pub draws: usize,
    /// Standard error over the draws, nats; absent of one draw.
    #[serde(default)]
    pub dequantization_stderr: Option<f64>,
    /// Estimated size of the error that the solver's steps leave, nats; absent where it is not known.
    #[serde(default)]
    pub solver_error: Option<f64>,
    /// What all estimators of the entry took together: less than the sum of what each would take alone. Absent from
    /// older runs.
    #[serde(default)]
    pub entry_seconds: Option<f64>,
}

fn default_draws() -> usize {
    1
}

/// One generated sample on disk; its numbers are in the trial's array.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    pub trial: String,
    pub model: String,
    pub sampler: String,
    pub sample: usize,
    pub status: String,
    pub evaluations: u64,
    pub jvps: u64,
    pub seconds: f64,
    /// log p of the sample under the map that drew it, in nats, where that was asked for.
    pub log_density: Option<f64>,
    /// Of these, those spent on Jacobian products.
    pub jvp_seconds: f64,
}

/// `steps.csv`: one step of one population of samples under SteinDiff.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    pub model: String,
    pub sampler: String,
    /// The sampler that proposed the step, and how γ was found.
    pub inner: String,
    pub mode: String,
    pub population: u64,
    /// Samples in the population.
    pub n: usize,
    pub step: usize,
    /// The card's own time, α and σ before and after the step.
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
    pub t_next: f64,
    pub alpha_next: f64,
    pub sigma_next: f64,
    /// γ as it was applied, and as it came out before any bound.
    pub gamma: f64,
    pub gamma_raw: Option<f64>,
    /// Its standard error from the probes alone, and over the samples with their probes.
    pub gamma_probe_stderr: Option<f64>,
    pub gamma_stderr: Option<f64>,
    /// `applied`, `clamped-low`, `clamped-high`, `skipped-last`, `skipped-gate`, `not-significant` or `undefined`.
    pub action: String,
    /// Where E div u came from: `jacobian` or `linear`; empty where none was wanted.
    pub divergence: String,
    /// E⟨x, u⟩, E‖u‖² and E div u over the population.
    pub s_xu: Option<f64>,
    pub s_uu: Option<f64>,
    pub s_div: Option<f64>,
    /// E‖x − αD‖² / (σ² (d − α E tr J_D)), 1 under the ideal coupling.
    pub coupling: Option<f64>,
    /// Mean weight of the look ahead.
    pub blend: Option<f64>,
    /// Per sample, in this step.
    pub evaluations: u64,
    pub jvps: u64,
}

/// One sample again, for the error budget: with finer and coarser steps, and with networks in float64 or, where these
/// are not to be had, from states moved by one rounding of float32. Log-likelihoods in nats; absent where that path did not
/// end well, or was not taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RefinedRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    pub sample: usize,
    pub log_likelihood: Option<f64>,
    pub finer: Option<f64>,
    /// Absent where tolerances choose the steps.
    pub coarser: Option<f64>,
    pub ahead: Option<f64>,
    pub behind: Option<f64>,
    /// By the same networks in float64.
    #[serde(default)]
    pub float64: Option<f64>,
    /// The method's order, where its steps are fixed.
    pub order: Option<u32>,
}

/// `summary.csv`: one estimator on one dataset under one solver.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SummaryRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// What kind of number this is: `ode-exact`, `ode-stochastic`, `learned`, `few-step`, `closed-form`.
    pub kind: String,
    /// Samples that entered the averages, and samples whose status was not `ok`.
    pub n: usize,
    pub failed: usize,
    pub bits_per_dim: Option<f64>,
    pub bits_per_dim_stderr: Option<f64>,
    /// Mean log-likelihood per sample, and its standard error over the data.
    pub nats: Option<f64>,
    pub nats_stderr: Option<f64>,
    pub nats_per_dim: Option<f64>,
    /// Root mean square of the per-sample standard errors over probes; empty where deterministic.
    pub probe_stderr: Option<f64>,
    /// Paired per sample against the run's reference estimator: mean difference, its standard
    /// error, root mean square difference and Pearson correlation. Where the reference stands under
    /// another solver than this row, `reference` names both.
    pub reference: String,
    pub reference_solver: String,
    pub bias: Option<f64>,
    pub bias_stderr: Option<f64>,
    pub rmse: Option<f64>,
    pub correlation: Option<f64>,
    /// Spearman's correlation of ranks.
    pub rank_correlation: Option<f64>,
    /// Root mean square of (difference / reported standard error): 1 where the errors are honest.
    pub calibration: Option<f64>,
    /// Per sample: evaluations of the network, Jacobian products, calls of a learned head.
    pub evaluations: f64,
    pub jvps: f64,
    pub head_calls: f64,
    /// Total in evaluations of the network; products and head calls at their measured ratio.
    pub cost: f64,
    pub seconds_per_sample: f64,
    /// What the number is to the data: `density`, `elbo` or `iw-elbo`; and the draws behind each sample.
    pub bound: String,
    pub draws: usize,
    /// Root mean square of the per-sample standard errors over draws of dequantization noise.
    pub dequantization_stderr: Option<f64>,
    /// Samples behind `bias`.
    pub bias_n: Option<usize>,
    /// The solver's part of `nats` and of `bits_per_dim`, where it was measured: the mean as it stands less that of
    /// infinitely many steps, with its standard error, and the samples that it was measured on.
    pub solver_bias: Option<f64>,
    pub solver_bias_stderr: Option<f64>,
    pub solver_bias_bits_per_dim: Option<f64>,
    pub solver_bias_bits_per_dim_stderr: Option<f64>,
    pub solver_bias_n: Option<usize>,
    /// Mean over samples of the estimated error of the solver's steps, nats; an estimate, and no bound.
    pub solver_error: Option<f64>,
    /// Seconds per sample that the run itself took for all estimators of this row's entry together, which share a path
    /// and products.
    pub entry_seconds_per_sample: Option<f64>,
}

/// `samples.csv`: one estimator on one sample.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleLikelihoodRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    pub sample: usize,
    pub log_likelihood: Option<f64>,
    pub stderr: Option<f64>,
    /// Half the width of the 95 % interval over probes, by Student's t.
    pub half_width: Option<f64>,
    pub prior_log_density: Option<f64>,
    pub divergence_integral: Option<f64>,
    pub bits_per_dim: Option<f64>,
    pub nats_per_dim: Option<f64>,
    pub evaluations: u64,
    pub jvps: u64,
    pub status: String,
    pub bound: String,
    pub dequantization_stderr: Option<f64>,
    /// Estimated size of the error that the solver's steps leave, nats: an estimate for this path, and no bound.
    pub solver_error: Option<f64>,
}

/// `pairs.csv`: the mean paired difference of two estimators, `estimator` minus `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    pub other: String,
    pub n: usize,
    pub difference: f64,
    pub difference_stderr: f64,
    /// 95 % interval of the mean difference.
    pub low: f64,
    pub high: f64,
}

/// `budget.csv`: one part of the uncertainty of one summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// `data`, `probe`, `solver`, `dequantization`, `numeric` or `total`.
    pub component: String,
    /// Samples that it was measured on.
    pub n: usize,
    /// Root mean square per sample, and size in the mean over the summary's samples.
    pub sample_nats: Option<f64>,
    pub mean_nats: Option<f64>,
    /// Of the total's square.
    pub share: Option<f64>,
    /// Of a systematic part: its mean with its sign (above zero: the log-likelihood is too high) and the
    /// standard error of that.
    pub bias_nats: Option<f64>,
    pub bias_stderr: Option<f64>,
    pub sample_bits_per_dim: Option<f64>,
    pub mean_bits_per_dim: Option<f64>,
    pub bias_bits_per_dim: Option<f64>,
    /// The order at which fixed steps were seen to converge, from half, once and twice the steps.
    pub observed_order: Option<f64>,
    /// What lowers it, and how it was measured or why it is not known.
    pub knob: String,
    pub measured: String,
}

/// `frontier.csv`: what one estimator must spend for one wanted accuracy, per sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontierRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    pub kind: String,
    /// Whether the target is for each `sample` or for the `mean` over n of them.
    pub scope: String,
    pub target: f64,
    pub unit: String,
    pub n: usize,
    /// Its error in this run, in the same unit.
    pub error: Option<f64>,
    /// `exact`, `1/K` (extrapolated), `measured`, `out of reach` or `unknown`.
    pub basis: String,
    /// What must be averaged, `probes` or `replicates`, and how many of them.
    pub averages: String,
    pub needed: Option<f64>,
    /// What a sample then costs; absent where the target is out of reach.
    pub jvps: Option<f64>,
    pub head_calls: Option<f64>,
    pub fewest_jvps: bool,
    pub seconds: Option<f64>,
    pub least_seconds: bool,
    /// Variance per sample (nats²) times cost, in Jacobian products and in seconds: less is better.
    pub variance_jvps: Option<f64>,
    pub variance_seconds: Option<f64>,
}

/// `conventions.csv`: one mean log-likelihood under one named convention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConventionRow {
    pub model: String,
    pub dataset: String,
    pub estimator: String,
    pub solver: String,
    /// As in `summary.csv`.
    pub kind: String,
    pub bound: String,
    pub convention: String,
    pub unit: String,
    pub n: usize,
    /// Mean over samples and its standard error over the data; absent where the convention does not apply.
    pub value: Option<f64>,
    pub stderr: Option<f64>,
    /// value = scale · log p + offset, log p in nats in the model's coordinates.
    pub scale: Option<f64>,
    pub offset: Option<f64>,
    /// Why it does not apply; empty where it does.
    pub reason: String,
    pub formula: String,
    pub source: String,
    /// What the public code does besides the formula.
    pub protocol: String,
}

/// `gaps.csv`: one dataset against another under one model and estimator, `dataset` minus `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GapRow {
    pub model: String,
    pub solver: String,
    pub estimator: String,
    pub dataset: String,
    pub other: String,
    /// Samples with a log-likelihood in each.
    pub n: usize,
    pub n_other: usize,
    /// Mean log-likelihood, in nats; standard error and 95 % interval over two independent sets of samples.
    pub difference: f64,
    pub difference_stderr: f64,
    pub low: f64,
    pub high: f64,
    /// The same in bits/dim, of which fewer is better: its sign is the opposite.
    pub bits_per_dim: Option<f64>,
    pub bits_per_dim_stderr: Option<f64>,
    /// Chance that a sample of `dataset` has a higher log-likelihood than one of `other`; a tie counts half.
    pub auroc: f64,
    /// DeLong's standard error; none where the two sets do not overlap, and it would be zero.
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
    pub stderr: Option<f64>,
    pub n_generated: usize,
    pub n_reference: usize,
    /// Evaluations of the network and Jacobian products per generated sample.
    pub evaluations: f64,
    pub jvps: f64,
    /// Total in evaluations of the network, products at their measured ratio.
    pub cost: f64,
    /// What the statistic was computed on: the extractor's file name, or `raw`.
    pub features: String,
    /// What to know before trusting the value; most often empty.
    #[serde(default)]
    pub note: String,
}

/// `contrasts.csv`: a statistic of one sampler's samples minus that of another's, from the same noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContrastRow {
    pub model: String,
    pub sampler: String,
    pub baseline: String,
    pub metric: String,
    /// Pairs of samples, and samples of the reference.
    pub n: usize,
    pub n_reference: usize,
    pub difference: f64,
    /// Over pairs and over the reference.
    pub difference_stderr: f64,
    /// 95 % interval.
    pub low: f64,
    pub high: f64,
    /// How the error was found: `influence`, `parts` or `jackknife`.
    pub method: String,
    pub features: String,
}

/// `maps.csv`: one identity of a flow map, walked in some number of steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapRow {
    pub model: String,
    pub dataset: String,
    pub map: String,
    /// The identity, whose residual a true flow map has zero of.
    pub check: String,
    pub steps: usize,
    /// Of the numbers here.
    pub unit: String,
    /// Mean residual with its standard error over samples, and root mean square.
    pub residual: f64,
    pub residual_stderr: Option<f64>,
    pub rms: Option<f64>,
    /// Samples that entered; for the normalization draws, and how many of equal weight they are worth.
    pub n: usize,
    pub effective_n: Option<f64>,
}

/// `stein.csv`: one test function on one head in one stratum of time; and, with `function` `bias` and no `z`, the
/// head's bias over all time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteinRow {
    pub model: String,
    pub dataset: String,
    pub head: String,
    /// The stratum's ends in the card's time.
    pub from: f64,
    pub to: f64,
    /// `1`, `x[a]`, `x.x/d`, `cos i`, or `bias`.
    pub function: String,
    pub n: usize,
    /// The residual's mean, in nats per unit of ln(sigma/alpha) (of time, where that is not finite at the path's
    /// ends); of `bias`, nats.
    pub mean: Option<f64>,
    pub stderr: Option<f64>,
    pub z: Option<f64>,
    /// Two-sided, times the number of tests of this head, at most 1 (Bonferroni).
    pub p: Option<f64>,
    pub bits_per_dim: Option<f64>,
    pub bits_per_dim_stderr: Option<f64>,
}

/// `profile.csv`: the divergence of dx/dt at one node of one sample's path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProfileRow {
    pub model: String,
    pub dataset: String,
    pub solver: String,
    pub estimator: String,
    pub sample: usize,
    /// The card's own time, and half the log signal-to-noise ratio ln(alpha/sigma) there.
    pub t: f64,
    pub half_log_snr: f64,
    pub divergence: f64,
}

/// `density.csv`: the log-density of a 2-D model on a rectangular grid (x fastest).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityRow {
    pub model: String,
    pub estimator: String,
    pub x: f64,
    pub y: f64,
    pub log_density: Option<f64>,
}

/// Generated samples beside data, for a person's eye: images, or points of the plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    pub model: String,
    pub sampler: String,
    /// `[height, width]` or `[channels, height, width]` for images, `[2]` for the plane.
    pub shape: Vec<usize>,
    /// The data's range, for grey levels.
    pub range: [f64; 2],
    pub generated: Vec<Vec<f64>>,
    pub real: Vec<Vec<f64>>,
}

/// Declares the tables once, so that none can be forgotten where all are walked.
macro_rules! tables {
    (files: { $($file:ident: $row:ty,)* } shown: { $($shown:ident: $other:ty,)* }) => {
        /// All tables of a run (or of several).
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Tables {
            $(pub $file: Vec<$row>,)*
            $(pub $shown: Vec<$other>,)*
        }

        impl Tables {
            /// Another run's rows after these.
            pub fn append(&mut self, other: Tables) {
                $(self.$file.extend(other.$file);)*
                $(self.$shown.extend(other.$shown);)*
            }

            /// Whose every row is.
            pub fn models_mut(&mut self) -> impl Iterator<Item = &mut String> {
                let all = std::iter::empty();
                $(let all = all.chain(self.$file.iter_mut().map(|r| &mut r.model));)*
                $(let all = all.chain(self.$shown.iter_mut().map(|r| &mut r.model));)*
                all
            }

            /// The name of every table that is a file, with the file's bytes; no bytes where it has no rows.
            ///
            /// # Errors
            /// Where a row cannot be written.
            pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, csv::Error> {
                Ok(vec![$((stringify!($file), rows_to_csv(&self.$file)?),)*])
            }
        }
    };
}

tables! {
    files: {
        summary: SummaryRow,
        samples: SampleLikelihoodRow,
        pairs: PairRow,
        budget: BudgetRow,
        frontier: FrontierRow,
        conventions: ConventionRow,
        gaps: GapRow,
        metrics: MetricRow,
        contrasts: ContrastRow,
        maps: MapRow,
        stein: SteinRow,
        profile: ProfileRow,
        density: DensityRow,
        steps: StepRow,
    }
    shown: { galleries: Gallery, }
}

/// Rows as a file, headed by the names of their fields.
///
/// # Errors
/// Where a row cannot be written.
pub fn rows_to_csv<T: Serialize>(rows: &[T]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|r| writer.serialize(r))?;
    writer.into_inner().map_err(|e| e.into_error().into())
}
