//! A learned divergence whose error is measured at a few random nodes: unbiased, at little more
//! than the head's cost.
//!
//! The quadrature of the true divergence is Σ wᵢDᵢ + Σ wᵢrᵢ, with the head's values D and rᵢ = tr
//! Jᵢ − Dᵢ. The first sum is known. For the second, M nodes are drawn, node i with probability
//! qᵢ/Q. Each gives the value wᵢ(zᵀJᵢz − Dᵢ)·Q/qᵢ, whose mean over node and probe is the second
//! sum. The cost is M products per sample, for any number of nodes. If the head is good, the
//! variance is small.

use ndarray::{Array1, Array2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ModelHandles;
use crate::flow::field::{EvalError, Points};
use crate::flow::path::PathCoefficients;
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::num::{Batch, TangentBatch};
use crate::solve::Nodes;

/// A divergence head of the card, made unbiased by a correction at random nodes with one Jacobian
/// product each.
///
/// Each drawn node gives one independent value of the integral, and their spread gives the standard
/// error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Debiased {
    /// The head's name in the card. Default: `stad`.
    pub head: String,
    /// The number of random nodes per sample. Default: 8.
    pub probes: usize,
    /// The distribution of the probes. Default: `rademacher`.
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
    /// The node's time.
    t: f64,
    /// The node's state.
    x: Array1<f64>,
    /// The quadrature weight divided by qᵢ.
    weight: f64,
    /// The head's value at the node.
    head_divergence: f64,
}

/// The drawn nodes of every sample of a batch. They are drawn while the path is solved, because an
/// adaptive path's nodes are not known in advance (reservoir sampling).
#[derive(Debug, Clone)]
pub(super) struct NodeReservoir {
    /// The drawn nodes, samples × draws.
    drawn_nodes: Vec<Vec<Option<DrawnNode>>>,
    /// The number of each sample.
    ids: Vec<SampleId>,
    /// The sum Q of the importances of the nodes so far, per sample.
    total_importance: Vec<f64>,
}

/// The probability density of drawing a node, per unit of time, up to a factor. It is uniform in
/// ln(σ/α), in which paths and Jacobians change evenly for data of scale one. It is bounded where α
/// or σ is zero.
fn node_importance(s: &PathCoefficients) -> f64 {
    s.sigma_dot.abs() / (s.sigma + 0.01 * s.alpha) + s.alpha_dot.abs() / (s.alpha + 0.01 * s.sigma)
}

impl NodeReservoir {
    /// Starts without nodes, for `samples` paths.
    pub(super) fn new(spec: &Debiased, samples: usize) -> NodeReservoir {
        NodeReservoir {
            drawn_nodes: vec![vec![None; spec.probes]; samples],
            ids: vec![0; samples],
            total_importance: vec![0.0; samples],
        }
    }

    /// Adds nodes with their heads' values. Each draw of a sample is replaced by a new node with
    /// probability q/Q, with Q including the new node. At the end of the path, node i is the drawn
    /// node with probability qᵢ/Q.
    ///
    /// # Errors
    /// Fails if the probability path is not known.
    pub(super) fn update(
        &mut self,
        key: RngKey,
        nodes: &Nodes,
        heads: &[f64],
        sources: &ModelHandles,
    ) -> Result<(), EvalError> {
        let missing =
            || EvalError::Missing("debiased: this model has no known probability path".to_owned());
        let curve = sources.curve.as_ref().ok_or_else(missing)?;
        for (i, index) in nodes.batch_index.iter().enumerate() {
            let q = nodes.weight[i].abs() * node_importance(&curve.at(nodes.t[i]));
            // The weights are not finite after a path has failed.
            if q <= 0.0 || !q.is_finite() {
                continue;
            }
            self.ids[*index] = nodes.sample[i];
            self.total_importance[*index] += q;
            let probability = q / self.total_importance[*index];
            for (draw, node) in self.drawn_nodes[*index].iter_mut().enumerate() {
                let u = key.uniform_at(Purpose::Node, nodes.sample[i], draw as u64, nodes.node[i]);
                if u < probability {
                    let (t, x) = (nodes.t[i], nodes.x.row(i).to_owned());
                    *node = Some(DrawnNode {
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

    /// The integral of the residual from each draw, draws × samples (0 for a sample without nodes),
    /// and the number of Jacobian products of each sample.
    ///
    /// # Errors
    /// Fails if the model has no Jacobian products or they cannot be evaluated.
    pub(super) fn residuals(
        &self,
        spec: &Debiased,
        key: RngKey,
        sources: &mut ModelHandles,
    ) -> Result<(Array2<f64>, Vec<u64>), EvalError> {
        let missing = || EvalError::Missing("this model offers no Jacobian products".to_owned());
        let field = sources.jacobian.as_mut().ok_or_else(missing)?;
        let mut out = Array2::zeros((spec.probes, self.drawn_nodes.len()));
        let mut jvps = vec![0; self.drawn_nodes.len()];
        for draw in 0..spec.probes {
            let drawn: Vec<(usize, &DrawnNode)> = (self.drawn_nodes.iter().enumerate())
                .filter_map(|(index, nodes)| Some((index, nodes[draw].as_ref()?)))
                .collect();
            let Some((_, first)) = drawn.first() else {
                continue;
            };
            let dim = first.x.len();
            let mut x = Batch::zeros((drawn.len(), dim));
            let mut z = TangentBatch::zeros((1, drawn.len(), dim));
            for (i, (index, node)) in drawn.iter().enumerate() {
                x.row_mut(i).assign(&node.x);
                let address = (Purpose::Probe, self.ids[*index], draw as u64, 0);
                key.probe(
                    spec.distribution,
                    address,
                    z.slice_mut(ndarray::s![0, i, ..]),
                );
            }
            let t: Vec<f64> = drawn.iter().map(|(_, node)| node.t).collect();
            let samples: Vec<SampleId> = drawn.iter().map(|(i, _)| self.ids[*i]).collect();
            let forms = field.quadratic_form(Points::new(&samples, &t, &x), &z)?;
            for (i, (index, node)) in drawn.iter().enumerate() {
                jvps[*index] += field.calls_at(node.t);
                out[[draw, *index]] = self.total_importance[*index]
                    * node.weight
                    * (forms[[0, i]] - node.head_divergence);
            }
        }
        Ok((out, jvps))
    }
}
