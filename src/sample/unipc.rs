//! UniPC (Zhao et al. 2023): a predictor and a corrector of one family, in data prediction.

use ndarray::{Array1, Array2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::multistep::{self, Multistep, phi};
use super::{PathPoint, Sampler, SamplerContext, SamplerSchedule, SamplerStep, SamplingMethod};
use crate::num::linalg;

/// UniPC, a predictor-corrector multistep method with one evaluation per step.
///
/// The evaluation at the predicted state serves the corrector of its step and the predictor of the
/// next step. The corrected state is not evaluated again, and the last step has no corrector.
/// UniPC-p converges with order p + 1 (Theorem 3.1).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UniPc {
    /// The time grid.
    #[serde(flatten)]
    pub schedule: SamplerSchedule,
    /// The order p of the predictor: 1, 2 or 3. Default: 3.
    pub order: UniPcOrder,
    /// The function B(h). Default: `bh1`.
    pub variant: UniPcVariant,
}

/// The order p of the predictor: 1, 2 or 3.
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

/// The function B(h). It matters only if a coefficient is set to ½ instead of being solved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(transform = crate::registry::Aliases(&[]))]
pub enum UniPcVariant {
    /// B = −h.
    #[default]
    Bh1,
    /// B = e^{−h} − 1.
    Bh2,
}

/// The linear system for the coefficients of one step. They weight the differences (D_i − D₀)/r_i.
struct UniPcSystem {
    /// The nodes r_i = (λ_{−i} − λ₀)/h of the past points at a finite λ, followed by 1 for the new
    /// point.
    nodes: Vec<f64>,
    /// The right-hand side b_i = i!·z φ_{i+1}(z)/B of Σ_j r_j^{i−1} ρ_j = b_i, with z = −h.
    right_hand_side: Vec<f64>,
    /// The common factor −α_t B of all coefficients.
    scale: f64,
}

impl UniPc {
    /// The system of the step from `past[0]` to `to`.
    ///
    /// At α_s = 0 the step is infinitely long in λ, so −h cannot be B. There `bh1` takes B = −1,
    /// the limit of `bh2`. With it the corrector is the trapezoidal rule in α/σ.
    fn linear_system(&self, past: &[PathPoint], to: &PathPoint) -> UniPcSystem {
        let h = past[0].lambda_step(to);
        let scale = if self.variant == UniPcVariant::Bh2 || h.is_infinite() {
            (-h).exp_m1()
        } else {
            -h
        };
        // A past point with α = 0 lies at λ = −∞: its difference quotient and its weight are zero.
        let past_nodes = past[1..]
            .iter()
            .map(|p| -p.lambda_step(&past[0]) / h)
            .filter(|r| r.is_finite());
        let nodes: Vec<f64> = past_nodes.chain([1.0]).collect();
        let mut factorial = 1.0;
        let moments = (1..=nodes.len()).map(|i| {
            factorial *= i as f64;
            factorial * -h * phi(i + 1, -h) / scale
        });
        UniPcSystem {
            right_hand_side: moments.collect(),
            nodes,
            scale: -to.alpha * scale,
        }
    }
}

impl UniPcSystem {
    /// The coefficients ρ of the system's first `n` nodes.
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
        // For p = 2 the solution tends to ½ as h → 0, and the reference implementation takes ½.
        let rho = if order == 2 {
            vec![0.5; n]
        } else {
            step.solve(n)
        };
        let mut weights = multistep::first_order_weights(&past[0], to).to_vec();
        for (rho, node) in rho.iter().zip(&step.nodes) {
            let weight = step.scale * rho / node;
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
        // As in the predictor, ½ replaces the solution of a single equation.
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

    fn steps(&self, context: &SamplerContext) -> Result<Vec<SamplerStep>, String> {
        multistep::multistep_steps(self, &self.schedule, context)
    }
}
