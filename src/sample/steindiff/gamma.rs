//! γ of one step, computed from a population's moments.
//!
//! With u = x − T(x) and x = α x₀ + σ ε, the minimizer of E‖x − γ u − x₀‖² is E⟨u, x − x₀⟩ / E‖u‖²
//! (Eq. 9). Stein's identity E⟨x − α x₀, u⟩ = σ² E div u turns it into
//!
//! γ = ((1 − 1/α) E⟨u, x⟩ + (σ²/α) E div u) / E‖u‖² (Eq. 11).
//!
//! All sums run in f64 and in the order of the samples.

use super::super::SampleRequest;
use super::super::sampler_step::{self, PathPoint, SamplerStep, StepProposal, Trajectory};
use super::GammaAction;
use crate::flow::field::{EvalError, JacobianOperator};
use crate::num::key::{Distribution, Purpose};
use crate::num::{Batch, TangentBatch};

/// How γ is computed from the statistics and bounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GammaRule {
    /// Whether the target is α' x₀ + σ' ε, the clean state with the noise of the step's end,
    /// instead of x₀. Then γ = ((1 − α'/α) E⟨u, x⟩ + (α'/α − σ'/σ) σ² E div u) / E‖u‖².
    pub noise_consistent: bool,
    /// The smallest γ.
    pub gamma_min: f64,
    /// The largest γ.
    pub gamma_max: f64,
    /// γ is not applied if it differs from 1 by no more than this number of standard errors.
    pub significance: f64,
    /// The smallest and the largest coupling ratio at which γ is applied.
    pub gate: Option<[f64; 2]>,
}

/// The statistics behind a step's γ: means over the population, and their standard errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GammaStatistics {
    /// γ before any bound.
    pub unclamped_gamma: f64,
    /// The standard error of γ from the probes alone. `None` with fewer than two probes.
    pub probe_stderr: Option<f64>,
    /// The standard error of γ over the samples, which includes the probes. `None` with fewer than
    /// two samples.
    pub stderr: Option<f64>,
    /// E⟨x, u⟩.
    pub mean_xu: f64,
    /// E‖u‖².
    pub mean_uu: f64,
    /// E div u.
    pub mean_divergence: f64,
    /// Whether E div u was estimated from Jacobian products.
    pub from_jacobian_products: bool,
    /// The coupling ratio E‖x − αD‖² / (σ² (d − α E tr J_D)). It is 1 if x = α x₀ + σ ε and D is
    /// the exact denoiser. `None` without Jacobian products.
    pub coupling: Option<f64>,
}

impl GammaRule {
    /// The weights of ⟨u, x⟩ and of div u in the numerator of γ.
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

    /// The factor to apply, and which rule decided it.
    ///
    /// γ* lowers the mean squared distance to the clean state by E‖u‖² (1 − γ*)² (Eq. 10). An
    /// estimate with error e raises it by E‖u‖² e². If |γ̂ − 1| is about as large as its error, the
    /// step is therefore as likely to do harm as good.
    pub(super) fn clamp_gamma(&self, s: &GammaStatistics) -> (f64, GammaAction) {
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

    /// Whether `raw` counts as different from 1.
    ///
    /// With `significance` 0 every value does. Otherwise the γ of a single sample never does,
    /// because it has no standard error.
    fn differs_from_one(&self, raw: f64, stderr: Option<f64>) -> bool {
        self.significance == 0.0
            || stderr.is_some_and(|error| (raw - 1.0).abs() > self.significance * error)
    }
}

/// The moments of each sample, whose means the statistics are.
pub(super) struct GammaMoments {
    /// ⟨x, u⟩.
    xu: Vec<f64>,
    /// ‖u‖².
    uu: Vec<f64>,
    /// The mean over probes of zᵀ J_u z, or d (1 − σ'/σ) without Jacobian products.
    div: Vec<f64>,
    /// The variance of that mean over probes.
    div_variance: Option<Vec<f64>>,
    /// ‖x − αD‖².
    residual: Vec<f64>,
    /// The mean over probes of zᵀ J_D z.
    trace: Option<Vec<f64>>,
    /// The dimension d.
    dim: f64,
}

/// The address of a step's probes.
pub(super) struct StepProbes<'a> {
    /// The key and the samples.
    pub draw: &'a SampleRequest<'a>,
    /// The number of the step.
    pub step: u64,
    /// The number of probes per sample.
    pub count: usize,
}

/// The largest size of one block of directions. It bounds the memory and does not change any
/// result.
const BLOCK_NUMBERS: usize = 1 << 22;

/// The moments without Jacobian products: d (1 − σ'/σ), the divergence of the linear part, replaces
/// div u.
pub(super) fn gamma_moments(
    step: &SamplerStep,
    trajectory: &Trajectory,
    proposal: &StepProposal,
    draw: &SampleRequest,
) -> GammaMoments {
    let u = &trajectory.x - &proposal.state;
    let dot = |a: &Batch, b: &Batch| {
        a.rows()
            .into_iter()
            .zip(b.rows())
            .map(|(a, b)| a.dot(&b))
            .collect::<Vec<f64>>()
    };
    let (denoised, state) = proposal.denoised(step, &draw.context);
    let residual = state - &(denoised * step.from.alpha);
    let dim = u.ncols() as f64;
    GammaMoments {
        xu: dot(&trajectory.x, &u),
        uu: dot(&u, &u),
        div: vec![dim * (1.0 - step.to.sigma / step.from.sigma); u.nrows()],
        div_variance: None,
        residual: dot(&residual, &residual),
        trace: None,
        dim,
    }
}

impl GammaMoments {
    /// Replaces the divergence of the linear part by estimates from Jacobian products. Returns the
    /// number of products per sample.
    ///
    /// # Errors
    /// Fails if the model cannot be evaluated.
    pub(super) fn estimate_divergence(
        &mut self,
        step: &SamplerStep,
        proposal: &StepProposal,
        probes: &StepProbes,
        field: &mut dyn JacobianOperator,
    ) -> Result<u64, EvalError> {
        let (rows, dim, count) = (self.div.len(), self.dim as usize, probes.count);
        let (mut variance, mut trace, mut products) = (vec![0.0; rows], vec![0.0; rows], 0);
        let width = (BLOCK_NUMBERS / (count * dim)).max(1);
        for first in (0..rows).step_by(width) {
            let block = first..(first + width).min(rows);
            let mut z = TangentBatch::zeros((count, block.len(), dim));
            for (probe, mut directions) in z.outer_iter_mut().enumerate() {
                for (row, sample) in directions
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
            let jacobian_products = sampler_step::step_jacobian_products(
                step,
                &proposal.rows(block.clone()),
                &z,
                &probes.draw.context,
                field,
            )?;
            products = jacobian_products.count * count as u64;
            for (j, i) in block.enumerate() {
                let form = |a: &TangentBatch, k: usize| {
                    a.slice(ndarray::s![k, j, ..])
                        .dot(&z.slice(ndarray::s![k, j, ..]))
                };
                let divs: Vec<f64> = (0..count)
                    .map(|k| dim as f64 - form(&jacobian_products.step, k))
                    .collect();
                let mean = divs.iter().sum::<f64>() / count as f64;
                let square: f64 = divs.iter().map(|v| (v - mean).powi(2)).sum();
                self.div[i] = mean;
                variance[i] = square / (count as f64 - 1.0) / count as f64;
                let traces = (0..count).map(|k| form(&jacobian_products.denoised, k));
                trace[i] = traces.sum::<f64>() / count as f64;
            }
        }
        self.div_variance = (count > 1).then_some(variance);
        self.trace = Some(trace);
        Ok(products)
    }

    /// Each sample's share of the numerator of γ.
    ///
    /// At high noise both weights are large and the two sums nearly cancel. The terms are therefore
    /// added sample by sample.
    pub(super) fn numerators(&self, step: &SamplerStep, rule: &GammaRule) -> Vec<f64> {
        let [xu_weight, div_weight] = rule.numerator_weights(step);
        self.xu
            .iter()
            .zip(&self.div)
            .map(|(xu, div)| xu_weight * xu + div_weight * div)
            .collect()
    }

    /// The statistics of γ, as means over the samples whose moments are finite.
    pub(super) fn statistics(&self, step: &SamplerStep, rule: &GammaRule) -> GammaStatistics {
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
        let [_, div_weight] = rule.numerator_weights(step);
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
            probe_stderr: probe.map(|s| (div_weight * s / uu).abs()),
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
    pub(super) fn divergences(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.div
            .iter()
            .copied()
            .zip(self.div_variance.iter().flatten().copied())
    }
}
