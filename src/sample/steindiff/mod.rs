//! SteinDiff around any sampler (Li & Zeng 2026): x ← x − γ u with u = x − T(x).
//!
//! γ minimises the distance to the clean state over a population of samples, and Stein's identity gives it
//! without one: it asks for E div u, which Jacobian products of the network estimate.
//!
//! Taken literally the minimiser is no correction of a sampler: with an exact first-order step it jumps to
//! the posterior mean, and the noise level is lost. With γ held to at most 1, which is what a
//! Krasnoselskii–Mann step asks for, it damps steps that go too far. A result therefore names its clamps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::gamma::{GammaRule, GammaStatistics};
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
mod self_consistent;
#[cfg(test)]
mod tests;

/// A sampler whose every step is taken by a factor γ that the population decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-first" = "sampler"))]
pub struct SteinDiff {
    /// The sampler that proposes the steps.
    pub sampler: Box<Sampler>,
    pub mode: SteinDiffMode,
    /// Rademacher probes per sample and step for the divergence of u.
    pub probes: usize,
    /// γ is a mean over the samples 0 to N − 1, over N to 2N − 1, and so on; the last may be fewer.
    pub population: usize,
    pub gamma_min: f64,
    /// 1 unless given; mode `literal` has no such bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gamma_max: Option<f64>,
    /// Mode `adaptive`: Jacobian products only where σ is at most this.
    pub sigma_switch: f64,
    /// Mode `self-consistent`: the width of the weight, in root mean squares per dimension.
    pub tau: f64,
    /// The last step, which ends in the data, is taken in full.
    pub skip_last: bool,
    /// A step is taken in full where γ lies no further from 1 than so many of its standard errors; 0 for the
    /// paper's own rule, which takes every γ as it comes.
    pub significance: f64,
    /// A step is taken in full where the coupling ratio lies outside these bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<[f64; 2]>,
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
        }
    }
}

/// How γ is found and what it is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum SteinDiffMode {
    /// γ = 1: the sampler itself, bit for bit.
    Vanilla,
    /// Eq. (11) with no upper bound: Algorithm 1 as it is printed.
    Literal,
    /// Eq. (11) held to gamma_min … gamma_max.
    Clipped,
    /// As clipped, with d (1 − σ'/σ) for the divergence: no Jacobian product.
    Analytical,
    /// As analytical above `sigma_switch`, as clipped below.
    Adaptive,
    /// As clipped, with the state at the next noise level for a target instead of the clean one.
    NoiseConsistent,
    /// As clipped, then drawn to the chord from the state to a look one step ahead (Algorithm 2).
    SelfConsistent,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GammaAction {
    /// γ as it came out.
    Applied,
    ClampedLow,
    ClampedHigh,
    /// γ = 1 because it is the last step.
    SkippedLast,
    /// γ = 1 because the coupling ratio is outside the gate.
    SkippedGate,
    /// γ = 1 because it cannot be told from 1.
    NotSignificant,
    /// γ = 1 because α = 0, or the statistics are not finite.
    Undefined,
}

impl GammaAction {
    /// As tables print it.
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

/// One step of one population, with what its γ came from.
#[derive(Debug, Clone, PartialEq)]
pub struct SteinDiffStepLog {
    pub population: u64,
    /// Samples in the population.
    pub n: usize,
    pub step: usize,
    pub from: PathPoint,
    pub to: PathPoint,
    /// The factor that was applied.
    pub gamma: f64,
    pub action: GammaAction,
    /// Absent where the step was skipped before anything was measured.
    pub statistics: Option<GammaStatistics>,
    /// Mean weight of the look ahead, mode `self-consistent`.
    pub mean_blend_weight: Option<f64>,
    /// Per sample of the population.
    pub evaluations: u64,
    pub products: u64,
}

/// A population's numbers are held at once.
const MAX_POPULATION_NUMBERS: usize = 1 << 27;

impl SteinDiff {
    /// As tables print it: the proposing sampler, then the parameters that are not the defaults.
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

    fn check_parameters(&self) -> Result<(), String> {
        registry::check_bounds("probes", self.probes, 1, 100_000)?;
        registry::check_bounds("population", self.population, 1, 1 << 24)?;
        let most = self.gamma_max.unwrap_or(1.0);
        if !(self.gamma_min.is_finite() && most.is_finite() && self.gamma_min <= most) {
            let (least, given) = (
                self.gamma_min,
                self.gamma_max
                    .map_or("unset, so 1".to_owned(), |m| m.to_string()),
            );
            return Err(format!(
                "gamma_min is {least} and gamma_max {given}, expected gamma_min <= gamma_max"
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
                "significance is {}, expected standard errors, a number of at least 0",
                self.significance
            ));
        }
        match self.gate {
            Some([low, high]) if low.is_nan() || high.is_nan() || low >= high => {
                Err(format!("gate is [{low}, {high}], expected [low, high]"))
            }
            Some(_) if self.mode == SteinDiffMode::Analytical => {
                Err("gate is given, but the coupling ratio needs Jacobian products, which mode `analytical` has not"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Whether step `i` of `steps` is taken in full without a look.
    fn skips_step(&self, steps: &[SamplerStep], i: usize) -> bool {
        self.mode == SteinDiffMode::Vanilla
            || steps[i].from.alpha == 0.0
            || (self.skip_last && i + 1 == steps.len())
    }

    /// Whether γ of a step asks for Jacobian products.
    fn uses_jacobian_products(&self, step: &SamplerStep) -> bool {
        match self.mode {
            SteinDiffMode::Vanilla | SteinDiffMode::Analytical => false,
            SteinDiffMode::Adaptive => step.from.sigma <= self.sigma_switch,
            _ => true,
        }
    }

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

    /// Carries one population over the steps, all samples together.
    fn integrate_population(
        &self,
        steps: &[SamplerStep],
        field: &mut dyn Denoiser,
        draw: &SampleRequest,
        x: Batch,
        log: &mut Vec<SteinDiffStepLog>,
    ) -> Result<Trajectory, EvalError> {
        let mut walk = Trajectory::starting_at(x);
        for (i, step) in steps.iter().enumerate() {
            let before = walk.evaluations;
            let candidate = walk.propose(step, field)?;
            let mut entry = self.choose_gamma(steps, i, &walk, &candidate, field, draw)?;
            if self.mode == SteinDiffMode::SelfConsistent && !self.skips_step(steps, i) {
                let proposal = damped_step(&walk.x, &candidate.state, entry.gamma);
                let (x, blend) = self_consistent::blend_with_chord(
                    &steps[i..],
                    &mut walk,
                    &candidate,
                    proposal,
                    self.tau,
                    field,
                )?;
                entry.mean_blend_weight = blend;
                walk.accept_replacement(step, candidate, x);
            } else if entry.gamma == 1.0 {
                walk.accept(step, candidate);
            } else {
                let x = damped_step(&walk.x, &candidate.state, entry.gamma);
                walk.accept_replacement(step, candidate, x);
            }
            entry.evaluations = walk.evaluations - before;
            log.push(entry);
        }
        Ok(walk)
    }

    /// γ of a proposed step.
    fn choose_gamma(
        &self,
        steps: &[SamplerStep],
        i: usize,
        walk: &Trajectory,
        candidate: &StepProposal,
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
            evaluations: 0,
            products: 0,
        };
        if self.skips_step(steps, i) {
            return Ok(entry);
        }
        let mut moments = gamma::gamma_moments(step, walk, candidate, draw);
        if self.uses_jacobian_products(step) {
            let address = gamma::StepProbes {
                draw,
                step: i as u64,
                count: self.probes,
            };
            entry.products =
                moments.estimate_divergence(step, candidate, &address, field.linearized()?)?;
        }
        let statistics = moments.statistics(step, &self.gamma_rule());
        (entry.gamma, entry.action) = self.gamma_rule().clamp_gamma(&statistics);
        entry.statistics = Some(statistics);
        Ok(entry)
    }
}

/// x − γ (x − T(x)), the Krasnoselskii–Mann form.
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

    fn steps(&self, on: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        let steps = self.sampler.steps(on).map_err(|e| {
            format!(
                "sampler: {}",
                registry::prefix_with_name(self.sampler.name(), e)
            )
        })?;
        if matches!(*self.sampler, Sampler::SteinDiff(_)) {
            return Err("sampler: steindiff cannot be put around itself".to_owned());
        }
        if steps.iter().any(|s| s.churn_std > 0.0) {
            return Err(
                "sampler: heun: s_churn makes the step random, but u = x - T(x) is a function of x"
                    .to_owned(),
            );
        }
        Ok(steps)
    }

    fn check(&self, on: &SamplerContext) -> Result<(), String> {
        self.check_parameters()?;
        sampler_step::check_steps(&self.steps(on)?, on)
    }

    /// A prediction made ahead is made again where the step was not taken in full: what is declared is the most.
    fn cost(&self, on: &SamplerContext) -> SampleCost {
        let Ok(steps) = self.steps(on) else {
            return SampleCost::default();
        };
        let kept = steps
            .iter()
            .any(|s| s.corrector.as_ref().is_some_and(|a| a.reused));
        if self.mode == SteinDiffMode::Vanilla {
            return SampleCost {
                evaluations: sampler_step::count_evaluations(&steps),
                ..SampleCost::default()
            };
        }
        let places = |s: &SamplerStep| 1 + u64::from(s.corrector.is_some());
        let active = (0..steps.len()).filter(|i| !self.skips_step(&steps, *i));
        let products = active
            .clone()
            .filter(|i| self.uses_jacobian_products(&steps[*i]));
        let looks = active.filter(|i| {
            self.mode == SteinDiffMode::SelfConsistent
                && self_consistent::chord_weight(&steps[*i..]) > 0.0
        });
        SampleCost {
            evaluations: steps.iter().map(places).sum::<u64>()
                + looks.map(|i| places(&steps[i + 1])).sum::<u64>(),
            products: products
                .map(|i| self.probes as u64 * places(&steps[i]))
                .sum(),
            is_upper_bound: kept,
        }
    }

    fn population(&self) -> Option<usize> {
        Some(self.population)
    }

    /// `draw` must hold whole populations, in the order of their samples.
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
        let of = |sample: &SampleId| sample / self.population as u64;
        for samples in draw.samples.chunk_by(|a, b| of(a) == of(b)) {
            let rows = x
                .slice(ndarray::s![first..first + samples.len(), ..])
                .to_owned();
            first += samples.len();
            let mut log = Vec::new();
            let walk = self.integrate_population(
                &steps,
                field,
                &SampleRequest { samples, ..*draw },
                rows,
                &mut log,
            )?;
            let products = log.iter().map(|e| e.products).sum();
            drawn.append(DrawnSamples::with_equal_cost(
                walk.x,
                walk.evaluations,
                products,
                log,
            ));
        }
        Ok(drawn)
    }
}
