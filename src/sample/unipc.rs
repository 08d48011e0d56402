//! UniPC (Zhao et al. 2023): a predictor and a corrector of one family, in data prediction.

use ndarray::{Array1, Array2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep, phi};
use super::{PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};
use crate::num::linalg;

/// One evaluation per step: it serves the corrector of its step and the predictor of the next.
///
/// The corrected state is not evaluated again, and the last step has no corrector. UniPC-p converges
/// with order p + 1 (Theorem 3.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UniPc {
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    pub order: UniPcOrder,
    pub variant: UniPcVariant,
}

/// The order p of the predictor, 1 to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u64")]
pub struct UniPcOrder(u8);

impl Default for UniPcOrder {
    fn default() -> Self {
        UniPcOrder(3)
    }
}

impl TryFrom<u64> for UniPcOrder {
    type Error = String;

    fn try_from(order: u64) -> Result<UniPcOrder, String> {
        match order {
            1..=3 => Ok(UniPcOrder(order as u8)),
            _ => Err(format!("order is {order}, expected 1, 2 or 3")),
        }
    }
}

impl From<UniPcOrder> for u64 {
    fn from(order: UniPcOrder) -> u64 {
        order.0.into()
    }
}

/// The function B(h), which matters where a coefficient is rounded to ½ instead of solved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum UniPcVariant {
    /// B = −h
    #[default]
    Bh1,
    /// B = e^{−h} − 1
    Bh2,
}

/// The coefficients of one step: differences (D_i − D₀)/r_i and how they are weighted.
struct UniPcSystem {
    /// r_i = (λ_{−i} − λ₀)/h of those past points that are at a finite λ, then 1 for the new one.
    nodes: Vec<f64>,
    /// Σ_j r_j^{i−1} ρ_j = b_i with b_i = i!·z φ_{i+1}(z)/B, z = −h.
    right_hand_side: Vec<f64>,
    scale: f64,
}

impl UniPc {
    /// At α_s = 0 the step is infinitely long in λ and −h is no scale. There bh1 takes bh2's limit −1, with
    /// which the corrector is the trapezoidal rule in α/σ.
    fn linear_system(&self, past: &[PathPoint], to: &PathPoint) -> UniPcSystem {
        let h = past[0].lambda_step(to);
        let scale = if self.variant == UniPcVariant::Bh2 || h.is_infinite() {
            (-h).exp_m1()
        } else {
            -h
        };
        // A past point with α = 0 lies at λ = −∞: its difference quotient is zero and so is its weight.
        let places = past[1..]
            .iter()
            .map(|p| -p.lambda_step(&past[0]) / h)
            .filter(|r| r.is_finite());
        let places: Vec<f64> = places.chain([1.0]).collect();
        let mut factorial = 1.0;
        let moments = (1..=places.len()).map(|i| {
            factorial *= i as f64;
            factorial * -h * phi(i + 1, -h) / scale
        });
        UniPcSystem {
            right_hand_side: moments.collect(),
            nodes: places,
            scale: -to.alpha * scale,
        }
    }
}

impl UniPcSystem {
    /// ρ of the first `n` places.
    fn solve(&self, n: usize) -> Vec<f64> {
        let powers = Array2::from_shape_fn((n, n), |(i, j)| self.nodes[j].powi(i as i32));
        let moments = Array1::from(self.right_hand_side[..n].to_vec());
        linalg::solve_lu(powers.view(), moments.view()).to_vec()
    }
}

impl Multistep for UniPc {
    fn order(&self) -> usize {
        self.order.0.into()
    }

    fn predictor_weights(&self, past: &[PathPoint], to: &PathPoint, order: usize) -> Vec<f64> {
        let step = self.linear_system(past, to);
        let n = step.nodes.len() - 1;
        // The solution for p = 2 tends to ½; the reference implementation takes ½ itself.
        let rho = if order == 2 {
            vec![0.5; n]
        } else {
            step.solve(n)
        };
        let mut weights = multistep::first_order_weights(&past[0], to).to_vec();
        for (rho, place) in rho.iter().zip(&step.nodes) {
            let weight = step.scale * rho / place;
            weights[1] -= weight;
            weights.push(weight);
        }
        weights
    }

    fn corrector_weights(
        &self,
        past: &[PathPoint],
        to: &PathPoint,
        order: usize,
    ) -> Option<Vec<f64>> {
        let step = self.linear_system(past, to);
        // As in the predictor, ½ stands for the solution of a single equation.
        let rho = if order == 1 {
            vec![0.5]
        } else {
            step.solve(step.nodes.len())
        };
        let [keep, first] = multistep::first_order_weights(&past[0], to);
        let weights: Vec<f64> = rho
            .iter()
            .zip(&step.nodes)
            .map(|(rho, r)| step.scale * rho / r)
            .collect();
        let (new, old) = weights.split_last()?;
        let mut out = vec![keep, *new, first - weights.iter().sum::<f64>()];
        out.extend(old);
        Some(out)
    }
}

impl SamplingMethod for UniPc {
    fn with_steps(&self, steps: usize) -> Sampler {
        Sampler::UniPc(UniPc {
            schedule: SamplerSchedule {
                steps,
                ..self.schedule.clone()
            },
            ..*self
        })
    }

    fn steps(&self, on: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        multistep::multistep_steps(self, &self.schedule, on)
    }
}
