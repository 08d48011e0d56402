//! SteinDiff, a correction of any sampler (Li & Zeng 2026, arXiv 2606.07835).
//!
//! A step becomes x ← x − γ u with u = x − T(x), where T is the step of the corrected sampler. γ
//! minimizes the mean squared distance to the clean state over a population of samples. Stein's
//! identity gives γ without the clean state: it needs E div u, which Jacobian products of the
//! network estimate.
//!
//! The unbounded minimizer is not a correction of a sampler. With an exact first-order step it
//! jumps to the posterior mean, and the noise level is lost. A Krasnoselskii–Mann step needs γ of
//! at most 1. With this bound the method damps steps that go too far. The label therefore shows a
//! mode and bounds that differ from their defaults, and the step log shows which bound applied.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::gamma::{GammaRule, GammaStatistics};
use self::lipschitz::{LipschitzMeasurement, StepLipschitz};
use super::sampler_step::{self, SamplerStep, StepProposal, Trajectory};
use super::{
    Denoiser, DrawnSamples, PathPoint, SampleCost, SampleRequest, Sampler, SamplerContext,
    SamplingMethod, dpmpp2m,
};
use crate::flow::field::EvalError;
use crate::num::Batch;
use crate::num::key::SampleId;
use crate::registry;

mod gamma;
pub mod lipschitz;
mod self_consistent;
#[cfg(test)]
mod tests;

/// SteinDiff: multiplies every step of another sampler by a factor γ, which is a mean over a
/// population of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "sampler"))]
pub struct SteinDiff {
    /// The sampler whose steps are corrected. Default: `dpmpp-2m`.
    pub sampler: Box<Sampler>,
    /// How γ is computed and bounded. Default: `clipped`.
    pub mode: SteinDiffMode,
    /// The number of Rademacher probes per sample and step for the divergence of u. Default: 5.
    pub probes: usize,
    /// The size N of a population. Default: 256. γ is a mean over the samples 0 to N − 1, another
    /// over N to 2N − 1, and so on. The last population may be smaller.
    pub population: usize,
    /// The smallest γ. Default: 1e-6.
    pub gamma_min: f64,
    /// The largest γ. Default: 1. Mode `literal` has no largest γ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma_max: Option<f64>,
    /// Mode `adaptive`: Jacobian products are taken only if σ is at most this. Default: 1.
    pub sigma_switch: f64,
    /// Mode `self-consistent`: the width of the weight, as a root mean square per dimension.
    /// Default: 0.05.
    pub tau: f64,
    /// Whether the last step, which ends at the data, is taken in full (γ = 1). Default: true.
    pub skip_last: bool,
    /// A step is taken in full (γ = 1) if γ differs from 1 by no more than this number of its
    /// standard errors. Default: 0, the paper's rule, which applies every γ.
    pub significance: f64,
    /// Bounds `[low, high]` of the coupling ratio. A step whose ratio is outside them is taken in
    /// full (γ = 1). Default: no bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<[f64; 2]>,
    /// Measures the largest singular value of every step's Jacobian, the local Lipschitz constant of
    /// the step. It changes no sample, and its products count in the cost. Default: not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lipschitz: Option<LipschitzMeasurement>,
}

impl Default for SteinDiff {
    fn default() -> Self {
        SteinDiff {
            sampler: Box::new(Sampler::Dpmpp2m(dpmpp2m::Dpmpp2m::default())),
            mode: SteinDiffMode::Clipped,
            probes: 5,
            population: 256,
            gamma_min: 1e-6,
            gamma_max: None,
            sigma_switch: 1.0,
            tau: 0.05,
            skip_last: true,
            significance: 0.0,
            gate: None,
            lipschitz: None,
        }
    }
}

/// How γ is computed and bounded. Equation numbers are those of the SteinDiff paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum SteinDiffMode {
    /// γ = 1: the uncorrected sampler, bit for bit.
    Vanilla,
    /// Eq. (11) with no upper bound, which is Algorithm 1 as printed.
    Literal,
    /// Eq. (11) clipped to `gamma_min` … `gamma_max`.
    Clipped,
    /// Like `clipped`, but with d (1 − σ'/σ) for the divergence, where d is the dimension and σ'
    /// the noise at the end of the step. It takes no Jacobian products.
    Analytical,
    /// Like `analytical` if σ is above `sigma_switch`, otherwise like `clipped`.
    Adaptive,
    /// Like `clipped`, but the target is the state at the next noise level instead of the clean
    /// state.
    NoiseConsistent,
    /// Like `clipped`, but the result is then moved towards the chord from the state to a look one
    /// step ahead (Algorithm 2).
    SelfConsistent,
}

/// Which rule decided the γ of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GammaAction {
    /// γ was applied as computed.
    Applied,
    /// γ was below `gamma_min` and was raised to it.
    ClampedLow,
    /// γ was above `gamma_max` and was lowered to it.
    ClampedHigh,
    /// γ = 1 because this is the last step and `skip_last` is set, or because the mode is
    /// `vanilla`.
    SkippedLast,
    /// γ = 1 because the coupling ratio is outside the gate.
    SkippedGate,
    /// γ = 1 because γ does not differ significantly from 1.
    NotSignificant,
    /// γ = 1 because α = 0 or because the statistics are not finite.
    Undefined,
}

impl GammaAction {
    /// The name in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            GammaAction::Applied => "applied",
            GammaAction::ClampedLow => "clamped-low",
            GammaAction::ClampedHigh => "clamped-high",
            GammaAction::SkippedLast => "skipped-last",
            GammaAction::SkippedGate => "skipped-gate",
            GammaAction::NotSignificant => "not-significant",
            GammaAction::Undefined => "undefined",
        }
    }
}

/// One step of one population, with the statistics behind its γ.
#[derive(Debug, Clone, PartialEq)]
pub struct SteinDiffStepLog {
    /// The number of the population, from 0.
    pub population: u64,
    /// The number of samples in the population.
    pub n: usize,
    /// The number of the step, from 0.
    pub step: usize,
    /// The point at which the step begins.
    pub from: PathPoint,
    /// The point at which the step ends.
    pub to: PathPoint,
    /// The factor γ that was applied.
    pub gamma: f64,
    /// Which rule decided γ.
    pub action: GammaAction,
    /// The statistics behind γ. `None` if the step was skipped before anything was measured.
    pub statistics: Option<GammaStatistics>,
    /// The mean weight λ of the chord, in mode `self-consistent`.
    pub mean_blend_weight: Option<f64>,
    /// The largest singular values of the step's Jacobian, if they are measured.
    pub lipschitz: Option<StepLipschitz>,
    /// Evaluations of the network per sample of the population.
    pub evaluations: u64,
    /// Jacobian products per sample of the population.
    pub products: u64,
}

/// The largest product of a population's size and the dimension. All states of a population are in
/// memory at once.
const MAX_POPULATION_NUMBERS: usize = 1 << 27;

impl SteinDiff {
    /// The sampler's label in tables: the corrected sampler, then the parameters that differ from
    /// their defaults.
    pub fn label(&self) -> String {
        let default = SteinDiff::default();
        let bare = SteinDiff {
            sampler: default.sampler.clone(),
            ..self.clone()
        };
        let own = registry::kind_label(
            "steindiff",
            &Sampler::SteinDiff(bare),
            &Sampler::SteinDiff(default),
        );
        match own.split_once('(') {
            Some((name, parameters)) => format!("{name}({} {parameters}", self.sampler.label()),
            None => format!("{own}({})", self.sampler.label()),
        }
    }

    /// Checks the parameters that do not depend on the path.
    ///
    /// # Errors
    /// Fails if a parameter is invalid. The message names the key and says what is expected.
    fn check_parameters(&self) -> Result<(), String> {
        registry::check_bounds("probes", self.probes, 1, 100_000)?;
        registry::check_bounds("population", self.population, 1, 1 << 24)?;
        self.lipschitz.map_or(Ok(()), |measured| measured.check())?;
        let most = self.gamma_max.unwrap_or(1.0);
        if !(self.gamma_min.is_finite() && most.is_finite() && self.gamma_min <= most) {
            let (least, given) = (
                self.gamma_min,
                self.gamma_max
                    .map_or("unset, so 1".to_owned(), |m| m.to_string()),
            );
            return Err(format!(
                "gamma_min is {least} and gamma_max is {given}, expected gamma_min <= gamma_max"
            ));
        }
        if self.mode == SteinDiffMode::Literal && self.gamma_max.is_some() {
            return Err(
                "gamma_max is given, but mode `literal` has no upper bound; use mode `clipped`"
                    .to_owned(),
            );
        }
        for (key, value) in [("tau", self.tau), ("sigma_switch", self.sigma_switch)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{key} is {value}, expected a number above 0"));
            }
        }
        if !(self.significance.is_finite() && self.significance >= 0.0) {
            return Err(format!(
                "significance is {}, expected a number of standard errors of at least 0",
                self.significance
            ));
        }
        match self.gate {
            Some([low, high]) if low.is_nan() || high.is_nan() || low >= high => {
                Err(format!("gate is [{low}, {high}], expected [low, high]"))
            }
            Some(_) if self.mode == SteinDiffMode::Analytical => Err(
                "gate is given, but the coupling ratio needs Jacobian products, which mode \
                     `analytical` does not take"
                    .to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Whether step `i` of `steps` is taken in full without computing γ.
    fn skips_step(&self, steps: &[SamplerStep], i: usize) -> bool {
        self.mode == SteinDiffMode::Vanilla
            || steps[i].from.alpha == 0.0
            || (self.skip_last && i + 1 == steps.len())
    }

    /// Whether γ of this step needs Jacobian products.
    fn uses_jacobian_products(&self, step: &SamplerStep) -> bool {
        match self.mode {
            SteinDiffMode::Vanilla | SteinDiffMode::Analytical => false,
            SteinDiffMode::Adaptive => step.from.sigma <= self.sigma_switch,
            _ => true,
        }
    }

    /// The rule that the parameters describe.
    fn gamma_rule(&self) -> GammaRule {
        let most = if self.mode == SteinDiffMode::Literal {
            f64::INFINITY
        } else {
            self.gamma_max.unwrap_or(1.0)
        };
        GammaRule {
            noise_consistent: self.mode == SteinDiffMode::NoiseConsistent,
            gamma_min: self.gamma_min,
            gamma_max: most,
            significance: self.significance,
            gate: self.gate,
        }
    }

    /// Carries one population through all steps and appends one entry per step to `log`.
    fn integrate_population(
        &self,
        steps: &[SamplerStep],
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
        log: &mut Vec<SteinDiffStepLog>,
    ) -> Result<Trajectory, EvalError> {
        let mut trajectory = Trajectory::starting_at(draw.samples, x);
        for (i, step) in steps.iter().enumerate() {
            let before = trajectory.evaluations;
            let proposal = trajectory.propose(step, field)?;
            let mut entry = self.choose_gamma(steps, i, &trajectory, &proposal, field, draw)?;
            if let Some(measurement) = &self.lipschitz {
                let linearized = field.linearized()?;
                entry.lipschitz = measurement.measure(step, i, &proposal, draw, linearized)?;
                let products = entry.lipschitz.map_or(0, |found| found.products);
                entry.products += measurement.per_sample(products, entry.n);
            }
            if self.mode == SteinDiffMode::SelfConsistent && !self.skips_step(steps, i) {
                let damped = damped_step(&trajectory.x, &proposal.state, entry.gamma);
                let (x, blend) = self_consistent::blend_with_chord(
                    &steps[i..],
                    &mut trajectory,
                    &proposal,
                    damped,
                    self.tau,
                    field,
                )?;
                entry.mean_blend_weight = blend;
                trajectory.accept_replacement(step, proposal, x);
            } else if entry.gamma == 1.0 {
                trajectory.accept(step, proposal);
            } else {
                let x = damped_step(&trajectory.x, &proposal.state, entry.gamma);
                trajectory.accept_replacement(step, proposal, x);
            }
            entry.evaluations = trajectory.evaluations - before;
            log.push(entry);
        }
        Ok(trajectory)
    }

    /// Computes γ of a proposed step, with the log entry of the step.
    fn choose_gamma(
        &self,
        steps: &[SamplerStep],
        i: usize,
        trajectory: &Trajectory,
        proposal: &StepProposal,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
    ) -> Result<SteinDiffStepLog, EvalError> {
        let step = &steps[i];
        let mut entry = SteinDiffStepLog {
            population: draw.samples[0] / self.population as u64,
            n: draw.samples.len(),
            step: i,
            from: step.from,
            to: step.to,
            gamma: 1.0,
            action: if step.from.alpha == 0.0 {
                GammaAction::Undefined
            } else {
                GammaAction::SkippedLast
            },
            statistics: None,
            mean_blend_weight: None,
            lipschitz: None,
            evaluations: 0,
            products: 0,
        };
        if self.skips_step(steps, i) {
            return Ok(entry);
        }
        let mut moments = gamma::gamma_moments(step, trajectory, proposal, draw);
        if self.uses_jacobian_products(step) {
            let probes = gamma::StepProbes {
                draw,
                step: i as u64,
                count: self.probes,
            };
            entry.products =
                moments.estimate_divergence(step, proposal, &probes, field.linearized()?)?;
        }
        let statistics = moments.statistics(step, &self.gamma_rule());
        (entry.gamma, entry.action) = self.gamma_rule().clamp_gamma(&statistics);
        entry.statistics = Some(statistics);
        Ok(entry)
    }
}

/// The number of predictions of a step.
fn predictions(step: &SamplerStep) -> u64 {
    1 + u64::from(step.corrector.is_some())
}

/// x − γ (x − T(x)), written in the Krasnoselskii–Mann form (1 − γ) x + γ T(x).
fn damped_step(x: &Batch, to: &Batch, gamma: f64) -> Batch {
    let mut out = x * (1.0 - gamma);
    out.scaled_add(gamma, to);
    out
}

impl SamplingMethod for SteinDiff {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::SteinDiff(SteinDiff {
            sampler: Box::new(self.sampler.with_steps(steps)),
            ..self.clone()
        })
    }

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        let steps = self.sampler.steps(context).map_err(|e| {
            format!(
                "sampler: {}",
                registry::prefix_with_name(self.sampler.name(), e)
            )
        })?;
        if matches!(*self.sampler, Sampler::SteinDiff(_)) {
            return Err("sampler: steindiff cannot be put around itself".to_owned());
        }
        let name = self.sampler.name();
        if steps.iter().any(|s| s.churn_std == 0.0 && s.is_random()) {
            return Err(format!(
                "sampler: {name} adds noise in its steps, but u = x - T(x) is a function of x; \
                 expected a sampler without noise, such as dpmpp-2m"
            ));
        }
        if steps.iter().any(|s| s.clip.is_some()) {
            return Err(format!(
                "sampler: {name}: clip_sample bounds the denoiser, and the products of its Jacobian \
                 do not know the bounds; leave it out"
            ));
        }
        if steps.iter().any(|s| s.churn_std > 0.0) {
            return Err(
                "sampler: heun: s_churn makes the step random, but u = x - T(x) is a function of x"
                    .to_owned(),
            );
        }
        Ok(steps)
    }

    fn check(&self, context: &SamplerContext) -> Result<(), String> {
        self.check_parameters()?;
        sampler_step::check_steps(&self.steps(context)?, context)
    }

    /// The cost if no prediction made ahead can be reused.
    ///
    /// A prediction made ahead is valid only if its step was taken in full, which is not known in
    /// advance. The cost is therefore an upper bound if the corrected sampler reuses predictions.
    fn cost(&self, context: &SamplerContext) -> SampleCost {
        let Ok(steps) = self.steps(context) else {
            return SampleCost::default();
        };
        let reused = steps
            .iter()
            .any(|s| s.corrector.as_ref().is_some_and(|a| a.reused));
        let measured = |step: &SamplerStep| {
            self.lipschitz.map_or(0, |measurement| {
                let products = measurement.products(predictions(step), context.dim);
                measurement.per_sample(products, self.population)
            })
        };
        let measured: u64 = steps.iter().map(measured).sum();
        if self.mode == SteinDiffMode::Vanilla {
            return SampleCost {
                evaluations: sampler_step::count_evaluations(&steps),
                products: measured,
                ..SampleCost::default()
            };
        }
        let active = (0..steps.len()).filter(|i| !self.skips_step(&steps, *i));
        let products = active
            .clone()
            .filter(|i| self.uses_jacobian_products(&steps[*i]));
        let looks = active.filter(|i| {
            self.mode == SteinDiffMode::SelfConsistent
                && self_consistent::chord_weight(&steps[*i..]) > 0.0
        });
        SampleCost {
            evaluations: steps.iter().map(predictions).sum::<u64>()
                + looks.map(|i| predictions(&steps[i + 1])).sum::<u64>(),
            products: measured
                + products
                    .map(|i| self.probes as u64 * predictions(&steps[i]))
                    .sum::<u64>(),
            is_upper_bound: reused,
        }
    }

    fn population(&self) -> Option<usize> {
        Some(self.population)
    }

    fn needs_vjp(&self) -> bool {
        self.lipschitz.is_some()
    }

    /// Draws one population after the other.
    ///
    /// The request must hold whole populations, in the order of their samples.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated, if it lacks Jacobian products that the mode needs,
    /// or if a population is too large for the memory.
    fn sample(
        &self,
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
    ) -> Result<DrawnSamples, EvalError> {
        let steps = self.steps(&draw.context).map_err(EvalError::Missing)?;
        if self.population.min(x.nrows()).saturating_mul(x.ncols()) > MAX_POPULATION_NUMBERS {
            let most = MAX_POPULATION_NUMBERS / x.ncols().max(1);
            return Err(EvalError::Missing(format!(
                "population is {}, expected at most {most}",
                self.population
            )));
        }
        let mut drawn = DrawnSamples::empty();
        let mut first = 0;
        let population = |sample: &SampleId| sample / self.population as u64;
        for samples in draw.samples.chunk_by(|a, b| population(a) == population(b)) {
            let rows = x
                .slice(ndarray::s![first..first + samples.len(), ..])
                .to_owned();
            first += samples.len();
            let mut log = Vec::new();
            let trajectory = self.integrate_population(
                &steps,
                field,
                &SampleRequest { samples, ..*draw },
                rows,
                &mut log,
            )?;
            let products = log.iter().map(|e| e.products).sum();
            drawn.append(DrawnSamples::with_equal_cost(
                trajectory.x,
                trajectory.evaluations,
                products,
                log,
            ));
        }
        Ok(drawn)
    }
}
