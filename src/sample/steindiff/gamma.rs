//! γ of one step from a population's moments.
//!
//! With u = x − T(x) and x = α x₀ + σ ε, the minimiser of E‖x − γ u − x₀‖² is E⟨u, x − x₀⟩ / E‖u‖² (Eq. 9),
//! and Stein's identity E⟨x − α x₀, u⟩ = σ² E div u makes it
//!
//! γ = ((1 − 1/α) E⟨u, x⟩ + (σ²/α) E div u) / E‖u‖² (Eq. 11).
//!
//! All sums are in f64 and in the order of the samples.

use super::super::Draw;
use super::super::step::{self, Candidate, Point, Step, Walk};
use super::Action;
use crate::flow::field::{EvalError, Linearized};
use crate::num::key::{Distribution, Purpose};
use crate::num::{Batch, Blocks};

/// How γ comes from the statistics.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The target is α' x₀ + σ' ε, the clean state carried to the step's end, instead of x₀:
    /// γ = ((1 − α'/α) E⟨u, x⟩ + (α'/α − σ'/σ) σ² E div u) / E‖u‖².
    pub noise_consistent: bool,
    pub least: f64,
    pub most: f64,
    /// γ within so many standard errors of 1 is not applied.
    pub significance: f64,
    pub gate: Option<[f64; 2]>,
}

/// What a step's γ came from: means over the population, and their errors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// γ before any bound.
    pub raw: f64,
    /// Standard error of γ from the probes alone; absent with one probe or none.
    pub probe_stderr: Option<f64>,
    /// Standard error of γ over the samples, probes included.
    pub stderr: Option<f64>,
    /// E⟨x, u⟩, E‖u‖² and E div u.
    pub xu: f64,
    pub uu: f64,
    pub div: f64,
    /// Whether E div u was estimated from Jacobian products.
    pub differentiated: bool,
    /// E‖x − αD‖² / (σ² (d − α E tr J_D)): 1 where x = α x₀ + σ ε and D is exact; absent without products.
    pub coupling: Option<f64>,
}

impl Rule {
    /// The weights of ⟨u, x⟩ and of div u in γ's numerator.
    fn weights(&self, step: &Step) -> [f64; 2] {
        let (alpha, sigma) = (step.from.alpha, step.from.sigma);
        let target = if self.noise_consistent {
            step.to
        } else {
            Point {
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
    pub fn apply(&self, s: &Statistics) -> (f64, Action) {
        let outside =
            |[low, high]: [f64; 2]| s.coupling.is_some_and(|c| !(low..=high).contains(&c));
        match s.raw {
            raw if !raw.is_finite() => (1.0, Action::Undefined),
            _ if self.gate.is_some_and(outside) => (1.0, Action::SkippedGate),
            raw if !self.tells_from_one(raw, s.stderr) => (1.0, Action::NotSignificant),
            raw if raw < self.least => (self.least, Action::ClampedLow),
            raw if raw > self.most => (self.most, Action::ClampedHigh),
            raw => (raw, Action::Applied),
        }
    }

    /// A population of one has no error, and tells nothing.
    fn tells_from_one(&self, raw: f64, stderr: Option<f64>) -> bool {
        self.significance == 0.0
            || stderr.is_some_and(|error| (raw - 1.0).abs() > self.significance * error)
    }
}

/// Per sample: what the means are of.
pub struct Moments {
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
pub struct Probes<'a> {
    pub draw: &'a Draw<'a>,
    pub step: u64,
    pub count: usize,
}

/// Numbers in one block of directions: bounds memory, and changes no result.
const BLOCK: usize = 1 << 22;

/// The moments without a network: for the divergence stands that of the linear part, d (1 − σ'/σ).
pub fn moments(step: &Step, walk: &Walk, candidate: &Candidate, draw: &Draw) -> Moments {
    let u = &walk.x - &candidate.to;
    let dot = |a: &Batch, b: &Batch| {
        a.rows()
            .into_iter()
            .zip(b.rows())
            .map(|(a, b)| a.dot(&b))
            .collect::<Vec<f64>>()
    };
    let (denoised, place) = candidate.denoised(step, &draw.on);
    let rest = place - &(denoised * step.from.alpha);
    let dim = u.ncols() as f64;
    Moments {
        xu: dot(&walk.x, &u),
        uu: dot(&u, &u),
        div: vec![dim * (1.0 - step.to.sigma / step.from.sigma); u.nrows()],
        div_variance: None,
        residual: dot(&rest, &rest),
        trace: None,
        dim,
    }
}

impl Moments {
    /// Puts Jacobian products in the place of the linear part; how many there were per sample.
    ///
    /// # Errors
    /// Where the model offers none, or cannot be evaluated.
    pub fn differentiate(
        &mut self,
        step: &Step,
        candidate: &Candidate,
        probes: &Probes,
        field: &mut dyn Linearized,
    ) -> Result<u64, EvalError> {
        let (rows, dim, count) = (self.div.len(), self.dim as usize, probes.count);
        let (mut variance, mut trace, mut products) = (vec![0.0; rows], vec![0.0; rows], 0);
        let width = (BLOCK / (count * dim)).max(1);
        for first in (0..rows).step_by(width) {
            let block = first..(first + width).min(rows);
            let mut z = Blocks::zeros((count, block.len(), dim));
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
            let of_step = step::products(
                step,
                &candidate.rows(block.clone()),
                &z,
                &probes.draw.on,
                field,
            )?;
            products = of_step.count * count as u64;
            for (j, i) in block.enumerate() {
                let form = |a: &Blocks, k: usize| {
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
    pub fn numerators(&self, step: &Step, rule: &Rule) -> Vec<f64> {
        let [of_xu, of_div] = rule.weights(step);
        self.xu
            .iter()
            .zip(&self.div)
            .map(|(xu, div)| of_xu * xu + of_div * div)
            .collect()
    }

    /// Means over those samples whose numbers are finite.
    pub fn statistics(&self, step: &Step, rule: &Rule) -> Statistics {
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
        let [_, of_div] = rule.weights(step);
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
        Statistics {
            raw,
            probe_stderr: probe.map(|s| (of_div * s / uu).abs()),
            stderr: (rows.len() > 1).then(|| (square / (n - 1.0) / n).sqrt() / uu),
            xu: mean(&self.xu),
            uu,
            div: mean(&self.div),
            differentiated: self.trace.is_some(),
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
