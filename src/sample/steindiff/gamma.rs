//! γ of one step from a population's moments.
//!
//! With u = x − T(x) and x = α x₀ + σ ε, the minimiser of E‖x − γ u − x₀‖² is E⟨u, x − x₀⟩ / E‖u‖² (Eq. 9),
//! and Stein's identity E⟨x − α x₀, u⟩ = σ² E div u makes it
//!
//! γ = ((1 − 1/α) E⟨u, x⟩ + (σ²/α) E div u) / E‖u‖² (Eq. 11).
//!
//! All sums are in f64 and in the order of the samples.

use super::super::SampleRequest;
use super::super::sampler_step::{self, PathPoint, SamplerStep, StepProposal, Trajectory};
use super::GammaAction;
use crate::flow::field::{EvalError, JacobianOperator};
use crate::num::key::{Distribution, Purpose};
use crate::num::{Batch, TangentBatch};

/// How γ comes from the statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GammaRule {
    /// The target is α' x₀ + σ' ε, the clean state carried to the step's end, instead of x₀:
    /// γ = ((1 − α'/α) E⟨u, x⟩ + (α'/α − σ'/σ) σ² E div u) / E‖u‖².
    pub noise_consistent: bool,
    pub gamma_min: f64,
    pub gamma_max: f64,
    /// γ within so many standard errors of 1 is not applied.
    pub significance: f64,
    pub gate: Option<[f64; 2]>,
}

/// What a step's γ came from: means over the population, and their errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GammaStatistics {
    /// γ before any bound.
    pub unclamped_gamma: f64,
    /// Standard error of γ from the probes alone; absent with one probe or none.
    pub probe_stderr: Option<f64>,
    /// Standard error of γ over the samples, probes included.
    pub stderr: Option<f64>,
    /// E⟨x, u⟩, E‖u‖² and E div u.
    pub mean_xu: f64,
    pub mean_uu: f64,
    pub mean_divergence: f64,
    /// Whether E div u was estimated from Jacobian products.
    pub from_jacobian_products: bool,
    /// E‖x − αD‖² / (σ² (d − α E tr J_D)): 1 where x = α x₀ + σ ε and D is exact; absent without products.
    pub coupling: Option<f64>,
}

impl GammaRule {
    /// The weights of ⟨u, x⟩ and of div u in γ's numerator.
    fn numerator_weights(&self, step: &SamplerStep) -> [f64; 2] {
        let (alpha, sigma) = (step.from.alpha, step.from.sigma);
        let target = if self.noise_consistent {
            step.to
        } else {
            PathPoint {
                t: step.to.t,
                alpha: 1.0,
                sigma: 0.0,
            }
        };
        [
            1.0 - target.alpha / alpha,
            (target.alpha / alpha - target.sigma / sigma) * sigma * sigma,
        ]
    }

    /// The factor to apply, and why.
    ///
    /// γ* brings the mean square distance to the clean state down by E‖u‖² (1 − γ*)² (Eq. 10), and an estimate off by
    /// e takes E‖u‖² e² back: where |γ̂ − 1| is of the size of its error, a step is as likely harmed as helped.
    pub fn clamp_gamma(&self, s: &GammaStatistics) -> (f64, GammaAction) {
        let outside =
            |[low, high]: [f64; 2]| s.coupling.is_some_and(|c| !(low..=high).contains(&c));
        match s.unclamped_gamma {
            raw if !raw.is_finite() => (1.0, GammaAction::Undefined),
            _ if self.gate.is_some_and(outside) => (1.0, GammaAction::SkippedGate),
            raw if !self.differs_from_one(raw, s.stderr) => (1.0, GammaAction::NotSignificant),
            raw if raw < self.gamma_min => (self.gamma_min, GammaAction::ClampedLow),
            raw if raw > self.gamma_max => (self.gamma_max, GammaAction::ClampedHigh),
            raw => (raw, GammaAction::Applied),
        }
    }

    /// A population of one has no error, and tells nothing.
    fn differs_from_one(&self, raw: f64, stderr: Option<f64>) -> bool {
        self.significance == 0.0
            || stderr.is_some_and(|error| (raw - 1.0).abs() > self.significance * error)
    }
}

/// Per sample: what the means are of.
pub struct GammaMoments {
    xu: Vec<f64>,
    uu: Vec<f64>,
    /// The mean over probes of zᵀ J_u z, or what stands for it.
    div: Vec<f64>,
    /// The variance of that mean over probes.
    div_variance: Option<Vec<f64>>,
    /// ‖x − αD‖² and zᵀ J_D z.
    residual: Vec<f64>,
    trace: Option<Vec<f64>>,
    dim: f64,
}

/// Where the probes of a step come from.
pub struct StepProbes<'a> {
    pub draw: &'a SampleRequest<'a>,
    pub step: u64,
    pub count: usize,
}

/// Numbers in one block of directions: bounds memory, and changes no result.
const BLOCK_NUMBERS: usize = 1 << 22;

/// The moments without a network: for the divergence stands that of the linear part, d (1 − σ'/σ).
pub fn gamma_moments(
    step: &SamplerStep,
    walk: &Trajectory,
    candidate: &StepProposal,
    draw: &SampleRequest,
) -> GammaMoments {
    let u = &walk.x - &candidate.state;
    let dot = |a: &Batch, b: &Batch| {
        a.rows()
            .into_iter()
            .zip(b.rows())
            .map(|(a, b)| a.dot(&b))
            .collect::<Vec<f64>>()
    };
    let (denoised, place) = candidate.denoised(step, &draw.context);
    let rest = place - &(denoised * step.from.alpha);
    let dim = u.ncols() as f64;
    GammaMoments {
        xu: dot(&walk.x, &u),
        uu: dot(&u, &u),
        div: vec![dim * (1.0 - step.to.sigma / step.from.sigma); u.nrows()],
        div_variance: None,
        residual: dot(&rest, &rest),
        trace: None,
        dim,
    }
}

impl GammaMoments {
    /// Puts Jacobian products in the place of the linear part; how many there were per sample.
    ///
    /// # Errors
    /// Where the model offers none, or cannot be evaluated.
    pub fn estimate_divergence(
        &mut self,
        step: &SamplerStep,
        candidate: &StepProposal,
        probes: &StepProbes,
        field: &mut dyn JacobianOperator,
    ) -> Result<u64, EvalError> {
        let (rows, dim, count) = (self.div.len(), self.dim as usize, probes.count);
        let (mut variance, mut trace, mut products) = (vec![0.0; rows], vec![0.0; rows], 0);
        let width = (BLOCK_NUMBERS / (count * dim)).max(1);
        for first in (0..rows).step_by(width) {
            let block = first..(first + width).min(rows);
            let mut z = TangentBatch::zeros((count, block.len(), dim));
            for (probe, mut of_probe) in z.outer_iter_mut().enumerate() {
                for (row, sample) in of_probe
                    .outer_iter_mut()
                    .zip(&probes.draw.samples[block.clone()])
                {
                    let address = (Purpose::Stein, *sample, probe as u64, probes.step);
                    probes
                        .draw
                        .key
                        .probe(Distribution::Rademacher, address, row);
                }
            }
            let of_step = sampler_step::step_jacobian_products(
                step,
                &candidate.rows(block.clone()),
                &z,
                &probes.draw.context,
                field,
            )?;
            products = of_step.count * count as u64;
            for (j, i) in block.enumerate() {
                let form = |a: &TangentBatch, k: usize| {
                    a.slice(ndarray::s![k, j, ..])
                        .dot(&z.slice(ndarray::s![k, j, ..]))
                };
                let divs: Vec<f64> = (0..count)
                    .map(|k| dim as f64 - form(&of_step.step, k))
                    .collect();
                let mean = divs.iter().sum::<f64>() / count as f64;
                let square: f64 = divs.iter().map(|v| (v - mean).powi(2)).sum();
                self.div[i] = mean;
                variance[i] = square / (count as f64 - 1.0) / count as f64;
                trace[i] =
                    (0..count).map(|k| form(&of_step.denoised, k)).sum::<f64>() / count as f64;
            }
        }
        self.div_variance = (count > 1).then_some(variance);
        self.trace = Some(trace);
        Ok(products)
    }

    /// Each sample's share of γ's numerator.
    ///
    /// At high noise both weights are large and their sums nearly cancel: they are added sample by sample.
    pub fn numerators(&self, step: &SamplerStep, rule: &GammaRule) -> Vec<f64> {
        let [of_xu, of_div] = rule.numerator_weights(step);
        self.xu
            .iter()
            .zip(&self.div)
            .map(|(xu, div)| of_xu * xu + of_div * div)
            .collect()
    }

    /// Means over those samples whose numbers are finite.
    pub fn statistics(&self, step: &SamplerStep, rule: &GammaRule) -> GammaStatistics {
        let finite = |i: &usize| {
            [self.xu[*i], self.uu[*i], self.div[*i]]
                .iter()
                .all(|v| v.is_finite())
        };
        let rows: Vec<usize> = (0..self.xu.len()).filter(finite).collect();
        let n = rows.len() as f64;
        let mean = |values: &[f64]| rows.iter().map(|i| values[*i]).sum::<f64>() / n;
        let (alpha, sigma) = (step.from.alpha, step.from.sigma);
        let numerators = self.numerators(step, rule);
        let [_, of_div] = rule.numerator_weights(step);
        let uu = mean(&self.uu);
        let raw = mean(&numerators) / uu;
        let square: f64 = rows
            .iter()
            .map(|i| (numerators[*i] - raw * self.uu[*i]).powi(2))
            .sum();
        let probe = self
            .div_variance
            .as_ref()
            .map(|v| rows.iter().map(|i| v[*i]).sum::<f64>().sqrt() / n);
        let remaining = |trace: &Vec<f64>| sigma * sigma * (self.dim - alpha * mean(trace));
        GammaStatistics {
            unclamped_gamma: raw,
            probe_stderr: probe.map(|s| (of_div * s / uu).abs()),
            stderr: (rows.len() > 1).then(|| (square / (n - 1.0) / n).sqrt() / uu),
            mean_xu: mean(&self.xu),
            mean_uu: uu,
            mean_divergence: mean(&self.div),
            from_jacobian_products: self.trace.is_some(),
            coupling: self
                .trace
                .as_ref()
                .map(|t| mean(&self.residual) / remaining(t)),
        }
    }

    /// Each sample's divergence with the variance that its probes leave in it.
    #[cfg(test)]
    pub fn divergences(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.div
            .iter()
            .copied()
            .zip(self.div_variance.iter().flatten().copied())
    }
}
