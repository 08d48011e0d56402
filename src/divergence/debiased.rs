//! A learned divergence with what it lacks, measured at a few random nodes: unbiased, at the head's cost.
//!
//! The quadrature of the true divergence is Σ wᵢDᵢ + Σ wᵢrᵢ with the head's values D and rᵢ = tr Jᵢ − Dᵢ.
//! The first sum is known. Of the second, M nodes are drawn, node i with probability qᵢ/Q, and each says
//! wᵢ(zᵀJᵢz − Dᵢ)·Q/qᵢ, whose mean over node and probe is the sum. M products per sample are all it costs,
//! however many nodes its path has, and where the head is good there is little left to be uncertain about.

use ndarray::{Array1, Array2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ModelHandles;
use crate::flow::field::EvalError;
use crate::flow::path::PathCoefficients;
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch};
use crate::solve::Nodes;

/// A head of the card, made unbiased by `probes` random nodes with one Jacobian product each.
///
/// Each drawn node is a chain: the head's integral and its share of the residual's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Debiased {
    pub head: String,
    pub probes: usize,
    pub distribution: Distribution,
}

impl Default for Debiased {
    fn default() -> Self {
        Debiased {
            head: "stad".to_owned(),
            probes: 8,
            distribution: Distribution::Rademacher,
        }
    }
}

/// A node that was drawn.
#[derive(Debug, Clone)]
struct DrawnNode {
    t: f64,
    x: Array1<f64>,
    /// The quadrature weight over qᵢ.
    weight: f64,
    head_divergence: f64,
}

/// The draws of every sample of a batch, as its nodes pass by.
#[derive(Debug, Clone)]
pub struct NodeReservoir {
    /// Samples × draws.
    drawn_nodes: Vec<Vec<Option<DrawnNode>>>,
    ids: Vec<SampleId>,
    /// Q so far.
    total_importance: Vec<f64>,
}

/// How often a node is drawn, per unit of time: nodes are equally likely per ln(σ/α), in which paths and
/// Jacobians of data of a scale of one change evenly; bounded where α or σ is zero.
fn node_importance(s: &PathCoefficients) -> f64 {
    s.sigma_dot.abs() / (s.sigma + 0.01 * s.alpha) + s.alpha_dot.abs() / (s.alpha + 0.01 * s.sigma)
}

impl NodeReservoir {
    pub fn new(spec: &Debiased, samples: usize) -> NodeReservoir {
        NodeReservoir {
            drawn_nodes: vec![vec![None; spec.probes]; samples],
            ids: vec![0; samples],
            total_importance: vec![0.0; samples],
        }
    }

    /// Lets nodes with their heads' values pass: each of a sample's draws is replaced by a new node with
    /// probability q/Q, which leaves node i drawn with probability qᵢ/Q of all nodes in the end.
    ///
    /// # Errors
    /// Where the path is not known.
    pub fn update(
        &mut self,
        key: RngKey,
        nodes: &Nodes,
        heads: &[f64],
        sources: &ModelHandles,
    ) -> Result<(), EvalError> {
        let missing =
            || EvalError::Missing("debiased: the path's schedule is not known".to_owned());
        let curve = sources.curve.as_ref().ok_or_else(missing)?;
        for (i, slot) in nodes.batch_index.iter().enumerate() {
            let q = nodes.weight[i].abs() * node_importance(&curve.at(nodes.t[i]));
            // Weights are not finite where a path has broken.
            if q <= 0.0 || !q.is_finite() {
                continue;
            }
            self.ids[*slot] = nodes.sample[i];
            self.total_importance[*slot] += q;
            let chance = q / self.total_importance[*slot];
            for (draw, pick) in self.drawn_nodes[*slot].iter_mut().enumerate() {
                let u = key.uniform_at(Purpose::Node, nodes.sample[i], draw as u64, nodes.node[i]);
                if u < chance {
                    let (t, x) = (nodes.t[i], nodes.x.row(i).to_owned());
                    *pick = Some(DrawnNode {
                        t,
                        x,
                        weight: nodes.weight[i] / q,
                        head_divergence: heads[i],
                    });
                }
            }
        }
        Ok(())
    }

    /// The residual's integral by each draw, draws × samples; 0 for a sample without nodes.
    ///
    /// # Errors
    /// Where the model offers no Jacobian products.
    pub fn residuals(
        &self,
        spec: &Debiased,
        key: RngKey,
        sources: &mut ModelHandles,
    ) -> Result<Array2<f64>, EvalError> {
        let missing = || EvalError::Missing("this model offers no Jacobian products".to_owned());
        let field = sources.jacobian.as_mut().ok_or_else(missing)?;
        let mut out = Array2::zeros((spec.probes, self.drawn_nodes.len()));
        for draw in 0..spec.probes {
            let drawn: Vec<(usize, &DrawnNode)> = (self.drawn_nodes.iter().enumerate())
                .filter_map(|(slot, picks)| Some((slot, picks[draw].as_ref()?)))
                .collect();
            let Some((_, first)) = drawn.first() else {
                continue;
            };
            let dim = first.x.len();
            let mut x = Batch::zeros((drawn.len(), dim));
            let mut z = TangentBatch::zeros((1, drawn.len(), dim));
            for (i, (slot, pick)) in drawn.iter().enumerate() {
                x.row_mut(i).assign(&pick.x);
                let address = (Purpose::Probe, self.ids[*slot], draw as u64, 0);
                key.probe(
                    spec.distribution,
                    address,
                    z.slice_mut(ndarray::s![0, i, ..]),
                );
            }
            let t: Vec<f64> = drawn.iter().map(|(_, pick)| pick.t).collect();
            let forms = field.quadratic_form(&t, &x, &z)?;
            for (i, (slot, pick)) in drawn.iter().enumerate() {
                out[[draw, *slot]] = self.total_importance[*slot]
                    * pick.weight
                    * (forms[[0, i]] - pick.head_divergence);
            }
        }
        Ok(out)
    }
}
