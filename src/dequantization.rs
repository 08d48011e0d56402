//! Dequantization: how integers become real numbers, and what the combination of several draws
//! bounds.
//!
//! Let u be uniform in a cell of the lattice. By Jensen's inequality, log P(X) = log ∫ p(X + u) du
//! ≥ E_u log p(X + u). The log-density of one draw, or the mean over several draws, is therefore in
//! expectation a lower bound of the discrete log-probability, an `elbo`.
//!
//! The logarithm of the mean of K densities, `iw-elbo`, is tighter and approaches log P(X) as K
//! grows (Burda, Grosse & Salakhutdinov, 2016; for dequantization Hoogeboom, Cohen & Tomczak,
//! 2020). Learned noise (variational dequantization) needs a network of its own, which cards do not
//! have.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::divergence::DivergenceEstimator;
use crate::flow::path::PathCurve;
use crate::likelihood::{BoundTerms, LikelihoodResult};
use crate::model::card::DataSpec;
use crate::num::key::{SampleId, pack_draw, unpack_draw};
use crate::num::stats::{self, Estimate};
use crate::registry;
use crate::rows::{BoundKind, Status};

registry! {
    /// The dequantizations, under the names that `dequantization:` and `--dequantization` accept.
    pub enum Dequantization: DequantizationMethod {
        "uniform" => Uniform(Uniform) {
            what: "Uniform noise within each level.",
            when: "To compare with published bits per dimension; more `repeats` lower the error.",
            source: "Theis et al. 2016, arXiv:1511.01844",
        },
        "importance" | "iwae" | "importance-weighted" => Importance(Importance) {
            what: "An importance-weighted bound over several uniform draws.",
            when: "For a tighter bound of the discrete log-likelihood.",
            source: "Burda et al. 2016, arXiv:1509.00519",
        },
        "truncated-normal" => TruncatedNormal(TruncatedNormal) {
            what: "Normal noise of the path's data end, cut at half a level.",
            when: "Models that were trained on data with such noise.",
            source: "Zheng et al. 2023, arXiv:2305.03935",
        },
    }
}

/// How several draws of one sample combine to one number.
pub trait DequantizationMethod: Sync {
    /// The number of draws per sample. The noise of a draw depends only on the seed, the sample's
    /// index and the draw's number.
    fn draw_count(&self) -> usize;

    /// The kind of bound that the combination is, as in the column `bound`.
    fn bound_kind(&self) -> BoundKind;

    /// The sample's number from the log-densities of its draws, in nats, with its standard error
    /// over the draws.
    fn combine_log_densities(&self, log_densities: &[f64]) -> Option<Estimate>;

    /// Whether the combination is linear. Zero-mean noise of a divergence estimator then keeps its
    /// zero mean.
    fn is_linear(&self) -> bool;
}

/// The mean of the log-densities of several uniform draws, in expectation a lower bound of log
/// P(X).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Uniform {
    /// The number of draws per sample, 1 to 10000. Default: 1.
    pub repeats: usize,
}

impl Default for Uniform {
    fn default() -> Self {
        Uniform { repeats: 1 }
    }
}

impl DequantizationMethod for Uniform {
    fn draw_count(&self) -> usize {
        self.repeats
    }

    fn bound_kind(&self) -> BoundKind {
        BoundKind::Elbo
    }

    fn combine_log_densities(&self, log_densities: &[f64]) -> Option<Estimate> {
        stats::mean_estimate(log_densities)
    }

    fn is_linear(&self) -> bool {
        true
    }
}

/// The mean over several draws of the log-density minus that of the noise, which is a normal
/// distribution truncated to the cell of the integer (Zheng et al. 2023, "Improved Techniques for
/// Maximum Likelihood Estimation for Diffusion ODEs"). In expectation it is a lower bound of log
/// P(X).
///
/// Cells are centred on the levels as networks are trained on them, lo + (hi − lo)·X/(levels − 1).
/// With the default width a state has the noise of the data end, and so the distribution that the
/// network has seen there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TruncatedNormal {
    /// The number of draws per sample, 1 to 10000. Default: 1.
    pub repeats: usize,
    /// The standard deviation of the normal distribution before it is truncated, in the units of the
    /// scaled data. Default: the noise level σ/α at the data end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
}

impl Default for TruncatedNormal {
    fn default() -> Self {
        TruncatedNormal {
            repeats: 1,
            std: None,
        }
    }
}

impl DequantizationMethod for TruncatedNormal {
    fn draw_count(&self) -> usize {
        self.repeats
    }

    fn bound_kind(&self) -> BoundKind {
        BoundKind::Elbo
    }

    fn combine_log_densities(&self, log_densities: &[f64]) -> Option<Estimate> {
        stats::mean_estimate(log_densities)
    }

    fn is_linear(&self) -> bool {
        true
    }
}

/// Truncated normal noise in the cells of a lattice of data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CellNoise {
    /// The standard deviation before truncation.
    std: f64,
    /// Half the width of a cell.
    half: f64,
    /// The factor α of the data end, by which the noised data become a state.
    alpha: f64,
    /// The probability of the cell under the normal distribution.
    inside: f64,
    /// ln((hi − lo)/levels), which uniform dequantization has in the place of the noise's density.
    log_uniform: f64,
}

impl CellNoise {
    /// The noise of one component from a uniform draw in \[0, 1).
    pub fn from_uniform(&self, u: f64) -> f64 {
        let size = self.std * stats::normal_quantile((2.0 * u - 1.0).abs() * self.inside);
        size.min(self.half).copysign(u - 0.5)
    }

    /// The factor of noised data that makes them a state.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// What is added to the log-density of the state of some noise, so that it has the unit of
    /// uniform dequantization: −ln q of the noise, the volume of α, and minus the logarithm of the
    /// uniform cell.
    pub fn correction<'a>(&self, noise: impl IntoIterator<Item = &'a f64>) -> f64 {
        let constant = (self.std * std::f64::consts::TAU.sqrt() * self.inside).ln()
            + self.alpha.ln()
            - self.log_uniform;
        noise
            .into_iter()
            .map(|e| constant + 0.5 * (e / self.std).powi(2))
            .sum()
    }
}

/// The logarithm of the mean of the densities of several uniform draws. It is never below the mean
/// of the log-densities.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Importance {
    /// The number of draws per sample, 1 to 10000. Default: 8.
    pub draws: usize,
}

impl Default for Importance {
    fn default() -> Self {
        Importance { draws: 8 }
    }
}

impl DequantizationMethod for Importance {
    fn draw_count(&self) -> usize {
        self.draws
    }

    fn bound_kind(&self) -> BoundKind {
        BoundKind::IwElbo
    }

    /// The logarithm of the mean density, with a standard error from the delta method:
    /// sd(w)/(√K · mean w) for the weights w.
    fn combine_log_densities(&self, log_densities: &[f64]) -> Option<Estimate> {
        let top = log_densities
            .iter()
            .copied()
            .fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = log_densities.iter().map(|l| (l - top).exp()).collect();
        let mean = stats::mean_estimate(&weights)?;
        let stderr = mean.stderr.map(|e| e / mean.value);
        Some(Estimate {
            value: top + mean.value.ln(),
            stderr,
            n: mean.n,
        })
    }

    fn is_linear(&self) -> bool {
        false
    }
}

/// The largest number of draws per sample.
const MAX_DRAWS: usize = 10_000;

impl Dequantization {
    /// The suffix that distinguishes a dataset's rows from rows of the same file with another
    /// dequantization.
    pub fn dataset_suffix(&self) -> String {
        match self {
            Dequantization::Uniform(u) => format!("[{} draws]", u.repeats),
            Dequantization::TruncatedNormal(t) => {
                let std = t.std.map_or(String::new(), |std| format!(" std={std}"));
                format!("[truncated-normal{std}, {} draws]", t.repeats)
            }
            Dequantization::Importance(i) => format!("[importance, {} draws]", i.draws),
        }
    }

    /// Checks the number of draws and whether the estimators suit the combination.
    ///
    /// # Errors
    /// Fails if the number of draws is out of range, or if an estimator is random and the
    /// combination is not linear. The message names the key and says what is expected.
    pub fn check(&self, estimators: &[DivergenceEstimator]) -> Result<(), String> {
        let key = if self.is_linear() { "repeats" } else { "draws" };
        registry::check_bounds(
            &format!("{}: {key}", self.name()),
            self.draw_count(),
            1,
            MAX_DRAWS,
        )?;
        if let Dequantization::TruncatedNormal(truncated) = self {
            if let Some(std) = truncated.std.filter(|std| !(*std > 0.0 && std.is_finite())) {
                return Err(format!(
                    "truncated-normal: std is {std}, expected a number above 0"
                ));
            }
            let whole = |e: &&DivergenceEstimator| match e {
                DivergenceEstimator::DiscreteBound(bound) => bound.is_discretized(),
                _ => false,
            };
            if let Some(bound) = estimators.iter().find(whole) {
                return Err(format!(
                    "truncated-normal: `{}` bounds the probability of the integers themselves; \
                     expected it in an entry without a dequantization",
                    bound.label()
                ));
            }
        }
        match estimators
            .iter()
            .find(|e| e.is_random() && !self.is_linear())
        {
            Some(random) => Err(format!(
                "{}: `{}` is random, and the logarithm of a mean of exponentials turns its noise \
                 into an upward bias, so the result would not be a bound; expected a \
                 deterministic estimator such as `exact`, or `{{uniform: {{repeats: {}}}}}`",
                self.name(),
                random.label(),
                self.draw_count()
            )),
            None => Ok(()),
        }
    }

    /// The noise in the cells of the card's data under a path; `None` if it is uniform or the card
    /// does not say the levels.
    ///
    /// # Errors
    /// Fails if the noise has no width. The message says what is expected.
    pub fn cell_noise(
        &self,
        curve: &PathCurve,
        data: Option<DataSpec>,
    ) -> Result<Option<CellNoise>, String> {
        let Dequantization::TruncatedNormal(truncated) = self else {
            return Ok(None);
        };
        let Some((data, levels)) = data.and_then(|data| Some((data, f64::from(data.levels?))))
        else {
            return Ok(None);
        };
        let end = curve.at(curve.data_end());
        let std = truncated.std.unwrap_or(end.sigma / end.alpha);
        if !(std > 0.0 && std.is_finite()) {
            return Err(
                "truncated-normal: the path has no noise at its data end; expected `std`, or \
                 `uniform`"
                    .to_owned(),
            );
        }
        let width = data.range[1] - data.range[0];
        let half = 0.5 * width / (levels - 1.0);
        Ok(Some(CellNoise {
            std,
            half,
            alpha: end.alpha,
            inside: 1.0 - stats::normal_two_sided_p(half / std),
            log_uniform: (width / levels).ln(),
        }))
    }

    /// The addresses of all draws of the samples. Draw 0 has the address of the sample itself.
    pub fn draw_addresses(&self, samples: &[SampleId]) -> Vec<SampleId> {
        let draws = self.draw_count() as u64;
        samples
            .iter()
            .flat_map(|s| (0..draws).map(|d| pack_draw(*s, d)))
            .collect()
    }

    /// Combines the rows of the draws into one row per estimator and sample, in the order of
    /// estimators and samples.
    ///
    /// Costs are summed. `stderr` is the probes' share of the combination's standard error. Every
    /// draw has probes of its own, so it falls as the number of draws grows. If a draw failed, the
    /// sample has the draw's status and no numbers.
    pub fn combine_rows(&self, rows: Vec<LikelihoodResult>) -> Vec<LikelihoodResult> {
        let mut groups: BTreeMap<(usize, SampleId), Vec<LikelihoodResult>> = BTreeMap::new();
        for row in rows {
            groups
                .entry((row.estimator, unpack_draw(row.sample).0))
                .or_default()
                .push(row);
        }
        groups
            .into_iter()
            .map(|((_, sample), rows)| self.combine_sample_rows(sample, &rows))
            .collect()
    }

    /// Combines the rows of one sample's draws for one estimator.
    fn combine_sample_rows(&self, sample: SampleId, rows: &[LikelihoodResult]) -> LikelihoodResult {
        let sum = |f: fn(&LikelihoodResult) -> u64| rows.iter().map(f).sum::<u64>();
        let seconds = |f: fn(&LikelihoodResult) -> f64| rows.iter().map(f).sum::<f64>();
        let all = |f: fn(&LikelihoodResult) -> Option<f64>| {
            rows.iter().map(f).collect::<Option<Vec<f64>>>()
        };
        let status = rows
            .iter()
            .map(|r| r.status)
            .find(|s| *s != Status::Ok)
            .unwrap_or(Status::Ok);
        let value = all(|r| r.log_likelihood)
            .filter(|_| status == Status::Ok)
            .and_then(|l| self.combine_values(&l));
        // The terms of a mean of sums can be averaged one by one. The importance bound is not a sum
        // of such terms, so it has none unless there is a single draw.
        let mean = |f: fn(&LikelihoodResult) -> Option<f64>| {
            let terms = all(f).filter(|_| value.is_some() && (self.is_linear() || rows.len() == 1));
            terms
                .and_then(|t| stats::mean_estimate(&t))
                .map(|e| e.value)
        };
        let probe_stderrs = all(|r| r.stderr).filter(|_| value.is_some());
        LikelihoodResult {
            estimator: rows[0].estimator,
            sample,
            log_likelihood: value.map(|e| e.value),
            stderr: probe_stderrs
                .map(|s| s.iter().map(|v| v * v).sum::<f64>().sqrt() / s.len() as f64),
            dequantization_stderr: value.and_then(|e| e.stderr),
            prior_log_density: mean(|r| r.prior_log_density),
            divergence_integral: mean(|r| r.divergence_integral),
            solver_error: mean(|r| r.solver_error),
            inverse_residual: mean(|r| r.inverse_residual),
            bound_terms: mean(|r| r.bound_terms.map(|terms| terms.prior))
                .zip(mean(|r| r.bound_terms.map(|terms| terms.diffusion)))
                .zip(mean(|r| r.bound_terms.map(|terms| terms.reconstruction)))
                .map(|((prior, diffusion), reconstruction)| BoundTerms {
                    prior,
                    diffusion,
                    reconstruction,
                }),
            evaluations: sum(|r| r.evaluations),
            jvps: sum(|r| r.jvps),
            head_calls: sum(|r| r.head_calls),
            status,
            path_seconds: seconds(|r| r.path_seconds),
            divergence_seconds: seconds(|r| r.divergence_seconds),
            entry_seconds: seconds(|r| r.entry_seconds),
            // Every draw has replicates of its own. Their degrees of freedom do not combine into
            // one Student's t interval.
            ..LikelihoodResult::default()
        }
    }

    /// Combines the log-densities of one sample's draws.
    fn combine_values(&self, values: &[f64]) -> Option<Estimate> {
        DequantizationMethod::combine_log_densities(&**self, values)
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::data::{Dataset, NumberKind};
    use crate::divergence::ModelHandles;
    use crate::flow::field::{EvalError, JacobianOperator, Points, VectorField};
    use crate::flow::prior::Prior;
    use crate::likelihood::{LikelihoodTask, bits_per_dim, evaluate_likelihoods};
    use crate::model::card::Card;
    use crate::num::key::RngKey;
    use crate::num::{Batch, TangentBatch};

    fn read(spec: &str) -> Dequantization {
        serde_yaml::from_str(spec).expect(spec)
    }

    fn row(sample: SampleId, value: f64, stderr: Option<f64>) -> LikelihoodResult {
        LikelihoodResult {
            sample,
            log_likelihood: Some(value),
            stderr,
            prior_log_density: Some(value - 1.0),
            divergence_integral: Some(1.0),
            evaluations: 10,
            jvps: 3,
            path_seconds: 0.5,
            divergence_seconds: 0.25,
            entry_seconds: 0.75,
            ..LikelihoodResult::default()
        }
    }

    #[test]
    fn dequantizations_roundtrip_through_json() {
        for one in Dequantization::defaults() {
            let text = serde_json::to_string(&one).expect("serializes");
            assert_eq!(
                serde_json::from_str::<Dequantization>(&text).expect("reads back"),
                one
            );
            assert_eq!(read(one.name()), one);
        }
    }

    /// With one draw both bounds are equal. With more draws the importance bound is higher.
    #[test]
    fn importance_bound_lies_between_mean_and_best_draw() {
        let values = [-3.0, -1.5, -2.25, -7.0, -1.75];
        for one in Dequantization::defaults() {
            let alone = one.combine_values(&values[..1]).expect("one draw");
            assert_eq!((alone.value, alone.stderr), (-3.0, None), "{}", one.name());
        }
        for n in 2..=values.len() {
            let mean = read("uniform")
                .combine_values(&values[..n])
                .expect("draws")
                .value;
            let bound = read("importance")
                .combine_values(&values[..n])
                .expect("draws")
                .value;
            let best = values[..n].iter().copied().fold(f64::MIN, f64::max);
            assert!(mean < bound && bound < best, "{n}: {mean} {bound} {best}");
        }
        let direct = (values.iter().map(|v: &f64| v.exp()).sum::<f64>() / 5.0).ln();
        assert!(
            (read("importance")
                .combine_values(&values)
                .expect("draws")
                .value
                - direct)
                .abs()
                < 1e-14
        );
        // Log-densities as small as those of images neither overflow nor underflow.
        let far = values.map(|v| v - 1e5);
        assert!(
            (read("importance")
                .combine_values(&far)
                .expect("draws")
                .value
                + 1e5
                - direct)
                .abs()
                < 1e-9
        );
    }

    /// Both standard errors have the nominal coverage for log-densities from N(0, s²).
    #[test]
    fn dequantization_stderr_has_nominal_coverage() {
        use crate::num::key::Purpose;
        let (s, draws, trials) = (0.3, 64, 2000);
        for (one, truth) in [("uniform", 0.0), ("importance", s * s / 2.0)] {
            let mut inside = 0;
            let mut reported = 0.0;
            for trial in 0..trials {
                let z = RngKey { seed: 5 }.normal(Purpose::Check, trial, 0, draws) * s;
                let e = read(one)
                    .combine_values(z.as_slice().expect("a vector"))
                    .expect("draws");
                let stderr = e.stderr.expect("more than one");
                reported += stderr / f64::from(trials as u32);
                inside += usize::from((e.value - truth).abs() < stats::Z95 * stderr);
            }
            let share = inside as f64 / trials as f64;
            assert!((0.925..0.97).contains(&share), "{one}: {share}");
            assert!(
                (reported / (s / 8.0) - 1.0).abs() < 0.06,
                "{one}: {reported}"
            );
        }
    }

    #[test]
    fn draws_combine_to_one_row_per_sample() {
        let spec = read("{uniform: {repeats: 2}}");
        let ids = spec.draw_addresses(&[7, 8]);
        assert_eq!(
            ids.iter().map(|i| unpack_draw(*i)).collect::<Vec<_>>(),
            [(7, 0), (7, 1), (8, 0), (8, 1)]
        );
        assert_eq!(ids[0], 7);
        let values = [-1.0, -3.0, -5.0, -9.0];
        let mut rows: Vec<LikelihoodResult> = ids
            .iter()
            .zip(values)
            .map(|(i, v)| row(*i, v, Some(0.4)))
            .collect();
        rows.reverse();
        let out = spec.combine_rows(rows.clone());
        assert_eq!(
            out.iter()
                .map(|r| (r.sample, r.log_likelihood))
                .collect::<Vec<_>>(),
            [(7, Some(-2.0)), (8, Some(-7.0))]
        );
        let first = &out[0];
        assert_eq!(
            (first.evaluations, first.jvps, first.path_seconds),
            (20, 6, 1.0)
        );
        assert_eq!(
            first.prior_log_density.zip(first.divergence_integral),
            Some((-3.0, 1.0))
        );
        assert!((first.stderr.expect("probes") - 0.4 / 2f64.sqrt()).abs() < 1e-15);
        assert!((first.dequantization_stderr.expect("draws") - 1.0).abs() < 1e-15);
        rows[0].status = Status::MaxSteps;
        rows[0].log_likelihood = None;
        let broken = spec.combine_rows(rows);
        assert_eq!(
            (broken[1].status, broken[1].log_likelihood, broken[1].stderr),
            (Status::MaxSteps, None, None)
        );
        assert_eq!(broken[0].status, Status::Ok);
    }

    /// A zero velocity with a standard normal prior and the Jacobian products of
    /// [[0, a], [a, 0]] ⊕ 0. The noise of dequantization and the noise of the probes are
    /// independent, and both variances are known.
    struct AtRest {
        dim: usize,
        a: f64,
    }

    impl VectorField for AtRest {
        fn dim(&self) -> usize {
            self.dim
        }
        fn velocity(&mut self, at: Points) -> Result<Batch, EvalError> {
            let Points { x, .. } = at;
            Ok(Batch::zeros(x.raw_dim()))
        }
    }

    impl JacobianOperator for AtRest {
        fn dim(&self) -> usize {
            self.dim
        }
        fn jvp(&mut self, _: Points, z: &TangentBatch) -> Result<TangentBatch, EvalError> {
            Ok(TangentBatch::from_shape_fn(z.raw_dim(), |(k, i, j)| {
                if j < 2 {
                    self.a * z[[k, i, 1 - j]]
                } else {
                    0.0
                }
            }))
        }
        fn vjp(&mut self, _: Points, _w: &TangentBatch) -> Result<Option<TangentBatch>, EvalError> {
            Ok(None)
        }
    }

    /// The combined rows of the samples, with dx/dt = 0 over one unit of time.
    fn rows(
        whole: Array2<f64>,
        levels: u32,
        a: f64,
        estimator: &str,
        spec: &Dequantization,
    ) -> Vec<LikelihoodResult> {
        let dim = whole.ncols();
        let card: Card = serde_yaml::from_str(&format!(
            "name: a\nshape: [{dim}]\n\
             network: {{file: f, inputs: {{x: x}}, output: v, prediction: velocity}}\n\
             path: {{kind: flow-matching, data_at: 0}}\n\
             data: {{range: [-1, 1], levels: {levels}}}\n"
        ))
        .expect("a card");
        let samples: Vec<SampleId> = (0..whole.nrows() as u64).collect();
        let data = Dataset::new(
            "a".into(),
            String::new(),
            whole.into_dyn(),
            NumberKind::Integers,
        );
        let curve = card.path.curve().expect("a path");
        let (solver, estimators) = (
            serde_yaml::from_str("{euler: {steps: 1}}").expect("a solver"),
            serde_yaml::from_str::<Vec<DivergenceEstimator>>(&format!("[{estimator}]"))
                .expect("an estimator"),
        );
        let key = RngKey { seed: 12 };
        let prior = Prior::isotropic(1.0);
        let task = LikelihoodTask {
            curve: &curve,
            prior,
            solver: &solver,
            estimators: &estimators,
            key,
        };
        let mut sources = ModelHandles {
            jacobian: Some(Box::new(AtRest { dim, a })),
            ..Default::default()
        };
        let ids = spec.draw_addresses(&samples);
        let x = data.states(&card, key, &ids);
        let rows = evaluate_likelihoods(&mut AtRest { dim, a }, &mut sources, &task, &ids, x, None)
            .expect("at rest");
        spec.combine_rows(rows)
    }

    /// T8: integers uniform over 256 levels have 8.566197 bits/dim if the model is N(0, I).
    #[test]
    fn uniform_bytes_under_a_normal_model_have_known_bits() {
        let whole = Array2::from_shape_fn((64, 64), |(i, j)| ((i * 64 + j) % 256) as f64);
        let rows = rows(whole, 256, 0.0, "exact", &read("{uniform: {repeats: 2}}"));
        let bits: Vec<f64> = rows
            .iter()
            .map(|r| bits_per_dim(r.log_likelihood.expect("ok"), 64, 7.0))
            .collect();
        let mean = stats::mean_estimate(&bits).expect("rows").value;
        // Every level occurs equally often, so only the noise within a level is random.
        assert!((mean - 8.566_197).abs() < 1e-4, "{mean}");
    }

    /// With x = lo + w(X + u), the variance of −x²/2 over u has a closed form, and so has the
    /// variance of the probes.
    #[test]
    fn dequantization_stderr_includes_noise_and_probes() {
        let (n, levels, draws, probes, a) = (3000usize, 4u32, 8.0, 4.0, 0.05);
        let width = 2.0 / f64::from(levels);
        let whole = Array2::from_shape_fn((n, 2), |(i, j)| ((i * 7 + j * 3) % 4) as f64);
        let over_u = |x: f64| {
            let low = -1.0 + width * x;
            low.powi(2) * width.powi(2) / 12.0
                + low * width.powi(3) / 12.0
                + width.powi(4) / 4.0 * (4.0 / 45.0)
        };
        let known = whole.mapv(over_u).sum() / n as f64;
        let of_probes = 4.0 * a * a / probes;
        let spec = read("{uniform: {repeats: 8}}");
        let square = |rows: &[LikelihoodResult], f: fn(&LikelihoodResult) -> Option<f64>| {
            stats::rms(&rows.iter().filter_map(f).collect::<Vec<_>>())
                .expect("errors")
                .powi(2)
        };
        let exact = rows(whole.clone(), levels, a, "exact", &spec);
        let spread = square(&exact, |r| r.dequantization_stderr) * draws;
        assert!((spread / known - 1.0).abs() < 0.05, "{spread} {known}");
        let random = rows(whole, levels, a, "{hutchinson: {probes: 4}}", &spec);
        let own = square(&random, |r| r.stderr) * draws;
        assert!((own / of_probes - 1.0).abs() < 0.05, "{own} {of_probes}");
        let spread = square(&random, |r| r.dequantization_stderr) * draws;
        assert!(
            (spread / (known + of_probes) - 1.0).abs() < 0.05,
            "{spread} {known} {of_probes}"
        );
        // The rest of the spread is the part that the error budget calls dequantization.
        assert!(
            ((spread - own) / known - 1.0).abs() < 0.1,
            "{}",
            spread - own
        );
    }

    #[test]
    fn importance_bound_refuses_random_estimators() {
        let estimators =
            |text: &str| serde_yaml::from_str::<Vec<DivergenceEstimator>>(text).expect(text);
        let importance = read("importance");
        assert!(
            importance
                .check(&estimators("[exact, closed-form, {learned: {head: a}}]"))
                .is_ok()
        );
        for random in ["hutchinson", "hutch++", "finite-difference"] {
            let message = importance
                .check(&estimators(&format!("[exact, {random}]")))
                .expect_err(random);
            assert!(
                message.contains(random) && message.contains("repeats: 8"),
                "{message}"
            );
            assert!(
                read("uniform")
                    .check(&estimators(&format!("[{random}]")))
                    .is_ok()
            );
        }
        assert!(
            read("{uniform: {repeats: 0}}")
                .check(&[])
                .expect_err("none")
                .contains("repeats")
        );
    }

    /// The mean of the corrected densities over the noise is the probability of the cell: the
    /// correction is that of importance sampling.
    #[test]
    fn truncated_normal_noise_has_the_mass_of_its_cell() {
        use crate::flow::path::ProbabilityPath;

        let path = ProbabilityPath::Vp {
            beta_min: 0.1,
            beta_max: 20.0,
            t_min: 0.01,
        };
        let curve = path.curve().expect("a path");
        let data = DataSpec {
            range: [-1.0, 1.0],
            levels: Some(9),
        };
        let spread: f64 = 0.7;
        for spec in ["truncated-normal", "{truncated-normal: {std: 0.3}}"] {
            let method: Dequantization = serde_yaml::from_str(spec).expect(spec);
            assert_eq!(method.check(&[]), Ok(()));
            let noise = method.cell_noise(&curve, Some(data)).expect("noise");
            let noise = noise.expect("levels");
            let alpha = noise.alpha();
            assert!((alpha - curve.at(curve.data_end()).alpha).abs() < 1e-15 && alpha < 1.0);
            let center = 0.25;
            let (n, mut mass) = (100_000, 0.0);
            for k in 0..n {
                let e = noise.from_uniform((f64::from(k) + 0.5) / f64::from(n));
                assert!(e.abs() <= 0.125);
                let state = alpha * (center + e);
                let log_density =
                    -0.5 * (state / spread).powi(2) - (spread * std::f64::consts::TAU.sqrt()).ln();
                mass += (log_density + noise.correction(&[e])).exp() / f64::from(n);
            }
            let edge = |sign: f64| stats::normal_cdf(alpha * (center + sign * 0.125) / spread);
            let want = edge(1.0) - edge(-1.0);
            let found = mass * 2.0 / 9.0;
            assert!((found - want).abs() < 1e-6 * want, "{spec}: {found} {want}");
        }
        let straight = ProbabilityPath::FlowMatching {
            data_at: 0,
            t_min: 0.0,
            t_max: 1.0,
        };
        let method: Dequantization = serde_yaml::from_str("truncated-normal").expect("right");
        let refused = method.cell_noise(&straight.curve().expect("a path"), Some(data));
        assert!(refused.is_err_and(|e| e.contains("std")));
    }
}
