//! The Jacobian products that the estimators of one entry share.
//!
//! All estimators need products with the same Jacobian at a node, so no product is computed twice.
//! A Hutchinson estimator with one probe uses the first probe of one with eight. If the exact trace
//! is among the estimators, the whole Jacobian is known, and every other product is a matrix
//! multiplication. The plan depends only on the entry. Up to rounding, each estimator gets the
//! values that it would compute without sharing.

use std::ops::Range;

use ndarray::{Array2, Axis};

use super::{ControlDivergence, DivergenceEstimator};
use crate::flow::field::{EvalError, JacobianOperator, JacobianProducts, KnownJacobian, Points};
use crate::num::TangentBatch;
use crate::num::key::{Distribution, Purpose, RngKey, SampleId};
use crate::solve::Nodes;
use crate::trace::{Estimator, JacobianAt, ProbeReuse, ProbeSource};

/// The maximum dimension for which whole Jacobians are stored: 128² numbers for each sample of a
/// batch at each stage of a step.
const MAX_JACOBIAN_DIM: usize = 128;

/// The maximum number of directions, in addition to those of the control, that an adaptive path
/// computes with the velocity at every stage. The products of a rejected step are lost, and a
/// product costs about as much as evaluating the velocity again later, so only a few directions pay
/// off.
const MAX_JOINT_DIRECTIONS: usize = 4;

/// The products that are computed at a node for several estimators.
#[derive(Debug, Clone, PartialEq)]
pub enum ProductPlan {
    /// No products are shared; every estimator computes its own.
    Separate,
    /// Quadratic forms of probes that are fixed along a path: the number of probes for each
    /// distribution.
    QuadraticForms(Vec<(Distribution, usize)>),
    /// The diagonal of the Jacobian for the exact trace alone: from a graph of its own, or as
    /// quadratic forms of the unit vectors.
    Diagonal,
    /// The whole Jacobian, as products with every unit vector.
    Jacobian,
}

impl ProductPlan {
    /// Plans the products for the estimators of an entry in `dim` dimensions, on paths whose steps
    /// `control` controls.
    pub fn for_estimators(
        estimators: &[DivergenceEstimator],
        dim: usize,
        control: &ControlDivergence,
    ) -> ProductPlan {
        let traces: Vec<&Estimator> = estimators
            .iter()
            .filter_map(|e| {
                if let DivergenceEstimator::Trace(estimator) = e {
                    Some(estimator)
                } else {
                    None
                }
            })
            .collect();
        let exact = traces.iter().any(|e| e.is_exact());
        let others = traces.iter().any(|e| !e.is_exact());
        let whole = exact || *control == ControlDivergence::Trace;
        if others && whole && dim <= MAX_JACOBIAN_DIM {
            return ProductPlan::Jacobian;
        }
        if exact && !others && *control != ControlDivergence::Trace && dim <= MAX_JACOBIAN_DIM {
            return ProductPlan::Diagonal;
        }
        let mut distributions: Vec<(Distribution, usize)> = Vec::new();
        for (distribution, probes) in traces.iter().filter_map(|e| e.fixed_probes()) {
            match distributions
                .iter_mut()
                .find(|(known, _)| *known == distribution)
            {
                Some((_, most)) => *most = probes.max(*most),
                None => distributions.push((distribution, probes)),
            }
        }
        if distributions.is_empty() {
            ProductPlan::Separate
        } else {
            ProductPlan::QuadraticForms(distributions)
        }
    }

    /// The number of products per sample and node.
    pub fn jvps_per_node(&self, dim: usize) -> usize {
        match self {
            ProductPlan::Separate => 0,
            ProductPlan::QuadraticForms(distributions) => {
                distributions.iter().map(|(_, probes)| probes).sum()
            }
            ProductPlan::Diagonal | ProductPlan::Jacobian => dim,
        }
    }

    /// Whether the products are computed together with the velocity, at every stage that may become
    /// a node. Otherwise they are computed at the nodes of accepted steps.
    pub fn is_joint_with_velocity(
        &self,
        dim: usize,
        adaptive: bool,
        control: &ControlDivergence,
    ) -> bool {
        match self {
            ProductPlan::Separate => false,
            _ if !adaptive => true,
            ProductPlan::Jacobian => *control == ControlDivergence::Trace,
            ProductPlan::QuadraticForms(_) | ProductPlan::Diagonal => {
                self.jvps_per_node(dim) <= MAX_JOINT_DIRECTIONS
            }
        }
    }

    /// A description for the printed plan; `along` tells whether the products are computed with the
    /// velocity.
    pub fn describe(&self, along: bool) -> Option<&'static str> {
        match (self, along) {
            (ProductPlan::Separate, _) => None,
            (ProductPlan::Jacobian, true) => {
                Some("all products from Jacobians computed with the velocity")
            }
            (ProductPlan::Jacobian, false) => {
                Some("all products from Jacobians at the nodes of accepted steps")
            }
            (_, true) => Some("products computed with the velocity"),
            (_, false) => Some("products at the nodes of accepted steps"),
        }
    }

    /// The planned directions for some samples, directions × rows × dim.
    pub fn directions(&self, key: RngKey, sample: &[SampleId], dim: usize) -> TangentBatch {
        match self {
            ProductPlan::Separate => TangentBatch::zeros((0, sample.len(), dim)),
            ProductPlan::Diagonal | ProductPlan::Jacobian => unit_vectors(sample.len(), dim),
            ProductPlan::QuadraticForms(distributions) => {
                // The address of a probe that is fixed along a path does not depend on the node.
                let probes = ProbeSource {
                    key,
                    sample,
                    node: &vec![0; sample.len()],
                };
                let draw = |(distribution, count): &(Distribution, usize)| {
                    probes.draw(
                        Purpose::Probe,
                        *distribution,
                        ProbeReuse::Fixed,
                        0..*count as u64,
                        dim,
                    )
                };
                let blocks: Vec<TangentBatch> = distributions.iter().map(draw).collect();
                let views: Vec<_> = blocks.iter().map(|b| b.view()).collect();
                ndarray::concatenate(Axis(0), &views).expect("rows and dimension are the same")
            }
        }
    }

    /// Computes the planned products at some nodes, in calls of their own.
    ///
    /// # Errors
    /// Fails if the Jacobian products cannot be evaluated.
    pub fn evaluate(
        &self,
        key: RngKey,
        nodes: &Nodes,
        tangents: &mut dyn JacobianOperator,
    ) -> Result<JacobianProducts, EvalError> {
        if *self == ProductPlan::Diagonal
            && let Some(terms) = tangents.trace_terms(nodes.points())?
        {
            return Ok(JacobianProducts::QuadraticForms(terms));
        }
        if *self == ProductPlan::Jacobian
            && let Some(columns) = tangents.jacobian(nodes.points())?
        {
            return Ok(JacobianProducts::Jacobian(columns));
        }
        let z = self.directions(key, nodes.sample, nodes.x.ncols());
        Ok(match self {
            ProductPlan::Jacobian => JacobianProducts::Jacobian(tangents.jvp(nodes.points(), &z)?),
            _ => JacobianProducts::QuadraticForms(tangents.quadratic_form(nodes.points(), &z)?),
        })
    }

    /// The part of the planned products that an estimator uses; `None` if it computes its own.
    pub fn products_of(&self, estimator: &DivergenceEstimator) -> Option<EstimatorProducts> {
        let DivergenceEstimator::Trace(estimator) = estimator else {
            return None;
        };
        match self {
            ProductPlan::Separate => None,
            ProductPlan::Jacobian => Some(EstimatorProducts::Jacobian),
            ProductPlan::Diagonal => estimator.is_exact().then_some(EstimatorProducts::Diagonal),
            ProductPlan::QuadraticForms(distributions) => {
                let (distribution, probes) = estimator.fixed_probes()?;
                let mut first = 0;
                for (known, most) in distributions {
                    if *known == distribution {
                        return Some(EstimatorProducts::QuadraticForms(first..first + probes));
                    }
                    first += most;
                }
                None
            }
        }
    }
}

/// Returns the unit vectors for each row, dim × rows × dim.
pub(super) fn unit_vectors(rows: usize, dim: usize) -> TangentBatch {
    let mut basis = TangentBatch::zeros((dim, rows, dim));
    for (i, mut block) in basis.outer_iter_mut().enumerate() {
        block.column_mut(i).fill(1.0);
    }
    basis
}

/// The part of the planned products that one estimator uses.
#[derive(Debug, Clone, PartialEq)]
pub enum EstimatorProducts {
    /// The quadratic forms in this range of directions.
    QuadraticForms(Range<usize>),
    /// The diagonal of the Jacobian, or partial sums of it. The exact trace is their sum.
    Diagonal,
    /// The whole Jacobian.
    Jacobian,
}

impl EstimatorProducts {
    /// The estimator's values at some nodes, replicates × nodes. `None` if the products come from
    /// another plan.
    ///
    /// # Errors
    /// Fails if the estimator fails on the known products.
    pub fn replicate_estimates(
        &self,
        estimator: &Estimator,
        products: &JacobianProducts,
        at: Points,
        probes: &ProbeSource,
    ) -> Result<Option<Array2<f64>>, EvalError> {
        Ok(match (self, products) {
            (EstimatorProducts::QuadraticForms(range), JacobianProducts::QuadraticForms(forms)) => {
                Some(forms.slice(ndarray::s![range.clone(), ..]).to_owned())
            }
            (EstimatorProducts::Diagonal, JacobianProducts::QuadraticForms(forms)) => {
                Some(forms.sum_axis(Axis(0)).insert_axis(Axis(0)))
            }
            (EstimatorProducts::Jacobian, JacobianProducts::Jacobian(columns)) => {
                let mut field = KnownJacobian(columns);
                Some(estimator.trace(
                    &mut JacobianAt {
                        field: &mut field,
                        at,
                    },
                    probes,
                )?)
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::num::Batch;

    fn specs(text: &str) -> Vec<DivergenceEstimator> {
        serde_yaml::from_str(text).expect(text)
    }

    #[test]
    fn product_plan_follows_from_the_estimators() {
        let of = |text: &str, dim: usize, control: ControlDivergence| {
            ProductPlan::for_estimators(&specs(text), dim, &control)
        };
        let forms = |distributions: &[(Distribution, usize)]| {
            ProductPlan::QuadraticForms(distributions.to_vec())
        };
        let state = ControlDivergence::State;
        assert_eq!(of("[exact]", 64, state.clone()), ProductPlan::Diagonal);
        assert_eq!(
            of("[exact, hutchinson]", 64, state.clone()),
            ProductPlan::Jacobian
        );
        assert_eq!(
            of("[hutchinson]", 3, ControlDivergence::Trace),
            ProductPlan::Jacobian
        );
        // The exact trace uses the divergence that controls the steps.
        assert_eq!(
            of("[exact]", 3, ControlDivergence::Trace),
            ProductPlan::Separate
        );
        let one = [(Distribution::Rademacher, 8)];
        assert_eq!(
            of(
                "[hutchinson, {hutchinson: {probes: 8}}, hutch++]",
                64,
                state.clone()
            ),
            forms(&one)
        );
        assert_eq!(
            of("[exact, {hutchinson: {probes: 8}}]", 3072, state.clone()),
            forms(&one)
        );
        assert_eq!(
            of(
                "[{hutchinson: {along: fresh}}, hutch++, learned]",
                64,
                state
            ),
            ProductPlan::Separate
        );
    }

    /// Shared products give every trace estimator the values that it computes without sharing.
    #[test]
    fn shared_products_give_each_estimator_its_own_values() {
        let dim = 6;
        let key = RngKey { seed: 5 };
        let matrix = key
            .normal(Purpose::Check, 1, 0, dim * dim)
            .into_shape_with_order((dim, dim))
            .expect("a matrix");
        let (sample, node, slot, t) = ([3, 8, 9], [4, 5, 6], [0, 1, 2], [0.1, 0.2, 0.3]);
        let x = Batch::zeros((3, dim));
        let nodes = Nodes {
            sample: &sample,
            node: &node,
            batch_index: &slot,
            t: &t,
            x: &x,
            weight: &[1.0; 3],
            divergence: None,
            products: None,
        };
        let columns = TangentBatch::from_shape_fn((dim, 3, dim), |(i, row, j)| {
            matrix[[j, i]] * (1.0 + row as f64)
        });
        let mut all: Vec<DivergenceEstimator> = Estimator::defaults()
            .into_iter()
            .map(DivergenceEstimator::Trace)
            .collect();
        all.extend(specs(
            "[{hutchinson: {probes: 3}}, {hutchinson: {probes: 2, distribution: gaussian}}]",
        ));
        all.extend(specs(
            "[{hutchinson: {probes: 3, along: fresh}}, {hutch++: {matvecs: 6, replicates: 2}}]",
        ));
        let exact = all
            .iter()
            .position(|e| matches!(e, DivergenceEstimator::Trace(e) if e.is_exact()))
            .expect("listed");
        let without: Vec<DivergenceEstimator> = all
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != exact)
            .map(|(_, e)| e.clone())
            .collect();
        for (entry, least) in [
            (&all, all.len()),
            (&without, 3),
            (&vec![all[exact].clone()], 1),
        ] {
            let plan = ProductPlan::for_estimators(entry, dim, &ControlDivergence::State);
            let products = plan
                .evaluate(key, &nodes, &mut KnownJacobian(&columns))
                .expect("known");
            let mut shared = 0;
            for spec in entry {
                let DivergenceEstimator::Trace(estimator) = spec else {
                    continue;
                };
                let Some(share) = plan.products_of(spec) else {
                    continue;
                };
                shared += 1;
                let probes = ProbeSource {
                    key,
                    sample: &sample,
                    node: &node,
                };
                let chains = share
                    .replicate_estimates(
                        estimator,
                        &products,
                        Points::new(&sample, &t, &x),
                        &probes,
                    )
                    .expect("known")
                    .expect("its plan");
                let mut field = KnownJacobian(&columns);
                let own = estimator
                    .trace(
                        &mut JacobianAt {
                            field: &mut field,
                            at: Points::new(&sample, &t, &x),
                        },
                        &probes,
                    )
                    .expect("known");
                assert_eq!(chains.dim(), own.dim(), "{spec:?}");
                assert!(
                    chains
                        .iter()
                        .zip(&own)
                        .all(|(a, b)| (a - b).abs() < 1e-12 * (1.0 + b.abs())),
                    "{spec:?}"
                );
                // A sample's values do not depend on the other rows of its batch.
                let row = products.select(&[1]);
                let probes = ProbeSource {
                    key,
                    sample: &sample[1..2],
                    node: &node[1..2],
                };
                let part = Points::new(&sample, &t, &x).select(&[1]);
                let alone = share
                    .replicate_estimates(estimator, &row, part.points(), &probes)
                    .expect("known")
                    .expect("its plan");
                assert!(
                    alone
                        .iter()
                        .zip(chains.column(1))
                        .all(|(a, b)| (a - b).abs() < 1e-12),
                    "{spec:?}"
                );
            }
            assert!(shared >= least, "{shared} of {entry:?}");
        }
    }
}
